/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Where a sender may be. An address of another node's endpoint is accepted from two places: from the overlay, whose
 * frames come only from nodes of the cluster, and directly from that node. Each node chooses one of the two itself.
 * A router, and everybody behind one, can send in neither way. An address of an endpoint of this node is accepted
 * only from its own interface. An address that this node gives out, but has given to nobody, cannot come from beyond
 * an uplink; behind another interface there may be pods of another plugin. All this is checked for the first packet
 * of a flow. */

/* A value of `node_prefixes` in place of a node's address: the address is the broadcast address of one of this
 * node's networks. */
#define ALL_OF_NETWORK bpf_htonl(0xfffffffe)

/* Whether a prefix belongs to this node or to nobody. `node_prefixes` says that by values that no node can have as
 * its address. */
static __always_inline __overloadable bool is_prefix_of_this_node(const ADDRESS *node_address)
{
	return node_address->word[0] == 0xffffffff || node_address->word[0] == ALL_OF_NETWORK;
}

/* Whether an address means everybody on a network, this node included: a broadcast address, or in IPv6 the address
 * of all routers. */
static __always_inline __overloadable bool is_broadcast(struct scratch *room, const ADDRESS *address)
{
	PREFIX *prefix = &room->FIELD(prefix);

	prefix->length = sizeof(ADDRESS) * 8;
	prefix->address = *address;

	ADDRESS *node_address = bpf_map_lookup_elem(&MAP(node_prefixes), prefix);

	return node_address && node_address->word[0] == ALL_OF_NETWORK;
}

/* Whether an address belongs to a service that is reached only on the node itself. Nobody beyond the node may send
 * from it. */
static __always_inline __overloadable bool is_cluster_ip(struct scratch *room, const ADDRESS *address)
{
	FRONTEND_KEY *key = &room->FIELD(frontend);
	struct frontend *of_address;

	if (likely(!may_be_service(address)))
		return false;
	*key = (FRONTEND_KEY){ .address = *address };
	of_address = bpf_map_lookup_elem(&MAP(frontends), key);
	return of_address && of_address->flags & ADDRESS_OF_SERVICE && of_address->flags & INSIDE_ONLY;
}

#define is_from_node OF_FAMILY(is_from_node)
/* Whether the Ethernet source of a packet is that of a node: the one that was seen last, or the one in the neighbour
 * table. The node's address is in scratch->address. */
__noinline int is_from_node(struct __sk_buff *skb)
{
	struct scratch *room = scratch_room();

	if (!room)
		return false;

	ADDRESS *node_address = &room->FIELD(address);
	struct bpf_fib_lookup *fib = &room->fib;
	struct ethernet_address *known = bpf_map_lookup_elem(&MAP(node_macs), node_address);
	struct ethernet_address source = {};

	if (bpf_skb_load_bytes(skb, offsetof(struct ethhdr, h_source), source.mac, MAC_LENGTH))
		return false;
	if (known && same_mac(known->mac, source.mac))
		return true;
	__builtin_memset(fib, 0, sizeof(*fib));
	fib->ifindex = skb->ifindex;
	fib->tot_len = 1;
#if FAMILY == 4
	fib->family = AF_INET;
	fib->ipv4_dst = node_address->word[0];
#else
	fib->family = AF_INET6;
	__builtin_memcpy(fib->ipv6_dst, node_address, sizeof(*node_address));
#endif
	/* Without the flags, because here the neighbour is what is wanted. */
	if (bpf_fib_lookup(skb, fib, sizeof(*fib), 0) != BPF_FIB_LKUP_RET_SUCCESS || !same_mac(fib->dmac, source.mac))
		return false;
		/* The next hop to a node beyond a router is the router, and the Ethernet address is the router's. */
#if FAMILY == 4
	if (fib->ipv4_dst != node_address->word[0])
		return false;
#else
	if (!equal((const ADDRESS *)fib->ipv6_dst, node_address))
		return false;
#endif
	bpf_map_update_elem(&MAP(node_macs), node_address, &source, BPF_ANY);
	return true;
}

