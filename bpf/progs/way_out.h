/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Where packets leave the node. The routing table is asked with all that rules and next hops may depend on, which takes a sixth of
 * what an unknown flow costs. Where nothing but the destination counts, what this processor was answered is kept (`ways_out`) until
 * one of these is another than it was then:
 *
 *	- the kernel's own count of what changes routes (`counted`): it is counted before who has made the change goes on, so the next flow
 *	  goes by it
 *	- the epoch, for what the kernel does not count, such as the MTU of an interface for IPv6
 *	- the tick, which is 1.07 s, for what nobody tells of
 *
 * That only the destination counts is the daemon's word (`plain_routes`): it has seen all routes when that count was what it is now.
 * So with the first change, whoever makes it, each flow asks again, until the daemon has looked. Of rules the kernel says itself
 * whether there have ever been others than those that it began with.
 *
 * No Ethernet address is kept: a packet gets the one that its next hop has when it leaves (bpf_redirect_neigh).
 */

#define WAY_OUT struct JOIN(way_out, FAMILY)

#ifndef PLAIN
/* Of a family: the flag of `plain_routes`. */
#define PLAIN(family) ((family) == 4 ? PLAIN_ROUTES4 : PLAIN_ROUTES6)

/* What of the kernel is read. It needs bpf_cast_to_kern_ctx. */
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
/* How often the routing tables of the packet's namespace have changed, as the kernel counts it, modulo 2^32: it has several counts, each
 * of which only grows, and so does their sum. False: they are not to be had, or there are rules. */
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
	/* The first leaves out who takes the place of a route, or goes, that nobody was led by; the second, what becomes of interfaces. */
	*count = net->ipv4.rt_genid.counter + net->ipv4.fib_seq;
#else
	if (!bpf_core_field_exists(net->ipv6.fib6_sernum) || !bpf_core_field_exists(net->ipv6.fib6_has_custom_rules) ||
	    !bpf_core_field_exists(struct fib6_table___routes, fib_seq) ||
	    !bpf_core_field_exists(struct rt6_statistics___routes, fib_discarded_routes) ||
	    net->ipv6.fib6_has_custom_rules)
		return false;
	/* The first counts what comes; the last what goes, of all tables, without a lock for all; those of the tables what goes but for a
	 * route behind another to the same prefix. */
	*count = net->ipv6.fib6_sernum.counter + net->ipv6.fib6_main_tbl->fib_seq + net->ipv6.fib6_local_tbl->fib_seq +
		 net->ipv6.rt6_stats->fib_discarded_routes;
#endif
	return true;
}

/* Asks the routing table, and leaves what it says in scratch->out. Whether that may be kept. */
static __always_inline __overloadable bool ask_routing_table(struct __sk_buff *skb, const PACKET *packet,
							     struct scratch *room)
{
	struct bpf_fib_lookup *fib = &room->fib;
	WAY_OUT *out = (WAY_OUT *)&room->out;
	__u32 egress = 0, mtu = 0;

	__builtin_memset(fib, 0, sizeof(*fib));
	fib->ifindex = skb->ifindex;
	fib->l4_protocol = packet->protocol;
	/* Not the packet's: an aggregate would not fit any route. Non-zero makes the kernel tell the MTU. */
	fib->tot_len = 1;
	/* Rules ask for them, and where a route has several next hops a hash of them chooses. */
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
	/* Class and flow label. */
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
	/* Without a resolved neighbour older kernels leave the route's MTU out; the interface's is next best. */
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

#define find_way_out OF_FAMILY(find_way_out)
/* Finds where a packet leaves the node by the routing table; in scratch->out. Whether it does. */
__noinline int find_way_out(struct __sk_buff *skb, const PACKET *packet)
{
	struct scratch *room = scratch_room();
	__u32 at = 0, count = 0;
	const struct plain_routes *plain = bpf_map_lookup_elem(&plain_routes, &at);
	WAY_OUT *kept = NULL;

	if (!room || !packet)
		return false;

	const CT_ENTRY *entry = (CT_ENTRY *)&room->entry;
	WAY_OUT *out = (WAY_OUT *)&room->out;

	if (plain && plain->families & PLAIN(FAMILY) && route_generation(skb, &count) && plain->MAP(count) == count) {
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
	/* What is kept has a count, an epoch and a tick from before the tables were asked. */
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
