/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the node itself sends and gets by an interface that has a HostEndpoint, and what passes through the node without
 * concerning an endpoint. docs/hosts.md has the order of the policies. These flows have a memory of their own, so they
 * take no room from the endpoints' and are remembered only while there are HostEndpoints.
 */

/* Whether the packet belongs to the overlay, or is an error about one that does: between nodes of the cluster, to its port.
 * The node sends such frames for its pods, whose own packets were judged. `leaves`: this node has sent it. */
static __always_inline __overloadable bool is_between_machines(struct scratch *room, const PACKET *packet, bool leaves)
{
	ADDRESS *machine = &room->FIELD(address);
	/* An error goes against the packet that it is about. */
	__be16 port = packet->kind == PACKET_ERROR ? packet->source_port : packet->destination_port;
	__u8 *flags;

	if (!overlay_port || packet->protocol != IPPROTO_UDP || port != overlay_port)
		return false;
	*machine = leaves ? packet->destination : packet->source;
	flags = bpf_map_lookup_elem(&MAP(machines), machine);
	return flags && *flags & MACHINE_SENDS_FRAMES;
}

/* Fills the key of the packet's flow in scratch, and returns the index of the packet's source in it. */
static __always_inline __overloadable __u32 host_key(struct scratch *room, const PACKET *packet)
{
	struct host_flow_key *key = &room->host_key;
	CT_KEY *flow = &room->FIELD(key);
	__u32 side = ct_key_of_packet(packet, flow) & 1;

	__builtin_memset(key, 0, sizeof(*key));
	*(ADDRESS *)&key->address[0] = flow->address[0];
	*(ADDRESS *)&key->address[1] = flow->address[1];
	key->port[0] = flow->port[0];
	key->port[1] = flow->port[1];
	key->protocol = flow->protocol;
	key->asker = flow->asker;
	key->family = FAMILY;
	return side;
}

/* The flow of the key in scratch, if it still lives and the packet is not a SYN that begins another one. */
static __always_inline __overloadable struct host_flow *host_find(struct scratch *room, const PACKET *packet, __u32 side,
								  __u32 now)
{
	struct host_flow *flow = bpf_map_lookup_elem(&host_flows, &room->host_key);

	if (!flow || (__s32)(now - flow->seen) > (__s32)ct_lifetime(packet->protocol, flow->flags))
		return NULL;
	if (is_opening(packet->flags) && (flow->opener != side || ct_is_over(packet->protocol, flow->flags)))
		return NULL;
	return flow;
}

/* Writes the state after a packet: once a tick, and when a flag changes. */
static __always_inline __overloadable void host_track(struct __sk_buff *skb, const PACKET *packet, struct host_flow *flow,
						      bool by_opener, __u32 now)
{
	__u32 packet_flags = ct_flags_of_packet(packet, by_opener), missing = packet_flags & ~flow->flags;

	if (flow->seen == now && !(flow->flags & CT_RESET) &&
	    !(missing && (missing != CT_CONFIRMED || flow->flags & CT_REPLIED)))
		return;

	__u32 after = ct_flags_after(packet->protocol, flow->flags,
				     with_tcp_number(skb, packet, flow->flags, packet_flags), now, flow->seen,
				     flow->born);

	flow->flags = after;
	if (!(after & CT_RESET) || packet_flags & CT_RESET)
		flow->seen = now;
}

/* Whether the stack sends the packet on to another machine. All else is the node's own. */
static __always_inline __overloadable bool is_forwarded(struct __sk_buff *skb, struct scratch *room, const PACKET *packet)
{
	struct bpf_fib_lookup *fib = &room->fib;

	if (is_link_scope(&packet->destination))
		return false;
	__builtin_memset(fib, 0, sizeof(*fib));
	fib->ifindex = skb->ifindex;
	fib->l4_protocol = packet->protocol;
#if FAMILY == 4
	fib->family = AF_INET;
	fib->ipv4_src = packet->source.word[0];
	fib->ipv4_dst = packet->destination.word[0];
#else
	fib->family = AF_INET6;
	__builtin_memcpy(fib->ipv6_src, &packet->source, sizeof(ADDRESS));
	__builtin_memcpy(fib->ipv6_dst, &packet->destination, sizeof(ADDRESS));
#endif
	long found = bpf_fib_lookup(skb, fib, sizeof(*fib), fib_lookup_flags);

	return found == BPF_FIB_LKUP_RET_SUCCESS || found == BPF_FIB_LKUP_RET_NO_NEIGH ||
	       found == BPF_FIB_LKUP_RET_FRAG_NEEDED;
}

