/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The path of a packet at each hook: parse, conntrack, (on a miss: slow path), rewrite, forward. */

static __always_inline __overloadable CT_ENTRY *slow_path_entry(const PACKET *packet)
{
	struct scratch *room = scratch_room();

	return room ? &room->FIELD(entry) : NULL;
}

/* Passes a packet to the host's stack, translated if its way says so. */
static __always_inline __overloadable int pass_to_stack(struct __sk_buff *skb, const PACKET *packet,
							const CT_ENTRY *entry, const struct ct_way *way, __u32 side)
{
	int reason = way->nat == NAT_NONE ? PARSED : rewrite(skb, packet, entry, side, way->nat);

	return reason ? drop_and_report(packet, reason, skb->ifindex) : PASS;
}

/* Lets the first fragment of a datagram pass, and keeps its ports so that the other fragments can follow. */
static __always_inline __overloadable int pass_first_fragment(const PACKET *packet, __u32 ifindex)
{
	int reason = keep_fragments(packet);

	return reason ? drop_and_report(packet, reason, ifindex) : PASS;
}

#define is_allowed_by_domain OF_FAMILY(is_allowed_by_domain)
/* Whether a domain rule allows the packet in scratch, which the other rules of its opener's policy deny. The parts are
 * functions of their own and called from here, because all callers share 512 bytes of stack. */
static __always_inline bool is_allowed_by_domain(struct __sk_buff *skb)
{
	int answer = ask_domains();
	bool allowed = answer == DOMAIN_ALLOWS || (answer == DOMAIN_IS_ASKED && may_ask(skb));

	note_domain_answer(skb->ifindex, allowed);
	return allowed;
}

/* The slow path of a packet that a local endpoint sends, and what follows it. */
static __always_inline __overloadable int judge_from_endpoint(struct __sk_buff *skb, const PACKET *packet,
							      const CT_KEY *key, __u32 side, __u32 flags)
{
	int reason = slow_path_from_endpoint(skb, packet, key, side, flags);

	if (reason == DROP_POLICY_EGRESS && is_allowed_by_domain(skb))
		reason = slow_path_from_endpoint(skb, packet, key, side, flags | SLOW_PATH_ALLOWED_BY_NAME);
	if (reason)
		return reason;
	dns_watch(skb, side);
	return ct_commit(skb, packet, key, side);
}

/* The slow path of a packet for a local endpoint, and what follows it. May return NOT_FOR_ENDPOINT. */
static __always_inline __overloadable int judge_to_endpoint(struct __sk_buff *skb, const PACKET *packet,
							    const CT_KEY *key, __u32 side, __u32 flags)
{
	int reason = slow_path_to_endpoint(skb, packet, key, side, flags);

	if (reason == DROP_POLICY_EGRESS && is_allowed_by_domain(skb))
		reason = slow_path_to_endpoint(skb, packet, key, side, flags | SLOW_PATH_ALLOWED_BY_NAME);
	if (reason)
		return reason;
	dns_watch(skb, side);
	return ct_commit(skb, packet, key, side);
}

