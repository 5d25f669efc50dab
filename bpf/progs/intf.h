/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the programs share with user space: the keys and values of every map. Fixed widths, padded by hand, no
 * implicit holes; `be` marks network byte order, everything else is in the host's. The Rust mirror is layout.rs,
 * which checks each size and offset against the BTF that the compiler wrote for these structs.
 */
#pragma once

#include <linux/types.h>

#define MAC_LENGTH 6

struct ip4 {
	__be32 word[1];
};

struct ip6 {
	__be32 word[4];
};

/* Value of `node` (one element): what concerns every program. */
struct node {
	/* Raised whenever a flow that was judged before may have to be judged otherwise now: which ones, `changes` tells. */
	__u32 epoch;
	/* Not zero: pods are masqueraded. */
	__u32 masquerade;
	/* Which set of peers and postures is in force: 0 or 1. One write changes both, whole. */
	__u32 set;
	/* What is told through `events`: EVENTS_*. */
	__u32 events;
	/* Of flows, one in so many is told; at least 1. */
	__u32 sample;
	/* How many events one processor may tell a tick, besides those of rules that log. */
	__u32 event_rate;
	/* How services treat what comes from outside: EXTERNAL_*. */
	__u32 external;
	/* An address of the node that an endpoint sees as the client when it is its own service's backend. */
	struct ip4 hairpin4;
	struct ip6 hairpin6;
};

/* Keys of `changes`, whose values are the epochs of the last change that concerned something: changes.h. */
#define CHANGED_ADDRESS_PLACES 32768
#define CHANGED_NETWORK_PLACES 4096
#define CHANGED_EVERYTHING 0
#define CHANGED_ADDRESSES 1 /* and what follows: one address */
#define CHANGED_NETWORKS 32769 /* and what follows: all of the first 24 bits, in IPv6 of 64 */
#define CHANGES 36865 /* their number */

/* skb->mark of what a program has judged and sends out of an uplink, where it is taken away again. A pod cannot set it: the
 * kernel clears marks between namespaces. A process of the node that may set marks gains nothing: it needs no judgement. */
#define MARK_FORWARDED 0x43616d62

#define EXTERNAL_DSR 1 /* a backend on another node answers the client directly */
#define EXTERNAL_HOST_BACKENDS 2 /* there are backends in the node's own namespace */

#define EVENTS_FLOWS 1 /* new flows, and their ends */
#define EVENTS_DROPS 2 /* every drop; without it, only what policy refuses */

#define ENDPOINT_SHAPED 1 /* a queueing discipline on the host end must see every packet */
#define ENDPOINT_CHAINED 2 /* another plugin made its interface, and leads what is not translated here */

/* Value of `endpoints4`, `endpoints6`; the key is the endpoint's address. */
struct endpoint {
	__u32 ifindex; /* of the host end */
	__u8 container_mac[MAC_LENGTH];
	__u8 host_mac[MAC_LENGTH];
	__u16 mtu; /* bytes */
	__u8 flags; /* ENDPOINT_* */
	__u8 pad;
	__u32 slot; /* its place in `postures`, from 1 */
};

/* Value of `uplinks`; the key is the interface's index. All zeroes: no address of that family. */
struct uplink {
	struct ip6 ipv6;
	struct ip4 ipv4;
	__u32 flags; /* UPLINK_* */
};

#define UPLINK_OVERLAY 1 /* it is the overlay's interface: what it receives came in frames */
#define UPLINK_SEEN_ONLY 2 /* with UPLINK_OVERLAY: frames that no uplink's program has seen are dropped */

/* Values of `machines4`, `machines6`; the key is an address of a node of the cluster. */
#define MACHINE_SENDS_FRAMES 1 /* frames of the overlay come from it */
#define MACHINE_EXTERNAL 2 /* services are met there, but nodes do not reach each other by it */

/* Value of `host_ends`, whose key is the index of an endpoint's host end, and of `node_macs4`, `node_macs6`, whose key is the
 * address of another node. */
struct ethernet_address {
	__u8 mac[MAC_LENGTH];
	__u16 pad;
};

/* Key of `no_masquerade4`, `no_masquerade6`, `node_prefixes4`, `node_prefixes6`. */
struct prefix4 {
	__u32 length; /* bits */
	struct ip4 address;
};

struct prefix6 {
	__u32 length; /* bits */
	struct ip6 address;
};

