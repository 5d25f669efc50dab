/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Making a translated flow one of its own as the other side sees it: no other flow has the same addresses and ports. */

/* Half of them look for a port that is free, the other half also take one whose flow has ended. */
#define CLAIM_ATTEMPTS 64
/* How many places a flow that goes on is looked for at: it had the first of them that was free. */
#define CLAIM_RECALLED 4

/* The source becomes an address of the node, so its port is one that the node's own sockets do not use. */
#define CLAIM_OF_NODE 1
#define CLAIM_TAKE_CLOSED 2
#define CLAIM_OWN 4 /* only what the flow has already */

/* Whether one of the host's own sockets would take what is sent to (address, port) by the flow's other side. */
static __always_inline bool FN(host_socket_has)(struct __sk_buff *skb, __u8 protocol, struct bpf_sock_tuple *tuple,
						const CT_ENTRY *entry, __u32 side)
{
	struct bpf_sock *socket;
	__u32 size, from = side & 1, to = from ^ 1;

	__builtin_memset(tuple, 0, sizeof(*tuple));
#if FAMILY == 4
	tuple->ipv4.saddr = entry->nat_address[to].word[0];
	tuple->ipv4.daddr = entry->nat_address[from].word[0];
	tuple->ipv4.sport = entry->nat_port[to];
	tuple->ipv4.dport = entry->nat_port[from];
	size = sizeof(tuple->ipv4);
#else
	__builtin_memcpy(tuple->ipv6.saddr, &entry->nat_address[to], sizeof(ADDRESS));
	__builtin_memcpy(tuple->ipv6.daddr, &entry->nat_address[from], sizeof(ADDRESS));
	tuple->ipv6.sport = entry->nat_port[to];
	tuple->ipv6.dport = entry->nat_port[from];
	size = sizeof(tuple->ipv6);
#endif
	if (protocol == IPPROTO_TCP)
		socket = bpf_skc_lookup_tcp(skb, tuple, size, BPF_F_CURRENT_NETNS, 0);
	else if (protocol == IPPROTO_UDP)
		socket = bpf_sk_lookup_udp(skb, tuple, size, BPF_F_CURRENT_NETNS, 0);
	else
		return false;
	if (socket)
		bpf_sk_release(socket);
	return socket != NULL;
}

/*
 * Tries one source port, entry->nat_port[side] in scratch: if it is to be had, the mate is stored as the entry of the
 * flow as the other side sees it. `packet` goes the opener's way.
 */
__noinline int FN(claim_port)(struct __sk_buff *skb, const PACKET *packet, __u32 side, __u32 how)
{
	struct scratch *room = scratch_room();
	__u32 from = side & 1, to = from ^ 1;

	if (!room || !packet)
		return -1;

	CT_ENTRY *entry = (CT_ENTRY *)&room->entry, *mate = (CT_ENTRY *)&room->mate;
	CT_KEY *key = (CT_KEY *)&room->mate_key;

	__u32 mate_from = FN(make_key)(key, packet, &entry->nat_address[from], entry->nat_port[from],
				       &entry->nat_address[to], entry->nat_port[to]) & 1;
	CT_ENTRY *holder = FN(find)(key);
	bool own = false;

	if (!holder && how & CLAIM_OWN)
		return -1;
	if (holder) {
		/* As settle.h left it. */
		own = holder->flags & CT_FAR_VIEW && FN(names)(holder, (CT_KEY *)&room->key, from ^ mate_from);
		if (own)
			;
		else if (how & CLAIM_OWN)
			return -1;
		else if (FN(is_expired)(holder, packet->protocol, entry->seen) ||
			 (how & CLAIM_TAKE_CLOSED && is_closed(packet->protocol, holder->flags)) || FN(has_ended)(key, holder))
			/* Deleted and then made, so that of two who want it one fails. */
			FN(forget)(key, holder, (CT_KEY *)&room->other_key);
		else
			return -1;
	} else if (how & CLAIM_OF_NODE &&
		   FN(host_socket_has)(skb, packet->protocol, &room->tuple, entry, from)) {
		return -1;
	}

	FN(fill_far)(mate, entry, packet, from, mate_from);
	entry->way[from].nat = back_of(mate->way[mate_from ^ 1].nat);
	if (own && holder) {
		FN(renew)(holder, mate);
		return 0;
	}
	return bpf_map_update_elem(&MAP(conntrack), key, mate, BPF_NOEXIST) ? -1 : 0;
}

/*
 * Completes scratch->entry, the entry of the flow as `packet` opens it: addresses and destination port of its other view
 * are set, and nat_port[side] holds the source port that the flow had there before, or zero. A reason for a drop if no
 * port is free.
 */
__noinline int FN(claim)(struct __sk_buff *skb, const PACKET *packet, __u32 side, __u32 how)
{
	struct scratch *room = scratch_room();
	__u32 from = side & 1;

	if (!room || !packet)
		return DROP_NO_MASQUERADE_PORT;

	CT_ENTRY *entry = (CT_ENTRY *)&room->entry;
	/* SCTP's checksum does not bear a change of port, and the others have none. */
	bool fixed = !(packet->protocol == IPPROTO_TCP || packet->protocol == IPPROTO_UDP ||
		       is_icmp(packet->protocol)) ||
		     !packet->source_port;
	bool keeps_port = fixed || !(how & CLAIM_OF_NODE);
	/* A flow tries the same ports in the same order each time: so one whose near view was evicted finds its far view. Who opens it
	 * has drawn the source port at random already. */
	__u32 start = FN(mix_client)(packet, false);

	if (fixed || (keeps_port && !entry->nat_port[from]))
		entry->nat_port[from] = packet->source_port;
	if (entry->nat_port[from] || fixed) {
		if (FN(claim_port)(skb, packet, from, how | CLAIM_TAKE_CLOSED) == 0)
			return PARSED;
		if (fixed)
			return DROP_NO_MASQUERADE_PORT;
	}
	/* One that goes on: a port that is free is of no use to it, if it has another. */
	if (entry->flags & CT_PICKED_UP && !room->known) {
		for (__u32 i = 0; i < CLAIM_RECALLED; i++) {
			entry->nat_port[from] =
				bpf_htons(masquerade_port_first + (start + i) % (masquerade_port_count ?: 1));
			if (FN(claim_port)(skb, packet, from, how | CLAIM_OWN) == 0)
				return PARSED;
		}
	}
	for (__u32 i = 0; i < CLAIM_ATTEMPTS; i++) {
		__u32 offset = (start + i) % (masquerade_port_count ?: 1);
		__u32 closed = i >= CLAIM_ATTEMPTS / 2 ? CLAIM_TAKE_CLOSED : 0;

		entry->nat_port[from] = bpf_htons(masquerade_port_first + offset);
		if (FN(claim_port)(skb, packet, from, how | closed) == 0)
			return PARSED;
	}
	return DROP_NO_MASQUERADE_PORT;
}
