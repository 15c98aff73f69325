//go:build ignore

// The hottest answers, before the socket. Every frame of an interface comes by here; a query
// whose answer is in the maps goes back out of the same interface as that answer, everything
// else goes on to the kernel unchanged.
//
//	frame ─► UDP 53 to us? ─► awake? ─► client of ours? ─► its share ─► plain question?
//	            │                │             │              │            │
//	            ▼                ▼             ▼              ▼            ▼
//	          pass             pass          pass       pass, or drop    pass
//	                                                                       │
//	     out ◄─ id, case, flags, TTLs, checksums ◄─ room? ◄─ fresh? ◄─ slots, answers
//
// Built by `make bpf` and committed as hot_bpfel.o; nothing needs a compiler to run it. It has
// no license section: none of the helpers asks for one. Little-endian machines alone.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define WORDS 16           // of a name, 8 octets each: longer names are left to the socket
#define NAME (WORDS * 8)
#define MESSAGE 1232       // octets of an answer without OPT: what any path takes (RFC 9715)
#define TTLS 16            // records of an answer
#define HEADER 12          // octets of a DNS header (RFC 1035 section 4.1.1)
#define QUESTION 4         // octets of type and class
#define OPT 11             // octets of an OPT record without options (RFC 6891 section 6.1.2)
#define PLAIN 512          // octets of an answer without EDNS (RFC 1035 section 2.3.4)
#define FRONT 208          // octets to grow by in front of a frame: drivers have 256, the kernel needs 40 of them
#define SLOTS 8192
#define CLIENTS 65536

#define FLAG_RD 0x0100
#define FLAG_AD 0x0020
#define FLAG_CD 0x0010

// Every octet 1, and every octet's highest bit.
#define ONES 0x0101010101010101ULL
#define HIGH 0x8080808080808080ULL

// What became of frames to port 53 of ours. The Go side has the same list.
enum count {
	ANSWERED,
	DROPPED,   // the client is far over its share
	ASLEEP,    // the process has not said that it lives
	FOREIGN,   // not a client of the plan
	UNUSUAL,   // no plain question
	COLD,      // no answer here
	EXPIRING,  // the socket side shall see the demand
	LARGE,     // longer than the client takes
	ROOM,      // the driver leaves no room to grow
	LIMITED,   // the client is over its share: the socket side says what it gets
	COUNTS,
};

// address is IPv6, or IPv4 in its mapped form.
struct address {
	__u32 w[4];
};

// prefix is the key of the clients' trie.
struct prefix {
	__u32 bits;
	struct address addr;
};

// port is an interface that is served.
struct port {
	__u8 mac[ETH_ALEN];
	__u8 generic; // the frames are the kernel's already, and may lack their checksum
	__u8 veth;
};

// answer never changes while slots leads to it, nor for long enough afterwards that nobody is
// reading it any more.
struct answer {
	__u64 name[WORDS]; // on the wire, lower case, zeros behind
	__u64 stored;      // when its TTLs were true, ns of CLOCK_MONOTONIC
	__u64 until;       // when it is no longer served from here
	__u32 ttl[TTLS];   // seconds
	__u16 ttl_at[TTLS];
	__u16 ttls;
	__u16 name_len;
	__u16 type;
	__u16 bits;        // 1: DO, 2: CD
	__u16 flags;       // of the header, without AD and CD
	__u16 ad;          // the bit AD, or 0
	__u16 additional;  // ARCOUNT without OPT
	__u16 msg_len;
	__u32 sum;         // of msg as 16 bit words in the order of the machine, without id, flags, ARCOUNT and TTLs
	__u8 msg[MESSAGE];
};

