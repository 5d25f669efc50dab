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

#define dns_read OF_FAMILY(dns_read)
/* Reads the message of a packet; enum dns_content. Of TCP that is one whole message in one segment. */
__noinline int dns_read(struct __sk_buff *skb, const PACKET *packet)
{
	__be16 length = 0;
	__u32 at, bytes;

	if (!packet || packet->kind != PACKET_WHOLE)
		return DNS_UNREADABLE;
	at = packet->transport;
	if (packet->protocol == IPPROTO_UDP) {
		if (bpf_skb_load_bytes(skb, at + offsetof(struct udp_header, length), &length, sizeof(length)))
			return DNS_UNREADABLE;
		at += sizeof(struct udp_header);
		bytes = bpf_ntohs(length) - sizeof(struct udp_header);
	} else {
		/* A short frame may have bytes behind the packet. */
		__u32 end = skb->len;

		if (bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(IP_HEADER, length), &length, sizeof(length)))
			return DNS_UNREADABLE;
		if (length)
			end = ETH_HLEN + bpf_ntohs(length) + (FAMILY == 6 ? sizeof(IP_HEADER) : 0);
		at += packet->segment_header;
		if (at >= end)
			return DNS_NOTHING;
		if (bpf_skb_load_bytes(skb, at, &length, sizeof(length)))
			return DNS_UNREADABLE;
		at += sizeof(length);
		bytes = bpf_ntohs(length);
	}
	return dns_read_question(skb, at, bytes) ? DNS_MESSAGE : DNS_UNREADABLE;
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

	if (!endpoint || dns_read(skb, packet) != DNS_MESSAGE)
		return 0;

	__u32 ports = (__u32)(is_reply ? packet->destination_port : packet->source_port) << 16 | packet->protocol;

	return is_reply ? dns_read_answers(endpoint->ifindex, ports) : dns_note_question(endpoint->ifindex, ports);
}

#define check_domains OF_FAMILY(check_domains)
/* Asks the domain rules about the packet in scratch, which the other rules of its opener's policy deny. They allow it
 * if its destination has one of their names. They also allow questions about these names to a resolver. Returns
 * whether the packet may pass. Then scratch->by_name is the entry that allows it. */
__noinline int check_domains(struct __sk_buff *skb)
{
	__u32 zero = 0;
	struct scratch *room = scratch_room();
	struct dns_room *dns = dns_room();
	struct node *state = bpf_map_lookup_elem(&node, &zero);

	if (!room || !dns || !state || !room->answer.domains)
		return false;

	const PACKET *packet = (const PACKET *)&room->packet;
	__u32 map = room->wanted.posture, list = room->answer.domains;
	void *policy = bpf_map_lookup_elem(&policies, &map);
	bool is_reply = room->is_reply, allowed = false;
	struct endpoint *endpoint = find_endpoint(room, is_reply ? &packet->destination : &packet->source);

	if (!policy || !endpoint)
		return false;
	room->by_name = room->answer;
	dns->old_record.ifindex = endpoint->ifindex;
	map_address(&dns->old_record.address, is_reply ? &packet->source : &packet->destination);
	if (is_allowed_by_name(policy, room, dns, list, room->known && !room->begins)) {
		allowed = true;
	} else if (may_be_resolver(packet, is_reply) && is_resolver(dns, packet, is_reply)) {
		int content = dns_read(skb, packet);
		struct domain *domain = content == DNS_MESSAGE ? bpf_map_lookup_elem(&domains, &dns->key) : NULL;

		allowed = content == DNS_NOTHING ||
			  (domain && (domain->flags & DOMAIN_ASKED_BY_ALL ||
				      is_any_listed(policy, room, dns, DOMAINS_ALL, &domain->ids)));
	}
	room->answer = room->by_name;
	count_rule_hit(room->answer.rule);
	if (unlikely(room->answer.log)) {
		count_rule_hit(room->answer.log);
		if (spend_event_budget(state))
			emit_event(packet,
				   EVENT_CODE(EVENT_LOG, allowed ? DROP_NONE : DROP_POLICY_EGRESS, EVENT_EGRESS) |
					   (is_reply ? EVENT_OF_REPLY : 0),
				   skb->ifindex);
	}
	return allowed;
}
