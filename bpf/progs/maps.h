/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* All maps. User space pins them, so they outlive the daemon. */
#pragma once

#include <linux/bpf.h>
#include <stdbool.h>

#include "intf.h"
#include "maps_dns.h"
#include "maps_service.h"

/* Entries of each family. The daemon sets the size of conntrack before it loads the programs. An entry takes about
 * 170 bytes of kernel memory for IPv4 and 220 for IPv6, all of it at once. */
#define CONNTRACK_ENTRIES 131072
/* So many entries may belong to flows that wait until they are confirmed. A flood displaces only these. */
#define WAITING_ENTRIES 65536
#define ENDPOINT_ENTRIES 8192
#define FRAGMENT_ENTRIES 32768
/* Interfaces of endpoints, and uplinks. */
#define ACCOUNT_ENTRIES 8192
#define UPLINK_ENTRIES 64
#define HOST_POLICY_ENTRIES 256
/* Flows of the node itself, while it has HostEndpoints. One that was evicted is picked up by its next packet. */
#define HOST_FLOW_ENTRIES 16384
/* Prefixes that are not masqueraded: those of each node, and those of the configuration. They take memory as they
 * are used. */
#define PREFIX_ENTRIES 131072
/* Slots in one set of postures. Each endpoint has one; the key set * POSTURE_SLOTS + slot finds it. */
#define POSTURE_SLOTS 4096
/* Policy maps: one for each endpoint, and some that are being filled or are not used any more. */
#define POLICY_MAPS 8192
/* The daemon sets the next four before it loads the programs; it makes the maps of the first three itself. All but
 * the last take memory as they fill, and 16 bytes in advance for each entry. */
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

/* Where senders are, by prefix. For endpoints of another node: the address that the node sends from directly, of the
 * prefix's family; zero if their packets come only by the overlay. All ones: the prefix is this node's, or nobody's.
 * ALL_OF_NETWORK in the first word: the prefix is the broadcast address of a network. */
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

/* The Ethernet addresses of other nodes as they were last seen in the neighbour table, which may forget them. */
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

/* The Ethernet address of an endpoint's own interface, by the index of its host end. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, ENDPOINT_ENTRIES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct ethernet_address);
} host_ends SEC(".maps");

/* The addresses of the nodes of the cluster: MACHINE_*. */
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
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, HOST_POLICY_ENTRIES);
	__type(key, __u32);
	__type(value, struct host_policy);
} host_policies SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, HOST_FLOW_ENTRIES);
	__type(key, struct host_flow_key);
	__type(value, struct host_flow);
} host_flows SEC(".maps");

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

/* How many places of `waiting4` and `waiting6` have been given away so far. */
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

/* A set of peers. Element 0 or 1 is in force, as node.set says. */
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

/* A cache of policy verdicts for each processor, indexed by a few bits of what a verdict depends on. An entry cannot
 * be stale: a policy map gets new keys only for classes that no address has yet, a map that is filled anew has
 * another number in its posture, and another set of peers has another epoch. */
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

