/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The overlay's frames as the network carries them: from one node to another, and from nobody else. RFC 7348. */

static __always_inline bool FN(is_frame)(const PACKET *packet)
{
	return overlay_port && packet->protocol == IPPROTO_UDP && packet->destination_port == overlay_port;
}

/* Whether frames of the overlay come from the address. */
static __always_inline bool FN(is_machine)(const ADDRESS *address)
{
	__u8 *machine = bpf_map_lookup_elem(&MAP(machines), address);

	return machine && *machine & MACHINE_SENDS_FRAMES;
}

/* Lets the host have what is for it; a frame of the overlay only if a node of the cluster has sent it. */
static __always_inline int FN(to_host)(struct __sk_buff *skb, const PACKET *packet, struct scratch *room)
{
	struct vxlan_header *header = (struct vxlan_header *)&room->quote;

	if (likely(!FN(is_frame)(packet)) || packet->kind == PACKET_LATER_FRAGMENT || packet->kind == PACKET_ERROR ||
	    FN(is_machine)(&packet->source))
		return PASS;
	/* Somebody else's network. */
	if (bpf_skb_load_bytes(skb, packet->transport + sizeof(struct udp_header), header, sizeof(*header)) == 0 &&
	    bpf_ntohl(header->id) >> 8 != overlay_id)
		return PASS;
	return FN(refuse)(packet, DROP_FOREIGN_FRAME, skb->ifindex);
}