#define path_from_endpoint OF_FAMILY(path_from_endpoint)
/* A packet from an endpoint, where it enters the host. */
static __always_inline int path_from_endpoint(struct __sk_buff *skb)
{
	PACKET packet = {};
	CT_KEY key;
	__u32 zero = 0;
	struct node *state = bpf_map_lookup_elem(&node, &zero);
	int parsed = parse(skb, &packet);

	if (unlikely(parsed))
		return parsed == PARSED_NEIGHBOUR_DISCOVERY ? discover(skb, &packet) : drop_and_count(parsed);
	if (!state)
		return drop_and_count(DROP_INTERNAL);
	if (unlikely(packet.kind == PACKET_ERROR && !equal(&packet.outer_source, &packet.source)))
		return drop_and_report(&packet, DROP_FOREIGN_SOURCE, skb->ifindex);

	if (unlikely(!has_checksum_in_place(skb, &packet)))
		return drop_and_report(&packet, DROP_CHECKSUM_PLACE, skb->ifindex);

	__u32 now = ticks(), side = ct_key_of_packet(&packet, &key) & 1;
	CT_ENTRY *entry = ct_find(&key);
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ethhdr *ethernet = data;

	if ((void *)(ethernet + 1) > end)
		return drop_and_count(DROP_MALFORMED);
	if (unlikely(!entry || !ct_is_current(&key, entry, &packet, side, state->epoch, now) ||
		     entry->way[side].via == VIA_UNKNOWN || entry->way[side].ingress != skb->ifindex ||
		     !same_mac(entry->way[side].sender_mac, ethernet->h_source))) {
		int reason = judge_from_endpoint(skb, &packet, &key, side, entry ? SLOW_PATH_HAS_ENTRY : 0);

		if (reason)
			return drop_and_answer(skb, &packet, reason, ANSWER_TO_ENDPOINT);
		entry = slow_path_entry(&packet);
		if (!entry)
			return drop_and_count(DROP_INTERNAL);
	}

	if (unlikely(packet.kind == PACKET_FIRST_FRAGMENT) && pass_first_fragment(&packet, skb->ifindex) != PASS)
		return TC_ACT_SHOT;

	struct ct_way *way = &entry->way[side];

	ct_track(skb, &packet, entry, way, side, now);
	if (unlikely(way->nat & NAT_DESTINATION || entry->flags & CT_NAT_REVERSE)) {
		if (way->via == VIA_STACK)
			return pass_to_stack(skb, &packet, entry, way, side);
		if (way->nat & NAT_DESTINATION && (packet.cut || exceeds_mtu(skb, &packet, way, 0)))
			return !(way->nat & NAT_SOURCE) && may_fragment(skb, &packet) ?
				       fragment_by_stack(skb, &packet, entry, side) :
				       drop_too_large(skb, &packet, way->mtu, ANSWER_TO_ENDPOINT);
	}
	if (way->via == VIA_STACK || exceeds_mtu(skb, &packet, way, 0))
		return PASS;
	/* Between two endpoints of one node a packet crosses no router, so only what leaves by an uplink loses a
	 * hop. */
	if (way->via == VIA_UPLINK) {
		if (packet.hops <= 1)
			return PASS;
		if (!lower_hops(skb, &packet))
			return drop_and_count(DROP_MALFORMED);
	}
	return forward(skb, &packet, entry, way, side);
}

#define path_to_endpoint OF_FAMILY(path_to_endpoint)
/* A packet for an endpoint that came through the host's stack, where it leaves the host. */
static __always_inline int path_to_endpoint(struct __sk_buff *skb)
{
	PACKET packet = {};
	CT_KEY key;
	__u32 zero = 0;
	struct node *state = bpf_map_lookup_elem(&node, &zero);
	int parsed = parse(skb, &packet);

	if (unlikely(parsed == PARSED_NEIGHBOUR_DISCOVERY))
		return is_of_link(&packet) ? PASS : drop_and_count(DROP_FOREIGN_DISCOVERY);
	if (unlikely(parsed))
		return drop_and_count(parsed);
	if (!state)
		return drop_and_count(DROP_INTERNAL);

	if (unlikely(packet.kind == PACKET_ERROR) && skb->ingress_ifindex) {
		int reason = check_error_sender(&packet, skb->ingress_ifindex);

		if (reason)
			return drop_and_report(&packet, reason, skb->ifindex);
	}

	__u32 now = ticks(), side = ct_key_of_packet(&packet, &key) & 1;
	CT_ENTRY *entry = ct_find(&key);
	bool current = entry && ct_is_current(&key, entry, &packet, side, state->epoch, now);

	/* The program that saw this packet enter the host has checked and translated it, and its verdict still
	 * holds. A pod cannot send a packet that looks so: its host end refuses a foreign source address, and also
	 * the addresses and ports of a reverse entry (DROP_PORT_TAKEN). Behind an interface without a program
	 * somebody may forge such a packet, as of any flow whose addresses and ports he knows. */
	if (current && unlikely(entry->flags & CT_TRANSLATED_EARLIER) && ct_is_from_opener(entry, side) &&
	    entry->way[side].egress == skb->ifindex)
		return packet.kind == PACKET_FIRST_FRAGMENT ? pass_first_fragment(&packet, skb->ifindex) : PASS;

	/* Linux fragments IPv6 packets that it forwards into packets that have lost their incoming interface.
	 * Fragments from a socket of the node still have their socket. */
	bool is_piece = packet.kind == PACKET_FIRST_FRAGMENT || packet.kind == PACKET_LATER_FRAGMENT;
	enum slow_path_flags made_here = skb->ingress_ifindex || (is_piece && !skb->sk) ? 0 : SLOW_PATH_OF_NODE;

	if (unlikely(!current || entry->way[side].egress != skb->ifindex ||
		     (ct_is_from_opener(entry, side) &&
		      (entry->flags & CT_NAT_REVERSE || (entry->flags & CT_OF_NODE && !made_here))))) {
		int reason = judge_to_endpoint(skb, &packet, &key, side,
					       SLOW_PATH_BY_STACK | made_here | (entry ? SLOW_PATH_HAS_ENTRY : 0));

		if (reason == NOT_FOR_ENDPOINT)
			return PASS;
		if (reason)
			return drop_and_answer(skb, &packet, reason, ANSWER_BY_ROUTE);
		entry = slow_path_entry(&packet);
		if (!entry)
			return drop_and_count(DROP_INTERNAL);
	}
	if (unlikely(packet.kind == PACKET_FIRST_FRAGMENT) && pass_first_fragment(&packet, skb->ifindex) != PASS)
		return TC_ACT_SHOT;
	ct_track(skb, &packet, entry, &entry->way[side], side, now);
	return pass_to_stack(skb, &packet, entry, &entry->way[side], side);
}

