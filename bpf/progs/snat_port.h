/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Chooses the source port of a translated flow, so that no other flow has the same addresses and ports after
 * translation. This is where the masquerade port comes from. */

/* The search takes at most CLAIM_ROUNDS rounds; each tries at most CLAIM_STRIDE ports. That is enough for all ports
 * that there can be, and for some that are free here but belong to a socket. */
#define CLAIM_ROUNDS 300
#define CLAIM_STRIDE 256

/* To find who has the most ports, at most CLAIM_WEIGHED strides of ports are looked at. If these are not all ports, a
 * holder may seem to have some more by chance: CLAIM_CHANCE, or twice as many after all strides. */
#define CLAIM_WEIGHED 4
#define CLAIM_CHANCE 4

/* A flow that waits for its first answer keeps its port for CLAIM_GRACE moments (1 s): a handshake takes no longer,
 * however many others try the same. Only its own endpoint may take the port before, or one that has far fewer. */
#define CLAIM_GRACE 60

/* A holder of ports is noted in one of CLAIM_PLACES places. */
#define CLAIM_PLACES 4

/* A flow that goes on looks for its old reverse entry at CLAIM_RECALLED ports: it had taken the first of them that
 * was free. */
#define CLAIM_RECALLED 4

/* Not a drop reason: a port has to be searched for. */
#define CLAIM_UNKNOWN (-1)

/* Whether a socket of the host would receive what the flow's other side sends to the translated source. */
static __always_inline __overloadable bool
host_socket_has(struct __sk_buff *skb, __u8 protocol, struct bpf_sock_tuple *tuple, const CT_ENTRY *entry, __u32 side)
{
	struct bpf_sock *socket;
	__u32 size, from = side & 1, to = from ^ 1;

	__builtin_memset(tuple, 0, sizeof(*tuple));
#if FAMILY == 4
	tuple->ipv4.saddr = entry->nat_address[to].word[0];
	tuple->ipv4.daddr = entry->nat_address[from].word[0];
	tuple->ipv4.sport = entry->nat_port[to];
	tuple->ipv4.dport = entry->nat_port[from];
	size = sizeof(tuple->ipv4);
#else
	__builtin_memcpy(tuple->ipv6.saddr, &entry->nat_address[to], sizeof(ADDRESS));
	__builtin_memcpy(tuple->ipv6.daddr, &entry->nat_address[from], sizeof(ADDRESS));
	tuple->ipv6.sport = entry->nat_port[to];
	tuple->ipv6.dport = entry->nat_port[from];
	size = sizeof(tuple->ipv6);
#endif
	if (protocol == IPPROTO_TCP)
		socket = bpf_skc_lookup_tcp(skb, tuple, size, BPF_F_CURRENT_NETNS, 0);
	else if (protocol == IPPROTO_UDP)
		socket = bpf_sk_lookup_udp(skb, tuple, size, BPF_F_CURRENT_NETNS, 0);
	else
		return false;
	if (socket)
		bpf_sk_release(socket);
	return socket != NULL;
}

/* Whether the flow has ended, so that its port may go to another one. A reset may be forged, unless it came from an
 * endpoint of this node. */
static __always_inline __overloadable bool ct_frees_port(const CT_ENTRY *holder, __u8 protocol)
{
	return ct_is_closed(protocol, holder->flags) ||
	       (protocol == IPPROTO_TCP && (holder->flags & (CT_RESET | CT_RESET_BY_REPLIER)) == CT_RESET &&
		holder->way[holder->opener & 1].ingress);
}

/* Whether a translated flow may lose its port to another one: it has no answer, or its opener has not gone on. An
 * answered flow of a protocol without a handshake keeps its port, because its opener may have nothing more to send. */
static __always_inline __overloadable bool ct_may_lose_port(const CT_ENTRY *holder, __u8 protocol)
{
	if (!(holder->flags & CT_NAT_REVERSE) || ct_is_kept(holder->flags))
		return false;
	return protocol == IPPROTO_TCP || holder->flags & CT_OVER_SHARE || !(holder->flags & CT_REPLIED);
}

#define claim_port OF_FAMILY(claim_port)
/* Tries one source port: entry->nat_port[side] in scratch. If the port is available, the reverse entry is stored.
 * `packet` is a packet of the opener. */
