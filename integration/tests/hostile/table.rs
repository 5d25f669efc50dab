//! Who may be whom, whole: every way in, every sort of source, both families, every form of a packet. What should become of
//! each is said once, in [`expected`], as docs/packets.md has it.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use etherparse::{Icmpv4Type, Icmpv6Type, PacketBuilder};
use integration::{
    needs_root,
    testbed::{
        Frames, Machine, NEIGHBOUR4, NEIGHBOUR6, NODE4, NODE6, Netns, Node, Pod, Tap, eventually, time_passes,
    },
};

use crate::scene::{Ends, MARK, message, node, of_pod, of_wire, open, tagged, tap};

/// Another node, beyond the neighbour: what its pods send comes by the overlay alone.
const FAR_NODE: Ipv4Addr = Ipv4Addr::new(198, 18, 9, 9);
pub const FAR_POD4: Ipv4Addr = Ipv4Addr::new(10, 244, 9, 5);
pub const FAR_POD6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x244, 9, 0, 0, 0, 0, 5);
pub const NODES: &str = "\
apiVersion: v1
kind: Node
metadata: { name: far }
spec: { podCIDRs: [10.244.9.0/24, 'fd00:244:9::/64'] }
status: { addresses: [{ type: InternalIP, address: 198.18.9.9 }] }
";

const PORT: u16 = 7777;
const NODE_PORT: u16 = 30_077;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// An endpoint's interface.
    Pod,
    /// An uplink.
    Wire,
    /// An interface that is no uplink.
    Beside,
    /// In a frame of the overlay, from a node, by an uplink.
    Overlay,
    /// The same, by an interface that is no uplink.
    OverlayBeside,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// Who really is there.
    Honest,
    Victim,
    OtherPod,
    PodOfFarNode,
    Node,
    Gateway,
    /// An address of the node's pool that no pod has.
    Unassigned,
    /// IPv4 alone: of the wire's network.
    Broadcast,
    /// Of a service.
    ClusterIp,
    Loopback,
    Unspecified,
    Multicast,
    /// IPv6 alone: `fe80::9`.
    OfTheLink,
    /// IPv6 alone: `::ffff:192.0.2.1`.
    Mapped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Plain,
    /// With a VLAN tag.
    Tagged,
    /// To a node port that leads to the victim.
    Translated,
    /// An ICMP error about a flow of the victim.
    Error,
    /// An ICMP error about a packet that the victim has not sent.
    Stray,
    /// An echo reply to what the victim has not asked.
    Answer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Arrives,
    Dropped(&'static str),
    /// By the kernel, or for want of anybody who takes it.
    Lost,
}

const WAYS: [Way; 5] = [Way::Pod, Way::Wire, Way::Beside, Way::Overlay, Way::OverlayBeside];
const SOURCES: [Source; 14] = [
    Source::Honest,
    Source::Victim,
    Source::OtherPod,
    Source::PodOfFarNode,
    Source::Node,
    Source::Gateway,
    Source::Unassigned,
    Source::Broadcast,
    Source::ClusterIp,
    Source::Loopback,
    Source::Unspecified,
    Source::Multicast,
    Source::OfTheLink,
    Source::Mapped,
];
const FORMS: [Form; 6] =
    [Form::Plain, Form::Tagged, Form::Translated, Form::Error, Form::Stray, Form::Answer];

/// A cell of the table.
#[derive(Clone, Copy)]
struct Cell {
    way: Way,
    source: Source,
    form: Form,
    v4: bool,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { way, source, form, v4 } = self;
        write!(f, "{way:?}, {source:?}, {form:?}, IPv{}", if *v4 { 4 } else { 6 })
    }
}

