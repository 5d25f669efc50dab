/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Services at connect time. A socket gets a backend before its first packet, so its packets need no translation.
 * Other programs may interrupt these on the same processor, so they keep everything on the stack. */

/* Remembers that a socket which is not connected talks to a backend, so that the application sees the service's
 * address. */
static __always_inline __overloadable void keep_socket_peer(SOCKET_KEY *key, enum socket_peer_as as,
							    const ADDRESS *known, __be16 known_port, SOCKET_PEER *value,
							    const ADDRESS *other, __be16 other_port)
{
	key->as = as;
	key->address = *known;
	key->port = known_port;
	value->address = *other;
	value->port = other_port;
	bpf_map_update_elem(&MAP(sockets), key, value, BPF_ANY);
}

/* If a socket sends to a service, replaces `address` and `port` by those of a backend. `connects`: the socket
 * connects, so the choice holds for good. Otherwise it sends one datagram, and the next ones go to the same backend. */
static __always_inline __overloadable enum socket_outcome
lb_socket_translate(struct bpf_sock_addr *ctx, ADDRESS *address, __be16 *port, bool connects)
{
	__u8 protocol = ctx->protocol;
	__u64 netns = bpf_get_netns_cookie(ctx);
	__u32 *namespace = bpf_map_lookup_elem(&namespaces, &netns);
	__u32 flags, now = ticks();

	if (!namespace || (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP))
		return SOCKET_AS_IS;

	bool of_node = *namespace == NAMESPACE_NODE;

	/* The stack does the same afterwards. */
	if (is_zero(address))
		make_loopback(address);

	struct frontend *frontend = find_frontend(address, *port, protocol, of_node, &flags);

	if (!frontend)
		return flags & ADDRESS_OF_SERVICE ? unserved_socket(protocol, of_node, connects) : SOCKET_AS_IS;
	if (frontend->flags & FRONTEND_RANGES && !(of_node && frontend->flags & FRONTEND_NODE_IN_RANGES))
		/* Which source address an endpoint uses is known only when it sends packets, so they are checked
		 * then. */
		return of_node ? SOCKET_REFUSED : SOCKET_AS_IS;

	ADDRESS service = *address;
	__be16 service_port = *port;
	SOCKET_KEY key = { .cookie = bpf_get_socket_cookie(ctx), .protocol = protocol };
	SOCKET_PEER value = { .netns = netns, .service = frontend->service, .seen = now };

	if (!connects) {
		key.as = AS_SERVICE;
		key.address = service;
		key.port = service_port;

		SOCKET_PEER *known = bpf_map_lookup_elem(&MAP(sockets), &key);

		if (known && known->service == frontend->service && now - known->seen <= lifetimes.udp_stream) {
			ADDRESS backend = known->address;
			__be16 backend_port = known->port;

			if (find_member(frontend->service, &backend, backend_port)) {
				*address = backend;
				*port = backend_port;
				key.as = AS_BACKEND;
				key.address = backend;
				key.port = backend_port;

				SOCKET_PEER *back = bpf_map_lookup_elem(&MAP(sockets), &key);

				/* The socket may have reached this backend by another address of the service in the
				 * meantime. */
				if (known->seen != now || !back || back->port != service_port ||
				    !equal(&back->address, &service)) {
					known->seen = now;
					keep_socket_peer(&key, AS_BACKEND, &backend, backend_port, &value, &service,
							 service_port);
				}
				return SOCKET_TRANSLATED;
			}
		}
	}

	CLIENT client = { .netns = netns, .service = frontend->service };
	AFFINITY room;
	int reason = choose_backend(frontend, FROM_INSIDE, &client, &room, 0, address, port);

	if (reason)
		return reason == DROP_NO_BACKEND ? unserved_socket(protocol, of_node, connects) : SOCKET_REFUSED;
	if (connects) {
		CONNECTION connection = {
			.netns = netns,
			.meant = service,
			.backend = *address,
			.meant_port = service_port,
			.backend_port = *port,
			.service = frontend->service,
			.protocol = protocol,
		};

		bpf_map_update_elem(&MAP(connections), &key.cookie, &connection, BPF_ANY);
		return SOCKET_TRANSLATED;
	}
	keep_socket_peer(&key, AS_BACKEND, address, *port, &value, &service, service_port);
	keep_socket_peer(&key, AS_SERVICE, &service, service_port, &value, address, *port);
	return SOCKET_TRANSLATED;
}

/* If a backend's address and port stand for a service that the socket talks to, replaces them by the service's.
 * Returns false if they do not. */
static __always_inline __overloadable bool lb_socket_reverse(struct bpf_sock_addr *ctx, ADDRESS *address, __be16 *port)
{
	SOCKET_KEY key = {
		.cookie = bpf_get_socket_cookie(ctx),
		.address = *address,
		.port = *port,
		.protocol = ctx->protocol,
		.as = AS_BACKEND,
	};
	CONNECTION *connected = bpf_map_lookup_elem(&MAP(connections), &key.cookie);

	if (connected && connected->backend_port == *port && connected->protocol == ctx->protocol &&
	    equal(&connected->backend, address)) {
		*address = connected->meant;
		*port = connected->meant_port;
		return true;
	}

	SOCKET_PEER *known = bpf_map_lookup_elem(&MAP(sockets), &key);

	if (!known)
		return false;
	*address = known->address;
	*port = known->port;
	return true;
}