__noinline int claim_port(struct __sk_buff *skb, const PACKET *packet, __u32 side, enum claim_flags flags)
{
	struct scratch *room = scratch_room();
	__u32 from = side & 1, to = from ^ 1;

	if (!room || !packet)
		return -1;

	CT_ENTRY *entry = &room->FIELD(entry), *reverse = &room->FIELD(counterpart);
	CT_KEY *key = &room->FIELD(counterpart_key);

	__u32 reverse_from = ct_make_key(key, packet, &entry->nat_address[from], entry->nat_port[from],
					 &entry->nat_address[to], entry->nat_port[to]) &
			     1;
	/* If another processor takes a free port in the meantime, the update below fails. */
	CT_ENTRY *holder = flags & CLAIM_SEARCHED && !room->search.taken ? NULL : ct_find(key);
	bool own = false;

	if (!holder && flags & CLAIM_OWN)
		return -1;
	if (holder) {
		/* ct_commit() has put the flow's key into scratch. */
		own = holder->flags & CT_NAT_REVERSE && is_counterpart(holder, &room->FIELD(key), from ^ reverse_from);
		if (own)
			;
		else if (flags & CLAIM_OWN)
			return -1;
		else if ((flags & CLAIM_TAKE_WAITING && ct_may_lose_port(holder, packet->protocol)) ||
			 ct_is_expired(holder, packet->protocol, entry->seen) ||
			 (flags & CLAIM_TAKE_CLOSED && ct_frees_port(holder, packet->protocol)) || flags & CLAIM_TAKE)
			/* The entry is deleted and then made, so that of two processors that want it one fails. */
			ct_delete(key, holder, &room->FIELD(other_key));
		else
			return -1;
	} else if (flags & CLAIM_OF_NODE && host_socket_has(skb, packet->protocol, &room->tuple, entry, from)) {
		return -1;
	}

	fill_reverse_entry(reverse, entry, packet, from, reverse_from);
	entry->way[from].nat = reverse_nat(reverse->way[reverse_from ^ 1].nat);
	if (own && holder) {
		ct_overwrite(holder, reverse);
		return 0;
	}
	return bpf_map_update_elem(&MAP(conntrack), key, reverse, BPF_NOEXIST) ? -1 : 0;
}

/* Notes a flow that may lose its port: the oldest one of the same endpoint, and the oldest one of others. */
static __always_inline __overloadable void claim_note_victim(struct claim_search *search, const CT_ENTRY *holder,
							     __be16 port, __u32 ingress)
{
	__u16 age = search->now - holder->begun;
	bool mine = holder->way[holder->opener & 1].ingress == ingress;
	struct claim_victim *victim = mine ? &search->mine : &search->others;

	if (!victim->count++ || age > victim->age) {
		victim->age = age;
		victim->port = port;
	}
}

/* Notes who has a port. If all places that this holder may use belong to others, one of those others loses a count;
 * so the holder with the most ports is left in the end (as in Misra-Gries counting). The places depend on the
 * search, so no holder hides behind another one for long. */
static __always_inline __overloadable void claim_note_holder(struct scratch *room, const CT_ENTRY *holder, __u8 protocol,
							     __u32 from)
{
	const CT_ENTRY *entry = &room->FIELD(entry);
	__u32 ingress = holder->way[holder->opener & 1].ingress, idle = entry->seen - holder->seen;
	__u32 at = mix_bits(ingress ^ room->search.first ^ room->search.now);
	__u16 age = idle > 0xffff ? 0xffff : idle;
	bool waits = ct_may_lose_port(holder, protocol);
	struct claim_holder *place;

	if (ingress == entry->way[from].ingress) {
		room->search.own++;
		return;
	}
	/* Flows from the network belong to many senders, and only those that wait may lose their port. */
	if (!ingress && !waits)
		return;
	for (__u32 i = 0; i < CLAIM_PLACES; i++) {
		place = &room->holders[(at + i) % CLAIM_HOLDERS];
		if (place->count && place->ingress != ingress)
			continue;
		if (!place->count++ || waits > place->waits || (waits == place->waits && age > place->age)) {
			place->ingress = ingress;
			place->waits = waits;
			place->age = age;
			place->port = entry->nat_port[from];
		}
		if (place->count > room->holders[room->search.most % CLAIM_HOLDERS].count)
			room->search.most = at + i;
		return;
	}
	room->holders[at % CLAIM_HOLDERS].count--;
}

#define claim_flags_if_ended OF_FAMILY(claim_flags_if_ended)
/* How the port in scratch->entry may be claimed, if the flow that has it may have ended: it is closed, or one of its
 * endpoints is gone. */