// spent is a client's share: when what it has asked so far would have been asked at its rate.
struct spent {
	__u64 answered; // of what is answered from here
	__u64 all;      // of all queries, at four times the rate
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u64); // hash of the question
	__type(value, __u32);
	__uint(max_entries, SLOTS);
} slots SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct answer);
	__uint(max_entries, SLOTS);
} answers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, SLOTS);
	__uint(map_flags, BPF_F_MMAPABLE); // read by the process without a system call
} hits SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u64); // CLOCK_MONOTONIC in ns
	__uint(max_entries, 1);
} alive SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u32); // interface
	__type(value, struct port);
	__uint(max_entries, 256);
} ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct address);
	__type(value, __u8);
	__uint(max_entries, 1024);
} served SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__type(key, struct prefix);
	__type(value, __u8);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} segments SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct address);
	__type(value, struct spent);
	__uint(max_entries, CLIENTS);
} clients SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, COUNTS);
} counts SEC(".maps");

// Set when the program is loaded.
volatile const __u64 seed;   // of the questions' hash
volatile const __u64 step;   // ns between a client's queries at its rate
volatile const __u64 burst;  // ns of its rate that it may ask at once

// ask is a query and where it came from.
struct ask {
	__u64 raw[WORDS];  // the name as sent
	__u64 name[WORDS]; // in lower case
	struct address client, server;
	__u64 hash;
	__u32 cased; // what the case of the name adds to a sum of 16 bit words, negative
	__u16 name_len;
	__u16 type;
	__u16 flags;
	__u16 size;
	__u16 id;
	__u16 port;
	__u8 edns, dnssec;
	__u8 generic, veth;
	__u8 partial; // its checksum is left to whoever sends the frame on, and so is the answer's
};

static __always_inline int pass(__u32 why)
{
	__u64 *n = bpf_map_lookup_elem(&counts, &why);

	if (n)
		*n += 1;
	return XDP_PASS;
}

// within tells whether x is of low to high. The compiler would make one comparison of the two,
// of another register, or of half of it, which not every verifier takes for bounds of x.
static __always_inline int within(__u64 *x, __u64 low, __u64 high)
{
	asm volatile("" : "+r"(*x));
	if (*x > high)
		return 0;
	asm volatile("" : "+r"(*x));
	if (*x < low)
		return 0;
	asm volatile("" : "+r"(*x));
	return 1;
}

// nameful is x when it is of 1 to NAME, and in these bounds else. Older verifiers do not learn
// from a comparison with 0 that something is more.
static __always_inline __u64 nameful(__u64 x)
{
	x = (x - 1) & (NAME - 1);
	asm volatile("" : "+r"(x));
	return x + 1;
}

static __always_inline __u64 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

// name finds the end of the name in raw, and makes its lower case, its hash and what its case
// is worth in a checksum. The first zero octet is taken for the end: a name with a zero within
// a label is then not the name of any answer, since those are whole names. false: too long.
static __always_inline int name(struct ask *q)
{
	__u64 hash = seed, cased = 0;

	for (int i = 0; i < WORDS; i++) {
		__u64 w = q->raw[i];
		__u64 zero = (w - ONES) & ~w & HIGH; // its lowest bit is in the first zero octet
		__u64 keep = zero ? ((zero & -zero) >> 7) - 1 : ~0ULL;

		w &= keep;
		__u64 seven = w & ~HIGH;
		__u64 upper = ((seven + (0x80 - 'A') * ONES) ^ (seven + (0x7f - 'Z') * ONES)) & ~w & HIGH;
		__u64 bit = upper >> 2; // 0x20 where a letter is upper case

		cased += (bit & 0xffffffff) + (bit >> 32);
		w |= bit;
		q->name[i] = w;
		hash = (hash ^ w) * 0x9e3779b97f4a7c15ULL;
		hash ^= hash >> 29;
		if (zero) {
			q->name_len = i * 8 + (((keep & ONES) * ONES) >> 56) + 1;
			q->cased = fold(cased);
			q->hash = hash;
			return 1;
		}
	}
	return 0;
}

