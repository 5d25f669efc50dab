//! The bench: two local endpoints, an uplink with a default route, and what can be done and seen there.

use std::{
    collections::BTreeMap,
    mem::offset_of,
    net::{Ipv4Addr, Ipv6Addr},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use bpf::{
    attach::Pins,
    layout::{
        Ageing, CHANGED_EVERYTHING, CHANGES, CT_CONFIRMED, CtEntry4, CtEntry6, CtKey4, CtKey6, DROP_REASONS,
        DnsSettings, Endpoint, EthernetAddress, Ip4, Ip6, Node, PLAIN_ROUTES4, PLAIN_ROUTES6, POSTURE_KNOWN,
        Plain, PlainRoutes, Posture, ResolverKey, SkBuff, Uplink, WayOut4, WayOut6, mapped,
    },
};
use ipamd_model::policy::protocol::UDP;
use libbpf_rs::{MapCore, MapFlags, ProgramInput, skel::Skel};
use nix::sched::{CloneFlags, unshare};

use super::{
    knobs::Knobs,
    maps::{change_each, entries, forget, put},
    pool::Lent,
};

/// `TC_ACT_UNSPEC`: on to the next program and the stack.
pub const PASS: i32 = -1;
/// `TC_ACT_SHOT`.
pub const DROP: i32 = 2;
/// `TC_ACT_REDIRECT`.
pub const REDIRECT: i32 = 7;

/// The node's addresses on its uplink.
pub const NODE4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
/// As [`NODE4`].
pub const NODE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7);
/// A machine beyond the uplink.
pub const FAR4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// As [`FAR4`].
pub const FAR6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);

/// A local endpoint of the bench.
#[derive(Clone, Copy, Debug)]
pub struct Local {
    /// Index of its host end.
    pub ifindex: u32,
    /// Its IPv4 address.
    pub ipv4: Ipv4Addr,
    /// Its IPv6 address.
    pub ipv6: Ipv6Addr,
    /// Ethernet address of its container end.
    pub mac: [u8; 6],
    /// Ethernet address of its host end.
    pub host_mac: [u8; 6],
    /// Its place in the policy tables.
    pub slot: u32,
}

/// The loaded programs with their maps, and the interfaces they are told of.
pub struct Bench {
    pub(super) skeleton: Lent,
    /// An endpoint.
    pub a: Local,
    /// Another.
    pub b: Local,
    /// Index of the uplink.
    pub uplink: u32,
    /// Ethernet address of the uplink.
    pub uplink_mac: [u8; 6],
}

/// What a run did to the packet.
#[derive(Debug)]
pub struct Ran {
    /// What the program returned.
    pub action: i32,
    /// The packet as it was left.
    pub packet: Vec<u8>,
    /// Mean of the runs.
    pub duration: Duration,
}

/// What is counted and remembered, to compare before and after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally {
    /// Drops by reason, those above zero.
    pub drops: Vec<(&'static str, u64)>,
    /// Entries of conntrack4 and conntrack6.
    pub flows: (usize, usize),
}

impl Bench {
    /// Moves the calling thread into a fresh network namespace and sets the bench up there; the namespace ends with
    /// the thread.
    pub fn new(knobs: &Knobs) -> Result<Self> {
        unshare(CloneFlags::CLONE_NEWNET).context("unshare the network namespace (root only)")?;
        for line in [
            "link set lo up",
            "link add up0 type veth peer name up1",
            "link add a0 type veth peer name a1",
            "link add b0 type veth peer name b1",
            "addr add 192.0.2.7/24 dev up0",
            "addr add 2001:db8::7/64 dev up0 nodad",
            "link set up0 up",
            "link set up1 up",
            "link set a0 up",
            "link set a1 up",
            "link set b0 up",
            "link set b1 up",
            "route add default via 192.0.2.1",
            "route add default via 2001:db8::1 dev up0",
            // Before Linux 6.3 a look-up tells a route's MTU only if the neighbour is known.
            "neigh add 192.0.2.1 lladdr 02:00:00:00:00:01 dev up0",
            "neigh add 2001:db8::1 lladdr 02:00:00:00:00:01 dev up0",
        ] {
            ip(line)?;
        }
        for (key, value) in [("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")] {
            // Opened by this thread, it is the setting of this thread's namespace.
            std::fs::write(format!("/proc/sys/net/{key}"), value).with_context(|| format!("set {key}"))?;
        }

        let skeleton = Lent::new(knobs)?;
        let bench = Self {
            a: local("a0", 5)?,
            b: local("b0", 6)?,
            uplink: ifindex("up0")?,
            uplink_mac: mac_of("up0")?,
            skeleton,
        };
        put(
            &bench.skeleton.maps.node,
            &0u32,
            &Node { epoch: 1, masquerade: 1, sample: 1, ..Node::default() },
        )?;
        put(
            &bench.skeleton.maps.uplinks,
            &bench.uplink,
            &Uplink { ipv4: NODE4.into(), ipv6: NODE6.into(), flags: 0 },
        )?;
        bench.add_endpoint(&bench.a, 0)?;
        bench.add_endpoint(&bench.b, 0)?;
        bench.set_tick(knobs.tick.unwrap_or_default())?;
        Ok(bench)
    }