__noinline int claim_flags_if_ended(const PACKET *packet, __u32 side, enum claim_flags flags)
{
	struct scratch *room = scratch_room();
	__u32 from = side & 1, to = from ^ 1;

	flags |= CLAIM_TAKE_CLOSED;
	if (!room || !packet)
		return flags;

	CT_ENTRY *entry = &room->FIELD(entry), *holder;
	CT_KEY *key = &room->FIELD(counterpart_key);

	ct_make_key(key, packet, &entry->nat_address[from], entry->nat_port[from], &entry->nat_address[to],
		    entry->nat_port[to]);
	holder = ct_find(key);
	return holder && ct_has_ended(key, holder) ? flags | CLAIM_TAKE : flags;
}

/* Steps to the next port. Returns the entry that has it; its key is in scratch->counterpart_key. */
static __always_inline __overloadable CT_ENTRY *claim_step(struct scratch *room, const PACKET *packet, __u32 side)
{
	CT_ENTRY *entry = &room->FIELD(entry);
	struct claim_search *search = &room->search;
	__u32 from = side & 1, to = from ^ 1;

	search->at = (search->at + search->step) % (masquerade_port_count ?: 1);
	search->tried++;
	entry->nat_port[from] = bpf_htons(masquerade_port_first + search->at);
	search->swapped = from ^ ct_make_key(&room->FIELD(counterpart_key), packet, &entry->nat_address[from],
					     entry->nat_port[from], &entry->nat_address[to], entry->nat_port[to]);
	CT_ENTRY *holder = ct_find(&room->FIELD(counterpart_key));

	search->taken = holder != NULL;
	return holder;
}

/* Whether a flow may give up its port. If so, this is noted. */
static __always_inline __overloadable bool claim_may_take_from(struct scratch *room, const PACKET *packet,
							       const CT_ENTRY *holder, __u32 from)
{
	const CT_ENTRY *entry = &room->FIELD(entry);

	if (ct_is_expired(holder, packet->protocol, entry->seen) || ct_frees_port(holder, packet->protocol)) {
		room->search.ended = entry->nat_port[from];
		return true;
	}
	if (!ct_may_lose_port(holder, packet->protocol))
		return false;
	claim_note_victim(&room->search, holder, entry->nat_port[from], entry->way[from].ingress);
	return true;
}

/* Whether the port is free, or belongs to the flow itself: its forward entry was evicted, and its reverse entry is
 * still there. */
static __always_inline __overloadable bool claim_is_available(const struct scratch *room, const CT_ENTRY *holder)
{
	return !holder ||
	       (holder->flags & CT_NAT_REVERSE && is_counterpart(holder, &room->FIELD(key), room->search.swapped));
}

#define claim_next_port OF_FAMILY(claim_next_port)
/* Steps to the next port and returns whether it is available. If not, notes the flow that has it. */
__noinline int claim_next_port(const PACKET *packet, __u32 side)
{
	struct scratch *room = scratch_room();
	__u32 from = side & 1;

	if (!room || !packet)
		return false;

	CT_ENTRY *holder = claim_step(room, packet, side);

	if (claim_is_available(room, holder))
		return true;
	if (!claim_may_take_from(room, packet, holder, from) && ct_has_ended(&room->FIELD(counterpart_key), holder))
		room->search.ended = room->FIELD(entry).nat_port[from];
	return false;
}

#define claim_next_holder OF_FAMILY(claim_next_holder)
/* The same, but notes also which endpoint has the port. */
__noinline int claim_next_holder(const PACKET *packet, __u32 side)
{
	struct scratch *room = scratch_room();
	__u32 from = side & 1;

	if (!room || !packet)
		return false;

	CT_ENTRY *holder = claim_step(room, packet, side);

	if (claim_is_available(room, holder))
		return true;
	claim_may_take_from(room, packet, holder, from);
	claim_note_holder(room, holder, packet->protocol, from);
	return false;
}

#define claim_next_is_free OF_FAMILY(claim_next_is_free)
/* The same, but notes nothing. */
__noinline int claim_next_is_free(const PACKET *packet, __u32 side)
{
	struct scratch *room = scratch_room();

	return room && packet && !claim_step(room, packet, side);
}

#define claim_next_free_port OF_FAMILY(claim_next_free_port)
/* Steps to the next free port, at most CLAIM_STRIDE steps. */
__noinline int claim_next_free_port(const PACKET *packet, __u32 side)
{
	for (__u32 i = 0; i < CLAIM_STRIDE; i++)
		if (claim_next_is_free(packet, side))
			return true;
	return false;
}

