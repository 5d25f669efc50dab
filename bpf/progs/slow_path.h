/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The slow path decides what happens to a flow. It is taken by the first packet of a flow, by the first packet after
 * a change that concerns the flow (changes.h), and by every packet that does not fit its entry. It leaves the
 * verdict in scratch->entry; ct_commit.h puts that into conntrack. */

#define slow_path_begin OF_FAMILY(slow_path_begin)
/* Starts a new entry with the time and the epoch of its verdict. This must happen before anything is read that the
 * verdict depends on: endpoints, routes, postures. If the epoch were read later, a verdict from old tables could
 * carry the new epoch and would hold for good. */
__noinline int slow_path_begin(void)
{
	__u32 zero = 0;
	struct scratch *room = scratch_room();
	struct node *state = bpf_map_lookup_elem(&node, &zero);

	if (!room || !state)
		return 0;
	CT_ENTRY *entry = &room->FIELD(entry);

	count(COUNTER_SLOW_PATH);
	read_clock(room);
	__builtin_memset(entry, 0, sizeof(*entry));
	entry->epoch = *(const volatile __u32 *)&state->epoch;
	fence(room);
	entry->seen = room->seen = room->now;
	entry->born = entry->seen;
	entry->begun = room->moment;
	entry->way[0].routed = entry->way[1].routed = entry->seen;
	return 0;
}

/* Whether a packet of an unknown connection looks like an answer: its source port is below the range of ephemeral
 * ports and its destination port is in it. Linux takes ports from 32768 on, other systems take higher ones. */
static __always_inline __overloadable bool looks_like_answer(const PACKET *packet)
{
	return packet->protocol == IPPROTO_TCP && packet->flags & TCP_ACK && !(packet->flags & TCP_SYN) &&
	       packet->kind != PACKET_ERROR && bpf_ntohs(packet->source_port) < FIRST_EPHEMERAL_PORT &&
	       bpf_ntohs(packet->destination_port) >= FIRST_EPHEMERAL_PORT;
}

/* Completes the new entry with what the old one knows, and puts the packet into scratch->packet. Returns whether the
 * packet goes on with the old flow. */
static __always_inline __overloadable bool slow_path_inherit(struct scratch *room, const CT_ENTRY *old,
							     const PACKET *packet, __u32 side)
{
	CT_ENTRY *entry = &room->FIELD(entry);
	bool opens = is_opening(packet->flags);

	*(PACKET *)&room->packet = *packet;
	entry->opener = side;
	room->known = old;
	/* What a name allows is what the sender opens. */
	room->looks_like_answer = !old && !room->is_allowed_by_name && looks_like_answer(packet);
	room->begins = true;
	if (!old) {
		if (packet->protocol == IPPROTO_TCP && !opens)
			entry->flags = CT_PICKED_UP;
		return false;
	}
	entry->nat_address[0] = old->nat_address[0];
	entry->nat_address[1] = old->nat_address[1];
	entry->nat_port[0] = old->nat_port[0];
	entry->nat_port[1] = old->nat_port[1];
	if (ct_is_over(packet->protocol, old->flags) && opens)
		return false;
	room->seen = old->seen;
	room->begins = false;
	entry->born = old->born;
	entry->begun = old->begun;
	entry->flags = old->flags;
	entry->opener = old->opener;
	entry->service = old->service;
	return true;
}

/* Whether a packet without a flow may open one. An ICMP error and an ICMP answer may not: they need the packet that
 * they are about. If answers could open a flow, policy for the opposite direction would let them pass though nobody
 * has asked. */
static __always_inline __overloadable int check_may_open_flow(const PACKET *packet)
{
	if (packet->kind == PACKET_ERROR)
		return DROP_UNRELATED_ERROR;
	return packet->asker == ASKER_DESTINATION ? DROP_UNASKED_ANSWER : PARSED;
}

/* Checks by policy whether the opener may open the flow of a packet. A SYN of the other side opens a connection of
 * its own and is checked as such: policy has allowed only the opener, and who that is may even be a guess
 * (turn_if_answer). */
