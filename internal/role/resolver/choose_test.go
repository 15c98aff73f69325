package resolver

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hotstage/hotstage/internal/wire"
	"github.com/miekg/dns"
)

// shares asks many names, one after another, and counts who was asked first.
func shares(f *forwarder, questions int) map[string]int {
	got := map[string]int{}
	for n := range questions {
		got[f.order(ask{name: fmt.Appendf(nil, "n%d", n)})[0].name]++
	}
	return got
}

// TestChoice: among those that are well the slower get less, but none of three nothing or
// everything; doubtful ones are the second choice, those that are down the last.
func TestChoice(t *testing.T) {
	f, _, _ := cluster(3)
	one, two, three := f.upstreams[0], f.upstreams[1], f.upstreams[2]
	for i, u := range f.upstreams {
		u.srtt = time.Duration(10*(i+1)) * time.Millisecond
	}
	// Of two by chance the better: 2/3 of pairs have the first, 1/3 the second without it.
	got := shares(f, 3000)
	if a, b := got[one.name], got[two.name]; a < 1850 || a > 2150 || b < 850 || b > 1150 || a+b != 3000 {
		t.Errorf("of three of 10, 20 and 30 ms: %v", got)
	}
	one.outstanding = 4 // 50 ms by now
	if got := shares(f, 3000); got[two.name] < 1850 || got[three.name] < 850 {
		t.Errorf("when the first is busy: %v", got)
	}
	one.outstanding = 0
	one.refused = true
	if got := shares(f, 100); got[two.name] != 100 {
		t.Errorf("when nobody listened at the first: %v", got)
	}
	two.down, three.down = true, true
	if got := shares(f, 100); got[one.name] != 100 {
		t.Errorf("doubt is better than down: %v", got)
	}
	one.down = true
	if n := len(f.order(ask{name: []byte{0}})); n != 3 {
		t.Errorf("when all are down %d are asked", n)
	}
}

// TestChildrenShareNames: each of two children has its half of the names, always the same;
// when one is in doubt the other has all, and addresses come when both are.
func TestChildrenShareNames(t *testing.T) {
	f, _, _ := cluster(1)
	f.children([]string{"unbound-1", "unbound-2"}, nil)
	first := func(name string) string { return f.order(ask{name: []byte(name)})[0].name }
	got := shares(f, 1000)
	if got["unbound-1"] < 400 || got["unbound-2"] < 400 || got["unbound-1"]+got["unbound-2"] != 1000 {
		t.Errorf("halves: %v", got)
	}
	for n := range 100 {
		name := fmt.Sprintf("x%d", n)
		if a, b := first(name), first(name); a != b {
			t.Fatalf("%s is asked of %s and of %s", name, a, b)
		}
	}
	f.upstreams[0].refused = true
	if got := shares(f, 100); got["unbound-2"] != 100 {
		t.Errorf("one is gone: %v", got)
	}
	f.upstreams[1].refused = true
	if got := shares(f, 100); got[upstreamAddr(1).String()] != 100 {
		t.Errorf("both are gone: %v", got)
	}
}

// TestSlowIsNotAskedTwice: resolvers that are slow but at work get a tenth more questions at
// most.
func TestSlowIsNotAskedTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, s, _ := cluster(2)
		s.set(upstreamAddr(1), script{delay: 900 * time.Millisecond})
		s.set(upstreamAddr(2), script{delay: 900 * time.Millisecond})
		const questions = 4000
		var all sync.WaitGroup
		for n := range questions {
			all.Go(func() { resolveNow(f, fmt.Sprintf("n%d.slow.example", n)) })
			time.Sleep(time.Millisecond)
		}
		all.Wait()
		s.rest.Wait()
		s.mu.Lock()
		sent := len(s.seen)
		s.mu.Unlock()
		// Those of the first 900 ms, before any answer, cannot know that somebody is at work.
		if most := questions + 900 + questions/10 + hedgeBurst; sent < questions+400 || sent > most {
			t.Errorf("%d questions for %d, want %d at most", sent, questions, most)
		}
	})
}

// TestOneNameMarksNobody: a name that fails everywhere, asked again and again, says nothing of
// the resolver; failures for many names do, and the other is asked first from then on.
func TestOneNameMarksNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, s, _ := cluster(2)
		s.set(upstreamAddr(1), script{rcode: dns.RcodeServerFailure})
		s.set(upstreamAddr(2), script{delay: time.Millisecond})
		for range 20 {
			resolveNow(f, "bad.example.net")
			f.upstreams[1].srtt = time.Second // so that the first is the one to ask
		}
		if c, _ := f.upstreams[0].stands(time.Now()); c != well {
			t.Errorf("one name, and the resolver stands at %d", c)
		}
		for n := range 5 {
			resolveNow(f, fmt.Sprintf("n%d.example.net", n))
			f.upstreams[1].srtt = time.Second
		}
		if c, _ := f.upstreams[0].stands(time.Now()); c != doubt {
			t.Errorf("six names, and the resolver stands at %d", c)
		}
		if got := f.order(ask{name: []byte{0}})[0]; got != f.upstreams[1] {
			t.Errorf("asked first: %s", got.name)
		}
		s.rest.Wait()
	})
}

// TestHealthNames: the plan's names are asked for in turn, with a label by chance where a
// star stands; a single one has the root beside it, so that it alone marks nobody.
func TestHealthNames(t *testing.T) {
	read := func(h *health, n int) (got []string) {
		for range n {
			q := h.next()
			got = append(got, fmt.Sprint(wire.DNSNameString(q.name), " ", dns.TypeToString[q.typ]))
		}
		return got
	}
	if diff := cmp.Diff([]string{"a.example A", ". NS", "a.example A"}, read(newHealth([]string{"a.example"}), 3)); diff != "" {
		t.Errorf("one of the plan's (-want +got):\n%s", diff)
	}
	got := read(newHealth([]string{"*.a.example", "b.example", "c.example"}), 4)
	if got[0] == got[3] || len(got[0]) != len("h0123456789ab.a.example A") || got[1] != "b.example A" {
		t.Errorf("three of the plan's: %q", got)
	}
	seen := map[string]bool{}
	for _, q := range read(newHealth(nil), 13) {
		seen[q] = true
	}
	if len(seen) != 13 || !seen[". NS"] || !seen["jp SOA"] {
		t.Errorf("without the plan's: %v", seen)
	}
}

// TestProbeNeedsSeveralNames: a resolver that fails for one of the names asked to see whether
// it is well stays up; the health name's own zone may be the one that is broken.
func TestProbeNeedsSeveralNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, s, e := cluster(1)
		f.health = newHealth([]string{"broken.yapc.example"})
		s.set(upstreamAddr(1), script{fails: "broken.yapc.example."})
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() { f.watch(ctx) })
		time.Sleep(2 * time.Minute)
		if f.upstreams[0].isDown() || e.has("no-upstream") {
			t.Error("one name that fails marked the resolver down")
		}
		s.set(upstreamAddr(1), script{rcode: dns.RcodeRefused})
		time.Sleep(probeIdle + probeEvery)
		if !f.upstreams[0].isDown() || !e.has("no-upstream") {
			t.Error("a resolver that refuses everything is up")
		}
		cancel()
		all.Wait()
		s.rest.Wait()
	})
}
