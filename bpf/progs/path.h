/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A packet's journey at each hook: parse, conntrack, (miss: judge), rewrite, forward. */

static __always_inline CT_ENTRY *FN(judged)(void)
{
	struct scratch *room = scratch_room();

	return room ? (CT_ENTRY *)&room->entry : NULL;
}

/* What an endpoint sends, where it enters the host. */
static __always_inline int FN(from_endpoint)(struct __sk_buff *skb)
{
	PACKET packet = {};
	CT_KEY key;
	__u32 zero = 0;
	struct node *state = bpf_map_lookup_elem(&node, &zero);
	int parsed = FN(parse)(skb, &packet);

	if (unlikely(parsed))
		return parsed == PARSED_NEIGHBOUR_DISCOVERY ? PASS : drop(parsed);
	if (!state)
		return drop(DROP_CONNTRACK_FULL);
	if (unlikely(packet.kind == PACKET_ERROR && !FN(equal)(&packet.outer_source, &packet.source)))
		return FN(refuse)(&packet, DROP_FOREIGN_SOURCE, skb->ifindex);

	__u32 side = FN(key)(&packet, &key) & 1;
	CT_ENTRY *entry = FN(find)(&key);
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ethhdr *ethernet = data;

	if ((void *)(ethernet + 1) > end)
		return drop(DROP_MALFORMED);
	if (unlikely(!entry || !FN(is_current)(entry, &packet, state->epoch) ||
		     entry->way[side].via == VIA_UNKNOWN || entry->way[side].ingress != skb->ifindex ||
		     !same_mac(entry->way[side].sender_mac, ethernet->h_source))) {
		int reason = FN(judge_sent)(skb, &packet, &key, side, entry ? JUDGE_KNOWN : 0);

		if (reason)
			return FN(refuse)(&packet, reason, skb->ifindex);
		entry = FN(judged)();
		if (!entry)
			return drop(DROP_CONNTRACK_FULL);
	}

	struct ct_way *way = &entry->way[side];

	FN(track)(&packet, entry, way, side);
	if (way->via == VIA_STACK || FN(exceeds)(skb, &packet, way))
		return PASS;
	/* Between endpoints of one node the packet crosses no router. */
	if (way->via == VIA_UPLINK) {
		if (packet.hops <= 1)
			return PASS;
		if (!FN(lower_hops)(skb))
			return drop(DROP_MALFORMED);
	}
	return FN(forward)(skb, &packet, entry, way);
}

/* What reaches an endpoint by way of the host's stack, where it leaves the host. */
static __always_inline int FN(to_endpoint)(struct __sk_buff *skb)
{
	PACKET packet = {};
	CT_KEY key;
	__u32 zero = 0;
	struct node *state = bpf_map_lookup_elem(&node, &zero);
	int parsed = FN(parse)(skb, &packet);

	if (unlikely(parsed))
		return parsed == PARSED_NEIGHBOUR_DISCOVERY ? PASS : drop(parsed);
	if (!state)
		return drop(DROP_CONNTRACK_FULL);

	__u32 side = FN(key)(&packet, &key) & 1;
	CT_ENTRY *entry = FN(find)(&key);

	if (unlikely(!entry || !FN(is_current)(entry, &packet, state->epoch) ||
		     entry->way[side].egress != skb->ifindex)) {
		int reason = FN(judge_received)(skb, &packet, &key, side,
						JUDGE_ELSEWHERE | (entry ? JUDGE_KNOWN : 0));

		return reason ? FN(refuse)(&packet, reason, skb->ifindex) : PASS;
	}
	FN(track)(&packet, entry, &entry->way[side], side);
	return PASS;
}

