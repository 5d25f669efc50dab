/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What is the same for both families. */
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

/* Lets the programs that were attached behind ours (and the stack) see the packet: TCX_NEXT for a tcx link, "next
 * filter" for clsact. */
#define PASS TC_ACT_UNSPEC

#define AF_INET 2
#define AF_INET6 10

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

/* The kernel's own packet behind a context. Linux 6.2. */
extern void *bpf_cast_to_kern_ctx(void *context) __ksym __weak;

/* Set by the daemon before it loads; the verifier sees constants. */
const volatile struct lifetimes lifetimes = {};
/* The ports and ICMP identifiers that masqueraded flows leave from: [first, first + count). They lie outside the
 * range that the host's own sockets draw from, so the host's packets need no look-up. */
const volatile __u16 masquerade_port_first = 10000;
const volatile __u16 masquerade_port_count = 20000;
/* Steps that lead to every port once before they come to one again, whatever the number of ports: primes above it. */
const volatile __u32 claim_steps[16] = { 65537, 65539, 65543, 65551, 65557, 65563, 65579, 65581,
					 65587, 65599, 65609, 65617, 65629, 65633, 65647, 65651 };
/* Of the maps `waiting4` and `waiting6`, each. */
const volatile __u32 waiting_entries = WAITING_ENTRIES;
/* Of the maps `fragments4` and `fragments6`, each. */
const volatile __u32 fragment_entries = FRAGMENT_ENTRIES;
/* How many errors and resets are sent in a tick (1.07 s) to behind one interface, and by one processor. */
const volatile __u32 answer_rate = 1000;
const volatile __u32 answer_rate_of_processor = 10000;
/* Tests move the clock: it is the tick in `hand`. */
const volatile bool clock_by_hand = false;
/* The overlay: its UDP port, zero if there is none, and the number of its network. */
const volatile __be16 overlay_port = 0;
const volatile __u32 overlay_id = 0;
/* BPF_FIB_LOOKUP_MARK of Linux 6.10: the mark lies where the Ethernet addresses are found afterwards. */
#define FIB_LOOKUP_MARK (1 << 5)
/* What bpf_fib_lookup may be asked: newer kernels need not look the neighbour up, and take the packet's mark. */
const volatile __u32 fib_lookup_flags = 0;

/* The transport headers, as far as they are read. */
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

/* What a packet is to its flow. */
enum packet_kind {
	PACKET_WHOLE,
	PACKET_FIRST_FRAGMENT,
	PACKET_LATER_FRAGMENT, /* without a transport header */
	PACKET_ERROR, /* an ICMP error about the flow */
};

/* Who asks, of an ICMP message: a reply goes to who asked. What is neither question nor answer counts as a question. */
enum asker {
	ASKER_NONE, /* it is none */
	ASKER_SOURCE,
	ASKER_DESTINATION,
};

/* What parsing finds. The positive values are reasons for a drop. */
enum {
	PARSED = 0,
	PARSED_NEIGHBOUR_DISCOVERY = -1, /* IPv6 neighbour solicitation or advertisement */
};

/*
 * A packet's priority from where an uplink has seen that it is a frame from a node to where the overlay's interface receives
 * what is in it: taking the frame apart leaves the priority as it is, but not the interface that the frame came by. Its
 * lower bits are those of no priority at all, so that nobody else takes it for one.
 */
#define FRAME_SEEN 0xca3b0000

/* What the slow path has to know of a packet besides what is in it. */
enum slow_path_flags {
	SLOW_PATH_HAS_ENTRY = 1, /* the flow has an entry, which the packet does not fit */
	SLOW_PATH_AT_UPLINK =
		2, /* an endpoint's packet is seen at the uplink, where the stack sends it, not at its host end */
	SLOW_PATH_OF_NODE = 4, /* a process of this node has made the packet: it came by no interface */
	SLOW_PATH_BY_STACK =
		8, /* a packet for an endpoint is seen at its host end, where the stack sends it, not at the uplink */
};

/* How a source port is claimed. */
enum claim_flags {
	CLAIM_OF_NODE =
		1, /* the source becomes an address of the node, so the port must be one that the node's own sockets do not use */
	CLAIM_TAKE_CLOSED = 2, /* also from a flow that has ended */
	CLAIM_OWN = 4, /* only what the flow has already */
	CLAIM_TAKE_WAITING = 8, /* also from a flow that waits */
	CLAIM_TAKE = 16, /* from whoever has it: one of its ends is gone */
	CLAIM_SEARCHED = 32, /* scratch->search tells whether somebody has the port */
};

/* What a policy check has to know of a packet's flow. */
enum policy_check_flags {
	CHECK_OPENED_BY_NODE = 1, /* a process of this node has opened it */
	CHECK_REPLY = 2, /* the packet goes from the flow's other side to its opener */
};

