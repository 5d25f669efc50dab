/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Deletes expired flows, and flows whose endpoints are gone. The daemon runs this program now and then; nothing is
 * copied to user space. An entry is checked right before it is deleted, so a flow that a packet has just kept alive
 * stays. Packets may interrupt this program, so it does not use scratch. */

/* Returns the counterpart of an entry if there is one and it has not expired. */
static __always_inline __overloadable CT_ENTRY *live_counterpart(const CT_KEY *key, const CT_ENTRY *entry, CT_KEY *room,
								 __u32 now)
{
	__u32 swapped = counterpart_key(room, key, entry);
	CT_ENTRY *counterpart = bpf_map_lookup_elem(&MAP(conntrack), room);

	return counterpart && is_counterpart(counterpart, key, swapped) &&
			       !ct_is_expired(counterpart, key->protocol, now) ?
		       counterpart :
		       NULL;
}

#define age_entry OF_FAMILY(age_entry)
/* The callback for bpf_for_each_map_elem. */
static long age_entry(void *map, const CT_KEY *key, CT_ENTRY *entry, struct ageing *ageing)
{
	ADDRESS first, second;
	CT_KEY room;
	__u32 now = ageing->now;

	if (ct_is_expired(entry, key->protocol, now)) {
		CT_ENTRY *counterpart = live_counterpart(key, entry, &room, now);

		if (!counterpart) {
			ct_delete(key, entry, &room);
			ageing->forgotten++;
			return 0;
		}
		/* One of two processors that wrote at the same time did not update this entry. */
		entry->seen = counterpart->seen;
		entry->flags = (entry->flags & ~CT_STATE) | (counterpart->flags & CT_STATE);
	} else if (ct_endpoints_changed(key, entry, &first, &second)) {
		ct_delete(key, entry, &room);
		ageing->forgotten++;
		return 0;
	}

	bool kept = ct_is_kept(entry->flags);
	struct account *account = kept ? account_of(entry->way[entry->opener & 1].ingress) : NULL;

	if (account)
		account->counted[FAMILY == 6]++;
	if (FAMILY == 4) {
		ageing->left4++;
		ageing->waiting4 += !kept;
	} else {
		ageing->left6++;
		ageing->waiting6 += !kept;
	}
	if (entry->service && !(entry->flags & CT_NAT_REVERSE))
		hold_service_port(key->port[(entry->opener ^ 1) & 1]);
	return 0;
}
