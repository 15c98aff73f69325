package resolver

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/wire"
	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// notebook keeps what it is given, unless it fails or hangs.
type notebook struct {
	mu      sync.Mutex
	fails   error
	hangs   bool
	queries []fact.Query
	tries   int
}

func (n *notebook) set(fails error, hangs bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.fails, n.hangs = fails, hangs
}

func (n *notebook) all() []fact.Query {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.queries)
}

func (n *notebook) Append(ctx context.Context, queries []fact.Query) error {
	n.mu.Lock()
	hangs := n.hangs
	n.tries++
	n.mu.Unlock()
	if hangs {
		<-ctx.Done()
		return ctx.Err()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.fails != nil {
		return n.fails
	}
	n.queries = append(n.queries, queries...)
	return nil
}

// logging is a server whose log runs; stop ends it.
func logging(t *testing.T, share float64, b backend, book queryBook) (s *Server, told *events, stop func()) {
	t.Helper()
	told = newEvents()
	cfg := blocking()
	cfg.Log = share
	s = New(cfg, nil, newMetrics(), told.tell)
	s.flights.backend = b
	s.LogTo(book)
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	s.flights.start(ctx, &all)
	all.Go(func() { s.handler.log.run(ctx) })
	return s, told, func() {
		cancel()
		all.Wait()
	}
}

// TestQueryLogSaysWhere: one query of each kind, with where its answer came from.
func TestQueryLogSaysWhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		book, b := &notebook{}, &slowBackend{delay: 30 * time.Millisecond}
		s, _, stop := logging(t, 1, b, book)
		var want []string
		ask := func(name, said string) {
			t.Helper()
			if _, err := s.Lookup(t.Context(), name, dns.TypeA); err != nil {
				t.Fatal(err)
			}
			want = append(want, name+" "+said)
		}
		ask("www.example.net", "NOERROR asked 30ms")
		ask("www.example.net", "NOERROR cache 0s")
		ask("gw1.yapc.example", "NOERROR own 0s")
		ask("gw9.yapc.example", "NXDOMAIN own 0s")
		ask("x.ads.example.net", "NXDOMAIN block 0s")
		time.Sleep(2 * time.Minute)
		b.set(30*time.Millisecond, true)
		ask("www.example.net", "NOERROR stale 30ms") // waited for
		ask("www.example.net", "NOERROR stale 0s")   // known to fail
		ask("other.example.net", "SERVFAIL asked 30ms")
		stop() // what waits is written at the end
		var got []string
		for _, q := range book.all() {
			got = append(got, q.Name+" "+q.Rcode+" "+q.From+" "+q.Took.String())
			if q.Client != addr("127.0.0.1") || q.Type != "A" || q.Time.IsZero() {
				t.Errorf("%+v", q)
			}
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("(-want +got):\n%s", d)
		}
		if n := testutil.ToFloat64(s.m.logWritten); n != float64(len(want)) {
			t.Errorf("%v counted as written", n)
		}
	})
}

// TestQueryLogSamples: a tenth is about a tenth, and without a share there is no log.
func TestQueryLogSamples(t *testing.T) {
	book := &notebook{}
	l := &queryLog{share: .1, book: book, waiting: make(chan logged, logWaiting), m: newMetrics()}
	k := keyOf(t, question(t, "www.example.net", dns.TypeA))
	for range 20_000 {
		l.note(k, addr("10.1.0.7"), FromCache, 0, 0, noon)
	}
	if n := len(l.waiting); n < 1600 || n > 2400 {
		t.Errorf("%d of 20,000 at 10%%", n)
	}
	s := New(hall(), nil, newMetrics(), func(fact.Event) {})
	s.LogTo(book)
	if s.handler.log != nil || s.flights.log != nil {
		t.Error("a plan without a log has one")
	}
	s.handler.log.note(k, addr("10.1.0.7"), FromCache, 0, 0, noon)
	s.handler.log.run(t.Context()) // returns at once
}

// TestQueryLogNeverWaits: a store that hangs, or fails, costs queries in the log, counted,
// and answers go on; the crew hears once that it fails and once that it works.
func TestQueryLogNeverWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		book := &notebook{}
		s, told, stop := logging(t, 1, &slowBackend{}, book)
		var q wire.DNSQuery
		var k key
		ask := func(n int) {
			for range n {
				if _, v := s.handler.handle(nil, question(t, "gw1.yapc.example", dns.TypeA), addr("127.0.0.1"), false, time.Now(), &q, &k); v != answer {
					t.Fatal("no answer")
				}
			}
		}
		book.set(nil, true)
		begun := time.Now()
		ask(10)
		time.Sleep(time.Second) // the writer hangs now
		ask(2 * logWaiting)
		if d := time.Since(begun); d != time.Second {
			t.Errorf("answers waited %v", d-time.Second)
		}
		time.Sleep(6 * time.Second) // given up after 5
		book.set(errors.New("the disk is full"), false)
		time.Sleep(10 * time.Second)
		if !told.has("query-log-failed") || told.has("query-log-works") {
			t.Errorf("told %+v", told.list)
		}
		if n := testutil.ToFloat64(s.m.logLost); n != 10+2*logWaiting {
			t.Errorf("%v counted as lost, want %d", n, 10+2*logWaiting)
		}
		book.mu.Lock()
		if book.tries > 4 {
			t.Errorf("a store that fails was tried %d times in 17 s", book.tries)
		}
		book.mu.Unlock()
		book.set(nil, false)
		ask(3)
		time.Sleep(6 * time.Second)
		if n := len(book.all()); n != 3 || !told.has("query-log-works") || len(told.list) != 2 {
			t.Errorf("%d written, told %+v", n, told.list)
		}
		stop()
	})
}

// TestQueryLogAllocates: nothing on the path of an answer.
func TestQueryLogAllocates(t *testing.T) {
	l := &queryLog{share: .5, waiting: make(chan logged, 100), m: newMetrics()}
	k := keyOf(t, question(t, "www.example.net", dns.TypeA))
	if n := testing.AllocsPerRun(1000, func() { l.note(k, addr("10.1.0.7"), FromCache, 0, 0, noon) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if l.lost.Load() == 0 {
		t.Error("nothing was lost of more than there is room for")
	}
}
