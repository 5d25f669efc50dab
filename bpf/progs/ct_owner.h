/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A flow ends when one of its endpoints goes. A new endpoint with the same address does not inherit the flow, nor a
 * flow to that address from the time when nobody had it. An entry knows its endpoints by the indices of their host
 * ends: the kernel uses an index again only after it has used all others. The slow path checks this. Every flow
 * takes the slow path after one of its endpoints has gone, because that is a change of its address. */

/* Finds the endpoint of an address. Before Linux 6.2 a map key may not lie in the argument of a global function, so
 * the address is copied to scratch. */
static __always_inline __overloadable struct endpoint *find_endpoint(struct scratch *room, const ADDRESS *address)
{
	ADDRESS *key = &room->FIELD(address);

	*key = *address;
	return bpf_map_lookup_elem(&MAP(endpoints), key);
}

/* Whether an endpoint of the flow has gone, or an address that nobody had now has an endpoint. `first` and `second`
 * are room for addresses. */
static __always_inline __overloadable bool ct_endpoints_changed(const CT_KEY *key, const CT_ENTRY *entry,
								ADDRESS *first, ADDRESS *second)
{
	__u32 opener = entry->opener & 1;
	bool far = entry->flags & CT_NAT_REVERSE;
	/* The reverse entry has another address for the opener, the forward entry another one for the other side. */
	bool elsewhere = far || entry->way[opener].nat & NAT_DESTINATION;
	struct endpoint *endpoint;

	*first = elsewhere && !opener == far ? entry->nat_address[0] : key->address[0];
	*second = elsewhere && opener == far ? entry->nat_address[1] : key->address[1];

	endpoint = bpf_map_lookup_elem(&MAP(endpoints), first);
	if ((endpoint ? endpoint->ifindex : 0) != entry->way[0].ingress)
		return true;
	endpoint = bpf_map_lookup_elem(&MAP(endpoints), second);
	return (endpoint ? endpoint->ifindex : 0) != entry->way[1].ingress;
}

#define ct_has_ended OF_FAMILY(ct_has_ended)
/* The same for callers that are short of stack. `key` is the flow's key and lies in scratch. */
__noinline int ct_has_ended(const CT_KEY *key, const CT_ENTRY *entry)
{
	struct scratch *room = scratch_room();

	if (!room || !key || !entry)
		return false;
	return ct_endpoints_changed(key, entry, &room->FIELD(address), &room->FIELD(other_address));
}

/* Finds the entry of a flow that has not expired and still has its endpoints. Deletes it otherwise. */
static __always_inline __overloadable CT_ENTRY *ct_find_live(struct scratch *room, const CT_KEY *key)
{
	CT_ENTRY *entry = ct_find(key);

	if (likely(!entry || (!ct_is_expired(entry, key->protocol, ticks()) && !ct_has_ended(key, entry))))
		return entry;
	ct_delete(key, entry, &room->FIELD(other_key));
	return NULL;
}
