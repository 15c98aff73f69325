package resolver

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hotstage/hotstage/internal/wire"
	"github.com/miekg/dns"
)

// TestLifeOfAnswers: how long an answer is fresh, by RFC 2181, RFC 2308, RFC 8767, RFC 9520
// and our own bounds; and what the TTLs are that a client gets at once.
func TestLifeOfAnswers(t *testing.T) {
	const soa = "!example. 3600 IN SOA ns.example. root.example. 1 2 3 4 "
	for _, c := range []struct {
		what    string
		typ     uint16
		rcode   int
		records []string
		want    time.Duration // 0: not cached
	}{
		{"the shortest TTL", dns.TypeA, 0, []string{"a.example. 300 IN CNAME b.example.", "b.example. 20 IN A 192.0.2.1", "!example. 90 IN NS ns.example."}, 20 * time.Second},
		{"TTL 0", dns.TypeA, 0, []string{"a.example. 0 IN A 192.0.2.1"}, 0},
		{"longer than a day", dns.TypeA, 0, []string{"a.example. 604800 IN A 192.0.2.1"}, maxTTL},
		{"TTL with its top bit", dns.TypeA, 0, []string{"a.example. 2147483648 IN A 192.0.2.1"}, 0},
		{"NXDOMAIN for the SOA's minimum", dns.TypeA, dns.RcodeNameError, []string{soa + "60"}, time.Minute},
		{"NXDOMAIN for the SOA's TTL", dns.TypeA, dns.RcodeNameError, []string{"!example. 5 IN SOA ns.example. root.example. 1 2 3 4 60"}, 5 * time.Second},
		{"NXDOMAIN for an hour at most", dns.TypeA, dns.RcodeNameError, []string{"!example. 86400 IN SOA ns.example. root.example. 1 2 3 4 86400"}, time.Hour},
		{"NXDOMAIN without SOA", dns.TypeA, dns.RcodeNameError, nil, 0},
		{"NODATA", dns.TypeAAAA, 0, []string{soa + "30"}, 30 * time.Second},
		{"NODATA without SOA", dns.TypeAAAA, 0, nil, 0},
		{"NODATA behind a CNAME", dns.TypeAAAA, 0, []string{"a.example. 300 IN CNAME b.example.", soa + "30"}, 30 * time.Second},
		{"NXDOMAIN behind a CNAME", dns.TypeA, dns.RcodeNameError, []string{"a.example. 300 IN CNAME b.example.", soa + "30"}, 30 * time.Second},
		{"SERVFAIL", dns.TypeA, dns.RcodeServerFailure, nil, time.Second},
		{"REFUSED with a record", dns.TypeA, dns.RcodeRefused, []string{"a.example. 300 IN A 192.0.2.1"}, time.Second},
	} {
		e := cached(t, noon, response(t, "a.example", c.typ, c.rcode, c.records...))
		if e.ttl != c.want {
			t.Errorf("%s: fresh for %v, want %v", c.what, e.ttl, c.want)
		}
		if c.want > 0 && (!e.fresh(noon.Add(c.want-1)) || e.fresh(noon.Add(c.want))) {
			t.Errorf("%s: not fresh for %v exactly", c.what, c.want)
		}
		for _, r := range append(unpacked(t, e.msg).Answer, unpacked(t, e.msg).Ns...) {
			if ttl := time.Duration(r.Header().Ttl) * time.Second; ttl > maxTTL {
				t.Errorf("%s: a client gets %v", c.what, r)
			}
		}
	}
}