/*
 * Policy. An endpoint's slot has a posture, which names the policy map that its flows are looked up in, by the class of
 * the other side's address. What is the same for one class is settled when the map is written, so the longest match is
 * the verdict.
 */

#define POSTURE_KNOWN 1 /* without it everything is dropped */
#define POSTURE_INGRESS 2 /* what reaches the endpoint is policed */
#define POSTURE_EGRESS 4 /* what it sends is policed */

/* Value of `postures`; the key is set * POSTURE_SLOTS + slot. Read and written as the eight bytes that it is, so map
 * and flags change together. */
struct posture {
	__u32 map; /* index in `policies` */
	__u32 flags; /* POSTURE_*; from POSTURE_FILLING_SHIFT on, a number that is another when the map is filled anew */
};

#define POSTURE_FILLING_SHIFT 8

#define PEER_NODE 1 /* this node itself: always reaches its endpoints */

/* Value of the maps in `peers4`, `peers6` (the key is an address) and `ranges4`, `ranges6` (a prefix). */
struct peer {
	__u32 class;
	__u32 flags; /* PEER_* */
};

/* Whose entry it is: the upper two bits of policy_key.of. The others are the class, or the number of the branch. */
enum policy_of {
	POLICY_INGRESS,
	POLICY_EGRESS,
	POLICY_BRANCH, /* by the opener's port, for an entry that says POLICY_BY_SOURCE */
};
#define POLICY_OF_SHIFT 30
#define CLASS_ANY 0x3fffffff /* stands for the classes that a policy map has no entries of */

/* Key of a policy map: a prefix of 32 bits (any protocol), or of 48 to 64. */
struct policy_key {
	__u32 length; /* bits of what follows */
	__be32 of;
	__u8 zero;
	__u8 protocol;
	__be16 port; /* the other side's; for ICMP type << 8 | code; zero for what has neither */
};

enum policy_outcome {
	POLICY_DENY,
	POLICY_ALLOW,
	POLICY_BY_SOURCE, /* `rule` is a branch */
};

/* Value of a policy map. */
struct policy_entry {
	__u32 rule; /* index in `hits` */
	__u32 log; /* the rule that logs it; 0: none */
	__u8 outcome; /* enum policy_outcome */
	__u8 pad[3];
};

/*
 * Key of `conntrack4`, `conntrack6`: both sides of a flow, the smaller (address, port) first, compared as the bytes
 * lie in memory. Of ICMP who asks has the identifier as its port (zero if there is none), and who is asked the type << 8 |
 * code of the question: so echoes, timestamps and what both sides ask each other are flows of their own. Which side asks is part
 * of the key, for an identifier may be any number. A protocol without ports has zeroes.
 */
struct ct_key4 {
	struct ip4 address[2];
	__be16 port[2];
	__u8 protocol;
	__u8 asker; /* ICMP: 1 + the index of the side that asks; 0: another protocol */
	__u8 pad[2];
};

struct ct_key6 {
	struct ip6 address[2];
	__be16 port[2];
	__u8 protocol;
	__u8 asker;
	__u8 pad[2];
};

/* How packets of one way of a flow go on. */
enum ct_via {
	VIA_UNKNOWN, /* not decided yet: the first packet this way decides */
	VIA_STACK, /* through the host's stack */
	VIA_PEER, /* straight into the namespace of a local endpoint */
	VIA_HOST_END, /* out of a local endpoint's host end, past its queueing discipline */
	VIA_UPLINK, /* out of an uplink, by way of the neighbour table */
};

/* What is translated of the packets of one way: their source, their destination, both. */
#define NAT_NONE 0
#define NAT_SOURCE 1
#define NAT_DESTINATION 2

/* One way of a flow: the packets that come from that side. */
struct ct_way {
	__u32 ingress; /* host end of the endpoint that sends them; 0: the stack or the network does */
	__u32 egress; /* interface they leave by; 0 for VIA_STACK */
	__u16 mtu; /* of that interface or route, bytes; 0: unknown */
	__u8 via; /* enum ct_via */
	__u8 nat; /* NAT_* */
	__u8 sender_mac[MAC_LENGTH]; /* that the endpoint must send from */
	__u8 destination_mac[MAC_LENGTH]; /* written for VIA_PEER and VIA_HOST_END */
	__u8 source_mac[MAC_LENGTH]; /* written for VIA_PEER and VIA_HOST_END */
	__u16 routed; /* VIA_UPLINK: the tick when the routing table was asked */
};

