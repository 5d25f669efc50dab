/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The words of one family. The stages of the path (conntrack.h, masquerade.h, judge.h, rewrite.h, forward.h, path.h)
 * are written once in these words and included once for each family, so they have no include guard; what only one
 * family has is in ipv4.h and ipv6.h. FAMILY is 4 or 6.
 */
#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

#define FN(name) JOIN(name##_v, FAMILY)
#define MAP(name) JOIN(name, FAMILY)
#define ADDRESS struct JOIN(ip, FAMILY)
#define CT_KEY struct JOIN(ct_key, FAMILY)
#define CT_ENTRY struct JOIN(ct_entry, FAMILY)
#define FRAGMENT struct JOIN(fragment, FAMILY)
#define PREFIX struct JOIN(prefix, FAMILY)
#define PACKET struct JOIN(packet, FAMILY)
#define FRONTEND_KEY struct JOIN(frontend_key, FAMILY)
#define BACKEND struct JOIN(backend, FAMILY)
#define MEMBER struct JOIN(member, FAMILY)
#define CLIENT struct JOIN(client, FAMILY)
#define AFFINITY struct JOIN(affinity, FAMILY)
#define SOURCE_RANGE struct JOIN(source_range, FAMILY)
#define CONNECTION struct JOIN(connection, FAMILY)
#define SOCKET_KEY struct JOIN(socket_key, FAMILY)
#define SOCKET_PEER struct JOIN(socket_peer, FAMILY)
#define WORDS ((int)(sizeof(ADDRESS) / sizeof(__be32)))

/* A parsed packet. Addresses and ports are those of the flow in the packet's way: for an ICMP error, which goes
 * against the packet inside it, they are that packet's, exchanged. */
PACKET {
	ADDRESS source;
	ADDRESS destination;
	ADDRESS outer_source; /* PACKET_ERROR: who sent the error; a router, or the flow's own side */
	__be16 source_port;
	__be16 destination_port;
	__u16 transport; /* offset of the transport header, bytes */
	__u16 inner; /* PACKET_ERROR: offset of the inner IP header, bytes */
	__u16 inner_transport; /* PACKET_ERROR: offset of the inner transport header, bytes */
	__u8 protocol;
	__u8 flags; /* TCP's */
	__u8 segment_header; /* TCP: length of its header, bytes */
	__u8 hops; /* TTL or hop limit */
	__u8 kind; /* enum packet_kind */
	__u8 early; /* PACKET_FIRST_FRAGMENT: how many pieces came before it, and were not let through */
	__u8 cut : 1; /* PACKET_LATER_FRAGMENT: the first has gone to the host's stack, to be cut again */
	__u8 asker : 2; /* enum asker: ICMP */
	__u8 pad : 5;
	__be32 id; /* of a fragment: its datagram's */
	__u32 ifindex; /* of a fragment: whose hook sees it */
};

/* Of the family's ICMP: ipv4.h, ipv6.h. */
static __always_inline __u8 FN(request_of)(__u8 type);
static __always_inline __u8 FN(code_of)(__u8 type, __u8 code);
static __always_inline bool FN(has_identifier)(__u8 type);

static __always_inline bool FN(equal)(const ADDRESS *a, const ADDRESS *b)
{
	__be32 difference = 0;

	for (int i = 0; i < WORDS; i++)
		difference |= a->word[i] ^ b->word[i];
	return difference == 0;
}

static __always_inline bool FN(is_zero)(const ADDRESS *a)
{
	__be32 bits = 0;

	for (int i = 0; i < WORDS; i++)
		bits |= a->word[i];
	return bits == 0;
}

/* Fills `key` for what goes from one side to the other, and returns the index of the source in it. `asker`: enum asker. */
static __always_inline __u32 FN(pack_key)(CT_KEY *key, __u8 protocol, __u8 asker, const ADDRESS *source,
					  __be16 source_port, const ADDRESS *destination, __be16 destination_port)
{
	/* The first word that differs decides; then the port. */
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

/* The same for what goes as the packet goes, but has these addresses and ports. */
static __always_inline __u32 FN(make_key)(CT_KEY *key, const PACKET *packet, const ADDRESS *source, __be16 source_port,
					  const ADDRESS *destination, __be16 destination_port)
{
	return FN(pack_key)(key, packet->protocol, packet->asker, source, source_port, destination, destination_port);
}

static __always_inline __u32 FN(key)(const PACKET *packet, CT_KEY *key)
{
	return FN(make_key)(key, packet, &packet->source, packet->source_port, &packet->destination,
			    packet->destination_port);
}

/* pieces.h. */
int FN(resolve_fragment)(PACKET *packet, __be32 id, __u32 ifindex);

/* What an ICMP message has for ports: who asks the identifier, who is asked the question. `icmp` is as far as it is quoted. */
static __always_inline void FN(message_ports)(PACKET *packet, const struct icmp_header *icmp)
{
	__u8 question = FN(request_of)(icmp->type);
	__be16 asked = bpf_htons(question << 8 | FN(code_of)(icmp->type, icmp->code));
	__be16 id = FN(has_identifier)(question) ? icmp->id : 0;
	bool asks = question == icmp->type;

	packet->asker = asks ? ASKER_SOURCE : ASKER_DESTINATION;
	packet->source_port = asks ? id : asked;
	packet->destination_port = asks ? asked : id;
}

/* The ports of the packet inside an ICMP error, exchanged; `transport` is what the error quotes of its header. */
static __always_inline void FN(quoted_ports)(PACKET *packet, const struct icmp_header *transport)
{
	const struct transport *ports = (const struct transport *)transport;

	packet->source_port = packet->destination_port = 0;
	if (is_icmp(packet->protocol)) {
		FN(message_ports)(packet, transport);

		__be16 port = packet->source_port;

		packet->source_port = packet->destination_port;
		packet->destination_port = port;
		packet->asker = packet->asker == ASKER_SOURCE ? ASKER_DESTINATION : ASKER_SOURCE;
	} else if (has_ports(packet->protocol)) {
		packet->source_port = ports->destination;
		packet->destination_port = ports->source;
	}
}

/* Reads the ports (and TCP's flags) at packet->transport. `room`: bytes that the IP header leaves for them. */
static __always_inline int FN(parse_transport)(struct __sk_buff *skb, PACKET *packet, __u32 room)
{
	__u32 at = packet->transport;
	__u32 needed = 0;

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
		needed = 12; /* the common header */
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
