/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The overlay's frames as the network carries them: from one node to another, and from nobody else. RFC 7348. */

static __always_inline __overloadable bool is_overlay_frame(const PACKET *packet)
{
	return overlay_port && packet->protocol == IPPROTO_UDP && packet->destination_port == overlay_port;
}

/* Whether frames of the overlay come from the address. */
static __always_inline __overloadable bool is_overlay_node(const ADDRESS *address)
{
	__u8 *flags = bpf_map_lookup_elem(&MAP(machines), address);

	return flags && *flags & MACHINE_SENDS_FRAMES;
}

/* Whether a packet is a frame of our overlay, and not of somebody else's network at that port. What is too short to tell is
 * ours. */
static __always_inline __overloadable bool is_own_overlay_frame(struct __sk_buff *skb, const PACKET *packet,
								struct scratch *room)
{
	struct vxlan_header *header = (struct vxlan_header *)&room->quote;

	if (likely(!is_overlay_frame(packet)) || packet->kind == PACKET_LATER_FRAGMENT || packet->kind == PACKET_ERROR)
		return false;
	return bpf_skb_load_bytes(skb, packet->transport + sizeof(struct udp_header), header, sizeof(*header)) ||
	       bpf_ntohl(header->id) >> 8 == overlay_id;
}

/* Whether another node's endpoints are met at the address by their own: where they are not masqueraded. */
static __always_inline __overloadable bool is_not_masqueraded(struct scratch *room, const struct node *state,
							      const ADDRESS *address)
{
	PREFIX *exempt = (PREFIX *)&room->prefix;

	exempt->length = sizeof(ADDRESS) * 8;
	exempt->address = *address;
	return !state->masquerade || bpf_map_lookup_elem(&MAP(no_masquerade), exempt);
}

/* Keeps from the host what somebody sends as a local endpoint, as the node itself, or as who is not where it came from. */
static __always_inline __overloadable int guard_host(struct __sk_buff *skb, const PACKET *packet, struct scratch *room,
						     const struct node *state)
{
	/* Where route_localnet is set the kernel would take it. */
	if (unlikely(is_loopback(&packet->destination)))
		return drop_and_report(packet, DROP_LINK_SCOPE, skb->ifindex);
	/* Nothing but a first packet of TCP makes a connection; the kernel looks at sources by itself only for IPv4, and only if
	 * its configuration says so. Options that it does not like it answers with an error, to who is said to have sent them. */
	if (packet->protocol == IPPROTO_TCP && !(packet->flags & TCP_SYN) &&
	    likely(packet->transport <= ETH_HLEN + sizeof(IP_HEADER)))
		return PASS;

	ADDRESS *sender = (ADDRESS *)&room->sender;

	*sender = packet->kind == PACKET_ERROR ? packet->outer_source : packet->source;
	if (bpf_map_lookup_elem(&MAP(endpoints), sender))
		return drop_and_report(packet, DROP_FORGED_ENDPOINT, skb->ifindex);
	if ((is_martian(sender) && !is_of_this_link(sender) && !may_be_nobody(packet)) ||
	    is_node_address(room, state, sender) || is_cluster_ip(room, sender))
		return drop_and_report(packet, DROP_MARTIAN, skb->ifindex);
	/* A router may tell of errors, and be anybody. */
	if (packet->kind == PACKET_ERROR)
		return PASS;

	int reason = check_origin(skb, false);

	/* Who is not masqueraded comes by whatever way leads to the node's address. */
	if (likely(!reason) || (reason == DROP_FOREIGN_WAY && is_not_masqueraded(room, state, &packet->destination)))
		return PASS;
	return drop_and_report(packet, reason, skb->ifindex);
}

/* Lets the host have what is for it, unless somebody sends as a local endpoint or as the node itself; a frame of the overlay
 * only if a node of the cluster has sent it. */
static __always_inline __overloadable int pass_to_host(struct __sk_buff *skb, const PACKET *packet,
						       struct scratch *room, const struct node *state)
{
	if (unlikely(is_overlay_frame(packet))) {
		if (is_overlay_node(&packet->source)) {
			skb->priority = FRAME_SEEN;
			return PASS;
		}
		if (is_own_overlay_frame(skb, packet, room))
			return drop_and_report(packet, DROP_FOREIGN_FRAME, skb->ifindex);
	}
	/* Nodes may send their frames in IPsec, which the host takes off behind this. */
	if (overlay_port && unlikely(packet->protocol == IPPROTO_ESP || packet->protocol == IPPROTO_AH) &&
	    is_overlay_node(&packet->source))
		skb->priority = FRAME_SEEN;
	return guard_host(skb, packet, room, state);
}

#define path_from_broadcast OF_FAMILY(path_from_broadcast)
/* What came with a broadcast or multicast Ethernet address. */
static __always_inline int path_from_broadcast(struct __sk_buff *skb)
{
	PACKET packet = {};
	struct scratch *room = scratch_room();
	int parsed = parse(skb, &packet);

	/* The stack may answer what it does not like with an error, which would reach the endpoint as the node's own. */
	if (bpf_map_lookup_elem(&MAP(endpoints), &packet.source))
		return drop_and_count(DROP_FORGED_ENDPOINT);
	const struct node *state = node_state();

	if (!room || !state || parsed)
		return PASS;
	if (is_own_overlay_frame(skb, &packet, room))
		return drop_and_report(&packet, DROP_FOREIGN_FRAME, skb->ifindex);
	return guard_host(skb, &packet, room, state);
}