/// What becomes of a packet.
fn expected(Cell { way, source, form, v4 }: Cell) -> Outcome {
    // Who would be let through with a datagram, or an error that is about something, is not with what opens no flow.
    for (of, like, reason) in
        [(Form::Stray, Form::Error, "unrelated_error"), (Form::Answer, Form::Plain, "unasked_answer")]
    {
        if form == of {
            return match expected(Cell { way, source, form: like, v4 }) {
                Outcome::Arrives => Outcome::Dropped(reason),
                outcome => outcome,
            };
        }
    }
    let is_endpoint = matches!(source, Source::Victim | Source::OtherPod);
    match (way, form) {
        (Way::Pod, Form::Tagged) => Outcome::Dropped("vlan"),
        // Nobody has the VLAN, and nobody serves node ports there.
        (_, Form::Tagged) | (Way::Beside, Form::Translated) => Outcome::Lost,
        (Way::OverlayBeside, _) => Outcome::Dropped("foreign_frame"),
        (Way::Pod, _) if source == Source::Honest => Outcome::Arrives,
        (Way::Pod, _) => Outcome::Dropped("foreign_source"),
        (Way::Beside, _) => match source {
            Source::Honest => Outcome::Arrives,
            _ if is_endpoint => Outcome::Dropped("forged_endpoint"),
            // A router may tell of errors, and be anybody.
            Source::PodOfFarNode if form == Form::Error => Outcome::Arrives,
            Source::PodOfFarNode => Outcome::Dropped("foreign_way"),
            // The kernel refuses its own addresses in IPv4 alone. What netfilter has masqueraded has them, too, so the
            // programs ask policy, as of anybody.
            Source::Node | Source::Gateway if !v4 => Outcome::Arrives,
            // There another plugin may have pods, and services be met.
            Source::Unassigned | Source::Broadcast | Source::ClusterIp => Outcome::Arrives,
            Source::Mapped => Outcome::Dropped("martian"),
            _ => Outcome::Lost,
        },
        (Way::Wire | Way::Overlay, _) => match source {
            Source::Honest => Outcome::Arrives,
            _ if is_endpoint => Outcome::Dropped("forged_endpoint"),
            Source::PodOfFarNode if way == Way::Overlay || form == Form::Error => Outcome::Arrives,
            Source::PodOfFarNode => Outcome::Dropped("foreign_way"),
            // A router may have no other address.
            Source::OfTheLink if form == Form::Error => Outcome::Arrives,
            _ => Outcome::Dropped("martian"),
        },
    }
}

/// The node with all that sends and all that is sent to.
struct Scene<'n> {
    node: &'n Node,
    victim: Pod<'n>,
    other: Pod<'n>,
    sender: Pod<'n>,
    of_sender: (Frames, Ends),
    of_wire: (Frames, Ends),
    _beside: Netns,
    of_beside: (Frames, Ends),
    overlay: [u8; 6],
    tap: Tap,
}

impl<'n> Scene<'n> {
    fn new(node: &'n Node) -> Result<Self> {
        node.apply("nodes.yaml", NODES)?;
        let (victim, other, sender) = (open(node, "victim")?, open(node, "other")?, open(node, "sender")?);
        node.apply("service.yaml", &service(&victim))?;
        let (beside, of_beside) = beside(node)?;
        let netns = node.netns();
        for name in ["all", "uplink", "mgmt"] {
            netns.sysctl(&format!("net/ipv4/conf/{name}/rp_filter"), "0")?;
        }
        let there = || netns.mac_of("cambric-overlay").is_ok();
        ensure!(eventually(Duration::from_secs(10), there), "there is no overlay: {}", node.log());
        let of_sender = of_pod(&sender)?;
        let tap = tap(&victim)?;
        Ok(Self {
            node,
            of_sender,
            sender,
            other,
            victim,
            of_wire: of_wire(node)?,
            _beside: beside,
            of_beside,
            overlay: netns.mac_of("cambric-overlay")?,
            tap,
        })
    }

    /// The address that a packet of a cell says it is from.
    fn address(&self, Cell { way, source, v4, .. }: Cell) -> Option<IpAddr> {
        let of = |pod: &Pod<'_>| if v4 { pod.ipv4().into() } else { pod.ipv6().into() };
        let either = |four: &str, six: &str| if v4 { four } else { six }.parse().ok();
        match source {
            Source::Honest => match way {
                Way::Pod => Some(of(&self.sender)),
                Way::Wire => Some(if v4 { NEIGHBOUR4.into() } else { NEIGHBOUR6.into() }),
                Way::Beside => either("203.0.113.2", "2001:db8:77::2"),
                Way::Overlay | Way::OverlayBeside => Some(far_pod(v4)),
            },
            Source::Victim => Some(of(&self.victim)),
            Source::OtherPod => Some(of(&self.other)),
            Source::PodOfFarNode => Some(far_pod(v4)),
            Source::Node => Some(node_address(v4)),
            Source::Gateway => either("10.88.0.1", "fd00:88::1"),
            Source::Unassigned => either("10.88.0.77", "fd00:88::77"),
            Source::Broadcast => v4.then(|| "192.0.2.255".parse().ok()).flatten(),
            Source::ClusterIp => either("10.96.0.77", "fd00:96::77"),
            Source::Loopback => either("127.0.0.1", "::1"),
            Source::Unspecified => either("0.0.0.0", "::"),
            Source::Multicast => either("224.0.0.9", "ff02::9"),
            Source::OfTheLink => (!v4).then(|| "fe80::9".parse().ok()).flatten(),
            Source::Mapped => (!v4).then(|| "::ffff:192.0.2.1".parse().ok()).flatten(),
        }
    }

