/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What only IPv6 has: its header, its extension headers and its ICMP. RFC 8200, RFC 4443, RFC 4861. */

#define ICMPV6_LAST_ERROR 4 /* 1 to 4: unreachable, too big, time exceeded, parameter problem */
#define ICMPV6_ECHO_REQUEST 128
#define ICMPV6_ECHO_REPLY 129
#define ICMPV6_LISTENER_QUERY 130
#define ICMPV6_LISTENER_DONE 132
#define ICMPV6_ROUTER_SOLICITATION 133
#define ICMPV6_NODE_INFORMATION_REPLY 140
#define ICMPV6_ROUTER_ADVERTISEMENT 134
#define ICMPV6_NEIGHBOUR_SOLICITATION 135
#define ICMPV6_NEIGHBOUR_ADVERTISEMENT 136
#define ICMPV6_REDIRECT 137
#define ICMPV6_LISTENER_REPORT_V2 143
#define ICMPV6_EXTENDED_ECHO 160
#define ICMPV6_EXTENDED_ECHO_REPLY 161

#define IP6_SOURCE_OFFSET 8
#define IP6_DESTINATION_OFFSET 24
#define IP6_OFFSET_MASK 0xfff8
/* No ordinary packet has more extension headers. */
#define IP6_EXTENSIONS 6

struct ip6_header {
	__be32 version; /* in its upper four bits, then traffic class and flow label */
	__be16 length;
	__u8 next;
	__u8 hops;
	struct ip6 source;
	struct ip6 destination;
};

struct ip6_extension {
	__u8 next;
	__u8 length;
	__be16 fragment; /* of a fragment header: the offset; the last bit is "more fragments" */
	__be32 id; /* of a fragment header */
};

/* Returns the type of the question that an answer of this type belongs to, or the type itself if it is not an
 * answer. */
static __always_inline __overloadable __u8 request_of(const struct packet6 *packet, __u8 type)
{
	return type == ICMPV6_ECHO_REPLY || type == ICMPV6_NODE_INFORMATION_REPLY ||
			       type == ICMPV6_EXTENDED_ECHO_REPLY ?
		       type - 1 :
		       type;
}

/* Returns the code of the question. In the answers to an extended echo (RFC 8335) and to a node information query
 * (RFC 4620) the code is a status. The codes of node information queries are left out. */
static __always_inline __overloadable __u8 code_of(const struct packet6 *packet, __u8 type, __u8 code)
{
	return type == ICMPV6_EXTENDED_ECHO_REPLY || type == ICMPV6_NODE_INFORMATION_REPLY ||
			       type == ICMPV6_NODE_INFORMATION_REPLY - 1 ?
		       0 :
		       code;
}

/* Whether questions of this type have an identifier, which NAT may change. */
static __always_inline __overloadable bool has_identifier(const struct packet6 *packet, __u8 type)
{
	return type == ICMPV6_ECHO_REQUEST || type == ICMPV6_EXTENDED_ECHO;
}

/* ::1 */
static __always_inline __overloadable bool is_loopback(const struct ip6 *address)
{
	return !address->word[0] && !address->word[1] && !address->word[2] && address->word[3] == bpf_htonl(1);
}

static __always_inline __overloadable void make_loopback(struct ip6 *address)
{
	__builtin_memset(address, 0, sizeof(*address));
	address->word[3] = bpf_htonl(1);
}

/* ff00::/8, fe80::/10, :: */
static __always_inline __overloadable bool is_link_scope(const struct ip6 *address)
{
	__u32 first = bpf_ntohl(address->word[0]);

	return (first >> 24) == 0xff || (first >> 22) == (0xfe80 >> 6) || is_zero(address);
}