static __always_inline __overloadable int policy_check_packet(struct __sk_buff *skb, const PACKET *translated,
							      bool is_reply, __u32 sender_slot, __u32 receiver_slot,
							      __u32 flags)
{
	bool opens = is_reply && is_opening(translated->flags);

	is_reply &= !opens;
	return policy_check_flow(
		skb, translated, is_reply ? receiver_slot : sender_slot, is_reply ? sender_slot : receiver_slot,
		(is_reply ? CHECK_REPLY : 0) | (flags & CT_OF_NODE && !opens ? CHECK_OPENED_BY_NODE : 0));
}

/* Whether the packet has the addresses and ports that another flow has after its translation. */
static __always_inline __overloadable bool is_taken_tuple(const CT_ENTRY *old, const PACKET *packet, __u32 side)
{
	return old->flags & CT_NAT_REVERSE && ct_is_from_opener(old, side) &&
	       !ct_is_closed(packet->protocol, old->flags);
}

#define turn_if_answer OF_FAMILY(turn_if_answer)
/* For a packet that looks like an answer: makes the other side the opener, if policy allows that side to open the
 * flow. `sender_slot` and `receiver_slot` are the slots of local endpoints; 0 is no local endpoint. */
__noinline int turn_if_answer(struct __sk_buff *skb, const PACKET *packet, __u32 side, __u32 sender_slot,
			      __u32 receiver_slot)
{
	struct scratch *room = scratch_room();

	if (!room || !packet)
		return false;

	CT_ENTRY *entry = &room->FIELD(entry);

	if (entry->service)
		return false;
	if (policy_check_flow(skb, (const PACKET *)&room->packet, receiver_slot, sender_slot, CHECK_REPLY))
		return false;
	entry->opener = (side ^ 1) & 1;
	return true;
}

/* Has the packet leave with an address of the node as its source. */
static __always_inline __overloadable int snat_to(CT_ENTRY *entry, __u32 side, const ADDRESS *address)
{
	__u32 from = side & 1;

	if (!equal(&entry->nat_address[from], address)) {
		entry->nat_address[from] = *address;
		entry->nat_port[from] = 0;
	}
	entry->way[from].nat = NAT_SOURCE;
	return PARSED;
}

/* Whether this hook gives the packet an address of the node as its source. The stack would refuse such a packet, so
 * it does not go through the stack, and no queueing discipline of the endpoint sees it. */
static __always_inline __overloadable bool leaves_with_node_address(struct scratch *room, const CT_ENTRY *entry,
								    __u32 side, bool is_reply, __u8 nat)
{
	FRONTEND_KEY *key = &room->FIELD(frontend);
	struct frontend *of_address;

	if (!(nat & NAT_SOURCE) || !(entry->service || entry->flags & CT_DSR))
		return false;
	if (!is_reply)
		return true;
	key->address = entry->nat_address[side & 1];
	key->port = 0;
	key->protocol = 0;
	key->pad = 0;
	of_address = bpf_map_lookup_elem(&MAP(frontends), key);
	return of_address && of_address->flags & ADDRESS_OF_NODE;
}

/* Not a drop reason: the stack takes the packet. */
#define NO_EGRESS (-1)

#define find_egress OF_FAMILY(find_egress)
/* Finds where a packet leaves the node, and leaves that in scratch->out. Returns NO_EGRESS if no route leads to the
 * destination: it is the host itself, prohibited or unknown. The stack takes the packet or answers with an error. It
 * would also take a broadcast, which policy does not know as the host's: this is a drop reason. */
__noinline int find_egress(struct __sk_buff *skb, const PACKET *packet)
{
	__u32 zero = 0;
	struct scratch *room = scratch_room();

	if (!room || !packet)
		return DROP_INTERNAL;
	if (find_way_out(skb, packet))
		return PARSED;

	struct node *state = bpf_map_lookup_elem(&node, &zero);

	if (!state)
		return DROP_INTERNAL;
	return is_broadcast(room, &packet->destination) && !is_node_address(room, state, &packet->destination) ?
		       DROP_LINK_SCOPE :
		       NO_EGRESS;
}

