/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A packet as the stages know it, and the conntrack key of its flow. */

/* A parsed packet. Source and destination are those of the flow, in the direction of this packet. An ICMP error
 * travels against the packet that it quotes, so it has the quoted addresses and ports, swapped. */
PACKET
{
	ADDRESS source;
	ADDRESS destination;
	ADDRESS outer_source; /* PACKET_ERROR: who sent the error: a router, or an end of the flow */
	__be16 source_port;
	__be16 destination_port;
	__u16 transport; /* where the transport header begins, bytes */
	__u16 inner; /* PACKET_ERROR: where the quoted IP header begins, bytes */
	__u16 inner_transport; /* PACKET_ERROR: where the quoted transport header begins, bytes */
	__u8 protocol;
	__u8 flags; /* TCP flags */
	__u8 segment_header; /* TCP: length of the header with its options, bytes */
	__u8 hops; /* TTL, or the hop limit */
	enum packet_kind kind : 8;
	__u8 early; /* PACKET_FIRST_FRAGMENT: so many later fragments came before it and were dropped */
	__u8 cut : 1; /* PACKET_LATER_FRAGMENT: the host's stack got the first fragment and must get this one: oversize.h */
	enum asker asker : 2; /* ICMP */
	__u8 pad : 5;
	__be32 id; /* of a fragment: the identification of its datagram */
	__u32 ifindex; /* of a fragment: the interface whose hook sees it */
};

/* What the family's ICMP types mean: ipv4.h, ipv6.h. */
static __always_inline __overloadable __u8 request_of(const PACKET *packet, __u8 type);
static __always_inline __overloadable __u8 code_of(const PACKET *packet, __u8 type, __u8 code);
static __always_inline __overloadable bool has_identifier(const PACKET *packet, __u8 type);

static __always_inline __overloadable bool equal(const ADDRESS *a, const ADDRESS *b)
{
	__be32 difference = 0;

	for (int i = 0; i < WORDS; i++)
		difference |= a->word[i] ^ b->word[i];
	return difference == 0;
}

static __always_inline __overloadable bool is_zero(const ADDRESS *a)
{
	__be32 bits = 0;

	for (int i = 0; i < WORDS; i++)
		bits |= a->word[i];
	return bits == 0;
}

/* Fills `key` for packets from `source` to `destination`, and returns the index of the source in it. `asker` is an
 * enum asker. */
static __always_inline __overloadable __u32 ct_pack_key(CT_KEY *key, __u8 protocol, enum asker asker,
							const ADDRESS *source, __be16 source_port,
							const ADDRESS *destination, __be16 destination_port)
{
	/* The smaller address is first: the first word that differs decides. If the addresses are equal, the port
	 * decides. */
	__u32 at = source_port > destination_port;

	for (int i = WORDS - 1; i >= 0; i--)
		if (source->word[i] != destination->word[i])
			at = source->word[i] > destination->word[i];

	if (at) {
		key->address[0] = *destination;
		key->address[1] = *source;
		key->port[0] = destination_port;
		key->port[1] = source_port;
	} else {
		key->address[0] = *source;
		key->address[1] = *destination;
		key->port[0] = source_port;
		key->port[1] = destination_port;
	}
	key->protocol = protocol;
	key->asker = asker == ASKER_NONE ? ASKER_NONE : (at ^ (asker == ASKER_DESTINATION)) + 1;
	__builtin_memset(key->pad, 0, sizeof(key->pad));
	return at;
}

/* Fills `key` for a packet like `packet`, but with these addresses and ports. */
static __always_inline __overloadable __u32 ct_make_key(CT_KEY *key, const PACKET *packet, const ADDRESS *source,
							__be16 source_port, const ADDRESS *destination,
							__be16 destination_port)
{
	return ct_pack_key(key, packet->protocol, packet->asker, source, source_port, destination, destination_port);
}

static __always_inline __overloadable __u32 ct_key_of_packet(const PACKET *packet, CT_KEY *key)
{
	return ct_make_key(key, packet, &packet->source, packet->source_port, &packet->destination,
			   packet->destination_port);
}