/* Which entries of a flow wait. */
enum wait_entries {
	WAIT_FORWARD = 1,
	WAIT_REVERSE = 2,
};

/* What becomes of the source of a packet that leaves the node. */
enum snat_mode {
	SNAT_NONE,
	SNAT_MASQUERADE, /* it becomes the node's where the destination is beyond the cluster */
	SNAT_NODE_ADDRESS, /* it becomes the node's, so that the answer comes back here */
};

/* What a mark of direct server return counts for a flow that is known. */
enum dsr_weight {
	DSR_IGNORED,
	DSR_ACCEPTED, /* the flow is answered from there from now on */
	DSR_NEW_FLOW, /* so is a new one, for what is remembered is over, or was not the whole */
	DSR_TAKEN, /* it opens a connection that has the same addresses and ports as one that lives */
};

#define FIRST_EPHEMERAL_PORT 32768

/* Ticks after which a flow that goes on may have been waiting for an answer. */
#define LONG_QUIET 2

/* Whether a packet carries a mark. */
enum dsr_need {
	DSR_NOT_NEEDED,
	DSR_IF_ROOM, /* a reminder: the backend's node may have forgotten the flow */
	DSR_NEEDED,
};

/* What becomes of a connect, or of a datagram that a socket sends. */
enum {
	SOCKET_AS_IS,
	SOCKET_TRANSLATED, /* to a backend */
	SOCKET_REFUSED,
};

/*
 * What becomes of a socket that nobody takes. That of UDP connects all the same, as it does to a port that nobody has: it is
 * its datagrams that are refused, so it learns of that when it sends or receives next. Those of the node itself pass no
 * program of ours on their way out.
 */
static __always_inline int unserved_socket(__u8 protocol, bool of_node, bool connects)
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

/* What was read before is so for all processors before what is read after, and what was written before what is written after.
 * x86 keeps that order by itself, arm64 does not: an exchange has it kept. */
static __always_inline void fence(struct scratch *room)
{
#ifdef __TARGET_ARCH_x86
	barrier();
#else
	__sync_lock_test_and_set(&room->fence, 1);
#endif
}

/* The next two have keys of their own, whose place on the stack is free behind them. */
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

/* The coarse clock is a plain read; it came with Linux 5.11. */
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

/* Reads the clock once for all that a judgement asks of it. */
static __always_inline void read_clock(struct scratch *room)
{
	__u64 now = coarse_ns();

	room->now = clock_by_hand ? ticks() : now >> TICK_SHIFT;
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

/* Whether this processor may tell one more event in this tick. */
static __always_inline bool spend_event_budget(const struct node *node)
{
	if (spend_budget(BUDGET_EVENTS, node->event_rate))
		return true;
	count(COUNTER_EVENTS_SUPPRESSED);
	return false;
}

/* The beginnings of flows are told apart by these: 17 ms. */
static __always_inline __u16 moment(void)
{
	return coarse_ns() >> MOMENT_SHIFT;
}

/* Ports that are tried for a flow in one go. */
#define CLAIM_TRIES 64
/* Spreads what little differs between two numbers over all their bits; no two have the same result. */
static __always_inline __u32 mix_bits(__u32 bits)
{
	bits = (bits ^ bits >> 16) * 0x7feb352d;
	bits = (bits ^ bits >> 15) * 0x846ca68b;
	return bits ^ bits >> 16;
}

/* Whether something has changed at a place since an epoch. */
static __always_inline bool has_changed(__u32 place, __u32 since)
{
	__u32 *changed = bpf_map_lookup_elem(&changes, &place);

	return !changed || (__s32)(*changed - since) > 0;
}

/* An epoch that no verdict holds from. */
static __always_inline __u32 outdated(void)
{
	__u32 place = CHANGED_EVERYTHING;
	__u32 *changed = bpf_map_lookup_elem(&changes, &place);

	return changed ? *changed - 1 : 0;
}

/* The sum of two sums of a checksum. RFC 1071. */
static __always_inline __u32 add_carrying(__u32 one, __u32 other)
{
	__u32 sum = one + other;

	return sum + (sum < other);
}

/* Offsets in a packet up to which a port is written where it lies. */
#define NEAR_PORT 512

/* A checksum from the sum of what it covers. RFC 1071. */
static __always_inline __be16 fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return ~((sum & 0xffff) + (sum >> 16));
}

/* Whether a port (network byte order) is of those in a row. */
static __always_inline bool has_port(enum port_row row, __be16 port)
{
	__u32 number = bpf_ntohs(port), at = row * PORT_WORDS + number / 64;
	__u64 *word = bpf_map_lookup_elem(&ports, &at);

	return word && *word >> number % 64 & 1;
}

