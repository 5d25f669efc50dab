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

/* The entry of a flow; 0: there is none. `source` is the opener's port; whether that made a difference is left behind. */
static __always_inline struct policy_entry *entry_of(void *policy, struct policy_key *key, __u32 of, __be16 source,
						     bool *by_source)
{
	key->length = 64;
	key->of = bpf_htonl(of);

	struct policy_entry *entry = bpf_map_lookup_elem(policy, key);

	if (!entry) {
		key->of = bpf_htonl(of | CLASS_ANY);
		entry = bpf_map_lookup_elem(policy, key);
	}
	*by_source = entry && unlikely(entry->outcome == POLICY_BY_SOURCE);
	if (*by_source) {
		key->of = bpf_htonl(POLICY_BRANCH << POLICY_OF_SHIFT | entry->rule);
		key->port = source;
		entry = bpf_map_lookup_elem(policy, key);
	}
	return entry;
}

/* `posture`: as the slot has it. `ports`: the other side's << 16 | the opener's, each in network byte order. Leaves the
 * entry in scratch. */
__noinline int decide(__u64 posture, __u32 of, __u32 protocol, __u32 ports, __u32 epoch)
{
	struct scratch *room = scratch_room();

	if (!room)
		return DROP_POLICY_UNKNOWN;

	struct policy_key *key = &room->question;

	key->zero = 0;
	key->protocol = protocol;
	key->port = has_ports(protocol) || is_icmp(protocol) ? ports >> 16 : 0;

	/* Odd numbers of no pattern: neighbours go to different places. */
	__u32 mixed = of * 0x9e3779b1 ^ (key->port << 8 | protocol) * 0x85a308d3 ^ (__u32)posture * 0x243f6a89;
	__u32 map = posture, at = mixed >> (32 - DECIDED_BITS);
	struct decided *known = bpf_map_lookup_elem(&lately, &at);

	if (!known)
		return DROP_POLICY_UNKNOWN;
	if (known->posture != posture || known->of != of || known->epoch != epoch || known->port != key->port ||
	    known->protocol != protocol) {
		bool by_source = false;
		void *policy = bpf_map_lookup_elem(&policies, &map);
		struct policy_entry *entry = policy ? entry_of(policy, key, of, ports, &by_source) : 0;

		if (!entry || entry->outcome > POLICY_ALLOW)
			return DROP_POLICY_UNKNOWN;
		room->answer = *entry;
		if (!by_source) {
			known->posture = posture;
			known->of = of;
			known->epoch = epoch;
			known->port = key->port;
			known->protocol = protocol;
			known->entry = *entry;
		}
	} else {
		room->answer = known->entry;
	}
	hit(room->answer.rule);
	if (unlikely(room->answer.log))
		hit(room->answer.log);
	if (room->answer.outcome == POLICY_ALLOW)
		return PARSED;
	return of >> POLICY_OF_SHIFT == POLICY_EGRESS ? DROP_POLICY_EGRESS : DROP_POLICY_INGRESS;
}
