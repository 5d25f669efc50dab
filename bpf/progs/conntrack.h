/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The memory of flows. One look-up gives an established packet all that it needs. */

static __always_inline __overloadable CT_ENTRY *ct_find(const CT_KEY *key)
{
	return bpf_map_lookup_elem(&MAP(conntrack), key);
}

/* Whether a packet of the flow comes from the side that opened it. `side` is the index of its source in the key. */
static __always_inline __overloadable bool ct_is_from_opener(const CT_ENTRY *entry, __u32 side)
{
	return entry->opener == side;
}

/* Whether the flow's lifetime is over, so that its ports may go to another flow. */
static __always_inline __overloadable bool ct_is_expired(const CT_ENTRY *entry, __u8 protocol, __u32 now)
{
	__s32 age = now - entry->seen;

	/* Another processor may already have written a later tick: the difference is signed. */
	return age > (__s32)ct_lifetime(protocol, entry->flags);
}

/* Whether the verdict of the entry still holds for this packet. Every packet asks this, so the lifetime is looked at
 * only once a tick. */
static __always_inline __overloadable bool ct_is_current(const CT_KEY *key, CT_ENTRY *entry, const PACKET *packet,
							 __u32 side, __u32 epoch, __u32 now)
{
	if (unlikely(entry->epoch != epoch) && !verdict_holds(key, entry))
		return false;
	if (unlikely(entry->seen != now) && ct_is_expired(entry, packet->protocol, now))
		return false;
	/* A SYN may open a new flow with the ports of one that has ended. A SYN of the side that did not open the
	 * flow needs a verdict of its own: policy has allowed only the other side. */
	return !(is_opening(packet->flags) &&
		 (!ct_is_from_opener(entry, side) || ct_is_over(packet->protocol, entry->flags)));
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

/* CT_HOLDS_PORT, if the other side of a translated connection finishes first. */
static __always_inline __overloadable __u32 ct_holds_port(const PACKET *packet, const CT_ENTRY *entry, __u8 nat,
							  __u32 packet_flags)
{
	/* Only in the reply direction is the destination translated where the opener's source is. */
	return packet_flags & CT_FIN_REPLIER && !(entry->flags & CT_FIN_OPENER) && nat & NAT_DESTINATION ?
		       CT_HOLDS_PORT :
		       0;
}

/* Whether a flow that is confirmed now leaves the waiting line. Flows from the network are bounded if a sender can
 * make them without hearing an answer: UDP streams, and connections whose answers go past this node. */
static __always_inline __overloadable bool ct_may_stop_waiting(const PACKET *packet, const CT_ENTRY *entry, __u8 nat)
{
	const struct ct_way *way = &entry->way[entry->opener & 1];
	bool unheard = packet->protocol != IPPROTO_TCP || (entry->flags & CT_DSR && way->nat & NAT_DESTINATION);

	return may_keep(way->ingress, FAMILY == 6, nat == NAT_NONE ? 1 : 2, way->ingress || unheard);
}

#define ct_update_state OF_FAMILY(ct_update_state)
/* Writes the state after a packet into both entries of its flow. `packet_flags` is as in ct_flags_after. */
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
	/* Two processors may write at once, without a lock. The later write wins and can lose a flag that the other
	 * one has just set. The next packet or a retransmission sets the flag again. If none comes, the entry keeps
	 * the lifetime of its former state. Packets that were still under way when the connection was reset do not
	 * prolong the flow. */
	entry->flags = after;
	if (!(after & CT_RESET) || packet_flags & CT_RESET)
		entry->seen = now;
	if (entry->way[side].via == VIA_UPLINK && (__u16)(now - entry->way[side].routed) > ROUTED_MOST)
		entry->epoch = outdated();
	/* Where the backend's node answers the client directly, that node has only one entry of the flow. */
	if (nat != NAT_NONE && !(is_reply && entry->flags & CT_DSR)) {
		CT_KEY *own = &room->FIELD(key), *key = &room->FIELD(counterpart_key);

		ct_key_of_packet(packet, own);

		/* The look-up also keeps the entry from being evicted. */
		__u32 swapped = counterpart_key(key, own, entry);
		CT_ENTRY *counterpart = ct_find(key);

		if (likely(counterpart && is_counterpart(counterpart, own, swapped))) {
			counterpart->flags = (counterpart->flags & ~CT_STATE) | (after & CT_STATE);
			counterpart->seen = entry->seen;
		} else if ((counterpart || !ct_create_counterpart(packet, entry, side)) && !is_reply) {
			/* Another flow has the place of the counterpart. The slow path gives this flow another one. */
			entry->epoch = outdated();
		}
	}
	/* The opener's account gets back what it was charged when the flow began, because the flow has left the
	 * line. Anybody can get answers to something, so an answer alone does not do that. */
	if (unlikely(after & ~before & CT_CONFIRMED) && ct_is_kept(after) && !(after & CT_PICKED_UP) &&
	    entry->born == (__u8)now)
		end_wait(entry->way[entry->opener & 1].ingress, nat == NAT_NONE ? 1 : 2);
	if (unlikely(!ct_is_over(packet->protocol, before) && ct_is_over(packet->protocol, after)))
		emit_end_event(packet, entry, nat, side, is_reply);
	return 0;
}

/* What a packet says about the state of its flow, as CT_* flags. */
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
/* The sequence number of a TCP segment, as CT_ANSWER: its own number in a reply, and the number that it acknowledges
 * in a packet of the opener. A reset has none, because its number may be forged. A segment that acknowledges nothing
 * has none. */
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

/* `packet_flags` with the sequence number of the segment, where it is needed: in replies, and in the packets after
 * them until one of them acknowledges a reply. */
static __always_inline __overloadable __u32 with_tcp_number(struct __sk_buff *skb, const PACKET *packet, __u32 flags,
							    __u32 packet_flags)
{
	if (packet->protocol != IPPROTO_TCP || flags & CT_CONFIRMED ||
	    !(packet_flags & CT_REPLIED || flags & CT_NUMBERED))
		return packet_flags;
	return packet_flags | tcp_number_flags(skb, packet, packet_flags & CT_REPLIED);
}

/* Writes the state after a packet into the entry: once a tick, and when a flag changes. It does not write for every
 * packet, because an entry that is only read stays in the cache of every processor. Returns for how many ticks the
 * flow was silent. */
static __always_inline __overloadable __u32 ct_track(struct __sk_buff *skb, const PACKET *packet, CT_ENTRY *entry,
						     const struct ct_way *way, __u32 side, __u32 now)
{
	__u32 packet_flags = ct_flags_of_packet(packet, ct_is_from_opener(entry, side));

	__u32 missing = packet_flags & ~entry->flags;

	if (packet->kind == PACKET_ERROR)
		return 0;
	/* An opener that goes on without an answer confirms nothing. */
	if (unlikely(entry->seen != now || entry->flags & CT_RESET ||
		     (missing && (missing != CT_CONFIRMED || entry->flags & CT_REPLIED)))) {
		__u32 quiet = now - entry->seen;

		ct_update_state(packet, entry, way->nat, with_tcp_number(skb, packet, entry->flags, packet_flags), now);
		return quiet;
	}
	return 0;
}
