/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * One source for both families. The stages (stages.h) are written once, in the words below, and included twice: with
 * FAMILY 4 and with FAMILY 6. A word expands where it is used, so it means the types and maps of the family that is being
 * compiled, and is defined once.
 *
 * Functions have plain names. An inline function has `__overloadable`: the compiler finds the one of the family by the
 * types of the arguments, as in C++. That does not do for two sorts of functions, which have a line with OF_FAMILY above them
 * instead, so that `name` is compiled as `name_v4` and `name_v6`: global functions (`__noinline`), whose symbols libbpf looks
 * for by name, and those without an argument of a family's type.
 */
#pragma once

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

#define __overloadable __attribute__((overloadable))
#define OF_FAMILY(name) JOIN(name##_v, FAMILY)

#define MAP(name) JOIN(name, FAMILY)
#define ADDRESS struct JOIN(ip, FAMILY)
#define CT_KEY struct JOIN(ct_key, FAMILY)
#define CT_ENTRY struct JOIN(ct_entry, FAMILY)
#define FRAGMENT struct JOIN(fragment, FAMILY)
#define PREFIX struct JOIN(prefix, FAMILY)
#define PACKET struct JOIN(packet, FAMILY)
#define FRONTEND_KEY struct JOIN(frontend_key, FAMILY)
#define BACKEND struct JOIN(backend, FAMILY)
#define MEMBER struct JOIN(member, FAMILY)
#define CLIENT struct JOIN(client, FAMILY)
#define AFFINITY struct JOIN(affinity, FAMILY)
#define SOURCE_RANGE struct JOIN(source_range, FAMILY)
#define CONNECTION struct JOIN(connection, FAMILY)
#define SOCKET_KEY struct JOIN(socket_key, FAMILY)
#define SOCKET_PEER struct JOIN(socket_peer, FAMILY)
#define IP_HEADER struct JOIN(JOIN(ip, FAMILY), _header)
/* 32-bit words of an address. */
#define WORDS ((int)(sizeof(ADDRESS) / sizeof(__be32)))