#define host_follow OF_FAMILY(host_follow)
/* Lets the packet in scratch go on with its flow. If the flow has to be judged, leaves in scratch what is to be
 * remembered of it and how it is asked. Returns an enum host_answer or a drop reason. */
__noinline int host_follow(struct __sk_buff *skb, enum host_stage stage)
{
	__u32 ifindex = skb->ifindex;
	struct scratch *room = scratch_room();
	const struct node *state = node_state();
	struct host_policy *policy = bpf_map_lookup_elem(&host_policies, &ifindex);

	if (!room || !state || !policy)
		return DROP_INTERNAL;

	const PACKET *packet = (const PACKET *)&room->packet;
	bool leaves = stage == HOST_LEAVES;
	__u32 now = ticks(), side = host_key(room, packet);
	struct host_flow *begun = &room->host_flow, *flow = host_find(room, packet, side, now);

	begun->epoch = *(const volatile __u32 *)&state->epoch;
	fence(room);
	room->host_how = HOST_LOCAL;
	if (!flow && (leaves ? skb->ingress_ifindex != 0 : is_forwarded(skb, room, packet))) {
		if (!policy->slot[HOST_FORWARDED])
			return HOST_PASSES;
		room->host_how = HOST_FORWARDED;
		room->host_key.ifindex = ifindex;
		flow = host_find(room, packet, side, now);
	}
	if (packet->kind == PACKET_ERROR)
		return flow ? HOST_PASSES : DROP_UNRELATED_ERROR;
	if (likely(flow && flow->epoch == begun->epoch)) {
		host_track(skb, packet, flow, flow->opener == side, now);
		return HOST_PASSES;
	}
	begun->seen = now;
	begun->flags = flow ? flow->flags : 0;
	begun->opener = flow ? flow->opener : side;
	begun->born = flow ? flow->born : now;
	begun->egress = flow ? flow->egress : leaves;
	begun->known = flow != NULL;
	room->host_how |= (begun->egress ? HOST_EGRESS : 0) | (begun->opener != side ? HOST_REPLY : 0);
	return HOST_IS_JUDGED;
}

#define host_begin OF_FAMILY(host_begin)
/* Judges the flow that host_follow() has left in scratch, and remembers it. A segment that opens nothing and is denied
 * may belong to a connection that is older than the memory of it: then it is asked whether its receiver may have opened
 * that. Returns an enum host_answer or a drop reason. */
__noinline int host_begin(struct __sk_buff *skb)
{
	struct scratch *room = scratch_room();
	const struct node *state = node_state();

	if (!room || !state)
		return DROP_INTERNAL;

	const PACKET *packet = (const PACKET *)&room->packet;
	struct host_flow *begun = &room->host_flow;
	bool is_known = begun->known;

	begun->known = 0;
	if (!is_known && check_may_open_flow(packet))
		return check_may_open_flow(packet);

	int reason = host_judge(skb, packet, skb->ifindex, room->host_how);

	if (reason && !is_known && looks_like_answer(packet) &&
	    !host_judge(skb, packet, skb->ifindex, room->host_how ^ (HOST_EGRESS | HOST_REPLY))) {
		begun->opener ^= 1;
		begun->egress ^= 1;
		reason = PARSED;
	}
	if (reason) {
		if (is_known)
			bpf_map_delete_elem(&host_flows, &room->host_key);
		return reason;
	}
	if (!is_known)
		emit_flow_event(packet, state, skb->ifindex);
	bpf_map_update_elem(&host_flows, &room->host_key, begun, BPF_ANY);
	return HOST_PASSES;
}

/* Whether the packet belongs to a flow that its receiver has opened. */
static __always_inline __overloadable bool host_is_answer(struct scratch *room, const PACKET *packet, __u32 ifindex)
{
	__u32 now = ticks(), side = host_key(room, packet);
	CT_ENTRY *entry = ct_find(&room->FIELD(key));
	struct host_flow *flow;

	if (entry && !ct_is_expired(entry, packet->protocol, now) && !ct_is_from_opener(entry, side))
		return !is_opening(packet->flags);
	flow = host_find(room, packet, side, now);
	if (!flow) {
		room->host_key.ifindex = ifindex;
		flow = host_find(room, packet, side, now);
	}
	return flow && flow->opener != side;
}