#define claim_known_port OF_FAMILY(claim_known_port)
/* Claims the port that the flow has or must have. Returns CLAIM_UNKNOWN if any port will do. */
__noinline int claim_known_port(struct __sk_buff *skb, const PACKET *packet, __u32 side, enum claim_flags flags)
{
	struct scratch *room = scratch_room();
	__u32 from = side & 1;

	if (!room || !packet)
		return DROP_INTERNAL;

	CT_ENTRY *entry = &room->FIELD(entry);
	/* A change of port would break the checksum of SCTP. The other protocols have no ports. */
	bool fixed =
		!(packet->protocol == IPPROTO_TCP || packet->protocol == IPPROTO_UDP || is_icmp(packet->protocol)) ||
		!packet->source_port;
	bool keeps_port = fixed || !(flags & CLAIM_OF_NODE);

	if (fixed || (keeps_port && !entry->nat_port[from]))
		entry->nat_port[from] = packet->source_port;
	if (entry->nat_port[from] || fixed) {
		if (claim_port(skb, packet, from, claim_flags_if_ended(packet, from, flags)) == 0)
			return PARSED;
		if (fixed)
			return DROP_NO_MASQUERADE_PORT;
	}
	return CLAIM_UNKNOWN;
}

/* Claims the port of a flow that has ended, if the search has met one. Another flow may have it by now. */
static __always_inline __overloadable int claim_ended_port(struct __sk_buff *skb, const PACKET *packet, __u32 side,
							   enum claim_flags flags)
{
	struct scratch *room = scratch_room();
	__u32 from = side & 1;

	if (!room || !packet || !room->search.ended)
		return -1;
	room->FIELD(entry).nat_port[from] = room->search.ended;
	return claim_port(skb, packet, from, claim_flags_if_ended(packet, from, flags));
}

#define claim_next_holders OF_FAMILY(claim_next_holders)
/* Looks at who has the next `ports` ports. Returns true at a port that is free by now. */
__noinline int claim_next_holders(const PACKET *packet, __u32 side, __u32 ports)
{
	for (__u32 i = 0; i < CLAIM_STRIDE; i++) {
		if (i >= ports)
			break;
		if (claim_next_holder(packet, side))
			return true;
	}
	return false;
}

/* The port that this endpoint may take from the holder of most ports: of that holder's flows that were seen, one that
 * waits for its first answer if there is one, and else the one that was silent for longest. Returns 0 if the endpoint itself has half as many. So however many endpoints hold all
 * ports together, each gives to one that has none, and nobody takes back what it gave. If only a part of the ports
 * was looked at, a difference that may be chance is no reason to take. */
static __always_inline __overloadable __be16 claim_owed_port(const struct scratch *room, const PACKET *packet)
{
	const struct claim_search *search = &room->search;
	const struct claim_holder *most = &room->holders[search->most % CLAIM_HOLDERS];

	return most->count > 2 * search->own + search->chance ? most->port : 0;
}

/* Looks at who has the ports: at all of them, or at as many as the budget allows. The first CLAIM_TRIES are always
 * looked at, because others may have used up the budget. Returns true if a port was claimed on the way, because it is
 * free by now. */
static __always_inline __overloadable bool claim_weigh_holders(struct __sk_buff *skb, struct scratch *room,
							       const PACKET *packet, __u32 from,
							       enum claim_flags flags)
{
	struct claim_search *search = &room->search;
	__u32 left = masquerade_port_count, ports = CLAIM_TRIES;

	__builtin_memset(room->holders, 0, sizeof(room->holders));
	search->chance = 2 * CLAIM_CHANCE;
	for (__u32 i = 0; i <= CLAIM_WEIGHED; i++) {
		if (i && !may_search(room->FIELD(entry).way[from].ingress)) {
			search->chance = CLAIM_CHANCE;
			break;
		}
		if (ports > left)
			ports = left;
		if (claim_next_holders(packet, from, ports) &&
		    claim_port(skb, packet, from, flags | CLAIM_SEARCHED) == 0)
			return true;
		left -= ports;
		if (!left) {
			search->chance = 1;
			break;
		}
		ports = CLAIM_STRIDE;
	}
	return claim_ended_port(skb, packet, from, flags) == 0;
}

