/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the programs share with user space: the keys and values of all maps. Widths are fixed, padding is explicit,
 * and there are no holes. A type with `be` is in network byte order, everything else is in the host's order. The
 * Rust mirror is bpf/src/layout.rs; it checks each size and offset against the BTF that the compiler writes for
 * these structs. */
#pragma once

#include <linux/types.h>

#define MAC_LENGTH 6

struct ip4 {
	__be32 word[1];
};

struct ip6 {
	__be32 word[4];
};

/* Value of `node` (one element): what all programs need to know about the node. */
struct node {
	/* Raised at each change after which a known flow may need another verdict. `changes` tells which flows. */
	__u32 epoch;
	/* Not zero: pods are masqueraded. */
	__u32 masquerade;
	/* Which set of peers and postures is in force, 0 or 1. One write switches all of them. */
	__u32 set;
	/* What is written to `events`: EVENTS_*. */
	__u32 events;
	/* One flow in so many has events; at least 1. */
	__u32 sample;
	/* How many events a processor may write in a tick, besides those of rules that log. */
	__u32 event_rate;
	/* What is asked about traffic that is not between pods: EXTERNAL_*. */
	__u32 external;
	/* An address of the node. An endpoint that is its own service's backend sees it as the client. */
	struct ip4 hairpin4;
	struct ip6 hairpin6;
};

/* Keys of `changes`. A value is the epoch of the last change that concerned the place: changes.h. */
#define CHANGED_ADDRESS_PLACES 32768
#define CHANGED_NETWORK_PLACES 4096
#define CHANGED_EVERYTHING 0
#define CHANGED_ADDRESSES 1 /* and the places after it: one address */
#define CHANGED_NETWORKS 32769 /* and the places after it: the first 24 bits of an address, of IPv6 64 */
#define CHANGES 36865 /* the number of places */

/* skb->mark of a packet that a program has let pass and sends out of an uplink. The uplink's egress program lets it
 * pass and removes the mark. A pod cannot set it, because the kernel clears marks between namespaces. A process of
 * the node that may set marks gains nothing: its packets pass without a check anyway. */
#define MARK_FORWARDED 0x43616d62

#define EXTERNAL_DSR 1 /* a backend on another node answers the client directly */
#define EXTERNAL_HOST_BACKENDS 2 /* some backends are in the node's own namespace */
#define EXTERNAL_HOST_POLICIES 4 /* `host_policies` is not empty */

#define EVENTS_FLOWS 1 /* new flows, and the ends of flows */
#define EVENTS_DROPS 2 /* every drop; without it only the drops by policy */

#define ENDPOINT_SHAPED 1 /* the queueing discipline of the host end must see every packet */
#define ENDPOINT_CHAINED 2 /* another plugin made the interface, and forwards what is not translated here */

/* Value of `endpoints4`, `endpoints6`; the key is the endpoint's address. */
struct endpoint {
	__u32 ifindex; /* of the host end */
	__u8 container_mac[MAC_LENGTH];
	__u8 host_mac[MAC_LENGTH];
	__u16 mtu; /* bytes */
	__u8 flags; /* ENDPOINT_* */
	__u8 pad;
	__u32 slot; /* its slot in `postures`, from 1 */
};

/* Value of `uplinks`; the key is the index of the interface. An address of zeroes means that it has none of that
 * family. */
struct uplink {
	struct ip6 ipv6;
	struct ip4 ipv4;
	__u32 flags; /* UPLINK_* */
};

#define UPLINK_OVERLAY 1 /* it is the overlay's interface: what it receives came in overlay frames */
#define UPLINK_SEEN_ONLY 2 /* with UPLINK_OVERLAY: drops frames that no uplink's program has let pass */
#define UPLINK_POLICED 4 /* `host_policies` has an entry for it */

/* The policies of a HostEndpoint, by what they are asked about. */
enum host_layer {
	HOST_LOCAL, /* what the node itself sends and gets */
	HOST_FORWARDED, /* what passes through the node (applyOnForward) */
	HOST_PRE_DNAT, /* all that comes by the interface, before its destination is translated (preDNAT) */
	HOST_UNTRACKED, /* all that passes the interface, packet by packet (doNotTrack) */
	HOST_LAYERS /* their number */
};

/* Value of `host_policies`; the key is the index of an interface, or 0: what pods of this node send to the node. */
struct host_policy {
	__u32 slot[HOST_LAYERS]; /* slots in `postures`; 0: nothing is asked */
};