#define forward_translated OF_FAMILY(forward_translated)
/* Sends a translated packet on to another node, or back to a client outside the node. `quiet` says for how many
 * ticks the flow was silent; it is at least one after the slow path. */
__noinline int forward_translated(struct __sk_buff *skb, PACKET *packet, CT_ENTRY *entry, __u32 side, __u32 quiet)
{
	if (!packet || !entry)
		return drop_and_count(DROP_INTERNAL);

	struct ct_way *way = &entry->way[side & 1];
	enum dsr_need option = dsr_option_need(packet, entry, side, quiet);

	if (packet->hops <= 1)
		return drop_and_report(packet, DROP_HOPS, skb->ifindex);
	/* A reminder may wait for a smaller segment. After a long silence it may not: the same large segment may be
	 * all that comes, sent again and again. */
	if (option == DSR_IF_ROOM && (skb->gso_size || !dsr_has_room(skb, packet) ||
				      (quiet < LONG_QUIET && exceeds_mtu(skb, packet, way, sizeof(DSR_OPTION)))))
		option = DSR_NOT_NEEDED;

	__u32 added = option ? sizeof(DSR_OPTION) : 0;
	bool large = packet->cut || exceeds_mtu(skb, packet, way, added);

	if (large && !may_fragment(skb, packet))
		return drop_too_large(skb, packet, way->mtu - added, ANSWER_TO_NETWORK);
	if (entry->flags & CT_DSR && packet->flags & TCP_ACK && ct_is_from_opener(entry, side) &&
	    !(entry->flags & (CT_CONFIRMED | CT_NUMBERED)))
		/* The answers of this flow do not come by this node. If the client goes on, it has received them.
		 * Its first acknowledgement stands for their sequence number. */
		entry->flags |= CT_REPLIED | tcp_number_flags(skb, packet, false);
	if (option) {
		int reason = dsr_put_option(skb, packet);

		if (reason)
			return drop_and_report(packet, reason, skb->ifindex);
		packet->transport += sizeof(DSR_OPTION);
	}
	if (large)
		return fragment_by_stack(skb, packet, entry, side);
	return lower_hops(skb, packet) ? forward(skb, packet, entry, way, side) : drop_and_count(DROP_MALFORMED);
}

/* Whether a packet from the network has the direction of the node's own packets, in a flow that the node has opened. */
static __always_inline __overloadable bool is_from_side_of_node(const CT_ENTRY *entry, __u32 side)
{
	return entry->flags & CT_OF_NODE && ct_is_from_opener(entry, side);
}