/* Decides by which interface the packet leaves the node, and whether its source becomes an address of the node: then
 * its way has NAT_SOURCE and the entry has the address. */
static __always_inline __overloadable int select_egress(struct __sk_buff *skb, const PACKET *packet, __u32 side,
							struct scratch *room, __u32 source, bool at_uplink)
{
	CT_ENTRY *entry = &room->FIELD(entry);
	struct ct_way *way = &entry->way[side & 1];
	const WAY_OUT *out = &room->FIELD(out);
	__u32 egress = skb->ifindex;

	way->via = VIA_STACK;
	if (!at_uplink) {
		int found = find_egress(skb, packet);

		if (found)
			return found == NO_EGRESS ? PARSED : found;
		egress = out->egress;
	}

	struct uplink *uplink = bpf_map_lookup_elem(&uplinks, &egress);

	if (!uplink)
		return PARSED;
	if (at_uplink) {
		way->via = VIA_UNKNOWN;
	} else {
		way->via = VIA_UPLINK;
		way->egress = egress;
		way->mtu = out->mtu;
		entry->next_hop = out->next_hop;
	}
	if (source == SNAT_NONE)
		return PARSED;
	if (source == SNAT_MASQUERADE) {
		PREFIX *exempt = &room->FIELD(prefix);

		exempt->length = sizeof(ADDRESS) * 8;
		exempt->address = packet->destination;
		if (bpf_map_lookup_elem(&MAP(no_masquerade), exempt))
			return PARSED;
	}
	if (is_zero(&uplink->FIELD(ipv)))
		return DROP_NO_MASQUERADE_ADDRESS;
	return snat_to(entry, side, &uplink->FIELD(ipv));
}

#define check_sender OF_FAMILY(check_sender)
/* Whether the sender of a flow's first packet may have that address at this interface. `at_uplink`: the packet is
 * seen at the uplink, before the host's stack; otherwise at the endpoint's host end, after it. */
__noinline int check_sender(const PACKET *packet, __u32 at_uplink)
{
	__u32 zero = 0;
	struct scratch *room = scratch_room();
	struct node *state = bpf_map_lookup_elem(&node, &zero);

	if (!room || !state || !packet)
		return DROP_INTERNAL;

	/* Copied to scratch: before Linux 6.2 a map key may not lie in the argument of a global function. */
	ADDRESS *sender = &room->FIELD(sender);

	*sender = packet->kind == PACKET_ERROR ? packet->outer_source : packet->source;
	if (is_martian(sender))
		return DROP_MARTIAN;
	/* Two packets may come with an address of this node: with direct server return another node sends on what a
	 * process of this node has sent to it, and netfilter may have translated what comes from the stack. */
	return at_uplink && !room->has_dsr_option &&
			       (is_node_address(room, state, sender) || is_cluster_ip(room, sender)) ?
		       DROP_MARTIAN :
		       PARSED;
}

#define judge_departure OF_FAMILY(judge_departure)
/* The last step for the packet in scratch, which an endpoint sends: the policies of the interface that it leaves by, and
 * the event of a new flow. */
__noinline int judge_departure(struct __sk_buff *skb, __u32 is_reply, enum slow_path_flags flags)
{
	struct scratch *room = scratch_room();
	const struct node *state = node_state();
	int reason = PARSED;

	if (!room || !state)
		return DROP_INTERNAL;
	if (unlikely(state->external & EXTERNAL_HOST_POLICIES))
		reason = host_departure(skb, is_reply, flags & SLOW_PATH_AT_UPLINK);
	if (!reason && !(flags & SLOW_PATH_HAS_ENTRY))
		emit_flow_event((const PACKET *)&room->packet, state, skb->ifindex);
	return reason;
}

