/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Looks a flow up in one policy map. The same for both families. */
#pragma once

#include "common.h"

static __always_inline void count_rule_hit(__u32 rule)
{
	__u64 *count = bpf_map_lookup_elem(&hits, &rule);

	if (count)
		(*count)++;
}

/* Returns the entry that matches the question in scratch; 0: none does. `by_source` tells whether the opener's port
 * made a difference. */
static __always_inline struct policy_entry *find_policy_entry(void *policy, struct scratch *room, bool *by_source)
{
	struct policy_key *key = &room->question;

	key->length = 64;
	key->of = bpf_htonl(room->wanted.of);

	struct policy_entry *entry = bpf_map_lookup_elem(policy, key);

	if (!entry) {
		key->of = bpf_htonl(room->wanted.of | CLASS_ANY);
		entry = bpf_map_lookup_elem(policy, key);
	}
	*by_source = entry && unlikely(entry->outcome == POLICY_BY_SOURCE);
	if (*by_source) {
		key->of = bpf_htonl(POLICY_BRANCH << POLICY_OF_SHIFT | entry->rule);
		key->port = room->opener_port;
		entry = bpf_map_lookup_elem(policy, key);
	}
	return entry;
}

/* `posture` is the value of the endpoint's slot. `ports` is the other side's port << 16 | the opener's port, each in
 * network byte order. Leaves the matching entry in scratch. */
__noinline int policy_lookup(__u64 posture, __u32 of, __u32 protocol, __u32 ports, __u32 epoch)
{
	struct scratch *room = scratch_room();

	if (!room)
		return DROP_INTERNAL;

	/* In scratch and not on the stack: all callers share 512 bytes of stack, and Linux before 6.4 rounds each
	 * frame up to 32 bytes. */
	struct policy_cache_entry *wanted = &room->wanted;
	struct policy_key *key = &room->question;

	key->zero = 0;
	key->protocol = protocol;
	key->port = has_ports(protocol) || is_icmp(protocol) ? ports >> 16 : 0;
	wanted->posture = posture;
	wanted->of = of;
	wanted->epoch = epoch;
	wanted->port = key->port;
	wanted->protocol = protocol;
	room->opener_port = ports;

	/* Multiplies with odd numbers without a pattern, so that similar questions go to different places. */
	__u32 mixed = of * 0x9e3779b1 ^ (key->port << 8 | protocol) * 0x85a308d3 ^ (__u32)posture * 0x243f6a89;
	__u32 at = mixed >> (32 - POLICY_CACHE_BITS);
	struct policy_cache_entry *known = bpf_map_lookup_elem(&lately, &at);

	if (!known)
		return DROP_INTERNAL;
	if (known->posture != wanted->posture || known->of != wanted->of || known->epoch != wanted->epoch ||
	    known->port != wanted->port || known->protocol != wanted->protocol) {
		bool by_source = false;
		__u32 map = wanted->posture;
		void *policy = bpf_map_lookup_elem(&policies, &map);
		struct policy_entry *entry = policy ? find_policy_entry(policy, room, &by_source) : 0;

		if (!entry || entry->outcome > POLICY_ALLOW)
			return DROP_POLICY_UNKNOWN;
		room->answer = *entry;
		if (!by_source) {
			wanted->entry = *entry;
			*known = *wanted;
		}
	} else {
		room->answer = known->entry;
	}
	/* Another rule may allow the flow by a DNS name of its destination: note_domain_answer() counts. */
	if (unlikely(room->answer.domains))
		return DROP_POLICY_EGRESS;
	count_rule_hit(room->answer.rule);
	if (unlikely(room->answer.log))
		count_rule_hit(room->answer.log);
	if (room->answer.outcome == POLICY_ALLOW)
		return PARSED;
	return room->wanted.of >> POLICY_OF_SHIFT == POLICY_EGRESS ? DROP_POLICY_EGRESS : DROP_POLICY_INGRESS;
}