#define path_from_network OF_FAMILY(path_from_network)
/* A packet from the network, for an endpoint or a service of this node. */
static __always_inline int path_from_network(struct __sk_buff *skb, const struct uplink *uplink)
{
	PACKET packet = {};
	CT_KEY key;
	const struct node *state = node_state();
	struct scratch *room = scratch_room();
	int parsed = parse(skb, &packet);

	/* Multicast and the like belong to the host. What the host forwards to an endpoint is checked at the
	 * endpoint's host end. */
	if (unlikely(parsed)) {
		if (parsed == DROP_UNKNOWN_FRAGMENT || parsed == DROP_EARLY_FRAGMENT)
			count_early_fragment(&packet);
		if (parsed == DROP_MALFORMED)
			return drop_and_count(parsed);
		/* The stack may answer a packet that it refuses with an ICMP error. The endpoint would take that
		 * error as one of the node. */
		return bpf_map_lookup_elem(&MAP(endpoints), &packet.source) ? drop_and_count(DROP_FORGED_ENDPOINT) :
									      PASS;
	}
	if (!state || !room)
		return PASS;
	room->has_dsr_option = false;
	if (unlikely(packet.transport > DSR_OPTION_AT)) {
		int reason = dsr_take_option(skb, &packet);

		if (reason)
			return drop_and_report(&packet, reason, skb->ifindex);
	}
	/* The node's own address does not come from beyond, also not in a flow that is known: the node answers a forged
	 * segment without SYN with a reset, and that opens a flow to the forged sender. */
	if (unlikely(equal(&packet.source, &uplink->FIELD(ipv))) && !room->has_dsr_option &&
	    packet.kind != PACKET_ERROR && !is_zero(&packet.source))
		return drop_and_report(&packet, DROP_MARTIAN, skb->ifindex);
	/* The packet is for the host: no service has that port, and no masqueraded flow can have it. */
	if (likely(packet.kind == PACKET_WHOLE)) {
		if ((packet.protocol == IPPROTO_TCP || packet.protocol == IPPROTO_UDP) &&
		    equal(&packet.destination, &uplink->FIELD(ipv)) && !is_met_from_outside(packet.destination_port))
			return pass_to_host(skb, &packet, room, state);
	} else if (packet.kind == PACKET_ERROR) {
		int reason = check_error_sender(&packet, skb->ifindex);

		if (reason)
			return drop_and_report(&packet, reason, skb->ifindex);
	} else if (packet.early && is_met_from_outside(packet.destination_port)) {
		/* The host keeps the early fragments for a while and then drops them, because their first fragment
		 * goes elsewhere. They count as drops here. */
		count_drops(DROP_EARLY_FRAGMENT, packet.early);
	}

	__u32 now = ticks(), side = ct_key_of_packet(&packet, &key) & 1, reminder = 0;
	CT_ENTRY *entry = ct_find(&key);

	if (unlikely(!entry || !ct_is_current(&key, entry, &packet, side, state->epoch, now) ||
		     entry->way[side].ingress || entry->way[side].via == VIA_UNKNOWN ||
		     is_from_side_of_node(entry, side) ||
		     (room->has_dsr_option && !dsr_option_matches(room, entry, side)))) {
		if (!entry && !room->has_dsr_option && packet.kind != PACKET_ERROR && is_for_nobody(&packet))
			return pass_to_host(skb, &packet, room, state);

		int reason = judge_to_endpoint(skb, &packet, &key, side, entry ? SLOW_PATH_HAS_ENTRY : 0);

		if (reason)
			return reason == NOT_FOR_ENDPOINT ? pass_to_host(skb, &packet, room, state) :
							    drop_and_answer(skb, &packet, reason, ANSWER_TO_NETWORK);
		entry = slow_path_entry(&packet);
		if (!entry)
			return drop_and_count(DROP_INTERNAL);
		reminder = 1;
	}

	if (unlikely(packet.kind == PACKET_FIRST_FRAGMENT) && pass_first_fragment(&packet, skb->ifindex) != PASS)
		return TC_ACT_SHOT;

	struct ct_way *way = &entry->way[side];
	__u32 quiet = ct_track(skb, &packet, entry, way, side, now) | reminder;

	if (way->via == VIA_STACK)
		return pass_to_stack(skb, &packet, entry, way, side);
	if (way->nat == NAT_NONE && (exceeds_mtu(skb, &packet, way, 0) || packet.hops <= 1))
		return PASS;
	if (unlikely(way->nat != NAT_NONE && way->via == VIA_UPLINK))
		return forward_translated(skb, &packet, entry, side, quiet);
	/* A packet for an address of the node has arrived, so it keeps its hops. A packet that only passes through
	 * crosses a router. */
	if (way->nat == NAT_NONE && !lower_hops(skb, &packet))
		return drop_and_count(DROP_MALFORMED);
	return forward(skb, &packet, entry, way, side);
}

