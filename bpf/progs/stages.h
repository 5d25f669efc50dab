/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The stages of a packet's path, in the order in which they need each other. Included once for each FAMILY:
 * family.h. */

#include "packet.h"
#if FAMILY == 4
#include "ipv4.h"
#else
#include "ipv6.h"
#endif
#include "events.h"
#include "changes.h"
#include "ct_reverse.h"
#include "conntrack.h"
#include "fragments.h"
#include "ct_owner.h"
#include "ct_age.h"
#include "dns.h"
#include "policy.h"
#include "service.h"
#include "lb_socket.h"
#include "lb_packet.h"
#include "snat_port.h"
#include "origin.h"
#include "overlay.h"
#include "dsr.h"
#include "own_socket.h"
#include "ct_waiting.h"
#include "way_out.h"
#include "slow_path.h"
#include "ct_commit.h"
#include "rewrite.h"
#include "answer.h"
#include "dsr_option.h"
#include "forward.h"
#include "oversize.h"
#include "checksum.h"
#include "path.h"
