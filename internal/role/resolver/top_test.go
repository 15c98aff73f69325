package resolver

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hotstage/hotstage/internal/wire"
	"github.com/miekg/dns"
)

// TestSketchBounds counts a skewed stream in few counters and beside it exactly: no weight is
// too small, none too large by more than the bound, and nothing heavier than the bound is
// missing.
func TestSketchBounds(t *testing.T) {
	const most = 64
	r := rand.New(rand.NewPCG(1, 2))
	zipf := rand.NewZipf(r, 1.2, 1, 5000)
	s, exact, total := newSketch[uint64](most), map[uint64]float64{}, 0.0
	for i := range 50_000 {
		if i%5000 == 4999 {
			s.fade(0.5, 0)
			for k := range exact {
				exact[k] *= 0.5
			}
			total *= 0.5
		}
		k, w := zipf.Uint64(), float64(1+r.IntN(4))
		s.add(k, w)
		exact[k] += w
		total += w
	}
	bound := total / most
	if d := s.total - total; d > 1e-6 || d < -1e-6 {
		t.Fatalf("total %v, want %v", s.total, total)
	}
	for k, c := range s.of {
		if c.weight < exact[k]-1e-6 || c.weight > exact[k]+bound+1e-6 {
			t.Errorf("%d: weight %v, exact %v, bound %v", k, c.weight, exact[k], bound)
		}
		if s.heap[c.at] != c {
			t.Errorf("%d is not where the heap says", k)
		}
	}
	for k, w := range exact {
		if w > bound && s.of[k] == nil {
			t.Errorf("%d with %v is missing; bound %v", k, w, bound)
		}
	}
	if len(s.of) != most || len(s.heap) != most {
		t.Errorf("%d and %d counters, want %d", len(s.of), len(s.heap), most)
	}
	list := s.heaviest(10)
	for i := 1; i < len(list); i++ {
		if list[i].weight > list[i-1].weight {
			t.Errorf("not in order: %v", list)
		}
	}
	s.fade(1e-9, 1)
	if len(s.of) != 0 || len(s.heap) != 0 {
		t.Errorf("%d counters are left of nothing", len(s.of))
	}
}

// TestTopFades: what was asked a while ago gives way to what is asked now.
func TestTopFades(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		top := newTop()
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() { top.run(ctx) })
		synctest.Wait()
		ask := func(name string, a netip.Addr, rate int, d time.Duration) {
			k := keyOf(t, question(t, name, dns.TypeA))
			for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(time.Second / time.Duration(rate)) {
				top.note(k, a)
			}
		}
		ask("morning.example", addr("10.1.0.1"), 100, 2*time.Minute)
		ask("noon.example", addr("10.1.0.2"), 50, 4*time.Minute)
		time.Sleep(time.Second)
		names, clients := top.names(5), top.busiest(5)
		if len(names) != 2 || string(names[0].key.bytes()) != string(keyOf(t, question(t, "noon.example", dns.TypeA)).bytes()) {
			t.Fatalf("names %+v", names)
		}
		if len(clients) != 2 || clients[0].client != addr("10.1.0.2") {
			t.Fatalf("clients %+v", clients)
		}
		span, _ := top.window(time.Now())
		if rate := float64(names[0].weight) / span.Seconds(); rate < 45 || rate > 52 {
			t.Errorf("noon.example at %.1f queries/s, want near 50 (weight %d over %v)", rate, names[0].weight, span)
		}
		time.Sleep(30 * time.Minute)
		if n := top.names(5); len(n) != 0 {
			t.Errorf("half an hour later: %+v", n)
		}
		cancel()
		all.Wait()
	})
}

