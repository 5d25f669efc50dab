/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The slow path: what to do with a flow. Reached by the first packet of a flow, by the first after something
 * changed that concerns it (changes.h), and by whatever does not fit its entry. The result is left in scratch->entry and in conntrack.
 */

#define slow_path_begin OF_FAMILY(slow_path_begin)
/* Begins an entry with the time and the epoch of its verdict, before anything that it follows from is read: endpoints, routes, postures. With an epoch
 * that is read later, a verdict by what was before a change would pass for one by what is after it. */
__noinline int slow_path_begin(void)
{
	__u32 zero = 0;
	struct scratch *room = scratch_room();
	struct node *state = bpf_map_lookup_elem(&node, &zero);

	if (!room || !state)
		return 0;
	CT_ENTRY *entry = (CT_ENTRY *)&room->entry;

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

/*
 * Whether a packet of a connection that nobody remembers looks like an answer: it comes from a port that programs do not
 * connect from unless they choose it (Linux takes 32768 and above, others higher ones), and goes to one that they do.
 */
static __always_inline __overloadable bool looks_like_answer(const PACKET *packet)
{
	return packet->protocol == IPPROTO_TCP && packet->flags & TCP_ACK && !(packet->flags & TCP_SYN) &&
	       packet->kind != PACKET_ERROR && bpf_ntohs(packet->source_port) < FIRST_EPHEMERAL_PORT &&
	       bpf_ntohs(packet->destination_port) >= FIRST_EPHEMERAL_PORT;
}

/* Completes the new entry of the packet's flow from what is remembered of it, and scratch->packet. Whether it is the flow that is
 * remembered that goes on. */
static __always_inline __overloadable bool slow_path_inherit(struct scratch *room, const CT_ENTRY *old,
							     const PACKET *packet, __u32 side)
{
	CT_ENTRY *entry = (CT_ENTRY *)&room->entry;
	bool opens = is_opening(packet->flags);

	*(PACKET *)&room->packet = *packet;
	entry->opener = side;
	room->known = old;
	room->looks_like_answer = !old && looks_like_answer(packet);
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

/* Why a packet that belongs to no flow opens none: it tells of another packet, or answers one. A reason for a drop. An answer that
 * passed because its question would have passed a policy in one direction though nobody asks. */
static __always_inline __overloadable int check_may_open_flow(const PACKET *packet)
{
	if (packet->kind == PACKET_ERROR)
		return DROP_UNRELATED_ERROR;
	return packet->asker == ASKER_DESTINATION ? DROP_UNASKED_ANSWER : PARSED;
}

/*
 * Asks policy for the opener's way of a flow that a packet goes with, or against. Who has not opened it and sends a SYN opens a
 * connection of his own: between the ports of one that the other side may open, or is only thought to have opened.
 */
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

/* Whether a packet's addresses and ports are those of somebody else's flow, as its other side sees it. */
static __always_inline __overloadable bool is_taken_tuple(const CT_ENTRY *old, const PACKET *packet, __u32 side)
{
	return old->flags & CT_NAT_REVERSE && old->opener == side && !ct_is_closed(packet->protocol, old->flags);
}

#define turn_if_answer OF_FAMILY(turn_if_answer)
/*
 * Turns the flow of such a packet round, if policy lets its other side open it: that one has, then. `sender_slot` and `receiver_slot` are
 * slots of local endpoints, or 0.
 */
__noinline int turn_if_answer(struct __sk_buff *skb, const PACKET *packet, __u32 side, __u32 sender_slot,
			      __u32 receiver_slot)
{
	struct scratch *room = scratch_room();

	if (!room || !packet)
		return false;

	CT_ENTRY *entry = (CT_ENTRY *)&room->entry;

	if (entry->service)
		return false;
	if (policy_check_flow(skb, (const PACKET *)&room->packet, receiver_slot, sender_slot, CHECK_REPLY))
		return false;
	entry->opener = (side ^ 1) & 1;
	return true;
}

/* Has a packet leave with an address of the node as its source. */
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

/* Whether a packet gets an address of the node as its source here: the stack would not take it then, and no discipline of
 * its endpoint sees it. */
static __always_inline __overloadable bool leaves_with_node_address(struct scratch *room, const CT_ENTRY *entry,
								    __u32 side, bool is_reply, __u8 nat)
{
	FRONTEND_KEY *key = (FRONTEND_KEY *)&room->frontend;
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

/* Decides how a packet leaves the node. Where its source becomes the node's, its way has NAT_SOURCE, and the address is
 * in the entry. */
static __always_inline __overloadable int select_egress(struct __sk_buff *skb, const PACKET *packet, __u32 side,
							struct scratch *room, __u32 source, bool at_uplink)
{
	CT_ENTRY *entry = (CT_ENTRY *)&room->entry;
	struct ct_way *way = &entry->way[side & 1];
	const WAY_OUT *out = (WAY_OUT *)&room->out;
	__u32 egress = skb->ifindex;

	way->via = VIA_STACK;
	if (!at_uplink) {
		/* The host itself, a prohibited or unknown destination: the stack takes it or says no. It would also take a broadcast,
		 * which policy does not know as the host's. */
		if (!find_way_out(skb, packet))
			return is_broadcast(room, &packet->destination) ? DROP_LINK_SCOPE : PARSED;
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
		PREFIX *exempt = (PREFIX *)&room->prefix;

		exempt->length = sizeof(ADDRESS) * 8;
		exempt->address = packet->destination;
		if (bpf_map_lookup_elem(&MAP(no_masquerade), exempt))
			return PARSED;
	}
	if (is_zero(&uplink->MAP(ipv)))
		return DROP_NO_MASQUERADE_ADDRESS;
	return snat_to(entry, side, &uplink->MAP(ipv));
}

#define check_sender OF_FAMILY(check_sender)
/*
 * Whether the sender of a flow's first packet, which came by an interface, may be who it says. `at_uplink`: it is seen
 * there, before the host's stack looks at it; else where the stack sends it to an endpoint.
 */
__noinline int check_sender(const PACKET *packet, __u32 at_uplink)
{
	__u32 zero = 0;
	struct scratch *room = scratch_room();
	struct node *state = bpf_map_lookup_elem(&node, &zero);

	if (!room || !state || !packet)
		return DROP_INTERNAL;

	/* Copied, for keys do not lie in a global function's argument before Linux 6.2. */
	ADDRESS *sender = (ADDRESS *)&room->sender;

	*sender = packet->kind == PACKET_ERROR ? packet->outer_source : packet->source;
	if (is_martian(sender))
		return DROP_MARTIAN;
	/* A node that answers clients directly sends on, marked, what another node's own process has sent to it. And what netfilter
	 * has translated goes through the stack with an address of the node. */
	return at_uplink && !room->has_dsr_option &&
			       (is_node_address(room, state, sender) || is_cluster_ip(room, sender)) ?
		       DROP_MARTIAN :
		       PARSED;
}

#define slow_path_from_endpoint OF_FAMILY(slow_path_from_endpoint)
/* What a local endpoint sends, seen where it enters the host, or elsewhere: at the uplink that the stack sends it to. */
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

	CT_ENTRY *entry = (CT_ENTRY *)&room->entry;
	CT_KEY *key = (CT_KEY *)&room->key;
	PACKET *translated = (PACKET *)&room->packet;
	struct endpoint *source = find_endpoint(room, &packet->source);

	*key = *flow;
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
	/* An interface may be told to take what is for loopback (route_localnet, which portmap sets on a container's host end), and what
	 * listens there trusts whoever comes. */
	if (is_link_scope(&packet->destination) || is_loopback(&packet->destination))
		return DROP_LINK_SCOPE;

	CT_ENTRY *old = flags & SLOW_PATH_HAS_ENTRY ? ct_find_live(room, key) : NULL;

	if (old && unlikely(old->flags & CT_NAT_REVERSE && old->opener == side)) {
		if (is_taken_tuple(old, packet, side))
			return DROP_PORT_TAKEN;
		old = NULL;
	}
	if (!old && unlikely(check_may_open_flow(packet)))
		return check_may_open_flow(packet);
	slow_path_inherit(room, old, packet, side);

	struct ct_way *way = &entry->way[side & 1], *back = &entry->way[(side ^ 1) & 1];
	bool is_reply = entry->opener != side;
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
		/* Its discipline must see what it sends, and the stack leads on from there. */
		if (destination->flags & ENDPOINT_SHAPED)
			back->via = VIA_STACK;
		/* It would not take a packet from its own address. */
		if (sender_slot == receiver_slot && !is_reply)
			reason = snat_to(entry, side, &state->MAP(hairpin));
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
	if (!old)
		emit_flow_event(translated, state, skb->ifindex);
	return PARSED;
}

/* Not a reason: the packet is not about a flow of a local endpoint. */
#define NOT_FOR_ENDPOINT (-1)

#define slow_path_to_endpoint OF_FAMILY(slow_path_to_endpoint)
/* What reaches a local endpoint from the network, or elsewhere: at its host end, from the host's stack. And what comes
 * from the network for a service, or from a service's backend on another node. */
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

	CT_ENTRY *entry = (CT_ENTRY *)&room->entry;
	CT_KEY *key = (CT_KEY *)&room->key;
	PACKET *translated = (PACKET *)&room->packet;

	*key = *flow;

	CT_ENTRY *old = flags & SLOW_PATH_HAS_ENTRY ? ct_find_live(room, key) : NULL;

	if (old && unlikely(old->flags & CT_NAT_REVERSE && old->opener == side)) {
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
		nat = old->way[side & 1].nat;
		if (nat & NAT_DESTINATION) {
			translated->destination = old->nat_address[(side ^ 1) & 1];
			translated->destination_port = old->nat_port[(side ^ 1) & 1];
		} else if (by_stack && old->service && !(old->flags & CT_NAT_REVERSE)) {
			/* Translated back already, on its way into the stack. */
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
	/* Of its own errors the node knows what they are about. */
	if (packet->kind == PACKET_ERROR && !old)
		return of_node ? NOT_FOR_ENDPOINT : DROP_UNRELATED_ERROR;
	if ((!old || (is_reply && is_opening(packet->flags))) && !of_node) {
		reason = check_sender(packet, !by_stack);
		/* A mark is put in by another node than the client's. */
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
	if (destination) {
		set_delivery_to(way, destination);
		set_sender(back, destination);
		if (!entry->service && !room->has_dsr_option && nat == NAT_NONE && of_other_plugin(destination, NULL))
			way->via = VIA_STACK;
	} else {
		/* A flow keeps its way. */
		bool direct = goes_on ? entry->flags & CT_DSR :
					state->external & EXTERNAL_DSR && dsr_has_room(skb, packet) &&
						is_known_service_address(room, &packet->destination,
									 packet->destination_port, packet->protocol);

		reason = select_egress(skb, translated, side, room, is_reply || direct ? SNAT_NONE : SNAT_NODE_ADDRESS,
				       false);
		if (reason)
			return reason;
		if (direct && !is_reply && way->via == VIA_UPLINK)
			entry->flags |= CT_DSR;
	}
	/* The answer's first packet decides how it goes on. */
	back->via = VIA_UNKNOWN;
	if (source)
		set_sender(way, source);
	if (!old)
		emit_flow_event(translated, state, skb->ifindex);
	if (is_reply)
		way->nat = nat;
	return PARSED;
}
