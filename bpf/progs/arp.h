/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* ARP from an endpoint. The daemon sets the endpoint's neighbours, so it hardly needs to ask, and it may tell only
 * of itself. */
#pragma once

struct arp_packet {
	__be16 hardware;
	__be16 protocol;
	__u8 hardware_length;
	__u8 protocol_length;
	__be16 operation;
	__u8 sender_mac[MAC_LENGTH];
	struct ip4 sender;
	__u8 target_mac[MAC_LENGTH];
	struct ip4 target;
} __attribute__((packed));

#define ARP_ETHERNET 1

static __always_inline int arp_from_endpoint(struct __sk_buff *skb)
{
	struct arp_packet arp;
	struct ip4 sender;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &arp, sizeof(arp)) || arp.hardware != bpf_htons(ARP_ETHERNET) ||
	    arp.protocol != bpf_htons(ETH_P_IP) || arp.hardware_length != MAC_LENGTH ||
	    arp.protocol_length != sizeof(struct ip4))
		return drop_and_count(DROP_MALFORMED);
	__builtin_memcpy(&sender, &arp.sender, sizeof(sender));
	/* A probe (RFC 5227) has no sender address. */
	if (!sender.word[0])
		return PASS;

	struct endpoint *endpoint = bpf_map_lookup_elem(&endpoints4, &sender);

	if (!endpoint || endpoint->ifindex != skb->ifindex)
		return drop_and_count(DROP_FOREIGN_SOURCE);
	if (!same_mac(arp.sender_mac, endpoint->container_mac))
		return drop_and_count(DROP_FOREIGN_MAC);
	return PASS;
}