// TestTopSamples: at a high rate few queries are noted, and the weights still say how many
// there were, per question.
func TestTopSamples(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		top := newTop()
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() { top.run(ctx) })
		synctest.Wait()
		keys := make([]*key, 10)
		for i := range keys {
			keys[i] = keyOf(t, question(t, fmt.Sprintf("n%d.example", i), dns.TypeA))
		}
		second := func() { // 50,000 queries, a third of them for one name
			for range 100 {
				for i := range 500 {
					k := keys[0]
					if i%3 != 0 {
						k = keys[1+i%9]
					}
					top.note(k, addr("10.1.0.9"))
				}
				time.Sleep(10 * time.Millisecond)
			}
		}
		second() // the first tenth is lost in part
		if e := top.every.Load(); e < 40 || e > 100 {
			t.Fatalf("one in %d at 50,000/s", e)
		}
		top.mu.Lock()
		top.of, top.clients = newSketch[string](topCounters), newSketch[netip.Addr](topCounters)
		top.mu.Unlock()
		for range 4 {
			second()
		}
		if n := top.names(1); n[0].key != *plain(keys[0]) || n[0].weight < 50_000 || n[0].weight > 83_000 {
			t.Errorf("the hottest %+v, want about 66,700", n[0].weight)
		}
		if lost := top.lost.Load(); lost != 0 {
			t.Errorf("%d samples lost at a steady rate", lost)
		}
		time.Sleep(10 * time.Second)
		if e := top.every.Load(); e != 1 {
			t.Errorf("one in %d when nobody asks", e)
		}
		cancel()
		all.Wait()
	})
}

// plain is the key without what an earlier, longer name has left behind it.
func plain(k *key) *key {
	p := &key{n: k.n}
	copy(p.buf[:], k.bytes())
	return p
}

// TestTopAdds: what was answered elsewhere counts too, and what was refused counts for its
// client alone.
func TestTopAdds(t *testing.T) {
	var none *top
	none.note(nil, addr("10.1.0.7")) // without a top, nothing
	top := newTop()
	top.begin(noon)
	k := keyOf(t, question(t, "kernel.example", dns.TypeAAAA))
	top.add(k, 700)
	top.note(nil, addr("10.1.0.7"))
	top.count(noon)
	if n := top.names(3); len(n) != 1 || n[0].weight != 700 || n[0].key != *plain(k) {
		t.Errorf("names %+v", n)
	}
	if c := top.busiest(3); len(c) != 1 || c[0] != (busy{addr("10.1.0.7"), 1}) {
		t.Errorf("clients %+v", c)
	}
}

// TestTopAllocates: nothing on the path of an answer, neither with room nor without.
func TestTopAllocates(t *testing.T) {
	top := newTop()
	k := keyOf(t, question(t, "www.example", dns.TypeA))
	if n := testing.AllocsPerRun(3*topWaiting, func() { top.note(k, addr("10.1.0.7")) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if top.lost.Load() == 0 {
		t.Error("more samples than there is room for, and none was lost")
	}
}

func BenchmarkTopNote(b *testing.B) {
	for _, every := range []uint32{1, 100} {
		b.Run(fmt.Sprintf("every=%d", every), func(b *testing.B) {
			top := newTop()
			top.begin(noon)
			top.every.Store(every)
			k := keyOf(b, question(b, "www.example", dns.TypeA))
			a := addr("10.1.0.7")
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				top.note(k, a)
				if i%1000 == 0 {
					top.count(noon)
				}
			}
		})
	}
}

// TestTopOfHandler: questions that are answered count with their names, and queries over a
// client's rate for the client alone.
func TestTopOfHandler(t *testing.T) {
	h := newHandler(hall(), nil)
	h.top.begin(noon)
	h.top.every.Store(1)
	var q wire.DNSQuery
	var k key
	flood := addr("10.1.0.66")
	for range clientBurst + 50 {
		h.handle(nil, question(t, "gw1.yapc.example", dns.TypeA), flood, true, noon, &q, &k)
	}
	h.handle(nil, question(t, "gw1.yapc.example", dns.TypeA), addr("192.168.9.9"), true, noon, &q, &k) // none of ours
	h.top.count(noon)
	if n := h.top.names(9); len(n) != 1 || n[0].weight != clientBurst || string(n[0].key.name()) != "\x03gw1\x04yapc\x07example\x00" {
		t.Errorf("names %+v", n)
	}
	if c := h.top.busiest(9); len(c) != 1 || c[0] != (busy{flood, clientBurst + 50}) {
		t.Errorf("clients %+v", c)
	}
}