    /// Sends the packet of a cell. `number` is its own, so that it is the first of its flow.
    fn send(&self, cell: Cell, from: IpAddr, number: u16) -> Result<()> {
        let Cell { way, form, v4, .. } = cell;
        let (frames, ends) = match way {
            Way::Pod => &self.of_sender,
            Way::Wire | Way::Overlay => &self.of_wire,
            Way::Beside | Way::OverlayBeside => &self.of_beside,
        };
        let in_frame = matches!(way, Way::Overlay | Way::OverlayBeside);
        let inner = if in_frame { Ends { from: [6, 0, 0, 0, 0, 9], to: self.overlay } } else { *ends };
        let victim: IpAddr = if v4 { self.victim.ipv4().into() } else { self.victim.ipv6().into() };
        let frame = match form {
            Form::Plain => datagram(inner, (from, number), (victim, PORT))?,
            Form::Tagged => tagged(&datagram(inner, (from, number), (victim, PORT))?, 100),
            Form::Translated => datagram(inner, (from, number), (node_address(v4), NODE_PORT))?,
            Form::Stray => {
                error(inner, from, victim, &datagram(inner, (victim, PORT), (from, number))?[14..])?
            }
            Form::Answer => message(inner, from, victim, if v4 { 0 } else { 129 }, number)?,
            Form::Error => {
                // About an answer of the victim, or of the pod that sends to it.
                let honest = Cell {
                    way: if way == Way::Pod { way } else { Way::Wire },
                    source: Source::Honest,
                    ..cell
                };
                let peer = self.address(honest).context("an address")?;
                let opens = datagram(
                    if way == Way::Pod { *ends } else { self.of_wire.1 },
                    (peer, number),
                    (victim, PORT),
                )?;
                let (opener, _) = if way == Way::Pod { &self.of_sender } else { &self.of_wire };
                let seen = self.tap.count();
                opener.send(&opens)?;
                ensure!(eventually(Duration::from_secs(3), || self.tap.count() > seen), "the flow begins");
                error(inner, from, victim, &datagram(inner, (victim, PORT), (peer, number))?[14..])?
            }
        };
        if !in_frame {
            return frames.send(&frame);
        }
        let mut payload = 0x0800_0000_u32.to_be_bytes().to_vec();
        payload.extend((51_770_u32 << 8).to_be_bytes());
        payload.extend(&frame);
        let mut outer = Vec::new();
        PacketBuilder::ethernet2(ends.from, ends.to)
            .ipv4(FAR_NODE.octets(), NODE4.octets(), 64)
            .udp(number, 4789)
            .write(&mut outer, &payload)?;
        frames.send(&outer)
    }

    fn try_cell(&self, cell: Cell, number: u16) -> Result<()> {
        let Some(from) = self.address(cell) else { return Ok(()) };
        let wanted = expected(cell);
        let before = if let Outcome::Dropped(reason) = wanted { self.node.drops(reason)? } else { 0 };
        let seen = || self.tap.count() - u64::from(cell.form == Form::Error);
        let was_seen = self.tap.count();
        self.send(cell, from, number)?;
        let arrived = || seen() > was_seen;
        match wanted {
            Outcome::Arrives => {
                ensure!(eventually(Duration::from_secs(3), arrived), "from {from} does not arrive");
            }
            Outcome::Dropped(reason) => {
                let dropped = || self.node.drops(reason).is_ok_and(|now| now > before);
                ensure!(
                    eventually(Duration::from_secs(3), dropped),
                    "from {from} is not dropped as {reason}; arrived: {}",
                    arrived()
                );
                ensure!(!arrived(), "from {from} arrives");
            }
            Outcome::Lost => {
                time_passes(Duration::from_millis(30), "what is lost is counted nowhere");
                ensure!(!arrived(), "from {from} arrives");
            }
        }
        Ok(())
    }
}

fn far_pod(v4: bool) -> IpAddr {
    if v4 { FAR_POD4.into() } else { FAR_POD6.into() }
}

fn node_address(v4: bool) -> IpAddr {
    if v4 { NODE4.into() } else { NODE6.into() }
}

