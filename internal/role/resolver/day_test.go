package resolver

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hotstage/hotstage/internal/wire"
	"github.com/miekg/dns"
)

// fickleBackend answers names of a day: each time with another TTL and another length, at
// times that there is no such name, at times not at all, and always some time later.
type fickleBackend struct {
	t   *testing.T
	mu  sync.Mutex
	rng *rand.Rand
}

func (b *fickleBackend) resolve(ctx context.Context, q ask) ([]byte, error) {
	b.mu.Lock()
	kind, ttl, size, delay := b.rng.IntN(20), []int{0, 1, 30, 60, 300, 3600, 86400}[b.rng.IntN(7)], b.rng.IntN(600), time.Duration(b.rng.IntN(200))*time.Millisecond
	b.mu.Unlock()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(delay):
	}
	name := wire.DNSNameString(q.name)
	switch kind {
	case 0:
		return nil, errors.New("no answer")
	case 1:
		return response(b.t, name, q.typ, dns.RcodeServerFailure), nil
	case 2, 3, 4:
		return response(b.t, name, q.typ, dns.RcodeNameError, fmt.Sprintf("!example. %d IN SOA ns.example. root.example. 1 2 3 4 %d", ttl, ttl)), nil
	}
	return response(b.t, name, q.typ, 0, fmt.Sprintf("%s. %d IN A 192.0.2.1", name, ttl), fmt.Sprintf("%s. 60 IN TXT %q", name, strings.Repeat("t", min(size, 255)))), nil
}

// TestADayOfTraffic is 24 hours of virtual time, with 20,000 names of random TTLs asked for by
// more clients than are remembered: each has one answer, the cache keeps within its bytes and
// the heap within what they need, and nothing waits or is counted when all is over.
func TestADayOfTraffic(t *testing.T) {
	const names, limit = 20_000, 2 << 20
	each, day := 250*time.Millisecond, 24*time.Hour // 345,600 queries
	if testing.Short() {
		each = 2 * time.Second
	}
	synctest.Test(t, func(t *testing.T) {
		cfg := hall()
		cfg.Cache = limit
		h := newHandler(cfg, nil)
		f := newFlights(h.cache, &fickleBackend{t: t, rng: rand.New(rand.NewPCG(1, 2))}, h.clients, h.m)
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		f.start(ctx, &all)
		rng := rand.New(rand.NewPCG(3, 4))
		zipf := rand.NewZipf(rng, 1.1, 10, names-1)
		packets := make([][]byte, names)
		for i := range packets {
			packets[i] = question(t, fmt.Sprintf("n%d.example", i), dns.TypeA)
		}
		before, most := inUse(), uint64(0)
		asked, hits, answered := 0, 0, 0
		var mu sync.Mutex
		begun, hour := time.Now(), time.Duration(0)
		var k key
		buf := make([]byte, 0, ourSize)
		for time.Since(begun) < day {
			var q wire.DNSQuery
			now, from := time.Now(), someone(rng)
			reply, v := h.handle(buf, packets[zipf.Uint64()], from, true, now, &q, &k)
			asked++
			switch v {
			case answer:
				if hits++; len(reply) < wire.DNSHeader {
					t.Fatalf("answer %x", reply)
				}
			case wait:
				f.board(&k, passenger{q: q, size: 512, from: from, since: now, answer: func([]byte) {
					mu.Lock()
					defer mu.Unlock()
					answered++
				}})
			default:
				t.Fatalf("query %d from %v is ignored", asked, from)
			}
			if _, b := h.cache.used(); b > limit {
				t.Fatalf("after %v the cache has %d bytes, limit %d", time.Since(begun), b, limit)
			}
			if time.Since(begun) >= hour {
				most, hour = max(most, inUse()), hour+time.Hour
			}
			time.Sleep(each)
		}
		time.Sleep(flightTime + time.Second)
		cancel()
		all.Wait()
		entries, octets := h.cache.used()
		t.Logf("%d queries, %d from the cache, %d answers of %d octets at the end, heap grew by %.1f MiB at most", asked, hits, entries, octets, float64(int64(most-before))/(1<<20))
		if hits+answered != asked || hits < asked/10 || hits > asked*9/10 {
			t.Errorf("%d asked, %d from the cache, %d answered later", asked, hits, answered)
		}
		// Each client remembered takes about 120 octets in the map.
		if grown := int64(most - before); grown > limit*6/5+maxClients*200 {
			t.Errorf("the heap grew by %d octets", grown)
		}
		if len(f.of) > 0 || h.clients.total.waiting != 0 || h.clients.total.flights != 0 {
			t.Errorf("%d flights are left, and %+v", len(f.of), &h.clients.total)
		}
		h.cache.verify(t)
	})
}

// someone is one of many devices, most of them seen once, as with addresses that change.
func someone(rng *rand.Rand) netip.Addr {
	if rng.IntN(2) == 0 {
		return netip.AddrFrom4([4]byte{10, 1, byte(rng.IntN(16)), byte(rng.IntN(256))})
	}
	a := addr("2001:db8:1::").As16()
	binary.BigEndian.PutUint64(a[8:], rng.Uint64())
	return netip.AddrFrom16(a)
}

// inUse is how much of the heap is.
func inUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
