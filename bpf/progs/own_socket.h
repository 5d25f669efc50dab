/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The node's own connections. The node may connect from a port that is also a service's or a hostPort on it. The
 * answers belong to the socket and open no flow. */

#define is_for_own_socket OF_FAMILY(is_for_own_socket)
/* Whether a packet of an unknown flow from the network is for a socket of the node that talks to its sender. */
__noinline int is_for_own_socket(struct __sk_buff *skb, const PACKET *packet)
{
	struct scratch *room = scratch_room();
	struct bpf_sock *socket;
	__u32 size, state;
	bool tcp;

	if (!room || !packet || packet->kind != PACKET_WHOLE)
		return false;
	/* Other ports have no service that could take the packet. */
	if (!has_port(PORTS_SERVED, packet->destination_port))
		return false;
	tcp = packet->protocol == IPPROTO_TCP;
	/* A packet that opens a connection does not belong to an existing one. */
	if (tcp ? (packet->flags & (TCP_SYN | TCP_ACK)) == TCP_SYN : packet->protocol != IPPROTO_UDP)
		return false;

	struct bpf_sock_tuple *tuple = &room->tuple;

	__builtin_memset(tuple, 0, sizeof(*tuple));
#if FAMILY == 4
	tuple->ipv4.saddr = packet->source.word[0];
	tuple->ipv4.daddr = packet->destination.word[0];
	tuple->ipv4.sport = packet->source_port;
	tuple->ipv4.dport = packet->destination_port;
	size = sizeof(tuple->ipv4);
#else
	__builtin_memcpy(tuple->ipv6.saddr, &packet->source, sizeof(ADDRESS));
	__builtin_memcpy(tuple->ipv6.daddr, &packet->destination, sizeof(ADDRESS));
	tuple->ipv6.sport = packet->source_port;
	tuple->ipv6.dport = packet->destination_port;
	size = sizeof(tuple->ipv6);
#endif
	socket = tcp ? bpf_sk_lookup_tcp(skb, tuple, size, BPF_F_CURRENT_NETNS, 0) :
		       bpf_sk_lookup_udp(skb, tuple, size, BPF_F_CURRENT_NETNS, 0);
	if (!socket)
		return false;
	state = socket->state;
	bpf_sk_release(socket);
	/* A UDP socket has this state when it is connected. */
	return tcp ? state != BPF_TCP_LISTEN : state == BPF_TCP_ESTABLISHED;
}