#define slow_path_from_endpoint OF_FAMILY(slow_path_from_endpoint)
/* The slow path of a packet that a local endpoint sends, at its host end; with SLOW_PATH_AT_UPLINK at the uplink
 * where the stack sends it out. */
__noinline int slow_path_from_endpoint(struct __sk_buff *skb, const PACKET *packet, const CT_KEY *flow, __u32 side,
				       enum slow_path_flags flags)
{
	slow_path_begin();

	bool at_uplink = flags & SLOW_PATH_AT_UPLINK;
	__u32 zero = 0;
	struct scratch *room = scratch_room();
	struct node *state = bpf_map_lookup_elem(&node, &zero);

	if (!room || !state || !packet || !flow)
		return DROP_INTERNAL;

	CT_ENTRY *entry = &room->FIELD(entry);
	CT_KEY *key = &room->FIELD(key);
	PACKET *translated = (PACKET *)&room->packet;
	struct endpoint *source = find_endpoint(room, &packet->source);

	*key = *flow;
	room->is_allowed_by_name = flags & SLOW_PATH_ALLOWED_BY_NAME;
	room->has_dsr_option = false;
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
	/* Packets for loopback are dropped here: with route_localnet, which the portmap plugin sets on a container's
	 * host end, the host would take them, and the services that listen there trust every sender. */
	if (is_link_scope(&packet->destination) || is_loopback(&packet->destination))
		return DROP_LINK_SCOPE;

	CT_ENTRY *old = flags & SLOW_PATH_HAS_ENTRY ? ct_find_live(room, key) : NULL;

	if (old && unlikely(old->flags & CT_NAT_REVERSE && ct_is_from_opener(old, side))) {
		if (is_taken_tuple(old, packet, side))
			return DROP_PORT_TAKEN;
		old = NULL;
	}
	if (!old && unlikely(check_may_open_flow(packet)))
		return check_may_open_flow(packet);
	slow_path_inherit(room, old, packet, side);

	struct ct_way *way = &entry->way[side & 1], *back = &entry->way[(side ^ 1) & 1];
	bool is_reply = !ct_is_from_opener(entry, side);
	int reason = PARSED;

	if (is_reply && old) {
		way->nat = old->way[side & 1].nat;
		if (way->nat & NAT_DESTINATION) {
			translated->destination = old->nat_address[(side ^ 1) & 1];
			translated->destination_port = old->nat_port[(side ^ 1) & 1];
		}
	} else if (!at_uplink && (entry->service || may_be_service_at(&translated->destination, &room->served_at))) {
		reason = lb_translate_packet(side, FROM_INSIDE);
		if (reason)
			return reason;
	}

	struct endpoint *destination = find_endpoint(room, &translated->destination);

	if (unlikely(is_overlay_frame(translated)) && !destination)
		return DROP_ENDPOINT_FRAME;

	__u32 sender_slot = source->slot, receiver_slot = destination ? destination->slot : 0;

	/* An endpoint always reaches itself. */
	if (sender_slot == receiver_slot)
		;
	else if (unlikely(room->looks_like_answer) && turn_if_answer(skb, packet, side, sender_slot, receiver_slot))
		is_reply = true;
	else
		reason = policy_check_packet(skb, translated, is_reply, sender_slot, receiver_slot, entry->flags);
	if (reason)
		return reason;

