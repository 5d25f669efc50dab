/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Packets that are larger than the MTU of their way and that may be fragmented: IPv4 without "don't fragment". The
 * host's stack fragments them, as a router does. It gets all fragments of such a datagram, because it may put them
 * together first. The stack would refuse a packet with an address of the node as its source, so the source is
 * translated only where the fragments leave the host. */

#if FAMILY == 4

static __always_inline __overloadable bool may_fragment(struct __sk_buff *skb, const PACKET *packet)
{
	__be16 fragment;

	return bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct ip4_header, fragment), &fragment, sizeof(fragment)) ==
		       0 &&
	       !(fragment & bpf_htons(IP4_DONT_FRAGMENT));
}

/* Stores how the source changes at the uplink, as a reverse entry whose addresses are those that the stack has. */
static __always_inline __overloadable int snat_at_uplink(struct scratch *room, const struct packet4 *packet,
							 const struct ct_entry4 *entry, __u32 from, __u32 to)
{
	struct ct_entry4 *reverse = &room->counterpart4;
	struct ct_key4 *key = &room->counterpart_key4;
	__u32 side = ct_make_key(key, packet, &packet->source, packet->source_port, &entry->nat_address[to],
				 entry->nat_port[to]) &
		     1;
	struct ct_entry4 *holder = ct_find(key);

	if (holder &&
	    !(holder->flags & CT_NAT_REVERSE && ct_is_from_opener(holder, side) &&
	      holder->way[side].nat == NAT_SOURCE) &&
	    !ct_is_expired(holder, packet->protocol, ticks()))
		return DROP_PORT_TAKEN;
	__builtin_memset(reverse, 0, sizeof(*reverse));
	reverse->epoch = entry->epoch;
	reverse->seen = ticks();
	reverse->flags = CT_NAT_REVERSE;
	reverse->opener = side;
	reverse->nat_address[side] = entry->nat_address[from];
	reverse->nat_port[side] = entry->nat_port[from];
	reverse->nat_address[side ^ 1] = entry->nat_address[to];
	reverse->nat_port[side ^ 1] = entry->nat_port[to];
	reverse->way[side].nat = NAT_SOURCE;
	reverse->begun = holder ? holder->begun : moment();
	if (bpf_map_update_elem(&conntrack4, key, reverse, BPF_ANY))
		return DROP_CONNTRACK_FULL;
	if (!holder)
		ct_wait_in_line(WAIT_REVERSE, reverse->begun);
	return PARSED;
}

#define fragment_by_stack OF_FAMILY(fragment_by_stack)
/* Passes a packet to the host's stack, which fragments it. */
__noinline int fragment_by_stack(struct __sk_buff *skb, const struct packet4 *packet, const struct ct_entry4 *entry,
				 __u32 side)
{
	struct scratch *room = scratch_room();
	__u32 from = side & 1, to = from ^ 1;
	int reason = PARSED;

	if (!room || !packet || !entry)
		return TC_ACT_SHOT;
	if (packet->kind == PACKET_FIRST_FRAGMENT) {
		struct fragment4 key;
		struct fragments *fragments;

		fragment_key(&key, packet);
		fragments = bpf_map_lookup_elem(&fragments4, &key);
		if (fragments)
			fragments->cut = true;
	}
	if (entry->way[from].nat & NAT_SOURCE)
		reason = snat_at_uplink(room, packet, entry, from, to);
	reason = reason ?: rewrite_side(skb, packet, entry, side, NAT_DESTINATION);
	return reason ? drop_and_report(packet, reason, skb->ifindex) : PASS;
}

#else

/* An IPv6 router never fragments. The sender does, when it gets an error. */
static __always_inline __overloadable bool may_fragment(struct __sk_buff *skb, const PACKET *packet)
{
	return false;
}

static __always_inline int fragment_by_stack(struct __sk_buff *skb, const struct packet6 *packet,
					     const struct ct_entry6 *entry, __u32 side)
{
	return drop_and_count(DROP_TOO_LARGE);
}

#endif
