/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* One policy map, asked of one flow; the same for both families. */
#pragma once

#include "common.h"

static __always_inline void hit(__u32 rule)
{
	__u64 *count = bpf_map_lookup_elem(&hits, &rule);

	if (count)
		(*count)++;
}

/* `ports`: the other side's << 16 | the opener's, each in network byte order. Leaves the entry in scratch. */
__noinline int decide(__u32 map, __u32 of, __u32 protocol, __u32 ports)
{
	struct scratch *room = scratch_room();
	void *policy = bpf_map_lookup_elem(&policies, &map);

	if (!room || !policy)
		return DROP_POLICY_UNKNOWN;

	struct policy_key *key = &room->question;

	key->length = 64;
	key->of = bpf_htonl(of);
	key->zero = 0;
	key->protocol = protocol;
	key->port = has_ports(protocol) || is_icmp(protocol) ? ports >> 16 : 0;

	struct policy_entry *entry = bpf_map_lookup_elem(policy, key);

	if (!entry) {
		key->of = bpf_htonl(of | CLASS_ANY);
		entry = bpf_map_lookup_elem(policy, key);
	}
	if (entry && unlikely(entry->outcome == POLICY_BY_SOURCE)) {
		key->of = bpf_htonl(POLICY_BRANCH << POLICY_OF_SHIFT | entry->rule);
		key->port = ports;
		entry = bpf_map_lookup_elem(policy, key);
	}
	if (!entry || entry->outcome > POLICY_ALLOW)
		return DROP_POLICY_UNKNOWN;
	room->answer = *entry;
	hit(room->answer.rule);
	if (unlikely(room->answer.log))
		hit(room->answer.log);
	if (room->answer.outcome == POLICY_ALLOW)
		return PARSED;
	return of >> POLICY_OF_SHIFT == POLICY_EGRESS ? DROP_POLICY_EGRESS : DROP_POLICY_INGRESS;
}