#define CT_REPLIED 1 /* a packet went against the opener's way */
#define CT_FIN_OPENER 2
#define CT_FIN_REPLIER 4
#define CT_RESET 8
#define CT_BY_STACK 16 /* reached its endpoint through the host's stack: replies go back the same way */
#define CT_NAT_REVERSE 32 /* the entry of a translated flow as the other side sees it: the opener's packets have another key */
#define CT_RESET_BY_REPLIER 64 /* who sent the reset that CT_RESET tells of */
#define CT_DSR 128 /* the backend's node answers the client itself, from the address that the client sent to */
#define CT_PICKED_UP 256 /* TCP: begun by a segment that opens no connection; its beginning was forgotten, or never seen */
#define CT_OF_NODE 512 /* opened by a process of this node; with CT_BY_STACK */
#define CT_CONFIRMED 2048 /* TCP: the opener has acknowledged the answer; others but ICMP: both sides still sent after a while */
#define CT_HOLDS_PORT 4096 /* TCP, the source is translated: the other side has finished first, and will wait for what is late */
#define CT_NUMBERED 8192 /* TCP, until CT_CONFIRMED: an answer was seen, and the upper half of its sequence number is that of the flags */
#define CT_BY_SYN 16384 /* the same: that answer was a SYN */
#define CT_OVER_SHARE 32768 /* with CT_CONFIRMED: its opener had its share of those, so it goes on waiting in line */
#define CT_NUMBER 0xffff0000
#define CT_TRANSLATED_EARLIER 1024 /* of a CT_NAT_REVERSE: the opener's packets pass the endpoint's host end translated, on their way to it */

/* Values of `conntrack4`, `conntrack6`. A translated flow has two entries: one as its opener sees it, one as the other
 * side does; each holds the other's key: key.address[i], key.port[i] are nat_address[i], nat_port[i] there. way[i] is
 * the way of what key.address[i] sends. */
struct ct_entry4 {
	__u32 epoch;
	__u32 seen; /* tick of the last packet */
	__u32 flags; /* CT_* */
	__u32 service; /* whose backend the flow goes to; 0: none's */
	__u8 opener; /* index of the side that opened the flow */
	__u8 born; /* tick of its first packet, modulo 256 */
	__u16 begun; /* the same, in 2^24 ns, modulo 65536 */
	__be16 nat_port[2];
	struct ip4 nat_address[2];
	struct ip4 next_hop; /* for VIA_UPLINK; zero: ask the routing table */
	struct ct_way way[2];
};

struct ct_entry6 {
	__u32 epoch;
	__u32 seen;
	__u32 flags;
	__u32 service;
	__u8 opener;
	__u8 born;
	__u16 begun;
	__be16 nat_port[2];
	struct ip6 nat_address[2];
	struct ip6 next_hop;
	struct ct_way way[2];
};

/* Values of `waiting4`, `waiting6`: entries of flows that nobody has gone on from, in the order in which they came. */
struct waiting4 {
	struct ct_key4 key;
	__u16 begun; /* of the entry that is meant */
	__u8 pad[2];
};

struct waiting6 {
	struct ct_key6 key;
	__u16 begun;
	__u8 pad[2];
};

/* Keys of `fragments4`, `fragments6`: a datagram under way in pieces, by the interface whose hook sees them: who sends by another
 * one cannot say anything of it. In IPv6 no protocol is part of it: a later piece
 * names the header that the first goes on with, which may be an extension. RFC 8200, section 4.5. */
struct fragment4 {
	struct ip4 source;
	struct ip4 destination;
	__be32 id;
	__u32 protocol;
	__u32 ifindex;
};

struct fragment6 {
	struct ip6 source;
	struct ip6 destination;
	__be32 id;
	__u32 ifindex;
};

/* With this in `ifindex` and no `id`: the last datagram in pieces between the two. */
#define FRAGMENTS_LAST 0x80000000

/* Value of `fragments4`, `fragments6`: what only the first piece says, and what became of the pieces. */
struct fragments {
	__be16 source; /* ports */
	__be16 destination;
	__u32 eighth; /* of a tick: when the last of them came */
	__u8 protocol;
	__u8 early; /* how many came before the first */
	__u8 cut; /* the host's stack has the first, which is to be cut again: the others follow */
	__u8 known : 1; /* the first has come */
	__u8 asker : 2; /* enum asker */
	__u8 pad : 5;
};