    /// Pins the maps, for a datapath to adopt.
    pub fn pin_maps(&mut self, pins: &Pins) -> Result<()> {
        self.skeleton.spend();
        std::fs::create_dir_all(pins.maps())?;
        for mut map in self.skeleton.object_mut().maps_mut() {
            let name = map.name().to_string_lossy().into_owned();
            // Read-only data belongs to the programs that it was loaded with.
            if !name.contains('.') {
                map.pin(pins.map(&name)).with_context(|| format!("pin {name}"))?;
            }
        }
        Ok(())
    }

    /// Has an endpoint be the resolver of all others.
    pub fn resolve_by(&self, local: &Local, port: u16) -> Result<()> {
        let mut settings = DnsSettings::default();
        settings.ports[0] = port.to_be();
        put(&self.skeleton.maps.dns_settings, &0u32, &settings)?;
        for address in [local.ipv4.into(), local.ipv6.into()] {
            let key = ResolverKey { address: mapped(address), port: port.to_be(), protocol: UDP, pad: 0 };
            put(&self.skeleton.maps.resolvers, &key, &1u8)?;
        }
        Ok(())
    }

    /// One more endpoint, with that number at the end of its addresses.
    pub fn add_another(&self, last: u8) -> Result<Local> {
        let name = format!("e{last}");
        ip(&format!("link add {name} type veth peer name {name}p"))?;
        ip(&format!("link set {name} up"))?;
        let added = local(&name, last)?;
        self.add_endpoint(&added, 0)?;
        Ok(added)
    }

    /// Makes an endpoint known, without any policy.
    pub fn add_endpoint(&self, local: &Local, flags: u8) -> Result<()> {
        put(&self.skeleton.maps.postures, &local.slot, &Posture { map: 0, flags: POSTURE_KNOWN })?;
        self.place_endpoint_as(local, flags)
    }

    /// Has an endpoint policed (`POSTURE_INGRESS`, `POSTURE_EGRESS`) by policies that allow nothing.
    pub fn isolate(&self, local: &Local, ways: u32) -> Result<()> {
        put(&self.skeleton.maps.postures, &local.slot, &Posture { map: 0, flags: POSTURE_KNOWN | ways })
    }

    /// Makes an endpoint known whose posture somebody else writes.
    pub fn place_endpoint(&self, local: &Local) -> Result<()> {
        self.place_endpoint_as(local, 0)
    }

    fn place_endpoint_as(&self, local: &Local, flags: u8) -> Result<()> {
        let value = Endpoint {
            ifindex: local.ifindex,
            container_mac: local.mac,
            host_mac: local.host_mac,
            mtu: 1500,
            flags,
            pad: 0,
            slot: local.slot,
        };
        let mac = EthernetAddress { mac: local.mac, pad: 0 };
        put(&self.skeleton.maps.host_ends, &local.ifindex, &mac)?;
        put(&self.skeleton.maps.endpoints4, &Ip4::from(local.ipv4), &value)?;
        put(&self.skeleton.maps.endpoints6, &Ip6::from(local.ipv6), &value)
    }

    /// Makes an endpoint unknown.
    pub fn remove_endpoint(&self, local: &Local) -> Result<()> {
        forget(&self.skeleton.maps.endpoints4, Ip4::from(local.ipv4).as_bytes())?;
        forget(&self.skeleton.maps.endpoints6, Ip6::from(local.ipv6).as_bytes())
    }

