/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Answers that the programs send themselves, when a packet for a service cannot be delivered or when policy rejects it:
 * ICMP errors and TCP resets. RFC 792, RFC 1812, RFC 4443, RFC 9293. */

/* ICMP type << 24 | code << 16. */
#define PORT_UNREACHABLE (FAMILY == 4 ? 3 << 24 | 3 << 16 : 1 << 24 | 4 << 16)
/* Communication administratively prohibited. */
#define PROHIBITED (FAMILY == 4 ? 3 << 24 | 13 << 16 : 1 << 24 | 1 << 16)
#define TOO_LARGE (FAMILY == 4 ? 3 << 24 | 4 << 16 : 2 << 24)

/* Writes the headers of an ICMP error in front of what it quotes. `sum` is the partial checksum of the quoted bytes,
 * `quoted` their number. */
static __always_inline __overloadable int write_icmp_error(struct __sk_buff *skb, const PACKET *packet, __u32 about,
							   __u32 sum, __u32 quoted)
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

/* Sends an answer to `answered` by the host's routing table. `came_by` is the interface that the route must lead to;
 * 0: any. */
static __always_inline __overloadable int send_by_route(struct __sk_buff *skb, struct scratch *room,
							const PACKET *answered, __u32 came_by)
{
	struct bpf_fib_lookup *fib = &room->fib;

	__builtin_memset(fib, 0, sizeof(*fib));
	fib->ifindex = skb->ifindex;
#if FAMILY == 4
	fib->family = AF_INET;
	fib->ipv4_dst = answered->source.word[0];
#else
	fib->family = AF_INET6;
	__builtin_memcpy(fib->ipv6_dst, &answered->source, sizeof(answered->source));
#endif
	long found = bpf_fib_lookup(skb, fib, sizeof(*fib), fib_lookup_flags);

	if (found != BPF_FIB_LKUP_RET_SUCCESS && found != BPF_FIB_LKUP_RET_NO_NEIGH)
		return TC_ACT_SHOT;
	if (came_by && fib->ifindex != came_by)
		return TC_ACT_SHOT;
	return bpf_redirect_neigh(fib->ifindex, NULL, 0, 0);
}

/* Sends an answer to where the packet that it answers came from. The sender of a packet that came through the host's
 * stack may be forged: nobody has checked that it is behind its interface. So it is answered only if the route to it
 * leads there. A process of the node has no interface, and is not answered. */
static __always_inline __overloadable int send_answer(struct __sk_buff *skb, struct scratch *room,
						      const PACKET *answered, enum answer_to to)
{
	/* Volatile for the reason that check_origin() gives. */
	const volatile struct __sk_buff *fields = skb;
	__u32 came_by = fields->ingress_ifindex;

	if (to != ANSWER_BY_ROUTE)
		return send_back(skb, to);
	if (!came_by)
		return TC_ACT_SHOT;
	if (bpf_map_lookup_elem(&uplinks, &came_by))
		skb->mark = MARK_FORWARDED;
	return send_by_route(skb, room, answered, came_by);
}

/* An error quotes at most QUOTED_MOST bytes: the headers, and the beginning of what follows them. */
#define QUOTED_MOST 124

#define send_icmp_error OF_FAMILY(send_icmp_error)
/* Turns the packet into an ICMP error about it and sends that back. `about` is type << 24 | code << 16 | MTU. */
__noinline int send_icmp_error(struct __sk_buff *skb, const PACKET *packet, __u32 about, enum answer_to to)
{
	struct scratch *room = scratch_room();

	/* An ICMP error is never answered, nor is a later fragment, which does not tell its flow. */
	if (!room || !packet || packet->kind == PACKET_ERROR || packet->kind == PACKET_LATER_FRAGMENT ||
	    !may_answer(skb->ifindex, about >> 16 == TOO_LARGE >> 16))
		return TC_ACT_SHOT;

	/* The whole TCP header is kept, because the kernel may still have to write the checksum into it. */
	bool tcp = packet->protocol == IPPROTO_TCP;
	__u32 quoted = packet->transport - ETH_HLEN + (tcp ? sizeof(struct tcp_header) : sizeof(struct udp_header));
	__u32 at = ETH_HLEN + sizeof(IP_HEADER) + sizeof(struct icmp_header);

	if (quoted > QUOTED_MOST)
		quoted = QUOTED_MOST;
	if (ETH_HLEN + quoted > skb->len)
		quoted = (skb->len - ETH_HLEN) & QUOTED_MOST;
	if (bpf_skb_change_tail(skb, ETH_HLEN + quoted, 0) ||
	    bpf_skb_adjust_room(skb, sizeof(IP_HEADER) + sizeof(struct icmp_header), BPF_ADJ_ROOM_MAC, 0))
		return TC_ACT_SHOT;

	/* Headers are whole words. The assembly hides the bounds from the compiler, which would otherwise remove the
	 * mask that the verifier needs. */
	quoted &= QUOTED_MOST;
	asm volatile("" : "+r"(quoted));
	if (quoted < sizeof(IP_HEADER) || bpf_skb_load_bytes(skb, at, room->quote, quoted))
		return TC_ACT_SHOT;

	__u32 sum = bpf_csum_diff(NULL, 0, room->quote, quoted, 0);

	if (write_icmp_error(skb, packet, about, sum, quoted))
		return TC_ACT_SHOT;
	return send_answer(skb, room, packet, to);
}

