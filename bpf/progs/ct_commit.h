/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Remembering a flow that was judged. */

/* Two processors have judged the first packets of a flow at once, and the other one was first: this packet goes as that one. */
static __always_inline __overloadable int ct_yield_to(struct scratch *room, const CT_ENTRY *winner, CT_ENTRY *entry)
{
	CT_KEY *key = (CT_KEY *)&room->key, *counterpart = (CT_KEY *)&room->counterpart_key,
	       *own = (CT_KEY *)&room->other_key;
	__u32 swapped = counterpart_key(own, key, entry);

	/* Both may have found the same place. */
	if (!is_counterpart(winner, counterpart, swapped))
		bpf_map_delete_elem(&MAP(conntrack), counterpart);
	*entry = *winner;
	room->flags = entry->flags;
	return PARSED;
}

/* Stores scratch->entry. A flow that is not translated passes without. */
static __always_inline __overloadable int ct_insert(struct scratch *room, const CT_KEY *key, CT_ENTRY *entry, __u8 nat,
						    bool claimed)
{
	CT_ENTRY *place;

	if (!room->known) {
		if (likely(bpf_map_update_elem(&MAP(conntrack), key, entry, BPF_NOEXIST) == 0))
			return PARSED;
		place = ct_find(key);
		if (place && claimed)
			return ct_yield_to(room, place, entry);
	}
	place = ct_find(key);
	if (place) {
		ct_overwrite(place, entry);
		return PARSED;
	}
	if (likely(bpf_map_update_elem(&MAP(conntrack), key, entry, BPF_ANY) == 0))
		return PARSED;
	if (claimed)
		bpf_map_delete_elem(&MAP(conntrack), (CT_KEY *)&room->counterpart_key);
	if (nat != NAT_NONE)
		return DROP_CONNTRACK_FULL;
	count(COUNTER_UNTRACKED);
	return PARSED;
}

/* Stores scratch->entry of the flow of a packet that was judged; and its mate, if this packet opens a translated one. */
static __always_inline __overloadable int ct_store(struct __sk_buff *skb, struct scratch *room, const PACKET *packet,
						   __u32 side)
{
	CT_ENTRY *entry = (CT_ENTRY *)&room->entry;
	CT_KEY *key = (CT_KEY *)&room->key;
	const PACKET *translated = (PACKET *)&room->packet;
	__u32 from = side & 1, to = from ^ 1;
	struct ct_way *way = &entry->way[from];

	if (entry->opener != from)
		return ct_insert(room, key, entry, way->nat, false);

	bool source_changes = way->nat & NAT_SOURCE;
	bool destination_changes = !equal(&translated->destination, &packet->destination) ||
				   translated->destination_port != packet->destination_port;

	if (!source_changes && !destination_changes && (room->has_dsr_option || entry->flags & CT_DSR)) {
		if (room->has_dsr_option) {
			entry->flags |= CT_DSR;
			entry->nat_address[from] = packet->source;
			entry->nat_port[from] = packet->source_port;
			entry->nat_address[to] = *(const ADDRESS *)&room->dsr_address;
			entry->nat_port[to] = room->dsr_port;
		}
		entry->way[to].nat = NAT_SOURCE;
		return ct_insert(room, key, entry, NAT_SOURCE, false);
	}
	if (!source_changes && !destination_changes) {
		__builtin_memset(entry->nat_address, 0, sizeof(entry->nat_address));
		__builtin_memset(entry->nat_port, 0, sizeof(entry->nat_port));
		return ct_insert(room, key, entry, NAT_NONE, false);
	}
	if (!source_changes && !equal(&entry->nat_address[from], &packet->source)) {
		entry->nat_address[from] = packet->source;
		entry->nat_port[from] = 0;
	}
	entry->nat_address[to] = translated->destination;
	entry->nat_port[to] = translated->destination_port;

	int reason = claim_source_port(skb, packet, from, source_changes ? CLAIM_OF_NODE : 0);

	return reason ? reason : ct_insert(room, key, entry, way->nat, true);
}

#define ct_commit OF_FAMILY(ct_commit)
/* Remembers the flow of a packet that was judged, as it is after this packet. */
__noinline int ct_commit(struct __sk_buff *skb, const PACKET *packet, const CT_KEY *flow, __u32 side)
{
	struct scratch *room = scratch_room();

	if (!room || !packet || !flow)
		return DROP_INTERNAL;

	CT_ENTRY *entry = (CT_ENTRY *)&room->entry;
	__u32 packet_flags, entries = entry->way[side & 1].nat == NAT_NONE ? 1 : 2;
	int reason;

	/* Who sends pays: a segment that looks like an answer makes the other side the opener. */
	if (room->begins && entry->way[side & 1].ingress && !may_open(entry->way[side & 1].ingress, entries, room->now))
		return DROP_OPENING_SHARE;
	room->flags = entry->flags;
	*(CT_KEY *)&room->key = *flow;
	packet_flags = with_tcp_number(skb, packet, entry->flags, ct_flags_of_packet(packet, entry->opener == side));
	if (packet->kind != PACKET_ERROR)
		entry->flags = ct_flags_after(packet->protocol, entry->flags,
					      packet_flags | ct_holds_port(packet, entry, entry->way[side & 1].nat,
									   packet_flags),
					      entry->seen, room->seen, entry->born);
	reason = ct_store(skb, room, packet, side);
	/* Where the backend's node answers the client itself, there is the one view only. */
	if (room->begins && !reason)
		ct_wait_in_line(entries > 1 && !(entry->flags & CT_DSR) ? WAIT_FORWARD | WAIT_REVERSE : WAIT_FORWARD,
				entry->begun);
	/* In scratch it is as it was, so that track() sees the change, tells of an end and has the mate know. */
	entry->flags = room->flags | (entry->flags & CT_DSR);
	return reason;
}
