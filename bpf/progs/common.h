/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Definitions and functions that are the same for both families. */
#pragma once

#include <linux/bpf.h>
#include <linux/errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/pkt_cls.h>
#include <stdbool.h>
#include <stddef.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "maps.h"

/* Lets the packet go on to the program that is attached behind ours, and to the stack: TCX_NEXT of tcx, "next
 * filter" of clsact. */
#define PASS TC_ACT_UNSPEC

#define AF_INET 2
#define AF_INET6 10

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

/* Returns the kernel's own sk_buff of a context. Linux 6.2. */
extern void *bpf_cast_to_kern_ctx(void *context) __ksym __weak;

/* The daemon sets these constants before it loads the programs; the verifier knows their values. */
const volatile struct lifetimes lifetimes = {};
/* The source ports and ICMP identifiers of masqueraded flows: [first, first + count). The host's own sockets do not
 * use this range, so the host's packets need no look-up. */
const volatile __u16 masquerade_port_first = 10000;
const volatile __u16 masquerade_port_count = 20000;
/* Step widths of the port search. They are primes above any number of ports, so each leads to every port once before
 * it comes to a port again. */
const volatile __u32 claim_steps[16] = { 65537, 65539, 65543, 65551, 65557, 65563, 65579, 65581,
					 65587, 65599, 65609, 65617, 65629, 65633, 65647, 65651 };
/* The size of `waiting4`, and of `waiting6`. */
const volatile __u32 waiting_entries = WAITING_ENTRIES;
/* The size of `fragments4`, and of `fragments6`. */
const volatile __u32 fragment_entries = FRAGMENT_ENTRIES;
/* How many errors and resets may be sent in a tick (1.07 s): towards one interface, and by one processor. */
const volatile __u32 answer_rate = 1000;
const volatile __u32 answer_rate_of_processor = 10000;
/* For tests: the tick is the value in `hand`. */
const volatile bool clock_by_hand = false;
/* The overlay: its UDP port (zero: there is none), and the number of its network. */
const volatile __be16 overlay_port = 0;
const volatile __u32 overlay_id = 0;
/* BPF_FIB_LOOKUP_MARK of Linux 6.10: the mark is passed where the Ethernet addresses are returned. */
#define FIB_LOOKUP_MARK (1 << 5)
/* Flags for bpf_fib_lookup: newer kernels can skip the neighbour, and can take the packet's mark. */
const volatile __u32 fib_lookup_flags = 0;

/* The transport headers, as far as the programs read them. */
struct transport {
	__be16 source;
	__be16 destination;
};

struct tcp_header {
	__be16 source;
	__be16 destination;
	__be32 sequence;
	__be32 acknowledgement;
	__u8 data_offset; /* in its upper four bits, in words */
	__u8 flags;
	__be16 window;
	__be16 checksum;
	__be16 urgent;
};

struct udp_header {
	__be16 source;
	__be16 destination;
	__be16 length;
	__be16 checksum;
};

struct vxlan_header {
	__be32 flags;
	__be32 id; /* in its upper three bytes */
};

struct icmp_header {
	__u8 type;
	__u8 code;
	__be16 checksum;
	__be16 id; /* of an echo */
	__be16 sequence;
};

/* The kinds of packets. */
enum packet_kind {
	PACKET_WHOLE,
	PACKET_FIRST_FRAGMENT,
	PACKET_LATER_FRAGMENT, /* has no transport header */
	PACKET_ERROR, /* an ICMP error about the flow */
};

/* Which side of an ICMP message asks. An answer goes to the side that has asked. A message that is neither question
 * nor answer counts as a question. */
enum asker {
	ASKER_NONE, /* not ICMP */
	ASKER_SOURCE,
	ASKER_DESTINATION,
};

/* The results of parsing. A positive value is a drop reason. */
enum {
	PARSED = 0,
	PARSED_NEIGHBOUR_DISCOVERY = -1, /* IPv6 neighbour solicitation or advertisement */
};

/* An uplink sets this as the priority of a frame that a node of the cluster has sent. The overlay's interface, which
 * receives the packet inside the frame, checks it: decapsulation keeps the priority, but not the interface that the
 * frame came by. The lower bits are those of priority zero, so that no queueing discipline reads a class from it. */
