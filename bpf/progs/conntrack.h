/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The memory of flows: one look-up tells an established packet all it needs. */

static __always_inline __overloadable CT_ENTRY *ct_find(const CT_KEY *key)
{
	return bpf_map_lookup_elem(&MAP(conntrack), key);
}

/* Whether the flow's time is over and its ports may be given to another. */
static __always_inline __overloadable bool ct_is_expired(const CT_ENTRY *entry, __u8 protocol, __u32 now)
{
	__s32 age = now - entry->seen;

	/* Another processor may have a later tick. */
	return age > (__s32)ct_lifetime(protocol, entry->flags);
}

/* Whether the entry's verdict still holds for this packet. Asked of each, so the flow's age is looked at once a tick only. */
static __always_inline __overloadable bool ct_is_current(const CT_KEY *key, CT_ENTRY *entry, const PACKET *packet,
							 __u32 side, __u32 epoch, __u32 now)
{
	if (unlikely(entry->epoch != epoch) && !verdict_holds(key, entry))
		return false;
	if (unlikely(entry->seen != now) && ct_is_expired(entry, packet->protocol, now))
		return false;
	/* The ports of a flow that has ended are used for a new one; and that one side may open a connection says nothing of the other. */
	return !(is_opening(packet->flags) && (entry->opener != side || ct_is_over(packet->protocol, entry->flags)));
}

static __always_inline __overloadable void emit_end_event(const PACKET *packet, const CT_ENTRY *entry, __u8 nat,
							  __u32 side, bool is_reply)
{
	__u32 zero = 0, what = EVENT_CODE(EVENT_END, DROP_NONE, EVENT_NO_DIRECTION);
	struct scratch *room = scratch_room();
	struct node *state = bpf_map_lookup_elem(&node, &zero);

	if (!room || !state || !(state->events & EVENTS_FLOWS))
		return;

	PACKET *inside = (PACKET *)&room->event_packet;

	*inside = *packet;
	if (nat & NAT_DESTINATION) {
		inside->destination = entry->nat_address[(side ^ 1) & 1];
		inside->destination_port = entry->nat_port[(side ^ 1) & 1];
	}
	if (!is_sampled(inside, state) || !spend_event_budget(state))
		return;
	room->answer.rule = room->answer.log = 0;
	emit_event(inside, is_reply ? what | EVENT_OF_REPLY : what, 0);
}

/* What a packet of a translated flow says besides: the other side finishes first. */
static __always_inline __overloadable __u32 ct_holds_port(const PACKET *packet, const CT_ENTRY *entry, __u8 nat,
							  __u32 packet_flags)
{
	/* What goes back has its destination translated where the opener's source is. */
	return packet_flags & CT_FIN_REPLIER && !(entry->flags & CT_FIN_OPENER) && nat & NAT_DESTINATION ?
		       CT_HOLDS_PORT :
		       0;
}

/* Whether a flow that is confirmed by now leaves the line. Of the network's, what anybody can have who hears no answer is bounded:
 * streams of UDP, and connections whose answers are not seen here. */
static __always_inline __overloadable bool ct_may_stop_waiting(const PACKET *packet, const CT_ENTRY *entry, __u8 nat)
{
	const struct ct_way *way = &entry->way[entry->opener & 1];
	bool unheard = packet->protocol != IPPROTO_TCP || (entry->flags & CT_DSR && way->nat & NAT_DESTINATION);

	return may_keep(way->ingress, FAMILY == 6, nat == NAT_NONE ? 1 : 2, way->ingress || unheard);
}

#define ct_update_state OF_FAMILY(ct_update_state)
/* Takes note of a packet in both views of its flow. `packet_flags`: as flags_after has it. */
__noinline int ct_update_state(const PACKET *packet, CT_ENTRY *entry, __u8 nat, __u32 packet_flags, __u32 now)
{
	struct scratch *room = scratch_room();

	if (!room || !packet || !entry)
		return 0;

	bool is_reply = packet_flags & CT_REPLIED;
	__u32 before = entry->flags;
	__u32 side = (entry->opener ^ is_reply) & 1;
	__u32 after = ct_flags_after(packet->protocol, before,
				     packet_flags | ct_holds_port(packet, entry, nat, packet_flags), now, entry->seen,
				     entry->born);

	if (unlikely(after & ~before & CT_CONFIRMED) && !ct_may_stop_waiting(packet, entry, nat))
		after |= CT_OVER_SHARE;
	/* Two processors may write at once; at worst a flag comes with the next packet, and seen is the same. What is still under
	 * way after a reset does not prolong the flow. */
	entry->flags = after;
	if (!(after & CT_RESET) || packet_flags & CT_RESET)
		entry->seen = now;
	if (entry->way[side].via == VIA_UPLINK && (__u16)(now - entry->way[side].routed) > ROUTED_MOST)
		entry->epoch = outdated();
	/* Where the backend's node answers the client itself, it has the one view only. */
	if (nat != NAT_NONE && !(is_reply && entry->flags & CT_DSR)) {
		CT_KEY *own = (CT_KEY *)&room->key, *key = (CT_KEY *)&room->counterpart_key;

		ct_key_of_packet(packet, own);

		/* That it is looked up also keeps it from being evicted. */
		__u32 swapped = counterpart_key(key, own, entry);
		CT_ENTRY *counterpart = ct_find(key);

		if (likely(counterpart && is_counterpart(counterpart, own, swapped))) {
			counterpart->flags = (counterpart->flags & ~CT_STATE) | (after & CT_STATE);
			counterpart->seen = entry->seen;
		} else if ((counterpart || !ct_create_counterpart(packet, entry, side)) && !is_reply) {
			/* Somebody else has its place: judged anew, the flow gets another. */
			entry->epoch = outdated();
		}
	}
	/* What was counted when it began, and is in the line no longer. Answers can be had for any question: they end no wait. */
	if (unlikely(after & ~before & CT_CONFIRMED) && ct_is_kept(after) && !(after & CT_PICKED_UP) &&
	    entry->born == (__u8)now)
		end_wait(entry->way[entry->opener & 1].ingress, nat == NAT_NONE ? 1 : 2);
	if (unlikely(!ct_is_over(packet->protocol, before) && ct_is_over(packet->protocol, after)))
		emit_end_event(packet, entry, nat, side, is_reply);
	return 0;
}