/* Key of `host_flows`: a flow that is not an endpoint's. */
struct host_flow_key {
	struct ip6 address[2]; /* as in ct_key6; IPv4 is in the first word */
	__be16 port[2];
	__u8 protocol;
	__u8 asker;
	__u8 family; /* 4 or 6 */
	__u8 pad;
	__u32 ifindex; /* of a flow that passes through the node: where it is asked about; 0: the node's own */
};

/* Value of `host_flows`. */
struct host_flow {
	__u32 epoch; /* of its verdict */
	__u32 seen; /* tick of the last packet that was written down */
	__u32 flags; /* CT_*: states.h */
	__u8 opener; /* index of the side that opened it */
	__u8 born; /* tick of its first packet, modulo 256 */
	__u8 egress; /* its opener's packets leave by the interface */
	__u8 known; /* in scratch only: the map has it */
};

/* Values of `machines4` and `machines6`; the key is an address of a node of the cluster. */
#define MACHINE_SENDS_FRAMES 1 /* overlay frames come from it */
#define MACHINE_EXTERNAL 2 /* services are reached at it, but nodes do not reach each other by it */

/* Value of `host_ends`, by the index of an endpoint's host end, and of `node_macs4` and `node_macs6`, by the address
 * of another node. */
struct ethernet_address {
	__u8 mac[MAC_LENGTH];
	__u16 pad;
};

/* Key of `no_masquerade4`, `no_masquerade6`, `node_prefixes4` and `node_prefixes6`. */
struct prefix4 {
	__u32 length; /* bits */
	struct ip4 address;
};

struct prefix6 {
	__u32 length; /* bits */
	struct ip6 address;
};

/* Policy. The slot of an endpoint has a posture. The posture names the policy map for the endpoint's flows, which is
 * looked up by the class of the other side's address. User space resolves the order of rules when it writes the map,
 * so the longest match is the verdict. */

#define POSTURE_KNOWN 1 /* without it everything is dropped */
#define POSTURE_INGRESS 2 /* policy applies to what the endpoint receives */
#define POSTURE_EGRESS 4 /* policy applies to what the endpoint sends */

/* Value of `postures`; the key is set * POSTURE_SLOTS + slot. It is read and written as eight bytes at once, so map
 * and flags change together. */
struct posture {
	__u32 map; /* index in `policies` */
	__u32 flags; /* POSTURE_*; above POSTURE_FILLING_SHIFT a number that changes when the map is filled anew */
};

#define POSTURE_FILLING_SHIFT 8

#define PEER_NODE 1 /* this node itself, which always reaches its endpoints */

/* Value of the maps in `peers4` and `peers6` (by address) and in `ranges4` and `ranges6` (by prefix). */
struct peer {
	__u32 class;
	__u32 flags; /* PEER_* */
};

/* What a policy entry is for: the upper two bits of policy_key.of. The other bits are the class, or the number of
 * the branch or of the list. */
enum policy_of {
	POLICY_INGRESS,
	POLICY_EGRESS,
	POLICY_BRANCH, /* a branch by the opener's port, for an entry with POLICY_BY_SOURCE */
	POLICY_DOMAIN, /* a pattern of DNS names, whose number is in place of the port, in a list of such patterns */
};
#define POLICY_OF_SHIFT 30
#define CLASS_ANY 0x3fffffff /* stands for every class that the policy map has no entries of */

/* Key of a policy map. The prefix has 32 bits for any protocol, and 48 to 64 bits otherwise. */
struct policy_key {
	__u32 length; /* bits of what follows */
	__be32 of;
	__u8 zero;
	__u8 protocol;
	__be16 port; /* of the other side; ICMP: type << 8 | code; else zero */
};

enum policy_outcome {
	POLICY_DENY,
	POLICY_ALLOW,
	POLICY_BY_SOURCE, /* `rule` is the number of a branch */
};

/* Value of a policy map. */
struct policy_entry {
	__u32 rule; /* index in `hits` */
	__u32 log; /* the rule that logs; 0: none */
	__u8 outcome; /* enum policy_outcome */
	__u8 reject; /* POLICY_DENY: not zero, if the sender is told that its packet was denied */
	__u16 domains; /* POLICY_DENY of POLICY_EGRESS: a list of DNS names that are allowed nevertheless; 0: there is none */
};

#define DOMAINS_ALL 0xffff /* the list of all DNS names that a policy map allows */

/* Key of `conntrack4` and `conntrack6`: both sides of a flow. The side with the smaller address and port is first,
 * compared byte by byte as in memory. A side of ICMP has a number in place of a port: the side that asks has the
 * identifier (or zero), the side that is asked has type << 8 | code of the question. So echoes, timestamps and
 * questions in both directions are different flows. The side that asks is part of the key because an identifier may
 * be any number. A protocol without ports has zeroes. */
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

