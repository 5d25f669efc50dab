/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Direct server return: which flows go that way, which packets carry a mark, and what a mark counts. dsr_option.h reads and writes
 * them. */

/* Who does not know the option of IPv6 skips it. */
#define DSR_OPTION_TYPE (FAMILY == 4 ? 158 : 30)

#if FAMILY == 4
struct dsr_option4 {
	__u8 type;
	__u8 length;
	__be16 port;
	struct ip4 address;
};
#else
#define DSR_OPTION_LENGTH 18 /* of port and address */
struct dsr_option6 {
	__u8 next;
	__u8 words; /* of 8 bytes, beyond the first */
	__u8 type;
	__u8 length;
	__be16 port;
	__u8 address[sizeof(struct ip6)]; /* not aligned */
	__u8 pad_type; /* 1: PadN */
	__u8 pad_length;
};
#endif
#define DSR_OPTION struct JOIN(dsr_option, FAMILY)

/* Whether there is room for a mark in the packet's headers. */
static __always_inline __overloadable bool dsr_has_room(struct __sk_buff *skb, const PACKET *packet)
{
	if (packet->protocol != IPPROTO_TCP && packet->protocol != IPPROTO_UDP)
		return false;
#if FAMILY == 4
	return packet->transport - ETH_HLEN + sizeof(DSR_OPTION) <= IP4_HEADER_MOST;
#else
	__u8 next;

	/* Hop-by-hop options are the first header, or none. RFC 8200, section 4.1. */
	return bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct ip6_header, next), &next, sizeof(next)) == 0 &&
	       next != IPPROTO_HOPOPTS;
#endif
}

/* Whether every node knows that services are met at an address: that of a service itself, or of a node. A mark that names
 * another one is not believed. */
static __always_inline __overloadable bool is_known_service_address(struct scratch *room, const ADDRESS *address,
								    __be16 port, __u8 protocol)
{
	FRONTEND_KEY *key = (FRONTEND_KEY *)&room->frontend;
	ADDRESS *node_address = (ADDRESS *)&room->address;

	*key = (FRONTEND_KEY){ .address = *address, .port = port, .protocol = protocol };
	*node_address = *address;
	return bpf_map_lookup_elem(&MAP(frontends), key) || bpf_map_lookup_elem(&MAP(machines), node_address);
}

/* Whether a packet of a flow carries a mark. `quiet`: for how many ticks the flow was, at least one if it is judged. */
static __always_inline __overloadable enum dsr_need dsr_option_need(const PACKET *packet, const CT_ENTRY *entry,
								    __u32 side, __u32 quiet)
{
	if (likely(!(entry->flags & CT_DSR)) || entry->opener != side || packet->kind == PACKET_ERROR ||
	    packet->kind == PACKET_LATER_FRAGMENT)
		return DSR_NOT_NEEDED;
	if (packet->protocol == IPPROTO_UDP || (packet->flags & (TCP_SYN | TCP_ACK)) == TCP_SYN)
		return DSR_NEEDED;
	return quiet ? DSR_IF_ROOM : DSR_NOT_NEEDED;
}

/* Whether a flow is answered from where the mark says. */
static __always_inline __overloadable bool dsr_option_matches(const struct scratch *room, const CT_ENTRY *entry,
							      __u32 side)
{
	__u32 to = (side ^ 1) & 1;

	return entry->flags & CT_DSR && entry->nat_port[to] == room->dsr_port &&
	       equal(&entry->nat_address[to], (const ADDRESS *)&room->dsr_address);
}

/* What the mark of a packet counts for the flow that it belongs to. */
static __always_inline __overloadable enum dsr_weight
dsr_weigh_option(const struct scratch *room, const CT_ENTRY *entry, const PACKET *packet, __u32 side)
{
	/* A datagram is answered from where the client sent the last one. */
	if (packet->protocol != IPPROTO_TCP || dsr_option_matches(room, entry, side))
		return DSR_ACCEPTED;

	bool opens = (packet->flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;

	if (opens)
		return ct_is_over(packet->protocol, entry->flags) ? DSR_NEW_FLOW : DSR_TAKEN;
	/* Anybody can write a mark: it moves no connection, but tells of one that was forgotten. */
	return entry->flags & CT_PICKED_UP && !(entry->flags & CT_DSR) ? DSR_NEW_FLOW : DSR_IGNORED;
}
