/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Datagrams in pieces. Only the first piece says which flow it is of; it is policed like any packet, and the others follow it.
 *
 * One that has overtaken its first cannot wait for it here. It is taken for a piece of the flow that the last datagram in pieces
 * was of, by the same interface between the same two addresses. Where that is wrong it still goes to the address that it is for, and
 * the receiver drops it in the end, for the first of its own datagram is let through only if policy has it so. But where the
 * destination is translated, another flow leads to somebody else, who must not get it.
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

/* The key of the last datagram between the same two, from that of one. */
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

/* What is known of a datagram. A number comes again: what was of an older datagram is none of this one. */
static __always_inline __overloadable struct fragments *find_fragments(const FRAGMENT *key)
{
	struct fragments *fragments = bpf_map_lookup_elem(&MAP(fragments), key);

	if (!fragments || (__s32)(eighths() - fragments->eighth) < FRAGMENTS_APART)
		return fragments;
	bpf_map_delete_elem(&MAP(fragments), key);
	return NULL;
}

/* Whether a piece that is taken for one of this flow gets to whom it is for, be it of another. */
static __always_inline __overloadable bool may_guess_flow(const PACKET *packet)
{
	CT_KEY key;
	__u32 side = ct_key_of_packet(packet, &key) & 1;
	CT_ENTRY *entry = ct_find(&key);

	return entry && !ct_is_expired(entry, packet->protocol, ticks()) && !(entry->way[side].nat & NAT_DESTINATION);
}

/* The ports of a datagram in pieces: kept once its first piece is let through, found again for the others. */
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
/* Keeps what the first piece of a datagram says; whose it is has been seen. A reason for a drop if its interface has no room. */
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
	/* A segment that is lost is sent again, and nobody is to speak in a connection without a number. */
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
/* A piece from the network that came before the first of its datagram, or without it. Whose it is will be told by the first: it
 * may be the host's, which has it now. What is for an endpoint is counted where the host would deliver it. */
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