/* How the packets of one direction of a flow go on. */
enum ct_via {
	VIA_UNKNOWN, /* not decided yet: the first packet of this direction decides */
	VIA_STACK, /* through the host's stack */
	VIA_PEER, /* into the namespace of a local endpoint (bpf_redirect_peer) */
	VIA_HOST_END, /* out of a local endpoint's host end (bpf_redirect), through its queueing discipline */
	VIA_UPLINK, /* out of an uplink (bpf_redirect_neigh) */
};

/* What is translated in the packets of one direction: the source, the destination, or both. */
#define NAT_NONE 0
#define NAT_SOURCE 1
#define NAT_DESTINATION 2

/* One direction of a flow: how the packets of one side go on. */
struct ct_way {
	__u32 ingress; /* host end of the endpoint that sends them; 0: the stack or the network */
	__u32 egress; /* the interface by which they leave; 0 for VIA_STACK */
	__u16 mtu; /* of that interface or route, bytes; 0: not known */
	__u8 via; /* enum ct_via */
	__u8 nat; /* NAT_* */
	__u8 sender_mac[MAC_LENGTH]; /* Ethernet address that the endpoint must send from */
	__u8 destination_mac[MAC_LENGTH]; /* for VIA_PEER and VIA_HOST_END */
	__u8 source_mac[MAC_LENGTH]; /* for VIA_PEER and VIA_HOST_END */
	__u16 routed; /* VIA_UPLINK: the tick in which the routing table was asked */
};

#define CT_REPLIED 1 /* the other side has answered */
#define CT_FIN_OPENER 2
#define CT_FIN_REPLIER 4
#define CT_RESET 8
#define CT_BY_STACK 16 /* it reached its endpoint through the host's stack, so replies go back through it */
#define CT_NAT_REVERSE 32 /* the reverse entry of a translated flow: ct_reverse.h */
#define CT_RESET_BY_REPLIER 64 /* CT_RESET came from the side that did not open the flow */
#define CT_DSR 128 /* the backend's node answers the client directly, from the service's address */
#define CT_PICKED_UP 256 /* TCP: the first packet that was seen did not open the connection */
#define CT_OF_NODE 512 /* a process of this node opened it; always with CT_BY_STACK */
#define CT_CONFIRMED 2048 /* TCP: the opener acknowledged the answer; others but ICMP: a stream */
#define CT_HOLDS_PORT 4096 /* TCP with SNAT: the other side finished first, so it holds the port in TIME_WAIT */
#define CT_NUMBERED 8192 /* TCP before CT_CONFIRMED: CT_NUMBER has the upper half of an answer's number */
#define CT_BY_SYN 16384 /* with CT_NUMBERED: that answer was a SYN */
#define CT_OVER_SHARE 32768 /* with CT_CONFIRMED: beyond its opener's share, so it still waits in the line */
#define CT_NUMBER 0xffff0000
#define CT_TRANSLATED_EARLIER 1024 /* of a reverse entry: the packet passes a host end after its translation */

/* Values of `conntrack4` and `conntrack6`. A translated flow has two entries, and each holds the key of the other:
 * nat_address[i] and nat_port[i] are key.address[i] and key.port[i] after translation. way[i] is the direction of
 * what key.address[i] sends. */
