/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* DNS names in policies. An address that an endpoint was told for a name counts as that name, for this endpoint only.
 *
 * The packets between endpoints and resolvers always take the slow path: their flows are stored with an epoch in which
 * no verdict holds. So each question and each answer is read, the answer before the endpoint gets it, and no other
 * packet pays for that. */

static __always_inline __overloadable void map_address(struct ip6 *to, const ADDRESS *address)
{
#if FAMILY == 4
	to->word[0] = to->word[1] = 0;
	to->word[2] = bpf_htonl(0xffff);
	to->word[3] = address->word[0];
#else
	*to = *address;
#endif
}

/* Whether a port of TCP or UDP may be a resolver's. */
static __always_inline __overloadable bool may_be_resolver(const PACKET *packet, bool is_reply)
{
	__u32 zero = 0;
	__be16 port = is_reply ? packet->source_port : packet->destination_port;
	struct dns_settings *settings = bpf_map_lookup_elem(&dns_settings, &zero);
	bool found = false;

	if (!settings)
		return false;
	for (int i = 0; i < DNS_PORTS; i++)
		found |= settings->ports[i] == port;
	return unlikely(found) && port && (packet->protocol == IPPROTO_TCP || packet->protocol == IPPROTO_UDP);
}

/* Whether the other side of a packet's flow is a resolver that endpoints may use. */
static __always_inline __overloadable bool is_resolver(struct dns_room *room, const PACKET *packet, bool is_reply)
{
	struct resolver_key *key = &room->resolver;

	map_address(&key->address, is_reply ? &packet->source : &packet->destination);
	key->port = is_reply ? packet->source_port : packet->destination_port;
	key->protocol = packet->protocol;
	key->pad = 0;
	return bpf_map_lookup_elem(&resolvers, key);
}

#define dns_find_data OF_FAMILY(dns_find_data)
/* Finds where the data of a packet begins and ends, for dns_next_message(). Returns whether all of it is here. */
__noinline int dns_find_data(struct __sk_buff *skb, const PACKET *packet)
{
	struct dns_room *dns = dns_room();
	__be16 length = 0;

	if (!dns || !packet || packet->kind != PACKET_WHOLE)
		return false;
	if (packet->protocol == IPPROTO_UDP) {
		if (bpf_skb_load_bytes(skb, packet->transport + offsetof(struct udp_header, length), &length,
				       sizeof(length)))
			return false;
		dns->at = packet->transport + sizeof(struct udp_header);
		dns->end = packet->transport + bpf_ntohs(length);
		return dns->end <= skb->len;
	}
	/* A short frame may have bytes behind the packet. */
	if (bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(IP_HEADER, length), &length, sizeof(length)))
		return false;
	dns->at = packet->transport + packet->segment_header;
	dns->end = length ? ETH_HLEN + bpf_ntohs(length) + (FAMILY == 6 ? sizeof(IP_HEADER) : 0) : skb->len;
	return true;
}

#define dns_watch OF_FAMILY(dns_watch)
/* Reads the packet in scratch, if it is one between an endpoint and a resolver, after policy has let it pass. `side` is
 * the index of its source in the flow's key. */
__noinline int dns_watch(struct __sk_buff *skb, __u32 side)
{
	struct scratch *room = scratch_room();
	struct dns_room *dns = dns_room();

	if (!room || !dns)
		return 0;

	const PACKET *packet = (const PACKET *)&room->packet;
	CT_ENTRY *entry = &room->FIELD(entry);
	bool is_reply = !ct_is_from_opener(entry, side);

	if (likely(!may_be_resolver(packet, is_reply)) || !is_resolver(dns, packet, is_reply))
		return 0;
	entry->epoch = outdated();

	struct endpoint *endpoint = find_endpoint(room, is_reply ? &packet->destination : &packet->source);

	if (!endpoint || !dns_find_data(skb, packet))
		return 0;

	__u32 ifindex = endpoint->ifindex;
	__be16 port = is_reply ? packet->destination_port : packet->source_port;

#pragma clang loop unroll(disable)
	for (int i = 0; i < DNS_MESSAGES; i++) {
		int content = dns_next_message(skb, packet->protocol);

		if (content == DNS_NOTHING)
			break;
		if (content != DNS_MESSAGE)
			continue;
		if (is_reply)
			dns_read_answers(ifindex, port);
		else
			dns_note_question(ifindex, port);
	}
	return 0;
}

