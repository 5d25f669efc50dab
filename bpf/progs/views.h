/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The two views of a translated flow: its entry as the opener sees it (near), and as the other side does (far). Each names the
 * other, and counts as its mate if that names it, too. They live and die together: who takes note of one takes note of the
 * other, who forgets one forgets both, and each is made again from the other when it was evicted.
 */

/* The key of an entry's mate. Whether the sides are the other way round there. */
static __always_inline __overloadable __u32 counterpart_key(CT_KEY *mate, const CT_KEY *key, const CT_ENTRY *entry)
{
	return ct_pack_key(mate, key->protocol, key->asker, &entry->nat_address[0], entry->nat_port[0],
			   &entry->nat_address[1], entry->nat_port[1]);
}

/* Whether an entry names that key as its mate's. */
static __always_inline __overloadable bool is_counterpart(const CT_ENTRY *entry, const CT_KEY *key, __u32 turned)
{
	__u32 first = turned & 1, second = first ^ 1;

	return equal(&entry->nat_address[first], &key->address[0]) && entry->nat_port[first] == key->port[0] &&
	       equal(&entry->nat_address[second], &key->address[1]) && entry->nat_port[second] == key->port[1];
}

/* Forgets a flow, in both views. `mate` is room for a key. */
static __always_inline __overloadable void ct_delete(const CT_KEY *key, const CT_ENTRY *entry, CT_KEY *mate)
{
	__u32 turned = counterpart_key(mate, key, entry);
	CT_ENTRY *other = bpf_map_lookup_elem(&MAP(conntrack), mate);

	if (other && is_counterpart(other, key, turned))
		bpf_map_delete_elem(&MAP(conntrack), mate);
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

/* Fills in the far view of a near one. `packet` goes the opener's way, as the opener sees it; `mate_from` is the opener's index
 * in the far view. */
static __always_inline __overloadable void fill_reverse_entry(CT_ENTRY *mate, const CT_ENTRY *entry,
							      const PACKET *packet, __u32 side, __u32 mate_from)
{
	__u32 from = side & 1, to = from ^ 1, mate_to = (mate_from ^ 1) & 1;
	__u8 nat = nat_between(entry, from, &packet->source, packet->source_port, &packet->destination,
			       packet->destination_port);

	mate_from &= 1;
	__builtin_memset(mate, 0, sizeof(*mate));
	mate->epoch = entry->epoch;
	mate->seen = entry->seen;
	mate->flags = entry->flags | CT_FAR_VIEW;
	mate->service = entry->service;
	mate->opener = mate_from;
	mate->born = entry->born;
	mate->begun = entry->begun;
	mate->nat_address[mate_from] = packet->source;
	mate->nat_port[mate_from] = packet->source_port;
	mate->nat_address[mate_to] = packet->destination;
	mate->nat_port[mate_to] = packet->destination_port;
	mate->way[mate_to] = entry->way[to];
	mate->way[mate_to].nat = back_of(nat);
	mate->way[mate_from].ingress = entry->way[from].ingress;
	mate->way[mate_from].egress = entry->way[from].egress;
	/* Where a queueing discipline or the host's stack leads on, the opener's packets pass the endpoint's host end translated. */
	if (entry->way[from].via == VIA_HOST_END || entry->way[from].via == VIA_STACK)
		mate->flags |= CT_SEEN_ON_WAY;
}

/*
 * Fills in the near view of a far one, for a packet that goes against the opener's way, as the other side sees it. How the
 * opener's packets go on is not known: the first of them is judged, and finds what the flow was translated to.
 */
static __always_inline __overloadable void fill_forward_entry(CT_ENTRY *mate, const CT_ENTRY *entry,
							      const PACKET *packet, __u32 side, __u32 turned)
{
	/* In the far view, the opener's index and that of who answers; the same in the near one. */
	__u32 to = side & 1, from = to ^ 1, mate_from = (from ^ turned) & 1, mate_to = mate_from ^ 1;

	__builtin_memset(mate, 0, sizeof(*mate));
	mate->epoch = outdated();
	mate->seen = entry->seen;
	mate->flags = entry->flags & ~(CT_FAR_VIEW | CT_SEEN_ON_WAY);
	mate->service = entry->service;
	mate->opener = mate_from;
	mate->born = entry->born;
	mate->begun = entry->begun;
	mate->nat_address[mate_from] = packet->destination;
	mate->nat_port[mate_from] = packet->destination_port;
	mate->nat_address[mate_to] = packet->source;
	mate->nat_port[mate_to] = packet->source_port;
	mate->way[mate_from].ingress = entry->way[from].ingress;
	mate->way[mate_to].ingress = entry->way[to].ingress;
	mate->way[mate_from].nat = back_of(entry->way[to].nat);
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

	CT_KEY *key = (CT_KEY *)&room->mate_key, *own = (CT_KEY *)&room->key;
	CT_ENTRY *mate = (CT_ENTRY *)&room->mate;

	ct_key_of_packet(packet, own);

	__u32 turned = counterpart_key(key, own, entry);

	if (entry->flags & CT_FAR_VIEW)
		fill_forward_entry(mate, entry, packet, side, turned);
	else
		fill_reverse_entry(mate, entry, packet, side, (side ^ turned) & 1);
	return bpf_map_update_elem(&MAP(conntrack), key, mate, BPF_NOEXIST) == 0;
}