struct ct_entry4 {
	__u32 epoch;
	__u32 seen; /* tick of the last packet that was written down */
	__u32 flags; /* CT_* */
	__u32 service; /* the service whose backend the flow goes to; 0: none */
	__u8 opener; /* index of the side that opened the flow */
	__u8 born; /* tick of its first packet, modulo 256 */
	__u16 begun; /* time of its first packet in 2^24 ns, modulo 65536 */
	__be16 nat_port[2];
	struct ip4 nat_address[2];
	struct ip4 next_hop; /* for VIA_UPLINK; zero: bpf_redirect_neigh looks it up */
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

/* Values of `waiting4` and `waiting6`: flows that their opener has not gone on with, in the order in which they
 * came. */
struct waiting4 {
	struct ct_key4 key;
	__u16 begun; /* of the entry, so that another flow with the same key is told from it */
	__u8 pad[2];
};

struct waiting6 {
	struct ct_key6 key;
	__u16 begun;
	__u8 pad[2];
};

/* Keys of `fragments4` and `fragments6`: a fragmented datagram, by the interface whose hook sees it, so that a
 * sender behind another interface cannot add to it. The key of IPv6 has no protocol: a later fragment names the
 * header that follows in the first one, which may be an extension header (RFC 8200, section 4.5). */
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

/* With this bit in `ifindex` and an `id` of zero: the last fragmented datagram between the two addresses. */
#define FRAGMENTS_LAST 0x80000000

/* Value of `fragments4` and `fragments6`: what only the first fragment says, and what happened to the fragments. */
struct fragments {
	__be16 source; /* ports */
	__be16 destination;
	__u32 eighth; /* time of the last fragment, in eighths of a tick */
	__u8 protocol;
	__u8 early; /* so many fragments came before the first one */
	__u8 cut; /* the host's stack got the first fragment, to cut it again, and must get the others */
	__u8 known : 1; /* the first fragment has come */
	__u8 asker : 2; /* enum asker */
	__u8 pad : 5;
};

/* If no fragment came for so many eighths of a tick (0.27 to 0.4 s), the next one with the same id belongs to
 * another datagram. */
#define FRAGMENTS_APART 3

/* How long a flow is remembered after its last packet, in ticks of 2^30 ns (1.07 s). states.h says which lifetime a
 * flow has. */
struct lifetimes {
	__u32 tcp_opening; /* not answered, or the opener has not gone on yet */
	__u32 tcp_established;
	__u32 tcp_closing; /* one side has finished, or has reset */
	__u32 tcp_closed; /* both sides have finished, or it was refused */
	__u32 tcp_held; /* both sides have finished, and the other side of a translated connection did so first */
	__u32 udp; /* before it is a stream */
	__u32 udp_stream;
	__u32 icmp;
	__u32 other_new; /* any other protocol, not answered */
	__u32 other;
};

#define TICK_SHIFT 30
#define MOMENT_SHIFT 24

/* A route out of an uplink is kept for so many ticks. So a flow follows changes of routes also when no daemon
 * reports them. */
#define ROUTED_MOST 256

/* Value of `plain_routes` (one element). A flag says of its family: when the kernel's count of route changes was the
 * number given here, the route of every packet depended only on its destination and on the interface that it came
 * by. */
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
	__u32 now; /* the tick; the caller sets it, because such programs cannot read the coarse clock */
	/* The results. */
	__u32 left4; /* entries that remain in conntrack4 */
	__u32 left6;
	__u32 forgotten; /* flows of both families that were deleted; a translated flow counts once */
	__u32 waiting4; /* entries that remain and wait in the line */
	__u32 waiting6;
};

/* Keys of `drops`: why a packet was dropped. bpf/src/layout.rs has the names that people see. */
enum drop_reason {
	DROP_NONE,
	DROP_MALFORMED, /* a header contradicts itself or the length of the packet */
	DROP_NOT_IP, /* neither IPv4, IPv6 nor ARP */
	DROP_FOREIGN_SOURCE, /* an endpoint sent from an address that is not its own */
	DROP_FOREIGN_MAC, /* an endpoint sent from an Ethernet address that is not its own */
	DROP_FORGED_ENDPOINT, /* a packet from the network has the address of a local endpoint as its source */
	DROP_UNKNOWN_ENDPOINT, /* no endpoint with the destination address is behind this interface */
	DROP_LINK_SCOPE, /* multicast, broadcast and router discovery; loopback from elsewhere */
	DROP_UNKNOWN_FRAGMENT, /* a later fragment, and nothing tells its flow */
	DROP_UNRELATED_ERROR, /* an ICMP error about an unknown flow */
	DROP_NO_MASQUERADE_ADDRESS, /* the uplink has no address of the packet's family */
	DROP_NO_MASQUERADE_PORT, /* every port that was tried is taken */
	DROP_CONNTRACK_FULL, /* there was no room for the entry of a translated flow */
	DROP_REWRITE_FAILED, /* the kernel refused a change of the packet, or its headers have no room */
	DROP_POLICY_EGRESS, /* the sender's policy refuses the flow */
	DROP_POLICY_INGRESS, /* the receiver's policy refuses the flow */
	DROP_POLICY_UNKNOWN, /* the endpoint's policy is not known (yet) */
	DROP_NO_BACKEND, /* the service has no backend, or none at that port; the sender gets an error */
	DROP_NO_LOCAL_BACKEND, /* the service's traffic stays on the node, and the node has no backend */
	DROP_SOURCE_RANGE, /* the service does not take traffic from that source */
	DROP_PORT_TAKEN, /* another translated flow has the same addresses and ports */
	DROP_TOO_LARGE, /* the packet is larger than the MTU towards the backend; the sender gets an error */
	DROP_HOPS, /* the packet has no hop left for the way to the backend's node */
	DROP_ENDPOINT_FRAME, /* an endpoint sent a packet that a node could take for an overlay frame */
	DROP_FOREIGN_FRAME, /* an overlay frame that no node of the cluster has sent */
	DROP_NOT_SERVED, /* the address has services only: not of this protocol, or not for clients outside the node */
	DROP_VLAN, /* an endpoint sent, or was sent, a frame with a VLAN tag */
	DROP_MARTIAN, /* no other machine may send from this address: this node's own, loopback, multicast, none */
	DROP_SOURCE_ROUTE, /* a source route or a routing header: the destination is not the last one */
	DROP_FOREIGN_DISCOVERY, /* neighbour discovery that does not belong to this link */
	DROP_CHECKSUM_PLACE, /* the kernel was asked to fill in a checksum over bytes that were checked */
	DROP_FRAGMENT_SHARE, /* an interface has begun as many fragmented datagrams as it may at a time */
	DROP_FOREIGN_WAY, /* the address of another node's endpoint, but the packet did not come from that node */
	DROP_OPENING_SHARE, /* an endpoint has opened as many flows that wait for an answer as it may in a tick */
	DROP_UNASKED_ANSWER, /* an ICMP answer, such as an echo reply, to a question that was not seen */
	DROP_EARLY_FRAGMENT, /* a later fragment came before the first one, which alone tells where the datagram goes */
	DROP_INTERNAL, /* a look-up that cannot fail has failed; the verifier wants this case handled */
	DROP_REASONS /* their number */
};

