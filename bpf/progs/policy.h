/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Whether policy lets a flow pass. Each local endpoint of the flow is asked, by the class of the other side's
 * address. */

/* Whether an address belongs to this node, including the gateways of its pools. Policy knows each of them as
 * PEER_NODE. */
static __always_inline __overloadable bool is_node_address(struct scratch *room, const struct node *state,
							   const ADDRESS *address)
{
	__u32 set = state->set & 1;
	void *addresses = bpf_map_lookup_elem(&MAP(peers), &set);
	ADDRESS *key = &room->FIELD(address);
	struct peer *peer;

	if (!addresses)
		return false;
	*key = *address;
	peer = bpf_map_lookup_elem(addresses, key);
	return peer && peer->flags & PEER_NODE;
}

/* Checks a flow by the policy of one endpoint. `of` is POLICY_INGRESS or POLICY_EGRESS. `ports` is the other side's
 * port << 16 | the opener's port. */
static __always_inline __overloadable int policy_check_endpoint(struct scratch *room, const struct node *node,
								__u32 slot, __u32 of, const ADDRESS *peer_address,
								__u8 protocol, __u32 ports, bool of_node)
{
	__u32 set = node->set & 1, at = set * POSTURE_SLOTS + slot;
	struct posture *posture = bpf_map_lookup_elem(&postures, &at);

	if (!posture)
		return DROP_POLICY_UNKNOWN;

	union {
		__u64 whole;
		struct posture parts;
	} now = { .whole = *(const volatile __u64 *)posture };

	if (!(now.parts.flags & POSTURE_KNOWN))
		return DROP_POLICY_UNKNOWN;
	if (!(now.parts.flags & (of == POLICY_INGRESS ? POSTURE_INGRESS : POSTURE_EGRESS)))
		return PARSED;

	void *addresses = bpf_map_lookup_elem(&MAP(peers), &set);

	if (!addresses)
		return DROP_POLICY_UNKNOWN;

	ADDRESS *key = &room->FIELD(address);

	*key = *peer_address;

	struct peer *peer = bpf_map_lookup_elem(addresses, key);

	if (!peer) {
		void *ranges = bpf_map_lookup_elem(&MAP(ranges), &set);
		PREFIX *prefix = &room->FIELD(prefix);

		if (!ranges)
			return DROP_POLICY_UNKNOWN;
		prefix->length = sizeof(ADDRESS) * 8;
		prefix->address = *peer_address;
		peer = bpf_map_lookup_elem(ranges, prefix);
	}
	room->peer = peer ? *peer : (struct peer){};
	if (of == POLICY_INGRESS && of_node && room->peer.flags & PEER_NODE)
		return PARSED;
	return policy_lookup(now.whole, of << POLICY_OF_SHIFT | (room->peer.class & CLASS_ANY), protocol, ports,
			     node->epoch);
}

#define policy_check_flow OF_FAMILY(policy_check_flow)
/* Checks a flow by the policies of its local endpoints. `opener_slot` is the slot of the endpoint that opened it,
 * `peer_slot` that of the other side; 0: not a local endpoint. Leaves the policy entry that matched last in scratch. */
__noinline int policy_check_flow(struct __sk_buff *skb, const PACKET *packet, __u32 opener_slot, __u32 peer_slot,
				 enum policy_check_flags flags)
{
	__u32 zero = 0;
	struct scratch *room = scratch_room();
	struct node *state = bpf_map_lookup_elem(&node, &zero);
	bool is_reply = flags & CHECK_REPLY;

	if (!room || !state || !packet)
		return DROP_INTERNAL;

	const ADDRESS *opener_address = is_reply ? &packet->destination : &packet->source;
	const ADDRESS *peer_address = is_reply ? &packet->source : &packet->destination;
	/* Of ICMP, type << 8 | code of the question. */
	__be16 port = is_reply ? packet->source_port : packet->destination_port;
	__u32 ports = (__u32)port << 16 | (is_reply ? packet->destination_port : packet->source_port);
	int reason = PARSED;

	__builtin_memset(&room->answer, 0, sizeof(room->answer));
	room->is_reply = is_reply;
	if (opener_slot)
		reason = policy_check_endpoint(room, state, opener_slot, POLICY_EGRESS, peer_address, packet->protocol,
					       ports, false);
	/* The domain rules have the last word: path.h. */
	if (unlikely(room->answer.domains)) {
		if (!room->is_allowed_by_name)
			return reason;
		room->answer = room->by_name;
		reason = PARSED;
	} else if (unlikely(room->answer.log) && spend_event_budget(state))
		emit_event(packet, EVENT_CODE(EVENT_LOG, reason, EVENT_EGRESS) | (is_reply ? EVENT_OF_REPLY : 0),
			   skb->ifindex);
	if (reason || !peer_slot)
		return reason;
	room->answer.log = 0;
	reason = policy_check_endpoint(room, state, peer_slot, POLICY_INGRESS, opener_address, packet->protocol, ports,
				       flags & CHECK_OPENED_BY_NODE);
	if (unlikely(room->answer.log) && spend_event_budget(state))
		emit_event(packet, EVENT_CODE(EVENT_LOG, reason, EVENT_INGRESS) | (is_reply ? EVENT_OF_REPLY : 0),
			   skb->ifindex);
	return reason;
}
