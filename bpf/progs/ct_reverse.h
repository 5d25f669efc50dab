/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The two views of a translated flow: its entry as the opener sees it (near), and as the other side does (far). Each names the
 * other, and counts as its mate if that names it, too. They live and die together: who takes note of one takes note of the
 * other, who forgets one forgets both, and each is made again from the other when it was evicted.
 */

/* The key of an entry's mate. Whether the sides are the other way round there. */
static __always_inline __overloadable __u32 counterpart_key(CT_KEY *counterpart, const CT_KEY *key,
							    const CT_ENTRY *entry)
{
	return ct_pack_key(counterpart, key->protocol, key->asker, &entry->nat_address[0], entry->nat_port[0],
			   &entry->nat_address[1], entry->nat_port[1]);
}

/* Whether an entry names that key as its mate's. */
static __always_inline __overloadable bool is_counterpart(const CT_ENTRY *entry, const CT_KEY *key, __u32 swapped)
{
	__u32 first = swapped & 1, second = first ^ 1;

	return equal(&entry->nat_address[first], &key->address[0]) && entry->nat_port[first] == key->port[0] &&
	       equal(&entry->nat_address[second], &key->address[1]) && entry->nat_port[second] == key->port[1];
}

/* Forgets a flow, in both views. `other_key` is room for a key. */
static __always_inline __overloadable void ct_delete(const CT_KEY *key, const CT_ENTRY *entry, CT_KEY *other_key)
{
	__u32 swapped = counterpart_key(other_key, key, entry);
	CT_ENTRY *other = bpf_map_lookup_elem(&MAP(conntrack), other_key);

	if (other && is_counterpart(other, key, swapped))
		bpf_map_delete_elem(&MAP(conntrack), other_key);
	bpf_map_delete_elem(&MAP(conntrack), key);
}

#define ct_overwrite OF_FAMILY(ct_overwrite)
/*
 * Writes what was judged into the entry of the flow, in its place: a new element would leave this one to another flow while
 * other processors still write into it. Who reads meanwhile has an epoch that is not in force, and judges.
 */
__noinline int ct_overwrite(CT_ENTRY *place, const CT_ENTRY *entry)
{
	struct scratch *room = scratch_room();

	if (!room || !place || !entry)
		return 0;
	place->epoch = outdated();
	fence(room);
	place->seen = entry->seen;
	place->flags = entry->flags;
	place->service = entry->service;
	place->opener = entry->opener;
	place->born = entry->born;
	place->begun = entry->begun;
	place->nat_port[0] = entry->nat_port[0];
	place->nat_port[1] = entry->nat_port[1];
	place->nat_address[0] = entry->nat_address[0];
	place->nat_address[1] = entry->nat_address[1];
	place->next_hop = entry->next_hop;
	place->way[0] = entry->way[0];
	place->way[1] = entry->way[1];
	fence(room);
	place->epoch = entry->epoch;
	return 0;
}

/* Which end of the opener's packets differs between the two views. */
static __always_inline __overloadable __u8 nat_between(const CT_ENTRY *entry, __u32 from, const ADDRESS *source,
						       __be16 source_port, const ADDRESS *destination,
						       __be16 destination_port)
{
	__u32 to = (from ^ 1) & 1;
	bool of_source = !equal(&entry->nat_address[from & 1], source) || entry->nat_port[from & 1] != source_port;
	bool of_destination = !equal(&entry->nat_address[to], destination) || entry->nat_port[to] != destination_port;

	return (of_source ? NAT_SOURCE : 0) | (of_destination ? NAT_DESTINATION : 0);
}

/* Fills in the far view of a near one. `packet` goes the opener's way, as the opener sees it; `reverse_from` is the opener's index
 * in the far view. */