/* What the network sends. */
static __always_inline int FN(from_network)(struct __sk_buff *skb)
{
	PACKET packet = {};
	CT_KEY key;
	__u32 zero = 0, ifindex = skb->ifindex;
	struct node *state = bpf_map_lookup_elem(&node, &zero);
	struct uplink *uplink = bpf_map_lookup_elem(&uplinks, &ifindex);
	int parsed = FN(parse)(skb, &packet);

	/* Multicast and the like are the host's; what goes on to an endpoint is judged there. */
	if (unlikely(parsed))
		return parsed == DROP_MALFORMED ? drop(parsed) : PASS;
	if (!state || !uplink)
		return PASS;
	/* The host's own: not a port that a masqueraded flow could have. */
	if (packet.kind == PACKET_WHOLE && (packet.protocol == IPPROTO_TCP || packet.protocol == IPPROTO_UDP) &&
	    FN(equal)(&packet.destination, &uplink->MAP(ipv)) &&
	    (__u16)(bpf_ntohs(packet.destination_port) - masquerade_port_first) >= masquerade_port_count)
		return PASS;

	__u32 side = FN(key)(&packet, &key) & 1;
	CT_ENTRY *entry = FN(find)(&key);

	if (unlikely(!entry || !FN(is_current)(entry, &packet, state->epoch) || entry->way[side].ingress ||
		     entry->way[side].via == VIA_UNKNOWN)) {
		int reason = FN(judge_received)(skb, &packet, &key, side, entry ? JUDGE_KNOWN : 0);

		if (reason)
			return reason == NOT_FOR_ENDPOINT ? PASS : FN(refuse)(&packet, reason, skb->ifindex);
		entry = FN(judged)();
		if (!entry)
			return drop(DROP_CONNTRACK_FULL);
	}

	struct ct_way *way = &entry->way[side];

	FN(track)(&packet, entry, way, side);
	if (way->via == VIA_STACK)
		return PASS;
	if (way->nat == NAT_NONE && (FN(exceeds)(skb, &packet, way) || packet.hops <= 1))
		return PASS;
	/* A reply to the node's address has arrived; only what is addressed to the endpoint crosses a router. */
	if (way->nat == NAT_NONE && !FN(lower_hops)(skb))
		return drop(DROP_MALFORMED);
	return FN(forward)(skb, &packet, entry, way);
}

/* What leaves by an uplink: an endpoint's packets that went through the stack are masqueraded here. */
static __always_inline int FN(to_network)(struct __sk_buff *skb)
{
	PACKET packet = {};
	CT_KEY key;
	ADDRESS source;
	__u32 zero = 0, ifindex = skb->ifindex;
	struct node *state = bpf_map_lookup_elem(&node, &zero);
	struct uplink *uplink = bpf_map_lookup_elem(&uplinks, &ifindex);

	if (!state || !uplink ||
	    bpf_skb_load_bytes(skb, ETH_HLEN + IP_OFFSET(SOURCE), &source, sizeof(source)) ||
	    FN(equal)(&source, &uplink->MAP(ipv)) || FN(parse)(skb, &packet))
		return PASS;
	/* The node's own error about an endpoint's flow. */
	if (packet.kind == PACKET_ERROR && !FN(equal)(&packet.outer_source, &packet.source))
		return PASS;

	__u32 side = FN(key)(&packet, &key) & 1;
	CT_ENTRY *entry = FN(find)(&key);

	if (!entry || !FN(is_current)(entry, &packet, state->epoch)) {
		if (!bpf_map_lookup_elem(&MAP(endpoints), &packet.source))
			return PASS;

		int reason = FN(judge_sent)(skb, &packet, &key, side,
					    JUDGE_ELSEWHERE | (entry ? JUDGE_KNOWN : 0));

		if (reason)
			return FN(refuse)(&packet, reason, skb->ifindex);
		entry = FN(judged)();
		if (!entry)
			return drop(DROP_CONNTRACK_FULL);
	}

	struct ct_way *way = &entry->way[side];

	if (way->nat == NAT_SOURCE) {
		int reason = FN(rewrite)(skb, &packet, entry, NAT_SOURCE);

		if (reason)
			return FN(refuse)(&packet, reason, skb->ifindex);
	}
	return PASS;
}
