/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Where packets leave the node. bpf_fib_lookup is called with everything that routing rules and next hops may depend on.
 * That takes a sixth of the time that an unknown flow takes. Where only the destination matters, each processor keeps
 * the answer (`ways_out4`, `ways_out6`) until one of these numbers changes:
 *
 *	- the kernel's own count of route changes (route_generation): the kernel counts a change before it tells that
 *	  the change is done, so the next flow already sees it
 *	- the epoch, for what the kernel does not count, such as the MTU of an interface for IPv6
 *	- the tick of 1.07 s, for what nobody reports
 *
 * The daemon says that only the destination matters (`plain_routes`), and gives the kernel's count at which it has seen
 * all routes. After the first change, whoever makes it, each flow asks the routing table again until the daemon has
 * looked. Whether there have ever been routing rules besides the default ones, the kernel itself says.
 *
 * Ethernet addresses are not kept: bpf_redirect_neigh finds the address of the next hop when the packet leaves.
 */

#define WAY_OUT struct JOIN(way_out, FAMILY)

#ifndef PLAIN
/* The flag of a family in `plain_routes`. */
#define PLAIN(family) ((family) == 4 ? PLAIN_ROUTES4 : PLAIN_ROUTES6)

/* The fields of kernel structures that are read here. They need bpf_cast_to_kern_ctx. */
struct netns_ipv4___routes {
	struct {
		int counter;
	} rt_genid;
	unsigned int fib_seq;
	bool fib_has_custom_rules;
} __attribute__((preserve_access_index));

struct fib6_table___routes {
	unsigned int fib_seq;
} __attribute__((preserve_access_index));

struct rt6_statistics___routes {
	__u32 fib_discarded_routes;
} __attribute__((preserve_access_index));

struct netns_ipv6___routes {
	struct rt6_statistics___routes *rt6_stats;
	struct fib6_table___routes *fib6_main_tbl;
	struct fib6_table___routes *fib6_local_tbl;
	struct {
		int counter;
	} fib6_sernum;
	bool fib6_has_custom_rules;
} __attribute__((preserve_access_index));

struct net___routes {
	struct netns_ipv4___routes ipv4;
	struct netns_ipv6___routes ipv6;
} __attribute__((preserve_access_index));

struct net_device___routes {
	struct {
		struct net___routes *net;
	} nd_net;
} __attribute__((preserve_access_index));

struct sk_buff___routes {
	struct net_device___routes *dev;
} __attribute__((preserve_access_index));
#endif

#define route_generation OF_FAMILY(route_generation)
/* How often the routing tables of the packet's namespace have changed, as the kernel counts it, modulo 2^32. The
 * kernel has several counts, each of which only grows, so their sum only grows. Returns false if the kernel does not
 * have these counts, or if there are routing rules. */
static __always_inline bool route_generation(struct __sk_buff *skb, __u32 *count)
{
	if (!bpf_ksym_exists(bpf_cast_to_kern_ctx))
		return false;

	struct sk_buff___routes *inside = bpf_cast_to_kern_ctx(skb);
	struct net___routes *net = inside->dev->nd_net.net;

#if FAMILY == 4
	if (!bpf_core_field_exists(net->ipv4.rt_genid) || !bpf_core_field_exists(net->ipv4.fib_seq) ||
	    !bpf_core_field_exists(net->ipv4.fib_has_custom_rules) || net->ipv4.fib_has_custom_rules)
		return false;
	/* rt_genid does not count a route that is replaced or removed before a packet was routed by it; fib_seq does
	 * not count changes of interfaces. */
	*count = net->ipv4.rt_genid.counter + net->ipv4.fib_seq;
#else
	if (!bpf_core_field_exists(net->ipv6.fib6_sernum) || !bpf_core_field_exists(net->ipv6.fib6_has_custom_rules) ||
	    !bpf_core_field_exists(struct fib6_table___routes, fib_seq) ||
	    !bpf_core_field_exists(struct rt6_statistics___routes, fib_discarded_routes) ||
	    net->ipv6.fib6_has_custom_rules)
		return false;
	/* fib6_sernum counts routes that are added. fib_discarded_routes counts routes that are removed from any
	 * table, but without a lock. fib_seq of a table counts removed routes, except those behind another route to
	 * the same prefix. */
	*count = net->ipv6.fib6_sernum.counter + net->ipv6.fib6_main_tbl->fib_seq + net->ipv6.fib6_local_tbl->fib_seq +
		 net->ipv6.rt6_stats->fib_discarded_routes;
#endif
	return true;
}

