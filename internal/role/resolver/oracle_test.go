package resolver

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hotstage/hotstage/internal/wire"
	"github.com/miekg/dns"
)

// TestAnswersAsTheLibraryWouldWrite asks 100,000 random queries of random cached responses and
// compares each answer, which is made of stored octets, with the one that the library writes
// from the response's records by the rules of the RFCs: the same octets where the response was
// in lower case, else the same records and the same length.
func TestAnswersAsTheLibraryWouldWrite(t *testing.T) {
	rng := rand.New(rand.NewPCG(6, 7))
	queries, each := 100_000, 100
	if testing.Short() {
		queries = 10_000
	}
	seen := map[string]int{}
	for n := 0; n < queries; {
		r := randomResponse(t, rng)
		e, ok := newEntry(keyOf(t, question(t, r.m.Question[0].Name, r.m.Question[0].Qtype)), r.packed, noon)
		if !ok {
			t.Fatalf("no entry of\n%s", r.m)
		}
		for range each {
			packet := oracleQuery(t, rng, r.m.Question[0])
			q, err := wire.ParseDNSQuery(packet)
			if err != nil {
				t.Fatal(err)
			}
			size := []int{min(int(q.Size), ourSize), 0xffff, r.length(0, "", &q), r.length(0, "", &q) - 1}[rng.IntN(4)]
			now := noon.Add(time.Duration(rng.Int64N(int64(2*e.ttl + 2*time.Second))))
			got := e.appendTo([]byte{1, 2}, &q, now, size)[2:]
			want, kind := r.answer(t, packet, now.Sub(noon), size)
			seen[kind]++
			if n++; r.lower {
				if !bytes.Equal(got, want) {
					t.Fatalf("query %d, %s, %v later:\n got %x\nwant %x\n got %v\nwant %v", n, kind, now.Sub(noon), got, want, unpacked(t, got), unpacked(t, want))
				}
				continue
			}
			text := func(b []byte) string { return strings.ToLower(unpacked(t, b).String()) }
			if diff := cmp.Diff(text(want), text(got)); diff != "" || len(got) != r.length(len(want), kind, &q) {
				t.Fatalf("query %d, %s: %d octets, want %d (-want +got):\n%s", n, kind, len(got), len(want), diff)
			}
			if !bytes.Equal(got[wire.DNSHeader:q.End], packet[wire.DNSHeader:q.End]) {
				t.Fatalf("query %d: the question is not the client's: %x", n, got)
			}
		}
	}
	for _, kind := range []string{"fresh", "stale", "truncated", "uncacheable"} {
		if seen[kind] < queries/500 {
			t.Errorf("%d answers were %s: the test does not test", seen[kind], kind)
		}
	}
}

// randomMessage is a response as an upstream sends it.
type randomMessage struct {
	m      *dns.Msg // as packed, without OPT
	packed []byte   // with one, or without
	lower  bool     // every name is in lower case, so that the library packs it in one way
	plain  int      // octets of packed without OPT
}

// randomResponse has a few names that share endings, so that there is something to compress.
func randomResponse(t *testing.T, rng *rand.Rand) *randomMessage {
	zone := []string{"example.", "conf.example.", "a.very.long.zone.of.a.conference.example.", "x."}[rng.IntN(4)]
	name := []string{"www.", "a.b.c.", "mail.", ""}[rng.IntN(4)] + zone
	r := &randomMessage{m: new(dns.Msg), lower: rng.IntN(3) > 0}
	if !r.lower {
		name = randomCase(rng, name)
	}
	typ := []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeTXT, dns.TypeMX, dns.TypeNS}[rng.IntN(5)]
	r.m.SetQuestion(name, typ)
	r.m.Response, r.m.RecursionAvailable, r.m.Compress = true, true, rng.IntN(4) > 0
	r.m.AuthenticatedData, r.m.Authoritative, r.m.CheckingDisabled = rng.IntN(2) == 0, rng.IntN(4) == 0, rng.IntN(4) == 0
	r.m.Rcode = []int{0, 0, 0, dns.RcodeNameError, dns.RcodeServerFailure}[rng.IntN(5)]
	odd := rng.IntN(10) == 0
	ttl := func() uint32 {
		if odd {
			return []uint32{0, 1, 300, 1 << 31}[rng.IntN(4)]
		}
		return []uint32{1, 30, 300, 3600, 86400, 604800}[rng.IntN(6)]
	}
	add := func(section *[]dns.RR, format string, args ...any) {
		*section = append(*section, record(t, fmt.Sprintf(format, args...)))
	}
	owner := name
	if r.m.Rcode == 0 {
		if rng.IntN(3) == 0 {
			owner = "cdn." + zone
			add(&r.m.Answer, "%s %d IN CNAME %s", name, ttl(), owner)
		}
		for i := range rng.IntN(6) {
			data := map[uint16]string{
				dns.TypeA: fmt.Sprintf("192.0.2.%d", i), dns.TypeAAAA: fmt.Sprintf("2001:db8::%d", i),
				dns.TypeTXT: fmt.Sprintf("%q", strings.Repeat("t", rng.IntN(250))), dns.TypeMX: fmt.Sprintf("%d mx%d.%s", i, i, zone), dns.TypeNS: fmt.Sprintf("ns%d.%s", i, zone),
			}[typ]
			add(&r.m.Answer, "%s %d IN %s %s", owner, ttl(), dns.TypeToString[typ], data)
		}
	}
	switch {
	case len(r.m.Answer) == 0 && r.m.Rcode != dns.RcodeServerFailure || rng.IntN(8) == 0:
		if rng.IntN(8) > 0 {
			add(&r.m.Ns, "%s %d IN SOA ns1.%s root.%s 1 2 3 4 %d", zone, ttl(), zone, zone, ttl())
		}
	case rng.IntN(2) == 0:
		add(&r.m.Ns, "%s %d IN NS ns1.%s", zone, ttl(), zone)
		add(&r.m.Extra, "ns1.%s %d IN A 192.0.2.53", zone, ttl())
	}
	r.plain = len(packed(t, r.m))
	whole := r.m.Copy()
	if rng.IntN(4) > 0 {
		whole.SetEdns0(4096, rng.IntN(2) == 0)
	}
	r.packed = packed(t, whole)
	return r
}

