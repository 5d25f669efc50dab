/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Forwards a packet as the direction of its flow says. */

/* Whether the packet with `more` bytes of headers is larger than the MTU. Of an aggregate the segments count into
 * which it will be split. */
static __always_inline __overloadable bool exceeds_mtu(const struct __sk_buff *skb, const PACKET *packet,
						       const struct ct_way *way, __u32 more)
{
	if (likely(!way->mtu || skb->len + more <= (__u32)way->mtu + ETH_HLEN))
		return false;
	if (!skb->gso_size)
		return true;

	__u32 header = packet->protocol == IPPROTO_TCP ? packet->segment_header : sizeof(struct udp_header);

	return skb->gso_size + packet->transport - ETH_HLEN + header + more > way->mtu;
}

/* Translates and forwards a packet as `way` says. */
static __always_inline __overloadable int forward(struct __sk_buff *skb, const PACKET *packet, CT_ENTRY *entry,
						  const struct ct_way *way, __u32 side)
{
	__u32 egress = way->egress;
	__u8 via = way->via;

	if (way->nat != NAT_NONE) {
		int reason = rewrite(skb, packet, entry, side, way->nat);

		if (reason)
			return drop_and_report(packet, reason, skb->ifindex);
	}
	if (via == VIA_PEER || via == VIA_HOST_END) {
		void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
		struct ethhdr *ethernet = data;

		if ((void *)(ethernet + 1) > end)
			return drop_and_count(DROP_MALFORMED);
		copy_mac(ethernet->h_dest, way->destination_mac);
		copy_mac(ethernet->h_source, way->source_mac);
		return via == VIA_PEER ? bpf_redirect_peer(egress, 0) : bpf_redirect(egress, 0);
	}
	if (via == VIA_UPLINK) {
		struct bpf_redir_neigh next_hop = {};

		/* The mark is for the uplink's egress program. If the packet already has a mark, routing uses it,
		 * and it stays. */
		if (!skb->mark)
			skb->mark = MARK_FORWARDED;
		if (is_zero(&entry->next_hop))
			return bpf_redirect_neigh(egress, NULL, 0, 0);
#if FAMILY == 4
		next_hop.nh_family = AF_INET;
		next_hop.ipv4_nh = entry->next_hop.word[0];
#else
		next_hop.nh_family = AF_INET6;
		__builtin_memcpy(next_hop.ipv6_nh, &entry->next_hop, sizeof(entry->next_hop));
#endif
		return bpf_redirect_neigh(egress, &next_hop, sizeof(next_hop), 0);
	}
	return PASS;
}
