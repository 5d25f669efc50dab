/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the programs share with user space about services; in the manner of intf.h. */
#pragma once

#include "intf.h"

/*
 * Key of `frontends4`, `frontends6`: where a service is reached. With the address zero it is reached at every address
 * of the node that serves node ports. With port and protocol zero the entry says what the address itself is.
 */
struct frontend_key4 {
	struct ip4 address;
	__be16 port;
	__u8 protocol;
	__u8 pad;
};

struct frontend_key6 {
	struct ip6 address;
	__be16 port;
	__u8 protocol;
	__u8 pad;
};

#define SERVED_WORDS 512 /* of `served_addresses`: a bit for each of CHANGED_ADDRESS_PLACES */

#define FRONTEND_RANGES 1 /* only sources in the service's ranges are welcome */
#define FRONTEND_NODE_IN_RANGES 2 /* the node's own processes are */
#define FRONTEND_INSIDE_LOCAL 4 /* set[FROM_INSIDE] holds the local backends only */
#define FRONTEND_OUTSIDE_LOCAL 8 /* set[FROM_OUTSIDE] does */
#define ADDRESS_OF_NODE 16 /* of an address: node ports are served here */
#define ADDRESS_OF_SERVICE 32 /* of an address: nothing else is behind it */
#define INSIDE_ONLY 128 /* of a frontend or an address: whoever is beyond the node is not served */

/* Who connects: an endpoint or the node itself, or somebody beyond the node. */
enum service_from {
	FROM_INSIDE,
	FROM_OUTSIDE,
};

/* Value of `frontends4`, `frontends6`. */
struct frontend {
	__u32 service; /* number of the service's port, from 1 */
	__u32 set[2]; /* by enum service_from: index in `sets` */
	__u32 flags; /* FRONTEND_*, ADDRESS_* */
	__u32 affinity; /* ticks that a client keeps its backend after its last connection; 0: it does not */
};

#define SET_BY_SCORE 1 /* each client has a score with each backend, and the highest takes it, on every node */
#define SET_BY_TABLE 2 /* `first` and `count` are places in `lookup_tables`: the same for sets too large for scores */
#define SET_ELSEWHERE 4 /* empty, although there are backends on other nodes */
#define SCORED_MOST 128 /* backends of a set by score */
/* A client that is chosen for anew takes its two best backends by turns of so many times the affinity: see choose. */
#define AFFINITY_TURN 4

/* Value of `sets`: backends to choose from. The first eight bytes are read and written as one. */
struct backend_set {
	__u32 first; /* index in `backends4`, `backends6` */
	__u16 count;
	__u16 flags; /* SET_* */
	__u32 turn; /* how often was chosen from it */
	__u32 pad;
};

/* Value of `backends4`, `backends6`. What is in force is not changed but for `hits`. */
struct backend4 {
	struct ip4 address;
	__be16 port;
	__u16 pad;
	__u32 hits; /* how often it was chosen, since it is in this place */
	__u32 seed; /* of its scores: a hash of address and port */
};

struct backend6 {
	struct ip6 address;
	__be16 port;
	__u16 pad;
	__u32 hits;
	__u32 seed;
	__u32 end;
};

/* Value of `lookup_tables`: two places of a table of consistent choice, each an index in the backends of its set's family. */
struct lookup_places {
	__u32 backend[2];
};

/* Key of `members4`, `members6`: an endpoint of a service, whatever its state. The value is MEMBER_*. */
struct member4 {
	__u32 service;
	struct ip4 address;
	__be16 port;
	__u16 pad;
};

struct member6 {
	__u32 service;
	struct ip6 address;
	__be16 port;
	__u16 pad;
};

#define MEMBER_CLUSTER 1 /* takes new connections of those who may be sent to any node */
#define MEMBER_LOCAL 2 /* takes new connections of those who stay on this node */

/* Key of `affinities4`, `affinities6`: a client of a service; of sockets, the network namespace that they are in. */
struct client4 {
	__u64 netns; /* cookie; 0: `address` says who it is */
	struct ip4 address;
	__u32 service;
};

struct client6 {
	__u64 netns;
	struct ip6 address;
	__u32 service;
	__u32 pad;
};

struct affinity4 {
	struct ip4 address;
	__be16 port;
	__u16 pad;
	__u32 seen; /* tick of the last connection */
};

struct affinity6 {
	struct ip6 address;
	__be16 port;
	__u16 pad;
	__u32 seen;
};

/* Values of `connections4`, `connections6`; the key is a socket's cookie. What a connected socket means, and whom it was led
 * to: one for each, until it is closed. */
struct connection4 {
	__u64 netns; /* cookie */
	struct ip4 meant; /* the service's */
	struct ip4 backend;
	__be16 meant_port;
	__be16 backend_port;
	__u32 service;
	__u32 protocol;
	__u32 pad;
};

struct connection6 {
	__u64 netns;
	struct ip6 meant;
	struct ip6 backend;
	__be16 meant_port;
	__be16 backend_port;
	__u32 service;
	__u32 protocol;
	__u32 pad;
};

/* Key of `sockets4`, `sockets6`: sockets that are not connected, each as many times as it sends to services. */
enum socket_peer_as {
	AS_BACKEND, /* the address is a backend's: the value has the service's, which the application means */
	AS_SERVICE, /* the address is a service's: the value has the backend that datagrams go to */
};

struct socket_key4 {
	__u64 cookie; /* of the socket */
	struct ip4 address;
	__be16 port;
	__u8 protocol;
	__u8 as; /* enum socket_peer_as */
};

struct socket_key6 {
	__u64 cookie;
	struct ip6 address;
	__be16 port;
	__u8 protocol;
	__u8 as;
	__u32 pad;
};

struct socket_peer4 {
	__u64 netns; /* cookie */
	struct ip4 address;
	__be16 port;
	__u16 pad;
	__u32 service;
	__u32 seen; /* tick of the last connection or datagram */
};

struct socket_peer6 {
	__u64 netns;
	struct ip6 address;
	__be16 port;
	__u16 pad;
	__u32 service;
	__u32 seen;
	__u32 end;
};

/* Keys of `source_ranges4`, `source_ranges6`. */
struct source_range4 {
	__u32 length; /* bits of what follows */
	__u32 service;
	struct ip4 address;
};

struct source_range6 {
	__u32 length;
	__u32 service;
	struct ip6 address;
};

/* Value of `namespaces`; the key is a network namespace's cookie. */
enum namespace_kind {
	NAMESPACE_NODE = 1,
	NAMESPACE_ENDPOINT = 2,
};

/* `ports`: a bit for each port, in words of 64; two rows. */
enum port_row {
	PORTS_SERVED, /* some service is reached at it from outside */
	PORTS_OF_BACKENDS, /* a backend in the node's own namespace answers at it */
	PORT_ROWS
};
#define PORT_WORDS 1024
