/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The hooks of lb_socket.h: they read and write the kernel's context. An IPv6 socket may use an IPv4 address as
 * ::ffff:a.b.c.d. */
#pragma once

#define SOCKET_PASSES 1
#define SOCKET_FAILS 0

/* Has the system call fail with ECONNREFUSED, as at a port where nobody listens. Before Linux 6.0 the error is
 * EPERM. */
static __always_inline int refuse_socket(void)
{
	if (bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_set_retval))
		bpf_set_retval(-ECONNREFUSED);
	return SOCKET_FAILS;
}

static __always_inline int translate4(struct bpf_sock_addr *ctx, bool connects)
{
	struct ip4 address = { { ctx->user_ip4 } };
	__be16 port = ctx->user_port;

	switch (lb_socket_translate(ctx, &address, &port, connects)) {
	case SOCKET_AS_IS:
		break;
	case SOCKET_REFUSED:
		return refuse_socket();
	case SOCKET_TRANSLATED:
		ctx->user_ip4 = address.word[0];
		ctx->user_port = port;
	}
	return SOCKET_PASSES;
}

static __always_inline bool is_mapped(const struct bpf_sock_addr *ctx)
{
	return ctx->user_ip6[0] == 0 && ctx->user_ip6[1] == 0 && ctx->user_ip6[2] == bpf_htonl(0xffff);
}

static __always_inline int translate6(struct bpf_sock_addr *ctx, bool connects)
{
	__be16 port = ctx->user_port;

	if (is_mapped(ctx)) {
		struct ip4 address = { { ctx->user_ip6[3] } };

		switch (lb_socket_translate(ctx, &address, &port, connects)) {
		case SOCKET_AS_IS:
			break;
		case SOCKET_REFUSED:
			return refuse_socket();
		case SOCKET_TRANSLATED:
			ctx->user_ip6[3] = address.word[0];
			ctx->user_port = port;
		}
		return SOCKET_PASSES;
	}

	struct ip6 address = { { ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3] } };

	switch (lb_socket_translate(ctx, &address, &port, connects)) {
	case SOCKET_AS_IS:
		break;
	case SOCKET_REFUSED:
		return refuse_socket();
	case SOCKET_TRANSLATED:
		ctx->user_ip6[0] = address.word[0];
		ctx->user_ip6[1] = address.word[1];
		ctx->user_ip6[2] = address.word[2];
		ctx->user_ip6[3] = address.word[3];
		ctx->user_port = port;
	}
	return SOCKET_PASSES;
}

static __always_inline int show_service4(struct bpf_sock_addr *ctx)
{
	struct ip4 address = { { ctx->user_ip4 } };
	__be16 port = ctx->user_port;

	if (lb_socket_reverse(ctx, &address, &port)) {
		ctx->user_ip4 = address.word[0];
		ctx->user_port = port;
	}
	return SOCKET_PASSES;
}

static __always_inline int show_service6(struct bpf_sock_addr *ctx)
{
	__be16 port = ctx->user_port;

	if (is_mapped(ctx)) {
		struct ip4 address = { { ctx->user_ip6[3] } };

		if (lb_socket_reverse(ctx, &address, &port)) {
			ctx->user_ip6[3] = address.word[0];
			ctx->user_port = port;
		}
		return SOCKET_PASSES;
	}

	struct ip6 address = { { ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3] } };

	if (lb_socket_reverse(ctx, &address, &port)) {
		ctx->user_ip6[0] = address.word[0];
		ctx->user_ip6[1] = address.word[1];
		ctx->user_ip6[2] = address.word[2];
		ctx->user_ip6[3] = address.word[3];
		ctx->user_port = port;
	}
	return SOCKET_PASSES;
}

SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr *ctx)
{
	return translate4(ctx, true);
}

SEC("cgroup/connect6")
int connect6(struct bpf_sock_addr *ctx)
{
	return translate6(ctx, true);
}

SEC("cgroup/sendmsg4")
int sendmsg4(struct bpf_sock_addr *ctx)
{
	return translate4(ctx, false);
}

SEC("cgroup/sendmsg6")
int sendmsg6(struct bpf_sock_addr *ctx)
{
	return translate6(ctx, false);
}

SEC("cgroup/recvmsg4")
int recvmsg4(struct bpf_sock_addr *ctx)
{
	return show_service4(ctx);
}

SEC("cgroup/recvmsg6")
int recvmsg6(struct bpf_sock_addr *ctx)
{
	return show_service6(ctx);
}

SEC("cgroup/getpeername4")
int getpeername4(struct bpf_sock_addr *ctx)
{
	return show_service4(ctx);
}

SEC("cgroup/getpeername6")
int getpeername6(struct bpf_sock_addr *ctx)
{
	return show_service6(ctx);
}

/* A socket is closed: its connection is forgotten. */
SEC("cgroup/sock_release")
int sock_release(struct bpf_sock *ctx)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);

	bpf_map_delete_elem(&connections4, &cookie);
	if (ctx->family == AF_INET6)
		bpf_map_delete_elem(&connections6, &cookie);
	return SOCKET_PASSES;
}
