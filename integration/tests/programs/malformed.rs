//! What makes no sense.

use integration::programs::DROP;

use crate::packets::*;

#[test]
fn malformed_headers_are_dropped_and_counted() {
    let bench = bench();
    let (a, b) = (bench.a, bench.b);
    let good4 = tcp4(&a, b.ipv4, (1, 2), TCP_SYN);
    let good6 = tcp6(&a, b.ipv6, (1, 2), TCP_SYN);
    let with = |packet: &[u8], at: usize, byte: u8| {
        let mut packet = packet.to_vec();
        packet[at] = byte;
        packet
    };
    let cases = [
        ("IPv4 of version 5", with(&good4, 14, 0x55)),
        ("IPv4 header of 16 bytes", with(&good4, 14, 0x44)),
        ("IPv4 header beyond the packet's length", with(&good4, 14, 0x4f)),
        ("IPv4 length beyond the packet", with(&good4, 16, 0xff)),
        ("IPv4 length below its header", with(&with(&good4, 16, 0), 17, 19)),
        ("TCP header of 16 bytes", with(&good4, 14 + 20 + 12, 0x40)),
        ("TCP header beyond the packet", with(&good4, 14 + 20 + 12, 0xf0)),
        ("TCP with SYN and FIN", with(&good4, 14 + 20 + 13, 0x03)),
        ("TCP with SYN and RST", with(&good4, 14 + 20 + 13, 0x06)),
        ("TCP without flags", with(&good4, 14 + 20 + 13, 0)),
        ("IPv4 cut in its TCP header", {
            let mut cut = good4[..14 + 20 + 10].to_vec();
            cut[17] = 30;
            cut
        }),
        ("IPv6 of version 4", with(&good6, 14, 0x45)),
        ("IPv6 length beyond the packet", with(&good6, 18, 0xff)),
        ("IPv6 extension beyond the packet", with(&good6, 20, 0)),
        ("TCP of IPv6 without flags", with(&good6, 14 + 40 + 13, 0)),
    ];
    for (what, packet) in cases {
        let before = bench.tally().unwrap();
        assert_eq!(bench.run("from_endpoint", a.ifindex, &packet).unwrap().action, DROP, "{what}");
        changes(&bench, &before, &[("malformed", 1)], (0, 0));
    }
}

#[test]
fn no_cut_of_a_packet_is_let_through_or_upsets_the_programs() {
    let bench = bench();
    let (a, b) = (bench.a, bench.b);
    // The kernel's test run itself takes nothing shorter than an IP header.
    for (packet, shortest) in
        [(tcp4(&a, b.ipv4, (1, 2), TCP_SYN), 14 + 20), (tcp6(&a, b.ipv6, (1, 2), TCP_SYN), 14 + 40)]
    {
        for length in shortest..packet.len() {
            let ran = bench.run("from_endpoint", a.ifindex, &packet[..length]).unwrap();
            assert_eq!(ran.action, DROP, "{length} bytes of {}", packet.len());
        }
    }
    assert_eq!(bench.tally().unwrap().flows, (0, 0));
}
