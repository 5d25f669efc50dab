/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A flow that its opener has not gone on with waits in a line. Waiting flows have at most half of the entries of
 * conntrack. Confirmed flows beyond their opener's share of the other half wait in the line, too. When the line is
 * full, a new flow takes the place of the flow that came first, if that one still waits. So a flood of flows that
 * nobody answers, or that nobody goes on with, displaces only its like, and established connections stay. A packet
 * of an established connection does not look into the line: a confirmed entry stays in the line until its place is
 * given away, and is left alone then. */

#define WAITING struct JOIN(waiting, FAMILY)

/* Deletes the flow of `key`, if it is the flow that entered the line and if it still waits. */
static __always_inline __overloadable void waiting_evict(struct scratch *room, const CT_KEY *key, __u16 begun)
{
	/* Nobody needs the counterpart in scratch any more, so its room holds a key. */
	CT_KEY *other = (CT_KEY *)&room->FIELD(counterpart);
	CT_ENTRY *entry = ct_find(key), *counterpart;
	__u32 swapped;

	/* Another flow may have the key by now. */
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
	room->FIELD(other_key) = place->key;
	begun_before = place->begun;
	place->key = *key;
	place->begun = begun;
	/* A place that was never used has a key of zeroes; no flow has such a key. */
	if (!is_zero(&room->FIELD(other_key).address[0]) || !is_zero(&room->FIELD(other_key).address[1]))
		waiting_evict(room, &room->FIELD(other_key), begun_before);
}

#define ct_wait_in_line OF_FAMILY(ct_wait_in_line)
/* Puts the flow of scratch->key and scratch->counterpart_key into the line. */
__noinline int ct_wait_in_line(enum wait_entries entries, __u32 begun)
{
	struct scratch *room = scratch_room();

	if (!room)
		return 0;
	if (entries & WAIT_FORWARD)
		waiting_push(room, &room->FIELD(key), begun);
	if (entries & WAIT_REVERSE)
		waiting_push(room, &room->FIELD(counterpart_key), begun);
	return 0;
}
