/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Reads DNS messages (RFC 1035, section 4): the question that an endpoint asks, and the addresses that it is told. The
 * same for both families.
 *
 * The name of an address is the one that was asked about, also where the answer leads to it by other names (CNAME).
 * So the names of the answers are passed over. Only an answer to a question that the endpoint has asked is read: same
 * ports, same id, same name and type (RFC 5452, section 9). */
#pragma once

#include "common.h"

struct dns_header {
	__be16 id;
	__be16 flags;
	__be16 questions;
	__be16 answers;
	__be16 authorities;
	__be16 additionals;
};

#define DNS_IS_ANSWER 0x8000
#define DNS_OPCODE 0x7800
#define DNS_ERROR 0x000f
#define DNS_NAME_AT sizeof(struct dns_header)
/* A header, and a question about a name of one letter. */
#define DNS_SHORTEST (DNS_NAME_AT + 3 + 4)
#define DNS_LONGEST_LABEL 63
#define DNS_LONGEST_TEXT 253
#define DNS_LABELS 128
#define DNS_POINTER 0xc0 /* the upper bits of a pointer to the rest of a name */
#define DNS_CLASS_INTERNET 1
#define DNS_TYPE_A 1
#define DNS_TYPE_AAAA 28
#define DNS_TYPE_OPT 41
/* Type, class, lifetime and length of a record. */
#define DNS_RECORD_HEADER 10
/* Labels and records of an answer that are passed over or read. */
#define DNS_STEPS 512
/* An answer comes within so many ticks, or it is not read. */
#define DNS_PATIENCE 10
/* Lifetimes in seconds. */
#define DNS_LONGEST_LIFETIME 86400

/* FNV-1a, 64 bits. */
#define HASH_BEGIN 0xcbf29ce484222325
#define HASH_PRIME 0x100000001b3

/* An address is kept for at least so many ticks, even if the answer says less: clients connect a while after they
 * have asked. */
const volatile __u32 dns_least_lifetime = 56;

/* So many messages of one segment are read. */
#define DNS_MESSAGES 4

/* What follows in a packet between an endpoint and a resolver. */
enum dns_content {
	DNS_UNREADABLE,
	DNS_NOTHING,
	DNS_MESSAGE, /* dns_read_question() has read it */
};

static __always_inline struct dns_room *dns_room(void)
{
	struct scratch *room = scratch_room();

	return room ? &room->dns : NULL;
}

static __always_inline __u8 dns_byte(const struct dns_room *room, __u32 at)
{
	/* The compiler knows from elsewhere that the byte is inside, and would leave the mask out. Linux 6.1 does not. */
	barrier_var(at);
	return room->message[at & (DNS_LONGEST - 1)];
}

static __always_inline __u16 dns_short(const struct dns_room *room, __u32 at)
{
	return dns_byte(room, at) << 8 | dns_byte(room, at + 1);
}

/* Bytes that a name in policies may have. An answer about another name opens nothing. */
static __always_inline bool is_of_name(__u8 letter)
{
	return (__u8)(letter - 'a') < 26 || (__u8)(letter - '0') < 10 || letter == '-' || letter == '_';
}

/* The loops below are bpf_loop(), because a verifier that follows each path through 253 letters finds no end. What they
 * change is in scratch and not on the stack: before Linux 6.7 the verifier takes what a loop leaves on the stack for
 * what its first round leaves there. */

enum dns_step {
	DNS_GO_ON,
	DNS_STOP,
};

/* Goes over one label of the name at DNS_NAME_AT. It ends at its zero byte. */
static long dns_pass_label(__u32 index, struct dns_room **context)
{
	struct dns_room *room = *context;
	struct dns_reader *reader = &room->reader;
	__u8 label = dns_byte(room, reader->at);

	if (!label)
		return DNS_STOP;
	reader->at += label + 1;
	if (label <= DNS_LONGEST_LABEL && reader->at <= DNS_NAME_AT + DNS_LONGEST_TEXT + 1)
		return DNS_GO_ON;
	/* It is no name, or it is compressed, which a question is not. */
	reader->at = 0;
	return DNS_STOP;
}

/* Takes over one letter of the name. */
static long dns_read_letter(__u32 index, struct dns_room **context)
{
	struct dns_room *room = *context;
	struct dns_reader *reader = &room->reader;
	__u8 letter = dns_byte(room, DNS_NAME_AT + 1 + index);

	if (reader->left) {
		reader->left--;
		if ((__u8)(letter - 'A') < 26)
			letter += 'a' - 'A';
		if (!is_of_name(letter)) {
			reader->at = 0;
			return DNS_STOP;
		}
	} else {
		reader->left = letter;
		letter = '.';
	}
	__u32 at = reader->text - 1 - index;

	barrier_var(at);
	room->key.text[at % DOMAIN_TEXT] = letter;
	reader->hash = (reader->hash ^ letter) * HASH_PRIME;
	return DNS_GO_ON;
}

