/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The maps of DNS names. They take memory as they fill. Their entries outlive the daemon, so a restart forgets no
 * name. */
#pragma once

#include <linux/bpf.h>

#include "intf.h"
#include "intf_dns.h"

#define DOMAIN_ENTRIES 65536
#define RESOLVER_ENTRIES 1024
/* An endpoint has so many records, and so many questions without an answer. Then the oldest one goes. */
#define DNS_RECORDS 1024
#define DNS_QUESTIONS 512
#define DNS_RECORD_ENTRIES 65536
#define DNS_QUESTION_ENTRIES 65536

#define DNS_MAP(name, kind, entries, key_type, value_type) \
	struct {                                           \
		__uint(type, kind);                        \
		__uint(max_entries, entries);              \
		__uint(map_flags, BPF_F_NO_PREALLOC);      \
		__type(key, key_type);                     \
		__type(value, value_type);                 \
	} name SEC(".maps")

DNS_MAP(domains, BPF_MAP_TYPE_LPM_TRIE, DOMAIN_ENTRIES, struct domain_key, struct domain);
DNS_MAP(resolvers, BPF_MAP_TYPE_HASH, RESOLVER_ENTRIES, struct resolver_key, __u8);
DNS_MAP(dns_records, BPF_MAP_TYPE_HASH, DNS_RECORD_ENTRIES, struct dns_record_key, struct dns_record);
DNS_MAP(dns_questions, BPF_MAP_TYPE_HASH, DNS_QUESTION_ENTRIES, struct dns_question_key, struct dns_question);
DNS_MAP(dns_rings, BPF_MAP_TYPE_HASH, 2 * DNS_RECORD_ENTRIES, struct dns_place, union dns_placed);

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct dns_settings);
} dns_settings SEC(".maps");

/* Messages are read up to this length. A power of two, so that a mask keeps a reader inside. */
#define DNS_LONGEST 4096

/* A reader's place in a message. */
struct dns_reader {
	__u32 at; /* the next byte; of a name: where it ends, or zero if it is none */
	__u32 left; /* letters of the label, or records, that are still to come */
	__u32 text; /* length of the name as text */
	__u32 ifindex; /* of the endpoint's host end */
	__u64 hash; /* of the name so far */
};

/* Room for one message, in scratch. */
struct dns_room {
	struct domain_key key; /* the name that is asked about */
	struct dns_record record; /* what is learnt */
	struct dns_record_key record_key;
	struct dns_record_key old_record;
	struct dns_question_key question_key;
	struct dns_question question;
	struct dns_place place;
	union dns_placed placed;
	struct resolver_key resolver;
	struct policy_key policy_key;
	struct dns_reader reader;
	__u64 hash; /* of the name that is asked about */
	__u32 at; /* where the next message of the packet begins */
	__u32 end; /* of the packet's data */
	__u32 length; /* of the message, bytes */
	__u32 answers_at; /* where the answers begin */
	__u32 generation; /* of `domains`, before the name was looked up */
	__be16 type; /* of the question */
	__u8 pad[6];
	__u8 message[DNS_LONGEST];
};
