/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Flows that nobody has gone on from wait in line: half of the entries of conntrack at most are theirs; and with them what is confirmed
 * beyond its opener's share of the other half. Who comes when the line is
 * full takes the place of who came first, if that waits still. So a flood of what nobody answers, or nobody goes on from, takes
 * the place of its like alone, and the connections that are established stay. Those are not in the line, and their packets do
 * not look into it: an entry that is confirmed stays where it is, and is met by who takes its place in the line.
 */

#define WAITING struct JOIN(waiting, FAMILY)

/* Gives scratch->other_key's flow up, if it is the one that waited and waits still. */
static __always_inline __overloadable void waiting_evict(struct scratch *room, const CT_KEY *key, __u16 begun)
{
	CT_KEY *other = (CT_KEY *)&room->counterpart;
	CT_ENTRY *entry = ct_find(key), *counterpart;
	__u32 swapped;

	/* What has the key now may have come later. */
	if (!entry || entry->begun != begun || ct_is_kept(entry->flags))
		return;
	swapped = counterpart_key(other, key, entry);
	counterpart = ct_find(other);
	if (counterpart && is_counterpart(counterpart, key, swapped) && ct_is_kept(counterpart->flags))
		return;
	ct_delete(key, entry, other);
}

/* Puts an entry at the end of the line. */
static __always_inline __overloadable void waiting_push(struct scratch *room, const CT_KEY *key, __u16 begun)
{
	__u32 at = FAMILY == 6, *waited_so_far = bpf_map_lookup_elem(&waited, &at);
	WAITING *place;
	__u16 begun_before;

	if (!waited_so_far)
		return;
	at = __sync_fetch_and_add(waited_so_far, 1) % (waiting_entries ?: 1);
	place = bpf_map_lookup_elem(&MAP(waiting), &at);
	if (!place)
		return;
	*(CT_KEY *)&room->other_key = place->key;
	begun_before = place->begun;
	place->key = *key;
	place->begun = begun;
	/* Nobody has had the place yet: no flow is from nowhere to nowhere. */
	if (!is_zero(&((CT_KEY *)&room->other_key)->address[0]) || !is_zero(&((CT_KEY *)&room->other_key)->address[1]))
		waiting_evict(room, (CT_KEY *)&room->other_key, begun_before);
}

#define ct_wait_in_line OF_FAMILY(ct_wait_in_line)
/* Has the flow wait whose keys are scratch->key and scratch->counterpart_key. */
__noinline int ct_wait_in_line(enum wait_entries entries, __u32 begun)
{
	struct scratch *room = scratch_room();

	if (!room)
		return 0;
	if (entries & WAIT_FORWARD)
		waiting_push(room, (CT_KEY *)&room->key, begun);
	if (entries & WAIT_REVERSE)
		waiting_push(room, (CT_KEY *)&room->counterpart_key, begun);
	return 0;
}