/* Asks the routing table, and leaves the answer in scratch->out. Returns whether the answer may be kept. */
static __always_inline __overloadable bool ask_routing_table(struct __sk_buff *skb, const PACKET *packet,
							     struct scratch *room)
{
	struct bpf_fib_lookup *fib = &room->fib;
	WAY_OUT *out = &room->FIELD(out);
	__u32 egress = 0, mtu = 0;

	__builtin_memset(fib, 0, sizeof(*fib));
	fib->ifindex = skb->ifindex;
	fib->l4_protocol = packet->protocol;
	/* Not the packet's own length: an aggregate is longer than any route's MTU. A value that is not zero makes
	 * the kernel return the MTU. */
	fib->tot_len = 1;
	/* Routing rules may look at the ports, and a route with several next hops chooses by a hash of them. */
	if (has_ports(packet->protocol)) {
		fib->sport = packet->source_port;
		fib->dport = packet->destination_port;
	}
	if (fib_lookup_flags & FIB_LOOKUP_MARK)
		*(__u32 *)fib->smac = skb->mark;
#if FAMILY == 4
	fib->family = AF_INET;
	bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct ip4_header, tos), &fib->tos, sizeof(fib->tos));
	fib->ipv4_src = packet->source.word[0];
	fib->ipv4_dst = packet->destination.word[0];
#else
	fib->family = AF_INET6;
	/* Traffic class and flow label. */
	bpf_skb_load_bytes(skb, ETH_HLEN, &fib->flowinfo, sizeof(fib->flowinfo));
	fib->flowinfo &= bpf_htonl(0x0fffffff);
	__builtin_memcpy(fib->ipv6_src, &packet->source, sizeof(packet->source));
	__builtin_memcpy(fib->ipv6_dst, &packet->destination, sizeof(packet->destination));
#endif
	long found = bpf_fib_lookup(skb, fib, sizeof(*fib), fib_lookup_flags);

	out->leads = found == BPF_FIB_LKUP_RET_SUCCESS || found == BPF_FIB_LKUP_RET_NO_NEIGH;
	out->egress = 0;
	out->mtu = 0;
	__builtin_memset(&out->next_hop, 0, sizeof(out->next_hop));
	if (!out->leads)
		return found > 0;
	out->egress = egress = fib->ifindex;
	/* Older kernels do not return the MTU of a route whose neighbour is not resolved. The MTU of the interface
	 * is next best. */
	if (fib->tot_len > 1)
		out->mtu = fib->tot_len;
	else if (bpf_check_mtu(skb, egress, &mtu, 0, 0) >= 0)
		out->mtu = mtu;
#if FAMILY == 4
	if (fib->family == AF_INET)
		out->next_hop.word[0] = fib->ipv4_dst;
#else
	__builtin_memcpy(&out->next_hop, fib->ipv6_dst, sizeof(out->next_hop));
#endif
	return found == BPF_FIB_LKUP_RET_SUCCESS;
}

/* Finds where a packet leaves the node, and leaves that in scratch->out. Returns whether it leaves by an interface. */
static __always_inline __overloadable bool find_way_out(struct __sk_buff *skb, const PACKET *packet)
{
	struct scratch *room = scratch_room();
	__u32 at = 0, count = 0;
	const struct plain_routes *plain = bpf_map_lookup_elem(&plain_routes, &at);
	WAY_OUT *kept = NULL;

	if (!room || !packet)
		return false;

	const CT_ENTRY *entry = &room->FIELD(entry);
	WAY_OUT *out = &room->FIELD(out);

	if (plain && plain->families & PLAIN(FAMILY) && route_generation(skb, &count) && plain->FIELD(count) == count) {
		at = skb->ifindex;
		for (int i = 0; i < WORDS; i++)
			at = (at ^ packet->destination.word[i]) * 0x9e3779b1;
		at >>= 32 - WAYS_OUT_BITS;
		kept = bpf_map_lookup_elem(&MAP(ways_out), &at);
	}
	if (kept && kept->count == count && kept->epoch == entry->epoch && kept->tick == room->now &&
	    kept->ingress == skb->ifindex && equal(&kept->destination, &packet->destination)) {
		*out = *kept;
		return out->leads;
	}
	/* A kept answer has the count, the epoch and the tick from before the routing table was asked. */
	fence(room);
	if (ask_routing_table(skb, packet, room) && kept) {
		out->count = count;
		out->epoch = entry->epoch;
		out->tick = room->now;
		out->ingress = skb->ifindex;
		out->destination = packet->destination;
		*kept = *out;
	}
	return out->leads;
}
