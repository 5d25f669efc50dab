/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Overlay frames (VXLAN, RFC 7348) on the network: from one node of the cluster to another, and from nobody else. */

static __always_inline __overloadable bool is_overlay_frame(const PACKET *packet)
{
	return overlay_port && packet->protocol == IPPROTO_UDP && packet->destination_port == overlay_port;
}

/* Whether overlay frames may come from the address. */
static __always_inline __overloadable bool is_overlay_node(const ADDRESS *address)
{
	__u8 *flags = bpf_map_lookup_elem(&MAP(machines), address);

	return flags && *flags & MACHINE_SENDS_FRAMES;
}

/* Whether a packet is a frame of our overlay, and not of another network at the same port. A packet that is too
 * short to tell counts as ours. */
static __always_inline __overloadable bool is_own_overlay_frame(struct __sk_buff *skb, const PACKET *packet,
								struct scratch *room)
{
	struct vxlan_header *header = (struct vxlan_header *)&room->quote;

	if (likely(!is_overlay_frame(packet)) || packet->kind == PACKET_LATER_FRAGMENT || packet->kind == PACKET_ERROR)
		return false;
	return bpf_skb_load_bytes(skb, packet->transport + sizeof(struct udp_header), header, sizeof(*header)) ||
	       bpf_ntohl(header->id) >> 8 == overlay_id;
}

/* Whether endpoints of other nodes reach this address with their own addresses, because it is excepted from
 * masquerade. */
static __always_inline __overloadable bool is_not_masqueraded(struct scratch *room, const struct node *state,
							      const ADDRESS *address)
{
	PREFIX *exempt = &room->FIELD(prefix);

	exempt->length = sizeof(ADDRESS) * 8;
	exempt->address = *address;
	return !state->masquerade || bpf_map_lookup_elem(&MAP(no_masquerade), exempt);
}

/* Protects the host from packets that claim to come from a local endpoint, from the node itself, or from where the
 * sender cannot be. */
static __always_inline __overloadable int guard_host(struct __sk_buff *skb, const PACKET *packet, struct scratch *room,
						     const struct node *state)
{
	/* With route_localnet the kernel would accept it. */
	if (unlikely(is_loopback(&packet->destination)))
		return drop_and_report(packet, DROP_LINK_SCOPE, skb->ifindex);
	/* Only a SYN can open a TCP connection, so other segments need no check. The kernel itself checks sources
	 * only for IPv4, and only if it is configured to. A packet with IP options is checked in any case, because
	 * the kernel may answer it with an ICMP error, which would go to the claimed sender. */
	if (packet->protocol == IPPROTO_TCP && !(packet->flags & TCP_SYN) &&
	    likely(packet->transport <= ETH_HLEN + sizeof(IP_HEADER)))
		return PASS;

	ADDRESS *sender = &room->FIELD(sender);

	*sender = packet->kind == PACKET_ERROR ? packet->outer_source : packet->source;
	if (bpf_map_lookup_elem(&MAP(endpoints), sender))
		return drop_and_report(packet, DROP_FORGED_ENDPOINT, skb->ifindex);
	if ((is_martian(sender) && !is_of_this_link(sender) && !may_be_nobody(packet)) ||
	    is_node_address(room, state, sender) || is_cluster_ip(room, sender))
		return drop_and_report(packet, DROP_MARTIAN, skb->ifindex);
	/* An error may come from a router, and a router can have any address. */
	if (packet->kind == PACKET_ERROR)
		return PASS;

	int reason = check_origin(skb, false);

	/* Where endpoints are not masqueraded, their packets reach the node by whatever route leads to its address. */
	if (likely(!reason) || (reason == DROP_FOREIGN_WAY && is_not_masqueraded(room, state, &packet->destination)))
		return PASS;
	return drop_and_report(packet, reason, skb->ifindex);
}

/* Passes a packet to the host, unless its sender claims to be a local endpoint or the node itself. An overlay frame
 * is passed only if a node of the cluster has sent it. */
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
	/* Nodes may send overlay frames inside IPsec; the host decrypts them after this program. */
	if (overlay_port && unlikely(packet->protocol == IPPROTO_ESP || packet->protocol == IPPROTO_AH) &&
	    is_overlay_node(&packet->source))
		skb->priority = FRAME_SEEN;
	return guard_host(skb, packet, room, state);
}

#define path_from_broadcast OF_FAMILY(path_from_broadcast)
/* A packet with a broadcast or multicast Ethernet address. */
static __always_inline int path_from_broadcast(struct __sk_buff *skb)
{
	PACKET packet = {};
	struct scratch *room = scratch_room();
	int parsed = parse(skb, &packet);

	/* The stack may answer a packet that it refuses with an ICMP error. The endpoint would take that error as
	 * one of the node. */
	if (bpf_map_lookup_elem(&MAP(endpoints), &packet.source))
		return drop_and_count(DROP_FORGED_ENDPOINT);
	const struct node *state = node_state();

	if (!room || !state || parsed)
		return PASS;
	if (is_own_overlay_frame(skb, &packet, room))
		return drop_and_report(&packet, DROP_FOREIGN_FRAME, skb->ifindex);
	return guard_host(skb, &packet, room, state);
}
