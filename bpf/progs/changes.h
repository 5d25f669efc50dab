/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Which flows a change concerns. For each change user space raises node.epoch. Before that it writes the new epoch into
 * `changes`, at the places that the change concerns: an address, a network, or everything. A conntrack entry holds the
 * epoch of its verdict. An established packet only compares that with the node's epoch. If they are equal, nothing has
 * changed. If not, the places of the flow's addresses are looked up: if all of them are older than the verdict, the
 * verdict holds and gets the new epoch. If a verdict depends on something that is at none of the flow's addresses, a
 * change of that concerns everything.
 *
 * User space writes the tables first, then the places in `changes`, then the epoch. The programs read in the opposite
 * order: the epoch, then the places, then the tables. So a verdict from tables that were read before a change has an
 * epoch from before the change. fence() keeps that order on processors that would not (arm64).
 *
 * Epochs are compared by their difference. Two addresses may share a place, and a place may be 2^31 changes old (a
 * daemon writes every place when it starts); both cost one slow path too many. A verdict could wrongly hold only for a
 * flow that was silent for 2^31 changes.
 */

static __always_inline __overloadable __u32 change_place_of_address(const ADDRESS *address)
{
	__u32 mixed = 0;

	for (int i = 0; i < WORDS; i++)
		mixed = mix_bits(mixed ^ address->word[i]);
	return CHANGED_ADDRESSES + mixed % CHANGED_ADDRESS_PLACES;
}

/* The place of the network that the address is in: its first 24 bits, of IPv6 the first 64. */
static __always_inline __overloadable __u32 change_place_of_network(const ADDRESS *address)
{
#if FAMILY == 4
	__u32 mixed = mix_bits(address->word[0] & bpf_htonl(0xffffff00));
#else
	__u32 mixed = mix_bits(mix_bits(address->word[0]) ^ address->word[1]);
#endif
	return CHANGED_NETWORKS + mixed % CHANGED_NETWORK_PLACES;
}

static __always_inline __overloadable bool is_unchanged(const ADDRESS *address, __u32 since)
{
	__u32 of_address = change_place_of_address(address), of_network = change_place_of_network(address);

	return !has_changed(of_address, since) && !has_changed(of_network, since);
}

#define verdict_holds OF_FAMILY(verdict_holds)
/* Whether a verdict of an earlier epoch still holds. If so, the entry gets the current epoch. */
__noinline int verdict_holds(const CT_KEY *key, CT_ENTRY *entry)
{
	__u32 zero = 0;
	struct scratch *room = scratch_room();
	struct node *state = bpf_map_lookup_elem(&node, &zero);

	if (!room || !state || !key || !entry)
		return false;

	__u32 since = entry->epoch, epoch = *(const volatile __u32 *)&state->epoch;

	fence(room);
	if (has_changed(CHANGED_EVERYTHING, since) || !is_unchanged(&key->address[0], since) ||
	    !is_unchanged(&key->address[1], since))
		return false;
	/* The addresses of the counterpart. They are zero if nothing is translated. */
	if (!is_zero(&entry->nat_address[0]) && !is_unchanged(&entry->nat_address[0], since))
		return false;
	if (!is_zero(&entry->nat_address[1]) && !is_unchanged(&entry->nat_address[1], since))
		return false;
	/* Nothing is written if another processor has written a new verdict meanwhile, or if the entry belongs to
	 * another flow by now. */
	__sync_val_compare_and_swap(&entry->epoch, since, epoch);
	return true;
}
