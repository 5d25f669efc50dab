/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Forgets what endpoints were told that are gone, and finds the patterns of each name again. The daemon runs this now
 * and then, and when the patterns have changed. Packets may interrupt this program, so it uses no room of theirs. */
#pragma once

#include "dns_message.h"

struct dns_sweep {
	__u32 now; /* tick */
	__u32 records; /* that remain */
	__u32 questions;
};

static __always_inline bool is_of_endpoint(__u32 ifindex)
{
	return bpf_map_lookup_elem(&host_ends, &ifindex);
}

/* The callbacks for bpf_for_each_map_elem. */
static long sweep_record(void *map, struct dns_record_key *key, struct dns_record *record, struct dns_sweep *sweep)
{
	static const struct domain_ids none;
	struct domain *domain;

	if (!is_of_endpoint(key->ifindex)) {
		bpf_map_delete_elem(&dns_records, key);
		return 0;
	}
	domain = bpf_map_lookup_elem(&domains, &record->name);
	record->domains = domain ? domain->ids : none;
	sweep->records++;
	return 0;
}

static long sweep_question(void *map, struct dns_question_key *key, struct dns_question *question,
			   struct dns_sweep *sweep)
{
	if (!is_of_endpoint(key->ifindex) || (__s32)(sweep->now - question->asked) > DNS_PATIENCE)
		bpf_map_delete_elem(&dns_questions, key);
	else
		sweep->questions++;
	return 0;
}

static long sweep_ring(void *map, struct dns_place *place, union dns_placed *placed, struct dns_sweep *sweep)
{
	if (!is_of_endpoint(place->ifindex))
		bpf_map_delete_elem(&dns_rings, place);
	return 0;
}
