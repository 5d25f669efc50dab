/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The slow path: what to do with a flow. Reached by the first packet of a flow, by the first after the epoch was
 * raised, and by whatever does not fit its entry. The result is left in scratch->entry and in conntrack.
 */

/* The endpoint of an address. Before Linux 6.2 a map is not looked into by a key that lies in a global function's
 * argument, so keys are copied to where it is allowed. */
static __always_inline struct endpoint *FN(find_endpoint)(struct scratch *room, const ADDRESS *address)
{
	ADDRESS *key = (ADDRESS *)&room->address;

	*key = *address;
	return bpf_map_lookup_elem(&MAP(endpoints), key);
}

/* Starts a new entry for the packet's flow from what is remembered of it. */
static __always_inline void FN(begin)(CT_ENTRY *entry, const CT_ENTRY *old, const PACKET *packet, __u32 side,
				      const struct node *node)
{
	__builtin_memset(entry, 0, sizeof(*entry));
	entry->epoch = node->epoch;
	entry->seen = ticks();
	entry->opener = side;
	if (!old)
		return;
	entry->nat_address = old->nat_address;
	entry->nat_port = old->nat_port;
	if (!is_closed(old->flags) || (packet->flags & (TCP_SYN | TCP_ACK)) != TCP_SYN) {
		entry->flags = old->flags;
		entry->opener = old->opener;
	}
}

/* Decides how a packet of `source` leaves the node, and whether masqueraded. */
static __always_inline int FN(route)(struct __sk_buff *skb, const PACKET *packet, __u32 side, struct scratch *room,
				     const struct node *node, bool at_uplink)
{
	CT_ENTRY *entry = (CT_ENTRY *)&room->entry;
	struct ct_way *way = &entry->way[side & 1];
	struct bpf_fib_lookup *fib = &room->fib;
	__u32 egress = skb->ifindex, mtu = 0;

	way->via = VIA_STACK;
	if (!at_uplink) {
		__builtin_memset(fib, 0, sizeof(*fib));
		fib->ifindex = skb->ifindex;
		fib->l4_protocol = packet->protocol;
		/* Not the packet's: an aggregate would not fit any route. Non-zero makes the kernel tell the MTU. */
		fib->tot_len = 1;
#if FAMILY == 4
		fib->family = AF_INET;
		fib->ipv4_src = packet->source.word[0];
		fib->ipv4_dst = packet->destination.word[0];
#else
		fib->family = AF_INET6;
		__builtin_memcpy(fib->ipv6_src, &packet->source, sizeof(packet->source));
		__builtin_memcpy(fib->ipv6_dst, &packet->destination, sizeof(packet->destination));
#endif
		long found = bpf_fib_lookup(skb, fib, sizeof(*fib), fib_lookup_flags);

		/* The host itself, a prohibited or unknown destination: the stack takes it or says no. */
		if (found != BPF_FIB_LKUP_RET_SUCCESS && found != BPF_FIB_LKUP_RET_NO_NEIGH)
			return PARSED;
		egress = fib->ifindex;
	}

	struct uplink *uplink = bpf_map_lookup_elem(&uplinks, &egress);

	if (!uplink)
		return PARSED;
	if (at_uplink) {
		way->via = VIA_UNKNOWN;
	} else {
		way->via = VIA_UPLINK;
		way->egress = egress;
		/* Without a resolved neighbour older kernels leave the route's MTU out; the interface's is next best. */
		if (fib->tot_len > 1)
			way->mtu = fib->tot_len;
		else if (bpf_check_mtu(skb, egress, &mtu, 0, 0) >= 0)
			way->mtu = mtu;
#if FAMILY == 4
		if (fib->family == AF_INET)
			entry->next_hop.word[0] = fib->ipv4_dst;
#else
		__builtin_memcpy(&entry->next_hop, fib->ipv6_dst, sizeof(entry->next_hop));
#endif
	}

	if (!node->masquerade || entry->opener != side)
		return PARSED;

	PREFIX *exempt = (PREFIX *)&room->prefix;

	exempt->length = sizeof(ADDRESS) * 8;
	exempt->address = packet->destination;
	if (bpf_map_lookup_elem(&MAP(no_masquerade), exempt))
		return PARSED;
	if (FN(is_zero)(&uplink->MAP(ipv)))
		return DROP_NO_MASQUERADE_ADDRESS;
	if (!FN(equal)(&entry->nat_address, &uplink->MAP(ipv))) {
		entry->nat_address = uplink->MAP(ipv);
		entry->nat_port = 0;
	}
	way->nat = NAT_SOURCE;
	return FN(masquerade)(skb, packet);
}

/* Stores scratch->entry. A flow that is not masqueraded passes without. */
static __always_inline int FN(remember)(const CT_KEY *key, const CT_ENTRY *entry, __u8 nat)
{
	if (likely(bpf_map_update_elem(&MAP(conntrack), key, entry, BPF_ANY) == 0))
		return PARSED;
	if (nat != NAT_NONE)
		return DROP_CONNTRACK_FULL;
	count(COUNTER_UNTRACKED);
	return PARSED;
}

