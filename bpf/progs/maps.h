/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Every map, all of them pinned by user space so that they outlive the daemon. */
#pragma once

#include <linux/bpf.h>
#include <stdbool.h>

#include "intf.h"
#include "maps_service.h"

/* Entries per family. The daemon sets the conntrack's before it loads; an entry costs about 170 bytes of kernel
 * memory for IPv4 and 220 for IPv6, allocated at once. */
#define CONNTRACK_ENTRIES 131072
/* As many of them may be of flows that wait until they are confirmed. Floods fight for these alone. */
#define WAITING_ENTRIES 65536
#define ENDPOINT_ENTRIES 8192
#define FRAGMENT_ENTRIES 32768
/* Interfaces of endpoints, and uplinks. */
#define ACCOUNT_ENTRIES 8192
#define UPLINK_ENTRIES 64
/* Prefixes that are not masqueraded: those of each node, and configured ones. They take memory as they are used. */
#define PREFIX_ENTRIES 131072
/* Slots of one set of postures: one for each endpoint, which two addresses make. */
#define POSTURE_SLOTS 4096
/* Policy maps: one for each endpoint, and those that wait to be used or are not used any more. */
#define POLICY_MAPS 8192
/* The daemon sets the next four before it loads (the first three where it makes the inner maps). All but the last take
 * memory as they fill, and 16 bytes for each address that there is room for. */
#define POLICY_ENTRIES 16384
#define PEER_ENTRIES 131072
#define RANGE_ENTRIES 65536
#define RULE_ENTRIES 16384
#define EVENT_BYTES 262144
#define POLICY_CACHE_BITS 8
#define WAYS_OUT_BITS 8
#define OPENINGS 16

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct node);
} node SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, CHANGES);
	__type(key, __u32);
	__type(value, __u32);
} changes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, UPLINK_ENTRIES);
	__type(key, __u32);
	__type(value, struct uplink);
} uplinks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, ENDPOINT_ENTRIES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct ip4);
	__type(value, struct endpoint);
} endpoints4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, ENDPOINT_ENTRIES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct ip6);
	__type(value, struct endpoint);
} endpoints6 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, PREFIX_ENTRIES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct prefix4);
	__type(value, __u8);
} no_masquerade4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, PREFIX_ENTRIES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct prefix6);
	__type(value, __u8);
} no_masquerade6 SEC(".maps");

/* Where senders are, by their prefix. Of other nodes' endpoints: the address that the node sends from directly, of the prefix's
 * family; zero: what it sends comes by the overlay alone. All ones: here, or nowhere;
 * ALL_OF_NETWORK in the first word: nowhere, but all of a network hear what is sent there. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, PREFIX_ENTRIES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct prefix4);
	__type(value, struct ip4);
} node_prefixes4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, PREFIX_ENTRIES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct prefix6);
	__type(value, struct ip6);
} node_prefixes6 SEC(".maps");

/* The Ethernet addresses that other nodes were last seen with in the neighbour table, which may forget them. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, PREFIX_ENTRIES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct ip4);
	__type(value, struct ethernet_address);
} node_macs4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, PREFIX_ENTRIES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct ip6);
	__type(value, struct ethernet_address);
} node_macs6 SEC(".maps");

/* The Ethernet address of the container's end, by the index of the host end. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, ENDPOINT_ENTRIES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct ethernet_address);
} host_ends SEC(".maps");

/* The addresses of the cluster's nodes: MACHINE_*. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, PREFIX_ENTRIES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct ip4);
	__type(value, __u8);
} machines4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, PREFIX_ENTRIES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct ip6);
	__type(value, __u8);
} machines6 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, CONNTRACK_ENTRIES);
	__type(key, struct ct_key4);
	__type(value, struct ct_entry4);
} conntrack4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, CONNTRACK_ENTRIES);
	__type(key, struct ct_key6);
	__type(value, struct ct_entry6);
} conntrack6 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, WAITING_ENTRIES);
	__type(key, __u32);
	__type(value, struct waiting4);
} waiting4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, WAITING_ENTRIES);
	__type(key, __u32);
	__type(value, struct waiting6);
} waiting6 SEC(".maps");

/* How many places in `waiting4` and `waiting6` have been given. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u32);
} waited SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, FRAGMENT_ENTRIES);
	__type(key, struct fragment4);
	__type(value, struct fragments);
} fragments4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, FRAGMENT_ENTRIES);
	__type(key, struct fragment6);
	__type(value, struct fragments);
} fragments6 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, DROP_REASONS);
	__type(key, __u32);
	__type(value, __u64);
} drops SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

/* Sets of peers: element 0 or 1 is in force, as node.set says. */
#define PEER_SETS(name, key_type, inner_type, entries)                   \
	struct {                                                         \
		__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);                \
		__uint(max_entries, 2);                                  \
		__type(key, __u32);                                      \
		__array(                                                 \
			values, struct {                                 \
				__uint(type, inner_type);                \
				__uint(max_entries, entries);            \
				__uint(map_flags, BPF_F_NO_PREALLOC);    \
				__uint(key_size, sizeof(key_type));      \
				__uint(value_size, sizeof(struct peer)); \
			});                                              \
	} name SEC(".maps")