	set_sender(way, source);
	set_delivery_to(back, source);
	if (destination) {
		set_sender(back, destination);
		set_delivery_to(way, destination);
		/* The endpoint's queueing discipline must see what it sends, and the stack sends it on from there. */
		if (destination->flags & ENDPOINT_SHAPED)
			back->via = VIA_STACK;
		/* An endpoint would not accept a packet from its own address. */
		if (sender_slot == receiver_slot && !is_reply)
			reason = snat_to(entry, side, &state->FIELD(hairpin));
	} else if (!(entry->flags & CT_BY_STACK)) {
		reason = select_egress(
			skb, translated, side, room,
			!is_reply && state->masquerade && !of_other_plugin(source, NULL) ? SNAT_MASQUERADE : SNAT_NONE,
			at_uplink);
	}
	if (reason)
		return reason;
	if ((by_stack_from(source, destination) && !leaves_with_node_address(room, entry, side, is_reply, way->nat)) ||
	    entry->flags & CT_BY_STACK)
		way->via = VIA_STACK;
	if (destination && entry->flags & CT_BY_STACK)
		back->via = VIA_STACK;
	if (!entry->service && way->nat == NAT_NONE && of_other_plugin(source, destination))
		way->via = back->via = VIA_STACK;
	return judge_departure(skb, is_reply, (at_uplink ? SLOW_PATH_AT_UPLINK : 0) | (old ? SLOW_PATH_HAS_ENTRY : 0));
}

/* Not a drop reason: the packet does not belong to a flow of a local endpoint. */
#define NOT_FOR_ENDPOINT (-1)

#define slow_path_to_endpoint OF_FAMILY(slow_path_to_endpoint)
/* The slow path of a packet for a local endpoint, at the uplink; with SLOW_PATH_BY_STACK at the endpoint's host end.
 * It also handles packets from the network for a service, and packets from a service's backend on another node. */
__noinline int slow_path_to_endpoint(struct __sk_buff *skb, const PACKET *packet, const CT_KEY *flow, __u32 side,
				     enum slow_path_flags flags)
{
	slow_path_begin();

	bool by_stack = flags & SLOW_PATH_BY_STACK, of_node = flags & SLOW_PATH_OF_NODE;
	__u32 zero = 0;
	struct scratch *room = scratch_room();
	struct node *state = bpf_map_lookup_elem(&node, &zero);

	if (!room || !state || !packet || !flow)
		return DROP_INTERNAL;

	CT_ENTRY *entry = &room->FIELD(entry);
	CT_KEY *key = &room->FIELD(key);
	PACKET *translated = (PACKET *)&room->packet;

	*key = *flow;
	room->is_allowed_by_name = flags & SLOW_PATH_ALLOWED_BY_NAME;

	CT_ENTRY *old = flags & SLOW_PATH_HAS_ENTRY ? ct_find_live(room, key) : NULL;

	if (old && unlikely(old->flags & CT_NAT_REVERSE && ct_is_from_opener(old, side))) {
		if (is_taken_tuple(old, packet, side))
			return DROP_PORT_TAKEN;
		old = NULL;
	}
	room->has_dsr_option = room->has_dsr_option && !by_stack;
	if (old && unlikely(room->has_dsr_option)) {
		switch (dsr_weigh_option(room, old, packet, side)) {
		case DSR_IGNORED:
			room->has_dsr_option = false;
			break;
		case DSR_ACCEPTED:
			break;
		case DSR_NEW_FLOW:
			old = NULL;
			break;
		case DSR_TAKEN:
			return DROP_PORT_TAKEN;
		}
	}

	bool goes_on = slow_path_inherit(room, old, packet, side);

	bool is_reply = entry->opener != side;
	__u8 nat = NAT_NONE;
	int reason = PARSED;

	if (is_reply && old) {
		/* What answers a service comes as its backend, and meets the reverse entry. Nobody beyond the node is
		 * the service itself. */
		if (!by_stack && !(old->flags & CT_NAT_REVERSE) && old->way[(side ^ 1) & 1].nat & NAT_DESTINATION)
			return DROP_MARTIAN;
		nat = old->way[side & 1].nat;
		if (nat & NAT_DESTINATION) {
			translated->destination = old->nat_address[(side ^ 1) & 1];
			translated->destination_port = old->nat_port[(side ^ 1) & 1];
		} else if (by_stack && old->service && !(old->flags & CT_NAT_REVERSE)) {
			/* The packet was translated back when it came from the backend. It is on its way through the
			 * stack. */
			translated->source = old->nat_address[side & 1];
			translated->source_port = old->nat_port[side & 1];
		}
	} else if (!by_stack) {
		if (!old && is_for_own_socket(skb, packet))
			return NOT_FOR_ENDPOINT;
		if (entry->service || may_be_service_at(&translated->destination, &room->served_at))
			reason = lb_translate_packet(side, FROM_OUTSIDE);
		if (reason)
			return reason;
	}