// question reads a DNS message of len octets at offset at. false: not plain.
static __always_inline int question(struct xdp_md *ctx, struct ask *q, __u32 at, __u32 len)
{
	__u16 header[HEADER / 2];
	__u8 rest[QUESTION + OPT] = {};

	if (len < HEADER + 1 + QUESTION || len > HEADER + NAME + QUESTION + OPT)
		return 0;
	if (bpf_xdp_load_bytes(ctx, at, header, HEADER))
		return 0;
	q->id = header[0];
	q->flags = bpf_ntohs(header[1]);
	if ((q->flags & ~(FLAG_AD | FLAG_CD)) != FLAG_RD)
		return 0;
	if (header[2] != bpf_htons(1) || header[3] || header[4] || header[5] & ~bpf_htons(1))
		return 0;
	q->edns = header[5] != 0;

	__u64 load = nameful(len - HEADER > NAME ? NAME : len - HEADER);

	if (bpf_xdp_load_bytes(ctx, at + HEADER, q->raw, load))
		return 0;
	if (!name(q))
		return 0;
	at += HEADER + q->name_len;
	len -= HEADER + q->name_len;
	if (len != (q->edns ? QUESTION + OPT : QUESTION))
		return 0;
	if (q->edns) {
		if (bpf_xdp_load_bytes(ctx, at, rest, QUESTION + OPT))
			return 0;
		// The root's name, type 41, the size; extended code 0, version 0, DO and no other flag, no
		// options (RFC 6891 section 6.1).
		if (rest[4] || rest[5] || rest[6] != 41 || rest[9] || rest[10] || rest[11] & 0x7f || rest[12] || rest[13] || rest[14])
			return 0;
		q->size = rest[7] << 8 | rest[8];
		q->dnssec = rest[11] >> 7;
	} else if (bpf_xdp_load_bytes(ctx, at, rest, QUESTION)) {
		return 0;
	}
	if (rest[2] || rest[3] != 1) // class IN
		return 0;
	q->type = rest[0] << 8 | rest[1];
	if (q->size < PLAIN)
		q->size = PLAIN;
	return 1;
}

// find is the slot of the answer, or SLOTS.
static __always_inline __u32 find(struct ask *q, struct answer **found)
{
	__u16 bits = q->dnssec | (q->flags & FLAG_CD ? 2 : 0);
	__u64 hash = (q->hash ^ ((__u64)q->type << 16 | bits)) * 0x9e3779b97f4a7c15ULL;
	__u32 *slot = bpf_map_lookup_elem(&slots, &hash);

	if (!slot)
		return SLOTS;

	__u32 n = *slot; // read once: the element may be another's in a moment
	struct answer *a = bpf_map_lookup_elem(&answers, &n);

	if (!a || a->name_len != q->name_len || a->type != q->type || a->bits != bits)
		return SLOTS;

	__u64 differ = 0;

	for (int i = 0; i < WORDS; i++)
		differ |= a->name[i] ^ q->name[i];
	if (differ)
		return SLOTS;
	*found = a;
	return n;
}

// grow makes the frame longer by the difference, or leaves it as it is and is false. Drivers
// have room behind a frame, or in front, or little of both; where the kernel has noted in which
// place a checksum is to be written (partial), the front must stay.
static __always_inline int grow(struct xdp_md *ctx, int more, int partial)
{
	if (partial || more <= 0 || more > FRONT / 2) {
		if (!bpf_xdp_adjust_tail(ctx, more))
			return 1;
		if (partial || more <= 0)
			return 0;
	}
	int front = more > FRONT ? FRONT : more;

	if (more != front && bpf_xdp_adjust_tail(ctx, more - front))
		return 0;
	if (!bpf_xdp_adjust_head(ctx, -front))
		return 1;
	return !bpf_xdp_adjust_tail(ctx, more != front ? front - more : more) && more == front;
}