static __always_inline __overloadable void fill_reverse_entry(CT_ENTRY *reverse, const CT_ENTRY *forward,
							      const PACKET *packet, __u32 side, __u32 reverse_from)
{
	__u32 from = side & 1, to = from ^ 1, reverse_to = (reverse_from ^ 1) & 1;
	__u8 nat = nat_between(forward, from, &packet->source, packet->source_port, &packet->destination,
			       packet->destination_port);

	reverse_from &= 1;
	__builtin_memset(reverse, 0, sizeof(*reverse));
	reverse->epoch = forward->epoch;
	reverse->seen = forward->seen;
	reverse->flags = forward->flags | CT_NAT_REVERSE;
	reverse->service = forward->service;
	reverse->opener = reverse_from;
	reverse->born = forward->born;
	reverse->begun = forward->begun;
	reverse->nat_address[reverse_from] = packet->source;
	reverse->nat_port[reverse_from] = packet->source_port;
	reverse->nat_address[reverse_to] = packet->destination;
	reverse->nat_port[reverse_to] = packet->destination_port;
	reverse->way[reverse_to] = forward->way[to];
	reverse->way[reverse_to].nat = reverse_nat(nat);
	reverse->way[reverse_from].ingress = forward->way[from].ingress;
	reverse->way[reverse_from].egress = forward->way[from].egress;
	/* Where a queueing discipline or the host's stack leads on, the opener's packets pass the endpoint's host end translated. */
	if (forward->way[from].via == VIA_HOST_END || forward->way[from].via == VIA_STACK)
		reverse->flags |= CT_TRANSLATED_EARLIER;
}

/*
 * Fills in the near view of a far one, for a packet that goes against the opener's way, as the other side sees it. How the
 * opener's packets go on is not known: the first of them is judged, and finds what the flow was translated to.
 */
static __always_inline __overloadable void fill_forward_entry(CT_ENTRY *forward, const CT_ENTRY *reverse,
							      const PACKET *packet, __u32 side, __u32 swapped)
{
	/* In the far view, the opener's index and that of who answers; the same in the near one. */
	__u32 to = side & 1, from = to ^ 1, forward_from = (from ^ swapped) & 1, forward_to = forward_from ^ 1;

	__builtin_memset(forward, 0, sizeof(*forward));
	forward->epoch = outdated();
	forward->seen = reverse->seen;
	forward->flags = reverse->flags & ~(CT_NAT_REVERSE | CT_TRANSLATED_EARLIER);
	forward->service = reverse->service;
	forward->opener = forward_from;
	forward->born = reverse->born;
	forward->begun = reverse->begun;
	forward->nat_address[forward_from] = packet->destination;
	forward->nat_port[forward_from] = packet->destination_port;
	forward->nat_address[forward_to] = packet->source;
	forward->nat_port[forward_to] = packet->source_port;
	forward->way[forward_from].ingress = reverse->way[from].ingress;
	forward->way[forward_to].ingress = reverse->way[to].ingress;
	forward->way[forward_from].nat = reverse_nat(reverse->way[to].nat);
}

#define ct_create_counterpart OF_FAMILY(ct_create_counterpart)
/*
 * Makes the mate of an entry that has none, from a packet of the flow. False if somebody else has its place.
 */
__noinline int ct_create_counterpart(const PACKET *packet, const CT_ENTRY *entry, __u32 side)
{
	struct scratch *room = scratch_room();

	if (!room || !packet || !entry)
		return false;

	CT_KEY *key = (CT_KEY *)&room->counterpart_key, *own = (CT_KEY *)&room->key;
	CT_ENTRY *counterpart = (CT_ENTRY *)&room->counterpart;

	ct_key_of_packet(packet, own);

	__u32 swapped = counterpart_key(key, own, entry);

	if (entry->flags & CT_NAT_REVERSE)
		fill_forward_entry(counterpart, entry, packet, side, swapped);
	else
		fill_reverse_entry(counterpart, entry, packet, side, (side ^ swapped) & 1);
	return bpf_map_update_elem(&MAP(conntrack), key, counterpart, BPF_NOEXIST) == 0;
}