/* Keys of `counters`: what is worth knowing but is not a drop. */
enum counter {
	COUNTER_UNTRACKED, /* a flow passed although conntrack had no room for it */
	COUNTER_EVENTS_LOST, /* events that the ring buffer had no room for */
	COUNTER_EVENTS_SUPPRESSED, /* events beyond the rate */
	COUNTER_ANSWERS_SUPPRESSED, /* errors and resets beyond the rate, so the sender got none */
	COUNTER_SLOW_PATH, /* packets that took the slow path */
	COUNTERS
};

enum event_kind {
	EVENT_FLOW = 1, /* a new flow was let pass */
	EVENT_END = 2, /* a TCP connection has ended */
	EVENT_DROP = 3,
	EVENT_LOG = 4, /* a rule that logs has matched */
};

enum event_direction {
	EVENT_INGRESS, /* by the policy of the endpoint that the flow reaches */
	EVENT_EGRESS, /* by the policy of the endpoint that opens it */
	EVENT_NO_DIRECTION,
};

/* A record of `events`. Source and destination are those of the flow: its opener and the other side. */
struct event {
	__u64 time; /* ns, CLOCK_MONOTONIC */
	__u32 rule; /* the rule that decided; 0: none */
	__u32 log; /* EVENT_LOG: the rule that logs */
	__u32 ifindex; /* the interface where it was seen */
	__u8 kind; /* enum event_kind */
	__u8 reason; /* enum drop_reason */
	__u8 family; /* 4 or 6; 0: the packet could not be parsed, and what follows is zero */
	__u8 protocol;
	__be16 source_port;
	__be16 destination_port; /* ICMP: type << 8 | code */
	__u8 direction; /* enum event_direction */
	__u8 rejected; /* EVENT_DROP by policy: not zero, if the sender is told (policy_entry.reject) */
	__u8 pad[2];
	struct ip6 source; /* IPv4 is in the first word */
	struct ip6 destination;
};

/* Value of `accounts`, for one interface (0: the network and the node itself), and of `all_accounts`, for all
 * together. */
struct account {
	__u32 tick; /* of `answers` and `pressing`; in `all_accounts`: when `kept` was counted */
	__u32 answers; /* errors and resets that were sent in that tick, without `pressing` */
	__u32 pressing; /* errors that were sent in that tick and that path MTU discovery waits for */
	__u32 opening_tick;
	__s32 opening; /* entries of flows that were opened in `opening_tick` and still wait */
	__u32 eighth; /* eighth of a tick */
	__u32 fragments; /* fragmented datagrams that were begun in that eighth */
	__u32 search_tick;
	__u32 searches; /* port searches that went on in `search_tick` */
	/* Entries of the flows that it has opened and that do not wait, of IPv4 and of IPv6: the last full count,
	 * and what was added since. */
	__u32 kept[2];
	__u32 counted[2]; /* the same, of the count that is running */
};

/* Keys of `budgets`. */
enum budget_of {
	BUDGET_EVENTS,
	BUDGET_ANSWERS, /* errors and resets */
	BUDGET_CLAIMS, /* port searches beyond the first tries and each endpoint's share */
	BUDGETS
};

/* Value of `budgets`: what a processor may still do in the tick. */
struct budget {
	__u32 tick;
	__u32 left;
};
