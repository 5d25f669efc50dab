/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A flow ends with its endpoints: who gets an address later inherits nothing of it, nor of what was sent there while it was
 * nobody's. Who a flow's ends were is told by the
 * indices of their host ends, which its ways hold: the kernel gives a number to another interface only when all have had
 * their turn. Asked on the slow path, which every flow comes to after an endpoint of it has gone, for that is a change of its address.
 */

/* The endpoint of an address. Before Linux 6.2 a map is not looked into by a key that lies in a global function's
 * argument, so keys are copied to where it is allowed. */
static __always_inline __overloadable struct endpoint *find_endpoint(struct scratch *room, const ADDRESS *address)
{
	ADDRESS *key = (ADDRESS *)&room->address;

	*key = *address;
	return bpf_map_lookup_elem(&MAP(endpoints), key);
}

/* Whether the flow's ends are others by now: an endpoint is gone, or there is one at an address that was nobody's here.
 * `first` and `second` are room for addresses. */
static __always_inline __overloadable bool ct_endpoints_changed(const CT_KEY *key, const CT_ENTRY *entry,
								ADDRESS *first, ADDRESS *second)
{
	__u32 opener = entry->opener & 1;
	bool far = entry->flags & CT_NAT_REVERSE;
	/* What the other side sees differs in the opener, what the opener sees in the other side. */
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
/* The same. `key` is the flow's, in scratch. */
__noinline int ct_has_ended(const CT_KEY *key, const CT_ENTRY *entry)
{
	struct scratch *room = scratch_room();

	if (!room || !key || !entry)
		return false;
	return ct_endpoints_changed(key, entry, (ADDRESS *)&room->address, (ADDRESS *)&room->other_address);
}

/* The entry of a flow whose ends are still there and whose time is not over; otherwise it is forgotten. */
static __always_inline __overloadable CT_ENTRY *ct_find_live(struct scratch *room, const CT_KEY *key)
{
	CT_ENTRY *entry = ct_find(key);

	if (likely(!entry || (!ct_is_expired(entry, key->protocol, ticks()) && !ct_has_ended(key, entry))))
		return entry;
	ct_delete(key, entry, (CT_KEY *)&room->other_key);
	return NULL;
}
