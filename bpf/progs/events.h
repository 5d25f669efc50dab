/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Events tell user space what happens to flows. The packets of an established flow never come here. */

/* An event in one number: enum event_kind, enum drop_reason, enum event_direction. */
#define EVENT_CODE(kind, reason, direction) ((kind) | (reason) << 8 | (direction) << 16)
#define EVENT_OF_REPLY (1 << 24) /* the packet goes from the other side to the opener */

#define emit_event OF_FAMILY(emit_event)
/* Writes an event about the flow of `packet`, which is a packet of the opener unless EVENT_OF_REPLY is set. The
 * rules are those of the policy entry in scratch. */
__noinline int emit_event(const PACKET *packet, __u32 what, __u32 ifindex)
{
	struct scratch *room = scratch_room();

	if (!room || !packet)
		return 0;

	struct event *event = &room->event;

	__builtin_memset(event, 0, sizeof(*event));
	event->time = bpf_ktime_get_ns();
	event->kind = what;
	event->reason = what >> 8;
	event->direction = what >> 16;
	event->ifindex = ifindex;
	event->rule = room->answer.rule;
	event->log = room->answer.log;
	event->rejected = room->answer.reject;
	event->family = FAMILY;
	event->protocol = packet->protocol;

	ADDRESS *source = (ADDRESS *)&event->source, *destination = (ADDRESS *)&event->destination;

	if (what & EVENT_OF_REPLY) {
		*source = packet->destination;
		*destination = packet->source;
		event->source_port = packet->destination_port;
		event->destination_port = packet->source_port;
	} else {
		*source = packet->source;
		*destination = packet->destination;
		event->source_port = packet->source_port;
		event->destination_port = packet->destination_port;
	}
	/* An event names the side that asks first, whichever direction the packet has. */
	if (packet->asker == (what & EVENT_OF_REPLY ? ASKER_SOURCE : ASKER_DESTINATION)) {
		__be16 asked = event->source_port;

		event->source_port = event->destination_port;
		event->destination_port = asked;
	}
	if (bpf_ringbuf_output(&events, event, sizeof(*event), 0))
		count(COUNTER_EVENTS_LOST);
	return 0;
}

#define drop_and_report OF_FAMILY(drop_and_report)
/* Drops the packet, counts the drop, and writes an event if it is wanted. */
__noinline int drop_and_report(const PACKET *packet, __u32 reason, __u32 ifindex)
{
	__u32 zero = 0;
	struct scratch *room = scratch_room();
	struct node *state = bpf_map_lookup_elem(&node, &zero);
	bool by_policy = reason >= DROP_POLICY_EGRESS && reason <= DROP_POLICY_UNKNOWN;

	drop_and_count(reason);
	if (!packet || !room || !state || !(by_policy || state->events & EVENTS_DROPS) || !spend_event_budget(state))
		return TC_ACT_SHOT;

	__u32 direction = reason == DROP_POLICY_EGRESS	? EVENT_EGRESS :
			  reason == DROP_POLICY_INGRESS ? EVENT_INGRESS :
							  EVENT_NO_DIRECTION;
	__u32 what = EVENT_CODE(EVENT_DROP, reason, direction);

	if (by_policy) {
		what |= room->is_reply ? EVENT_OF_REPLY : 0;
	} else {
		room->answer.rule = 0;
		room->answer.reject = 0;
	}
	room->answer.log = 0;
	emit_event(packet, what, ifindex);
	return TC_ACT_SHOT;
}

/* Whether events are written about this flow. That depends only on its addresses and ports, so a flow has both the
 * event of its beginning and that of its end. */
static __always_inline __overloadable bool is_sampled(const PACKET *packet, const struct node *node)
{
	__u32 mixed = packet->source_port ^ packet->destination_port ^ packet->protocol;

	if (node->sample <= 1)
		return true;
	for (int i = 0; i < WORDS; i++)
		mixed ^= packet->source.word[i] ^ packet->destination.word[i];
	mixed *= 0x9e3779b1;
	return (mixed >> 8) % node->sample == 0;
}

static __always_inline __overloadable void emit_flow_event(const PACKET *packet, const struct node *node, __u32 ifindex)
{
	if (unlikely(node->events & EVENTS_FLOWS) && is_sampled(packet, node) && spend_event_budget(node))
		emit_event(packet, EVENT_CODE(EVENT_FLOW, DROP_NONE, EVENT_NO_DIRECTION), ifindex);
}
