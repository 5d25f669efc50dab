/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Asks the policies of a HostEndpoint. host.h has the node's own flows, slow_path.h what endpoints exchange with others. */

#define host_judge OF_FAMILY(host_judge)
/* Asks the policy of an interface (0: of what pods send to the node) about the flow of a packet. `how` is an enum
 * host_layer and HOST_* flags; with HOST_HERE the interface is the one that sees the packet. Leaves the policy entry that matched in scratch. */
__noinline int host_judge(struct __sk_buff *skb, const PACKET *packet, __u32 ifindex, __u32 how)
{
	__u32 zero = 0;
	struct scratch *room = scratch_room();
	struct node *state = bpf_map_lookup_elem(&node, &zero);
	struct host_policy *policy;

	if (!room || !state || !packet)
		return DROP_INTERNAL;
	if (how & HOST_HERE)
		ifindex = skb->ifindex;
	policy = bpf_map_lookup_elem(&host_policies, &ifindex);

	bool is_reply = how & HOST_REPLY, egress = how & HOST_EGRESS;
	__u32 layer = how & (HOST_LAYERS - 1), slot = policy ? policy->slot[layer] : 0;

	if (!slot)
		return PARSED;
	/* Pods reach other addresses through interfaces, which have policies of their own. */
	if (!ifindex && !is_node_address(room, state, is_reply ? &packet->source : &packet->destination))
		return PARSED;

	const ADDRESS *opener = is_reply ? &packet->destination : &packet->source;
	const ADDRESS *other = is_reply ? &packet->source : &packet->destination;
	/* Of ICMP, type << 8 | code of the question. */
	__be16 port = is_reply ? packet->source_port : packet->destination_port;
	__u32 ports = (__u32)port << 16 | (is_reply ? packet->destination_port : packet->source_port);

	__builtin_memset(&room->answer, 0, sizeof(room->answer));
	room->is_reply = is_reply;

	int reason = policy_check_endpoint(room, state, slot, egress ? POLICY_EGRESS : POLICY_INGRESS,
					   egress ? other : opener, packet->protocol, ports, false);

	/* A node is told no names: what its endpoints may reach by names is asked elsewhere. */
	room->answer.domains = 0;
	if (unlikely(room->answer.log) && spend_event_budget(state))
		emit_event(packet,
			   EVENT_CODE(EVENT_LOG, reason, egress ? EVENT_EGRESS : EVENT_INGRESS) |
				   (is_reply ? EVENT_OF_REPLY : 0),
			   skb->ifindex);
	return reason;
}

#define host_judge_arrival OF_FAMILY(host_judge_arrival)
/* Asks about the packet in scratch, which is for a local endpoint or a service: at the uplink (HOST_HERE), or, if this
 * node has sent it (0), at the endpoint's host end. There only the node's answers to its pods are asked about: the node
 * always reaches its pods. */
__noinline int host_judge_arrival(struct __sk_buff *skb, __u32 is_reply, __u32 where)
{
	struct scratch *room = scratch_room();

	if (!room)
		return DROP_INTERNAL;
	if (where == HOST_HERE)
		return host_judge(skb, (const PACKET *)&room->packet, 0,
				  HOST_HERE | HOST_FORWARDED | (is_reply ? HOST_EGRESS | HOST_REPLY : 0));
	return !where && is_reply ? host_judge(skb, (const PACKET *)&room->packet, 0, HOST_LOCAL | HOST_REPLY) : PARSED;
}

#define host_departure OF_FAMILY(host_departure)
/* Asks about the packet in scratch if it is not for a local endpoint. It leaves by the interface that scratch->entry
 * says, or by this one (`at_uplink`). If it leaves by none it is for the node itself. Of a flow that came through the
 * stack nobody knows where its answers leave; it was asked about where it came. */
static __always_inline int host_departure(struct __sk_buff *skb, __u32 is_reply, __u32 at_uplink)
{
	struct scratch *room = scratch_room();

	if (!room)
		return DROP_INTERNAL;

	const CT_ENTRY *entry = &room->FIELD(entry);
	const PACKET *packet = (const PACKET *)&room->packet;

	if (entry->flags & CT_BY_STACK || bpf_map_lookup_elem(&MAP(endpoints), &packet->destination))
		return PARSED;

	__u32 egress = entry->way[(entry->opener ^ (is_reply ? 1 : 0)) & 1].egress;

	if (at_uplink || egress)
		return host_judge(skb, packet, egress,
				  HOST_FORWARDED | (is_reply ? HOST_REPLY : HOST_EGRESS) |
					  (at_uplink ? HOST_HERE : 0));
	return is_reply ? PARSED : host_judge(skb, packet, 0, HOST_LOCAL);
}

#define host_judge_departure OF_FAMILY(host_judge_departure)
/* The same as a function of its own, for a packet that this node leads back to another. */
__noinline int host_judge_departure(struct __sk_buff *skb, __u32 is_reply)
{
	return host_departure(skb, is_reply, false);
}
