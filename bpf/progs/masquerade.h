/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Giving a flow that leaves the cluster an address of the node, and a port that no other flow to the same
 * destination has. */

/* Half of them look for a port that is free, the other half also take one whose flow has ended. */
#define MASQUERADE_ATTEMPTS 64

/* Whether one of the host's own sockets would take what is sent to (address, port) by the flow's destination. */
static __always_inline bool FN(host_socket_has)(struct __sk_buff *skb, const PACKET *packet,
						struct bpf_sock_tuple *tuple, const ADDRESS *address, __be16 port)
{
	struct bpf_sock *socket;
	__u32 size;

	__builtin_memset(tuple, 0, sizeof(*tuple));
#if FAMILY == 4
	tuple->ipv4.saddr = packet->destination.word[0];
	tuple->ipv4.daddr = address->word[0];
	tuple->ipv4.sport = packet->destination_port;
	tuple->ipv4.dport = port;
	size = sizeof(tuple->ipv4);
#else
	__builtin_memcpy(tuple->ipv6.saddr, &packet->destination, sizeof(packet->destination));
	__builtin_memcpy(tuple->ipv6.daddr, address, sizeof(*address));
	tuple->ipv6.sport = packet->destination_port;
	tuple->ipv6.dport = port;
	size = sizeof(tuple->ipv6);
#endif
	if (packet->protocol == IPPROTO_TCP)
		socket = bpf_skc_lookup_tcp(skb, tuple, size, BPF_F_CURRENT_NETNS, 0);
	else if (packet->protocol == IPPROTO_UDP)
		socket = bpf_sk_lookup_udp(skb, tuple, size, BPF_F_CURRENT_NETNS, 0);
	else
		return false;
	if (socket)
		bpf_sk_release(socket);
	return socket != NULL;
}

/*
 * Tries one port, entry->nat_port in scratch: if it is to be had, the mate is stored as the entry of the flow as the network sees it. `packet` goes
 * the opener's way.
 */
__noinline int FN(claim_port)(struct __sk_buff *skb, const PACKET *packet, bool take_closed)
{
	struct scratch *room = scratch_room();

	if (!room || !packet)
		return -1;

	CT_ENTRY *entry = (CT_ENTRY *)&room->entry, *mate = (CT_ENTRY *)&room->mate;
	CT_KEY *key = (CT_KEY *)&room->mate_key;
	__u32 side = FN(make_key)(key, packet->protocol, &entry->nat_address, entry->nat_port, &packet->destination,
				  is_icmp(packet->protocol) ? entry->nat_port : packet->destination_port);
	CT_ENTRY *holder = FN(find)(key);
	__u64 how = BPF_NOEXIST;

	if (holder) {
		bool own = holder->nat_port == packet->source_port &&
			   FN(equal)(&holder->nat_address, &packet->source);

		if (own)
			how = BPF_ANY;
		else if (FN(is_expired)(holder, packet->protocol, entry->seen) ||
			 (take_closed && is_closed(holder->flags)))
			/* Deleted and then made, so that of two who want it one fails. */
			bpf_map_delete_elem(&MAP(conntrack), key);
		else
			return -1;
	} else if (FN(host_socket_has)(skb, packet, &room->tuple, &entry->nat_address, entry->nat_port)) {
		return -1;
	}

	mate->opener = side;
	mate->way[side & 1] = (struct ct_way){};
	mate->way[(side ^ 1) & 1] = entry->way[(entry->opener ^ 1) & 1];
	mate->way[(side ^ 1) & 1].nat = NAT_DESTINATION;
	return bpf_map_update_elem(&MAP(conntrack), key, mate, how) ? -1 : 0;
}

/* Chooses the port and completes scratch->entry: nat_address is set, nat_port holds the port that the flow had before,
 * or zero. A reason for a drop if there is none. */
__noinline int FN(masquerade)(struct __sk_buff *skb, const PACKET *packet)
{
	struct scratch *room = scratch_room();

	if (!room || !packet)
		return DROP_NO_MASQUERADE_PORT;

	CT_ENTRY *entry = (CT_ENTRY *)&room->entry, *mate = (CT_ENTRY *)&room->mate;
	/* SCTP's checksum does not bear a change of port, and the others have none. */
	bool fixed = !(packet->protocol == IPPROTO_TCP || packet->protocol == IPPROTO_UDP ||
		       is_icmp(packet->protocol)) ||
		     !packet->source_port;
	__u32 start = bpf_get_prandom_u32();

	__builtin_memset(mate, 0, sizeof(*mate));
	mate->epoch = entry->epoch;
	mate->seen = entry->seen;
	mate->flags = entry->flags;
	mate->nat_address = packet->source;
	mate->nat_port = packet->source_port;

	if (fixed || entry->nat_port) {
		if (fixed)
			entry->nat_port = packet->source_port;
		if (FN(claim_port)(skb, packet, true) == 0)
			return PARSED;
		if (fixed)
			return DROP_NO_MASQUERADE_PORT;
	}
	for (__u32 i = 0; i < MASQUERADE_ATTEMPTS; i++) {
		__u32 offset = (start + i) % (masquerade_port_count ?: 1);

		entry->nat_port = bpf_htons(masquerade_port_first + offset);
		if (FN(claim_port)(skb, packet, i >= MASQUERADE_ATTEMPTS / 2) == 0)
			return PARSED;
	}
	return DROP_NO_MASQUERADE_PORT;
}