/* Whether a port of the node may be a service's or a masqueraded flow's. */
static __always_inline bool is_met_from_outside(__be16 port)
{
	return (__u16)(bpf_ntohs(port) - masquerade_port_first) < masquerade_port_count || has_port(PORTS_SERVED, port);
}

static __always_inline bool same_mac(const __u8 *a, const __u8 *b)
{
	/* 2-byte steps: an Ethernet source lies at offset 6 of the packet. */
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

/* Marks a port (network byte order) as one at which a connection to a service was made. */
static __always_inline void hold_service_port(__be16 port)
{
	__u32 number = bpf_ntohs(port), at = number / 64 % PORT_WORDS;
	__u64 *word = bpf_map_lookup_elem(&held_ports, &at);

	if (word)
		*word |= 1ull << number % 64;
}

/* Makes the first `length` bytes readable by direct access; false if the packet is shorter. */
static __always_inline bool pull(struct __sk_buff *skb, __u32 length)
{
	if (likely((void *)(long)skb->data + length <= (void *)(long)skb->data_end))
		return true;
	return length <= skb->len && bpf_skb_pull_data(skb, length) == 0;
}

/* Sends a packet, whose addresses are exchanged already, back out of the interface that it came by; or into the namespace
 * of the endpoint behind it. */
static __always_inline int send_back(struct __sk_buff *skb, bool to_endpoint)
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
	return to_endpoint ? bpf_redirect_peer(skb->ifindex, 0) : bpf_redirect(skb->ifindex, 0);
}

/* How room is made in a packet's headers, or taken: the datagrams of an aggregate of UDP keep their sizes. */
static __always_inline __u64 room_flags(const struct __sk_buff *skb, __u8 protocol)
{
	return skb->gso_size && protocol == IPPROTO_UDP ? BPF_F_ADJ_ROOM_FIXED_GSO : 0;
}

/* Whether a transport checksum is yet to be filled in. What it covers is left out of it then, by the kernel's helper, which
 * is the one sign of it. Its two bytes are written anew afterwards. */
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

/* Whether there may be services of a protocol. */
static __always_inline bool is_balanced(__u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_SCTP;
}

static __always_inline bool is_icmp(__u8 protocol)
{
	return protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6;
}

/* Where the transport checksum lies and how it counts; -1: there is none that an address or port is part of. */
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

/* Combinations of flags that no TCP sends. */
static __always_inline bool impossible_flags(__u8 flags)
{
	return (flags & (TCP_SYN | TCP_FIN)) == (TCP_SYN | TCP_FIN) ||
	       (flags & (TCP_SYN | TCP_RST)) == (TCP_SYN | TCP_RST) ||
	       !(flags & (TCP_SYN | TCP_FIN | TCP_RST | TCP_ACK));
}

/* The way of packets that are delivered to a local endpoint. */
static __always_inline void set_delivery_to(struct ct_way *way, const struct endpoint *endpoint)
{
	way->via = endpoint->flags & ENDPOINT_SHAPED ? VIA_HOST_END : VIA_PEER;
	way->egress = endpoint->ifindex;
	way->mtu = endpoint->mtu;
	copy_mac(way->destination_mac, endpoint->container_mac);
	copy_mac(way->source_mac, endpoint->host_mac);
}

/* Whether what the endpoint sends must go through the host's stack: to its queueing discipline, or the way that the plugin
 * has that made its interface. */
static __always_inline bool by_stack_from(const struct endpoint *source, const struct endpoint *destination)
{
	return source->flags & ENDPOINT_SHAPED || (source->flags & ENDPOINT_CHAINED && !destination);
}

/* Whether another plugin made the interface of one of them: that one leads what is not translated here. */
static __always_inline bool of_other_plugin(const struct endpoint *one, const struct endpoint *other)
{
	return (one->flags | (other ? other->flags : 0)) & ENDPOINT_CHAINED;
}

/* The way of packets that a local endpoint sends, as far as the sender goes. */
static __always_inline void set_sender(struct ct_way *way, const struct endpoint *endpoint)
{
	way->ingress = endpoint->ifindex;
	copy_mac(way->sender_mac, endpoint->container_mac);
}

/*
 * Whether a client that has no affinity here, or none any more, gets its second choice. Nodes do not know of each other's
 * affinities, so that they agree the choice depends on the client and the time alone; that the client is not sent to the
 * same backend for ever, its two best take turns. A turn is longer than the affinity, and begins at another time for each
 * client: clocks may differ a little, and not all clients move at once.
 */
static __always_inline bool is_second_turn(__u32 lasting, __u32 mixed)
{
	__u32 zero = 0, turn = lasting * AFFINITY_TURN;
	__u32 *wall = bpf_map_lookup_elem(&wall_clock, &zero);

	return turn && (ticks() + (wall ? *wall : 0) + mixed % turn) / turn & 1;
}