/* fe80::/10 */
static __always_inline __overloadable bool is_of_this_link(const struct ip6 *address)
{
	return (address->word[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

/* Whether no other machine may send from the address, or not to a pod: addresses of link scope, ::1 and
 * ::ffff:0:0/96. */
static __always_inline __overloadable bool is_martian(const struct ip6 *address)
{
	if (is_link_scope(address))
		return true;
	if (address->word[0] || address->word[1])
		return false;
	return address->word[2] == bpf_htonl(0xffff) || (!address->word[2] && address->word[3] == bpf_htonl(1));
}

/* Whether the sender of this packet may be without an address. Such a sender sends only neighbour and router
 * solicitations and listener reports, and parse() has returned for these before. RFC 4861, RFC 4862, RFC 3810. */
static __always_inline __overloadable bool may_be_nobody(const struct packet6 *packet)
{
	return false;
}

/* Walks the extension headers from `*at`, of type `*next`, to the transport header. Copies a fragment header to
 * `fragment`. */
static __always_inline int skip_extensions(struct __sk_buff *skb, __u32 *at, __u8 *next, struct ip6_extension *fragment)
{
	for (int i = 0; i < IP6_EXTENSIONS; i++) {
		struct ip6_extension extension;
		__u32 length;

		switch (*next) {
		case IPPROTO_HOPOPTS:
		case IPPROTO_ROUTING:
		case IPPROTO_DSTOPTS:
		case IPPROTO_AH:
		case IPPROTO_FRAGMENT:
			break;
		default:
			return PARSED;
		}
		if (bpf_skb_load_bytes(skb, *at, &extension, sizeof(extension)))
			return DROP_MALFORMED;
		/* The last two bytes that are read of a routing header are its type and the number of segments left
		 * (RFC 8200, section 4.4). If any is left, the destination is not the last one, and the packet would
		 * reach another address than the one that was checked. */
		if (*next == IPPROTO_ROUTING && extension.fragment & bpf_htons(0xff))
			return DROP_SOURCE_ROUTE;
		if (*next == IPPROTO_FRAGMENT) {
			*fragment = extension;
			length = sizeof(extension);
		} else if (*next == IPPROTO_AH) {
			length = (extension.length + 2) * 4;
		} else {
			length = (extension.length + 1) * 8;
		}
		*at += length;
		*next = extension.next;
		/* After the fragment header of a later fragment there is only data. */
		if (fragment->fragment & bpf_htons(IP6_OFFSET_MASK))
			return PARSED;
	}
	return DROP_MALFORMED;
}

/* As for IPv4. An error quotes as much of the packet as fits (RFC 4443). */
static __always_inline __overloadable int parse_error(struct __sk_buff *skb, struct packet6 *packet)
{
	__u32 at = packet->transport + sizeof(struct icmp_header);
	struct ip6_header inner;
	struct icmp_header transport;

	if (bpf_skb_load_bytes(skb, at, &inner, sizeof(inner)))
		return DROP_MALFORMED;
	if ((bpf_ntohl(inner.version) >> 28) != 6)
		return DROP_MALFORMED;

	__u32 inner_at = at + sizeof(inner);

	/* The only extension header that is common in a quoted packet is the fragment header of a first fragment. */
	if (inner.next == IPPROTO_FRAGMENT) {
		struct ip6_extension fragment;

		if (bpf_skb_load_bytes(skb, inner_at, &fragment, sizeof(fragment)))
			return DROP_MALFORMED;
		if (fragment.fragment & bpf_htons(IP6_OFFSET_MASK))
			return DROP_UNRELATED_ERROR;
		inner.next = fragment.next;
		inner_at += sizeof(fragment);
	}
	if (bpf_skb_load_bytes(skb, inner_at, &transport, sizeof(transport)))
		return DROP_MALFORMED;

	packet->kind = PACKET_ERROR;
	packet->outer_source = packet->source;
	packet->inner = at;
	packet->inner_transport = inner_at;
	packet->protocol = inner.next;
	packet->source = inner.destination;
	packet->destination = inner.source;
	set_quoted_ports(packet, &transport);
	return PARSED;
}

static __always_inline __overloadable int parse_icmp(struct __sk_buff *skb, struct packet6 *packet)
{
	struct icmp_header icmp;

	if (bpf_skb_load_bytes(skb, packet->transport, &icmp, sizeof(icmp)))
		return DROP_MALFORMED;
	if (icmp.type <= ICMPV6_LAST_ERROR)
		return icmp.type ? parse_error(skb, packet) : DROP_MALFORMED;
	switch (icmp.type) {
	case ICMPV6_NEIGHBOUR_SOLICITATION:
	case ICMPV6_NEIGHBOUR_ADVERTISEMENT:
		return PARSED_NEIGHBOUR_DISCOVERY;
	case ICMPV6_LISTENER_QUERY ... ICMPV6_LISTENER_DONE:
	case ICMPV6_ROUTER_SOLICITATION:
	case ICMPV6_ROUTER_ADVERTISEMENT:
	case ICMPV6_REDIRECT:
	case ICMPV6_LISTENER_REPORT_V2:
		return DROP_LINK_SCOPE;
	}
	set_icmp_ports(packet, &icmp);
	return PARSED;
}

/* Parses a packet. Returns a drop reason if the packet is malformed. */
static __always_inline __overloadable int parse_to(struct __sk_buff *skb, struct packet6 *packet, bool in_scratch)
{
	struct ip6_extension fragment = {};

	if (!pull(skb, ETH_HLEN + sizeof(struct ip6_header)))
		return DROP_MALFORMED;

	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	const struct ip6_header *ip = data + ETH_HLEN;

	if ((void *)(ip + 1) > end)
		return DROP_MALFORMED;

	__u32 total = bpf_ntohs(ip->length) + sizeof(*ip), present = skb->len - ETH_HLEN;
	__u32 at = ETH_HLEN + sizeof(*ip);
	__u8 next = ip->next;

	/* A jumbogram or an aggregate of more than 64 KiB has a length of zero. */
	if (!ip->length && skb->gso_size)
		total = present;
	if ((bpf_ntohl(ip->version) >> 28) != 6 || total > present)
		return DROP_MALFORMED;

	packet->source = ip->source;
	packet->destination = ip->destination;
	packet->hops = ip->hops;
	packet->kind = PACKET_WHOLE;

	int reason = skip_extensions(skb, &at, &next, &fragment);

	if (reason)
		return reason;
	if (at > ETH_HLEN + total)
		return DROP_MALFORMED;
	packet->protocol = next;
	packet->transport = at;

	/* A fragment header without offset and without "more fragments" does not make a fragment (RFC 6946). */
	if (unlikely(fragment.fragment & bpf_htons(IP6_OFFSET_MASK | 1)))
		packet->kind = fragment.fragment & bpf_htons(IP6_OFFSET_MASK) ? PACKET_LATER_FRAGMENT :
										PACKET_FIRST_FRAGMENT;
	if (likely(packet->kind != PACKET_LATER_FRAGMENT)) {
		reason = parse_transport(skb, packet, ETH_HLEN + total - at, in_scratch);
		if (reason)
			return reason;
		if (packet->protocol == IPPROTO_ICMPV6) {
			reason = parse_icmp(skb, packet);
			if (reason)
				return reason;
		}
	}
	if (unlikely(packet->kind == PACKET_FIRST_FRAGMENT || packet->kind == PACKET_LATER_FRAGMENT))
		return resolve_fragment(packet, fragment.id, skb->ifindex);
	return PARSED;
}

static __always_inline __overloadable int parse(struct __sk_buff *skb, struct packet6 *packet)
{
	return parse_to(skb, packet, false);
}

/* The link-local address that an interface makes from its Ethernet address. RFC 4291, appendix A. */
static __always_inline void make_link_local(struct ip6 *address, const __u8 *mac)
{
	__u8 *bytes = (__u8 *)address;

	address->word[0] = bpf_htonl(0xfe800000);
	address->word[1] = 0;
	bytes[8] = mac[0] ^ 2;
	bytes[9] = mac[1];
	bytes[10] = mac[2];
	bytes[11] = 0xff;
	bytes[12] = 0xfe;
	bytes[13] = mac[3];
	bytes[14] = mac[4];
	bytes[15] = mac[5];
}

/* Whether the endpoint behind the interface may use the address in neighbour discovery: its own address, or the
 * link-local address that its Ethernet address makes. Another link-local address may belong to somebody else on the
 * bridge of another plugin. */
static __always_inline bool may_speak_as(struct __sk_buff *skb, const struct ip6 *address)
{
	struct endpoint *endpoint;

	if (is_of_this_link(address)) {
		__u32 ifindex = skb->ifindex;
		struct ethernet_address *known = bpf_map_lookup_elem(&host_ends, &ifindex);
		struct ip6 own;

		if (!known)
			return false;
		make_link_local(&own, known->mac);
		return equal(&own, address);
	}
	endpoint = bpf_map_lookup_elem(&endpoints6, address);
	return endpoint && endpoint->ifindex == skb->ifindex;
}

/* Whether the packet comes from this link: a router would have lowered its hop limit (RFC 4861, section 7.1), and
 * neighbour discovery is never fragmented (RFC 6980). */
static __always_inline __overloadable bool is_of_link(const struct packet6 *packet)
{
	return packet->hops == 255 && packet->kind == PACKET_WHOLE;
}

/* Whether neighbour discovery of an endpoint stays on its link: it is for the node, or for a neighbour on the bridge
 * of another plugin. The host's stack would forward anything else, past every policy. */
static __always_inline bool stays_on_link(struct __sk_buff *skb, const struct packet6 *packet)
{
	struct scratch *room = scratch_room();

	if (is_link_scope(&packet->destination))
		return true;
	if (!room)
		return false;

	struct endpoint *neighbour = bpf_map_lookup_elem(&endpoints6, &packet->destination);

	if (neighbour)
		return neighbour->flags & ENDPOINT_CHAINED;

	struct endpoint *source = bpf_map_lookup_elem(&endpoints6, &packet->source);
	struct bpf_fib_lookup *fib = &room->fib;

	__builtin_memset(fib, 0, sizeof(*fib));
	fib->ifindex = skb->ifindex;
	fib->l4_protocol = IPPROTO_ICMPV6;
	fib->family = AF_INET6;
	__builtin_memcpy(fib->ipv6_src, &packet->source, sizeof(packet->source));
	__builtin_memcpy(fib->ipv6_dst, &packet->destination, sizeof(packet->destination));

	long found = bpf_fib_lookup(skb, fib, sizeof(*fib), fib_lookup_flags);

	if (found == BPF_FIB_LKUP_RET_NOT_FWDED)
		return true;

	__u32 egress = fib->ifindex;

	return source && source->flags & ENDPOINT_CHAINED &&
	       (found == BPF_FIB_LKUP_RET_SUCCESS || found == BPF_FIB_LKUP_RET_NO_NEIGH) &&
	       !bpf_map_lookup_elem(&uplinks, &egress);
}

/* Neighbour discovery from an endpoint (RFC 4861). An endpoint may ask, may tell of itself, and may be without an
 * address while it checks that its address is free. */
static __always_inline __overloadable int discover(struct __sk_buff *skb, const struct packet6 *packet)
{
	struct neighbour_message {
		struct icmp_header icmp;
		struct ip6 target;
	} message;

	if (bpf_skb_load_bytes(skb, packet->transport, &message, sizeof(message)))
		return drop_and_count(DROP_MALFORMED);
	if (!is_of_link(packet) || !stays_on_link(skb, packet))
		return drop_and_count(DROP_FOREIGN_DISCOVERY);
	if (!is_zero(&packet->source) && !may_speak_as(skb, &packet->source))
		return drop_and_count(DROP_FOREIGN_SOURCE);
	/* A solicitation without a source address asks for the sender's own address. If it asked for another's, that
	 * one would give its address up (RFC 4862). */
	if ((message.icmp.type == ICMPV6_NEIGHBOUR_ADVERTISEMENT || is_zero(&packet->source)) &&
	    !may_speak_as(skb, &message.target))
		return drop_and_count(DROP_FOREIGN_SOURCE);
	return PASS;
}

/* Decreases the hop limit by one. The caller knows that it is above one. IPv6 has no header checksum that makes up
 * for the change, so the kernel's checksum of the whole packet (CHECKSUM_COMPLETE) must change with it. Otherwise
 * UDP drops the packet. */
static __always_inline __overloadable bool lower_hops(struct __sk_buff *skb, const struct packet6 *packet)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ip6_header *ip = data + ETH_HLEN;

	if ((void *)(ip + 1) > end)
		return false;
	ip->hops--;
	/* The hop limit is the low byte of its word. Without CHECKSUM_COMPLETE this does nothing. */
	bpf_csum_update(skb, ~bpf_htonl(1));
	return true;
}