/* What the daemon knows about the routing tables. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct plain_routes);
} plain_routes SEC(".maps");

/* A cache of routes out of the node for each processor, indexed by a few bits of the destination: way_out.h. */
struct way_out4 {
	struct ip4 destination;
	struct ip4 next_hop; /* zero: bpf_redirect_neigh looks it up */
	__u32 count; /* of changes of the routing tables, before they were asked */
	__u32 epoch; /* before they were asked */
	__u32 tick; /* before they were asked */
	__u32 ingress; /* the interface that the packet came by */
	__u32 egress;
	__u16 mtu; /* bytes; 0: unknown */
	__u8 leads; /* the packet leaves by an interface; else it is for the host, or has no route */
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

/* The clock of tests: clock_by_hand. */
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

/* What each interface has used of what all interfaces share, by the index of the interface. */
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

/* Openings that this processor has taken from an interface's share in this tick, and has not used yet. */
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

/* The flow that has waited longest, of those that may lose their port. */
struct claim_victim {
	__u32 count; /* so many such flows were met */
	__u16 age;
	__be16 port;
};

/* The state of a search for a source port. */
struct claim_search {
	__u32 first;
	__u32 at; /* the port that was tried last */
	__u32 step;
	__u32 tried;
	__u32 swapped; /* whether the sides swap their indices in the key with that port */
	__u16 now;
	__be16 ended; /* the port of a flow that has ended */
	__u32 taken; /* whether a flow has the port that was tried last */
	struct claim_victim mine; /* of the same endpoint */
	struct claim_victim others;
	__u32 own; /* so many of the ports that were looked at belong to the same endpoint */
	__u32 most; /* index of the holder that has the most ports */
	__u32 chance; /* a holder may seem to have so many more ports by chance */
};

/* Places for the endpoints that hold ports towards one destination; a power of two. */
#define CLAIM_HOLDERS 64

/* An endpoint that holds such ports; the network, with its waiting flows. */
struct claim_holder {
	__u32 ingress; /* index of its host end; 0: the network */
	__u16 count; /* its ports; fewer if there are more holders than places */
	__u16 age; /* ticks of silence of the flow that may lose its port: the one that was silent for longest */
	__be16 port; /* the port of that flow */
	__u8 waits; /* whether that flow waits for its first answer; such flows are taken first */
	__u8 pad;
};

/* A field that is of IPv4 or of IPv6: room->FIELD(name) in the stages (family.h). */
#define EITHER_FAMILY(type, name)       \
	union {                         \
		struct type##4 name##4; \
		struct type##6 name##6; \
	}

/*
 * Room for the slow path. Fields that pass something on from one function to later ones, in this order:
 *
 *	- dsr_take_option: has_dsr_option, dsr_address, dsr_port, for the whole slow path
 *	- slow_path_begin: now, moment, and the times and the epoch of entry
 *	- slow_path_inherit: packet, known, begins, looks_like_answer, seen, and what entry takes over from the old one
 *	- lb_translate_packet: the destination of packet, and the service of entry
 *	- check_sender: sender, for check_origin
 *	- policy_check_flow: is_reply and answer, for emit_event and drop_and_report
 *	- find_egress: out
 *	- ct_commit: key and flags, for snat_port.h and ct_waiting.h
 *	- host_judge: is_reply and answer, likewise
 *	- host_parse: packet, for the other functions of host.h
 *	- host_follow: host_key, host_flow and host_how, for host_begin
 *	- claim_port: counterpart and counterpart_key, for ct_wait_in_line
 *
 * All other fields are room for one function, where its stack is too short.
 */
struct scratch {
	EITHER_FAMILY(ct_entry, entry);
	EITHER_FAMILY(ct_entry, counterpart);
	struct bpf_fib_lookup fib;
	EITHER_FAMILY(way_out, out);
	struct bpf_sock_tuple tuple;
	EITHER_FAMILY(ct_key, key);
	EITHER_FAMILY(ct_key, counterpart_key);
	EITHER_FAMILY(ip, address);
	EITHER_FAMILY(ip, other_address);
	__u32 flags; /* of the entry, before this packet */
	__u32 seen; /* tick of the flow's last packet, before this one */
	__u32 fence; /* fence() writes it to keep the order */
	__u32 served_at; /* the word of an address in `served_addresses` */
	__u32 now; /* the tick in which the slow path began */
	__u16 moment; /* the same time in 2^24 ns */
	__u8 pad_of_moment[2];
	EITHER_FAMILY(ct_key, other_key);
	EITHER_FAMILY(prefix, prefix);
	struct peer peer; /* the other side, for policy */
	struct policy_key question;
	struct policy_cache_entry wanted; /* what `policy_lookup` is asked, as the map `lately` keeps it */
	struct policy_entry answer; /* the policy entry that matched last; zero: none */
	__be16 opener_port; /* of the flow that policy_lookup() is asked about */
	bool is_reply; /* this packet goes from the other side to the opener */
	bool begins; /* this packet is the first one of a flow */
	__u8 pad[4];
	__u8 packet[80]; /* the packet with its destination translated: a struct packet4 or packet6 */
	__u8 event_packet[80]; /* the packet of an event: the same */
	EITHER_FAMILY(client, client);
	EITHER_FAMILY(affinity, affinity);
	EITHER_FAMILY(source_range, range);
	EITHER_FAMILY(frontend_key, frontend);
	__be32 quote[32]; /* what an ICMP error quotes */
	struct claim_search search;
	struct claim_holder holders[CLAIM_HOLDERS];
	EITHER_FAMILY(ip, sender); /* who sent the packet, or the ICMP error */
	EITHER_FAMILY(ip, dsr_address); /* the service's address in the packet's DSR option */
	__be16 dsr_port;
	bool has_dsr_option;
	bool known; /* conntrack had an entry of the flow */
	bool looks_like_answer; /* it had none, and the packet looks like an answer */
	bool is_allowed_by_name; /* a domain rule allows the flow: by_name */
	__u8 pad_of_answer[2];
	struct policy_entry by_name;
	struct event event;
	struct host_flow_key host_key;
	struct host_flow host_flow; /* a flow that begins */
	__u32 host_how; /* how its policy is asked: host_judge */
	__u32 pad_of_host;
	struct dns_room dns;
};

/* Room for what the slow path builds: two IPv6 entries do not fit on a stack of 512 bytes. One element per CPU is
 * enough, because these hooks run with bottom halves disabled, so no other program at these hooks runs on the same
 * CPU in between. That does not hold on a PREEMPT_RT kernel without the per-CPU lock of bottom halves (Linux 6.17
 * and newer can be built so). Programs that may be interrupted (lb_socket.h, ct_age.h) do not use it. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch);
} scratch SEC(".maps");
