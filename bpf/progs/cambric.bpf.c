// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Cambric's programs. Each program is attached to one hook and handles both families. The stages of a packet's path
 * have a header each, in this order:
 *
 *	parse (ipv4.h, ipv6.h, fragments.h) -> conntrack.h (states.h, ct_reverse.h) -> on a miss slow_path.h
 *	  (lb_packet.h, policy.h, way_out.h), ct_commit.h (snat_port.h, ct_waiting.h) -> rewrite.h -> forward.h
 *
 * path.h puts the stages together for each hook. lb_socket.h chooses the backend of a socket of this node once, when it
 * connects.
 */
#include "common.h"
#include "accounts.h"
#include "policy_lookup.h"
#include "domain_rules.h"
#include "family.h"
#include "states.h"

#define FAMILY 4
#include "stages.h"
#undef FAMILY
#define FAMILY 6
#include "stages.h"
#undef FAMILY

#include "arp.h"
#include "dns_sweep.h"
#include "socket_hooks.h"

/* The part of a VLAN tag that is the VLAN's number. */
#define VLAN_NUMBER 0x0fff

/* Whether a frame at an uplink belongs to a VLAN interface on top of it. The kernel has moved the tag out of the
 * frame, so the packet looks like any other. It is checked at the VLAN's interface, if that is an uplink. A tag
 * without a number carries only a priority (802.1p). */
static __always_inline bool is_of_vlan(const struct __sk_buff *skb)
{
	return unlikely(skb->vlan_present) && skb->vlan_tci & VLAN_NUMBER;
}

/* Ingress of an endpoint's host end: what the endpoint sends. */
SEC("tc")
int from_endpoint(struct __sk_buff *skb)
{
	/* The kernel has moved the tag out of the frame, and would put it back where the packet leaves the node. */
	if (unlikely(skb->vlan_present))
		return drop_and_count(DROP_VLAN);
	switch (skb->protocol) {
	case bpf_htons(ETH_P_IP):
		return path_from_endpoint_v4(skb);
	case bpf_htons(ETH_P_IPV6):
		return path_from_endpoint_v6(skb);
	case bpf_htons(ETH_P_ARP):
		return arp_from_endpoint(skb);
	}
	return drop_and_count(DROP_NOT_IP);
}

/* Egress of an endpoint's host end: what the endpoint receives through the host's stack. */
SEC("tc")
int to_endpoint(struct __sk_buff *skb)
{
	if (unlikely(skb->vlan_present))
		return drop_and_count(DROP_VLAN);
	switch (skb->protocol) {
	case bpf_htons(ETH_P_IP):
		return path_to_endpoint_v4(skb);
	case bpf_htons(ETH_P_IPV6):
		return path_to_endpoint_v6(skb);
	case bpf_htons(ETH_P_ARP):
		return PASS;
	}
	return drop_and_count(DROP_NOT_IP);
}

/* A frame for everybody, or for another machine. At most the host's stack takes it. The stack would also take an
 * overlay frame with a broadcast Ethernet address, which no node sends. */
static __always_inline int from_broadcast(struct __sk_buff *skb)
{
	if (skb->pkt_type == PACKET_OTHERHOST)
		return PASS;
	switch (skb->protocol) {
	case bpf_htons(ETH_P_IP):
		return path_from_broadcast_v4(skb);
	case bpf_htons(ETH_P_IPV6):
		return path_from_broadcast_v6(skb);
	}
	return PASS;
}

/* Asks the policies of the interface's HostEndpoint, if it has one. */
__noinline int ask_host(struct __sk_buff *skb, enum host_stage stage)
{
	__u32 ifindex = skb->ifindex;

	if (!bpf_map_lookup_elem(&host_policies, &ifindex))
		return PASS;
	switch (skb->protocol) {
	case bpf_htons(ETH_P_IP):
		return host_check_v4(skb, stage);
	case bpf_htons(ETH_P_IPV6):
		return host_check_v6(skb, stage);
	}
	return PASS;
}

static __always_inline int arrive(struct __sk_buff *skb, const struct uplink *uplink)
{
	/* Without this the compiler keeps a pointer to `ifindex` inside the context, and the verifier refuses such a
	 * pointer. */
	barrier_var(skb);
	if (uplink->flags & UPLINK_OVERLAY) {
		if (uplink->flags & UPLINK_SEEN_ONLY && skb->priority != FRAME_SEEN)
			return drop_and_count(DROP_FOREIGN_FRAME);
		skb->priority = 0;
	}
	if (unlikely(skb->pkt_type != PACKET_HOST))
		return from_broadcast(skb);
	switch (skb->protocol) {
	case bpf_htons(ETH_P_IP):
		return path_from_network_v4(skb, uplink);
	case bpf_htons(ETH_P_IPV6):
		return path_from_network_v6(skb, uplink);
	}
	return PASS;
}