/// A machine on a network of the node that is no uplink.
fn beside(node: &Node) -> Result<(Netns, (Frames, Ends))> {
    let (netns, host) = (Netns::new("beside")?, node.netns());
    host.ip(&format!("link add mgmt type veth peer name eth0 netns {}", netns.path().display()))?;
    host.ip("address add 203.0.113.1/24 dev mgmt")?;
    host.ip("address add 2001:db8:77::1/64 dev mgmt nodad")?;
    host.ip("link set dev mgmt up")?;
    netns.ip("link set dev eth0 up")?;
    let ends = Ends { from: netns.mac_of("eth0")?, to: host.mac_of("mgmt")? };
    let frames = Frames::open(&netns, "eth0")?;
    Ok((netns, (frames, ends)))
}

/// A node port of both families that leads to the pod.
fn service(pod: &Pod<'_>) -> String {
    let slice = |family: &str, address: IpAddr| {
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{ name: s-{}, namespace: shop, labels: \
             {{ kubernetes.io/service-name: s }} }}\naddressType: {family}\nports: [{{ port: {PORT}, protocol: UDP }}]\n\
             endpoints: [{{ addresses: ['{address}'], conditions: {{ ready: true }} }}]\n",
            family.to_lowercase()
        )
    };
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{ name: s, namespace: shop }}\nspec: {{ type: NodePort, clusterIP: \
         10.96.0.77, clusterIPs: [10.96.0.77, 'fd00:96::77'], ipFamilies: [IPv4, IPv6], ports: [{{ port: {PORT}, \
         protocol: UDP, nodePort: {NODE_PORT} }}] }}\n{}{}",
        slice("IPv4", pod.ipv4().into()),
        slice("IPv6", pod.ipv6().into())
    )
}

fn datagram(ends: Ends, from: (IpAddr, u16), to: (IpAddr, u16)) -> Result<Vec<u8>> {
    let builder = PacketBuilder::ethernet2(ends.from, ends.to);
    let builder = match (from.0, to.0) {
        (IpAddr::V4(from), IpAddr::V4(to)) => builder.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => builder.ipv6(from.octets(), to.octets(), 64),
        (from, to) => anyhow::bail!("{from} and {to} are not of one family"),
    };
    let mut frame = Vec::new();
    builder.udp(from.1, to.1).write(&mut frame, MARK.as_bytes())?;
    Ok(frame)
}

/// Port unreachable, about a packet.
fn error(ends: Ends, from: IpAddr, to: IpAddr, about: &[u8]) -> Result<Vec<u8>> {
    let builder = PacketBuilder::ethernet2(ends.from, ends.to);
    let mut frame = Vec::new();
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => builder
            .ipv4(from.octets(), to.octets(), 64)
            .icmpv4(Icmpv4Type::Unknown { type_u8: 3, code_u8: 3, bytes5to8: [0; 4] })
            .write(&mut frame, about)?,
        (IpAddr::V6(from), IpAddr::V6(to)) => builder
            .ipv6(from.octets(), to.octets(), 64)
            .icmpv6(Icmpv6Type::Unknown { type_u8: 1, code_u8: 4, bytes5to8: [0; 4] })
            .write(&mut frame, about)?,
        (from, to) => anyhow::bail!("{from} and {to} are not of one family"),
    }
    Ok(frame)
}

#[test]
fn every_way_in_lets_each_be_who_it_is_and_nobody_else() -> Result<()> {
    needs_root!();
    let node = node()?;
    let scene = Scene::new(&node)?;
    // The node port is served once this arrives.
    let control = Cell { way: Way::Wire, source: Source::Honest, form: Form::Translated, v4: false };
    let (mut number, served) = (20_000, scene.tap.count());
    let ready = || {
        number += 1;
        let _ = scene.send(control, NEIGHBOUR6.into(), number);
        eventually(Duration::from_millis(50), || scene.tap.count() > served)
    };
    ensure!(eventually(Duration::from_secs(10), ready), "the node port is not served: {}", node.log());
    let (mut tried, mut failed, mut number) = (0, Vec::new(), 50_000);
    for way in WAYS {
        for form in FORMS {
            for source in SOURCES {
                for v4 in [true, false] {
                    let cell = Cell { way, source, form, v4 };
                    // What a pod tells of errors goes to the other side; and the node tells the victim, whose mark comes
                    // back, that nobody serves the port.
                    if (way == Way::Pod && form == Form::Error && source == Source::Honest)
                        || (way == Way::Beside && form == Form::Translated && source == Source::Victim)
                    {
                        continue;
                    }
                    number += 1;
                    tried += 1;
                    if let Err(error) = scene.try_cell(cell, number) {
                        failed.push(format!("{cell}: {error:#}"));
                    }
                }
            }
        }
    }
    ensure!(failed.is_empty(), "{} of {tried} cells:\n{}", failed.len(), failed.join("\n"));
    Ok(())
}