/* When none has come for so many eighths of a tick, the next with the same number is of another datagram: 0.27 to 0.4 s. */
#define FRAGMENTS_APART 3

/* How long a flow is remembered after its last packet, in ticks of 2^30 ns (1.07 s). states.h says which it is. */
struct lifetimes {
	__u32 tcp_opening; /* not answered, or the opener has not gone on yet */
	__u32 tcp_established;
	__u32 tcp_closing; /* one side has finished, or one has reset */
	__u32 tcp_closed; /* both have finished, or it was refused */
	__u32 tcp_held; /* both have, the other side of a translated connection first */
	__u32 udp; /* until both sides still send after a while */
	__u32 udp_stream;
	__u32 icmp;
	__u32 other_new; /* any other protocol, not answered */
	__u32 other;
};

#define TICK_SHIFT 30
#define MOMENT_SHIFT 24

/* For so many ticks a way out of an uplink is kept without asking the routing table: with no daemon that tells of changes, a
 * flow follows them all the same. */
#define ROUTED_MOST 256

/* Value of `plain_routes` (one element): of a family whose flag is set, nothing but a packet's destination (and interface) decided which
 * way it leaves when the kernel had counted so many changes of its routing tables. */
struct plain_routes {
	__u32 families; /* PLAIN_ROUTES* */
	__u32 count4;
	__u32 count6;
	__u32 pad;
};

#define PLAIN_ROUTES4 1
#define PLAIN_ROUTES6 2

/* Context of the program `age`. */
struct ageing {
	__u32 now; /* the tick, given by the caller: such programs have no coarse clock */
	/* What it has found. */
	__u32 left4; /* entries of conntrack4 */
	__u32 left6;
	__u32 forgotten; /* of both families; the second view of a flow is not counted */
	__u32 waiting4; /* of those left, entries that wait in line */
	__u32 waiting6;
};

/* Keys of `drops`: why a packet was not let through. The names that people see are in layout.rs. */
enum drop_reason {
	DROP_NONE,
	DROP_MALFORMED, /* a header contradicts itself or the packet's length */
	DROP_NOT_IP, /* neither IPv4, IPv6 nor ARP */
	DROP_FOREIGN_SOURCE, /* an endpoint sent from an address that is not its own */
	DROP_FOREIGN_MAC, /* an endpoint sent from an Ethernet address that is not its own */
	DROP_FORGED_ENDPOINT, /* the network sent from an address of a local endpoint */
	DROP_UNKNOWN_ENDPOINT, /* no endpoint is known behind this interface for the destination */
	DROP_LINK_SCOPE, /* multicast, broadcast and router discovery are not forwarded, and loopback is not met from elsewhere */
	DROP_UNKNOWN_FRAGMENT, /* a later fragment came without the first of its datagram, and nothing is known of such between these two */
	DROP_UNRELATED_ERROR, /* an ICMP error about a flow that is not known */
	DROP_NO_MASQUERADE_ADDRESS, /* the uplink has no address of the packet's family */
	DROP_NO_MASQUERADE_PORT, /* every port that was tried is taken */
	DROP_CONNTRACK_FULL, /* a masqueraded flow could not be remembered */
	DROP_REWRITE_FAILED, /* the kernel refused a change of the packet, or its headers have no room */
	DROP_POLICY_EGRESS, /* the sender's policy refuses the flow */
	DROP_POLICY_INGRESS, /* the receiver's policy refuses the flow */
	DROP_POLICY_UNKNOWN, /* the endpoint's policy is not known (yet) */
	DROP_NO_BACKEND, /* the service has no backend, or none at that port; the sender is told */
	DROP_NO_LOCAL_BACKEND, /* the service's traffic stays on the node, where it has no backend */
	DROP_SOURCE_RANGE, /* the service does not take load balancer traffic from that source */
	DROP_PORT_TAKEN, /* a translated flow has the same addresses and ports */
	DROP_TOO_LARGE, /* larger than the way to the backend takes; the sender is told */
	DROP_HOPS, /* no hop is left to the backend's node */
	DROP_ENDPOINT_FRAME, /* an endpoint sent what a node could take for a frame of the overlay */
	DROP_FOREIGN_FRAME, /* a frame of the overlay that no node of the cluster has sent */
	DROP_NOT_SERVED, /* only services are behind the address: not of that protocol, or not for who is beyond the node */
	DROP_VLAN, /* an endpoint sent, or was sent, a frame with a VLAN tag */
	DROP_MARTIAN, /* sent from an address that no other machine has: this node's own, loopback, multicast, none */
	DROP_SOURCE_ROUTE, /* a source route or a routing header: its destination is not its last */
	DROP_FOREIGN_DISCOVERY, /* neighbour discovery that is not of this link */
	DROP_CHECKSUM_PLACE, /* an endpoint has the kernel write a checksum over what was judged */
	DROP_FRAGMENT_SHARE, /* an interface has begun as many datagrams in pieces as it may at a time */
	DROP_FOREIGN_WAY, /* sent from another node's endpoint, but it did not come from that node */
	DROP_OPENING_SHARE, /* an endpoint has opened as many flows that wait for an answer as it may in a tick */
	DROP_UNASKED_ANSWER, /* an ICMP answer, such as an echo reply, to what nobody is known to have asked */
	DROP_EARLY_FRAGMENT, /* a later fragment came before the first of its datagram, which alone tells where it goes */
	DROP_INTERNAL, /* a look-up that cannot fail has failed; the verifier wants this case handled */
	DROP_REASONS /* their number */
};