PEER_SETS(peers4, struct ip4, BPF_MAP_TYPE_HASH, PEER_ENTRIES);
PEER_SETS(peers6, struct ip6, BPF_MAP_TYPE_HASH, PEER_ENTRIES);
PEER_SETS(ranges4, struct prefix4, BPF_MAP_TYPE_LPM_TRIE, RANGE_ENTRIES);
PEER_SETS(ranges6, struct prefix6, BPF_MAP_TYPE_LPM_TRIE, RANGE_ENTRIES);

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2 * POSTURE_SLOTS);
	__type(key, __u32);
	__type(value, struct posture);
} postures SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, POLICY_MAPS);
	__type(key, __u32);
	__array(
		values, struct {
			__uint(type, BPF_MAP_TYPE_LPM_TRIE);
			__uint(max_entries, POLICY_ENTRIES);
			__uint(map_flags, BPF_F_NO_PREALLOC);
			__uint(key_size, sizeof(struct policy_key));
			__uint(value_size, sizeof(struct policy_entry));
		});
} policies SEC(".maps");

/*
 * Decisions of this processor, by a few bits of what they depend on. A policy map changes only for classes that nobody has
 * yet; one that is filled anew has another number in its postures, and another set another epoch.
 */
struct policy_cache_entry {
	__u64 posture;
	__u32 of;
	__u32 epoch;
	__be16 port;
	__u8 protocol;
	__u8 pad[5];
	struct policy_entry entry;
	__u8 end[4];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1 << POLICY_CACHE_BITS);
	__type(key, __u32);
	__type(value, struct policy_cache_entry);
} lately SEC(".maps");

/* How often each rule has decided or logged. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, RULE_ENTRIES);
	__type(key, __u32);
	__type(value, __u64);
} hits SEC(".maps");

/* What the daemon has seen of the routing tables. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct plain_routes);
} plain_routes SEC(".maps");

/* Ways out of the node that this processor was told of lately, by a few bits of where they lead: way_out.h. */
struct way_out4 {
	struct ip4 destination;
	struct ip4 next_hop; /* zero: ask the routing table */
	__u32 count; /* of changes of the routing tables, when they were asked */
	__u32 epoch; /* the same */
	__u32 tick; /* the same */
	__u32 ingress; /* the interface that they were asked for */
	__u32 egress;
	__u16 mtu; /* bytes; 0: unknown */
	__u8 leads; /* out of some interface; else to the host itself, or nowhere */
	__u8 pad;
};

struct way_out6 {
	struct ip6 destination;
	struct ip6 next_hop;
	__u32 count;
	__u32 epoch;
	__u32 tick;
	__u32 ingress;
	__u32 egress;
	__u16 mtu;
	__u8 leads;
	__u8 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1 << WAYS_OUT_BITS);
	__type(key, __u32);
	__type(value, struct way_out4);
} ways_out4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1 << WAYS_OUT_BITS);
	__type(key, __u32);
	__type(value, struct way_out6);
} ways_out6 SEC(".maps");

