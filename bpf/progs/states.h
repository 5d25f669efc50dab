/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The states of flows: what a packet makes of a flow's flags, and how long a flow is remembered in each state. This is the one
 * place for both; the table is in docs/conntrack.md, and a test walks through each cell of it.
 */
#pragma once

#include "common.h"

enum ct_state {
	STATE_NEW, /* no answer yet */
	STATE_ANSWERED, /* TCP: half open; UDP: one exchange */
	STATE_ESTABLISHED, /* TCP: the opener has acknowledged the answer; UDP: a stream */
	STATE_CLOSING, /* TCP: one side has finished */
	STATE_RESET, /* TCP: somebody says that it is over, which may be a lie */
	STATE_CLOSED, /* TCP: both have finished, or it was refused */
	STATE_HELD, /* the same, but the other side would not take a new connection from the translated port yet */
};

/* After so many ticks flows that need no handshake are streams, if both sides still send: nf_conntrack has 2 s. */
#define STREAM_AFTER 2
/* What was under way when a connection was reset comes within so many ticks. */
#define RESET_SETTLES 2

static __always_inline enum ct_state ct_state_of(__u8 protocol, __u32 flags)
{
	if (protocol == IPPROTO_TCP) {
		if ((flags & (CT_FIN_OPENER | CT_FIN_REPLIER)) == (CT_FIN_OPENER | CT_FIN_REPLIER))
			return flags & CT_HOLDS_PORT ? STATE_HELD : STATE_CLOSED;
		if (flags & CT_RESET)
			return flags & CT_CONFIRMED ? STATE_RESET : STATE_CLOSED;
		if (flags & CT_CONFIRMED && flags & (CT_FIN_OPENER | CT_FIN_REPLIER))
			return STATE_CLOSING;
	}
	if (!(flags & CT_REPLIED))
		return STATE_NEW;
	return flags & CT_CONFIRMED ? STATE_ESTABLISHED : STATE_ANSWERED;
}

/* Whether the ports of a flow may be given to another before its time is over. */
static __always_inline bool ct_is_closed(__u8 protocol, __u32 flags)
{
	return ct_state_of(protocol, flags) >= STATE_CLOSED;
}

/* Whether a packet with these TCP flags opens a connection. */
static __always_inline bool is_opening(__u8 flags)
{
	return (flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

/* Whether a SYN may begin a connection anew: an end of it was seen. */
static __always_inline bool ct_is_over(__u8 protocol, __u32 flags)
{
	return ct_state_of(protocol, flags) >= STATE_RESET;
}

/* Ticks after its last packet for which a flow is remembered. */
static __always_inline __u32 ct_lifetime(__u8 protocol, __u32 flags)
{
	enum ct_state state = ct_state_of(protocol, flags);

	switch (protocol) {
	case IPPROTO_TCP:
		switch (state) {
		case STATE_NEW:
		case STATE_ANSWERED:
			return lifetimes.tcp_opening;
		case STATE_ESTABLISHED:
			return lifetimes.tcp_established;
		case STATE_CLOSING:
		case STATE_RESET:
			return lifetimes.tcp_closing;
		case STATE_CLOSED:
			return lifetimes.tcp_closed;
		case STATE_HELD:
			return lifetimes.tcp_held;
		}
		return 0;
	case IPPROTO_UDP:
	case IPPROTO_UDPLITE:
		return state == STATE_ESTABLISHED ? lifetimes.udp_stream : lifetimes.udp;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		return lifetimes.icmp;
	}
	return state == STATE_NEW ? lifetimes.other_new : lifetimes.other;
}

/* What is known of the last answer until the opener has acknowledged it. */
#define CT_ANSWER (CT_NUMBER | CT_NUMBERED | CT_BY_SYN)
/* In steps of 64 KiB: what is sent after a SYN before it is acknowledged, what lies before another answer, for the opener may
 * acknowledge an earlier one, and what is under way of a connection picked up. */
#define SYN_REACH 1
#define EARLIER_REACH 1
#define SEGMENT_REACH 16

/* Whether the opener's segment (as `packet_flags` has its number) acknowledges the answer that the flags of the flow have: its sender
 * has heard it then. Who only guesses is right once in 32,768 times, or in 21,845; of a connection that was picked up once in 2,000. An
 * endpoint answers a second SYN by a bare ACK, so what kind of answer it was says nothing of the connection. */
static __always_inline bool acknowledges(__u32 flags, __u32 packet_flags)
{
	__s16 beyond = (packet_flags >> 16) - (flags >> 16);

	if (!(flags & packet_flags & CT_NUMBERED))
		return false;
	if (flags & CT_PICKED_UP)
		return beyond >= -SEGMENT_REACH && beyond <= SEGMENT_REACH;
	return beyond >= (flags & CT_BY_SYN ? 0 : -EARLIER_REACH) && beyond <= SYN_REACH;
}

/*
 * The flags of a flow after a packet. `packet_flags`: what the packet itself says, as CT_* (CT_REPLIED: it goes against the opener's
 * way; CT_CONFIRMED: it is one that goes on with a connection; CT_ANSWER: its sequence number or, of the opener, what it
 * acknowledges). `seen` and `born`: when the flow was seen last, and first.
 */
static __always_inline __u32 ct_flags_after(__u8 protocol, __u32 flags, __u32 packet_flags, __u32 now, __u32 seen,
					    __u8 born)
{
	__u32 after = flags | (packet_flags & ~(CT_CONFIRMED | CT_ANSWER));
	bool is_reply = packet_flags & CT_REPLIED;

	if (protocol != IPPROTO_TCP) {
		/* Another processor may have an earlier tick. An echo is no stream: it waits as long as it is remembered. */
		if (flags & CT_REPLIED && !is_icmp(protocol) && (__s8)((__u8)now - born) >= STREAM_AFTER)
			after |= CT_CONFIRMED;
		return after;
	}
	if (is_reply && packet_flags & CT_NUMBERED && !(flags & CT_CONFIRMED))
		after = (after & ~CT_ANSWER) | (packet_flags & CT_ANSWER);
	if (!is_reply && packet_flags & CT_CONFIRMED && acknowledges(flags, packet_flags))
		after = (after & ~CT_ANSWER) | CT_CONFIRMED;
	/* Who has reset sends nothing any more but resets; and after a while, nor does the other side. Otherwise somebody has lied. */
	if (flags & CT_RESET && !(packet_flags & CT_RESET) &&
	    (is_reply == !!(flags & CT_RESET_BY_REPLIER) || now - seen >= RESET_SETTLES))
		after &= ~(CT_RESET | CT_RESET_BY_REPLIER);
	return after;
}

/* Whether a flow has left the line of those that wait. */
static __always_inline bool ct_is_kept(__u32 flags)
{
	return (flags & (CT_CONFIRMED | CT_OVER_SHARE)) == CT_CONFIRMED;
}

/* What is translated of the packets that go back. */
static __always_inline __u8 reverse_nat(__u8 nat)
{
	return (nat & NAT_SOURCE ? NAT_DESTINATION : 0) | (nat & NAT_DESTINATION ? NAT_SOURCE : 0);
}

/* What both views of a flow know of it. */
#define CT_STATE                                                                                                       \
	(CT_REPLIED | CT_CONFIRMED | CT_FIN_OPENER | CT_FIN_REPLIER | CT_HOLDS_PORT | CT_RESET | CT_RESET_BY_REPLIER | \
	 CT_OVER_SHARE | CT_ANSWER)