    /// Exempts a prefix of IPv4 from masquerade.
    pub fn exempt(&self, network: Ipv4Addr, length: u32) -> Result<()> {
        let key = bpf::layout::Prefix4 { length, address: network.into() };
        put(&self.skeleton.maps.no_masquerade4, &key, &1u8)
    }

    /// Tells the programs of an address that means all of the uplink's network.
    pub fn mean_all(&self, address: Ipv4Addr) -> Result<()> {
        let key = bpf::layout::Prefix4 { length: 32, address: address.into() };
        put(&self.skeleton.maps.node_prefixes4, &key, &Ip4::from(Ipv4Addr::new(255, 255, 255, 254)))
    }

    /// Raises the epoch for every flow.
    pub fn raise_epoch(&self) -> Result<()> {
        self.raise_epoch_at(&[CHANGED_EVERYTHING])
    }

    /// Raises the epoch for what is at some places: of everything, of an address, of a network.
    pub fn raise_epoch_at(&self, places: &[u32]) -> Result<()> {
        let node = &self.skeleton.maps.node;
        let mut value = self.node()?;
        value.epoch = value.epoch.wrapping_add(1);
        for place in places {
            put(&self.skeleton.maps.changes, place, &value.epoch)?;
        }
        put(node, &0u32, &value)
    }

    /// Lets the programs keep ways out of the node, as the daemon does where routes are plain. Whether this kernel has what that
    /// takes, for IPv4 and for IPv6.
    pub fn keep_ways_out(&self) -> Result<(bool, bool)> {
        let mut context_out = [0; size_of::<SkBuff>()];
        let input = ProgramInput {
            context_out: Some(&mut context_out),
            data_in: Some(&[0; 64]),
            ..ProgramInput::default()
        };
        self.skeleton.progs.routes.test_run(input)?;
        let told = |at: usize| -> Result<u32> {
            let place = &context_out[offset_of!(SkBuff, cb) + at * size_of::<u32>()..];
            Ok(u32::from_ne_bytes(*place.first_chunk().context("no word")?))
        };
        let plain = PlainRoutes { families: told(0)?, count4: told(1)?, count6: told(2)?, pad: 0 };
        put(&self.skeleton.maps.plain_routes, &0u32, &plain)?;
        Ok((plain.families & PLAIN_ROUTES4 != 0, plain.families & PLAIN_ROUTES6 != 0))
    }

    /// Writes other next hops into the ways out that are kept, so that who goes by them is seen. How many there were.
    pub fn lead_astray(&self, ipv4: Ipv4Addr, ipv6: Ipv6Addr) -> Result<(usize, usize)> {
        let maps = &self.skeleton.maps;
        Ok((
            change_each(&maps.ways_out4, |way: &mut WayOut4| {
                way.next_hop = ipv4.into();
                way.leads != 0
            })?,
            change_each(&maps.ways_out6, |way: &mut WayOut6| {
                way.next_hop = ipv6.into();
                way.leads != 0
            })?,
        ))
    }

    /// Moves the clock of a bench that has one of its own.
    pub fn set_tick(&self, tick: u32) -> Result<()> {
        put(&self.skeleton.maps.hand, &0u32, &tick)
    }

    /// Has the flows forgotten that are over at that tick, as the daemon does now and then.
    pub fn age(&self, now: u32) -> Result<Ageing> {
        let mut context = Ageing { now, ..Ageing::default() }.as_bytes().to_vec();
        let input = ProgramInput { context_in: Some(&mut context), ..ProgramInput::default() };
        let output = self.skeleton.progs.age.test_run(input)?;
        ensure!(output.return_value == 0, "the program returned {}", output.return_value);
        Ageing::from_bytes(&context).context("layout")
    }

    /// The ports that the last [`Self::age`] has found connections to services at.
    pub fn held_ports(&self) -> Result<Vec<u16>> {
        let mut ports = Vec::new();
        for (index, word) in entries::<u32, u64>(&self.skeleton.maps.held_ports)? {
            let bits = (0..64).filter(|bit| word >> bit & 1 != 0);
            ports.extend(bits.map(|bit| u16::try_from(index * 64 + bit)).collect::<Result<Vec<_>, _>>()?);
        }
        Ok(ports)
    }