// TestStale: an expired answer is good for a day, with a TTL of 30 s; a failure is not.
func TestStale(t *testing.T) {
	e := cached(t, noon, response(t, "a.example", dns.TypeA, 0, "a.example. 60 IN A 192.0.2.1"))
	for after, want := range map[time.Duration]bool{0: false, 59 * time.Second: false, time.Minute: true, time.Minute + maxStale - 1: true, time.Minute + maxStale: false} {
		if e.stale(noon.Add(after)) != want {
			t.Errorf("after %v: stale is %v", after, !want)
		}
	}
	q, _ := wire.ParseDNSQuery(question(t, "A.example", dns.TypeA))
	if diff := cmp.Diff([]string{"A.example. 30 IN A 192.0.2.1"}, lines(unpacked(t, e.appendTo(nil, &q, noon.Add(time.Hour), 512)))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if failed := cached(t, noon, response(t, "a.example", dns.TypeA, dns.RcodeServerFailure)); failed.stale(noon.Add(time.Minute)) {
		t.Error("a failure may be served stale")
	}
}

// TestCaseOfNames: a client sees the name in its own case or in lower case, never in that of
// our question to the resolver.
func TestCaseOfNames(t *testing.T) {
	for compress, want := range map[bool]string{true: "wWw.Example.net. 60 IN A 192.0.2.1", false: "www.example.net. 60 IN A 192.0.2.1"} {
		m := unpacked(t, response(t, "WWw.eXAMPLE.Net", dns.TypeA, 0, "WWw.eXAMPLE.Net. 60 IN A 192.0.2.1"))
		m.Compress = compress
		q, _ := wire.ParseDNSQuery(question(t, "wWw.Example.net", dns.TypeA))
		got := unpacked(t, cached(t, noon, packed(t, m)).appendTo(nil, &q, noon, 512))
		if diff := cmp.Diff([]string{"wWw.Example.net.", want}, append([]string{got.Question[0].Name}, lines(got)...)); diff != "" {
			t.Errorf("compressed %v (-want +got):\n%s", compress, diff)
		}
	}
}

// TestWithoutOPT: the OPT record is taken out wherever it stands, and the others stay.
func TestWithoutOPT(t *testing.T) {
	m := unpacked(t, response(t, "a.example", dns.TypeMX, 0, "a.example. 60 IN MX 1 mail.example."))
	want := record(t, "mail.example. 61 IN A 192.0.2.1")
	for what, extra := range map[string][]dns.RR{"last": {want, m.Extra[0]}, "first": {m.Extra[0], want}, "none": {want}} {
		m.Extra = extra
		b, ok := withoutOPT(packed(t, m))
		if !ok {
			t.Fatalf("%s: unreadable", what)
		}
		if diff := cmp.Diff([]string{"a.example. 60 IN MX 1 mail.example.", "+mail.example. 61 IN A 192.0.2.1"}, lines(unpacked(t, b))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
		if bytes.Contains(b[12:], []byte{0, 0, 41}) {
			t.Errorf("%s: there is an OPT record", what)
		}
	}
}

// TestCacheAgainstMap does 10,000 random deeds on a small cache and on a map that forgets
// nothing: what the cache gives is what was put last, it keeps within its bytes, and it knows
// how many they are.
func TestCacheAgainstMap(t *testing.T) {
	const limit = 256 << 10
	rng := rand.New(rand.NewPCG(1, 2))
	c := newCache(limit)
	type put struct {
		msg    string
		ttl    time.Duration
		stored time.Time
	}
	oracle := map[string]put{}
	now := noon
	hits, misses, updates := 0, 0, 0
	for i := range 10000 {
		now = now.Add(time.Duration(rng.IntN(1000)) * time.Millisecond)
		name := fmt.Sprintf("n%d.example", int(rng.ExpFloat64()*300))
		k := keyOf(t, question(t, name, dns.TypeTXT))
		if rng.IntN(2) == 0 {
			if _, ok := oracle[name]; ok {
				updates++
			}
			e := cached(t, now, response(t, name, dns.TypeTXT, 0, fmt.Sprintf("%s. %d IN TXT \"%d\"", name, 1+rng.IntN(300), i), text(name, rng.IntN(1500))))
			oracle[name] = put{string(e.msg), e.ttl, now}
			c.put(e)
		} else if e := c.get(k); e != nil {
			hits++
			want := oracle[name]
			if string(e.msg) != want.msg || e.stored != want.stored || e.fresh(now) != (now.Sub(want.stored) < want.ttl) {
				t.Fatalf("step %d: %s is not what was put last", i, name)
			}
		} else if _, ok := oracle[name]; ok {
			misses++ // put out, which the byte bound allows
		}
		if _, b := c.used(); b > limit {
			t.Fatalf("step %d: %d bytes, limit %d", i, b, limit)
		}
	}
	if hits < 1000 || misses < 100 || updates < 100 {
		t.Fatalf("%d hits, %d put out, %d updates: the test does not test", hits, misses, updates)
	}
	c.verify(t)
}

// verify checks that the lists, the map and the counts of every shard agree.
func (c *cache) verify(t *testing.T) {
	t.Helper()
	for i := range c.shards {
		s := &c.shards[i]
		n := 0
		for _, q := range []*queue{&s.small, &s.main} {
			bytes := 0
			var last *entry
			for e := q.head; e != nil; last, e = e, e.next {
				n++
				bytes += e.size()
				if e.prev != last || e.queue != q || s.entries.find(e.hash, []byte(e.key)) != e {
					t.Errorf("shard %d: %q is out of order", i, e.key)
				}
			}
			if bytes != q.bytes || last != q.tail {
				t.Errorf("shard %d: %d bytes, counted as %d", i, bytes, q.bytes)
			}
		}
		if n != s.entries.count {
			t.Errorf("shard %d: %d listed, %d in the map", i, n, s.entries.count)
		}
		if most := s.limit / (4 * overhead); len(s.ghosts) > most || len(s.ghostOrder) > most {
			t.Errorf("shard %d: %d and %d remembered, at most %d", i, len(s.ghosts), len(s.ghostOrder), most)
		}
	}
}

// TestFloodDoesNotPushOutWhatAllUse: 200 names asked for now and then stay, while a flood of
// 50,000 names asked for once goes by, ten times what the cache holds.
func TestFloodDoesNotPushOutWhatAllUse(t *testing.T) {
	c := newCache(minCache)
	entryOf := func(name string) *entry {
		return cached(t, noon, response(t, name, dns.TypeA, 0, name+". 300 IN A 192.0.2.1"))
	}
	used := make([]*key, 200)
	for i := range used {
		name := fmt.Sprintf("used%d.example", i)
		used[i] = keyOf(t, question(t, name, dns.TypeA))
		c.put(entryOf(name))
	}
	lost := 0
	for i := range 50000 {
		if k := used[i%len(used)]; i%4 == 0 && c.get(k) == nil {
			lost++
			c.put(entryOf(fmt.Sprintf("used%d.example", i%len(used))))
		}
		c.put(entryOf(fmt.Sprintf("flood%d.example", i)))
	}
	if lost > 0 {
		t.Errorf("%d of 12500 questions for names in use were not in the cache", lost)
	}
	if n, _ := c.used(); n < 2000 {
		t.Errorf("only %d answers fit", n)
	}
	c.verify(t)
}

// TestReturningNameIsKept: a name put out and put again goes where a flood does not reach.
func TestReturningNameIsKept(t *testing.T) {
	var s shard
	s.entries, s.ghosts, s.limit = newTable(64<<10), map[uint64]struct{}{}, 64<<10
	put := func(name string, hash uint64) {
		e := cached(t, noon, response(t, name, dns.TypeA, 0, name+". 300 IN A 192.0.2.1"))
		e.hash = hash
		s.put(e)
	}
	n := 0
	flood := func(to int) {
		for ; n < to; n++ {
			put(fmt.Sprintf("flood%d.example", n), uint64(n+10))
		}
	}
	back := keyOf(t, question(t, "back.example", dns.TypeA))
	kept := func() *entry { return s.entries.find(1, back.bytes()) }
	put("back.example", 1)
	flood(250)
	if kept() != nil {
		t.Fatal("the flood did not push it out")
	}
	put("back.example", 1)
	flood(500)
	if kept() == nil {
		t.Error("the name came back and was put out again")
	}
}

// TestCacheMemory: the heap grows by what the cache says it takes, within a fifth.
func TestCacheMemory(t *testing.T) {
	const limit = 16 << 20
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	c := newCache(limit)
	for i := range 100000 { // more than fit, so that names are remembered, too
		name := fmt.Sprintf("host%d.example.net", i)
		c.put(cached(t, noon, response(t, name, dns.TypeA, 0, name+". 300 IN CNAME a.cdn.example.", "a.cdn.example. 60 IN A 192.0.2.1", "a.cdn.example. 60 IN A 192.0.2.2")))
	}
	grown := int64(heap() - before)
	entries, _ := c.used()
	t.Logf("%d answers, heap %.1f MiB for %d MiB: %d bytes each", entries, float64(grown)/(1<<20), limit>>20, grown/int64(entries))
	if grown > limit*6/5 {
		t.Errorf("heap grew by %.1f MiB", float64(grown)/(1<<20))
	}
	runtime.KeepAlive(c)
}
