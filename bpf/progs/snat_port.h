/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Making a translated flow one of its own as the other side sees it: no other flow has the same addresses and ports. */

/* How often so many are tried at most, all there can be and some that are free but a socket's; and how many in one go. */
#define CLAIM_ROUNDS 300
#define CLAIM_STRIDE 256

/* How often so many ports in one go are looked at, at most, to find who has most of them; and by how many one may seem to have
 * more by chance where those are few of all. */
#define CLAIM_WEIGHED 4
#define CLAIM_CHANCE 4

/* In how many places it may be noted what one has. */
#define CLAIM_PLACES 4

/* How many places a flow that goes on is looked for at: it had the first of them that was free. */
#define CLAIM_RECALLED 4

/* No reason: a port is to be searched for. */
#define CLAIM_UNKNOWN (-1)

/* Whether one of the host's own sockets would take what is sent to (address, port) by the flow's other side. */
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

/* Whether the place of a flow is free for another: it is over. A reset may be forged, but not one of an endpoint of this node. */
static __always_inline __overloadable bool ct_frees_port(const CT_ENTRY *holder, __u8 protocol)
{
	return ct_is_closed(protocol, holder->flags) ||
	       (protocol == IPPROTO_TCP && (holder->flags & (CT_RESET | CT_RESET_BY_REPLIER)) == CT_RESET &&
		holder->way[holder->opener & 1].ingress);
}

/* Whether a translated flow may lose its place to another: it is not answered, or nobody has gone on from that. An answered
 * flow of a protocol without handshakes keeps it: there may be no more to come from its opener. */
static __always_inline __overloadable bool ct_may_lose_port(const CT_ENTRY *holder, __u8 protocol)
{
	if (!(holder->flags & CT_NAT_REVERSE) || ct_is_kept(holder->flags))
		return false;
	return protocol == IPPROTO_TCP || holder->flags & CT_OVER_SHARE || !(holder->flags & CT_REPLIED);
}

#define claim_port OF_FAMILY(claim_port)
/*
 * Tries one source port, entry->nat_port[side] in scratch: if it is to be had, the mate is stored as the entry of the
 * flow as the other side sees it. `packet` goes the opener's way.
 */
