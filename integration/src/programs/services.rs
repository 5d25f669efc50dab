//! Services in the bench's maps, one set of backends for each.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result};
use bpf::layout::{
    ADDRESS_OF_NODE, BackendSet, EXTERNAL_DSR, EXTERNAL_HOST_BACKENDS, Frontend, Ip4, Ip6,
    MACHINE_SENDS_FRAMES, Node, PORT_WORDS, PORTS_SERVED, Plain, SERVED_WORDS, SET_BY_SCORE, SET_ELSEWHERE,
    ServiceFamily, TICK_SHIFT, V4, V6, served_bit,
};
use libbpf_rs::{MapCore, MapFlags};
use nix::time::{ClockId, clock_gettime};

use super::{
    bench::Bench,
    maps::{entries, put},
};

/// A service: its number, which is that of its set and the place of its first backend too.
#[derive(Clone, Debug)]
pub struct Served {
    /// From 1; others begin where its backends end.
    pub number: u32,
    /// Where it is reached, by this protocol.
    pub frontends: Vec<SocketAddr>,
    /// IP protocol number.
    pub protocol: u8,
    /// Who takes connections.
    pub backends: Vec<SocketAddr>,
    /// By client rather than in turn.
    pub by_client: bool,
    /// `FRONTEND_*`.
    pub flags: u32,
    /// There are backends on other nodes, which do not take its connections here.
    pub elsewhere: bool,
    /// Ticks of affinity; 0: none.
    pub affinity: u32,
}

impl Served {
    /// A TCP service in turn.
    pub fn tcp(number: u32, frontend: SocketAddr, backends: &[SocketAddr]) -> Self {
        let backends = backends.to_vec();
        let frontends = vec![frontend];
        Self {
            number,
            frontends,
            protocol: 6,
            backends,
            by_client: false,
            flags: 0,
            elsewhere: false,
            affinity: 0,
        }
    }

    /// A UDP service in turn.
    pub fn udp(number: u32, frontend: SocketAddr, backends: &[SocketAddr]) -> Self {
        Self { protocol: 17, ..Self::tcp(number, frontend, backends) }
    }
}

impl Bench {
    /// Puts a service in force.
    pub fn serve(&self, service: &Served) -> Result<()> {
        let maps = &self.skeleton.maps;
        for (at, backend) in (service.number..).zip(&service.backends) {
            let seed = backend.port().into();
            match backend.ip() {
                IpAddr::V4(ip) => put(&maps.backends4, &at, &V4::backend(ip, backend.port(), seed, 0))?,
                IpAddr::V6(ip) => put(&maps.backends6, &at, &V6::backend(ip, backend.port(), seed, 0))?,
            }
            self.join(service.number, *backend, 1)?;
        }
        let set = BackendSet {
            first: service.number,
            count: u16::try_from(service.backends.len())?,
            flags: if service.by_client { SET_BY_SCORE } else { 0 }
                | if service.elsewhere { SET_ELSEWHERE } else { 0 },
            ..BackendSet::default()
        };
        put(&maps.sets, &service.number, &set)?;
        let value = Frontend {
            service: service.number,
            set: [service.number; 2],
            flags: service.flags,
            affinity: service.affinity,
        };
        for frontend in &service.frontends {
            self.mark_served(frontend.ip())?;
            match frontend.ip() {
                IpAddr::V4(ip) => {
                    put(&maps.frontends4, &V4::frontend(ip, frontend.port(), service.protocol), &value)?;
                }
                IpAddr::V6(ip) => {
                    put(&maps.frontends6, &V6::frontend(ip, frontend.port(), service.protocol), &value)?;
                }
            }
            let at = PORTS_SERVED * PORT_WORDS + u32::from(frontend.port() / 64);
            put(&maps.ports, &at, &(1_u64 << (frontend.port() % 64)))?;
        }
        Ok(())
    }

    /// Has an address be one of the node's that serves node ports.
    pub fn serve_node_ports_at(&self, address: Ipv4Addr) -> Result<()> {
        self.address_is(address.into(), ADDRESS_OF_NODE)
    }

    /// Says what an address is: `ADDRESS_*`.
    pub fn address_is(&self, address: IpAddr, flags: u32) -> Result<()> {
        let value = Frontend { flags, ..Frontend::default() };
        let maps = &self.skeleton.maps;
        self.mark_served(address)?;
        match address {
            IpAddr::V4(ip) => put(&maps.frontends4, &V4::frontend(ip, 0, 0), &value),
            IpAddr::V6(ip) => put(&maps.frontends6, &V6::frontend(ip, 0, 0), &value),
        }
    }