/* Ingress of an uplink: what the network sends. */
SEC("tc")
int from_network(struct __sk_buff *skb)
{
	if (is_of_vlan(skb))
		return PASS;

	const struct uplink *uplink = uplink_of(skb);

	if (!uplink)
		return PASS;
	/* The policies of a HostEndpoint are asked before and behind all others. */
	if (unlikely(uplink->flags & UPLINK_POLICED) && ask_host(skb, HOST_BEFORE) != PASS)
		return TC_ACT_SHOT;

	int verdict = arrive(skb, uplink);
	const struct node *state;

	if (verdict != PASS)
		return verdict;
	/* Not by the uplink's flag, because the stack has no room to keep that. */
	state = node_state();
	return state && unlikely(state->external & EXTERNAL_HOST_POLICIES) ? ask_host(skb, HOST_ARRIVED) : PASS;
}

/* Egress of an uplink: what leaves the node. */
SEC("tc")
int to_network(struct __sk_buff *skb)
{
	if (skb->mark == MARK_FORWARDED) {
		skb->mark = 0;
		return PASS;
	}
	if (is_of_vlan(skb))
		return PASS;

	const struct uplink *uplink = uplink_of(skb);

	if (!uplink)
		return PASS;
	if (unlikely(uplink->flags & UPLINK_POLICED) && ask_host(skb, HOST_LEAVES) != PASS)
		return TC_ACT_SHOT;
	switch (skb->protocol) {
	case bpf_htons(ETH_P_IP):
		return path_to_network_v4(skb, uplink);
	case bpf_htons(ETH_P_IPV6):
		return path_to_network_v6(skb, uplink);
	}
	return PASS;
}

/* Ingress and egress of another interface that has a HostEndpoint. */
SEC("tc")
int from_host_link(struct __sk_buff *skb)
{
	if (is_of_vlan(skb))
		return PASS;
	if (ask_host(skb, HOST_BEFORE) != PASS)
		return TC_ACT_SHOT;
	return ask_host(skb, HOST_ARRIVED);
}

SEC("tc")
int to_host_link(struct __sk_buff *skb)
{
	return is_of_vlan(skb) ? PASS : ask_host(skb, HOST_LEAVES);
}

/* The daemon runs this with an interface of its own namespace. It returns, in cb and laid out as `plain_routes`, how
 * often the kernel has counted changes of the routing tables there. A family has no flag if the kernel does not
 * count its changes, or if it has routing rules. */
SEC("tc")
int routes(struct __sk_buff *skb)
{
	__u32 count = 0;

	skb->cb[0] = 0;
	if (route_generation_v4(skb, &count)) {
		skb->cb[0] |= PLAIN_ROUTES4;
		skb->cb[1] = count;
	}
	if (route_generation_v6(skb, &count)) {
		skb->cb[0] |= PLAIN_ROUTES6;
		skb->cb[2] = count;
	}
	return PASS;
}

static long free_ports(void *map, const __u32 *key, __u64 *word, void *none)
{
	*word = 0;
	return 0;
}

/* What has been counted anew replaces the old count. */
static long settle_account(void *map, const __u32 *ifindex, struct account *account, void *none)
{
	for (int i = 0; i < 2; i++) {
		account->kept[i] = account->counted[i];
		account->counted[i] = 0;
	}
	return 0;
}

/* The daemon runs this now and then: dns_sweep.h. It returns in cb how many names and questions remain. A program that
 * may sleep, such as `age`, cannot look prefixes up. */
SEC("tc")
int sweep_names(struct __sk_buff *skb)
{
	struct dns_sweep sweep = { .now = ticks() };

	bpf_for_each_map_elem(&dns_records, sweep_record, &sweep, 0);
	bpf_for_each_map_elem(&dns_questions, sweep_question, &sweep, 0);
	bpf_for_each_map_elem(&dns_rings, sweep_ring, &sweep, 0);
	skb->cb[0] = sweep.records;
	skb->cb[1] = sweep.questions;
	return PASS;
}

/* The daemon runs this now and then: ct_age.h. */
SEC("syscall")
int age(struct ageing *result)
{
	struct ageing ageing = { .now = result->now };

	bpf_for_each_map_elem(&held_ports, free_ports, NULL, 0);
	bpf_for_each_map_elem(&conntrack4, age_entry_v4, &ageing, 0);
	bpf_for_each_map_elem(&conntrack6, age_entry_v6, &ageing, 0);
	bpf_for_each_map_elem(&accounts, settle_account, NULL, 0);

	__u32 zero = 0;
	struct account *all = bpf_map_lookup_elem(&all_accounts, &zero);

	if (all) {
		all->tick = result->now;
		all->kept[0] = ageing.left4 - ageing.waiting4;
		all->kept[1] = ageing.left6 - ageing.waiting6;
	}
	result->waiting4 = ageing.waiting4;
	result->waiting6 = ageing.waiting6;
	result->left4 = ageing.left4;
	result->left6 = ageing.left6;
	result->forgotten = ageing.forgotten;
	return 0;
}

/* The kernel lets only GPL-compatible programs call the helpers that redirect packets. */
char program_license[] SEC("license") = "Dual BSD/GPL";
