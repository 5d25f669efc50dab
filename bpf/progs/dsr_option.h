/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The IP option of direct server return. A packet that is sent on to a backend's node keeps the address of its
 * client. The option carries the address and port that the client sent it to; the backend's node answers from there.
 * IPv4 has an IP option for this, IPv6 a destination option, both with types for experiments (RFC 4727). In TCP the
 * option is in the SYN and, where there is room, once a second in later segments, so that a node which has forgotten
 * the connection learns of it again. In UDP it is in every packet. */

#define DSR_OPTION_AT (ETH_HLEN + sizeof(IP_HEADER))

/* Adjusts the IP header to the `option` behind it, which was added or is about to be removed (`added`). */
static __always_inline __overloadable int write_header_around_option(struct __sk_buff *skb, const DSR_OPTION *option,
								     bool added)
{
#if FAMILY == 4
	struct {
		__u8 version;
		__u8 tos;
		__be16 length;
	} old, new;
	__s64 difference;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &old, sizeof(old)))
		return -1;
	new = old;
	if (added) {
		new.version += sizeof(*option) / 4;
		new.length = bpf_htons(bpf_ntohs(old.length) + sizeof(*option));
		difference = bpf_csum_diff(NULL, 0, (__be32 *)option, sizeof(*option), 0);
	} else {
		new.version -= sizeof(*option) / 4;
		new.length = bpf_htons(bpf_ntohs(old.length) - sizeof(*option));
		difference = bpf_csum_diff((__be32 *)option, sizeof(*option), NULL, 0, 0);
	}
	/* When the option is removed, the kernel takes its bytes out of the checksum of the whole packet. The change
	 * of the header checksum makes up for them, so they are put back here. */
	if (!added)
		bpf_csum_update(skb, ~difference);
	difference = bpf_csum_diff((__be32 *)&old, sizeof(old), (__be32 *)&new, sizeof(new), difference);
	return bpf_l3_csum_replace(skb, ETH_HLEN + IP4_CHECKSUM_OFFSET, 0, difference, 0) ||
	       bpf_skb_store_bytes(skb, ETH_HLEN, &new, sizeof(new), 0);
#else
	struct {
		__be16 length;
		__u8 next;
		__u8 hops;
	} header;
	__u32 at = ETH_HLEN + offsetof(struct ip6_header, length);

	if (bpf_skb_load_bytes(skb, at, &header, sizeof(header)))
		return -1;
	if (added) {
		header.length = bpf_htons(bpf_ntohs(header.length) + sizeof(*option));
		header.next = IPPROTO_DSTOPTS;
	} else {
		header.length = bpf_htons(bpf_ntohs(header.length) - sizeof(*option));
		header.next = option->next;
	}
	/* IPv6 has no header checksum that makes up for this change, so the kernel's checksum of the whole packet is
	 * computed anew. */
	return bpf_skb_store_bytes(skb, at, &header, sizeof(header), BPF_F_RECOMPUTE_CSUM);
#endif
}

#define dsr_put_option OF_FAMILY(dsr_put_option)
/* Puts the address and port that the client sent the packet to into it. */
__noinline int dsr_put_option(struct __sk_buff *skb, const PACKET *packet)
{
	DSR_OPTION option = { .type = DSR_OPTION_TYPE };

	if (!packet)
		return DROP_INTERNAL;
	if (!dsr_has_room(skb, packet))
		return DROP_REWRITE_FAILED;
	option.port = packet->destination_port;
#if FAMILY == 4
	option.length = sizeof(option);
	option.address = packet->destination;
#else
	if (bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct ip6_header, next), &option.next, sizeof(option.next)))
		return DROP_REWRITE_FAILED;
	option.words = sizeof(option) / 8 - 1;
	option.length = DSR_OPTION_LENGTH;
	__builtin_memcpy(option.address, &packet->destination, sizeof(option.address));
	option.pad_type = 1;
#endif
	if (bpf_skb_adjust_room(skb, sizeof(option), BPF_ADJ_ROOM_NET, room_flags(skb, packet->protocol)) ||
	    bpf_skb_store_bytes(skb, DSR_OPTION_AT, &option, sizeof(option), 0) ||
	    write_header_around_option(skb, &option, true))
		return DROP_REWRITE_FAILED;
	return PARSED;
}

#define dsr_take_option OF_FAMILY(dsr_take_option)
/* Removes the option from a packet of the network. If it is valid, it is left in scratch->dsr_address and dsr_port:
 * the packet's destination must be a backend of the service at that address. Anybody can write an option, so a wrong
 * one counts for nothing. */
__noinline int dsr_take_option(struct __sk_buff *skb, PACKET *packet)
{
	struct scratch *room = scratch_room();
	__u32 zero = 0, frontend_flags;
	struct node *state = bpf_map_lookup_elem(&node, &zero);
	DSR_OPTION option;

	if (!room || !state || !packet || !(state->external & EXTERNAL_DSR) || packet->kind == PACKET_ERROR ||
	    bpf_skb_load_bytes(skb, DSR_OPTION_AT, &option, sizeof(option)) || option.type != DSR_OPTION_TYPE)
		return PARSED;

	ADDRESS *address = &room->FIELD(dsr_address);

#if FAMILY == 4
	if (option.length != sizeof(option))
		return PARSED;
	*address = option.address;
#else
	__u8 first;

	if (option.words != sizeof(option) / 8 - 1 || option.length != DSR_OPTION_LENGTH ||
	    bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct ip6_header, next), &first, sizeof(first)) ||
	    first != IPPROTO_DSTOPTS)
		return PARSED;
	__builtin_memcpy(address, option.address, sizeof(option.address));
#endif
	if (!is_known_service_address(room, address, option.port, packet->protocol))
		return PARSED;

	struct frontend *frontend = find_frontend(address, option.port, packet->protocol, false, &frontend_flags);

	/* The address may be that of another node. */
	if (!frontend)
		frontend = find_node_port(option.port, packet->protocol);
	if (!frontend)
		return PARSED;

	ADDRESS destination = packet->destination;

	if (!find_member(frontend->service, &destination, packet->destination_port))
		return PARSED;
	if (write_header_around_option(skb, &option, false) ||
	    bpf_skb_adjust_room(skb, -(__s32)sizeof(option), BPF_ADJ_ROOM_NET, room_flags(skb, packet->protocol)))
		return DROP_REWRITE_FAILED;
	packet->transport -= sizeof(option);
	room->dsr_port = option.port;
	room->has_dsr_option = true;
	return PARSED;
}