/* The clock of tests. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} hand SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, EVENT_BYTES);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, BUDGETS);
	__type(key, __u32);
	__type(value, struct budget);
} budgets SEC(".maps");

/* What each interface has had of what all share, by its index. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, ACCOUNT_ENTRIES);
	__type(key, __u32);
	__type(value, struct account);
} accounts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct account);
} all_accounts SEC(".maps");

/* What this processor has taken of an interface's share of openings in this tick, and has not given on yet. */
struct opening {
	__u32 ifindex;
	__u32 tick;
	__u32 left; /* entries */
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, OPENINGS);
	__type(key, __u32);
	__type(value, struct opening);
} openings SEC(".maps");

/* A flow that may lose its port. */
struct claim_victim {
	__u32 count; /* as many were met; this is the oldest */
	__u16 age;
	__be16 port;
};

/* The search for a port. */
struct claim_search {
	__u32 first;
	__u32 at; /* which was tried last */
	__u32 step;
	__u32 tried;
	__u32 swapped; /* whether the sides are the other way round in the key of that one */
	__u16 now;
	__be16 ended; /* the port of a flow that has ended */
	__u32 taken; /* whether somebody has that one */
	struct claim_victim mine; /* of the same endpoint */
	struct claim_victim others;
	__u32 own; /* ports that were looked at and are of the same endpoint */
	__u32 most; /* place of who has most of them */
	__u32 chance; /* by how many another may seem to have more than he has */
};

/* Places for those who have ports of a destination: a power of two. */
#define CLAIM_HOLDERS 64

/* One of those who have ports of a destination. */
struct claim_holder {
	__u32 ingress; /* index of its host end */
	__u16 count; /* of its ports; fewer, where there are more of them than places */
	__u16 age; /* ticks since the flow was seen that has said nothing for longest */
	__be16 port; /* of that one */
	__u8 pad[2];
};

struct scratch {
	struct ct_entry6 entry; /* or a ct_entry4 */
	struct ct_entry6 counterpart; /* the same */
	struct bpf_fib_lookup fib;
	struct way_out6 out; /* or a way_out4 */
	struct bpf_sock_tuple tuple;
	struct ct_key6 key; /* or a ct_key4 */
	struct ct_key6 counterpart_key; /* the same */
	struct ip6 address; /* or an ip4 */
	struct ip6 other_address; /* the same */
	__u32 flags; /* of the entry, before the packet that was judged */
	__u32 seen; /* the same */
	__u32 fence; /* written for the order alone */
	__u32 served_at; /* the place of an address in `served_addresses` */
	__u32 now; /* the tick when the packet was judged */
	__u16 moment; /* the same, in 2^24 ns */
	__u8 pad_of_moment[2];
	struct ct_key6 other_key; /* or a ct_key4 */
	struct prefix6 prefix; /* or a prefix4 */
	struct peer peer; /* the side that a policy is asked about */
	struct policy_key question;
	struct policy_cache_entry wanted; /* the question as `lately` has it */
	struct policy_entry answer; /* of the policy that was asked last; zero: none was */
	__be16 opener_port; /* of the flow in question */
	bool is_reply; /* the packet that was judged went against its flow's opener */
	bool begins; /* that packet is the first of a flow */
	__u8 pad[4];
	__u8 packet[80]; /* the packet with its destination translated: a struct packet4 or packet6 */
	__u8 event_packet[80]; /* that of which it is told: the same */
	struct client6 client; /* or a client4 */
	struct affinity6 affinity; /* or an affinity4 */
	struct source_range6 range; /* or a source_range4 */
	struct frontend_key6 frontend; /* or a frontend_key4 */
	__be32 quote[32]; /* what an error quotes */
	struct claim_search search;
	struct claim_holder holders[CLAIM_HOLDERS];
	struct ip6 sender; /* or an ip4: of the packet, or of the error */
	struct ip6 dsr_address; /* or an ip4: where the client sent a packet that came by another node */
	__be16 dsr_port;
	bool has_dsr_option;
	bool known; /* the flow in question was remembered */
	bool looks_like_answer; /* the packet, of a flow that was not */
	__u8 pad_of_answer[3];
	struct event event;
};

/* Room for what the slow path builds: a stack of 512 bytes does not hold two entries of IPv6. A program is not
 * interrupted by another on the same CPU at these hooks, so one element per CPU is enough. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch);
} scratch SEC(".maps");