__noinline int claim_port(struct __sk_buff *skb, const PACKET *packet, __u32 side, enum claim_flags flags)
{
	struct scratch *room = scratch_room();
	__u32 from = side & 1, to = from ^ 1;

	if (!room || !packet)
		return -1;

	CT_ENTRY *entry = (CT_ENTRY *)&room->entry, *reverse = (CT_ENTRY *)&room->counterpart;
	CT_KEY *key = (CT_KEY *)&room->counterpart_key;

	__u32 reverse_from = ct_make_key(key, packet, &entry->nat_address[from], entry->nat_port[from],
					 &entry->nat_address[to], entry->nat_port[to]) &
			     1;
	/* Whoever takes a free port meanwhile has it: the update below finds that. */
	CT_ENTRY *holder = flags & CLAIM_SEARCHED && !room->search.taken ? NULL : ct_find(key);
	bool own = false;

	if (!holder && flags & CLAIM_OWN)
		return -1;
	if (holder) {
		/* As ct_commit.h left it. */
		own = holder->flags & CT_NAT_REVERSE &&
		      is_counterpart(holder, (CT_KEY *)&room->key, from ^ reverse_from);
		if (own)
			;
		else if (flags & CLAIM_OWN)
			return -1;
		else if ((flags & CLAIM_TAKE_WAITING && ct_may_lose_port(holder, packet->protocol)) ||
			 ct_is_expired(holder, packet->protocol, entry->seen) ||
			 (flags & CLAIM_TAKE_CLOSED && ct_frees_port(holder, packet->protocol)) || flags & CLAIM_TAKE)
			/* Deleted and then made, so that of two who want it one fails. */
			ct_delete(key, holder, (CT_KEY *)&room->other_key);
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

/* Takes note of a flow that may lose its place: the oldest of the same endpoint, and of others. */
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

/* Takes note of who has a port. If all places are others' that he might have, one of those has one less: so who is left has most. Which
 * places those are is another thing each time, so nobody hides behind another for long. */
static __always_inline __overloadable void claim_note_holder(struct scratch *room, const CT_ENTRY *holder, __u32 from)
{
	const CT_ENTRY *entry = (CT_ENTRY *)&room->entry;
	__u32 ingress = holder->way[holder->opener & 1].ingress, idle = entry->seen - holder->seen;
	__u32 at = mix_bits(ingress ^ room->search.first ^ room->search.now);
	__u16 age = idle > 0xffff ? 0xffff : idle;
	struct claim_holder *place;

	if (ingress == entry->way[from].ingress) {
		room->search.own++;
		return;
	}
	/* What the network opens is of many. */
	if (!ingress)
		return;
	for (__u32 i = 0; i < CLAIM_PLACES; i++) {
		place = &room->holders[(at + i) % CLAIM_HOLDERS];
		if (place->count && place->ingress != ingress)
			continue;
		if (!place->count++ || age > place->age) {
			place->ingress = ingress;
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
/* How the port that scratch->entry has is claimed if its flow may have ended: closed, or one of its ends is gone. */
__noinline int claim_flags_if_ended(const PACKET *packet, __u32 side, enum claim_flags flags)
{
	struct scratch *room = scratch_room();
	__u32 from = side & 1, to = from ^ 1;

	flags |= CLAIM_TAKE_CLOSED;
	if (!room || !packet)
		return flags;

	CT_ENTRY *entry = (CT_ENTRY *)&room->entry, *holder;
	CT_KEY *key = (CT_KEY *)&room->counterpart_key;

	ct_make_key(key, packet, &entry->nat_address[from], entry->nat_port[from], &entry->nat_address[to],
		    entry->nat_port[to]);
	holder = ct_find(key);
	return holder && ct_has_ended(key, holder) ? flags | CLAIM_TAKE : flags;
}

/* Goes on to the next port; returns who has it, as scratch->counterpart_key says. */
static __always_inline __overloadable CT_ENTRY *claim_step(struct scratch *room, const PACKET *packet, __u32 side)
{
	CT_ENTRY *entry = (CT_ENTRY *)&room->entry;
	struct claim_search *search = &room->search;
	__u32 from = side & 1, to = from ^ 1;

	search->at = (search->at + search->step) % (masquerade_port_count ?: 1);
	search->tried++;
	entry->nat_port[from] = bpf_htons(masquerade_port_first + search->at);
	search->swapped = from ^ ct_make_key((CT_KEY *)&room->counterpart_key, packet, &entry->nat_address[from],
					     entry->nat_port[from], &entry->nat_address[to], entry->nat_port[to]);
	CT_ENTRY *holder = ct_find((CT_KEY *)&room->counterpart_key);

	search->taken = holder != NULL;
	return holder;
}

/* Whether a flow may give its port up, which is noted then. */
static __always_inline __overloadable bool claim_may_take_from(struct scratch *room, const PACKET *packet,
							       const CT_ENTRY *holder, __u32 from)
{
	const CT_ENTRY *entry = (CT_ENTRY *)&room->entry;

	if (ct_is_expired(holder, packet->protocol, entry->seen) || ct_frees_port(holder, packet->protocol)) {
		room->search.ended = entry->nat_port[from];
		return true;
	}
	if (!ct_may_lose_port(holder, packet->protocol))
		return false;
	claim_note_victim(&room->search, holder, entry->nat_port[from], entry->way[from].ingress);
	return true;
}

/* Whether a port that was stepped to is free, or the flow's own: its near view was evicted, and is to find the far one. */
static __always_inline __overloadable bool claim_is_available(const struct scratch *room, const CT_ENTRY *holder)
{
	return !holder ||
	       (holder->flags & CT_NAT_REVERSE && is_counterpart(holder, (CT_KEY *)&room->key, room->search.swapped));
}

#define claim_next_port OF_FAMILY(claim_next_port)
/* Goes on to the next port, and tells whether it is to be had. If not, takes note of what has it. */
__noinline int claim_next_port(const PACKET *packet, __u32 side)
{
	struct scratch *room = scratch_room();
	__u32 from = side & 1;

	if (!room || !packet)
		return false;

	CT_ENTRY *holder = claim_step(room, packet, side);

	if (claim_is_available(room, holder))
		return true;
	if (!claim_may_take_from(room, packet, holder, from) && ct_has_ended((CT_KEY *)&room->counterpart_key, holder))
		room->search.ended = ((CT_ENTRY *)&room->entry)->nat_port[from];
	return false;
}

#define claim_next_holder OF_FAMILY(claim_next_holder)
/* The same, but takes note of whose it is. */
__noinline int claim_next_holder(const PACKET *packet, __u32 side)
{
	struct scratch *room = scratch_room();
	__u32 from = side & 1;

	if (!room || !packet)
		return false;

	CT_ENTRY *holder = claim_step(room, packet, side);

	if (claim_is_available(room, holder))
		return true;
	if (!claim_may_take_from(room, packet, holder, from))
		claim_note_holder(room, holder, from);
	return false;
}

#define claim_next_is_free OF_FAMILY(claim_next_is_free)
/* The same, but takes no note. */
__noinline int claim_next_is_free(const PACKET *packet, __u32 side)
{
	struct scratch *room = scratch_room();

	return room && packet && !claim_step(room, packet, side);
}

#define claim_next_free_port OF_FAMILY(claim_next_free_port)
/* Goes on to the next port that is free, but not for ever. */
__noinline int claim_next_free_port(const PACKET *packet, __u32 side)
{
	for (__u32 i = 0; i < CLAIM_STRIDE; i++)
		if (claim_next_is_free(packet, side))
			return true;
	return false;
}

#define claim_known_port OF_FAMILY(claim_known_port)
/* The port that the flow has, or that it must have. CLAIM_UNKNOWN: any will do. */
__noinline int claim_known_port(struct __sk_buff *skb, const PACKET *packet, __u32 side, enum claim_flags flags)
{
	struct scratch *room = scratch_room();
	__u32 from = side & 1;

	if (!room || !packet)
		return DROP_INTERNAL;

	CT_ENTRY *entry = (CT_ENTRY *)&room->entry;
	/* SCTP's checksum does not bear a change of port, and the others have none. */
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

/* Claims the port of a flow that has ended, if the search has met one: it may be another's by now. */
static __always_inline __overloadable int claim_ended_port(struct __sk_buff *skb, const PACKET *packet, __u32 side,
							   enum claim_flags flags)
{
	struct scratch *room = scratch_room();
	__u32 from = side & 1;

	if (!room || !packet || !room->search.ended)
		return -1;
	((CT_ENTRY *)&room->entry)->nat_port[from] = room->search.ended;
	return claim_port(skb, packet, from, claim_flags_if_ended(packet, from, flags));
}

#define claim_next_holders OF_FAMILY(claim_next_holders)
/* Looks at who has the next so many ports; true where one is free by now. */
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

/*
 * The port that the flow may take from whoever has most of the destination's, the one of those looked at that has said nothing for longest;
 * 0: the endpoint has half as many itself. So of any number who hold them all, each gives to who has none, and nobody takes back
 * what he had to give. Where only a part was looked at, chance makes a difference, which is no reason to take.
 */
static __always_inline __overloadable __be16 claim_owed_port(const struct scratch *room, const PACKET *packet)
{
	const struct claim_search *search = &room->search;
	const struct claim_holder *most = &room->holders[search->most % CLAIM_HOLDERS];

	return most->count > 2 * search->own + search->chance ? most->port : 0;
}

#define claim_from_others OF_FAMILY(claim_from_others)
/*
 * Has another flow give its port up. If none of those that were met may lose it, it is looked at who has the ports: all of them, or as many
 * as tell enough. The first are always looked at: others may have spent what there is for more.
 */
__noinline int claim_from_others(struct __sk_buff *skb, const PACKET *packet, __u32 side, enum claim_flags flags)
{
	struct scratch *room = scratch_room();
	__u32 from = side & 1, left = masquerade_port_count, ports = CLAIM_TRIES;

	if (!room || !packet)
		return DROP_INTERNAL;

	CT_ENTRY *entry = (CT_ENTRY *)&room->entry;
	struct claim_search *search = &room->search;

	if (!search->mine.count && !search->others.count) {
		__builtin_memset(room->holders, 0, sizeof(room->holders));
		search->chance = 2 * CLAIM_CHANCE;
		for (__u32 i = 0; i <= CLAIM_WEIGHED; i++) {
			if (i && !may_search(entry->way[from].ingress)) {
				search->chance = CLAIM_CHANCE;
				break;
			}
			if (ports > left)
				ports = left;
			if (claim_next_holders(packet, from, ports) &&
			    claim_port(skb, packet, from, flags | CLAIM_SEARCHED) == 0)
				return PARSED;
			left -= ports;
			if (!left) {
				search->chance = 1;
				break;
			}
			ports = CLAIM_STRIDE;
		}
		if (claim_ended_port(skb, packet, from, flags) == 0)
			return PARSED;
	}

	struct claim_victim *victim = search->mine.count >= search->others.count ? &search->mine : &search->others;

	flags |= CLAIM_TAKE_CLOSED | CLAIM_TAKE_WAITING;
	if (victim->count) {
		entry->nat_port[from] = victim->port;
	} else {
		entry->nat_port[from] = claim_owed_port(room, packet);
		if (!entry->nat_port[from])
			return DROP_NO_MASQUERADE_PORT;
		flags |= CLAIM_TAKE;
	}
	return claim_port(skb, packet, from, flags) ? DROP_NO_MASQUERADE_PORT : PARSED;
}

#define claim_search_port OF_FAMILY(claim_search_port)
/* Searches for a port that nobody has any more. CLAIM_UNKNOWN: all are taken. */
__noinline int claim_search_port(struct __sk_buff *skb, const PACKET *packet, __u32 side, enum claim_flags flags)
{
	struct scratch *room = scratch_room();
	__u32 from = side & 1, count = masquerade_port_count;

	if (!room || !packet)
		return DROP_INTERNAL;

	CT_ENTRY *entry = (CT_ENTRY *)&room->entry;
	struct claim_search *search = &room->search;

	__builtin_memset(search, 0, sizeof(*search));
	search->now = room->moment;
	/* A flow tries the same ports in the same order each time: so one whose near view was evicted finds its far view. Who opens it
	 * has drawn the source port at random already. */
	search->first = hash_client(packet, false);
	search->step = claim_steps[search->first >> 28 & 15];
	/* One that goes on: a port that is free is of no use to it, if it has another. */
	if (entry->flags & CT_PICKED_UP && !room->known) {
		search->at = search->first % (count ?: 1);
		for (__u32 i = 0; i < CLAIM_RECALLED; i++)
			if (!claim_next_is_free(packet, from) && claim_port(skb, packet, from, flags | CLAIM_OWN) == 0)
				return PARSED;
	}
	/* The first is mostly free. If not, that it is entered fails, and it is looked at with the others. */
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
 * Completes scratch->entry, the entry of the flow as `packet` opens it: addresses and destination port of its other view
 * are set, and nat_port[side] holds the source port that the flow had there before, or zero. A reason for a drop if no
 * port is to be had.
 *
 * A free port is searched for in the whole range. If there is none, one of the oldest flows that wait loses its own: of the same
 * endpoint, if most are its; so nobody can keep all ports by asking what is never answered. If all are established, one of whoever has
 * most of them does, until who needs one has half as many: so nobody can keep all ports of a destination from others, nor can
 * several together.
 */
static __always_inline __overloadable int claim_source_port(struct __sk_buff *skb, const PACKET *packet, __u32 side,
							    enum claim_flags flags)
{
	int reason = claim_known_port(skb, packet, side, flags);

	if (reason == CLAIM_UNKNOWN)
		reason = claim_search_port(skb, packet, side, flags);
	return reason == CLAIM_UNKNOWN ? claim_from_others(skb, packet, side, flags) : reason;
}
