// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Drops frames by their source address at an uplink, before the kernel has made a packet of them (XDP). This is an object
 * of its own: it shares no map with the TC programs, and is loaded only while there is a deny set.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <stdbool.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* How many deny sets are counted. `DENY_SETS` in layout.rs. */
#define DENY_SETS 1024
/* How many VLAN tags are passed over. The kernel takes off any number of tags that have no VLAN's number. */
#define VLAN_TAGS 8
/* Frames with more tags than that are counted under this number. */
#define TOO_MANY_TAGS 0

struct denied4 {
	__u32 bits;
	__u8 address[4];
};

struct denied6 {
	__u32 bits;
	__u8 address[16];
};

/* Frames and their bytes that were dropped because of one set. */
struct deny_count {
	__u64 packets;
	__u64 bytes;
};

struct vlan_tag {
	__be16 tci;
	__be16 protocol;
};

/* Source prefix -> number of its set. Set 0 is let through: prefixes that no set may deny. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4194304);
	__type(key, struct denied4);
	__type(value, __u32);
} deny4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4194304);
	__type(key, struct denied6);
	__type(value, __u32);
} deny6 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, DENY_SETS);
	__type(key, __u32);
	__type(value, struct deny_count);
} deny_counts SEC(".maps");

static __always_inline int drop(struct xdp_md *ctx, __u32 number)
{
	struct deny_count *count = bpf_map_lookup_elem(&deny_counts, &number);

	if (count) {
		count->packets++;
		count->bytes += ctx->data_end - ctx->data;
	}
	return XDP_DROP;
}

static __always_inline int verdict(struct xdp_md *ctx, const __u32 *set)
{
	return set && *set ? drop(ctx, *set) : XDP_PASS;
}

static __always_inline int judge(struct xdp_md *ctx)
{
	void *end = (void *)(long)ctx->data_end;
	void *at = (void *)(long)ctx->data;
	struct ethhdr *frame = at;
	__be16 protocol;

	at += sizeof(*frame);
	if (at > end)
		return XDP_PASS;
	protocol = frame->h_proto;
#pragma unroll
	for (int i = 0; i < VLAN_TAGS; i++) {
		struct vlan_tag *tag = at;

		if (protocol != bpf_htons(ETH_P_8021Q) && protocol != bpf_htons(ETH_P_8021AD))
			break;
		at += sizeof(*tag);
		if (at > end)
			return XDP_PASS;
		protocol = tag->protocol;
	}
	if (protocol == bpf_htons(ETH_P_8021Q) || protocol == bpf_htons(ETH_P_8021AD))
		return drop(ctx, TOO_MANY_TAGS);
	if (protocol == bpf_htons(ETH_P_IP)) {
		struct denied4 key = { .bits = 32 };
		struct iphdr *ip = at;

		if ((void *)(ip + 1) > end)
			return XDP_PASS;
		__builtin_memcpy(key.address, &ip->saddr, sizeof(key.address));
		return verdict(ctx, bpf_map_lookup_elem(&deny4, &key));
	}
	if (protocol == bpf_htons(ETH_P_IPV6)) {
		struct denied6 key = { .bits = 128 };
		struct ipv6hdr *ip = at;

		if ((void *)(ip + 1) > end)
			return XDP_PASS;
		__builtin_memcpy(key.address, &ip->saddr, sizeof(key.address));
		return verdict(ctx, bpf_map_lookup_elem(&deny6, &key));
	}
	return XDP_PASS;
}

/* In the driver, which may have a frame in several parts. */
SEC("xdp.frags")
int deny_native(struct xdp_md *ctx)
{
	return judge(ctx);
}

/* Behind the driver. A program that takes frames in parts has the kernel copy most packets (Linux 6.9: skb_pp_cow_data),
 * and the copy has no mac_len, so that the TC programs behind would see it from its IP header on. */
SEC("xdp")
int deny_generic(struct xdp_md *ctx)
{
	return judge(ctx);
}

char program_license[] SEC("license") = "Dual BSD/GPL";
