/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Storing the verdict of the slow path in conntrack. */

/* Two processors had the first packets of one flow at the same time, and the other one was faster. This packet takes
 * the other one's entry. */
static __always_inline __overloadable int ct_yield_to(struct scratch *room, const CT_ENTRY *winner, CT_ENTRY *entry)
{
	CT_KEY *key = &room->FIELD(key), *counterpart = &room->FIELD(counterpart_key), *own = &room->FIELD(other_key);
	__u32 swapped = counterpart_key(own, key, entry);

	/* Both processors may have claimed the same reverse entry. */
	if (!is_counterpart(winner, counterpart, swapped))
		bpf_map_delete_elem(&MAP(conntrack), counterpart);
	*entry = *winner;
	room->flags = entry->flags;
	return PARSED;
}

/* Stores scratch->entry. If there is no room, a flow that is not translated passes without an entry. */
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
		bpf_map_delete_elem(&MAP(conntrack), &room->FIELD(counterpart_key));
	if (nat != NAT_NONE)
		return DROP_CONNTRACK_FULL;
	count(COUNTER_UNTRACKED);
	return PARSED;
}

/* Stores scratch->entry, and the reverse entry if this packet opens a translated flow. */
static __always_inline __overloadable int ct_store(struct __sk_buff *skb, struct scratch *room, const PACKET *packet,
						   __u32 side)
{
	CT_ENTRY *entry = &room->FIELD(entry);
	CT_KEY *key = &room->FIELD(key);
	const PACKET *translated = (PACKET *)&room->packet;
	__u32 from = side & 1, to = from ^ 1;
	struct ct_way *way = &entry->way[from];

	if (!ct_is_from_opener(entry, from))
		return ct_insert(room, key, entry, way->nat, false);

	bool source_changes = way->nat & NAT_SOURCE;
	bool destination_changes = !equal(&translated->destination, &packet->destination) ||
				   translated->destination_port != packet->destination_port;

	if (!source_changes && !destination_changes && (room->has_dsr_option || entry->flags & CT_DSR)) {
		if (room->has_dsr_option) {
			entry->flags |= CT_DSR;
			entry->nat_address[from] = packet->source;
			entry->nat_port[from] = packet->source_port;
			entry->nat_address[to] = room->FIELD(dsr_address);
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

	/* What answers a service comes as its backend, and meets the reverse entry. So who answers as the service meets
	 * the slow path, which refuses it. */
	if (destination_changes)
		entry->way[to].via = VIA_UNKNOWN;
	return reason ? reason : ct_insert(room, key, entry, way->nat, true);
}

#define ct_commit OF_FAMILY(ct_commit)
/* Stores the flow of a packet that the slow path has let pass, with the state after this packet. */
__noinline int ct_commit(struct __sk_buff *skb, const PACKET *packet, const CT_KEY *flow, __u32 side)
{
	struct scratch *room = scratch_room();

	if (!room || !packet || !flow)
		return DROP_INTERNAL;

	CT_ENTRY *entry = &room->FIELD(entry);
	__u32 packet_flags, entries = entry->way[side & 1].nat == NAT_NONE ? 1 : 2;
	int reason;

	/* The sender's account is charged, also where turn_if_answer has made the other side the opener. */
	if (room->begins && entry->way[side & 1].ingress && !may_open(entry->way[side & 1].ingress, entries, room->now))
		return DROP_OPENING_SHARE;
	room->flags = entry->flags;
	room->FIELD(key) = *flow;
	packet_flags =
		with_tcp_number(skb, packet, entry->flags, ct_flags_of_packet(packet, ct_is_from_opener(entry, side)));
	if (packet->kind != PACKET_ERROR)
		entry->flags = ct_flags_after(packet->protocol, entry->flags,
					      packet_flags | ct_holds_port(packet, entry, entry->way[side & 1].nat,
									   packet_flags),
					      entry->seen, room->seen, entry->born);
	reason = ct_store(skb, room, packet, side);
	/* Where the backend's node answers the client directly, that node has only one entry of the flow. */
	if (room->begins && !reason)
		ct_wait_in_line(entries > 1 && !(entry->flags & CT_DSR) ? WAIT_FORWARD | WAIT_REVERSE : WAIT_FORWARD,
				entry->begun);
	/* scratch->entry gets back the state before this packet, so that ct_track() sees a change, emits the event
	 * of an end, and updates the counterpart. */
	entry->flags = room->flags | (entry->flags & CT_DSR);
	return reason;
}