#define FRAME_SEEN 0xca3b0000

/* What the slow path needs to know besides the packet. */
enum slow_path_flags {
	SLOW_PATH_HAS_ENTRY = 1, /* the flow has an entry that the packet does not fit */
	SLOW_PATH_AT_UPLINK = 2, /* of an endpoint's packet: seen at the uplink, not at the host end */
	SLOW_PATH_OF_NODE = 4, /* a process of this node has sent it: it came by no interface */
	SLOW_PATH_BY_STACK = 8, /* of a packet for an endpoint: seen at the host end, not at the uplink */
	SLOW_PATH_ALLOWED_BY_NAME = 16, /* a rule allows the flow by a DNS name: scratch->by_name */
};

/* How a source port is claimed. */
enum claim_flags {
	CLAIM_OF_NODE = 1, /* the source becomes the node's: not a port of one of its sockets */
	CLAIM_TAKE_CLOSED = 2, /* also take it from a flow that has ended */
	CLAIM_OWN = 4, /* only the port that the flow already has */
	CLAIM_TAKE_WAITING = 8, /* also take it from a flow that waits */
	CLAIM_TAKE = 16, /* take it from any flow: one of its endpoints is gone */
	CLAIM_SEARCHED = 32, /* scratch->search knows whether a flow has the port */
};

/* What a policy check needs to know about a packet's flow. */
enum policy_check_flags {
	CHECK_OPENED_BY_NODE = 1, /* a process of this node opened it */
	CHECK_REPLY = 2, /* the packet goes from the other side to the opener */
};

/* How the policy of a HostEndpoint is asked, besides the enum host_layer. */
#define HOST_EGRESS 4 /* the opener's packets leave by the interface */
#define HOST_REPLY 8 /* the packet goes from the other side to the opener */
#define HOST_HERE 16 /* of the interface that sees the packet */
#define HOST_NOWHERE 32 /* of none */

/* Where a packet meets the policies of a HostEndpoint. */
enum host_stage {
	HOST_BEFORE, /* it has come by the interface, and nobody has looked at it */
	HOST_ARRIVED, /* nobody has led it to an endpoint: the stack gets it */
	HOST_LEAVES, /* it leaves by the interface */
};

/* What becomes of it there. A positive value is a drop reason. */
enum host_answer {
	HOST_GOES_ON = 0, /* nothing denies it so far */
	HOST_PASSES = -1, /* no more is asked */
	HOST_DROPPED = -2, /* it is counted already */
	HOST_IS_JUDGED = -3, /* its flow is new, or something has changed */
};

/* Which entries of a flow enter the waiting line. */
enum wait_entries {
	WAIT_FORWARD = 1,
	WAIT_REVERSE = 2,
};

/* What happens to the source of a packet that leaves the node. */
enum snat_mode {
	SNAT_NONE,
	SNAT_MASQUERADE, /* becomes an address of the node if the destination is outside the cluster */
	SNAT_NODE_ADDRESS, /* becomes an address of the node, so that the answer comes back here */
};

/* What the DSR option of a packet means for a flow that is known. */
enum dsr_weight {
	DSR_IGNORED,
	DSR_ACCEPTED, /* the flow is answered from that address from now on */
	DSR_NEW_FLOW, /* a new flow begins, because the known one has ended or is not whole */
	DSR_TAKEN, /* it opens a connection with the addresses and ports of a live one */
};

#define FIRST_EPHEMERAL_PORT 32768

/* A flow that goes on after so many ticks may have been waiting for an answer. */
#define LONG_QUIET 2

/* Whether a packet gets a DSR option. */
enum dsr_need {
	DSR_NOT_NEEDED,
	DSR_IF_ROOM, /* a reminder: the backend's node may have forgotten the flow */
	DSR_NEEDED,
};

/* What happens to a connect, or to a datagram of a socket. */
enum socket_outcome {
	SOCKET_AS_IS,
	SOCKET_TRANSLATED, /* it goes to a backend */
	SOCKET_REFUSED,
};

/* What happens to a socket whose service has no backend. A UDP socket may connect anyway, as to a port where nobody
 * listens: its datagrams are refused, and the socket learns of that when it sends or receives. The node's own
 * sockets are refused at once, because no program sees their packets leave. */