/* Reads a message of `length` bytes at `at`: its id, and the name and type of its question. Returns whether it has one
 * question, about a name that policies may have. */
__noinline int dns_read_question(struct __sk_buff *skb, __u32 at, __u32 length)
{
	struct dns_room *room = dns_room();

	if (!room || length > DNS_LONGEST)
		return false;
	barrier_var(length);
	if (length < DNS_SHORTEST || bpf_skb_load_bytes(skb, at, room->message, length))
		return false;

	const struct dns_header *header = (const void *)room->message;
	struct dns_reader *reader = &room->reader;

	if (header->questions != bpf_htons(1) || header->flags & bpf_htons(DNS_OPCODE))
		return false;
	reader->at = DNS_NAME_AT;
	bpf_loop(DNS_LABELS, dns_pass_label, &room, 0);

	__u32 end = reader->at, text = end - DNS_NAME_AT - 1;

	/* The root has no label. */
	if (end <= DNS_NAME_AT || text > DNS_LONGEST_TEXT || end + 5 > length)
		return false;
	reader->text = text;
	reader->left = dns_byte(room, DNS_NAME_AT);
	reader->hash = HASH_BEGIN;
	bpf_loop(text, dns_read_letter, &room, 0);
	if (!reader->at)
		return false;
	room->key.length = (text + 1) * 8;
	barrier_var(text);
	room->key.text[text % DOMAIN_TEXT] = 0;
	room->hash = reader->hash;
	room->type = bpf_htons(dns_short(room, end + 1));
	room->length = length;
	room->answers_at = end + 5;
	return dns_short(room, end + 3) == DNS_CLASS_INTERNET;
}

/* Reads the next message of a packet: enum dns_content. Of TCP it must be whole in the segment. */
__noinline int dns_next_message(struct __sk_buff *skb, __u32 protocol)
{
	struct dns_room *room = dns_room();
	__be16 length = 0;

	if (!room || room->at >= room->end)
		return DNS_NOTHING;

	__u32 at = room->at, bytes = room->end - at;

	if (protocol == IPPROTO_TCP) {
		if (bpf_skb_load_bytes(skb, at, &length, sizeof(length))) {
			room->at = room->end;
			return DNS_UNREADABLE;
		}
		at += sizeof(length);
		bytes = bpf_ntohs(length);
	}
	if (at + bytes > room->end) {
		room->at = room->end;
		return DNS_UNREADABLE;
	}
	room->at = at + bytes;
	return dns_read_question(skb, at, bytes) ? DNS_MESSAGE : DNS_UNREADABLE;
}

/* Whether the message that was read last is a question and nothing else: no byte could tell a resolver more. What the
 * asker is able to do may follow it (EDNS, RFC 6891). */
static __always_inline bool dns_is_plain_question(const struct dns_room *room)
{
	const struct dns_header *header = (const void *)room->message;
	__u32 at = room->answers_at;

	if (header->flags & bpf_htons(DNS_IS_ANSWER) || header->answers || header->authorities)
		return false;
	if (!header->additionals)
		return at == room->length;
	return header->additionals == bpf_htons(1) && at + 1 + DNS_RECORD_HEADER <= room->length &&
	       !dns_byte(room, at) && dns_short(room, at + 1) == DNS_TYPE_OPT &&
	       at + 1 + DNS_RECORD_HEADER + dns_short(room, at + 9) == room->length;
}

/* How much an endpoint has used so far. */
static __always_inline union dns_placed *dns_share_of(struct dns_room *room, __u32 ifindex)
{
	static const union dns_placed fresh;
	struct dns_place *place = &room->place;
	union dns_placed *share;

	place->ifindex = ifindex;
	place->ring = DNS_SHARE;
	place->place = 0;
	share = bpf_map_lookup_elem(&dns_rings, place);
	if (share)
		return share;
	bpf_map_update_elem(&dns_rings, place, &fresh, BPF_NOEXIST);
	return bpf_map_lookup_elem(&dns_rings, place);
}