func randomCase(rng *rand.Rand, name string) string {
	b := []byte(name)
	for i := range b {
		if rng.IntN(2) == 0 && 'a' <= b[i] && b[i] <= 'z' {
			b[i] -= 'a' - 'A'
		}
	}
	return string(b)
}

// oracleQuery asks for what is cached, in any case, with any flags and any EDNS.
func oracleQuery(t *testing.T, rng *rand.Rand, of dns.Question) []byte {
	m := new(dns.Msg)
	m.SetQuestion(randomCase(rng, of.Name), of.Qtype)
	m.Id = uint16(rng.Uint32())
	m.RecursionDesired, m.AuthenticatedData, m.CheckingDisabled = rng.IntN(4) > 0, rng.IntN(2) == 0, rng.IntN(4) == 0
	if rng.IntN(2) == 0 {
		m.SetEdns0([]uint16{0, 512, 1232, 4096, 65535}[rng.IntN(5)], rng.IntN(2) == 0)
	}
	return packed(t, m)
}

// answer is what the library makes of the response for the query, the time after it came, and
// what kind of answer that is.
func (r *randomMessage) answer(t *testing.T, packet []byte, age time.Duration, size int) (b []byte, kind string) {
	query, m := unpacked(t, packet), r.m.Copy()
	life := r.life(m)
	m.Id, m.RecursionDesired, m.CheckingDisabled, m.Authoritative = query.Id, query.RecursionDesired, query.CheckingDisabled, false
	opt := query.IsEdns0()
	do := opt != nil && opt.Do()
	m.AuthenticatedData = m.AuthenticatedData && (do || query.AuthenticatedData) // RFC 6840 section 5.7
	switch {
	case life == 0:
		kind = "uncacheable"
	case age >= life:
		kind = "stale"
	default:
		kind = "fresh"
	}
	for _, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, x := range section {
			switch h := x.Header(); kind {
			case "stale":
				h.Ttl = 30 // RFC 8767 section 4
			case "fresh":
				h.Ttl -= min(h.Ttl, uint32(age/time.Second))
			}
		}
	}
	need := r.plain
	if opt != nil {
		need += wire.DNSOPTSize
	}
	if need > size {
		m.Answer, m.Ns, m.Extra, m.Truncated, kind = nil, nil, nil, true, "truncated"
	}
	if opt != nil {
		m.SetEdns0(ourSize, do)
	}
	b = packed(t, m)
	copy(b[wire.DNSHeader:], packet[wire.DNSHeader:][:len(query.Question[0].Name)+1]) // the client's case
	return b, kind
}

// life is how long the response may be used, and caps the TTLs as ours may be.
func (r *randomMessage) life(m *dns.Msg) time.Duration {
	negative := m.Rcode == dns.RcodeNameError || !hasType(m.Answer, m.Question[0].Qtype)
	shortest, soa := uint32(86400), false
	for i, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, x := range section {
			h := x.Header()
			if h.Ttl > 1<<31-1 {
				h.Ttl = 0 // RFC 2181 section 8
			}
			h.Ttl = min(h.Ttl, 86400)
			if s, ok := x.(*dns.SOA); ok && i == 1 {
				if soa = true; negative {
					h.Ttl = min(h.Ttl, s.Minttl, 3600) // RFC 2308 section 5
				}
			}
			shortest = min(shortest, h.Ttl)
		}
	}
	switch {
	case m.Rcode != 0 && m.Rcode != dns.RcodeNameError:
		return time.Second // RFC 9520 section 3.2
	case (len(m.Answer) == 0 || m.Rcode == dns.RcodeNameError) && !soa:
		return 0 // RFC 2308 section 5
	}
	return time.Duration(shortest) * time.Second
}

func hasType(section []dns.RR, typ uint16) bool {
	for _, x := range section {
		if x.Header().Rrtype == typ {
			return true
		}
	}
	return false
}

// length is how long our answer is when the library's has want octets: a name whose case was
// mixed is not compressed alike, so it is as long as what came.
func (r *randomMessage) length(want int, kind string, q *wire.DNSQuery) int {
	switch {
	case kind == "truncated":
		return want
	case q.EDNS:
		return r.plain + wire.DNSOPTSize
	}
	return r.plain
}