	struct endpoint *destination = find_endpoint(room, &translated->destination);
	struct endpoint *source = find_endpoint(room, &translated->source);

	if (by_stack) {
		if (!destination || destination->ifindex != skb->ifindex)
			return DROP_UNKNOWN_ENDPOINT;
	} else {
		if (source)
			return DROP_FORGED_ENDPOINT;
		if (!destination && !entry->service && !nat)
			return NOT_FOR_ENDPOINT;
	}
	/* The node may send errors about flows that conntrack does not have. */
	if (packet->kind == PACKET_ERROR && !old)
		return of_node ? NOT_FOR_ENDPOINT : DROP_UNRELATED_ERROR;
	/* Nobody beyond the node goes on with a flow that the node has opened. */
	bool as_node = !by_stack && old && !is_reply && old->flags & CT_OF_NODE;

	if ((!old || as_node || (is_reply && is_opening(packet->flags))) && !of_node) {
		reason = check_sender(packet, !by_stack);
		/* With direct server return the packet comes from the node that the client sent it to, not from the
		 * client's. */
		if (!reason && !room->has_dsr_option)
			reason = check_origin(skb, by_stack);
		if (reason)
			return reason;
	}
	if (!old && unlikely(check_may_open_flow(packet)))
		return check_may_open_flow(packet);

	struct ct_way *way = &entry->way[side & 1], *back = &entry->way[(side ^ 1) & 1];
	__u32 sender_slot = source ? source->slot : 0, receiver_slot = destination ? destination->slot : 0;

	bool answer = unlikely(room->looks_like_answer) &&
		      turn_if_answer(skb, packet, side, sender_slot, receiver_slot);

	is_reply |= answer;
	if (by_stack && !is_reply)
		entry->flags = (entry->flags & ~CT_OF_NODE) | CT_BY_STACK | (of_node ? CT_OF_NODE : 0);
	if (!answer)
		reason = policy_check_packet(skb, translated, is_reply, sender_slot, receiver_slot, entry->flags);
	if (reason)
		return reason;
	if (unlikely(state->external & EXTERNAL_HOST_POLICIES)) {
		reason = host_judge_arrival(skb, is_reply, !by_stack ? HOST_HERE : of_node ? 0 : HOST_NOWHERE);
		if (reason)
			return reason;
	}
	if (destination) {
		set_delivery_to(way, destination);
		set_sender(back, destination);
		if (!entry->service && !room->has_dsr_option && nat == NAT_NONE && of_other_plugin(destination, NULL))
			way->via = VIA_STACK;
	} else {
		/* A known flow keeps its way. */
		bool direct = goes_on ? entry->flags & CT_DSR :
					state->external & EXTERNAL_DSR && dsr_has_room(skb, packet) &&
						is_known_service_address(room, &packet->destination,
									 packet->destination_port, packet->protocol);

		reason = select_egress(skb, translated, side, room, is_reply || direct ? SNAT_NONE : SNAT_NODE_ADDRESS,
				       false);
		if (!reason && unlikely(state->external & EXTERNAL_HOST_POLICIES))
			reason = host_judge_departure(skb, is_reply);
		if (reason)
			return reason;
		if (direct && !is_reply && way->via == VIA_UPLINK)
			entry->flags |= CT_DSR;
	}
	/* The first packet of the answer decides how the answers go on. */
	back->via = VIA_UNKNOWN;
	if (source)
		set_sender(way, source);
	if (!old)
		emit_flow_event(translated, state, skb->ifindex);
	if (is_reply)
		way->nat = nat;
	return PARSED;
}