#define may_ask OF_FAMILY(may_ask)
/* Whether the packet in scratch, from an endpoint to a resolver, has nothing but questions about names that the
 * endpoint's domain rules mean. Then scratch->by_name is the entry of the last one. A segment without data may pass. */
__noinline int may_ask(struct __sk_buff *skb)
{
	struct scratch *room = scratch_room();
	struct dns_room *dns = dns_room();

	if (!room || !dns)
		return false;

	const PACKET *packet = (const PACKET *)&room->packet;
	__u32 map = room->wanted.posture;
	void *policy = bpf_map_lookup_elem(&policies, &map);

	if (!policy || !dns_find_data(skb, packet))
		return false;
	/* No rule decides about names that everybody may ask about. */
	__builtin_memset(&room->by_name, 0, sizeof(room->by_name));
#pragma clang loop unroll(disable)
	for (int i = 0; i < DNS_MESSAGES; i++) {
		int content = dns_next_message(skb, packet->protocol);

		if (content == DNS_NOTHING)
			return true;
		if (content != DNS_MESSAGE || !dns_is_plain_question(dns))
			return false;

		struct domain *domain = bpf_map_lookup_elem(&domains, &dns->key);

		if (!domain || !(domain->flags & DOMAIN_ASKED_BY_ALL ||
				 is_any_listed(policy, room, dns, DOMAINS_ALL, &domain->ids)))
			return false;
	}
	return dns->at >= dns->end;
}

#define ask_domains OF_FAMILY(ask_domains)
/* Asks the domain rules about the packet in scratch: enum domain_answer. They allow it if its destination has one of
 * their names. Then scratch->by_name is the entry that allows it. */
__noinline int ask_domains(void)
{
	struct scratch *room = scratch_room();
	struct dns_room *dns = dns_room();

	if (!room || !dns || !room->answer.domains)
		return DOMAIN_DENIES;

	const PACKET *packet = (const PACKET *)&room->packet;
	__u32 map = room->wanted.posture;
	void *policy = bpf_map_lookup_elem(&policies, &map);
	bool is_reply = room->is_reply;
	struct endpoint *endpoint = find_endpoint(room, is_reply ? &packet->destination : &packet->source);

	room->by_name = room->answer;
	if (!policy || !endpoint)
		return DOMAIN_DENIES;
	dns->old_record.ifindex = endpoint->ifindex;
	map_address(&dns->old_record.address, is_reply ? &packet->source : &packet->destination);
	if (is_allowed_by_name(policy, room, dns, room->answer.domains, room->known && !room->begins))
		return DOMAIN_ALLOWS;
	if (!may_be_resolver(packet, is_reply) || !is_resolver(dns, packet, is_reply))
		return DOMAIN_DENIES;
	/* An answer belongs to a question that was allowed. */
	return is_reply ? DOMAIN_ALLOWS : DOMAIN_IS_ASKED;
}

#define note_domain_answer OF_FAMILY(note_domain_answer)
/* Counts the rule that has decided about the packet in scratch, and tells if it logs. */
__noinline int note_domain_answer(__u32 ifindex, __u32 allowed)
{
	__u32 zero = 0;
	struct scratch *room = scratch_room();
	struct node *state = bpf_map_lookup_elem(&node, &zero);

	if (!room || !state || !room->answer.domains)
		return 0;
	if (allowed)
		room->answer = room->by_name;
	count_rule_hit(room->answer.rule);
	if (likely(!room->answer.log))
		return 0;
	count_rule_hit(room->answer.log);
	if (spend_event_budget(state))
		emit_event((const PACKET *)&room->packet,
			   EVENT_CODE(EVENT_LOG, allowed ? DROP_NONE : DROP_POLICY_EGRESS, EVENT_EGRESS) |
				   (room->is_reply ? EVENT_OF_REPLY : 0),
			   ifindex);
	return 0;
}