#define path_to_network OF_FAMILY(path_to_network)
/* A packet that leaves by an uplink. A packet of an endpoint that went through the stack is masqueraded here. An
 * answer of a backend in the node's own namespace gets the service's address here. */
static __always_inline int path_to_network(struct __sk_buff *skb, const struct uplink *uplink)
{
	PACKET packet = {};
	CT_KEY key;
	const struct node *state = node_state();

	if (!state || bpf_skb_load_bytes(skb, ETH_HLEN + IP_OFFSET(SOURCE), &packet.source, sizeof(ADDRESS)))
		return PASS;

	bool of_host = equal(&packet.source, &uplink->FIELD(ipv));

	if (of_host && !(state->external & EXTERNAL_HOST_BACKENDS))
		return PASS;

	int parsed = parse(skb, &packet);

	/* Neighbour discovery that is forwarded would bypass every policy, and is never wanted. */
	if (unlikely(parsed == PARSED_NEIGHBOUR_DISCOVERY))
		return is_of_link(&packet) ? PASS : drop_and_count(DROP_FOREIGN_DISCOVERY);
	/* The stack sends a later fragment whose flow is not known. It would leave with the endpoint's own address. */
	if (parsed == DROP_UNKNOWN_FRAGMENT || parsed == DROP_EARLY_FRAGMENT)
		return bpf_map_lookup_elem(&MAP(endpoints), &packet.source) ? drop_and_count(parsed) : PASS;
	if (parsed)
		return PASS;
	if (of_host && packet.kind == PACKET_WHOLE && !has_port(PORTS_OF_BACKENDS, packet.source_port))
		return PASS;
	/* The node itself sends this error about an endpoint's flow. */
	if (packet.kind == PACKET_ERROR && !equal(&packet.outer_source, &packet.source))
		return PASS;

	__u32 now = ticks(), side = ct_key_of_packet(&packet, &key) & 1;
	CT_ENTRY *entry = ct_find(&key);

	if (entry && unlikely(packet.kind == PACKET_FIRST_FRAGMENT) &&
	    pass_first_fragment(&packet, skb->ifindex) != PASS)
		return TC_ACT_SHOT;
	/* Only a packet that was checked and translated when it entered the host has these addresses and ports in
	 * this direction, so neither epoch nor lifetime is looked at again. A pod cannot send such a packet past its
	 * host end: with the node's address it is dropped there as DROP_FOREIGN_SOURCE, with its own address as
	 * DROP_PORT_TAKEN. A process of the node could, and gains nothing: it may send from the node anyway. What is
	 * left to do is the source address that the stack would have refused (oversize.h). */
	if (entry && entry->flags & CT_NAT_REVERSE && ct_is_from_opener(entry, side))
		return entry->way[side].nat == NAT_SOURCE ?
			       pass_to_stack(skb, &packet, entry, &entry->way[side], side) :
			       PASS;
	if (!entry || !ct_is_current(&key, entry, &packet, side, state->epoch, now)) {
		if (bpf_map_lookup_elem(&MAP(endpoints), &packet.source)) {
			int reason = judge_from_endpoint(skb, &packet, &key, side,
							 SLOW_PATH_AT_UPLINK | (entry ? SLOW_PATH_HAS_ENTRY : 0));

			if (reason)
				return drop_and_report(&packet, reason, skb->ifindex);
			entry = slow_path_entry(&packet);
			if (!entry)
				return drop_and_count(DROP_INTERNAL);
			if (packet.kind == PACKET_FIRST_FRAGMENT && pass_first_fragment(&packet, skb->ifindex) != PASS)
				return TC_ACT_SHOT;
		} else if (!entry) {
			return PASS;
		}
	}

	struct ct_way *way = &entry->way[side];

	if (entry->service)
		ct_track(skb, &packet, entry, way, side, now);
	return pass_to_stack(skb, &packet, entry, way, side);
}
