/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Where a sender is. An address of another node's endpoint is believed if the packet comes by the overlay, whose frames are
 * taken from nodes alone, or directly from that node. Which of both a node does is its own choice, so neither is asked for:
 * a router, or who is behind one, does neither. And an address of an endpoint of this node is believed behind its own
 * interface alone. What this node itself gives out, and has given to none, nobody has beyond an uplink; behind another
 * interface may be the pods of another plugin. Asked of the first packet of a flow.
 */

/* What `node_prefixes` has in place of a machine: the address means all of a network of the node's. */
#define ALL_OF_NETWORK bpf_htonl(0xfffffffe)

/* Whether a prefix is this node's own, or nobody's: as `node_prefixes` says it, for no machine has those addresses. */
static __always_inline __overloadable bool is_prefix_of_this_node(const ADDRESS *node_address)
{
	return node_address->word[0] == 0xffffffff || node_address->word[0] == ALL_OF_NETWORK;
}

/* Whether an address means all of a network, the node among them: broadcast; in IPv6 all routers of it, of which a node is one. */
static __always_inline __overloadable bool is_broadcast(struct scratch *room, const ADDRESS *address)
{
	PREFIX *prefix = (PREFIX *)&room->prefix;

	prefix->length = sizeof(ADDRESS) * 8;
	prefix->address = *address;

	ADDRESS *node_address = bpf_map_lookup_elem(&MAP(node_prefixes), prefix);

	return node_address && node_address->word[0] == ALL_OF_NETWORK;
}

/* Whether an address is a service's alone, and met on the node alone: nobody sends from there beyond it. */
static __always_inline __overloadable bool is_cluster_ip(struct scratch *room, const ADDRESS *address)
{
	FRONTEND_KEY *key = (FRONTEND_KEY *)&room->frontend;
	struct frontend *of_address;

	if (likely(!may_be_service(address)))
		return false;
	*key = (FRONTEND_KEY){ .address = *address };
	of_address = bpf_map_lookup_elem(&MAP(frontends), key);
	return of_address && of_address->flags & ADDRESS_OF_SERVICE && of_address->flags & INSIDE_ONLY;
}

#define is_from_node OF_FAMILY(is_from_node)
/* Whether a packet's Ethernet source is that of a node: as it was last seen, or as the neighbour table has it. */
__noinline int is_from_node(struct __sk_buff *skb)
{
	struct scratch *room = scratch_room();

	if (!room)
		return false;

	ADDRESS *node_address = (ADDRESS *)&room->address;
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
	/* Without flags: here it is the neighbour that is asked for. */
	if (bpf_fib_lookup(skb, fib, sizeof(*fib), 0) != BPF_FIB_LKUP_RET_SUCCESS || !same_mac(fib->dmac, source.mac))
		return false;
		/* A node beyond a router has the router's. */
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
/* Whether the sender that check_sender() has left in scratch can have sent what came by this interface: at an uplink, or
 * through the host's stack. */
__noinline int check_origin(struct __sk_buff *skb, __u32 by_stack)
{
	struct scratch *room = scratch_room();

	if (!room)
		return DROP_INTERNAL;

	const ADDRESS *sender = (ADDRESS *)&room->sender;
	/* Both are read at their own places, or the verifier sees one read at a place that is not constant. */
	const volatile struct __sk_buff *fields = skb;
	__u32 here = fields->ifindex, came_by = fields->ingress_ifindex, ifindex = by_stack ? came_by : here;
	struct uplink *uplink;

	if (by_stack) {
		struct endpoint *endpoint = bpf_map_lookup_elem(&MAP(endpoints), sender);

		/* The bridge of another plugin may be where its packets come from. */
		if (endpoint && endpoint->ifindex != ifindex &&
		    (!(endpoint->flags & ENDPOINT_CHAINED) || bpf_map_lookup_elem(&uplinks, &ifindex)))
			return DROP_FORGED_ENDPOINT;
	}

	PREFIX *prefix = (PREFIX *)&room->prefix;

	prefix->length = sizeof(ADDRESS) * 8;
	prefix->address = *sender;

	ADDRESS *node_address = bpf_map_lookup_elem(&MAP(node_prefixes), prefix);

	if (likely(!node_address))
		return PARSED;
	if (is_prefix_of_this_node(node_address))
		return by_stack ? PARSED : DROP_MARTIAN;
	uplink = bpf_map_lookup_elem(&uplinks, &ifindex);
	/* Of what comes by an uplink, the stack has what was seen there. */
	if (by_stack)
		return uplink ? PARSED : DROP_FOREIGN_WAY;
	if (uplink && uplink->flags & UPLINK_OVERLAY)
		return PARSED;
	if (is_zero(node_address))
		return DROP_FOREIGN_WAY;
	*(ADDRESS *)&room->address = *node_address;
	return is_from_node(skb) ? PARSED : DROP_FOREIGN_WAY;
}

#define check_error_sender OF_FAMILY(check_error_sender)
/* Whether somebody may tell of an error: one who came by that interface. It is no endpoint of this node, but behind its own
 * interface, and not the node itself. A router of the link may have no address but one of the link. */
__noinline int check_error_sender(const PACKET *packet, __u32 ifindex)
{
	__u32 zero = 0;
	struct scratch *room = scratch_room();
	struct node *state = bpf_map_lookup_elem(&node, &zero);

	if (!room || !state || !packet)
		return DROP_INTERNAL;

	ADDRESS *sender = (ADDRESS *)&room->sender;

	*sender = packet->outer_source;
	if (is_martian(sender) && !is_of_this_link(sender))
		return DROP_MARTIAN;

	bool at_uplink = bpf_map_lookup_elem(&uplinks, &ifindex) != NULL;
	struct endpoint *endpoint = bpf_map_lookup_elem(&MAP(endpoints), sender);

	if (endpoint && endpoint->ifindex != ifindex && (at_uplink || !(endpoint->flags & ENDPOINT_CHAINED)))
		return DROP_FORGED_ENDPOINT;
	if (!at_uplink)
		return PARSED;

	PREFIX *prefix = (PREFIX *)&room->prefix;

	prefix->length = sizeof(ADDRESS) * 8;
	prefix->address = *sender;

	/* A router may be anybody beyond. */
	ADDRESS *node_address = bpf_map_lookup_elem(&MAP(node_prefixes), prefix);

	return (node_address && is_prefix_of_this_node(node_address)) || is_node_address(room, state, sender) ||
			       is_cluster_ip(room, sender) ?
		       DROP_MARTIAN :
		       PARSED;
}