#define claim_from_others OF_FAMILY(claim_from_others)
/* Takes a port from another flow; claim_source_port() says from which. */
__noinline int claim_from_others(struct __sk_buff *skb, const PACKET *packet, __u32 side, enum claim_flags flags)
{
	struct scratch *room = scratch_room();
	__u32 from = side & 1;

	if (!room || !packet)
		return DROP_INTERNAL;

	struct claim_search *search = &room->search;
	__be16 port = claim_waiting_port(search, CLAIM_GRACE);

	if (!port) {
		if (claim_weigh_holders(skb, room, packet, from, flags))
			return PARSED;
		port = claim_waiting_port(search, CLAIM_GRACE);
	}
	flags |= CLAIM_TAKE_CLOSED | CLAIM_TAKE_WAITING;
	if (!port) {
		port = claim_owed_port(room, packet);
		if (port)
			flags |= CLAIM_TAKE;
		else
			port = search->mine.port;
	}
	if (!port)
		return DROP_NO_MASQUERADE_PORT;
	room->FIELD(entry).nat_port[from] = port;
	return claim_port(skb, packet, from, flags) ? DROP_NO_MASQUERADE_PORT : PARSED;
}

#define claim_search_port OF_FAMILY(claim_search_port)
/* Searches for a port that no flow has any more. Returns CLAIM_UNKNOWN if all are taken. */
__noinline int claim_search_port(struct __sk_buff *skb, const PACKET *packet, __u32 side, enum claim_flags flags)
{
	struct scratch *room = scratch_room();
	__u32 from = side & 1, count = masquerade_port_count;

	if (!room || !packet)
		return DROP_INTERNAL;

	CT_ENTRY *entry = &room->FIELD(entry);
	struct claim_search *search = &room->search;

	__builtin_memset(search, 0, sizeof(*search));
	search->now = room->moment;
	/* A flow tries the same ports in the same order each time, so a flow whose forward entry was evicted finds
	 * its reverse entry. The order need not be secret: the opener has drawn its source port at random. */
	search->first = hash_client(packet, false);
	search->step = claim_steps[search->first >> 28 & 15];
	/* A flow that goes on after its entries were evicted: if it had another port, a free one is of no use. */
	if (entry->flags & CT_PICKED_UP && !room->known) {
		search->at = search->first % (count ?: 1);
		for (__u32 i = 0; i < CLAIM_RECALLED; i++)
			if (!claim_next_is_free(packet, from) && claim_port(skb, packet, from, flags | CLAIM_OWN) == 0)
				return PARSED;
	}
	/* The first port is free in most cases. If it is not, storing the reverse entry fails, and the port is
	 * looked at again with the others. */
	search->at = (search->first % (count ?: 1) + search->step) % (count ?: 1);
	entry->nat_port[from] = bpf_htons(masquerade_port_first + search->at);
	if (claim_port(skb, packet, from, flags | CLAIM_SEARCHED) == 0)
		return PARSED;
	search->at = search->first % (count ?: 1);
	for (__u32 i = 0; i < CLAIM_TRIES; i++)
		if (claim_next_port(packet, from) && claim_port(skb, packet, from, flags | CLAIM_SEARCHED) == 0)
			return PARSED;
	if (claim_ended_port(skb, packet, from, flags) == 0)
		return PARSED;
	search->tried = CLAIM_TRIES;
	for (__u32 i = 0; i < CLAIM_ROUNDS; i++) {
		if (search->tried >= count || !may_search(entry->way[from].ingress))
			break;
		if (claim_next_free_port(packet, from) && claim_port(skb, packet, from, flags | CLAIM_SEARCHED) == 0)
			return PARSED;
	}

	return CLAIM_UNKNOWN;
}

/*
 * Claims the source port of a flow that `packet` opens, and completes scratch->entry. The entry already has the
 * addresses and the destination port after translation. nat_port[side] is the source port that the flow had before, or
 * zero. Returns a drop reason if no port is available.
 *
 * First the whole range is searched for a free port. If there is none, a flow loses its port:
 *
 *	1. The oldest waiting flow that was met, if it has waited for CLAIM_GRACE: one of the same endpoint, if most
 *	   waiting flows are its own. So nobody can keep all ports by asking what is never answered.
 *	2. One of the endpoint that has the most ports, until the endpoint that needs one has half as many. So neither
 *	   one endpoint nor several together can keep all ports of a destination from others.
 *	3. The oldest waiting flow of the same endpoint.
 *
 * A handshake that has just begun is never displaced by an endpoint that has its part already.
 */
static __always_inline __overloadable int claim_source_port(struct __sk_buff *skb, const PACKET *packet, __u32 side,
							    enum claim_flags flags)
{
	int reason = claim_known_port(skb, packet, side, flags);

	if (reason == CLAIM_UNKNOWN)
		reason = claim_search_port(skb, packet, side, flags);
	return reason == CLAIM_UNKNOWN ? claim_from_others(skb, packet, side, flags) : reason;
}
