/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What only IPv4 has: its header and its ICMP. RFC 791, RFC 792. */

#define ICMP_ECHO_REPLY 0
#define ICMP_UNREACHABLE 3
#define ICMP_SOURCE_QUENCH 4
#define ICMP_REDIRECT 5
#define ICMP_ECHO 8
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETER_PROBLEM 12
#define ICMP_TIMESTAMP_REPLY 14
#define ICMP_INFORMATION_REPLY 16
#define ICMP_TIMESTAMP 13
#define ICMP_MASK_REPLY 18
#define ICMP_EXTENDED_ECHO 42
#define ICMP_EXTENDED_ECHO_REPLY 43

#define IP4_OPTION_END 0
#define IP4_OPTION_NOTHING 1
#define IP4_OPTION_LOOSE_ROUTE 131
#define IP4_OPTION_STRICT_ROUTE 137
#define IP4_OPTIONS 40 /* the most bytes of options */

#define IP4_HEADER_MOST 60 /* the longest header, bytes */
#define IP4_DONT_FRAGMENT 0x4000
#define IP4_MORE_FRAGMENTS 0x2000
#define IP4_OFFSET_MASK 0x1fff
#define IP4_CHECKSUM_OFFSET 10
#define IP4_SOURCE_OFFSET 12
#define IP4_DESTINATION_OFFSET 16

struct ip4_header {
	__u8 version; /* in its upper four bits; the length of the header in words in the lower four */
	__u8 tos;
	__be16 length;
	__be16 id;
	__be16 fragment;
	__u8 ttl;
	__u8 protocol;
	__be16 checksum;
	struct ip4 source;
	struct ip4 destination;
};

static __always_inline bool is_icmp4_error(__u8 type)
{
	return type == ICMP_UNREACHABLE || type == ICMP_SOURCE_QUENCH || type == ICMP_TIME_EXCEEDED ||
	       type == ICMP_PARAMETER_PROBLEM;
}

/* Returns the type of the question that an answer of this type belongs to, or the type itself if it is not an
 * answer. */
static __always_inline __overloadable __u8 request_of(const struct packet4 *packet, __u8 type)
{
	switch (type) {
	case ICMP_ECHO_REPLY:
		return ICMP_ECHO;
	case ICMP_TIMESTAMP_REPLY:
	case ICMP_INFORMATION_REPLY:
	case ICMP_MASK_REPLY:
	case ICMP_EXTENDED_ECHO_REPLY:
		return type - 1;
	}
	return type;
}

/* Returns the code of the question. In the answer to an extended echo the code is a status: RFC 8335. */
static __always_inline __overloadable __u8 code_of(const struct packet4 *packet, __u8 type, __u8 code)
{
	return type == ICMP_EXTENDED_ECHO_REPLY ? 0 : code;
}

/* Whether questions of this type have an identifier, which NAT may change: RFC 5508. */
static __always_inline __overloadable bool has_identifier(const struct packet4 *packet, __u8 type)
{
	return type == ICMP_ECHO || (type >= ICMP_TIMESTAMP && type < ICMP_MASK_REPLY) || type == ICMP_EXTENDED_ECHO;
}

/* 127.0.0.0/8 */
static __always_inline __overloadable bool is_loopback(const struct ip4 *address)
{
	return bpf_ntohl(address->word[0]) >> 24 == 127;
}

static __always_inline __overloadable void make_loopback(struct ip4 *address)
{
	address->word[0] = bpf_htonl(0x7f000001);
}

/* 224.0.0.0/4, 255.255.255.255, 0.0.0.0/8 */
static __always_inline __overloadable bool is_link_scope(const struct ip4 *address)
{
	__u8 first = *(const __u8 *)address;

	return first >= 224 || first == 0;
}

/* Whether no other machine may send from the address: 0.0.0.0/8, 127.0.0.0/8, 224.0.0.0/3. RFC 1812, section 5.3.7. */
static __always_inline __overloadable bool is_martian(const struct ip4 *address)
{
	return is_link_scope(address) || *(const __u8 *)address == 127;
}

/* Whether the sender of this packet may be without an address: it asks everybody on the link for one, as DHCP does. */
static __always_inline __overloadable bool may_be_nobody(const struct packet4 *packet)
{
	return is_zero(&packet->source) && is_link_scope(&packet->destination);
}

/* IPv4 has no link-local addresses that count as martian: see is_of_this_link of IPv6. */
static __always_inline __overloadable bool is_of_this_link(const struct ip4 *address)
{
	return false;
}

/* Whether the options up to `end` contain a source route (RFC 791). RFC 7126 recommends to drop such packets.
 * Malformed options count as a source route, because what follows the fault cannot be read. */
__noinline int source_routed_v4(struct __sk_buff *skb, __u32 end)
{
	__u32 at = ETH_HLEN + sizeof(struct ip4_header);

	for (int i = 0; i < IP4_OPTIONS && at < end; i++) {
		__u8 option[2] = {};

		if (bpf_skb_load_bytes(skb, at, option, at + 1 < end ? 2 : 1))
			return true;
		if (option[0] == IP4_OPTION_END)
			return false;
		if (option[0] == IP4_OPTION_LOOSE_ROUTE || option[0] == IP4_OPTION_STRICT_ROUTE)
			return true;
		if (option[0] == IP4_OPTION_NOTHING) {
			at++;
			continue;
		}
		if (option[1] < 2)
			return true;
		at += option[1];
	}
	return false;
}