#define check_origin OF_FAMILY(check_origin)
/* Whether the sender that check_sender() has left in scratch may be behind this interface. `by_stack`: the packet
 * came through the host's stack. */
__noinline int check_origin(struct __sk_buff *skb, __u32 by_stack)
{
	struct scratch *room = scratch_room();

	if (!room)
		return DROP_INTERNAL;

	const ADDRESS *sender = &room->FIELD(sender);
	/* Volatile, so that each field is read at its own offset: the verifier refuses a read at an offset that is
	 * not constant. */
	const volatile struct __sk_buff *fields = skb;
	__u32 here = fields->ifindex, came_by = fields->ingress_ifindex, ifindex = by_stack ? came_by : here;
	struct uplink *uplink;

	if (by_stack) {
		struct endpoint *endpoint = bpf_map_lookup_elem(&MAP(endpoints), sender);

		/* Packets of such an endpoint may come from the bridge of the other plugin. */
		if (endpoint && endpoint->ifindex != ifindex &&
		    (!(endpoint->flags & ENDPOINT_CHAINED) || bpf_map_lookup_elem(&uplinks, &ifindex)))
			return DROP_FORGED_ENDPOINT;
	}

	PREFIX *prefix = &room->FIELD(prefix);

	prefix->length = sizeof(ADDRESS) * 8;
	prefix->address = *sender;

	ADDRESS *node_address = bpf_map_lookup_elem(&MAP(node_prefixes), prefix);

	if (likely(!node_address))
		return PARSED;
	if (is_prefix_of_this_node(node_address))
		return by_stack ? PARSED : DROP_MARTIAN;
	uplink = bpf_map_lookup_elem(&uplinks, &ifindex);
	/* A packet that came by an uplink was already checked there. */
	if (by_stack)
		return uplink ? PARSED : DROP_FOREIGN_WAY;
	if (uplink && uplink->flags & UPLINK_OVERLAY)
		return PARSED;
	if (is_zero(node_address))
		return DROP_FOREIGN_WAY;
	room->FIELD(address) = *node_address;
	return is_from_node(skb) ? PARSED : DROP_FOREIGN_WAY;
}

#define check_error_sender OF_FAMILY(check_error_sender)
/* Whether the sender of an ICMP error may be behind that interface. An endpoint of this node may be only behind its
 * own, and the node itself behind none. A router on the link may have only a link-local address. */
__noinline int check_error_sender(const PACKET *packet, __u32 ifindex)
{
	__u32 zero = 0;
	struct scratch *room = scratch_room();
	struct node *state = bpf_map_lookup_elem(&node, &zero);

	if (!room || !state || !packet)
		return DROP_INTERNAL;

	ADDRESS *sender = &room->FIELD(sender);

	*sender = packet->outer_source;
	if (is_martian(sender) && !is_of_this_link(sender))
		return DROP_MARTIAN;

	bool at_uplink = bpf_map_lookup_elem(&uplinks, &ifindex) != NULL;
	struct endpoint *endpoint = bpf_map_lookup_elem(&MAP(endpoints), sender);

	if (endpoint && endpoint->ifindex != ifindex && (at_uplink || !(endpoint->flags & ENDPOINT_CHAINED)))
		return DROP_FORGED_ENDPOINT;
	if (!at_uplink)
		return PARSED;

	PREFIX *prefix = &room->FIELD(prefix);

	prefix->length = sizeof(ADDRESS) * 8;
	prefix->address = *sender;

	/* A router can have any other address. */
	ADDRESS *node_address = bpf_map_lookup_elem(&MAP(node_prefixes), prefix);

	return (node_address && is_prefix_of_this_node(node_address)) || is_node_address(room, state, sender) ||
			       is_cluster_ip(room, sender) ?
		       DROP_MARTIAN :
		       PARSED;
}
