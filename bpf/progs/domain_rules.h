/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The entries of a policy map that allow flows by DNS names. The same for both families. */
#pragma once

#include "dns_message.h"

/* What the domain rules say about a packet that the other rules of its opener's policy deny. */
enum domain_answer {
	DOMAIN_DENIES,
	DOMAIN_ALLOWS,
	DOMAIN_IS_ASKED, /* it goes to a resolver: may_ask() */
};

/* Whether a list of a policy map has a pattern. If so, scratch->by_name is its entry. */
static __always_inline bool is_listed(void *policy, struct scratch *room, struct dns_room *dns, __u32 list, __u16 id)
{
	struct policy_key *key = &dns->policy_key;
	struct policy_entry *entry;

	key->length = 64;
	key->of = bpf_htonl(POLICY_DOMAIN << POLICY_OF_SHIFT | list);
	key->zero = key->protocol = 0;
	key->port = bpf_htons(id);
	entry = bpf_map_lookup_elem(policy, key);
	if (!entry || entry->outcome != POLICY_ALLOW)
		return false;
	room->by_name = *entry;
	return true;
}

/* Whether a list has one of these patterns. */
static __always_inline bool is_any_listed(void *policy, struct scratch *room, struct dns_room *dns, __u32 list,
					  const struct domain_ids *ids)
{
	for (int i = 0; i < DOMAINS_OF_NAME; i++) {
		__u16 id = ids->id[i];

		if (!id)
			return false;
		if (is_listed(policy, room, dns, list, id))
			return true;
	}
	return false;
}

/* Whether the endpoint was told a name for the address, and the list allows it. A flow that is known goes on after
 * the lifetime of the name. */
static __always_inline bool is_allowed_by_name(void *policy, struct scratch *room, struct dns_room *dns, __u32 list,
					       bool goes_on)
{
	struct dns_record_key *key = &dns->old_record;
	__u32 now = room->now;

#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < DNS_NAMES; i++) {
		struct dns_record *record;

		key->place = i;
		record = bpf_map_lookup_elem(&dns_records, key);
		if (!record || (!goes_on && (__s32)(now - record->expires) > 0))
			continue;
		if (is_any_listed(policy, room, dns, list, &record->domains)) {
			record->used = 1;
			return true;
		}
	}
	return false;
}