/* The key of the question that was read last, to or from the resolver in room->resolver. */
static __always_inline struct dns_question_key *dns_key_of_question(struct dns_room *room, __u32 ifindex, __be16 port)
{
	const struct dns_header *header = (const void *)room->message;
	struct dns_question_key *key = &room->question_key;

	key->ifindex = ifindex;
	key->port = port;
	key->id = header->id;
	key->resolver = room->resolver;
	key->type = room->type;
	key->pad[0] = key->pad[1] = 0;
	key->hash = room->hash;
	return key;
}

/* Notes the question that was read last, from an endpoint's port. The endpoint's oldest question makes room. */
__noinline int dns_note_question(__u32 ifindex, __u32 port)
{
	struct dns_room *room = dns_room();
	union dns_placed *used = room ? dns_share_of(room, ifindex) : NULL;

	if (!room || !used)
		return 0;

	struct dns_question_key *key = dns_key_of_question(room, ifindex, port);
	bool asked = bpf_map_lookup_elem(&dns_questions, key);

	room->question.asked = ticks();
	if (!asked) {
		struct dns_place *place = &room->place;
		union dns_placed *oldest;

		place->ring = DNS_QUESTIONS_RING;
		place->place = __sync_fetch_and_add(&used->share.questions, 1) % DNS_QUESTIONS;
		oldest = bpf_map_lookup_elem(&dns_rings, place);
		if (oldest) {
			room->placed = *oldest;
			bpf_map_delete_elem(&dns_questions, &room->placed.question);
		}
		room->placed.question = *key;
		bpf_map_update_elem(&dns_rings, place, &room->placed, BPF_ANY);
	}
	bpf_map_update_elem(&dns_questions, key, &room->question, BPF_ANY);
	return 0;
}

/* Whether the message that was read last answers a question of the endpoint. One question has one answer. */
static __always_inline bool dns_is_asked_for(struct dns_room *room, __u32 ifindex, __be16 port)
{
	const struct dns_header *header = (const void *)room->message;
	struct dns_question *question;
	bool asked_for;

	if (!(header->flags & bpf_htons(DNS_IS_ANSWER)) || header->flags & bpf_htons(DNS_ERROR))
		return false;

	struct dns_question_key *key = dns_key_of_question(room, ifindex, port);

	question = bpf_map_lookup_elem(&dns_questions, key);
	asked_for = question && ticks() - question->asked <= DNS_PATIENCE;
	if (asked_for)
		bpf_map_delete_elem(&dns_questions, key);
	return asked_for;
}

/* Gives the endpoint's next place to a record. Its oldest record goes; one that has allowed a flow since somebody last
 * looked gets a second chance. */
static __always_inline void dns_make_room(struct dns_room *room, union dns_placed *used)
{
	struct dns_place *place = &room->place;

	place->ring = DNS_RECORDS_RING;
#pragma clang loop unroll(disable)
	for (int i = 0; i < 4; i++) {
		union dns_placed *oldest;
		struct dns_record *record;

		place->place = __sync_fetch_and_add(&used->share.records, 1) % DNS_RECORDS;
		oldest = bpf_map_lookup_elem(&dns_rings, place);
		if (!oldest)
			break;
		room->old_record = oldest->record;
		record = bpf_map_lookup_elem(&dns_records, &room->old_record);
		if (!record)
			break;
		if (i < 3 && record->used) {
			record->used = 0;
			continue;
		}
		bpf_map_delete_elem(&dns_records, &room->old_record);
		break;
	}
	room->placed.record = room->record_key;
	bpf_map_update_elem(&dns_rings, place, &room->placed, BPF_ANY);
}

/* Another number after each change of the patterns. */
static __always_inline __u32 dns_generation(void)
{
	__u32 zero = 0;
	const volatile struct dns_settings *settings = bpf_map_lookup_elem(&dns_settings, &zero);

	return settings ? settings->generation : 0;
}

/* Puts the patterns that mean the name into the record. */
static __always_inline void dns_find_domains(struct dns_room *room)
{
	room->generation = dns_generation();

	struct domain *domain = bpf_map_lookup_elem(&domains, &room->key);

	if (domain)
		room->record.domains = domain->ids;
	else
		__builtin_memset(&room->record.domains, 0, sizeof(room->record.domains));
}

