/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Services per packet: for flows that no socket of this node opened to a backend (lb_socket.h). */

/* A hash of the client. It is the same for all packets of a flow, on every node, and at each address by which the
 * node is reached. */
static __always_inline __overloadable __u32 hash_client(const PACKET *packet, bool whole_client)
{
	__u32 mixed = mix_bits((whole_client ? 0 : packet->source_port) << 8 | packet->protocol);

	for (int i = 0; i < WORDS; i++)
		mixed = mix_bits(mixed ^ packet->source.word[i]);
	return mixed;
}

static __always_inline __overloadable bool is_in_source_ranges(struct scratch *room, __u32 service,
							       const ADDRESS *source)
{
	SOURCE_RANGE *key = &room->FIELD(range);

	key->length = 32 + sizeof(ADDRESS) * 8;
	key->service = service;
	key->address = *source;
	return bpf_map_lookup_elem(&MAP(source_ranges), key) != NULL;
}

#define is_for_nobody OF_FAMILY(is_for_nobody)
/* Whether a packet of an unknown flow from the network is neither for an endpoint nor for a service. The host takes
 * it, or forwards it. This short check spares such packets the slow path. */
__noinline int is_for_nobody(const PACKET *packet)
{
	struct scratch *room = scratch_room();

	if (!room || !packet)
		return false;

	ADDRESS *address = &room->FIELD(address);
	FRONTEND_KEY *key = &room->FIELD(frontend);
	struct frontend *of_address;

	if (is_balanced(packet->protocol) && has_port(PORTS_SERVED, packet->destination_port))
		return false;
	*address = packet->destination;
	if (bpf_map_lookup_elem(&MAP(endpoints), address))
		return false;
	*address = packet->source;
	if (bpf_map_lookup_elem(&MAP(endpoints), address))
		return false;
	if (likely(!may_be_service(&packet->destination)))
		return true;
	/* A service that is reached only from inside has no bit in `ports`, but its address is that of a service. */
	*key = (FRONTEND_KEY){ .address = packet->destination };
	of_address = bpf_map_lookup_elem(&MAP(frontends), key);
	return !of_address || of_address->flags & ADDRESS_OF_NODE;
}

#define lb_translate_packet OF_FAMILY(lb_translate_packet)
/* Replaces the destination of scratch->packet by a backend, if the packet is for a service. The packet is the first
 * one of its flow, or its flow needs a new verdict. If the flow already has a backend, scratch->entry has it, as the
 * address and port of side `side` ^ 1. */
__noinline int lb_translate_packet(__u32 side, enum service_from from)
{
	struct scratch *room = scratch_room();

	if (!room)
		return DROP_INTERNAL;

	PACKET *packet = (PACKET *)&room->packet;
	CT_ENTRY *entry = &room->FIELD(entry);
	__u8 protocol = packet->protocol;
	__u32 flags;

	if (packet->kind == PACKET_ERROR && !entry->service)
		return PARSED;

	struct frontend *frontend =
		find_frontend(&packet->destination, packet->destination_port, protocol, false, &flags);

	if (entry->service) {
		const ADDRESS *address = &entry->nat_address[(side ^ 1) & 1];
		__be16 port = entry->nat_port[(side ^ 1) & 1];

		/* A flow keeps its backend as long as that is an endpoint of the service. */
		if (find_member(entry->service, address, port)) {
			packet->destination = *address;
			packet->destination_port = port;
			return PARSED;
		}
		entry->service = 0;
	}
	if (flags & INSIDE_ONLY && (from & 1) == FROM_OUTSIDE)
		return DROP_NOT_SERVED;
	if (!frontend && flags & ADDRESS_OF_SERVICE)
		return is_balanced(protocol) ? DROP_NO_BACKEND : DROP_NOT_SERVED;
	if (!frontend)
		return PARSED;
	/* Source ranges are checked only when a connection begins. */
	if (frontend->flags & FRONTEND_RANGES && !is_in_source_ranges(room, frontend->service, &packet->source))
		return DROP_SOURCE_RANGE;

	CLIENT *client = &room->FIELD(client);

	__builtin_memset(client, 0, sizeof(*client));
	client->address = packet->source;
	client->service = entry->service = frontend->service;
	return choose_backend(frontend, from & 1, client, &room->FIELD(affinity),
			      hash_client(packet, frontend->affinity), &packet->destination, &packet->destination_port);
}