/* What a packet says of its flow's state. */
static __always_inline __overloadable __u32 ct_flags_of_packet(const PACKET *packet, bool by_opener)
{
	__u32 packet_flags = by_opener ? 0 : CT_REPLIED;

	if (packet->protocol != IPPROTO_TCP || packet->kind == PACKET_ERROR)
		return packet->kind == PACKET_ERROR ? 0 : packet_flags;
	if (unlikely(packet->flags & (TCP_SYN | TCP_RST | TCP_FIN))) {
		if (packet->flags & TCP_RST)
			return packet_flags | (by_opener ? CT_RESET : CT_RESET | CT_RESET_BY_REPLIER);
		if (packet->flags & TCP_FIN)
			return packet_flags | (by_opener ? CT_FIN_OPENER | CT_CONFIRMED : CT_FIN_REPLIER);
		return packet_flags;
	}
	return by_opener ? CT_CONFIRMED : packet_flags;
}

#define tcp_number_flags OF_FAMILY(tcp_number_flags)
/* The number of a segment, as CT_ANSWER: of one that goes against the opener's way its own, else what it acknowledges. None: a
 * reset (its number may be the one that was forged), and what acknowledges nothing. */
__noinline int tcp_number_flags(struct __sk_buff *skb, const PACKET *packet, __u32 is_reply)
{
	__be32 number;

	if (!packet || packet->protocol != IPPROTO_TCP || packet->kind == PACKET_ERROR ||
	    packet->kind == PACKET_LATER_FRAGMENT || packet->flags & TCP_RST ||
	    (!is_reply && !(packet->flags & TCP_ACK)))
		return 0;
	if (bpf_skb_load_bytes(skb,
			       packet->transport + (is_reply ? offsetof(struct tcp_header, sequence) :
							       offsetof(struct tcp_header, acknowledgement)),
			       &number, sizeof(number)))
		return 0;
	if (is_reply && packet->flags & TCP_SYN)
		return ((bpf_ntohl(number) + 1) & CT_NUMBER) | CT_NUMBERED | CT_BY_SYN;
	return (bpf_ntohl(number) & CT_NUMBER) | CT_NUMBERED;
}

/* The same besides what a packet says, where it counts: of answers, and of what comes after them, until one is acknowledged. */
static __always_inline __overloadable __u32 with_tcp_number(struct __sk_buff *skb, const PACKET *packet, __u32 flags,
							    __u32 packet_flags)
{
	if (packet->protocol != IPPROTO_TCP || flags & CT_CONFIRMED ||
	    !(packet_flags & CT_REPLIED || flags & CT_NUMBERED))
		return packet_flags;
	return packet_flags | tcp_number_flags(skb, packet, packet_flags & CT_REPLIED);
}

/* Writes down what the packet says of its flow's state. Once a second, and when a flag comes, not per packet: an entry
 * that is only read stays in every processor's cache. Returns for how many ticks no packet was written down. */
static __always_inline __overloadable __u32 ct_track(struct __sk_buff *skb, const PACKET *packet, CT_ENTRY *entry,
						     const struct ct_way *way, __u32 side, __u32 now)
{
	__u32 packet_flags = ct_flags_of_packet(packet, entry->opener == side);

	__u32 missing = packet_flags & ~entry->flags;

	if (packet->kind == PACKET_ERROR)
		return 0;
	/* Who goes on without an answer confirms nothing. */
	if (unlikely(entry->seen != now || entry->flags & CT_RESET ||
		     (missing && (missing != CT_CONFIRMED || entry->flags & CT_REPLIED)))) {
		__u32 quiet = now - entry->seen;

		ct_update_state(packet, entry, way->nat, with_tcp_number(skb, packet, entry->flags, packet_flags), now);
		return quiet;
	}
	return 0;
}
