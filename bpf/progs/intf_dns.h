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

/* Key of `dns_questions`: a question that an endpoint has asked. */
struct dns_question_key {
	__u32 ifindex; /* of the endpoint's host end */
	__be16 port; /* of the endpoint */
	__be16 id;
	__u8 protocol; /* UDP or TCP */
	__u8 pad[3];
};

/* Value of `dns_questions`. */
struct dns_question {
	__u64 hash; /* of the name */
	__u32 asked; /* tick */
	__be16 type;
	__u8 pad[2];
};

/* Key of `dns_record_ring` and `dns_question_ring`: an endpoint's records and questions in the order in which they
 * came. */
struct dns_place {
	__u32 ifindex;
	__u32 place;
};

/* Value of `dns_shares`, by the index of an endpoint's host end: how many places of its rings were given away so
 * far. */
struct dns_share {
	__u32 records;
	__u32 questions;
};

/* Context of the program `sweep_names`. */
struct dns_sweep {
	__u32 now; /* the tick; the caller sets it, because such programs cannot read the coarse clock */
	/* The results: entries that remain. */
	__u32 records;
	__u32 questions;
};
