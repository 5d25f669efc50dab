/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Services: whether an address and port are one's, and which backend takes a connection. Nothing here is on the way of
 * an established flow. */

/* Whether anything is in `frontends` for an address. False for most that a first packet goes to, without a look-up in a hash. */
static __always_inline __overloadable bool may_be_service_at(const ADDRESS *address, __u32 *at)
{
	__u32 place = change_place_of_address(address) - CHANGED_ADDRESSES;
	const __u64 *word;

	*at = place / 64;
	word = bpf_map_lookup_elem(&served_addresses, at);
	return !word || *word >> place % 64 & 1;
}

static __always_inline __overloadable bool may_be_service(const ADDRESS *address)
{
	__u32 at;

	return may_be_service_at(address, &at);
}

#define find_node_port OF_FAMILY(find_node_port)
/* What is reached at a port of every address of the node that serves node ports. */
static __always_inline struct frontend *find_node_port(__be16 port, __u8 protocol)
{
	FRONTEND_KEY key = { .port = port, .protocol = protocol };

	return bpf_map_lookup_elem(&MAP(frontends), &key);
}

/*
 * What is reached at an address and port; NULL: no service. `flags` is the flags of what was found: of the frontend, or of
 * the address itself (ADDRESS_*). Loopback is each namespace's own, so only the node itself means the node by it; no
 * address at all is the key of node ports, and nobody's.
 */
static __always_inline __overloadable struct frontend *find_frontend(const ADDRESS *address, __be16 port, __u8 protocol,
								     bool of_node_itself, __u32 *flags)
{
	FRONTEND_KEY key = { .address = *address, .port = port, .protocol = protocol };
	struct frontend *found;

	*flags = 0;
	if (is_zero(address) || (is_loopback(address) && !of_node_itself) || !may_be_service(address))
		return NULL;
	/* Of no other protocol there are services, and the key below is of none. */
	if (is_balanced(protocol)) {
		found = bpf_map_lookup_elem(&MAP(frontends), &key);
		if (found) {
			*flags = found->flags;
			return found;
		}
	}
	key.port = 0;
	key.protocol = 0;
	found = bpf_map_lookup_elem(&MAP(frontends), &key);
	if (!found)
		return NULL;
	*flags = found->flags;
	if (!(found->flags & ADDRESS_OF_NODE))
		return NULL;
	/* Not find_node_port: another key would not fit the stack. */
	__builtin_memset(&key.address, 0, sizeof(key.address));
	key.port = port;
	key.protocol = protocol;
	return bpf_map_lookup_elem(&MAP(frontends), &key);
}

/* What an endpoint is to a service: MEMBER_*. NULL: it is none of its endpoints. */
static __always_inline __overloadable __u32 *find_member(__u32 service, const ADDRESS *address, __be16 port)
{
	MEMBER key = { .service = service, .address = *address, .port = port };

	return bpf_map_lookup_elem(&MAP(members), &key);
}

#define highest_score OF_FAMILY(highest_score)
/* The place of the backend that has the highest score with a client; or the second highest, if there are two. */
static __always_inline __u32 highest_score(__u32 first, __u32 count, __u32 mixed, bool second)
{
	__u32 at = first, next = first, best = 0, better = 0;

	for (__u32 i = 0; i < SCORED_MOST && i < count; i++) {
		__u32 place = first + i;
		BACKEND *backend = bpf_map_lookup_elem(&MAP(backends), &place);

		if (!backend)
			break;

		__u32 score = mix_bits(mixed ^ backend->seed);

		if (score >= best) {
			better = best;
			next = at;
			best = score;
			at = place;
		} else if (score >= better) {
			better = score;
			next = place;
		}
	}
	return second ? next : at;
}

#define select_from_set OF_FAMILY(select_from_set)
/* Takes one backend of a set. `mixed` says who the client is, `lasting` how long its affinity lasts. Those inside take turns
 * alone; where that is known beforehand, the verifier is spared the walk through 128 scores. */
static __always_inline BACKEND *select_from_set(enum service_from from, __u32 index, __u32 mixed, __u32 lasting,
						int *reason)
{
	struct backend_set *set = bpf_map_lookup_elem(&sets, &index);

	*reason = DROP_NO_BACKEND;
	if (!set)
		return NULL;

	union {
		__u64 whole;
		struct {
			__u32 first;
			__u16 count;
			__u16 flags;
		} parts;
	} now = { .whole = *(const volatile __u64 *)set };
	__u32 count = now.parts.count, at = now.parts.first;

	if (!count) {
		if (now.parts.flags & SET_ELSEWHERE)
			*reason = DROP_NO_LOCAL_BACKEND;
		return NULL;
	}
	if (from != FROM_INSIDE && now.parts.flags & SET_BY_SCORE) {
		at = highest_score(at, count, mixed, is_second_turn(lasting, mixed));
	} else if (from != FROM_INSIDE && now.parts.flags & SET_BY_TABLE) {
		at += (__u64)mix_bits(is_second_turn(lasting, mixed) ? ~mixed : mixed) * count >> 32;

		__u32 word = at >> 1;
		struct lookup_places *places = bpf_map_lookup_elem(&lookup_tables, &word);

		if (!places)
			return NULL;
		at = at & 1 ? places->backend[1] : places->backend[0];
	} else {
		/* Steps of the golden ratio: as even as turns, and not in step with clients that come by twos or threes. */
		__u32 turn = __sync_fetch_and_add(&set->turn, 1) * 0x9e3779b1;

		at += (__u64)turn * count >> 32;
	}
	return bpf_map_lookup_elem(&MAP(backends), &at);
}

/*
 * Chooses who takes a new connection to `frontend`: the backend that the client had, while affinity lasts, or one of the
 * set. A reason for a drop if there is none. `chosen` is room to work in.
 */
static __always_inline __overloadable int choose_backend(const struct frontend *frontend, enum service_from from,
							 CLIENT *client, AFFINITY *chosen, __u32 mixed,
							 ADDRESS *address, __be16 *port)
{
	__u32 lasting = frontend->affinity, now = ticks();
	int reason;

	if (lasting) {
		AFFINITY *known = bpf_map_lookup_elem(&MAP(affinities), client);

		if (known && now - known->seen <= lasting) {
			bool stays = frontend->flags &
				     (from == FROM_INSIDE ? FRONTEND_INSIDE_LOCAL : FRONTEND_OUTSIDE_LOCAL);

			*chosen = *known;

			__u32 *member = find_member(frontend->service, &chosen->address, chosen->port);

			if (member && *member & (stays ? MEMBER_LOCAL : MEMBER_CLUSTER)) {
				known->seen = now;
				*address = chosen->address;
				*port = chosen->port;
				return PARSED;
			}
		}
	}

	BACKEND *backend = select_from_set(from, frontend->set[from], mixed, lasting, &reason);

	if (!backend)
		return reason;
	__sync_fetch_and_add(&backend->hits, 1);
	*address = backend->address;
	*port = backend->port;
	if (lasting) {
		*chosen = (AFFINITY){ .address = backend->address, .port = backend->port, .seen = now };
		bpf_map_update_elem(&MAP(affinities), client, chosen, BPF_ANY);
	}
	return PARSED;
}