/* The number of data bytes in a segment. */
static __always_inline __overloadable __u32 tcp_data_length(struct __sk_buff *skb, const PACKET *packet,
							    const struct tcp_header *tcp)
{
	__u32 total = skb->len - ETH_HLEN;
	__be16 length;

	/* A short frame is padded, so the length comes from the IP header. */
	if (!skb->gso_size &&
	    bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(IP_HEADER, length), &length, sizeof(length)) == 0)
		total = bpf_ntohs(length) + (FAMILY == 6 ? sizeof(IP_HEADER) : 0);
	return total + ETH_HLEN - packet->transport - (tcp->data_offset >> 4) * 4;
}

#define send_tcp_reset OF_FAMILY(send_tcp_reset)
/* Turns a TCP segment into the reset that a closed port would send, without options and data. An ICMP error would
 * not do: the socket may ignore it, because it is busy with its connect while the packet goes here and back. RFC
 * 9293, section 3.5.2. If another node has sent the segment on, the reset comes from the address that the client
 * sent it to. */
__noinline int send_tcp_reset(struct __sk_buff *skb, const PACKET *packet, enum answer_to to)
{
	struct scratch *room = scratch_room();
	struct {
		IP_HEADER ip;
		struct tcp_header tcp;
	} answer = {};
	struct tcp_header *tcp = &answer.tcp;
	__u32 at = ETH_HLEN + sizeof(IP_HEADER);

	if (!room || !packet || packet->kind == PACKET_ERROR || packet->kind == PACKET_LATER_FRAGMENT)
		return TC_ACT_SHOT;

	struct tcp_header *got = (struct tcp_header *)&room->quote;
	__u32 extra = packet->transport - at;

	if (bpf_skb_load_bytes(skb, packet->transport, got, sizeof(*got)) || got->flags & TCP_RST ||
	    !may_answer(skb->ifindex, false))
		return TC_ACT_SHOT;
	tcp->source = room->has_dsr_option ? room->dsr_port : got->destination;
	tcp->destination = got->source;
	tcp->data_offset = sizeof(*tcp) / 4 << 4;
	if (got->flags & TCP_ACK) {
		tcp->sequence = got->acknowledgement;
		tcp->flags = TCP_RST;
	} else {
		tcp->acknowledgement = bpf_htonl(bpf_ntohl(got->sequence) + !!(got->flags & TCP_SYN) +
						 !!(got->flags & TCP_FIN) + tcp_data_length(skb, packet, got));
		tcp->flags = TCP_RST | TCP_ACK;
	}
	answer.ip.source = room->has_dsr_option ? room->FIELD(dsr_address) : packet->destination;
	answer.ip.destination = packet->source;

	__be32 rest[2] = { bpf_htonl(sizeof(*tcp)), bpf_htonl(IPPROTO_TCP) };
	__u32 sum = bpf_csum_diff(NULL, 0, (__be32 *)&answer.ip.source, 2 * sizeof(ADDRESS), 0);

	sum = bpf_csum_diff(NULL, 0, rest, sizeof(rest), sum);
	if (bpf_skb_change_tail(skb, packet->transport + sizeof(*tcp), 0) ||
	    (extra && bpf_skb_adjust_room(skb, -(__s32)extra, BPF_ADJ_ROOM_NET, 0)))
		return TC_ACT_SHOT;
	/* If the checksum is still to be filled in, the field has the sum of the pseudo header. */
	if (is_checksum_due(skb, at + offsetof(struct tcp_header, checksum)))
		tcp->checksum = ~fold(sum);
	else
		tcp->checksum = fold(bpf_csum_diff(NULL, 0, (__be32 *)tcp, sizeof(*tcp), sum));
#if FAMILY == 4
	answer.ip.version = 0x45;
	answer.ip.length = bpf_htons(sizeof(answer));
	answer.ip.fragment = bpf_htons(IP4_DONT_FRAGMENT);
	answer.ip.ttl = 64;
	answer.ip.protocol = IPPROTO_TCP;
	answer.ip.checksum = fold(bpf_csum_diff(NULL, 0, (__be32 *)&answer.ip, sizeof(answer.ip), 0));
#else
	answer.ip.version = bpf_htonl(6u << 28);
	answer.ip.length = bpf_htons(sizeof(*tcp));
	answer.ip.next = IPPROTO_TCP;
	answer.ip.hops = 64;
#endif
	if (bpf_skb_store_bytes(skb, ETH_HLEN, &answer, sizeof(answer), 0))
		return TC_ACT_SHOT;
	return room->has_dsr_option ? send_by_route(skb, room, packet, 0) : send_answer(skb, room, packet, to);
}