static __always_inline enum socket_outcome unserved_socket(__u8 protocol, bool of_node, bool connects)
{
	return connects && protocol == IPPROTO_UDP && !of_node ? SOCKET_AS_IS : SOCKET_REFUSED;
}

static __always_inline void count_drops(enum drop_reason reason, __u32 packets)
{
	__u32 key = reason;
	__u64 *count = bpf_map_lookup_elem(&drops, &key);

	if (count)
		*count += packets;
}

static __always_inline int drop_and_count(enum drop_reason reason)
{
	count_drops(reason, 1);
	return TC_ACT_SHOT;
}

static __always_inline void count(enum counter which)
{
	__u32 key = which;
	__u64 *count = bpf_map_lookup_elem(&counters, &key);

	if (count)
		(*count)++;
}

static __always_inline struct scratch *scratch_room(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&scratch, &zero);
}

/* Keeps the order of memory accesses: all processors see what was read or written before it before what is read or
 * written after it. x86 keeps this order by itself; arm64 does not, but an atomic exchange makes it. */
static __always_inline void fence(struct scratch *room)
{
#ifdef __TARGET_ARCH_x86
	barrier();
#else
	__sync_lock_test_and_set(&room->fence, 1);
#endif
}

/* The next two functions have keys of their own, so that the compiler can reuse their place on the stack afterwards. */
static __always_inline const struct node *node_state(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&node, &zero);
}

static __always_inline const struct uplink *uplink_of(const struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex;

	return bpf_map_lookup_elem(&uplinks, &ifindex);
}

/* The coarse clock is a plain memory read. It came with Linux 5.11. */
static __always_inline __u64 coarse_ns(void)
{
	if (bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_ktime_get_coarse_ns))
		return bpf_ktime_get_coarse_ns();
	return bpf_ktime_get_ns();
}

static __always_inline __u32 ticks(void)
{
	if (clock_by_hand) {
		__u32 zero = 0, *tick = bpf_map_lookup_elem(&hand, &zero);

		return tick ? *tick : 0;
	}
	return coarse_ns() >> TICK_SHIFT;
}

/* Reads the clock once for the whole slow path. */
static __always_inline void read_clock(struct scratch *room)
{
	__u64 now = coarse_ns();

	if (clock_by_hand)
		now = (__u64)ticks() << TICK_SHIFT;
	room->now = now >> TICK_SHIFT;
	room->moment = now >> MOMENT_SHIFT;
}

/* Whether this processor may do something once more in this tick. */
static __always_inline bool spend_budget(enum budget_of what, __u32 rate)
{
	__u32 key = what, now = ticks();
	struct budget *budget = bpf_map_lookup_elem(&budgets, &key);

	if (!budget)
		return false;
	if (budget->tick != now) {
		budget->tick = now;
		budget->left = rate;
	}
	if (!budget->left)
		return false;
	budget->left--;
	return true;
}

/* Whether this processor may write one more event in this tick. */
static __always_inline bool spend_event_budget(const struct node *node)
{
	if (spend_budget(BUDGET_EVENTS, node->event_rate))
		return true;
	count(COUNTER_EVENTS_SUPPRESSED);
	return false;
}

/* Time in units of 17 ms. Two flows with the same key are told apart by when they began. */
static __always_inline __u16 moment(void)
{
	return (clock_by_hand ? (__u64)ticks() << TICK_SHIFT : coarse_ns()) >> MOMENT_SHIFT;
}

/* The first round of a port search tries CLAIM_TRIES ports. */
#define CLAIM_TRIES 64
/* A hash that spreads small differences over all bits. No two inputs have the same result. */
static __always_inline __u32 mix_bits(__u32 bits)
{
	bits = (bits ^ bits >> 16) * 0x7feb352d;
	bits = (bits ^ bits >> 15) * 0x846ca68b;
	return bits ^ bits >> 16;
}

/* Whether a place has changed since an epoch. */
static __always_inline bool has_changed(__u32 place, __u32 since)
{
	__u32 *changed = bpf_map_lookup_elem(&changes, &place);

	return !changed || (__s32)(*changed - since) > 0;
}

/* An epoch in which no verdict holds. It is long before the last change of everything: user space writes that change
 * before it raises the node's epoch, and the epoch just before it would be the node's for a moment. */