// records writes the TTLs and the OPT record of the answer in the message at offset at, and
// returns their part of the checksum; ~0 when the frame is not as it was made.
static __always_inline __u64 records(struct xdp_md *ctx, struct ask *q, struct answer *a, __u32 at, __u64 now)
{
	__u32 age = (now - a->stored) / 1000000000ULL;
	__u64 even = 0, odd = 0;

	for (int i = 0; i < TTLS; i++) {
		if (i >= a->ttls)
			break;
		__u32 ttl = a->ttl[i];
		__u32 where = a->ttl_at[i];

		ttl = bpf_htonl(ttl > age ? ttl - age : 0);
		if (bpf_xdp_store_bytes(ctx, at + where, &ttl, sizeof(ttl)))
			return ~0ULL;
		if (where & 1)
			odd += ttl;
		else
			even += ttl;
	}
	if (q->edns) {
		__u8 opt[OPT] = {0, 0, 41, MESSAGE >> 8, MESSAGE & 0xff, 0, 0, q->dnssec << 7, 0, 0, 0};
		__u64 sum = 41 + ((MESSAGE >> 8) << 8) + (MESSAGE & 0xff) + (q->dnssec << 15);

		if (bpf_xdp_store_bytes(ctx, at + a->msg_len, opt, OPT))
			return ~0ULL;
		if (a->msg_len & 1)
			odd += sum;
		else
			even += sum;
	}
	return fold(even) + __builtin_bswap16(fold(odd));
}

// internet writes the IP header, version and length of which are constants of the call.
static __always_inline void internet(void *l3, struct ask *q, __u32 size, int v4)
{
	if (v4) {
		struct iphdr *ip = l3;
		__u16 *w = l3;
		__u64 sum = 0;

		w[0] = bpf_htons(0x4500);
		ip->tot_len = bpf_htons(sizeof(*ip) + size);
		ip->id = 0; // never in pieces (RFC 6864 section 4.1)
		ip->frag_off = bpf_htons(0x4000);
		ip->ttl = 64;
		ip->protocol = IPPROTO_UDP;
		ip->check = 0;
		ip->saddr = q->server.w[3];
		ip->daddr = q->client.w[3];
		for (int i = 0; i < 10; i++)
			sum += w[i];
		ip->check = ~fold(sum);
		return;
	}
	struct ipv6hdr *ip6 = l3;

	*(__u32 *)ip6 = bpf_htonl(0x60000000);
	ip6->payload_len = bpf_htons(size);
	ip6->nexthdr = IPPROTO_UDP;
	ip6->hop_limit = 64;
	__builtin_memcpy(&ip6->saddr, &q->server, sizeof(q->server));
	__builtin_memcpy(&ip6->daddr, &q->client, sizeof(q->client));
}

// pseudo is the sum of the pseudo header, which is the same in both directions; len is as on
// the wire.
static __always_inline __u64 pseudo(struct ask *q, __u16 len, const int l3)
{
	__u64 sum = (__u64)len + bpf_htons(IPPROTO_UDP) + q->client.w[3] + q->server.w[3];

	if (l3 != sizeof(struct iphdr))
		for (int i = 0; i < 3; i++)
			sum += (__u64)q->client.w[i] + q->server.w[i];
	return sum;
}

