/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Errors that the programs send themselves, to whoever sent a packet to a service in vain. RFC 792, RFC 4443. */

#if FAMILY == 4
#define IP_HEADER struct ip4_header
#define PORT_UNREACHABLE (3 << 24 | 3 << 16)
#define TOO_LARGE (3 << 24 | 4 << 16)
#else
#define IP_HEADER struct ip6_header
#define PORT_UNREACHABLE (1 << 24 | 4 << 16)
#define TOO_LARGE (2 << 24)
#endif

/* Writes the headers of an error before what it quotes: `sum` is the checksum of that, `quoted` its length in bytes. */
static __always_inline int FN(put_answer)(struct __sk_buff *skb, const PACKET *packet, __u32 about, __u32 sum,
					  __u32 quoted)
{
	struct {
		IP_HEADER ip;
		struct icmp_header icmp;
	} error = {};

	error.icmp.type = about >> 24;
	error.icmp.code = about >> 16;
	error.icmp.sequence = bpf_htons(about);
	error.ip.source = packet->destination;
	error.ip.destination = packet->source;
	sum = bpf_csum_diff(NULL, 0, (__be32 *)&error.icmp, sizeof(error.icmp), sum);
#if FAMILY == 4
	error.ip.version = 0x45;
	error.ip.length = bpf_htons(sizeof(error) + quoted);
	error.ip.ttl = 64;
	error.ip.protocol = IPPROTO_ICMP;
	error.ip.checksum = fold(bpf_csum_diff(NULL, 0, (__be32 *)&error.ip, sizeof(error.ip), 0));
#else
	__be32 rest[2] = { bpf_htonl(sizeof(error.icmp) + quoted), bpf_htonl(IPPROTO_ICMPV6) };

	error.ip.version = bpf_htonl(6u << 28);
	error.ip.length = bpf_htons(sizeof(error.icmp) + quoted);
	error.ip.next = IPPROTO_ICMPV6;
	error.ip.hops = 64;
	sum = bpf_csum_diff(NULL, 0, (__be32 *)&error.ip.source, 2 * sizeof(ADDRESS), sum);
	sum = bpf_csum_diff(NULL, 0, rest, sizeof(rest), sum);
#endif
	error.icmp.checksum = fold(sum);
	return bpf_skb_store_bytes(skb, ETH_HLEN, &error, sizeof(error), 0);
}

/* Turns the packet into an error about it, and sends it back to where it came from: into an endpoint's namespace, if
 * `to_endpoint`. `about`: type << 24 | code << 16 | MTU. */
__noinline int FN(answer)(struct __sk_buff *skb, const PACKET *packet, __u32 about, bool to_endpoint)
{
	struct scratch *room = scratch_room();

	if (!room || !packet)
		return TC_ACT_SHOT;

	/* All of a TCP header: its checksum may be yet to be filled in, where it lies. */
	bool tcp = packet->protocol == IPPROTO_TCP;
	__u32 quoted = sizeof(IP_HEADER) + (tcp ? sizeof(struct tcp_header) : sizeof(struct udp_header));
	__u32 at = ETH_HLEN + sizeof(IP_HEADER) + sizeof(struct icmp_header);

	/* Who sends options or pieces to a service without backends has to wait. */
	if (packet->transport != ETH_HLEN + sizeof(IP_HEADER) || packet->kind != PACKET_WHOLE)
		return TC_ACT_SHOT;
	if (bpf_skb_change_tail(skb, ETH_HLEN + quoted, 0) ||
	    bpf_skb_adjust_room(skb, sizeof(IP_HEADER) + sizeof(struct icmp_header), BPF_ADJ_ROOM_MAC, 0))
		return TC_ACT_SHOT;

	__be32 *quote = room->quote;
	__u32 sum;

	if (tcp) {
		if (bpf_skb_load_bytes(skb, at, quote, sizeof(IP_HEADER) + sizeof(struct tcp_header)))
			return TC_ACT_SHOT;
		sum = bpf_csum_diff(NULL, 0, quote, sizeof(IP_HEADER) + sizeof(struct tcp_header), 0);
	} else {
		if (bpf_skb_load_bytes(skb, at, quote, sizeof(IP_HEADER) + sizeof(struct udp_header)))
			return TC_ACT_SHOT;
		sum = bpf_csum_diff(NULL, 0, quote, sizeof(IP_HEADER) + sizeof(struct udp_header), 0);
	}
	if (FN(put_answer)(skb, packet, about, sum, quoted))
		return TC_ACT_SHOT;
	return send_back(skb, to_endpoint);
}

