/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Direct server return (DSR): which flows use it, which packets carry the option, and what an option means.
 * dsr_option.h writes and reads the option. */

/* A node that does not know the IPv6 option skips it. */
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
	__u8 words; /* in units of 8 bytes, without the first */
	__u8 type;
	__u8 length;
	__be16 port;
	__u8 address[sizeof(struct ip6)]; /* not aligned */
	__u8 pad_type; /* 1: PadN */
	__u8 pad_length;
};
#endif
#define DSR_OPTION struct JOIN(dsr_option, FAMILY)

/* Whether the packet's headers have room for the option. */
static __always_inline __overloadable bool dsr_has_room(struct __sk_buff *skb, const PACKET *packet)
{
	if (packet->protocol != IPPROTO_TCP && packet->protocol != IPPROTO_UDP)
		return false;
#if FAMILY == 4
	return packet->transport - ETH_HLEN + sizeof(DSR_OPTION) <= IP4_HEADER_MOST;
#else
	__u8 next;

	/* Hop-by-hop options must come first (RFC 8200, section 4.1), so the option cannot be put before them. */
	return bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct ip6_header, next), &next, sizeof(next)) == 0 &&
	       next != IPPROTO_HOPOPTS;
#endif
}

/* Whether all nodes know that services are reached at the address: it belongs to a service or to a node. An option
 * with another address is ignored. */
static __always_inline __overloadable bool is_known_service_address(struct scratch *room, const ADDRESS *address,
								    __be16 port, __u8 protocol)
{
	FRONTEND_KEY *key = &room->FIELD(frontend);
	ADDRESS *node_address = &room->FIELD(address);

	*key = (FRONTEND_KEY){ .address = *address, .port = port, .protocol = protocol };
	*node_address = *address;
	return bpf_map_lookup_elem(&MAP(frontends), key) || bpf_map_lookup_elem(&MAP(machines), node_address);
}

/* Whether a packet gets the option. `quiet` says for how many ticks the flow was silent; it is at least one after
 * the slow path. */
static __always_inline __overloadable enum dsr_need dsr_option_need(const PACKET *packet, const CT_ENTRY *entry,
								    __u32 side, __u32 quiet)
{
	if (likely(!(entry->flags & CT_DSR)) || !ct_is_from_opener(entry, side) || packet->kind == PACKET_ERROR ||
	    packet->kind == PACKET_LATER_FRAGMENT)
		return DSR_NOT_NEEDED;
	if (packet->protocol == IPPROTO_UDP || (packet->flags & (TCP_SYN | TCP_ACK)) == TCP_SYN)
		return DSR_NEEDED;
	return quiet ? DSR_IF_ROOM : DSR_NOT_NEEDED;
}

/* Whether the flow is already answered from the address in the option. */
static __always_inline __overloadable bool dsr_option_matches(const struct scratch *room, const CT_ENTRY *entry,
							      __u32 side)
{
	__u32 to = (side ^ 1) & 1;

	return entry->flags & CT_DSR && entry->nat_port[to] == room->dsr_port &&
	       equal(&entry->nat_address[to], &room->FIELD(dsr_address));
}

/* What the option of a packet means for the known flow that the packet belongs to. */
static __always_inline __overloadable enum dsr_weight
dsr_weigh_option(const struct scratch *room, const CT_ENTRY *entry, const PACKET *packet, __u32 side)
{
	/* The answer to a datagram comes from the address that the client sent its last datagram to. */
	if (packet->protocol != IPPROTO_TCP || dsr_option_matches(room, entry, side))
		return DSR_ACCEPTED;

	bool opens = (packet->flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;

	if (opens)
		return ct_is_over(packet->protocol, entry->flags) ? DSR_NEW_FLOW : DSR_TAKEN;
	/* Anybody can write an option. So it never changes a connection that is known from its beginning, but it
	 * completes one that was picked up. */
	return entry->flags & CT_PICKED_UP && !(entry->flags & CT_DSR) ? DSR_NEW_FLOW : DSR_IGNORED;
}