// reply makes the frame the answer. l3 is the length of the IP header, a constant.
static __always_inline int reply(struct xdp_md *ctx, struct ask *q, struct answer *a, __u64 now, const int l3)
{
	const __u32 at = ETH_HLEN + l3 + sizeof(struct udphdr);
	__u64 len = a->msg_len, name_len = nameful(q->name_len);

	if (!within(&len, HEADER, MESSAGE))
		return pass(COLD);

	__u32 payload = len + (q->edns ? OPT : 0);

	if (payload > q->size || payload > MESSAGE)
		return pass(LARGE);

	struct ethhdr eth, *e = (void *)(long)ctx->data;

	if ((void *)(e + 1) > (void *)(long)ctx->data_end)
		return XDP_PASS;
	__builtin_memcpy(eth.h_dest, e->h_source, ETH_ALEN);
	__builtin_memcpy(eth.h_source, e->h_dest, ETH_ALEN);
	eth.h_proto = e->h_proto;
	if (!grow(ctx, (int)(at + payload) - (int)(ctx->data_end - ctx->data), q->partial))
		return pass(ROOM);

	// From here on the frame is no longer the query: it leaves as the answer or not at all.
	if (bpf_xdp_store_bytes(ctx, at, a->msg, len) || bpf_xdp_store_bytes(ctx, at + HEADER, q->raw, name_len))
		return XDP_ABORTED;

	__u64 sum = records(ctx, q, a, at, now);
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct udphdr *udp = data + ETH_HLEN + l3;
	__u16 *header = (void *)(udp + 1);

	if (sum == ~0ULL || (void *)(header + HEADER / 2) > end)
		return XDP_ABORTED;
	__builtin_memcpy(data, &eth, ETH_HLEN);
	internet(data + ETH_HLEN, q, sizeof(*udp) + payload, l3 == sizeof(struct iphdr));

	__u16 flags = a->flags | (q->flags & FLAG_CD);

	if (q->dnssec || q->flags & FLAG_AD) // RFC 6840 section 5.7
		flags |= a->ad;
	header[0] = q->id;
	header[1] = bpf_htons(flags);
	header[5] = bpf_htons(a->additional + q->edns);
	udp->source = bpf_htons(53);
	udp->dest = q->port;
	udp->len = bpf_htons(sizeof(*udp) + payload);
	udp->check = 0;

	// The message, its changes, the UDP header and the pseudo header (RFC 768, RFC 8200 section
	// 8.1). Lower case counted 0x20 too much for each letter that is upper case.
	__u64 outer = pseudo(q, udp->len, l3);

	if (q->partial) {
		udp->check = fold(outer);
		return XDP_TX;
	}
	sum += outer + a->sum + (0xffff - q->cased);
	sum += (__u64)header[0] + header[1] + header[5];
	sum += (__u64)udp->source + udp->dest + udp->len;
	sum = ~fold(sum) & 0xffff;
	udp->check = sum ? sum : 0xffff; // 0 would say that there is none
	return XDP_TX;
}

// source reads the IP header. It is the header's length, or 0 when the frame is not a whole
// UDP datagram in one plain packet.
static __always_inline int source(void *data, void *end, struct ask *q, __u32 *udp_len)
{
	struct ethhdr *eth = data;
	struct iphdr *ip = data + ETH_HLEN;
	struct ipv6hdr *ip6 = data + ETH_HLEN;

	if ((void *)(ip + 1) > end)
		return 0;
	if (eth->h_proto == bpf_htons(ETH_P_IP)) {
		// No options; whole: neither more to come nor a piece (RFC 791 section 3.1).
		if (*(__u8 *)ip != 0x45 || ip->protocol != IPPROTO_UDP || ip->frag_off & bpf_htons(0xbfff))
			return 0;
		*udp_len = bpf_ntohs(ip->tot_len) - sizeof(*ip);
		q->client.w[2] = q->server.w[2] = bpf_htonl(0xffff);
		q->client.w[3] = ip->saddr;
		q->server.w[3] = ip->daddr;
		return sizeof(*ip);
	}
	if (eth->h_proto != bpf_htons(ETH_P_IPV6) || (void *)(ip6 + 1) > end)
		return 0;
	if (*(__u8 *)ip6 >> 4 != 6 || ip6->nexthdr != IPPROTO_UDP)
		return 0;
	*udp_len = bpf_ntohs(ip6->payload_len);
	__builtin_memcpy(&q->client, &ip6->saddr, sizeof(q->client));
	__builtin_memcpy(&q->server, &ip6->daddr, sizeof(q->server));
	// An IPv4 address in an IPv6 packet is nobody's (RFC 6890 section 2.2.3), and would be
	// taken for that client.
	if (!q->client.w[0] && !q->client.w[1] && q->client.w[2] == bpf_htonl(0xffff))
		return 0;
	return sizeof(*ip6);
}

// sound tells whether an IPv4 header's checksum is right: the kernel would drop a wrong one.
static __always_inline int sound(void *l3)
{
	__u16 *w = l3;
	__u64 sum = 0;

	for (int i = 0; i < 10; i++)
		sum += w[i];
	return fold(sum) == 0xffff;
}

