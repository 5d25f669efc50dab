/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What each interface has taken of what all share, so that none takes it all: room for pieces of datagrams, for flows that wait,
 * for what is kept of them, and answers.
 */
#pragma once

#include "common.h"

/* Not on the stack, which is short. */
static const struct account fresh_account;

static __always_inline struct account *account_of(__u32 ifindex)
{
	struct account *account = bpf_map_lookup_elem(&accounts, &ifindex);

	if (account)
		return account;
	bpf_map_update_elem(&accounts, &ifindex, &fresh_account, BPF_NOEXIST);
	return bpf_map_lookup_elem(&accounts, &ifindex);
}

/* The eighth part of a tick: longer than the pieces of a datagram are under way on the node. */
static __always_inline __u32 eighths(void)
{
	return clock_by_hand ? ticks() << 3 : coarse_ns() >> (TICK_SHIFT - 3);
}

static __always_inline void turn_over_fragments(struct account *account, __u32 now)
{
	if (account->eighth != now) {
		account->eighth = now;
		account->fragments = 0;
	}
}

/*
 * Whether an interface may begin one more datagram in pieces in this eighth of a tick: it may have begun as many as there is room
 * left for. So one has half of the room at most, two a third each, and others always find some. What the network begins has no account,
 * for nobody knows who it is: the oldest goes first, and the pieces of a datagram come one after the other.
 */
__noinline int may_begin_fragments(__u32 ifindex)
{
	if (bpf_map_lookup_elem(&uplinks, &ifindex))
		return true;

	__u32 zero = 0, now = eighths();
	struct account *all = bpf_map_lookup_elem(&all_accounts, &zero), *account = account_of(ifindex);

	if (!account || !all)
		return true;
	turn_over_fragments(account, now);
	turn_over_fragments(all, now);
	if (account->fragments + all->fragments >= fragment_entries)
		return false;
	__sync_fetch_and_add(&account->fragments, 1);
	__sync_fetch_and_add(&all->fragments, 1);
	return true;
}

/* How many openings a processor takes at once, and that in a small line it takes fewer: what is left over of all it has taken in a
 * tick is no part of the line that counts. */
#define OPENINGS_AT_ONCE 8
#define OPENINGS_PART 8192

static __always_inline void turn_over_opening(struct account *account, __u32 now)
{
	if (account->opening_tick != now) {
		account->opening_tick = now;
		account->opening = 0;
	}
}

/*
 * Whether an endpoint (its host end's index) may open one more flow of so many entries in the tick `now`: as many may wait for an
 * answer as there is room left for. What the network opens has no account, for nobody knows who it is: there the oldest goes first.
 */
__noinline int may_open(__u32 ifindex, __u32 entries, __u32 now)
{
	__u32 at = ifindex % OPENINGS, more = 0;
	struct opening *taken = bpf_map_lookup_elem(&openings, &at);

	if (likely(taken && taken->ifindex == ifindex && taken->tick == now && taken->left >= entries)) {
		taken->left -= entries;
		return true;
	}
	at = 0;

	struct account *all = bpf_map_lookup_elem(&all_accounts, &at), *account = account_of(ifindex);

	if (!account || !all)
		return true;
	turn_over_opening(account, now);
	turn_over_opening(all, now);
	if ((__s64)account->opening + all->opening >= (__s64)waiting_entries)
		return false;
	/* Some more at once, of which this processor gives on. Who shares the place takes them one by one. */
	if (taken && (taken->tick != now || taken->ifindex == ifindex)) {
		more = waiting_entries / OPENINGS_PART < OPENINGS_AT_ONCE ? waiting_entries / OPENINGS_PART :
									    OPENINGS_AT_ONCE;
		taken->ifindex = ifindex;
		taken->tick = now;
		taken->left = more;
	}
	__sync_fetch_and_add(&account->opening, entries + more);
	__sync_fetch_and_add(&all->opening, entries + more);
	return true;
}

/* A flow that an endpoint has opened waits no more. */
__noinline int end_wait(__u32 ifindex, __u32 entries)
{
	__u32 zero = 0, now = ticks();
	struct account *all = bpf_map_lookup_elem(&all_accounts, &zero),
		       *account = bpf_map_lookup_elem(&accounts, &ifindex);

	if (account && all && account->opening_tick == now && all->opening_tick == now && account->opening > 0) {
		__sync_fetch_and_sub(&account->opening, entries);
		__sync_fetch_and_sub(&all->opening, entries);
	}
	return 0;
}

/* For so many ticks the count of what is kept holds; with no daemon that has them counted again, nothing is bounded. */
#define COUNT_HOLDS 64

/*
 * Whether a connection or stream of so many entries is kept whatever waits. An opener (the index of an endpoint's host end) has as many
 * of them as there is room left for, of that half of the table: half of it alone, two a third each. `bounded`: the network's TCP is
 * not, for those are of many, and each of them hears the answers.
 */
__noinline int may_keep(__u32 ifindex, __u32 six, __u32 entries, __u32 bounded)
{
	__u32 zero = 0, at = six & 1;
	struct account *all = bpf_map_lookup_elem(&all_accounts, &zero), *account = account_of(ifindex);

	if (!account || !all)
		return true;
	if (bounded && ticks() - all->tick < COUNT_HOLDS && (__u64)account->kept[at] + all->kept[at] >= waiting_entries)
		return false;
	__sync_fetch_and_add(&account->kept[at], entries);
	__sync_fetch_and_add(&all->kept[at], entries);
	return true;
}

/* How often one processor goes on with a search for a port, of 256, in a tick: some 50 ms of it. And how often one endpoint does
 * whatever others do: twice through all that there are. */
#define CLAIM_SEARCHES 2000
#define CLAIM_SEARCHES_OWN 170

__noinline int may_search(__u32 ifindex)
{
	__u32 now = ticks();
	struct account *account = account_of(ifindex);

	if (account) {
		if (account->search_tick != now) {
			account->search_tick = now;
			account->searches = 0;
		}
		if (account->searches < CLAIM_SEARCHES_OWN) {
			__sync_fetch_and_add(&account->searches, 1);
			return true;
		}
	}
	return spend_budget(BUDGET_CLAIMS, CLAIM_SEARCHES);
}

/* So many answers of each kind are sent to each in a tick, whatever the processor has sent to others. */
#define ANSWERS_OWN 100

/*
 * Whether one more error or reset may be sent to behind an interface in this tick: as the kernel limits its own
 * (icmp_msgs_per_sec), and each interface for itself, so that who floods is not why others are not answered. `pressing`: what
 * path MTU discovery waits for, which the kernel does not limit either. Beyond the first ones it counts for the processor alone.
 */
__noinline int may_answer(__u32 ifindex, __u32 pressing)
{
	__u32 now = ticks(), had = 0;
	struct account *account = account_of(ifindex);

	if (account) {
		if (account->tick != now) {
			account->tick = now;
			account->answers = account->pressing = 0;
		}
		had = pressing ? account->pressing : account->answers;
	}
	if ((account && had < ANSWERS_OWN) ||
	    ((pressing || had < answer_rate) && spend_budget(BUDGET_ANSWERS, answer_rate_of_processor))) {
		if (account && pressing)
			__sync_fetch_and_add(&account->pressing, 1);
		else if (account)
			__sync_fetch_and_add(&account->answers, 1);
		return true;
	}
	count(COUNTER_ANSWERS_SUPPRESSED);
	return false;
}