#define host_parse OF_FAMILY(host_parse)
/* Parses a packet into scratch. Returns an enum host_answer. */
__noinline int host_parse(struct __sk_buff *skb, enum host_stage stage)
{
	struct scratch *room = scratch_room();

	if (!room)
		return HOST_DROPPED;

	PACKET *packet = (PACKET *)&room->packet;

	__builtin_memset(packet, 0, sizeof(*packet));

	int reason = parse_to(skb, packet, true);

	if (!reason)
		return is_between_machines(room, packet, stage == HOST_LEAVES) ? HOST_PASSES : HOST_GOES_ON;
	/* What keeps the link itself going: neighbours, routers, multicast groups. */
	if (reason == PARSED_NEIGHBOUR_DISCOVERY || reason == DROP_LINK_SCOPE)
		return HOST_PASSES;
	/* Nothing can be asked about such a packet. Before the others have seen it, it may be an endpoint's. */
	if (stage == HOST_BEFORE)
		return HOST_PASSES;
	drop_and_count(reason);
	return HOST_DROPPED;
}

#define host_early OF_FAMILY(host_early)
/* Asks the policies that have no memory of flows. Returns an enum host_answer, or a drop reason. */
__noinline int host_early(struct __sk_buff *skb, enum host_stage stage)
{
	__u32 ifindex = skb->ifindex;
	struct scratch *room = scratch_room();
	struct host_policy *policy = bpf_map_lookup_elem(&host_policies, &ifindex);
	bool leaves = stage == HOST_LEAVES;

	if (!room)
		return DROP_INTERNAL;
	if (!policy)
		return HOST_PASSES;

	PACKET *packet = (PACKET *)&room->packet;

	if (policy->slot[HOST_UNTRACKED]) {
		int reason = host_judge(skb, packet, ifindex, leaves ? HOST_UNTRACKED | HOST_EGRESS : HOST_UNTRACKED);

		/* If a rule allows it, nothing else is asked. */
		if (reason || room->answer.rule)
			return reason ? reason : HOST_PASSES;
	}
	if (stage == HOST_BEFORE)
		return !policy->slot[HOST_PRE_DNAT] || packet->kind == PACKET_ERROR ||
				       host_is_answer(room, packet, ifindex) ?
			       HOST_PASSES :
			       host_judge(skb, packet, ifindex, HOST_PRE_DNAT);
	/* At an uplink the slow path has asked about what endpoints send and get. */
	return bpf_map_lookup_elem(&uplinks, &ifindex) &&
			       bpf_map_lookup_elem(&MAP(endpoints), leaves ? &packet->source : &packet->destination) ?
		       HOST_PASSES :
		       HOST_GOES_ON;
}

#define host_keep OF_FAMILY(host_keep)
/* Keeps the ports of the packet in scratch if it is a first fragment. Returns an enum host_answer or a drop reason. */
__noinline int host_keep(void)
{
	struct scratch *room = scratch_room();

	if (!room)
		return DROP_INTERNAL;

	const PACKET *packet = (const PACKET *)&room->packet;

	return packet->kind == PACKET_FIRST_FRAGMENT ? keep_fragments(packet) : HOST_PASSES;
}

#define host_check OF_FAMILY(host_check)
/* Asks the policies of the interface's HostEndpoint about a packet. Returns PASS, or drops it. The parts are functions
 * of their own and called from here, because all callers share 512 bytes of stack. */
static __always_inline int host_check(struct __sk_buff *skb, enum host_stage stage)
{
	int answer = host_parse(skb, stage);

	if (answer == HOST_GOES_ON)
		answer = host_early(skb, stage);
	if (answer == HOST_GOES_ON && stage != HOST_BEFORE) {
		answer = host_follow(skb, stage);
		if (answer == HOST_IS_JUDGED)
			answer = host_begin(skb);
		if (answer == HOST_PASSES)
			answer = host_keep();
	}
	if (likely(answer == HOST_GOES_ON || answer == HOST_PASSES))
		return PASS;

	struct scratch *room = scratch_room();

	return room && answer > 0 ? drop_and_report((const PACKET *)&room->packet, answer, skb->ifindex) : TC_ACT_SHOT;
}