    /// Marks an address as one that there may be frontends at, as the daemon does before it makes the first of them.
    fn mark_served(&self, address: IpAddr) -> Result<()> {
        let map = &self.skeleton.maps.served_addresses;
        let (at, bit) = served_bit(address);
        let word = map.lookup(at.as_bytes(), MapFlags::ANY)?.context("no word")?;
        put(map, &at, &(u64::from_bytes(&word).context("layout")? | bit))
    }

    /// The marks of addresses that there may be frontends at.
    pub fn served_marks(&self) -> Result<Vec<u64>> {
        let mut marks = entries::<u32, u64>(&self.skeleton.maps.served_addresses)?;
        marks.sort_unstable();
        Ok(marks.into_iter().map(|(_, word)| word).collect())
    }

    /// Has each word of those marks be this one.
    pub fn set_served_marks(&self, word: u64) -> Result<()> {
        (0..SERVED_WORDS).try_for_each(|at| put(&self.skeleton.maps.served_addresses, &at, &word))
    }

    /// Does something while the wall clock stands at a tick; again, if it went on meanwhile.
    pub fn at_tick<T>(&self, tick: u32, mut act: impl FnMut() -> T) -> Result<T> {
        loop {
            let own = ticks()?;
            put(&self.skeleton.maps.wall_clock, &0u32, &tick.wrapping_sub(own))?;
            let acted = act();
            if ticks()? == own {
                return Ok(acted);
            }
        }
    }

    /// Lets sources of a service's ranges in.
    pub fn welcome(&self, service: u32, address: Ipv4Addr, length: u8) -> Result<()> {
        put(&self.skeleton.maps.source_ranges4, &V4::source_range(service, address, length), &1u8)
    }

    /// Forgets which backends clients had.
    pub fn forget_affinities(&self) -> Result<()> {
        let maps = &self.skeleton.maps;
        for map in [&maps.affinities4, &maps.affinities6] {
            for key in map.keys().collect::<Vec<_>>() {
                map.delete(&key)?;
            }
        }
        Ok(())
    }

    /// Makes an endpoint one of a service's.
    pub fn join(&self, service: u32, backend: SocketAddr, value: u32) -> Result<()> {
        let maps = &self.skeleton.maps;
        match backend.ip() {
            IpAddr::V4(ip) => put(&maps.members4, &V4::member(service, ip, backend.port()), &value),
            IpAddr::V6(ip) => put(&maps.members6, &V6::member(service, ip, backend.port()), &value),
        }
    }

    /// Takes an endpoint from a service: it is no member, and the set is the others.
    pub fn part(&self, service: &Served, backend: SocketAddr) -> Result<()> {
        let maps = &self.skeleton.maps;
        match backend.ip() {
            IpAddr::V4(ip) => {
                maps.members4.delete(V4::member(service.number, ip, backend.port()).as_bytes())?;
            }
            IpAddr::V6(ip) => {
                maps.members6.delete(V6::member(service.number, ip, backend.port()).as_bytes())?;
            }
        }
        let backends = service.backends.iter().copied().filter(|it| *it != backend).collect();
        self.serve(&Served { backends, ..service.clone() })?;
        self.raise_epoch()
    }

    /// Makes an address one of another node of the cluster.
    pub fn know_machine(&self, address: IpAddr) -> Result<()> {
        let maps = &self.skeleton.maps;
        match address {
            IpAddr::V4(ip) => put(&maps.machines4, &Ip4::from(ip), &MACHINE_SENDS_FRAMES),
            IpAddr::V6(ip) => put(&maps.machines6, &Ip6::from(ip), &MACHINE_SENDS_FRAMES),
        }
    }

    /// Has backends elsewhere answer directly, and sets what an endpoint sees that meets itself.
    pub fn set_external(&self, dsr: bool, hairpin: (Ipv4Addr, std::net::Ipv6Addr)) -> Result<()> {
        let node = &self.skeleton.maps.node;
        let bytes = node.lookup(0u32.as_bytes(), MapFlags::ANY)?.unwrap_or_default();
        let mut value = Node::from_bytes(&bytes).unwrap_or_default();
        value.external = EXTERNAL_HOST_BACKENDS | if dsr { EXTERNAL_DSR } else { 0 };
        value.hairpin4 = hairpin.0.into();
        value.hairpin6 = hairpin.1.into();
        put(node, &0u32, &value)
    }
}

/// The programs' clock.
fn ticks() -> Result<u32> {
    let time = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE)?);
    Ok(u32::try_from(time.as_nanos() >> TICK_SHIFT)?)
}