static __always_inline __u32 outdated(void)
{
	__u32 place = CHANGED_EVERYTHING;
	__u32 *changed = bpf_map_lookup_elem(&changes, &place);

	return (changed ? *changed : 0) - (1u << 30);
}

/* The sum of two partial checksums. RFC 1071. */
static __always_inline __u32 add_carrying(__u32 one, __u32 other)
{
	__u32 sum = one + other;

	return sum + (sum < other);
}

/* A port up to this offset is written directly into the packet. */
#define NEAR_PORT 512

/* The checksum of a partial sum. RFC 1071. */
static __always_inline __be16 fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return ~((sum & 0xffff) + (sum >> 16));
}

/* Whether a port (network byte order) is in a row of `ports`. */
static __always_inline bool has_port(enum port_row row, __be16 port)
{
	__u32 number = bpf_ntohs(port), at = row * PORT_WORDS + number / 64;
	__u64 *word = bpf_map_lookup_elem(&ports, &at);

	return word && *word >> number % 64 & 1;
}

/* Whether a port of the node may belong to a service or to a masqueraded flow. */
static __always_inline bool is_met_from_outside(__be16 port)
{
	return (__u16)(bpf_ntohs(port) - masquerade_port_first) < masquerade_port_count || has_port(PORTS_SERVED, port);
}

static __always_inline bool same_mac(const __u8 *a, const __u8 *b)
{
	/* In steps of two bytes, because the Ethernet source is at offset 6 of the packet. */
	const __u16 *x = (const __u16 *)a, *y = (const __u16 *)b;

	return ((x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2])) == 0;
}

static __always_inline void copy_mac(__u8 *to, const __u8 *from)
{
	__u16 *x = (__u16 *)to;
	const __u16 *y = (const __u16 *)from;

	x[0] = y[0];
	x[1] = y[1];
	x[2] = y[2];
}

/* Notes that a connection to a service was made at a port (network byte order). */
static __always_inline void hold_service_port(__be16 port)
{
	__u32 number = bpf_ntohs(port), at = number / 64 % PORT_WORDS;
	__u64 *word = bpf_map_lookup_elem(&held_ports, &at);

	if (word)
		*word |= 1ull << number % 64;
}

/* Makes the first `length` bytes readable by direct access. Returns false if the packet is shorter. */
static __always_inline bool pull(struct __sk_buff *skb, __u32 length)
{
	if (likely((void *)(long)skb->data + length <= (void *)(long)skb->data_end))
		return true;
	return length <= skb->len && bpf_skb_pull_data(skb, length) == 0;
}

/* Where an answer of a program goes, seen from the hook of the packet that it answers. */
enum answer_to {
	ANSWER_TO_NETWORK, /* out of the interface by which the packet came */
	ANSWER_TO_ENDPOINT, /* into the namespace of the endpoint that sent it */
	ANSWER_BY_ROUTE, /* where the route to its sender leads, if it came from there through the host's stack */
};

/* Sends a packet, whose addresses are already swapped, back to where it came from. */
static __always_inline int send_back(struct __sk_buff *skb, enum answer_to to)
{
	if (!pull(skb, ETH_HLEN))
		return TC_ACT_SHOT;

	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ethhdr *ethernet = data;
	__u8 sender[MAC_LENGTH] __attribute__((aligned(2)));

	if ((void *)(ethernet + 1) > end)
		return TC_ACT_SHOT;
	copy_mac(sender, ethernet->h_source);
	copy_mac(ethernet->h_source, ethernet->h_dest);
	copy_mac(ethernet->h_dest, sender);
	/* Nobody answers a frame for several machines, or one from nobody (RFC 1122, section 3.2.2). */
	if ((sender[0] | ethernet->h_source[0]) & 1)
		return TC_ACT_SHOT;
	if (to == ANSWER_TO_ENDPOINT)
		return bpf_redirect_peer(skb->ifindex, 0);
	/* The uplink's egress program would check the answer as a packet of the endpoint. */
	skb->mark = MARK_FORWARDED;
	return bpf_redirect(skb->ifindex, 0);
}

/* Flags for bpf_skb_adjust_room: the datagrams of a UDP aggregate keep their sizes. */
static __always_inline __u64 room_flags(const struct __sk_buff *skb, __u8 protocol)
{
	return skb->gso_size && protocol == IPPROTO_UDP ? BPF_F_ADJ_ROOM_FIXED_GSO : 0;
}

