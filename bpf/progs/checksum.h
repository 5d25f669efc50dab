/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Checksums that are still to be filled in. Who sends from a packet socket says where (virtio's header: csum_start,
 * csum_offset), and the kernel or the device writes there when the packet leaves, after all that was judged: two bytes
 * of a port or of an address would be others then.
 */

#ifndef CHECKSUM_PARTIAL
#define CHECKSUM_PARTIAL 3
#define SCTP_CHECKSUM_OFFSET 8

/* What of the kernel's own packet is read. */
struct sk_buff___checksum {
	unsigned char *head;
	unsigned char *data;
	__u16 csum_start;
	__u16 csum_offset;
	__u8 ip_summed : 2;
} __attribute__((preserve_access_index));
#endif

/* Whether the checksum that is to be filled in, if there is one, goes into the transport's place for it, or behind all
 * that is judged (a tunnel of the endpoint's own has one inside). */
static __always_inline __overloadable bool has_checksum_in_place(struct __sk_buff *skb, const PACKET *packet)
{
	if (!bpf_ksym_exists(bpf_cast_to_kern_ctx))
		return true;

	struct sk_buff___checksum *inside = bpf_cast_to_kern_ctx(skb);

	if (BPF_CORE_READ_BITFIELD(inside, ip_summed) != CHECKSUM_PARTIAL)
		return true;

	/* Of the room before the packet there are never 64 KiB. */
	__u32 headroom = (__u32)(unsigned long)inside->data - (__u32)(unsigned long)inside->head;
	__u32 start = (__u32)inside->csum_start - headroom, place = start + inside->csum_offset;
	__u64 flags;
	int own = packet->protocol == IPPROTO_SCTP ? SCTP_CHECKSUM_OFFSET : checksum_offset(packet->protocol, &flags);

	if (packet->kind == PACKET_WHOLE && own >= 0 && place == (__u32)(packet->transport + own))
		return true;

	__u32 judged = packet->kind == PACKET_ERROR	     ? packet->inner_transport + sizeof(struct icmp_header) :
		       packet->kind == PACKET_LATER_FRAGMENT ? packet->transport :
		       packet->protocol == IPPROTO_TCP	     ? packet->transport + sizeof(struct tcp_header) :
							       packet->transport + sizeof(struct icmp_header);

	/* As signed: what lies before the packet is no small number. */
	return (__s32)place >= (__s32)judged;
}
