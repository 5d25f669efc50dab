/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* DNS names: what user space and the programs share about them. */
#pragma once

#include <linux/types.h>

/* So many patterns may mean one name. */
#define DOMAINS_OF_NAME 8
/* Room for a name as text (at most 253 bytes) with a zero byte behind it. */
#define DOMAIN_TEXT 256

/* Key of `domains`: the text of a name in small letters, reversed, with a zero byte behind it. A pattern is a prefix:
 * a whole name, or the reversed end of a name with a dot behind it. */
struct domain_key {
	__u32 length; /* bits */
	__u8 text[DOMAIN_TEXT];
};

/* The numbers of patterns; zeroes behind them. */
struct domain_ids {
	__u16 id[DOMAINS_OF_NAME];
};

#define DOMAIN_ASKED_BY_ALL 1 /* every endpoint with domain rules may ask about these names */

/* Value of `domains`: what holds for the names for which this prefix is the longest. */
struct domain {
	__u16 own; /* the number of this very pattern; 0: no policy has it */
	__u16 flags; /* DOMAIN_* */
	struct domain_ids ids; /* all patterns that mean these names */
};

/* So many different ports the resolvers have at most. */
#define DNS_PORTS 4

/* Value of `dns_settings` (one element). */
struct dns_settings {
	__be16 ports[DNS_PORTS]; /* of the resolvers; zeroes behind them */
	__u32 generation; /* another number after each change of `domains` */
};

/* Key of `resolvers`. An IPv4 address is written as ::ffff:a.b.c.d. */
struct resolver_key {
	struct ip6 address;
	__be16 port;
	__u8 protocol;
	__u8 pad;
};

/* An address has so many names for one endpoint. */
#define DNS_NAMES 4

/* Key of `dns_records`: what an endpoint was told. The index of an interface is not given to another endpoint. */
struct dns_record_key {
	__u32 ifindex; /* of the endpoint's host end */
	__u32 place; /* below DNS_NAMES */
	struct ip6 address; /* as in struct resolver_key */
};

/* Value of `dns_records`: a name of the address. */
struct dns_record {
	__u64 hash; /* of the name */
	__u32 expires; /* tick */
	__u32 used; /* not zero: a flow was allowed by it since somebody last looked for room */
	struct domain_ids domains; /* the patterns that mean the name */
	struct domain_key name;
	__u8 pad[4];
};

/* Key of `dns_questions`: a question that an endpoint has asked. All of it is in the key, because two questions may have
 * the same id, and one may go to two resolvers. */
struct dns_question_key {
	__u32 ifindex; /* of the endpoint's host end */
	__be16 port; /* of the endpoint */
	__be16 id;
	struct resolver_key resolver; /* as the packet that leaves the endpoint's node has it */
	__be16 type;
	__u8 pad[2];
	__u64 hash; /* of the name */
};

/* Value of `dns_questions`. */
struct dns_question {
	__u32 asked; /* tick */
};

/* What an entry of `dns_rings` is. */
enum dns_ring {
	DNS_RECORDS_RING, /* the key of a record of the endpoint; they are in the order in which they came */
	DNS_QUESTIONS_RING, /* the same of its questions */
	DNS_SHARE, /* how much the endpoint has used so far; its place is 0 */
};

/* Key of `dns_rings`. One map for three uses, because a program may use 64 maps at most. */
struct dns_place {
	__u32 ifindex; /* of the endpoint's host end */
	__u16 ring; /* enum dns_ring */
	__u16 place;
};

/* Value of `dns_rings`. */
union dns_placed {
	struct dns_record_key record;
	struct dns_question_key question;
	struct {
		__u32 records; /* so many places were given away */
		__u32 questions;
	} share;
};
