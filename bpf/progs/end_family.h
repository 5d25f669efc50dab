/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Forgets one family's words, before the other's. */
#undef FAMILY
#undef JOIN_
#undef JOIN
#undef FN
#undef MAP
#undef ADDRESS
#undef CT_KEY
#undef CT_ENTRY
#undef FRAGMENT
#undef PREFIX
#undef PACKET
#undef WORDS
#undef IP_OFFSET
#undef ECHO_REQUEST
#undef TELL
#undef TELL_AGAINST
#undef POLICE_BY_STACK
#undef POLICE_AGAINST
#undef MASQUERADE_ATTEMPTS
#undef NOT_FOR_ENDPOINT
