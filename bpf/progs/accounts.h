/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Accounts of what each interface has used of what all interfaces share, so that no interface takes all of it: room
 * for fragmented datagrams, for waiting flows and for confirmed flows, port searches, and answers. */
#pragma once

#include "common.h"

/* A constant, because the stack is short. */
static const struct account fresh_account;

static __always_inline struct account *account_of(__u32 ifindex)
{
	struct account *account = bpf_map_lookup_elem(&accounts, &ifindex);

	if (account)
		return account;
	bpf_map_update_elem(&accounts, &ifindex, &fresh_account, BPF_NOEXIST);
	return bpf_map_lookup_elem(&accounts, &ifindex);
}

/* The time in eighths of a tick: longer than the fragments of one datagram need on the node. */
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

/* Whether an interface may begin one more fragmented datagram in this eighth of a tick. It may have begun as many as
 * there is room left for: one interface gets at most half of the room, two get a third each, and another one always
 * finds some. The network has no account, because nobody knows who its senders are: there the oldest datagram goes
 * first, and the fragments of one datagram come shortly after each other. */
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

/* A processor takes so many openings at once, and fewer if the waiting line is short: a small part of the line,
 * because it may not use them up in the tick. */
#define OPENINGS_AT_ONCE 8
#define OPENINGS_PART 8192

static __always_inline void turn_over_opening(struct account *account, __u32 now)
{
	if (account->opening_tick != now) {
		account->opening_tick = now;
		account->opening = 0;
	}
}

/* Whether an endpoint (the index of its host end) may open one more flow with so many entries in the tick `now`. It
 * may have as many waiting flows as there is room left for. The network has no account, because nobody knows who its
 * senders are: there the oldest flow goes first. */
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
	/* The processor takes some more openings and uses them up one by one. If another interface has this place in
	 * the tick, it takes one at a time. */
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

/* A flow that the endpoint opened has left the waiting line. */
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

/* A count of kept entries is valid for so many ticks. Without a daemon that has them counted again there is no
 * bound. */
#define COUNT_HOLDS 64

/* Whether a confirmed flow with so many entries may leave the waiting line. An opener (the index of its host end; 0:
 * the network) may have as many kept entries as there is room left for in that half of the table: half of it alone,
 * two openers a third each. `bounded` is false for TCP connections from the network: they belong to many senders,
 * and each of these hears the answers. */
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

/* One processor may go on with so many port searches in a tick; each looks at up to 256 ports, and all of them take
 * some 50 ms. One endpoint may do so many whatever others do: enough to go through all ports twice. */
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

/* The port of the oldest waiting flow that was met: of the same endpoint's, if most of them are its own. Returns 0 if
 * that flow has waited for less than `grace` moments. */
static __always_inline __be16 claim_waiting_port(const struct claim_search *search, __u16 grace)
{
	const struct claim_victim *victim =
		search->mine.count >= search->others.count ? &search->mine : &search->others;

	return victim->count && victim->age >= grace ? victim->port : 0;
}

/* Each interface gets so many answers of each kind in a tick, however many the processor has sent elsewhere. */
#define ANSWERS_OWN 100

/* Whether one more error or reset may be sent towards an interface in this tick. The kernel limits its own in the
 * same way (icmp_msgs_per_sec). Each interface has a limit of its own, so that a flood from one does not stop the
 * answers to others. `pressing` is true for errors that path MTU discovery waits for; the kernel does not limit
 * these per interface either. Answers beyond the first ANSWERS_OWN also need the budget of the processor. */
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
