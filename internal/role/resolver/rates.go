package resolver

import (
	"hash/maphash"
	"net/netip"
	"sync/atomic"
	"time"
)

// What one client may ask.
const (
	burstTime  = 10.0 / 3 // seconds of a client's rate that it may ask at once
	slipRate   = 20       // truncated answers per second to a client over its rate
	maxClients = 1 << 16  // that are remembered
	ways       = 4        // places of the table that a client may have
)

// pass is what a client's query gets.
type pass int

const (
	allowed   pass = iota
	truncated      // over the rate: told to come by TCP, which a forged address cannot
	dropped        // far over the rate
)

// rates knows how much each client has asked of late, in a table of fixed size: who is new
// takes the place of the one of four that was silent longest, and being forgotten only
// means a full burst anew. There is no lock, so that one flooding client does not hold up
// the others: of several first questions at one instant some may not be counted.
type rates struct {
	seed        maphash.Seed
	base        time.Time
	step, burst int64 // nanoseconds
	slots       []slot
}

// slot is one client: a leaky bucket each for its queries and for the truncated answers, kept
// as the time when it is empty again (GCRA of ATM Forum's Traffic Management 4.0).
type slot struct {
	tag       atomic.Uint64 // of the client's hash, 0 when free
	due, slip atomic.Int64  // nanoseconds after base
}

func newRates(rate int) *rates {
	step := int64(time.Second) / int64(rate)
	return &rates{
		seed: maphash.MakeSeed(), base: time.Now(), slots: make([]slot, maxClients),
		step: step, burst: int64(max(burstTime*float64(rate), 1)) * step,
	}
}

// of is the client's slot. known tells that it is the client, and nobody in its name.
func (r *rates) of(addr netip.Addr, known bool, at int64) *slot {
	h := maphash.Comparable(r.seed, addr)
	if known {
		h = h<<32 | h>>32
	}
	tag, set := h|1, r.slots[h>>32%(maxClients/ways)*ways:][:ways]
	oldest, since := 0, int64(1<<63-1)
	for i := range set {
		switch s := &set[i]; s.tag.Load() {
		case tag:
			return s
		case 0:
			if since > -1<<63 {
				oldest, since = i, -1<<63
			}
		default:
			if due := s.due.Load(); due < since {
				oldest, since = i, due
			}
		}
	}
	s := &set[oldest]
	s.tag.Store(tag)
	s.due.Store(at)
	s.slip.Store(at)
	return s
}

// query takes one query from the client's rate. A client that is known to be itself, by its
// cookie, has a share of its own beside that of its mere address.
func (r *rates) query(addr netip.Addr, known bool, now time.Time) pass {
	at := int64(now.Sub(r.base))
	s := r.of(addr, known, at)
	switch {
	case take(&s.due, at, r.step, r.burst):
		return allowed
	case take(&s.slip, at, int64(time.Second)/slipRate, int64(time.Second)):
		return truncated
	}
	return dropped
}

// take puts one step into the bucket, or is false when it would run over.
func take(due *atomic.Int64, at, step, burst int64) bool {
	for {
		was := due.Load()
		next := max(was, at) + step
		if next-at > burst {
			return false
		}
		if due.CompareAndSwap(was, next) {
			return true
		}
	}
}

// delay takes one query of a TCP client, which may be told to wait: the time after which
// the query may be worked on, a second at most.
func (r *rates) delay(addr netip.Addr, now time.Time) time.Duration {
	at := int64(now.Sub(r.base))
	s := r.of(addr, true, at) // it has shaken hands
	for {
		was := s.due.Load()
		next := min(max(was, at)+r.step, at+r.burst+int64(time.Second))
		if s.due.CompareAndSwap(was, next) {
			return time.Duration(max(next-at-r.burst, 0))
		}
	}
}
