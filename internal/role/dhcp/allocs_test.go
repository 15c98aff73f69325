package dhcp

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/wire"
)

// blank is a book that keeps nothing.
type blank struct{}

func (blank) Load(context.Context) ([]fact.Lease, error) { return nil, nil }
func (blank) Commit(context.Context, []fact.Lease) error { return nil }

// crowd is a group of messages as one receive brings them, to a server without a device.
type crowd struct {
	s       *Server
	m       wire.DHCP
	entries [32]entry
	grants  []*entry
}

// ask has the server answer and store a message of each.
func (c *crowd) ask(t *testing.T, at moment, messages *[32][]byte) {
	c.grants = c.grants[:0]
	for i := range messages {
		e := &c.entries[i]
		e.since = time.Now()
		c.s.links[0].one(at, packet{data: messages[i]}, &c.m, e)
		if len(e.reply.frame) == 0 {
			t.Fatalf("message %d gets no reply: %s", i, silenceWords[e.reply.why])
		}
		if e.reply.grant != nil {
			c.grants = append(c.grants, e)
		}
	}
	c.s.ledger.slow.Store(false) // a machine that paused us meanwhile does not make the book slow
	c.s.ledger.take(t.Context(), c.grants)
}

// TestAllocations bounds what the rush leaves to the garbage collector: a device that renews
// one record of what the store has meanwhile, a new one besides that its identity.
func TestAllocations(t *testing.T) {
	clock := newClock()
	c := &crowd{s: New(Config{Segments: []Segment{wideHall(time.Hour)}}, blank{}, clock, metrics(), func(fact.Event) {})}
	var discovers, requests, renewals [32][]byte
	for i := range discovers {
		discovers[i] = message(t, mac(i), discover)
		requests[i] = message(t, mac(i), request, wants("1.2.3.4"), server("10.1.0.2"))
		renewals[i] = message(t, mac(i), request)
	}
	at := bytes.Index(requests[0], []byte{50, 4, 1, 2, 3, 4}) + 2
	next := 0
	arrive := func() {
		for i := range discovers {
			next++
			copy(discovers[i][28:], mac(next))
			copy(requests[i][28:], mac(next))
		}
		c.ask(t, read(clock), &discovers)
		for i := range requests {
			copy(requests[i][at:], c.entries[i].reply.frame[wire.UDPFrameHead+16:][:4])
		}
		c.ask(t, read(clock), &requests)
	}
	if n := testing.AllocsPerRun(10, arrive) / 32; n > 7 {
		t.Errorf("a new device costs %.2f allocations, want at most 7", n)
	}
	for i := range renewals {
		copy(renewals[i][28:], discovers[i][28:34])
		copy(renewals[i][12:], requests[i][at:at+4])
	}
	renew := func() {
		clock.pass(5 * time.Minute)
		c.ask(t, read(clock), &renewals)
		if len(c.grants) != 32 {
			t.Fatalf("%d leases are renewed, want 32", len(c.grants))
		}
	}
	if n := testing.AllocsPerRun(10, renew) / 32; n > 1.5 {
		t.Errorf("a renewal costs %.2f allocations, want at most 1.5", n)
	}
}
