/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the programs share with user space about services. The rules of intf.h apply. */
#pragma once

#include "intf.h"

/* Key of `frontends4` and `frontends6`: where a service is reached. If the address is zero, it is reached at every
 * address of the node that serves node ports. If port and protocol are zero, the entry says what the address itself
 * is. */
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

#define SERVED_WORDS 512 /* of `served_addresses`: one bit for each of CHANGED_ADDRESS_PLACES */

#define FRONTEND_RANGES 1 /* only sources in the service's ranges are let in */
#define FRONTEND_NODE_IN_RANGES 2 /* the node's own processes are in the ranges */
#define FRONTEND_INSIDE_LOCAL 4 /* set[FROM_INSIDE] has only local backends */
#define FRONTEND_OUTSIDE_LOCAL 8 /* set[FROM_OUTSIDE] has only local backends */
#define ADDRESS_OF_NODE 16 /* of an address: node ports are served at it */
#define ADDRESS_OF_SERVICE 32 /* of an address: only services are behind it */
#define INSIDE_ONLY 128 /* of a frontend or an address: clients outside the node are not served */

/* Where the client is: an endpoint or a process of this node, or outside the node. */
enum service_from {
	FROM_INSIDE,
	FROM_OUTSIDE,
};

/* Value of `frontends4`, `frontends6`. */
struct frontend {
	__u32 service; /* number of the service's port, from 1 */
	__u32 set[2]; /* index in `sets`, by enum service_from */
	__u32 flags; /* FRONTEND_*, ADDRESS_* */
	__u32 affinity; /* ticks that a client keeps its backend after its last connection; 0: no affinity */
};

#define SET_BY_SCORE 1 /* the backend with the highest score for the client is chosen: the same on every node */
#define SET_BY_TABLE 2 /* `first` and `count` are places in `lookup_tables`: for sets too large for scores */
#define SET_ELSEWHERE 4 /* empty, although there are backends on other nodes */
#define SCORED_MOST 128 /* most backends of a set with SET_BY_SCORE */
/* A client without an affinity alternates between its two best backends. A turn lasts so many times the affinity:
 * is_second_turn(). */
#define AFFINITY_TURN 4

/* Value of `sets`: the backends to choose from. The first eight bytes are read and written at once. */
struct backend_set {
	__u32 first; /* index in `backends4` or `backends6` */
	__u16 count;
	__u16 flags; /* SET_* */
	__u32 turn; /* how often a backend was chosen from it */
	__u32 pad;
};

/* Value of `backends4` and `backends6`. A backend that is in force never changes, except for `hits`. */
struct backend4 {
	struct ip4 address;
	__be16 port;
	__u16 pad;
	__u32 hits; /* how often it was chosen since it has this place */
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

/* Value of `lookup_tables`: two places of a table for consistent hashing. Each is an index in the backends of the
 * set's family. */
struct lookup_places {
	__u32 backend[2];
};

/* Key of `members4` and `members6`: an endpoint of a service, whatever its state. The value is MEMBER_*. */
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

#define MEMBER_CLUSTER 1 /* takes new connections of clients that may be sent to any node */
#define MEMBER_LOCAL 2 /* takes new connections of clients that must stay on this node */

/* Key of `affinities4` and `affinities6`: a client of a service. The client of a socket is its network namespace. */
struct client4 {
	__u64 netns; /* cookie; 0: the client is `address` */
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

/* Values of `connections4` and `connections6`; the key is the cookie of a socket. One entry for each connected
 * socket, until it is closed: the service that the application connected to, and the backend. */
struct connection4 {
	__u64 netns; /* cookie */
	struct ip4 meant; /* address of the service */
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

/* Key of `sockets4` and `sockets6`: sockets that are not connected. A socket has an entry for each service that it
 * sends to. */
enum socket_peer_as {
	AS_BACKEND, /* the address is a backend's, and the value has the service that the application sends to */
	AS_SERVICE, /* the address is a service's, and the value has the backend that the datagrams go to */
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

/* Keys of `source_ranges4` and `source_ranges6`. */
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

/* Rows of `ports`: one bit for each port, in words of 64. */
enum port_row {
	PORTS_SERVED, /* a service is reached at the port from outside */
	PORTS_OF_BACKENDS, /* a backend in the node's own namespace answers at the port */
	PORT_ROWS
};
#define PORT_WORDS 1024