// ours tells whether the frame is for this interface and an address that is served.
static __always_inline int ours(struct xdp_md *ctx, struct ethhdr *eth, struct ask *q)
{
	__u32 device = ctx->ingress_ifindex;
	struct port *p = bpf_map_lookup_elem(&ports, &device);

	if (!p)
		return 0;
	for (int i = 0; i < ETH_ALEN; i++)
		if (p->mac[i] != eth->h_dest[i])
			return 0;
	q->generic = p->generic;
	q->veth = p->veth;
	return bpf_map_lookup_elem(&served, &q->server) != 0;
}

// share charges the client for a query. It is what is known of the client; null when there is
// nothing to be had. far is set when it asks more than four times its rate.
static __always_inline struct spent *share(struct address *client, __u64 now, int *far)
{
	struct spent *s = bpf_map_lookup_elem(&clients, client);

	if (!s) {
		struct spent none = {now, now};

		bpf_map_update_elem(&clients, client, &none, BPF_NOEXIST);
		s = bpf_map_lookup_elem(&clients, client);
		if (!s)
			return s;
	}
	__u64 all = s->all > now ? s->all : now;

	*far = all - now > burst;
	if (!*far)
		s->all = all + step / 4;
	return s;
}

SEC("xdp.frags")
int hot(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ask q = {};
	__u32 len = 0, zero = 0;
	int l3 = source(data, end, &q, &len);

	if (!l3)
		return XDP_PASS;

	struct udphdr *udp = data + ETH_HLEN + l3;

	if ((void *)(udp + 1) > end || udp->dest != bpf_htons(53) || !ours(ctx, data, &q))
		return XDP_PASS;

	__u64 now = bpf_ktime_get_ns();
	__u64 *until = bpf_map_lookup_elem(&alive, &zero);

	if (!until || *until <= now)
		return pass(ASLEEP);

	struct prefix p = {128, q.client};

	if (!bpf_map_lookup_elem(&segments, &p))
		return pass(FOREIGN);

	int far = 0;
	struct spent *s = share(&q.client, now, &far);

	if (far) {
		pass(DROPPED);
		return XDP_DROP;
	}
	q.port = udp->source;
	if (!s || !q.port || bpf_ntohs(udp->len) != len || len < sizeof(*udp) + HEADER)
		return pass(UNUSUAL);
	// The frame may be longer than the packet (padding), not shorter, and in one piece.
	if ((__u32)(ctx->data_end - ctx->data) < ETH_HLEN + l3 + len || bpf_xdp_get_buff_len(ctx) != ctx->data_end - ctx->data)
		return pass(UNUSUAL);
	if (l3 == sizeof(struct iphdr) && !sound(data + ETH_HLEN))
		return pass(UNUSUAL);
	if (!question(ctx, &q, ETH_HLEN + l3 + sizeof(*udp), len - sizeof(*udp)))
		return pass(UNUSUAL);

	// A frame of a socket on this machine has the sum of its pseudo header alone, for a card to
	// complete. In the driver that is forgotten. Behind it the kernel remembers, so that the
	// answer must be of the same kind; but only veth has such frames as a rule, elsewhere it looks
	// like one by chance.
	if (q.generic && udp->check == fold(pseudo(&q, udp->len, l3))) {
		if (!q.veth)
			return pass(UNUSUAL);
		q.partial = 1;
	}

	struct answer *a = 0;
	__u32 slot = find(&q, &a);

	if (slot >= SLOTS || !a)
		return pass(COLD);
	if (now >= a->until || now < a->stored)
		return pass(EXPIRING);

	__u64 answered = s->answered > now ? s->answered : now;

	if (answered - now + step > burst)
		return pass(LIMITED);

	int verdict = l3 == sizeof(struct iphdr) ? reply(ctx, &q, a, now, sizeof(struct iphdr))
						 : reply(ctx, &q, a, now, sizeof(struct ipv6hdr));

	if (verdict != XDP_TX)
		return verdict;
	s->answered = answered + step;
	pass(ANSWERED);
	__u64 *hit = bpf_map_lookup_elem(&hits, &slot);

	if (hit)
		__sync_fetch_and_add(hit, 1);
	return XDP_TX;
}
