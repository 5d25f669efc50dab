/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Fragmented datagrams. Only the first fragment tells its flow. It is checked like any packet, and the other fragments
 * follow it.
 *
 * A fragment that has overtaken the first one cannot wait for it here. The programs guess that it belongs to the flow
 * of the last fragmented datagram that came by the same interface between the same two addresses. A wrong guess does no
 * harm where the destination is not translated: the fragment reaches the address that it is sent to, and the receiver
 * drops it, unless policy lets the first fragment of its datagram pass. Where the destination is translated, a wrong
 * guess would lead to another receiver, so such a fragment is dropped.
 */

static __always_inline __overloadable void fragment_key(FRAGMENT *key, const PACKET *packet)
{
	*key = (FRAGMENT){
		.source = packet->source,
		.destination = packet->destination,
		.id = packet->id,
		.ifindex = packet->ifindex,
	};
#if FAMILY == 4
	key->protocol = packet->protocol;
#endif
}

/* Makes the key of a datagram the key of the last datagram between the same two addresses. */
static __always_inline __overloadable void make_last_fragment_key(FRAGMENT *key)
{
	key->id = 0;
	key->ifindex |= FRAGMENTS_LAST;
}

static __always_inline __overloadable void take_fragment_ports(PACKET *packet, const struct fragments *fragments)
{
	packet->source_port = fragments->source;
	packet->destination_port = fragments->destination;
	packet->protocol = fragments->protocol;
	packet->cut = fragments->cut;
	packet->asker = fragments->asker;
}

/* Returns what is known about a datagram. Senders reuse ids, so what is older than FRAGMENTS_APART belongs to another
 * datagram. */
static __always_inline __overloadable struct fragments *find_fragments(const FRAGMENT *key)
{
	struct fragments *fragments = bpf_map_lookup_elem(&MAP(fragments), key);

	if (!fragments || (__s32)(eighths() - fragments->eighth) < FRAGMENTS_APART)
		return fragments;
	bpf_map_delete_elem(&MAP(fragments), key);
	return NULL;
}

/* Whether a fragment may follow this flow by a guess: even if the guess is wrong, it reaches the address that it is
 * sent to. */
static __always_inline __overloadable bool may_guess_flow(const PACKET *packet)
{
	CT_KEY key;
	__u32 side = ct_key_of_packet(packet, &key) & 1;
	CT_ENTRY *entry = ct_find(&key);

	return entry && !ct_is_expired(entry, packet->protocol, ticks()) && !(entry->way[side].nat & NAT_DESTINATION);
}

/* Gives a later fragment the ports of its datagram. A first fragment already has them; they are kept only when it
 * has passed. */
__noinline int resolve_fragment(PACKET *packet, __be32 id, __u32 ifindex)
{
	FRAGMENT key;
	struct fragments *fragments;

	if (!packet)
		return DROP_INTERNAL;
	packet->id = id;
	packet->ifindex = ifindex;
	fragment_key(&key, packet);
	fragments = find_fragments(&key);
	if (packet->kind == PACKET_FIRST_FRAGMENT) {
		if (fragments && !fragments->known)
			packet->early = fragments->early;
		return PARSED;
	}
	if (fragments && fragments->known) {
		fragments->eighth = eighths();
		take_fragment_ports(packet, fragments);
		return PARSED;
	}
	make_last_fragment_key(&key);
	fragments = bpf_map_lookup_elem(&MAP(fragments), &key);
	if (!fragments)
		return DROP_UNKNOWN_FRAGMENT;
	take_fragment_ports(packet, fragments);
	return may_guess_flow(packet) ? PARSED : DROP_EARLY_FRAGMENT;
}

#define keep_fragments OF_FAMILY(keep_fragments)
/* Keeps the ports of a first fragment, which has passed. Returns a drop reason if its interface has begun too many
 * datagrams. */
__noinline int keep_fragments(const PACKET *packet)
{
	FRAGMENT key;

	if (!packet)
		return DROP_INTERNAL;

	struct fragments first = {
		.source = packet->source_port,
		.destination = packet->destination_port,
		.eighth = eighths(),
		.known = true,
		.protocol = packet->protocol,
		.asker = packet->asker,
	}, *last;

	fragment_key(&key, packet);
	if (!bpf_map_lookup_elem(&MAP(fragments), &key) && !may_begin_fragments(packet->ifindex))
		return DROP_FRAGMENT_SHARE;
	if (bpf_map_update_elem(&MAP(fragments), &key, &first, BPF_ANY))
		return DROP_FRAGMENT_SHARE;
	/* For TCP no guess is needed, because a lost segment is sent again; and nothing may get into a connection
	 * without a sequence number. */
	if (packet->protocol == IPPROTO_TCP)
		return PARSED;
	make_last_fragment_key(&key);
	last = bpf_map_lookup_elem(&MAP(fragments), &key);
	if (last ? last->source != first.source || last->destination != first.destination ||
			    last->protocol != first.protocol || last->asker != first.asker :
		   may_begin_fragments(packet->ifindex))
		bpf_map_update_elem(&MAP(fragments), &key, &first, BPF_ANY);
	return PARSED;
}

#define count_early_fragment OF_FAMILY(count_early_fragment)
/* Notes a fragment from the network that came before the first one, or without it. Only the first fragment tells
 * whether the datagram is for the host, which keeps this fragment meanwhile. A fragment for an endpoint is counted
 * where the host sends it to the endpoint. */
__noinline int count_early_fragment(const PACKET *packet)
{
	struct fragments begun = { .early = 1, .eighth = eighths() }, *fragments;
	FRAGMENT key;

	if (!packet)
		return 0;
	fragment_key(&key, packet);
	if (bpf_map_lookup_elem(&MAP(endpoints), &key.destination))
		return 0;
	fragments = find_fragments(&key);
	if (!fragments)
		return may_begin_fragments(packet->ifindex) &&
		       bpf_map_update_elem(&MAP(fragments), &key, &begun, BPF_NOEXIST);
	if (!fragments->known && fragments->early < 255)
		fragments->early++;
	return 0;
}
