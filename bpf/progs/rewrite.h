/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Changes addresses and ports of a packet, with all checksums that cover them. RFC 1624, RFC 3022, RFC 5508. */

#define IP_OFFSET(field) JOIN(JOIN(IP, FAMILY), _##field##_OFFSET)

/* What a changed address adds to a checksum that covers it. */
static __always_inline __overloadable __u32 checksum_difference(const ADDRESS *old, const ADDRESS *new)
{
	__u32 sum = 0;

	for (int i = 0; i < WORDS; i++)
		sum = add_carrying(add_carrying(sum, ~old->word[i]), new->word[i]);
	return sum;
}

/* Changes an address in the header that an ICMP error quotes, at `header`. Its own checksum makes up for the change,
 * so no other checksum changes. */
static __always_inline __overloadable int rewrite_quoted_address(struct __sk_buff *skb, __u32 header, bool is_source,
								 const ADDRESS *old, const ADDRESS *new)
{
	__u32 at = header + (is_source ? IP_OFFSET(SOURCE) : IP_OFFSET(DESTINATION));

#if FAMILY == 4
	if (bpf_l3_csum_replace(skb, header + IP4_CHECKSUM_OFFSET, old->word[0], new->word[0], 4))
		return -1;
#endif
	return bpf_skb_store_bytes(skb, at, new, sizeof(*new), 0);
}

/* Writes an address into the packet's own header, and a port at `port_at` unless that is zero. Both are written
 * directly, because a helper call takes longer than all of this. IPv6 has no header checksum that makes up for the
 * change. bpf_l4_csum_replace with BPF_F_PSEUDO_HDR has put only the change of the transport checksum into the
 * kernel's checksum of the whole packet (CHECKSUM_COMPLETE), which is right for IPv4 only. So for IPv6 the change of
 * the address is added here. */
static __always_inline __overloadable int rewrite_address(struct __sk_buff *skb, bool is_source, const ADDRESS *new,
							  __u32 difference, __u32 port_at, __be16 port)
{
	/* The verifier can follow a direct write up to this offset. Few headers are longer. */
	if (unlikely(port_at > NEAR_PORT)) {
		if (bpf_skb_store_bytes(skb, port_at, &port, sizeof(port), 0))
			return -1;
		port_at = 0;
	}

	if (!pull(skb, port_at ? port_at + sizeof(port) : ETH_HLEN + sizeof(IP_HEADER)))
		return -1;

	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	IP_HEADER *ip = data + ETH_HLEN;

	if ((void *)(ip + 1) > end)
		return -1;
	if (is_source)
		ip->source = *new;
	else
		ip->destination = *new;
#if FAMILY == 4
	ip->checksum = fold(add_carrying((__u16)~ip->checksum, difference));
#endif
	if (port_at) {
		__be16 *place = data + port_at;

		if ((void *)(place + 1) > end)
			return -1;
		*place = port;
	}
#if FAMILY == 6
	bpf_csum_update(skb, difference);
#endif
	return 0;
}

#define rewrite_side OF_FAMILY(rewrite_side)
/* Changes the source or the destination of a packet to that of the flow, also in what an ICMP error quotes. `to` is
 * NAT_SOURCE or NAT_DESTINATION. */
__noinline int rewrite_side(struct __sk_buff *skb, const PACKET *packet, const CT_ENTRY *entry, __u32 side, __u32 to)
{
	if (!packet || !entry)
		return DROP_INTERNAL;

	bool is_source = to == NAT_SOURCE;
	__u32 from = (is_source ? side : side ^ 1) & 1;
	ADDRESS old = is_source ? packet->source : packet->destination;
	ADDRESS new = entry->nat_address[from];
	__be16 old_port = is_source ? packet->source_port : packet->destination_port;
	__be16 new_port = entry->nat_port[from];
	bool echo = is_icmp(packet->protocol);
	__u32 transport = packet->transport, written_at = 0;
	__u64 flags;
	int checksum = checksum_offset(packet->protocol, &flags);
	__u32 difference = checksum_difference(&old, &new);

	if (packet->kind == PACKET_ERROR) {
		/* The quoted packet went in the opposite direction, after its translation: our source is its
		 * destination. The checksum of its IP header makes up for the changed address. Its transport
		 * checksum stays as it is: it may be cut off, and nobody checks it. */
		__u32 port_at = packet->inner_transport;
		__u32 outer_checksum = transport + offsetof(struct icmp_header, checksum);

		if (rewrite_quoted_address(skb, packet->inner, !is_source, &old, &new))
			return DROP_REWRITE_FAILED;
		/* The change of the quoted address is covered by the ICMP checksum. The pseudo header changes only
		 * with the outer address. */
		if (FAMILY == 6 && bpf_l4_csum_replace(skb, outer_checksum, 0, difference, 0))
			return DROP_REWRITE_FAILED;
		if (echo)
			port_at += offsetof(struct icmp_header, id);
		else if (is_source)
			port_at += offsetof(struct transport, destination);
		if (old_port != new_port) {
			if (bpf_l4_csum_replace(skb, outer_checksum, old_port, new_port, sizeof(new_port)) ||
			    bpf_skb_store_bytes(skb, port_at, &new_port, sizeof(new_port), 0))
				return DROP_REWRITE_FAILED;
		}
		/* A router that reports an error keeps its own address. */
		if (is_source && !equal(&packet->outer_source, &packet->source))
			return PARSED;
		if (FAMILY == 6 && bpf_l4_csum_replace(skb, outer_checksum, 0, difference, BPF_F_PSEUDO_HDR))
			return DROP_REWRITE_FAILED;
	} else if (packet->kind != PACKET_LATER_FRAGMENT && checksum >= 0) {
		__u32 at = transport + checksum;

		/* ICMP of IPv4 is the only checksum that does not cover the addresses. */
		if (!(FAMILY == 4 && echo) && bpf_l4_csum_replace(skb, at, 0, difference, BPF_F_PSEUDO_HDR | flags))
			return DROP_REWRITE_FAILED;
		if (old_port != new_port) {
			written_at = transport;
			if (echo)
				written_at += offsetof(struct icmp_header, id);
			else if (!is_source)
				written_at += offsetof(struct transport, destination);
			if (bpf_l4_csum_replace(skb, at, old_port, new_port, sizeof(new_port) | flags))
				return DROP_REWRITE_FAILED;
		}
	}
	return rewrite_address(skb, is_source, &new, difference, written_at, new_port) ? DROP_REWRITE_FAILED : PARSED;
}

/* Translates a packet as its direction says. */
static __always_inline __overloadable int rewrite(struct __sk_buff *skb, const PACKET *packet, const CT_ENTRY *entry,
						  __u32 side, __u8 nat)
{
	int reason = PARSED;

	if (nat & NAT_DESTINATION)
		reason = rewrite_side(skb, packet, entry, side, NAT_DESTINATION);
	if (!reason && nat & NAT_SOURCE)
		reason = rewrite_side(skb, packet, entry, side, NAT_SOURCE);
	return reason;
}
