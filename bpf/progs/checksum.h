/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Checksums that are still to be filled in (CHECKSUM_PARTIAL). A sender with a packet socket can choose the place
 * (csum_start and csum_offset of virtio's header), and the kernel or the device writes two bytes there when the
 * packet leaves. That is after all checks, so those two bytes could change a port or an address. */

#ifndef CHECKSUM_PARTIAL
#define CHECKSUM_PARTIAL 3
#define SCTP_CHECKSUM_OFFSET 8

/* The fields of the kernel's sk_buff that are read here. */
struct sk_buff___checksum {
	unsigned char *head;
	unsigned char *data;
	__u16 csum_start;
	__u16 csum_offset;
	__u8 ip_summed : 2;
} __attribute__((preserve_access_index));
#endif

/* Whether the checksum goes into its place in the transport header, or behind all bytes that were checked (an
 * endpoint's own tunnel has one inside). Returns true if no checksum is to be filled in. */
static __always_inline __overloadable bool has_checksum_in_place(struct __sk_buff *skb, const PACKET *packet)
{
	if (!bpf_ksym_exists(bpf_cast_to_kern_ctx))
		return true;

	struct sk_buff___checksum *inside = bpf_cast_to_kern_ctx(skb);

	if (BPF_CORE_READ_BITFIELD(inside, ip_summed) != CHECKSUM_PARTIAL)
		return true;

	/* The headroom of a packet is always less than 64 KiB. */
	__u32 headroom = (__u32)(unsigned long)inside->data - (__u32)(unsigned long)inside->head;
	__u32 start = (__u32)inside->csum_start - headroom, place = start + inside->csum_offset;
	__u64 flags;
	int own = packet->protocol == IPPROTO_SCTP ? SCTP_CHECKSUM_OFFSET : checksum_offset(packet->protocol, &flags);

	if (packet->kind == PACKET_WHOLE && own >= 0 && place == (__u32)(packet->transport + own))
		return true;

	__u32 checked_end = packet->kind == PACKET_ERROR ? packet->inner_transport + sizeof(struct icmp_header) :
			    packet->kind == PACKET_LATER_FRAGMENT ? packet->transport :
			    packet->protocol == IPPROTO_TCP	  ? packet->transport + sizeof(struct tcp_header) :
								    packet->transport + sizeof(struct icmp_header);

	/* The comparison is signed: an offset before the packet is negative. */
	return (__s32)place >= (__s32)checked_end;
}