/* Gives the packet the addresses and ports of the flow that the ICMP error is about. An error quotes the header and
 * at least 8 bytes of the packet that caused it (RFC 792). */
static __always_inline __overloadable int parse_error(struct __sk_buff *skb, struct packet4 *packet)
{
	__u32 at = packet->transport + sizeof(struct icmp_header);
	struct ip4_header inner;
	struct icmp_header transport;

	if (bpf_skb_load_bytes(skb, at, &inner, sizeof(inner)))
		return DROP_MALFORMED;

	__u32 length = (inner.version & 0xf) * 4;

	if ((inner.version >> 4) != 4 || length < sizeof(inner))
		return DROP_MALFORMED;
	/* An error about a later fragment has no ports, so its flow cannot be found. */
	if (inner.fragment & bpf_htons(IP4_OFFSET_MASK))
		return DROP_UNRELATED_ERROR;
	if (bpf_skb_load_bytes(skb, at + length, &transport, sizeof(transport)))
		return DROP_MALFORMED;

	packet->kind = PACKET_ERROR;
	packet->outer_source = packet->source;
	packet->inner = at;
	packet->inner_transport = at + length;
	packet->protocol = inner.protocol;
	packet->source = inner.destination;
	packet->destination = inner.source;
	set_quoted_ports(packet, &transport);
	return PARSED;
}

static __always_inline __overloadable int parse_icmp(struct __sk_buff *skb, struct packet4 *packet)
{
	struct icmp_header icmp;

	if (bpf_skb_load_bytes(skb, packet->transport, &icmp, sizeof(icmp)))
		return DROP_MALFORMED;
	if (is_icmp4_error(icmp.type))
		return parse_error(skb, packet);
	if (icmp.type == ICMP_REDIRECT)
		return DROP_LINK_SCOPE;
	set_icmp_ports(packet, &icmp);
	return PARSED;
}

/* Parses a packet. Returns a drop reason if the packet is malformed. */
static __always_inline __overloadable int parse_to(struct __sk_buff *skb, struct packet4 *packet, bool in_scratch)
{
	if (!pull(skb, ETH_HLEN + sizeof(struct ip4_header)))
		return DROP_MALFORMED;

	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	const struct ip4_header *ip = data + ETH_HLEN;

	if ((void *)(ip + 1) > end)
		return DROP_MALFORMED;

	__u32 header = (ip->version & 0xf) * 4, total = bpf_ntohs(ip->length), present = skb->len - ETH_HLEN;
	__u16 fragment = bpf_ntohs(ip->fragment);
	__be16 id = ip->id;

	/* An aggregate of more than 64 KiB has a length of zero. */
	if (!total && skb->gso_size)
		total = present;
	if ((ip->version >> 4) != 4 || header < sizeof(*ip) || total < header || total > present)
		return DROP_MALFORMED;

	packet->source = ip->source;
	packet->destination = ip->destination;
	packet->protocol = ip->protocol;
	packet->hops = ip->ttl;
	packet->transport = ETH_HLEN + header;
	packet->kind = PACKET_WHOLE;
	if (unlikely(header > sizeof(*ip)) && source_routed_v4(skb, packet->transport))
		return DROP_SOURCE_ROUTE;

	if (unlikely(fragment & (IP4_MORE_FRAGMENTS | IP4_OFFSET_MASK)))
		packet->kind = fragment & IP4_OFFSET_MASK ? PACKET_LATER_FRAGMENT : PACKET_FIRST_FRAGMENT;
	if (likely(packet->kind != PACKET_LATER_FRAGMENT)) {
		int reason = parse_transport(skb, packet, total - header, in_scratch);

		if (reason)
			return reason;
		if (packet->protocol == IPPROTO_ICMP) {
			reason = parse_icmp(skb, packet);
			if (reason)
				return reason;
		}
	}
	if (unlikely(packet->kind == PACKET_FIRST_FRAGMENT || packet->kind == PACKET_LATER_FRAGMENT))
		return resolve_fragment(packet, id, skb->ifindex);
	return PARSED;
}

static __always_inline __overloadable int parse(struct __sk_buff *skb, struct packet4 *packet)
{
	return parse_to(skb, packet, false);
}

/* IPv4 has no neighbour discovery, but ARP: arp.h. */
static __always_inline __overloadable bool is_of_link(const struct packet4 *packet)
{
	return false;
}

static __always_inline __overloadable int discover(struct __sk_buff *skb, const struct packet4 *packet)
{
	return drop_and_count(DROP_MALFORMED);
}

/* Decreases the TTL by one. The caller knows that it is above one. RFC 1624 for the checksum. */
static __always_inline __overloadable bool lower_hops(struct __sk_buff *skb, const struct packet4 *packet)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ip4_header *ip = data + ETH_HLEN;

	if ((void *)(ip + 1) > end)
		return false;

	__u32 sum = ip->checksum + bpf_htons(0x0100);

	ip->checksum = sum + (sum >= 0xffff);
	ip->ttl--;
	return true;
}
