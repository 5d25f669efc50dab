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

/* The other entry of a masqueraded flow. That it is looked up also keeps it from being evicted. An echo's identifier,
 * which changes, stands on both sides. */
static __always_inline CT_ENTRY *FN(find_mate)(const PACKET *packet, const CT_ENTRY *entry, __u8 nat)
{
	CT_KEY key;
	bool echo = is_icmp(packet->protocol);

	if (nat == NAT_SOURCE)
		FN(make_key)(&key, packet->protocol, &entry->nat_address, entry->nat_port, &packet->destination,
			     echo ? entry->nat_port : packet->destination_port);
	else
		FN(make_key)(&key, packet->protocol, &packet->source, echo ? entry->nat_port : packet->source_port,
			     &entry->nat_address, entry->nat_port);
	return FN(find)(&key);
}

static __always_inline void FN(tell_end)(const PACKET *packet, const CT_ENTRY *entry, __u8 nat, bool against)
{
	__u32 zero = 0, what = TELL(EVENT_END, DROP_NONE, EVENT_NO_DIRECTION);
	struct scratch *room = scratch_room();
	struct node *state = bpf_map_lookup_elem(&node, &zero);

	if (!room || !state || !(state->events & EVENTS_FLOWS) || !FN(is_sampled)(packet, state) ||
	    !within_budget(state))
		return;
	room->answer.rule = room->answer.log = 0;
	room->icmp = 0;
	if (nat == NAT_DESTINATION) {
		PACKET inside = *packet;

		inside.destination = entry->nat_address;
		inside.destination_port = entry->nat_port;
		FN(tell)(&inside, what | TELL_AGAINST, 0);
	} else {
		FN(tell)(packet, what | (against ? TELL_AGAINST : 0), 0);
	}
}

__noinline int FN(note)(const PACKET *packet, CT_ENTRY *entry, __u8 nat, __u32 flags, __u32 now)
{
	if (!packet || !entry)
		return 0;

	bool ends = !is_closed(entry->flags) && is_closed(entry->flags | flags);

	/* Two processors may write at once; at worst a flag comes with the next packet, and seen is the same. */
	entry->flags |= flags;
	entry->seen = now;
	if (nat != NAT_NONE) {
		CT_ENTRY *mate = FN(find_mate)(packet, entry, nat);

		if (mate) {
			mate->flags |= flags;
			mate->seen = now;
		} else if (nat == NAT_SOURCE) {
			/* Evicted: judged anew, the flow gets it back. */
			entry->epoch--;
		}
	}
	if (unlikely(ends))
		FN(tell_end)(packet, entry, nat, flags & CT_REPLIED);
	return 0;
}

/* Writes down what the packet says of its flow's state. Once a second, and when a flag comes, not per packet: an entry
 * that is only read stays in every processor's cache. */
static __always_inline void FN(track)(const PACKET *packet, CT_ENTRY *entry, const struct ct_way *way, __u32 side)
{
	bool by_opener = entry->opener == side;
	__u32 flags = by_opener ? 0 : CT_REPLIED;
	__u32 now = ticks();

	if (packet->kind == PACKET_ERROR)
		return;
	if (packet->flags & TCP_RST)
		flags |= CT_RESET;
	else if (packet->flags & TCP_FIN)
		flags |= by_opener ? CT_FIN_OPENER : CT_FIN_REPLIER;
	if (unlikely(entry->seen != now || (entry->flags & flags) != flags))
		FN(note)(packet, entry, way->nat, flags, now);
}