/* Whether the transport checksum is still to be filled in (CHECKSUM_PARTIAL). The only sign of it is that the
 * kernel's helper then leaves the checksum as it is. The two bytes of the checksum are overwritten; the caller
 * writes them afterwards. */
static __always_inline bool is_checksum_due(struct __sk_buff *skb, __u32 at)
{
	__be16 probe = bpf_htons(0x1234), after = 0;

	bpf_skb_store_bytes(skb, at, &probe, sizeof(probe), 0);
	bpf_l4_csum_replace(skb, at, 0, 1, 0);
	bpf_skb_load_bytes(skb, at, &after, sizeof(after));
	return after == probe;
}

static __always_inline bool has_ports(__u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_SCTP ||
	       protocol == IPPROTO_UDPLITE;
}

/* Whether services of this protocol are supported. */
static __always_inline bool is_balanced(__u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_SCTP;
}

static __always_inline bool is_icmp(__u8 protocol)
{
	return protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6;
}

/* The offset of the transport checksum, and the flags to change it. Returns -1 if no checksum covers addresses or
 * ports. */
static __always_inline int checksum_offset(__u8 protocol, __u64 *flags)
{
	*flags = 0;
	switch (protocol) {
	case IPPROTO_TCP:
		return offsetof(struct tcp_header, checksum);
	case IPPROTO_UDP:
	case IPPROTO_UDPLITE:
		*flags = BPF_F_MARK_MANGLED_0;
		return offsetof(struct udp_header, checksum);
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		return offsetof(struct icmp_header, checksum);
	}
	return -1;
}

/* Combinations of flags that no TCP implementation sends. */
static __always_inline bool impossible_flags(__u8 flags)
{
	return (flags & (TCP_SYN | TCP_FIN)) == (TCP_SYN | TCP_FIN) ||
	       (flags & (TCP_SYN | TCP_RST)) == (TCP_SYN | TCP_RST) ||
	       !(flags & (TCP_SYN | TCP_FIN | TCP_RST | TCP_ACK));
}

/* Sets the direction of packets that are delivered to a local endpoint. */
static __always_inline void set_delivery_to(struct ct_way *way, const struct endpoint *endpoint)
{
	way->via = endpoint->flags & ENDPOINT_SHAPED ? VIA_HOST_END : VIA_PEER;
	way->egress = endpoint->ifindex;
	way->mtu = endpoint->mtu;
	copy_mac(way->destination_mac, endpoint->container_mac);
	copy_mac(way->source_mac, endpoint->host_mac);
}

/* Whether packets of an endpoint must go through the host's stack: to its queueing discipline, or to the routes of
 * the plugin that made its interface. */
static __always_inline bool by_stack_from(const struct endpoint *source, const struct endpoint *destination)
{
	return source->flags & ENDPOINT_SHAPED || (source->flags & ENDPOINT_CHAINED && !destination);
}

/* Whether another plugin made the interface of one of the two. That plugin forwards what is not translated here. */
static __always_inline bool of_other_plugin(const struct endpoint *one, const struct endpoint *other)
{
	return (one->flags | (other ? other->flags : 0)) & ENDPOINT_CHAINED;
}

/* Sets the sender of the packets in this direction: a local endpoint. */
static __always_inline void set_sender(struct ct_way *way, const struct endpoint *endpoint)
{
	way->ingress = endpoint->ifindex;
	copy_mac(way->sender_mac, endpoint->container_mac);
}

/* Whether a client without an affinity on this node gets its second choice. Nodes do not share their affinities, so
 * the choice must follow from the client and the time alone. A client should not be sent to the same backend for
 * ever, so its two best backends take turns. A turn is longer than the affinity. It starts at a different time for
 * each client, so that not all clients move at once, and clocks may differ a little. */
static __always_inline bool is_second_turn(__u32 lasting, __u32 mixed)
{
	__u32 zero = 0, turn = lasting * AFFINITY_TURN;
	__u32 *wall = bpf_map_lookup_elem(&wall_clock, &zero);

	return turn && (ticks() + (wall ? *wall : 0) + mixed % turn) / turn & 1;
}
