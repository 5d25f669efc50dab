/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The states of flows: how a packet changes a flow's flags, and how long a flow is remembered in each state. This is
 * the only place for both. docs/conntrack.md has the table, and a test walks through each of its cells. */
#pragma once

#include "common.h"

enum ct_state {
	STATE_NEW, /* no answer yet */
	STATE_ANSWERED, /* TCP: half open; UDP: one exchange */
	STATE_ESTABLISHED, /* TCP: the opener has acknowledged the answer; UDP: a stream */
	STATE_CLOSING, /* TCP: one side has finished */
	STATE_RESET, /* TCP: one side has reset the connection; the reset may be forged */
	STATE_CLOSED, /* TCP: both sides have finished, or it was refused */
	STATE_HELD, /* as STATE_CLOSED, but the other side is in TIME_WAIT with the translated port */
};

/* A flow without a handshake becomes a stream when both sides still send after so many ticks. nf_conntrack takes 2
 * s. */
#define STREAM_AFTER 2
/* Packets that were under way when a connection was reset arrive within so many ticks. */
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

/* Whether the flow has ended, so that its port may be given to another flow before its lifetime is over. */
static __always_inline bool ct_is_closed(__u8 protocol, __u32 flags)
{
	return ct_state_of(protocol, flags) >= STATE_CLOSED;
}

/* Whether a packet with these TCP flags opens a connection. */
static __always_inline bool is_opening(__u8 flags)
{
	return (flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

/* Whether a SYN may begin the connection anew, because an end of it was seen. */
static __always_inline bool ct_is_over(__u8 protocol, __u32 flags)
{
	return ct_state_of(protocol, flags) >= STATE_RESET;
}

/* For how many ticks after its last packet the flow is remembered. */
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

/* What the entry knows of the last answer until the opener has acknowledged it. */
#define CT_ANSWER (CT_NUMBER | CT_NUMBERED | CT_BY_SYN)
/* In steps of 64 KiB: what may be sent after a SYN before it is acknowledged; how far behind another answer an
 * acknowledgement may be; and what may be under way in a connection that was picked up. */
#define SYN_REACH 1
#define EARLIER_REACH 1
#define SEGMENT_REACH 16

/* Whether a segment of the opener acknowledges the answer that the flow's flags describe, so that the opener must
 * have received it. A guess is right once in 32,768 times for a SYN, once in 21,845 times for another answer, and
 * once in 2,000 times for a connection that was picked up. An endpoint answers a second SYN with a bare ACK, so the
 * kind of answer does not tell what kind of connection it is. */
static __always_inline bool acknowledges(__u32 flags, __u32 packet_flags)
{
	__s16 beyond = (packet_flags >> 16) - (flags >> 16);

	if (!(flags & packet_flags & CT_NUMBERED))
		return false;
	if (flags & CT_PICKED_UP)
		return beyond >= -SEGMENT_REACH && beyond <= SEGMENT_REACH;
	return beyond >= (flags & CT_BY_SYN ? 0 : -EARLIER_REACH) && beyond <= SYN_REACH;
}

/* The flags of a flow after a packet. `packet_flags` is what the packet says, as CT_*: CT_REPLIED for a packet of
 * the other side; CT_CONFIRMED for one that can confirm a connection; CT_ANSWER for its sequence number or, in a
 * packet of the opener, the number that it acknowledges. `seen` and `born` are the ticks of the flow's last and
 * first packet. */
static __always_inline __u32 ct_flags_after(__u8 protocol, __u32 flags, __u32 packet_flags, __u32 now, __u32 seen,
					    __u8 born)
{
	__u32 after = flags | (packet_flags & ~(CT_CONFIRMED | CT_ANSWER));
	bool is_reply = packet_flags & CT_REPLIED;

	if (protocol != IPPROTO_TCP) {
		/* The difference is signed, because another processor may have an earlier tick. ICMP never becomes a
		 * stream: it waits in the line as long as it is remembered. */
		if (flags & CT_REPLIED && !is_icmp(protocol) && (__s8)((__u8)now - born) >= STREAM_AFTER)
			after |= CT_CONFIRMED;
		return after;
	}
	if (is_reply && packet_flags & CT_NUMBERED && !(flags & CT_CONFIRMED))
		after = (after & ~CT_ANSWER) | (packet_flags & CT_ANSWER);
	if (!is_reply && packet_flags & CT_CONFIRMED && acknowledges(flags, packet_flags))
		after = (after & ~CT_ANSWER) | CT_CONFIRMED;
	/* The side that has reset sends nothing but resets, and after a while the other side sends nothing either.
	 * Otherwise the reset was forged. */
	if (flags & CT_RESET && !(packet_flags & CT_RESET) &&
	    (is_reply == !!(flags & CT_RESET_BY_REPLIER) || now - seen >= RESET_SETTLES))
		after &= ~(CT_RESET | CT_RESET_BY_REPLIER);
	return after;
}

/* Whether the flow has left the waiting line. */
static __always_inline bool ct_is_kept(__u32 flags)
{
	return (flags & (CT_CONFIRMED | CT_OVER_SHARE)) == CT_CONFIRMED;
}

/* What is translated in the packets of the other direction. */
static __always_inline __u8 reverse_nat(__u8 nat)
{
	return (nat & NAT_SOURCE ? NAT_DESTINATION : 0) | (nat & NAT_DESTINATION ? NAT_SOURCE : 0);
}

/* The flags that both entries of a translated flow share. */
#define CT_STATE                                                                                                       \
	(CT_REPLIED | CT_CONFIRMED | CT_FIN_OPENER | CT_FIN_REPLIER | CT_HOLDS_PORT | CT_RESET | CT_RESET_BY_REPLIER | \
	 CT_OVER_SHARE | CT_ANSWER)