/* What a local endpoint sends, seen where it enters the host, or elsewhere: at the uplink that the stack sends it to. */
__noinline int FN(judge_sent)(struct __sk_buff *skb, const PACKET *packet, const CT_KEY *flow, __u32 side,
				     __u32 how)
{
	bool at_uplink = how & JUDGE_ELSEWHERE;
	__u32 zero = 0;
	struct scratch *room = scratch_room();
	struct node *state = bpf_map_lookup_elem(&node, &zero);

	if (!room || !state || !packet || !flow)
		return DROP_CONNTRACK_FULL;

	CT_ENTRY *entry = (CT_ENTRY *)&room->entry;
	CT_KEY *key = (CT_KEY *)&room->key;
	struct endpoint *source = FN(find_endpoint)(room, &packet->source);

	*key = *flow;
	if (!source || (!at_uplink && source->ifindex != skb->ifindex))
		return DROP_FOREIGN_SOURCE;
	if (!at_uplink) {
		void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
		struct ethhdr *ethernet = data;

		if ((void *)(ethernet + 1) > end)
			return DROP_MALFORMED;
		if (!same_mac(ethernet->h_source, source->container_mac))
			return DROP_FOREIGN_MAC;
	}
	if (FN(is_link_scope)(&packet->destination))
		return DROP_LINK_SCOPE;

	CT_ENTRY *old = how & JUDGE_KNOWN ? FN(find)(key) : NULL;

	if (packet->kind == PACKET_ERROR && !old)
		return DROP_UNRELATED_ERROR;
	FN(begin)(entry, old, packet, side, state);

	struct ct_way *way = &entry->way[side & 1], *back = &entry->way[(side ^ 1) & 1];
	struct endpoint *destination = FN(find_endpoint)(room, &packet->destination);
	bool against = entry->opener != side;
	__u32 from = source->slot, to = destination ? destination->slot : 0;
	int reason = FN(police)(skb, packet, against ? to : from, against ? from : to,
				(against ? POLICE_AGAINST : 0) |
					(entry->flags & CT_BY_STACK ? POLICE_BY_STACK : 0));

	if (reason)
		return reason;

	sent_by(way, source);
	deliver_to(back, source);
	if (destination) {
		sent_by(back, destination);
		deliver_to(way, destination);
		/* Its discipline must see what it sends, and the stack leads on from there. */
		if (destination->flags & ENDPOINT_SHAPED)
			back->via = VIA_STACK;
	} else if (!(entry->flags & CT_BY_STACK)) {
		reason = FN(route)(skb, packet, side, room, state, at_uplink);
		if (reason)
			return reason;
	}
	if (source->flags & ENDPOINT_SHAPED || entry->flags & CT_BY_STACK)
		way->via = VIA_STACK;
	if (destination && entry->flags & CT_BY_STACK)
		back->via = VIA_STACK;
	if (!old)
		FN(tell_flow)(packet, state, skb->ifindex);
	return FN(remember)(key, entry, way->nat);
}

/* Not a reason: the packet is not for a local endpoint. */
#define NOT_FOR_ENDPOINT (-1)

/* What reaches a local endpoint from the network, or elsewhere: at its host end, from the host's stack. */
__noinline int FN(judge_received)(struct __sk_buff *skb, const PACKET *packet, const CT_KEY *flow, __u32 side,
					 __u32 how)
{
	bool by_stack = how & JUDGE_ELSEWHERE;
	__u32 zero = 0;
	struct scratch *room = scratch_room();
	struct node *state = bpf_map_lookup_elem(&node, &zero);

	if (!room || !state || !packet || !flow)
		return DROP_CONNTRACK_FULL;

	CT_ENTRY *entry = (CT_ENTRY *)&room->entry;
	CT_KEY *key = (CT_KEY *)&room->key;

	*key = *flow;

	CT_ENTRY *old = how & JUDGE_KNOWN ? FN(find)(key) : NULL;
	ADDRESS address = packet->destination;
	__u8 nat = NAT_NONE;

	if (old && old->way[side & 1].nat == NAT_DESTINATION) {
		nat = NAT_DESTINATION;
		address = old->nat_address;
	}

	struct endpoint *destination = FN(find_endpoint)(room, &address);
	struct endpoint *source = FN(find_endpoint)(room, &packet->source);

	if (by_stack) {
		if (!destination || destination->ifindex != skb->ifindex)
			return DROP_UNKNOWN_ENDPOINT;
	} else {
		if (!destination)
			return NOT_FOR_ENDPOINT;
		if (source)
			return DROP_FORGED_ENDPOINT;
	}
	if (packet->kind == PACKET_ERROR && !old)
		return by_stack ? PARSED : DROP_UNRELATED_ERROR;
	FN(begin)(entry, old, packet, side, state);

	struct ct_way *way = &entry->way[side & 1], *back = &entry->way[(side ^ 1) & 1];
	bool against = entry->opener != side;
	__u32 from = source ? source->slot : 0, to = destination->slot;

	if (by_stack && !against)
		entry->flags |= CT_BY_STACK;

	int reason = FN(police)(skb, packet, against ? to : from, against ? from : to,
				(against ? POLICE_AGAINST : 0) |
					(entry->flags & CT_BY_STACK ? POLICE_BY_STACK : 0));

	if (reason)
		return reason;
	deliver_to(way, destination);
	way->nat = nat;
	sent_by(back, destination);
	/* The endpoint's next packet decides how it goes on. */
	back->via = VIA_UNKNOWN;
	if (source)
		sent_by(way, source);
	if (!old)
		FN(tell_flow)(packet, state, skb->ifindex);
	return FN(remember)(key, entry, nat);
}
