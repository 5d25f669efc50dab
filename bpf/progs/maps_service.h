/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The maps of services. */
#pragma once

#include <linux/bpf.h>

#include "intf_service.h"

/* The daemon sets these sizes before it loads the programs. A hash takes memory as it fills. An array takes it at
 * once: 16 bytes for a set, 16 or 32 for a backend, 8 for two places of a look-up table. */
#define FRONTEND_ENTRIES 65536
#define SET_ENTRIES 65536
#define BACKEND_ENTRIES 262144
#define LOOKUP_ENTRIES 524288
#define AFFINITY_ENTRIES 65536
#define SOCKET_ENTRIES 65536
#define RANGE_OF_SERVICE_ENTRIES 65536
#define NAMESPACE_ENTRIES 8192

#define SERVICE_MAP(name, map_type, flags, entries, key_type, value_type) \
	struct {                                                          \
		__uint(type, map_type);                                   \
		__uint(max_entries, entries);                             \
		__uint(map_flags, flags);                                 \
		__type(key, key_type);                                    \
		__type(value, value_type);                                \
	} name SEC(".maps")

#define BOTH_FAMILIES(name, map_type, flags, entries, key_type, value_type)         \
	SERVICE_MAP(name##4, map_type, flags, entries, key_type##4, value_type##4); \
	SERVICE_MAP(name##6, map_type, flags, entries, key_type##6, value_type##6)

SERVICE_MAP(frontends4, BPF_MAP_TYPE_HASH, BPF_F_NO_PREALLOC, FRONTEND_ENTRIES, struct frontend_key4, struct frontend);
SERVICE_MAP(frontends6, BPF_MAP_TYPE_HASH, BPF_F_NO_PREALLOC, FRONTEND_ENTRIES, struct frontend_key6, struct frontend);
/* Whether `frontends` may have an entry for an address: one bit for its place among those of `changes`, which other
 * addresses may share. The bit is set before the first entry of its address is made, so a bit that is not set means
 * that there is none. */
SERVICE_MAP(served_addresses, BPF_MAP_TYPE_ARRAY, BPF_F_MMAPABLE, SERVED_WORDS, __u32, __u64);
SERVICE_MAP(sets, BPF_MAP_TYPE_ARRAY, BPF_F_MMAPABLE, SET_ENTRIES, __u32, struct backend_set);
SERVICE_MAP(backends4, BPF_MAP_TYPE_ARRAY, BPF_F_MMAPABLE, BACKEND_ENTRIES, __u32, struct backend4);
SERVICE_MAP(backends6, BPF_MAP_TYPE_ARRAY, BPF_F_MMAPABLE, BACKEND_ENTRIES, __u32, struct backend6);
SERVICE_MAP(lookup_tables, BPF_MAP_TYPE_ARRAY, BPF_F_MMAPABLE, LOOKUP_ENTRIES, __u32, struct lookup_places);
SERVICE_MAP(members4, BPF_MAP_TYPE_HASH, BPF_F_NO_PREALLOC, BACKEND_ENTRIES, struct member4, __u32);
SERVICE_MAP(members6, BPF_MAP_TYPE_HASH, BPF_F_NO_PREALLOC, BACKEND_ENTRIES, struct member6, __u32);
BOTH_FAMILIES(affinities, BPF_MAP_TYPE_LRU_HASH, 0, AFFINITY_ENTRIES, struct client, struct affinity);
/* Not LRU: a socket that was idle for days must not be forgotten in favour of short-lived ones. */
SERVICE_MAP(connections4, BPF_MAP_TYPE_HASH, BPF_F_NO_PREALLOC, SOCKET_ENTRIES, __u64, struct connection4);
SERVICE_MAP(connections6, BPF_MAP_TYPE_HASH, BPF_F_NO_PREALLOC, SOCKET_ENTRIES, __u64, struct connection6);
BOTH_FAMILIES(sockets, BPF_MAP_TYPE_LRU_HASH, 0, SOCKET_ENTRIES, struct socket_key, struct socket_peer);
SERVICE_MAP(source_ranges4, BPF_MAP_TYPE_LPM_TRIE, BPF_F_NO_PREALLOC, RANGE_OF_SERVICE_ENTRIES, struct source_range4,
	    __u8);
SERVICE_MAP(source_ranges6, BPF_MAP_TYPE_LPM_TRIE, BPF_F_NO_PREALLOC, RANGE_OF_SERVICE_ENTRIES, struct source_range6,
	    __u8);
SERVICE_MAP(namespaces, BPF_MAP_TYPE_HASH, BPF_F_NO_PREALLOC, NAMESPACE_ENTRIES, __u64, __u32);
/* The difference between the wall clock, which all nodes share, and `ticks`, in ticks. */
SERVICE_MAP(wall_clock, BPF_MAP_TYPE_ARRAY, 0, 1, __u32, __u32);
/* The ports of services that had connections in conntrack at the last run of `age`. */
SERVICE_MAP(held_ports, BPF_MAP_TYPE_ARRAY, 0, PORT_WORDS, __u32, __u64);
#define PORT_ENTRIES (PORT_ROWS * PORT_WORDS)
SERVICE_MAP(ports, BPF_MAP_TYPE_ARRAY, BPF_F_MMAPABLE, PORT_ENTRIES, __u32, __u64);
