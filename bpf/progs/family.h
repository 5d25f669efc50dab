/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * One source for both families. The stages (stages.h) are written once, in the words below, and are included twice:
 * with FAMILY 4 and with FAMILY 6. A word expands where it is used, so it always names the types and maps of the family
 * that is being compiled, and one definition is enough.
 *
 * Functions have plain names. An inline function is marked `__overloadable`: the compiler chooses the function of the
 * family by the types of the arguments, as C++ does. Two sorts of functions cannot be chosen so: global functions
 * (`__noinline`), because libbpf finds them by their symbol, and functions that have no argument of a family's type.
 * They have a line with OF_FAMILY above them, which compiles `name` as `name_v4` and `name_v6`.
 */
#pragma once

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

#define __overloadable __attribute__((overloadable))
#define OF_FAMILY(name) JOIN(name##_v, FAMILY)

#define MAP(name) JOIN(name, FAMILY)
#define FIELD(name) JOIN(name, FAMILY)
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
/* An address has so many words of 32 bits. */
#define WORDS ((int)(sizeof(ADDRESS) / sizeof(__be32)))