/* Defined in fragments.h. */
#define resolve_fragment OF_FAMILY(resolve_fragment)
int resolve_fragment(PACKET *packet, __be32 id, __u32 ifindex);

/* Sets what stands for the ports of an ICMP message: the side that asks has the identifier, the side that is asked
 * has type and code of the question. `icmp` may be only the part of the header that an error quotes. */
static __always_inline __overloadable void set_icmp_ports(PACKET *packet, const struct icmp_header *icmp)
{
	__u8 question = request_of(packet, icmp->type);
	__be16 asked = bpf_htons(question << 8 | code_of(packet, icmp->type, icmp->code));
	__be16 id = has_identifier(packet, question) ? icmp->id : 0;
	bool asks = question == icmp->type;

	packet->asker = asks ? ASKER_SOURCE : ASKER_DESTINATION;
	packet->source_port = asks ? id : asked;
	packet->destination_port = asks ? asked : id;
}

/* Sets the ports of an ICMP error: those of the packet that it quotes, swapped. `transport` is the quoted part of
 * that packet's transport header. */
static __always_inline __overloadable void set_quoted_ports(PACKET *packet, const struct icmp_header *transport)
{
	const struct transport *ports = (const struct transport *)transport;

	packet->source_port = packet->destination_port = 0;
	if (is_icmp(packet->protocol)) {
		set_icmp_ports(packet, transport);

		__be16 port = packet->source_port;

		packet->source_port = packet->destination_port;
		packet->destination_port = port;
		packet->asker = packet->asker == ASKER_SOURCE ? ASKER_DESTINATION : ASKER_SOURCE;
	} else if (has_ports(packet->protocol)) {
		packet->source_port = ports->destination;
		packet->destination_port = ports->source;
	}
}

/* No IP header with its extensions is longer. The verifier needs a bound where the packet is in scratch, and not on the
 * stack. */
#define TRANSPORT_MOST 0x3fff

/* Reads the ports and the TCP flags at packet->transport. `room` is the number of bytes that the IP header leaves
 * for them. `in_scratch` says where the packet is, and is a constant. */
static __always_inline __overloadable int parse_transport(struct __sk_buff *skb, PACKET *packet, __u32 room,
							  bool in_scratch)
{
	__u32 at = packet->transport;
	__u32 needed = 0;

	if (in_scratch && at > TRANSPORT_MOST)
		return DROP_MALFORMED;

	switch (packet->protocol) {
	case IPPROTO_TCP:
		needed = sizeof(struct tcp_header);
		break;
	case IPPROTO_UDP:
	case IPPROTO_UDPLITE:
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		needed = sizeof(struct udp_header);
		break;
	case IPPROTO_SCTP:
		needed = 12; /* the common header of SCTP */
		break;
	default:
		return PARSED;
	}
	if (room < needed || !pull(skb, at + needed))
		return DROP_MALFORMED;

	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;

	if (packet->protocol == IPPROTO_TCP) {
		const struct tcp_header *tcp = data + at;

		if ((void *)(tcp + 1) > end)
			return DROP_MALFORMED;
		if ((tcp->data_offset >> 4) < 5 || (__u32)(tcp->data_offset >> 4) * 4 > room ||
		    impossible_flags(tcp->flags))
			return DROP_MALFORMED;
		packet->source_port = tcp->source;
		packet->destination_port = tcp->destination;
		packet->flags = tcp->flags;
		packet->segment_header = (tcp->data_offset >> 4) * 4;
		return PARSED;
	}

	const struct udp_header *udp = data + at;

	if ((void *)(udp + 1) > end)
		return DROP_MALFORMED;
	if (packet->protocol == IPPROTO_UDP && udp->length && bpf_ntohs(udp->length) < sizeof(*udp))
		return DROP_MALFORMED;
	if (has_ports(packet->protocol)) {
		packet->source_port = udp->source;
		packet->destination_port = udp->destination;
	}
	return PARSED;
}