/* Keys of `counters`: what is worth knowing but is no drop. */
enum counter {
	COUNTER_UNTRACKED, /* a flow passed although conntrack could not take it */
	COUNTER_EVENTS_LOST, /* events that the ring had no room for */
	COUNTER_EVENTS_SUPPRESSED, /* events beyond the rate */
	COUNTER_ANSWERS_SUPPRESSED, /* errors and resets beyond the rate */
	COUNTER_SLOW_PATH, /* packets that took the slow path */
	COUNTERS
};

enum event_kind {
	EVENT_FLOW = 1, /* a flow is let through for the first time */
	EVENT_END = 2, /* a TCP flow has ended */
	EVENT_DROP = 3,
	EVENT_LOG = 4, /* a rule that logs has matched */
};

enum event_direction {
	EVENT_INGRESS, /* the policy of the endpoint that the flow reaches */
	EVENT_EGRESS, /* the policy of the endpoint that opens it */
	EVENT_NO_DIRECTION,
};

/* A record of `events`. Source and destination are those of the flow: who opened it, and whom to. */
struct event {
	__u64 time; /* ns, CLOCK_MONOTONIC */
	__u32 rule; /* that decided; 0: none */
	__u32 log; /* EVENT_LOG: the rule that logs */
	__u32 ifindex; /* where it was seen */
	__u8 kind; /* enum event_kind */
	__u8 reason; /* enum drop_reason */
	__u8 family; /* 4 or 6; 0: the packet could not be parsed, what follows is zero */
	__u8 protocol;
	__be16 source_port;
	__be16 destination_port; /* for ICMP: type << 8 | code */
	__u8 direction; /* enum event_direction */
	__u8 pad[3];
	struct ip6 source; /* IPv4 in the first word */
	struct ip6 destination;
};

/* Value of `accounts`, of an interface's (0: the network's and the node's own), and of `all_accounts`, of all. */
struct account {
	__u32 tick; /* of the answers; of all interfaces: when `kept` was counted */
	__u32 answers; /* errors and resets that were sent in it */
	__u32 pressing; /* the same that path MTU discovery waits for */
	__u32 opening_tick;
	__s32 opening; /* entries of flows that were opened in that and wait */
	__u32 eighth; /* of a tick */
	__u32 fragments; /* datagrams in pieces that were begun in it */
	__u32 search_tick;
	__u32 searches; /* how often a search for a port went on in that */
	/* Entries of flows that it has opened and that do not wait, of IPv4 and of IPv6: as they were counted last, and those since. */
	__u32 kept[2];
	__u32 counted[2]; /* the same: by the count that is under way */
};

/* Keys of `budgets`. */
enum budget_of {
	BUDGET_EVENTS,
	BUDGET_ANSWERS, /* errors and resets */
	BUDGET_CLAIMS, /* searches for a port, beyond the first tries and what each endpoint has */
	BUDGETS
};

/* Value of `budgets`: what a processor may still do in a tick. */
struct budget {
	__u32 tick;
	__u32 left;
};