    /// Writes an IPv4 flow.
    pub fn put_flow4(&self, key: &CtKey4, entry: &CtEntry4) -> Result<()> {
        put(&self.skeleton.maps.conntrack4, key, entry)
    }

    /// Forgets one view of an IPv4 flow, as an eviction does.
    pub fn forget_flow4(&self, key: &CtKey4) -> Result<()> {
        forget(&self.skeleton.maps.conntrack4, key.as_bytes())
    }

    /// Has the epoch be another, as if it had been raised as often as that takes, also at each place.
    pub fn set_epoch(&self, epoch: u32) -> Result<()> {
        for place in 0..CHANGES {
            put(&self.skeleton.maps.changes, &place, &epoch)?;
        }
        put(&self.skeleton.maps.node, &0u32, &Node { epoch, ..self.node()? })
    }

    /// What concerns every program.
    pub fn node(&self) -> Result<Node> {
        let bytes = self.skeleton.maps.node.lookup(0u32.as_bytes(), MapFlags::ANY)?.context("no node")?;
        Node::from_bytes(&bytes).context("layout")
    }

    /// Every IPv4 flow that is remembered.
    pub fn flows4(&self) -> Result<Vec<(CtKey4, CtEntry4)>> {
        entries(&self.skeleton.maps.conntrack4)
    }

    /// How many entries of IPv4 flows are confirmed, and how many wait.
    pub fn stages4(&self) -> Result<(usize, usize)> {
        let flows = self.flows4()?;
        let confirmed = flows.iter().filter(|(_, entry)| entry.flags & CT_CONFIRMED != 0).count();
        Ok((confirmed, flows.len() - confirmed))
    }

    /// Every IPv6 flow that is remembered.
    pub fn flows6(&self) -> Result<Vec<(CtKey6, CtEntry6)>> {
        entries(&self.skeleton.maps.conntrack6)
    }

    /// Forgets every flow.
    pub fn forget_flows(&self) -> Result<()> {
        for (key, _) in self.flows4()? {
            self.skeleton.maps.conntrack4.delete(key.as_bytes())?;
        }
        for (key, _) in self.flows6()? {
            self.skeleton.maps.conntrack6.delete(key.as_bytes())?;
        }
        Ok(())
    }

    /// Forgets every datagram that is under way in pieces.
    pub fn forget_pieces(&self) -> Result<()> {
        for map in [&self.skeleton.maps.fragments4, &self.skeleton.maps.fragments6] {
            for key in map.keys().collect::<Vec<_>>() {
                forget(map, &key)?;
            }
        }
        Ok(())
    }

    /// Counts drops from zero.
    pub fn forget_drops(&self) -> Result<()> {
        for index in 0..u32::try_from(DROP_REASONS.len())? {
            let zeroes = vec![0_u64.as_bytes().to_vec(); libbpf_rs::num_possible_cpus()?];
            self.skeleton.maps.drops.update_percpu(index.as_bytes(), &zeroes, MapFlags::ANY)?;
        }
        Ok(())
    }

    /// How often something was counted that is no drop: `COUNTER_*`.
    pub fn counted(&self, counter: u32) -> Result<u64> {
        let per_cpu = self.skeleton.maps.counters.lookup_percpu(counter.as_bytes(), MapFlags::ANY)?;
        Ok(per_cpu.unwrap_or_default().iter().filter_map(|bytes| u64::from_bytes(bytes)).sum())
    }