/* Whether an ICMP message is a question. Everything else may be an error, which nobody answers (RFC 1122, RFC 4443): echo,
 * timestamp, information and address mask of IPv4; in IPv6 all errors are below 128. */
static __always_inline __overloadable bool is_icmp_question(struct __sk_buff *skb, const PACKET *packet)
{
	__u8 type;

	if (bpf_skb_load_bytes(skb, packet->transport, &type, sizeof(type)))
		return false;
	return FAMILY == 4 ? type == 8 || type == 13 || type == 15 || type == 17 : type >= 128;
}

#define answer_drop OF_FAMILY(answer_drop)
/* Answers a packet that is dropped, if its sender should know the reason. */
__noinline int answer_drop(struct __sk_buff *skb, const PACKET *packet, enum drop_reason reason, enum answer_to to)
{
	struct scratch *room = scratch_room();

	if (!room || !packet)
		return TC_ACT_SHOT;

	bool rejected = (reason == DROP_POLICY_EGRESS || reason == DROP_POLICY_INGRESS) && room->answer.reject;

	if (!rejected && (to == ANSWER_BY_ROUTE || (reason != DROP_NO_BACKEND && reason != DROP_NO_LOCAL_BACKEND &&
						    reason != DROP_PORT_TAKEN)))
		return TC_ACT_SHOT;
	/* An answer in the name of a broadcast address would be from nobody. */
	if (rejected && is_broadcast(room, &packet->destination))
		return TC_ACT_SHOT;
	if (is_icmp(packet->protocol) && !is_icmp_question(skb, packet))
		return TC_ACT_SHOT;
	if (packet->protocol != IPPROTO_TCP) {
		if (!rejected && reason != DROP_NO_BACKEND)
			return TC_ACT_SHOT;
		return send_icmp_error(skb, packet, rejected ? PROHIBITED : PORT_UNREACHABLE, to);
	}
	/* A client that connects to a node without a backend should be sent to another node by its load balancer, so
	 * it gets no answer. A live connection gets a reset. */
	if (reason == DROP_NO_LOCAL_BACKEND && (packet->flags & (TCP_SYN | TCP_ACK)) == TCP_SYN)
		return TC_ACT_SHOT;
	return send_tcp_reset(skb, packet, to);
}

/* Drops a packet, and answers it if the sender should know the reason. */
static __always_inline __overloadable int drop_and_answer(struct __sk_buff *skb, const PACKET *packet, __u32 reason,
							  enum answer_to to)
{
	drop_and_report(packet, reason, skb->ifindex);
	return answer_drop(skb, packet, reason, to);
}

/* Drops a packet that is larger than the MTU towards its backend, and tells its sender. */
static __always_inline __overloadable int drop_too_large(struct __sk_buff *skb, const PACKET *packet, __u16 mtu,
							 enum answer_to to)
{
	drop_and_report(packet, DROP_TOO_LARGE, skb->ifindex);
	return send_icmp_error(skb, packet, TOO_LARGE | mtu, to);
}
