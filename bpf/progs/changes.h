/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Which flows a change concerns. Each change raises node.epoch, and writes the new number down at what it concerns, before:
 * at an address, at a network, or at everything (`changes`). An entry holds the epoch that it was judged in. If that is the
 * node's, which an established packet looks at and nothing else, nothing has changed; if not, but nothing has changed about
 * any of the flow's addresses since, the verdict holds and gets the new number. What a verdict follows from that has no
 * address of the flow in it concerns everything.
 *
 * User space writes: the tables, then the places in `changes`, then the epoch. The programs read the other way round: the
 * epoch, then the places, then the tables; so what was read before a change carries an epoch from before it. fence() keeps
 * that order where a processor would not (arm64).
 *
 * Numbers are compared by their difference. A place that is shared with another address costs a judgement too many, as does
 * one that was written 2^31 changes ago (a daemon that starts writes each place); one too few would take a flow that is silent
 * for 2^31 changes.
 */

static __always_inline __overloadable __u32 change_place_of_address(const ADDRESS *address)
{
	__u32 mixed = 0;

	for (int i = 0; i < WORDS; i++)
		mixed = mix_bits(mixed ^ address->word[i]);
	return CHANGED_ADDRESSES + mixed % CHANGED_ADDRESS_PLACES;
}

/* Of the network that the address is in: its first 24 bits, in IPv6 64. */
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
/* Whether a verdict of an earlier epoch holds: then it is one of this. */
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
	/* The other view's addresses; its own, if nothing is translated. */
	if (!is_zero(&entry->nat_address[0]) && !is_unchanged(&entry->nat_address[0], since))
		return false;
	if (!is_zero(&entry->nat_address[1]) && !is_unchanged(&entry->nat_address[1], since))
		return false;
	/* Not if somebody else has judged it meanwhile, or it is another flow's by now. */
	__sync_val_compare_and_swap(&entry->epoch, since, epoch);
	return true;
}
