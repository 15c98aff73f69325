package resolver

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/wire"
	"github.com/miekg/dns"
)

const (
	logWaiting = 8192                   // queries between two writes
	logEvery   = 200 * time.Millisecond // queries are written so often: the path of an answer wakes nobody
	logAgain   = 5 * time.Second        // until the next attempt when the store fails
	logTime    = 5 * time.Second        // a write that takes longer is given up
)

// queryBook keeps queries. Append returns when they are in the store, or why none is; it is
// called by one goroutine.
type queryBook interface {
	Append(ctx context.Context, queries []fact.Query) error
}

// queryLog writes a share of the queries to a book. A full or slow disk costs queries in the
// log, never an answer. A nil log notes nothing.
type queryLog struct {
	share   float64
	book    queryBook
	waiting chan logged
	lost    atomic.Uint64
	m       *Metrics
	event   func(severity fact.Severity, kind, words string)
}

// logged is a query on its way to the book, of a fixed size.
type logged struct {
	key    key
	client netip.Addr
	at     time.Time // of the answer
	took   time.Duration
	rcode  int
	from   string // one of the constants: nothing is allocated
}

// LogTo writes the share of the queries that the plan says to the book, which gets a batch
// at a time and may be as slow as it likes. Call it before Run; without a share nothing is
// written.
func (s *Server) LogTo(book queryBook) {
	if s.cfg.Log <= 0 {
		return
	}
	l := &queryLog{share: s.cfg.Log, book: book, waiting: make(chan logged, logWaiting), m: s.m, event: s.event}
	s.handler.log, s.flights.log = l, l
}

// note takes note of an answer. It blocks for nothing, allocates nothing and wakes nobody.
func (l *queryLog) note(k *key, client netip.Addr, from string, rcode int, took time.Duration, now time.Time) {
	if l == nil || l.share < 1 && rand.Float64() >= l.share {
		return
	}
	x := logged{client: client, at: now, took: took, rcode: rcode, from: from}
	x.key.n = copy(x.key.buf[:], k.bytes())
	select {
	case l.waiting <- x:
	default:
		l.lost.Add(1)
	}
}

// run writes until ctx ends, and once more then.
func (l *queryLog) run(ctx context.Context) {
	if l == nil {
		return
	}
	tick := time.NewTicker(logEvery)
	defer tick.Stop()
	var again time.Time // not before
	failing := false
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			l.write(last)
			l.count()
			return
		case now := <-tick.C:
			if now.After(again) && len(l.waiting) > 0 {
				err := l.write(ctx)
				if err != nil {
					again = time.Now().Add(logAgain)
				}
				failing = l.tell(err, failing)
			}
			l.count()
		}
	}
}

// write gives the book what waits.
func (l *queryLog) write(ctx context.Context) error {
	batch := make([]fact.Query, 0, len(l.waiting))
	for range cap(batch) {
		x := <-l.waiting
		batch = append(batch, x.fact())
	}
	if len(batch) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, logTime)
	defer cancel()
	err := l.book.Append(ctx, batch)
	if err != nil {
		l.lost.Add(uint64(len(batch)))
		return err
	}
	l.m.logWritten.Add(float64(len(batch)))
	return nil
}

func (l *queryLog) count() { l.m.logLost.Add(float64(l.lost.Swap(0))) }

// tell says that the log has begun or ceased to fail, and returns whether it fails.
func (l *queryLog) tell(err error, failing bool) bool {
	switch {
	case err != nil && !failing:
		l.event(fact.Warning, "query-log-failed", fmt.Sprintf("Queries are not written to the log: %v. Answers do not wait for it.", err))
		return true
	case err == nil && failing:
		l.event(fact.Info, "query-log-works", "Queries are written to the log again.")
		return false
	}
	return failing
}

func (x *logged) fact() fact.Query {
	return fact.Query{Time: x.at, Client: x.client, Name: wire.DNSNameString(x.key.name()), Type: typeString(x.key.typ()),
		Rcode: dns.RcodeToString[x.rcode], From: x.from, Took: x.took}
}