    /// Drops by reason.
    pub fn drops(&self) -> Result<BTreeMap<&'static str, u64>> {
        Ok(self.drops_above_zero()?.into_iter().collect())
    }

    /// What is counted and remembered now.
    pub fn tally(&self) -> Result<Tally> {
        let drops = self.drops_above_zero()?;
        Ok(Tally { drops, flows: (self.flows4()?.len(), self.flows6()?.len()) })
    }

    fn drops_above_zero(&self) -> Result<Vec<(&'static str, u64)>> {
        let mut drops = Vec::new();
        for (index, reason) in DROP_REASONS.iter().enumerate() {
            let key = u32::try_from(index)?;
            let per_cpu =
                self.skeleton.maps.drops.lookup_percpu(key.as_bytes(), MapFlags::ANY)?.unwrap_or_default();
            let sum: u64 = per_cpu.iter().filter_map(|bytes| u64::from_bytes(bytes)).sum();
            if sum > 0 {
                drops.push((*reason, sum));
            }
        }
        Ok(drops)
    }

    /// Runs a program on a packet that an interface receives or sends.
    pub fn run(&self, program: &str, ifindex: u32, packet: &[u8]) -> Result<Ran> {
        self.run_many(program, ifindex, packet, 1)
    }

    /// As [`Self::run`], `repeat` times on the same packet.
    pub fn run_many(&self, program: &str, ifindex: u32, packet: &[u8], repeat: u32) -> Result<Ran> {
        Ok(self.run_on(program, ifindex, packet, repeat, 0, 0)?.0)
    }

    /// As [`Self::run`], on an aggregate that will be cut into segments with so many bytes of data each.
    pub fn run_aggregate(&self, program: &str, ifindex: u32, packet: &[u8], segment: u32) -> Result<Ran> {
        Ok(self.run_on(program, ifindex, packet, 1, segment, 0)?.0)
    }

    /// As [`Self::run`], on a packet that has that mark; returns the mark that it has then, too.
    pub fn run_marked(&self, program: &str, ifindex: u32, packet: &[u8], mark: u32) -> Result<(Ran, u32)> {
        self.run_on(program, ifindex, packet, 1, 0, mark)
    }

    fn run_on(
        &self,
        program: &str,
        ifindex: u32,
        packet: &[u8],
        repeat: u32,
        segment: u32,
        mark: u32,
    ) -> Result<(Ran, u32)> {
        let programs = &self.skeleton.progs;
        let program = match program {
            "from_endpoint" => &programs.from_endpoint,
            "to_endpoint" => &programs.to_endpoint,
            "from_network" => &programs.from_network,
            "to_network" => &programs.to_network,
            other => bail!("no program {other}"),
        };
        let mut context = [0; size_of::<SkBuff>()];
        context[offset_of!(SkBuff, ifindex)..][..size_of::<u32>()].copy_from_slice(&ifindex.to_ne_bytes());
        context[offset_of!(SkBuff, gso_size)..][..size_of::<u32>()].copy_from_slice(&segment.to_ne_bytes());
        context[offset_of!(SkBuff, mark)..][..size_of::<u32>()].copy_from_slice(&mark.to_ne_bytes());
        let mut context_out = [0; size_of::<SkBuff>()];
        let mut out = vec![0; packet.len() + 256];
        let input = ProgramInput {
            context_in: Some(&mut context),
            context_out: Some(&mut context_out),
            data_in: Some(packet),
            data_out: Some(&mut out),
            repeat,
            ..ProgramInput::default()
        };
        let output = program.test_run(input)?;
        let packet = output.data.map(|data| data.to_vec()).unwrap_or_default();
        let ran = Ran { action: output.return_value.cast_signed(), packet, duration: output.duration };
        let mark = context_out[offset_of!(SkBuff, mark)..].first_chunk().context("no mark")?;
        Ok((ran, u32::from_ne_bytes(*mark)))
    }
}

/// Runs `ip` with these words in the calling thread's namespace.
pub fn ip(words: &str) -> Result<()> {
    let output = Command::new("ip").args(words.split_whitespace()).output().context("run ip")?;
    ensure!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// An endpoint behind that interface, with that number at the end of its addresses.
fn local(name: &str, last: u8) -> Result<Local> {
    Ok(Local {
        ifindex: ifindex(name)?,
        ipv4: Ipv4Addr::new(10, 88, 0, last),
        ipv6: Ipv6Addr::new(0xfd00, 0x88, 0, 0, 0, 0, 0, last.into()),
        mac: [2, 0, 0, 0, 0, last],
        host_mac: [2, 0, 0, 0, 1, last],
        slot: last.into(),
    })
}

fn ifindex(name: &str) -> Result<u32> {
    nix::net::if_::if_nametoindex(name).with_context(|| format!("index of {name}"))
}

fn mac_of(name: &str) -> Result<[u8; 6]> {
    let output = Command::new("ip").args(["-br", "link", "show", "dev", name]).output()?;
    let text = String::from_utf8(output.stdout)?;
    let mac: ipamd_api::MacAddr = text.split_whitespace().nth(2).context("no address")?.parse()?;
    Ok(mac.0)
}
