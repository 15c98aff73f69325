package dhcp

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/wire"
)

// link serves one segment on its device, for as long as the device is there, and waits for
// it while it is not.
type link struct {
	seg    *segment
	ledger *ledger
	clock  Clock
	m      *Metrics
	tell   *teller
	relays map[netip.Addr]*link // of all segments, by the relays' addresses
	open   func() (door, error)
	listen func() (ear, error) // nil: the link has no guard
	guard  *guard
	limit  *limiter
	via    *link         // whose device this one's messages come by; nil: its own
	behind []*link       // of relayed segments, whose messages come by our device
	ports  *share        // of the relays' ports
	heard  atomic.Uint64 // messages that relays sent on
	drops  atomic.Uint64

	mu   sync.Mutex
	door door // nil while the device is not there
	why  error
	// after the first attempt, good or bad, tried is closed
	tried     chan struct{}
	triedOnce sync.Once
}

// run opens the device again and again until ctx ends. The last door stays open, so that
// ACKs that wait for the store can leave; close closes it.
func (l *link) run(ctx context.Context) {
	for n := 0; ctx.Err() == nil; n++ {
		d, err := l.open()
		if err == nil {
			n = 0
			l.set(d, nil)
			l.tell.forget("device-gone", l.seg.cfg.Device)
			err = l.serve(ctx, d)
			if ctx.Err() != nil {
				return
			}
			d.Close()
		}
		l.set(nil, err)
		l.tell.say(read(l.clock), fact.Alarm, "device-gone", l.seg.cfg.Device,
			"no DHCP on segment %s: %v; it goes on by itself when the device is back", l.seg.cfg.Name, err)
		select {
		case <-ctx.Done():
		case <-time.After(retry(n)):
		}
	}
}

func (l *link) set(d door, err error) {
	l.mu.Lock()
	l.door, l.why = d, err
	l.mu.Unlock()
	l.triedOnce.Do(func() { close(l.tried) })
}

func (l *link) close() {
	l.mu.Lock()
	d := l.door
	l.door = nil
	l.mu.Unlock()
	if d != nil {
		d.Close()
	}
}

// serve reads messages until ctx ends or the device goes.
func (l *link) serve(ctx context.Context, d door) error {
	done := make(chan struct{})
	var gone error
	var watch sync.WaitGroup
	watch.Add(1)
	go func() {
		defer watch.Done()
		gone = watchDoor(ctx, d, done)
	}()
	stop := l.beside(ctx)
	err := l.receive(ctx, d)
	stop()
	close(done)
	watch.Wait()
	if gone != nil {
		return gone
	}
	return err
}

// watchDoor looks at the device once a second and closes the door when it is not the same any
// more; a socket bound to a device that was deleted hears nothing and says nothing.
func watchDoor(ctx context.Context, d door, done <-chan struct{}) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return nil
		case <-ctx.Done():
			d.interrupt()
			return nil
		case <-tick.C:
			if err := d.check(); err != nil {
				d.Close()
				return err
			}
		}
	}
}

// receive is the loop: one goroutine per device, no other work than to read, answer, store, send.
func (l *link) receive(ctx context.Context, d door) error {
	in := make([]packet, receiveBatch)
	entries := make([]entry, receiveBatch)
	for i := range entries {
		entries[i].reply.frame = make([]byte, 0, wire.UDPFrameHead+wire.DHCPMaxMessage)
	}
	m := &wire.DHCP{}
	var replies, grants []*entry
	for ctx.Err() == nil {
		n, err := d.receive(in)
		if err != nil {
			return fmt.Errorf("receive on %s: %w", l.seg.cfg.Device, err)
		}
		since, at := time.Now(), read(l.clock)
		replies, grants = replies[:0], grants[:0]
		for i := range in[:n] {
			e := &entries[i]
			e.since = since
			l.one(at, in[i], m, e)
			switch {
			case e.reply.grant != nil:
				grants = append(grants, e)
			case len(e.reply.frame) > 0:
				replies = append(replies, e)
			}
		}
		send(replies)
		l.ledger.take(ctx, grants)
	}
	return ctx.Err()
}

// one answers one message into e.
func (l *link) one(at moment, p packet, m *wire.DHCP, e *entry) {
	a := &e.reply
	if m.Parse(p.data) != nil {
		l.left(a, malformed, 0)
		return
	}
	if !l.limit.allow(m.CHAddr, at.boot) {
		l.left(a, tooMany, m.Type)
		return
	}
	l, why := l.origin(at, m, p)
	if why != replied {
		l.left(a, why, m.Type)
		return
	}
	e.to = l
	can := true
	switch m.Type {
	case wire.DHCPDiscover:
		can = l.ledger.mayOffer(at)
	case wire.DHCPRequest:
		can = l.ledger.reserve()
	}
	l.seg.handle(at, m, p.broadcast, can, a)
	l.m.answered(a)
	if m.Type == wire.DHCPRequest && can && a.grant == nil {
		l.ledger.cancel()
	}
	if len(a.frame) == 0 {
		l.unanswered(at, a)
	}
}

// left makes a the answer to a message that the segment does not see.
func (l *link) left(a *answer, why silence, kind wire.DHCPType) {
	*a = answer{frame: a.frame[:0], why: why, kind: kind}
	l.m.answered(a)
}

// unanswered tells a person of what clients feel.
func (l *link) unanswered(at moment, a *answer) {
	name := l.seg.cfg.Name
	switch {
	case a.found.IsValid():
		l.ledger.stir()
		l.tell.say(at, fact.Warning, "address-in-use", name,
			"a client found %s in use by somebody else in segment %s; it rests for %v; look for a device with a fixed address: arping %s", a.found, name, restFor, a.found)
	case a.why == noReplyDue:
		l.ledger.stir()
	case a.why == full:
		l.tell.say(at, fact.Alarm, "pool-full", name,
			"segment %s has no free address in this node's part (%v to %v): new devices get none; shorten the lease or widen the prefix", name, l.seg.cfg.Pool.From, l.seg.cfg.Pool.To)
	case a.why == queueFull:
		l.tell.say(at, fact.Alarm, "lease-queue-full", "",
			"%d leases wait for the disk, so requests are dropped and clients ask again; look at the disk", queueSize)
	}
}

// send sends replies, those of one link at once.
func send(es []*entry) {
	for len(es) > 0 {
		n := 1
		for n < len(es) && es[n].to == es[0].to {
			n++
		}
		es[0].to.send(es[:n])
		es = es[n:]
	}
}

// send sends replies of the link; safe for concurrent use.
func (l *link) send(es []*entry) {
	d := l.exit()
	if d != nil {
		d.send(es, l.seg.cfg.Server)
	}
	for _, e := range es {
		if d == nil || e.reply.why == undelivered {
			l.m.silent(undelivered)
			l.drops.Add(1)
			continue
		}
		l.m.sent(e.reply.reply)
	}
}

// check says whether the device serves.
func (l *link) check() fact.Check {
	l.mu.Lock()
	why, there := l.why, l.door != nil
	l.mu.Unlock()
	c := fact.Check{
		Name: "dhcp-device-" + l.seg.cfg.Device, Words: "DHCP is served on " + l.seg.cfg.Device + " (segment " + l.seg.cfg.Name + ")",
		Measured: "serving", OK: there,
	}
	if n := l.drops.Load(); there && n > 0 {
		c.Measured = fmt.Sprintf("serving; %d replies not taken by the device", n)
	}
	if !there {
		c.Measured = fmt.Sprintf("%v", why)
		c.Hint = "ip link show " + l.seg.cfg.Device
	}
	return c
}
