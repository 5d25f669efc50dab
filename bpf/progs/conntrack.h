/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The memory of flows: one look-up tells an established packet all it needs. */

static __always_inline CT_ENTRY *FN(find)(const CT_KEY *key)
{
	return bpf_map_lookup_elem(&MAP(conntrack), key);
}

/* Whether the entry's verdict still holds for this packet. */
static __always_inline bool FN(is_current)(const CT_ENTRY *entry, const PACKET *packet, __u32 epoch)
{
	if (entry->epoch != epoch)
		return false;
	/* The ports of a flow that has ended are used for a new one. */
	return !((packet->flags & (TCP_SYN | TCP_ACK)) == TCP_SYN && is_closed(entry->flags));
}

/* Whether the flow's time is over and its ports may be given to another. */
static __always_inline bool FN(is_expired)(const CT_ENTRY *entry, __u8 protocol, __u32 now)
{
	return now - entry->seen > lifetime(protocol, entry->flags);
}

/* The other entry of a translated flow. That it is looked up also keeps it from being evicted. */
static __always_inline CT_ENTRY *FN(find_mate)(const PACKET *packet, const CT_ENTRY *entry, __u32 side)
{
	CT_KEY key;
	__u32 from = side & 1, to = from ^ 1;

	FN(make_key)(&key, packet, &entry->nat_address[from], entry->nat_port[from],
		     &entry->nat_address[to], entry->nat_port[to]);
	return FN(find)(&key);
}

static __always_inline void FN(tell_end)(const PACKET *packet, const CT_ENTRY *entry, __u8 nat, __u32 side,
					 bool against)
{
	__u32 zero = 0, what = TELL(EVENT_END, DROP_NONE, EVENT_NO_DIRECTION);
	struct scratch *room = scratch_room();
	struct node *state = bpf_map_lookup_elem(&node, &zero);

	if (!room || !state || !(state->events & EVENTS_FLOWS))
		return;

	PACKET inside = *packet;

	if (nat & NAT_DESTINATION) {
		inside.destination = entry->nat_address[(side ^ 1) & 1];
		inside.destination_port = entry->nat_port[(side ^ 1) & 1];
	}
	if (!FN(is_sampled)(&inside, state) || !within_budget(state))
		return;
	room->answer.rule = room->answer.log = 0;
	FN(tell)(&inside, against ? what | TELL_AGAINST : what, 0);
}

__noinline int FN(note)(const PACKET *packet, CT_ENTRY *entry, __u8 nat, __u32 flags, __u32 now)
{
	if (!packet || !entry)
		return 0;

	bool against = flags & CT_REPLIED;
	bool ends = !is_closed(entry->flags) && is_closed(entry->flags | flags);
	/* Who has reset sends nothing any more but resets; if it does, somebody else has forged it. */
	__u32 forged = packet->protocol == IPPROTO_TCP && !(flags & CT_RESET) && entry->flags & CT_RESET &&
				       against == !!(entry->flags & CT_RESET_BY_REPLIER) ?
			       CT_RESET | CT_RESET_BY_REPLIER :
			       0;
	__u32 side = (entry->opener ^ against) & 1;

	/* Two processors may write at once; at worst a flag comes with the next packet, and seen is the same. */
	entry->flags = (entry->flags & ~forged) | flags;
	entry->seen = now;
	if (nat != NAT_NONE) {
		CT_ENTRY *mate = FN(find_mate)(packet, entry, side);

		if (mate) {
			mate->flags = (mate->flags & ~forged) | flags;
			mate->seen = now;
		} else if (!against) {
			/* Evicted: judged anew, the flow gets it back. */
			entry->epoch--;
		}
	}
	if (unlikely(ends))
		FN(tell_end)(packet, entry, nat, side, against);
	return 0;
}

/* What a packet says of its flow's state. */
static __always_inline __u32 FN(tells)(const PACKET *packet, bool by_opener)
{
	__u32 flags = by_opener ? 0 : CT_REPLIED;

	if (packet->kind == PACKET_ERROR)
		return 0;
	if (packet->flags & TCP_RST)
		return flags | (by_opener ? CT_RESET : CT_RESET | CT_RESET_BY_REPLIER);
	if (packet->flags & TCP_FIN)
		return flags | (by_opener ? CT_FIN_OPENER : CT_FIN_REPLIER);
	return flags;
}

/* Writes down what the packet says of its flow's state. Once a second, and when a flag comes, not per packet: an entry
 * that is only read stays in every processor's cache. Returns for how many ticks no packet was written down. */
static __always_inline __u32 FN(track)(const PACKET *packet, CT_ENTRY *entry, const struct ct_way *way, __u32 side)
{
	__u32 flags = FN(tells)(packet, entry->opener == side);
	__u32 now = ticks();

	if (packet->kind == PACKET_ERROR)
		return 0;
	if (unlikely(entry->seen != now || (entry->flags & flags) != flags || entry->flags & CT_RESET)) {
		__u32 quiet = now - entry->seen;

		FN(note)(packet, entry, way->nat, flags, now);
		return quiet;
	}
	return 0;
}
