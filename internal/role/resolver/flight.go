package resolver

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"

	"github.com/hotstage/hotstage/internal/wire"
)

const (
	maxFlights    = 4096                    // questions asked at once
	maxPassengers = 1024                    // clients waiting for one question
	flightTime    = 5 * time.Second         // a stub asks again after 5 s (resolv.conf)
	staleAfter    = 1800 * time.Millisecond // RFC 8767 section 5: client response timer
)

// passenger is a client that waits for an answer.
type passenger struct {
	q      wire.DNSQuery // its Name is the passenger's own copy
	size   int           // octets that the client takes
	from   netip.Addr
	since  time.Time
	answer func([]byte) // must not block; the bytes are the callee's for the call only
}

// flights asks the backend once for all who have the same question.
type flights struct {
	cache   *cache
	backend backend
	clients *clients
	log     *queryLog // nil without
	m       *Metrics

	mu       sync.Mutex
	ctx      context.Context
	all      *sync.WaitGroup
	of       map[string]*flight
	renewals int
}

type flight struct {
	key        key
	by         netip.Addr // who asked first: the flight is of its share
	passengers []passenger
	renewal    bool // nobody asked: see renew
	late       bool // stale has been served: who comes now gets it at once
}

func newFlights(c *cache, b backend, cl *clients, m *Metrics) *flights {
	return &flights{cache: c, backend: b, clients: cl, m: m, of: map[string]*flight{}}
}

// start lets flights begin, until ctx ends; all waits for them.
func (f *flights) start(ctx context.Context, all *sync.WaitGroup) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ctx, f.all = ctx, all
}

// board makes p wait for the answer of k. It is false when too many wait: then p gets what
// there is at once, an expired answer or SERVFAIL.
func (f *flights) board(k *key, p passenger) {
	if !f.clients.enter(p.from) {
		f.m.busy.Inc()
		f.without(k, p)
		return
	}
	f.mu.Lock()
	x := f.of[string(k.bytes())]
	switch {
	case f.ctx == nil || f.ctx.Err() != nil,
		x == nil && !f.clients.launch(p.from),
		x != nil && (len(x.passengers) >= maxPassengers || x.late):
		late := x != nil && x.late
		f.mu.Unlock()
		f.clients.leave(p.from)
		if !late {
			f.m.busy.Inc()
		}
		f.without(k, p)
		return
	case x == nil:
		x = &flight{key: *k, by: p.from}
		f.of[string(k.bytes())] = x
		f.m.waiting.Inc()
		f.all.Go(func() { f.fly(f.ctx, x) })
	}
	x.passengers = append(x.passengers, p)
	f.mu.Unlock()
}

// without answers a client that cannot wait.
func (f *flights) without(k *key, p passenger) {
	if e := f.cache.get(k); e != nil && e.stale(p.since) {
		f.m.stale.Inc()
		f.log.note(k, p.from, FromStale, e.rcode(), 0, p.since)
		p.answer(e.reply(nil, &p.q, p.since, p.size))
		return
	}
	f.m.failed.Inc()
	f.log.note(k, p.from, FromAsked, wire.DNSServFail, 0, p.since)
	p.answer(unable(&p.q, p.size))
}

// fly asks and answers all passengers.
func (f *flights) fly(ctx context.Context, x *flight) {
	defer f.m.waiting.Dec()
	defer f.landed(x)
	ctx, cancel := context.WithTimeout(ctx, flightTime)
	defer cancel()
	old := f.fallback(x)
	if old != nil {
		served := make(chan struct{})
		late := time.AfterFunc(staleAfter, func() {
			defer close(served)
			f.land(&x.key, f.take(x, false), old, FromStale)
		})
		defer func() {
			if !late.Stop() {
				<-served
			}
		}()
	}
	begun := time.Now()
	msg, err := f.backend.resolve(ctx, askOf(&x.key))
	now := time.Now()
	f.m.latency.Observe(now.Sub(begun).Seconds())
	var e *entry
	if err == nil {
		e, _ = newEntry(&x.key, msg, now)
	}
	if e != nil && !e.good() {
		e.why = wire.DNSErrorOf(msg)
	}
	switch {
	case (e == nil || !e.good()) && old != nil:
		old.hold.Store(int64(now.Sub(old.stored) + staleHold))
		f.land(&x.key, f.take(x, true), old, FromStale)
		return
	case e == nil:
		f.m.failed.Inc()
		e = failure(&x.key, err, now)
	}
	if e.ttl > 0 && ctx.Err() != context.Canceled {
		f.cache.put(e)
	}
	f.land(&x.key, f.take(x, true), e, FromAsked)
}

// take takes the passengers off; with last, nobody can board any more.
func (f *flights) take(x *flight, last bool) []passenger {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := x.passengers
	x.passengers = nil
	x.late = !last
	if last {
		delete(f.of, string(x.key.bytes()))
	}
	return p
}

// land answers the passengers who asked k from the entry, which is FromAsked or FromStale.
func (f *flights) land(k *key, passengers []passenger, e *entry, from string) {
	now := time.Now()
	buf := make([]byte, 0, len(e.msg)+24)
	count := f.m.asked
	if from == FromStale {
		count = f.m.stale
	}
	for i := range passengers {
		p := &passengers[i]
		f.clients.leave(p.from)
		count.Inc()
		f.log.note(k, p.from, from, e.rcode(), now.Sub(p.since), now)
		p.answer(e.reply(buf, &p.q, now, p.size))
	}
}

// failure is the answer when nobody could say anything: there was no word from anybody, or
// one that could not be read.
func failure(k *key, err error, now time.Time) *entry {
	why := wire.DNSEDENoAuthority
	if err == nil || errors.Is(err, errSockets) {
		why = wire.DNSEDENetworkError
	}
	a := askOf(k)
	q := wire.DNSQuery{Name: a.name, Type: a.typ, Class: wire.DNSClassIN}
	b := wire.BeginDNSAnswer(nil, &q, 0, wire.DNSServFail)
	return &entry{key: string(k.bytes()), msg: b.Finish(&q, wire.DNSServFail, 0), ttl: failureTTL, stored: now, why: why}
}
