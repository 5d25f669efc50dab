/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A translated flow has two entries. The forward entry has the addresses and ports that the opener sees. The reverse
 * entry (CT_NAT_REVERSE) has those that the other side sees, after NAT. Each entry names the other one, its
 * counterpart; it is the counterpart only if it names this entry, too. The two live and die together: state is
 * written to both, both are deleted together, and if one was evicted it is made again from the other. */

/* Writes the key of an entry's counterpart to `counterpart`. Returns whether the sides have swapped their indices
 * there. */
static __always_inline __overloadable __u32 counterpart_key(CT_KEY *counterpart, const CT_KEY *key,
							    const CT_ENTRY *entry)
{
	return ct_pack_key(counterpart, key->protocol, key->asker, &entry->nat_address[0], entry->nat_port[0],
			   &entry->nat_address[1], entry->nat_port[1]);
}

/* Whether an entry names the key as its counterpart's. */
static __always_inline __overloadable bool is_counterpart(const CT_ENTRY *entry, const CT_KEY *key, __u32 swapped)
{
	__u32 first = swapped & 1, second = first ^ 1;

	return equal(&entry->nat_address[first], &key->address[0]) && entry->nat_port[first] == key->port[0] &&
	       equal(&entry->nat_address[second], &key->address[1]) && entry->nat_port[second] == key->port[1];
}

/* Deletes both entries of a flow. `other_key` is room for a key. */
static __always_inline __overloadable void ct_delete(const CT_KEY *key, const CT_ENTRY *entry, CT_KEY *other_key)
{
	__u32 swapped = counterpart_key(other_key, key, entry);
	CT_ENTRY *other = bpf_map_lookup_elem(&MAP(conntrack), other_key);

	if (other && is_counterpart(other, key, swapped))
		bpf_map_delete_elem(&MAP(conntrack), other_key);
	bpf_map_delete_elem(&MAP(conntrack), key);
}

#define ct_overwrite OF_FAMILY(ct_overwrite)
/* Writes a new verdict into the existing entry of a flow, in place. With a new map element, other processors could
 * still write to the old one after another flow has got it. Until the last line a reader finds an epoch that is not
 * in force, and takes the slow path. */
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

/* Which addresses or ports of the opener's packets differ between the two entries, as NAT_*. */
static __always_inline __overloadable __u8 nat_between(const CT_ENTRY *entry, __u32 from, const ADDRESS *source,
						       __be16 source_port, const ADDRESS *destination,
						       __be16 destination_port)
{
	__u32 to = (from ^ 1) & 1;
	bool of_source = !equal(&entry->nat_address[from & 1], source) || entry->nat_port[from & 1] != source_port;
	bool of_destination = !equal(&entry->nat_address[to], destination) || entry->nat_port[to] != destination_port;

	return (of_source ? NAT_SOURCE : 0) | (of_destination ? NAT_DESTINATION : 0);
}

/* Fills the reverse entry from the forward one. `packet` is a packet of the opener, not translated. `reverse_from`
 * is the opener's index in the reverse entry. */
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
	/* If the packet goes through a queueing discipline or the host's stack, it passes the endpoint's host end
	 * once more, translated. */
	if (forward->way[from].via == VIA_HOST_END || forward->way[from].via == VIA_STACK)
		reverse->flags |= CT_TRANSLATED_EARLIER;
}

/* Fills the forward entry from the reverse one, for a packet of the other side. The entry does not know how the
 * opener's packets go on: their first one takes the slow path, and finds the old translation here. */
static __always_inline __overloadable void fill_forward_entry(CT_ENTRY *forward, const CT_ENTRY *reverse,
							      const PACKET *packet, __u32 side, __u32 swapped)
{
	/* `from` and `to` are the indices of opener and other side in the reverse entry, `forward_from` and
	 * `forward_to` those in the forward entry. */
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
/* Makes the missing counterpart of an entry, from a packet of the flow. Returns false if another flow has its place. */
__noinline int ct_create_counterpart(const PACKET *packet, const CT_ENTRY *entry, __u32 side)
{
	struct scratch *room = scratch_room();

	if (!room || !packet || !entry)
		return false;

	CT_KEY *key = &room->FIELD(counterpart_key), *own = &room->FIELD(key);
	CT_ENTRY *counterpart = &room->FIELD(counterpart);

	ct_key_of_packet(packet, own);

	__u32 swapped = counterpart_key(key, own, entry);

	if (entry->flags & CT_NAT_REVERSE)
		fill_forward_entry(counterpart, entry, packet, side, swapped);
	else
		fill_reverse_entry(counterpart, entry, packet, side, (side ^ swapped) & 1);
	return bpf_map_update_elem(&MAP(conntrack), key, counterpart, BPF_NOEXIST) == 0;
}
