//! The frames: sound ones of every sort, of which most are spoilt then.

use std::net::IpAddr;

use etherparse::{Icmpv4Type, Icmpv6Type, PacketBuilder, PacketBuilderStep};

use crate::random::Random;

/// What is in every frame that a pod sends, and in every one from the wire.
pub const MARK_OF_POD: &str = "fuzz-of-the-pod";
pub const MARK_OF_WIRE: &str = "fuzz-of-the-wire";

const ETHERNET: usize = 14;
/// Numbers that are somewhere at an edge.
const EDGES: [u8; 10] = [0, 1, 4, 5, 0x0f, 0x45, 0x60, 0x7f, 0x80, 0xff];
/// Ports that mean something to the programs: the overlay's, of masquerade, of node ports, of the flows beside.
const PORTS: [u16; 9] = [0, 53, 80, 4789, 7000, 7001, 10_000, 29_999, 30_080];
/// Hop-by-hop, routing, fragment, ESP, AH, none, destination options, mobility, SCTP, UDP-Lite, GRE, and those of transport.
const PROTOCOLS: [u8; 14] = [0, 1, 6, 17, 43, 44, 47, 50, 51, 58, 59, 60, 132, 136];

/// Whose addresses there are.
pub struct Cast {
    pub pods: Vec<IpAddr>,
    pub closed: Vec<IpAddr>,
    pub node: Vec<IpAddr>,
    pub outside: Vec<IpAddr>,
}

/// Who sends.
pub struct Sender {
    pub mark: &'static str,
    pub from: [u8; 6],
    pub to: [u8; 6],
    pub own: Vec<IpAddr>,
}

impl Sender {
    /// A frame.
    pub fn frame(&self, cast: &Cast, random: &mut Random) -> Vec<u8> {
        let mut frame = if random.one_in(50) { self.noise(random) } else { self.sound(cast, random) };
        if random.one_in(10) {
            frame = self.in_overlay(cast, &frame, random);
        }
        for _ in 0..random.below(5) {
            self.spoil(&mut frame, random);
        }
        frame.truncate(1_514);
        frame
    }

    /// Bytes that mean nothing.
    fn noise(&self, random: &mut Random) -> Vec<u8> {
        let mut frame = [self.to, self.from].concat();
        frame.extend(random.of(&[0x0800_u16, 0x86dd, 0x0806, 0x8847, 0x88cc]).to_be_bytes());
        let length = 20 + random.index(200);
        frame.extend((0..length).map(|_| random.byte()));
        frame.extend(self.mark.as_bytes());
        frame
    }

    fn ends(&self, cast: &Cast, random: &mut Random) -> (IpAddr, IpAddr) {
        let v4 = random.one_in(2);
        let of_family = |all: &[IpAddr], random: &mut Random| {
            let all: Vec<_> = all.iter().copied().filter(|it| it.is_ipv4() == v4).collect();
            random.of(&all)
        };
        let odd: &[IpAddr] = &ODD.map(|text| text.parse().expect("an address"));
        let from = match random.below(8) {
            0 => of_family(&cast.pods, random),
            1 => of_family(&cast.node, random),
            2 => of_family(odd, random),
            3 => of_family(&cast.outside, random),
            _ => of_family(&self.own, random),
        };
        let to = match random.below(8) {
            0 => of_family(&cast.node, random),
            1 => of_family(odd, random),
            2 => of_family(&cast.outside, random),
            3 => of_family(&cast.pods, random),
            _ => of_family(&cast.closed, random),
        };
        (from, to)
    }

    fn port(random: &mut Random) -> u16 {
        if random.one_in(2) { random.of(&PORTS) } else { random.word() }
    }

