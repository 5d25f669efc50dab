/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Services: which address and port belong to a service, and which backend gets a connection. The packets of an
 * established flow never come here. */

/* Whether `frontends` may have an entry for an address. For most addresses the answer is no, without a look-up in a
 * hash. */
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
/* Finds the service of a node port: it is reached at every address of the node that serves node ports. */
static __always_inline struct frontend *find_node_port(__be16 port, __u8 protocol)
{
	FRONTEND_KEY key = { .port = port, .protocol = protocol };

	return bpf_map_lookup_elem(&MAP(frontends), &key);
}

/* Finds the service at an address and port; NULL: there is none. Sets `flags` to those of the frontend, or to those
 * of the address itself (ADDRESS_*). A loopback address means the node only for the node's own processes. The zero
 * address is the key of node ports, and no real address. */
static __always_inline __overloadable struct frontend *find_frontend(const ADDRESS *address, __be16 port, __u8 protocol,
								     bool of_node_itself, __u32 *flags)
{
	FRONTEND_KEY key = { .address = *address, .port = port, .protocol = protocol };
	struct frontend *found;

	*flags = 0;
	if (is_zero(address) || (is_loopback(address) && !of_node_itself) || !may_be_service(address))
		return NULL;
	/* There are no services of other protocols. Without this check such a protocol could meet the key of the
	 * address itself. */
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
	/* find_node_port() would need a second key on the stack, which is short. */
	__builtin_memset(&key.address, 0, sizeof(key.address));
	key.port = port;
	key.protocol = protocol;
	return bpf_map_lookup_elem(&MAP(frontends), &key);
}

/* Returns MEMBER_* of an endpoint of a service; NULL: it is not an endpoint of that service. */
static __always_inline __overloadable __u32 *find_member(__u32 service, const ADDRESS *address, __be16 port)
{
	MEMBER key = { .service = service, .address = *address, .port = port };

	return bpf_map_lookup_elem(&MAP(members), &key);
}

#define highest_score OF_FAMILY(highest_score)
/* Returns the index of the backend with the highest score for a client; with `second`, that with the second highest
 * score, if there are two. */
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
/* Selects one backend of a set. `mixed` is a hash of the client, `lasting` the duration of its affinity. Clients
 * inside the node take turns only: where the compiler knows `from`, the verifier is spared the loop over 128 scores. */
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
		/* Multiplies the turn by the golden ratio: as even as taking turns, but clients that come in twos or
		 * threes do not always get the same backends. */
		__u32 turn = __sync_fetch_and_add(&set->turn, 1) * 0x9e3779b1;

		at += (__u64)turn * count >> 32;
	}
	return bpf_map_lookup_elem(&MAP(backends), &at);
}

/* Chooses the backend of a new connection to `frontend`: the one that the client had, if its affinity still lasts,
 * otherwise one of the set. Returns a drop reason if there is none. `chosen` is room to work in. */
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