/* Turns a segment of TCP without data into the reset that a closed port would answer. An ICMP error may be ignored: the
 * socket that connects is busy while its packet comes here and back. RFC 9293, section 3.5.2. The changes are put into the
 * checksum as they are, for it may be yet to be filled in. */
__noinline int FN(reset)(struct __sk_buff *skb, const PACKET *packet, bool to_endpoint)
{
	struct tcp_header tcp, answer = {};
	__u32 at = ETH_HLEN + sizeof(IP_HEADER);

	if (!packet || packet->transport != at || packet->kind != PACKET_WHOLE ||
	    bpf_skb_load_bytes(skb, at, &tcp, sizeof(tcp)))
		return TC_ACT_SHOT;
	if (tcp.flags & TCP_RST || skb->len != at + (tcp.data_offset >> 4) * 4)
		return TC_ACT_SHOT;

	answer.source = tcp.destination;
	answer.destination = tcp.source;
	answer.data_offset = tcp.data_offset;
	if (tcp.flags & TCP_ACK) {
		answer.sequence = tcp.acknowledgement;
		answer.flags = TCP_RST;
	} else {
		answer.acknowledgement = bpf_htonl(bpf_ntohl(tcp.sequence) + !!(tcp.flags & TCP_SYN) +
						   !!(tcp.flags & TCP_FIN));
		answer.flags = TCP_RST | TCP_ACK;
	}
	answer.checksum = tcp.checksum;

	__s64 difference = bpf_csum_diff((__be32 *)&tcp, sizeof(tcp), (__be32 *)&answer, sizeof(answer), 0);

	if (bpf_skb_store_bytes(skb, at, &answer, sizeof(answer), 0) ||
	    bpf_l4_csum_replace(skb, at + offsetof(struct tcp_header, checksum), 0, difference, 0) ||
	    bpf_skb_store_bytes(skb, ETH_HLEN + IP_OFFSET(SOURCE), &packet->destination, sizeof(ADDRESS), 0) ||
	    bpf_skb_store_bytes(skb, ETH_HLEN + IP_OFFSET(DESTINATION), &packet->source, sizeof(ADDRESS), 0))
		return TC_ACT_SHOT;
	return send_back(skb, to_endpoint);
}

/* Refuses a packet, and tells its sender where the reason is one to tell. */
static __always_inline int FN(turn_away)(struct __sk_buff *skb, const PACKET *packet, __u32 reason, bool to_endpoint)
{
	int verdict = FN(refuse)(packet, reason, skb->ifindex);

	if (likely(reason != DROP_NO_BACKEND))
		return verdict;
	return packet->protocol == IPPROTO_TCP ? FN(reset)(skb, packet, to_endpoint) :
						 FN(answer)(skb, packet, PORT_UNREACHABLE, to_endpoint);
}

/* Refuses a packet that is larger than the way to its backend takes. */
static __always_inline int FN(refuse_large)(struct __sk_buff *skb, const PACKET *packet, __u16 mtu, bool to_endpoint)
{
	FN(refuse)(packet, DROP_TOO_LARGE, skb->ifindex);
	return FN(answer)(skb, packet, TOO_LARGE | mtu, to_endpoint);
}