/* Keeps for an endpoint that the name of the question has the address in room->record_key. `lifetime` is in seconds. */
__noinline int dns_learn(__u32 ifindex, __u32 lifetime)
{
	struct dns_room *room = dns_room();
	union dns_placed *used = room ? dns_share_of(room, ifindex) : NULL;
	__u32 now = ticks(), place = DNS_NAMES;
	__u64 least = ~0ull;
	bool is_known = false;

	if (!room || !used)
		return 0;
	if (lifetime > DNS_LONGEST_LIFETIME)
		lifetime = DNS_LONGEST_LIFETIME;
	/* A tick is 1.07 s. */
	lifetime -= lifetime / 16;
	if (lifetime < dns_least_lifetime)
		lifetime = dns_least_lifetime;

	struct dns_record_key *key = &room->record_key;
	struct dns_record *record = &room->record;

	key->ifindex = ifindex;
	record->hash = room->hash;
	record->expires = now + lifetime;
	record->used = 0;
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < DNS_NAMES; i++) {
		struct dns_record *known;
		__u64 worth;

		key->place = i;
		known = bpf_map_lookup_elem(&dns_records, key);
		if (known && known->hash == room->hash) {
			record->used = known->used;
			place = i;
			is_known = true;
			break;
		}
		/* What a free place is worth, or the name that is there: a name of no policy makes room first, then one
		 * that nobody uses, then the one that expires first. */
		worth = !known ? 0 :
				 1 + ((__u64)(known->domains.id[0] != 0) << 34 | (__u64)(known->used != 0) << 33 |
				      (__u32)(known->expires - now + (1u << 31)));
		if (worth < least) {
			place = i;
			least = worth;
		}
	}
	/* A name of no policy takes no place of a name that policies speak of. */
	if (place >= DNS_NAMES || (!is_known && least >> 34 && !record->domains.id[0]))
		return 0;
	key->place = place;
	if (!is_known && !least)
		dns_make_room(room, used);
	bpf_map_update_elem(&dns_records, key, record, BPF_ANY);
	/* The sweep after a change of the patterns may have been here already. */
	if (unlikely(dns_generation() != room->generation)) {
		dns_find_domains(room);
		bpf_map_update_elem(&dns_records, key, record, BPF_ANY);
	}
	return 0;
}

/* Reads the next record, or goes over the next label of its name. */
static long dns_read_record(__u32 index, struct dns_room **context)
{
	struct dns_room *room = *context;
	struct dns_reader *reader = &room->reader;
	__u32 at = reader->at, length = room->length;

	if (!reader->left || at >= length)
		return DNS_STOP;

	__u8 label = dns_byte(room, at);

	if (label && label <= DNS_LONGEST_LABEL) {
		reader->at = at + label + 1;
		return DNS_GO_ON;
	}
	if (label && (label & DNS_POINTER) != DNS_POINTER)
		return DNS_STOP;
	at += label ? 2 : 1;
	if (at + DNS_RECORD_HEADER > length)
		return DNS_STOP;

	__u32 type = dns_short(room, at), class = dns_short(room, at + 2);
	__u32 lifetime = dns_short(room, at + 4) << 16 | dns_short(room, at + 6);
	__u32 size = dns_short(room, at + 8);

	at += DNS_RECORD_HEADER;
	if (at + size > length)
		return DNS_STOP;
	reader->at = at + size;
	reader->left--;
	if (class != DNS_CLASS_INTERNET || room->type != bpf_htons(type))
		return DNS_GO_ON;

	struct ip6 *address = &room->record_key.address;

	if (type == DNS_TYPE_A && size == 4) {
		address->word[0] = address->word[1] = 0;
		address->word[2] = bpf_htonl(0xffff);
		address->word[3] = bpf_htonl(dns_short(room, at) << 16 | dns_short(room, at + 2));
	} else if (type == DNS_TYPE_AAAA && size == 16) {
		for (int word = 0; word < 4; word++)
			address->word[word] = bpf_htonl(dns_short(room, at + word * 4) << 16 |
							dns_short(room, at + word * 4 + 2));
	} else {
		return DNS_GO_ON;
	}
	dns_learn(reader->ifindex, lifetime);
	return DNS_GO_ON;
}

/* Reads the addresses of the message that was read last, an answer for an endpoint's port. */
__noinline int dns_read_answers(__u32 ifindex, __u32 port)
{
	struct dns_room *room = dns_room();

	if (!room || !dns_is_asked_for(room, ifindex, port))
		return 0;

	const struct dns_header *header = (const void *)room->message;
	struct dns_reader *reader = &room->reader;

	reader->at = room->answers_at;
	reader->left = bpf_ntohs(header->answers);
	reader->ifindex = ifindex;
	__builtin_memcpy(&room->record.name, &room->key, sizeof(room->record.name));
	dns_find_domains(room);
	bpf_loop(DNS_STEPS, dns_read_record, &room, 0);
	return 0;
}