    /// A packet that is what it says.
    fn sound(&self, cast: &Cast, random: &mut Random) -> Vec<u8> {
        let (from, to) = self.ends(cast, random);
        let hops = random.of(&[1, 2, 64, 255]);
        let builder = PacketBuilder::ethernet2(self.from, self.to);
        let builder = match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => builder.ipv4(from.octets(), to.octets(), hops),
            (IpAddr::V6(from), IpAddr::V6(to)) => builder.ipv6(from.octets(), to.octets(), hops),
            _ => unreachable!("both are of one family"),
        };
        let mut payload = self.mark.as_bytes().to_vec();
        payload.extend((0..random.index(400)).map(|_| random.byte()));
        Self::transport(builder, (from, to), &payload, random)
    }

    fn transport(
        builder: PacketBuilderStep<etherparse::IpHeaders>,
        (from, to): (IpAddr, IpAddr),
        payload: &[u8],
        random: &mut Random,
    ) -> Vec<u8> {
        let mut frame = Vec::new();
        let (source, destination) = (Self::port(random), Self::port(random));
        let written = match random.below(6) {
            0 | 1 => builder.udp(source, destination).write(&mut frame, payload),
            2 => {
                let mut tcp = etherparse::TcpHeader::new(
                    source,
                    destination,
                    u32::from(random.word()) << 16 | u32::from(random.word()),
                    65_535,
                );
                let flags = random.byte();
                (tcp.fin, tcp.syn, tcp.rst) = (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0);
                (tcp.psh, tcp.ack, tcp.urg) = (flags & 8 != 0, flags & 16 != 0, flags & 32 != 0);
                builder.tcp_header(tcp).write(&mut frame, payload)
            }
            3 => Self::icmp(builder, from.is_ipv4(), payload, random, &mut frame),
            4 => {
                // An error about what the receiver may have sent.
                let mut about = Vec::new();
                let inner = match (from, to) {
                    (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(to.octets(), from.octets(), 64),
                    (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(to.octets(), from.octets(), 64),
                    _ => unreachable!("both are of one family"),
                };
                let quoted = inner.udp(destination, source).write(&mut about, payload);
                let kind = if from.is_ipv4() { random.of(&[3, 4, 11, 12]) } else { random.of(&[1, 2, 3, 4]) };
                quoted.and_then(|()| Self::icmp_of(builder, from.is_ipv4(), kind, random, &about, &mut frame))
            }
            _ => {
                // The builder wants the headers of what it knows, so it hears of the protocol afterwards.
                // 253 is for experiments (RFC 3692).
                let unknown = etherparse::IpNumber(253);
                builder
                    .write(&mut frame, unknown, payload)
                    .map(|()| Self::set_protocol(&mut frame, from.is_ipv4(), random.of(&PROTOCOLS)))
            }
        };
        written.expect("the packet is small");
        frame
    }

    /// Has the header of IP say that this follows. The header is sound, and has no options.
    fn set_protocol(frame: &mut [u8], v4: bool, protocol: u8) {
        let header = &mut frame[ETHERNET..];
        if !v4 {
            header[6] = protocol;
            return;
        }
        header[9] = protocol;
        header[10..12].fill(0);
        let words =
            header[..20].chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
        let sum: u32 = words.sum();
        let folded = (sum & 0xffff) + (sum >> 16);
        let checksum = !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or(0);
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
    }

    fn icmp(
        builder: PacketBuilderStep<etherparse::IpHeaders>,
        v4: bool,
        payload: &[u8],
        random: &mut Random,
        frame: &mut Vec<u8>,
    ) -> Result<(), etherparse::err::packet::BuildWriteError> {
        let kind = if v4 {
            random.of(&[0, 5, 8, 9, 10, 13, 17])
        } else {
            random.of(&[128, 129, 130, 133, 134, 135, 136, 137, 143])
        };
        Self::icmp_of(builder, v4, kind, random, payload, frame)
    }

    fn icmp_of(
        builder: PacketBuilderStep<etherparse::IpHeaders>,
        v4: bool,
        type_u8: u8,
        random: &mut Random,
        payload: &[u8],
        frame: &mut Vec<u8>,
    ) -> Result<(), etherparse::err::packet::BuildWriteError> {
        let (code_u8, bytes5to8) = (random.byte() % 6, random.word().to_be_bytes());
        let bytes5to8 = [bytes5to8[0], bytes5to8[1], 0, 0];
        if v4 {
            builder.icmpv4(Icmpv4Type::Unknown { type_u8, code_u8, bytes5to8 }).write(frame, payload)
        } else {
            builder.icmpv6(Icmpv6Type::Unknown { type_u8, code_u8, bytes5to8 }).write(frame, payload)
        }
    }

    /// The frame in one of the overlay, to the node.
    fn in_overlay(&self, cast: &Cast, inner: &[u8], random: &mut Random) -> Vec<u8> {
        let mut payload = 0x0800_0000_u32.to_be_bytes().to_vec();
        payload.extend((51_770_u32 << 8).to_be_bytes());
        payload.extend(inner);
        let of_v4 = |all: &[IpAddr]| {
            all.iter()
                .find_map(|it| match it {
                    IpAddr::V4(it) => Some(it.octets()),
                    IpAddr::V6(_) => None,
                })
                .expect("an address of IPv4")
        };
        let (from, to) = (of_v4(&self.own), of_v4(&cast.node));
        let mac = if random.one_in(4) { [0xff; 6] } else { self.to };
        let mut frame = Vec::new();
        let written = PacketBuilder::ethernet2(self.from, mac)
            .ipv4(from, to, 64)
            .udp(random.word(), 4789)
            .write(&mut frame, &payload);
        written.expect("the packet is small");
        frame
    }

    /// Makes a frame other than it was; its mark stays, if it can.
    fn spoil(&self, frame: &mut Vec<u8>, random: &mut Random) {
        // Headers are what is looked at.
        let headers = frame.len().min(ETHERNET + 90);
        let at = random.index(headers);
        match random.below(12) {
            0 => frame[at] ^= 1 << random.below(8),
            1 => frame[at] = random.byte(),
            2 => frame[at] = random.of(&EDGES),
            // Behind the Ethernet header.
            3 => {
                let at = (ETHERNET + random.index(40)).min(frame.len() - 1);
                frame[at] = random.of(&EDGES);
            }
            4 => frame.truncate((ETHERNET + random.index(frame.len())).min(frame.len())),
            5 => frame.extend((0..random.index(64)).map(|_| 0)),
            // VLAN tags, one or two.
            6 if frame.len() >= ETHERNET => {
                let tag = [0x81, 0x00, random.byte() & 0x0f, random.byte()];
                frame.splice(12..12, tag);
            }
            7 => frame[..6].copy_from_slice(&random.of(&[[0xff; 6], [1, 0, 0x5e, 0, 0, 1], [2; 6]])),
            8 if frame.len() >= 12 => frame[6..12].copy_from_slice(&random.of(&[self.to, [0xff; 6], [2; 6]])),
            9 => Self::cut(frame, random),
            10 => Self::extend_header(frame, random),
            _ => {
                // A number of 16 bits.
                let at = at.min(frame.len().saturating_sub(2));
                if let Some(word) = frame.get_mut(at..at + 2) {
                    word.copy_from_slice(
                        &random.of(&[0_u16, 1, 8, 20, 0x2000, 0x1fff, 0xffff]).to_be_bytes(),
                    );
                }
            }
        }
    }

    /// Makes it a piece of a datagram.
    fn cut(frame: &mut Vec<u8>, random: &mut Random) {
        let offset = random.of(&[0x2000_u16, 0x2001, 1, 2, 3, 185]);
        if frame.get(ETHERNET).is_some_and(|byte| byte >> 4 == 4) && frame.len() > ETHERNET + 20 {
            frame[ETHERNET + 6..ETHERNET + 8].copy_from_slice(&offset.to_be_bytes());
        } else if frame.get(ETHERNET).is_some_and(|byte| byte >> 4 == 6) && frame.len() > ETHERNET + 40 {
            let next = frame[ETHERNET + 6];
            let more = u16::from(offset & 0x2000 != 0);
            let place = (offset & 0x1fff) << 3 | more;
            let mut header = vec![next, 0];
            header.extend(place.to_be_bytes());
            header.extend([0, 0, 0, random.byte() & 3]);
            frame[ETHERNET + 6] = 44;
            frame.splice(ETHERNET + 40..ETHERNET + 40, header);
            grow(frame, 8);
        }
    }

    /// Puts an option or an extension header before what the header is followed by.
    fn extend_header(frame: &mut Vec<u8>, random: &mut Random) {
        if frame.get(ETHERNET) == Some(&0x45) && frame.len() > ETHERNET + 20 {
            let option =
                [random.of(&[0, 1, 7, 68, 131, 137, 148, 158]), random.of(&[0, 2, 4, 8]), random.byte(), 0];
            frame[ETHERNET] = 0x46;
            frame.splice(ETHERNET + 20..ETHERNET + 20, option);
            let total = u16::from_be_bytes([frame[ETHERNET + 2], frame[ETHERNET + 3]]).wrapping_add(4);
            frame[ETHERNET + 2..ETHERNET + 4].copy_from_slice(&total.to_be_bytes());
            sum_header(frame);
        } else if frame.get(ETHERNET).is_some_and(|byte| byte >> 4 == 6) && frame.len() > ETHERNET + 40 {
            let kind = random.of(&[0, 43, 60, 51, 135]);
            let header = [frame[ETHERNET + 6], 0, random.byte(), random.of(&[0, 1, 4]), 0, 0, 0, 0];
            frame[ETHERNET + 6] = kind;
            frame.splice(ETHERNET + 40..ETHERNET + 40, header);
            grow(frame, 8);
        }
    }
}

/// Addresses that nobody should send from, or to.
const ODD: [&str; 14] = [
    "127.0.0.1",
    "0.0.0.0",
    "255.255.255.255",
    "224.0.0.1",
    "192.0.2.255",
    "10.88.255.255",
    "169.254.1.1",
    "::1",
    "::",
    "ff02::1",
    "fe80::1",
    "::ffff:10.88.0.2",
    "::ffff:127.0.0.1",
    "fd00:88::ffff",
];

/// Has the length of a packet of IPv6 say so many bytes more.
fn grow(frame: &mut [u8], by: u16) {
    let length = u16::from_be_bytes([frame[ETHERNET + 4], frame[ETHERNET + 5]]).wrapping_add(by);
    frame[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&length.to_be_bytes());
}

/// Writes the checksum of an IPv4 header, as routers ask for it.
fn sum_header(frame: &mut [u8]) {
    let length = usize::from(frame[ETHERNET] & 0x0f) * 4;
    let Some(header) = frame.get_mut(ETHERNET..ETHERNET + length) else { return };
    header[10..12].fill(0);
    let mut sum: u32 = header.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    #[expect(clippy::cast_possible_truncation, reason = "it is folded")]
    header[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}
