package dhcp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/plan"
	"github.com/hotstage/hotstage/internal/wire"
	"github.com/insomniacslk/dhcp/dhcpv4"
)

// hatch is a door on nothing: the test puts messages in and takes replies out.
type hatch struct {
	in   chan []byte
	out  chan *dhcpv4.DHCPv4
	stop chan struct{}
	once sync.Once
	gone error // what check says; under mu
	mu   sync.Mutex
}

func newHatch() *hatch {
	return &hatch{in: make(chan []byte), out: make(chan *dhcpv4.DHCPv4, 1<<16), stop: make(chan struct{})}
}

func (h *hatch) receive(in []packet) (int, error) {
	select {
	case b := <-h.in:
		in[0] = packet{data: b, broadcast: true}
		return 1, nil
	case <-h.stop:
		return 0, os.ErrClosed
	}
}

func (h *hatch) send(es []*entry, _ netip.Addr) {
	for _, e := range es {
		m, err := dhcpv4.FromBytes(e.reply.frame[wire.UDPFrameHead:])
		if err != nil {
			e.reply.why = undelivered
			continue
		}
		h.out <- m
	}
}

func (h *hatch) check() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.gone
}

func (h *hatch) interrupt() { h.once.Do(func() { close(h.stop) }) }

func (h *hatch) Close() error { h.interrupt(); return nil }

// bubbleClock is the time of a synctest bubble; the test steps its wall.
type bubbleClock struct {
	mu    sync.Mutex
	began time.Time
	step  time.Duration
}

func (c *bubbleClock) Boot() string { return "boot-1" }

func (c *bubbleClock) Now() (time.Duration, time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Since(c.began) + 1000*time.Hour, time.Now().Add(c.step)
}

func (c *bubbleClock) jump(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.step = d
}

// shop is a server in a bubble, with its door.
type shop struct {
	*Server
	t      *testing.T
	clock  *bubbleClock
	book   *memory
	hatch  *hatch
	opened int
	noDoor error
	mu     sync.Mutex
	events []fact.Event
}

// inBubble runs f with a server of one segment; the bubble ends only when all goroutines have.
func inBubble(t *testing.T, cfg Segment, f func(s *shop)) {
	synctest.Test(t, func(t *testing.T) {
		s := &shop{t: t, clock: &bubbleClock{began: time.Now()}, book: newMemory(), hatch: newHatch()}
		s.Server = New(Config{Segments: []Segment{cfg}}, s.book, s.clock, metrics(), func(e fact.Event) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.events = append(s.events, e)
		})
		s.links[0].listen = nil
		s.links[0].open = func() (door, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.opened++
			if s.noDoor != nil {
				return nil, s.noDoor
			}
			s.hatch = newHatch()
			return s.hatch, nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		<-s.Ready()
		synctest.Wait()
		f(s)
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

// say hands a message in and waits until nothing more happens; nil for silence.
func (s *shop) say(n int, kind dhcpv4.MessageType, mods ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	s.t.Helper()
	s.hatch.in <- message(s.t, mac(n), kind, mods...)
	synctest.Wait()
	select {
	case m := <-s.hatch.out:
		return m
	default:
		return nil
	}
}

func (s *shop) lease(n int) string {
	s.t.Helper()
	offer := s.say(n, discover)
	if offer == nil {
		return ""
	}
	ack := s.say(n, request, wants(offer.YourIPAddr.String()), server("10.1.0.2"))
	if ack == nil || ack.MessageType() != dhcpv4.MessageTypeAck {
		return ""
	}
	return ack.YourIPAddr.String()
}

func (s *shop) kinds() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var k []string
	for _, e := range s.events {
		k = append(k, e.Kind)
	}
	return strings.Join(k, " ")
}

func (s *shop) stateOf(a string) fact.LeaseState {
	for _, l := range s.Leases() {
		if l.Addr == addr(a) {
			return l.State
		}
	}
	return ""
}

func (s *shop) after(d time.Duration) { time.Sleep(d); synctest.Wait() }

// TestLeaseEnds: in memory and in the store, after its time and graceFor, by the sweep alone.
func TestLeaseEnds(t *testing.T) {
	inBubble(t, hall(), func(s *shop) {
		a := s.lease(1)
		s.after(time.Hour + graceFor - 2*time.Second)
		if got := s.stateOf(a); got != fact.LeaseBound {
			t.Errorf("within the grace it is %q", got)
		}
		s.after(4 * time.Second)
		stored, _ := s.book.Load(t.Context())
		if got := s.stateOf(a); got != fact.LeaseExpired || stored[0].State != fact.LeaseExpired {
			t.Errorf("after the grace it is %q, in the store %q", got, stored[0].State)
		}
	})
}

func TestOfferEnds(t *testing.T) {
	inBubble(t, hall(), func(s *shop) {
		for n := range 10 { // the whole pool
			if s.say(n, discover) == nil {
				t.Fatalf("client %d is offered nothing", n)
			}
			if n == 7 {
				s.after(time.Second) // the first eight make room for more: offersAllowed
			}
		}
		s.after(offerFor + time.Second)
		s.segments[0].mu.Lock()
		n := s.segments[0].pool.offers.n
		s.segments[0].mu.Unlock()
		if n != 0 {
			t.Errorf("%d offers stand after %v", n, offerFor)
		}
	})
}

// TestWallClockSteps: the wall clock jumps years back and forth; leases neither end nor stay.
func TestWallClockSteps(t *testing.T) {
	inBubble(t, hall(), func(s *shop) {
		a := s.lease(1)
		for _, step := range []time.Duration{24 * 365 * time.Hour, -30 * 24 * 365 * time.Hour, 0, 2 * time.Hour} {
			s.clock.jump(step)
			s.after(10 * time.Minute)
			if got := s.stateOf(a); got != fact.LeaseBound {
				t.Fatalf("the wall clock stepped by %v and the lease is %q", step, got)
			}
		}
		s.clock.jump(-50 * 24 * 365 * time.Hour)
		s.after(21 * time.Minute)
		if got := s.stateOf(a); got != fact.LeaseExpired {
			t.Errorf("an hour after its start the lease is %q", got)
		}
	})
}

// TestStoreFails: no ACK leaves, an event says so once a minute, offers are made once a
// second, and with the store back everything goes on, also without a client's help.
func TestStoreFails(t *testing.T) {
	inBubble(t, hall(), func(s *shop) {
		had := s.lease(1)
		offer := s.say(2, discover)
		s.book.set(errFull)
		if m := s.say(2, request, wants(offer.YourIPAddr.String()), server("10.1.0.2")); m != nil {
			t.Errorf("with the disk full the client gets %v", m.MessageType())
		}
		if m := s.say(1, request, from(had)); m == nil || m.MessageType() != dhcpv4.MessageTypeAck {
			t.Errorf("a repeated request, whose lease is stored, gets %v", m)
		}
		if s.say(3, discover) != nil {
			t.Error("an offer right after the failure")
		}
		if c := s.Checks()[0]; c.Name != "dhcp-store" || c.OK || !strings.Contains(c.Measured, "no space left") {
			t.Errorf("the first check is %+v", c)
		}
		s.after(1100 * time.Millisecond)
		if s.say(3, discover) == nil || s.say(4, discover) != nil {
			t.Error("while the store does not work, one offer a second is made to try it")
		}
		for range 50 {
			s.say(2, request, wants(offer.YourIPAddr.String()), server("10.1.0.2"))
		}
		if got := s.kinds(); got != "lease-store-failed" {
			t.Errorf("events %q", got)
		}
		s.book.set(nil)
		s.after(10 * time.Second) // the client's share of messages
		if m := s.say(2, request, wants(offer.YourIPAddr.String()), server("10.1.0.2")); m == nil || m.MessageType() != dhcpv4.MessageTypeAck {
			t.Errorf("with room again the client gets %v", m)
		}
		if got := s.kinds(); got != "lease-store-failed lease-store-works" {
			t.Errorf("events %q", got)
		}
		if s.lease(5) == "" || !s.ledger.check().OK {
			t.Error("with room again a new client gets nothing")
		}
	})
}

// TestSlowStore: an ACK that waited too long does not leave; the next REQUEST is answered
// at once, with what is left of the lease.
func TestSlowStore(t *testing.T) {
	inBubble(t, hall(), func(s *shop) {
		s.book.mu.Lock()
		s.book.gate = make(chan struct{})
		gate := s.book.gate
		s.book.mu.Unlock()
		s.ledger.slow.Store(true) // as after its first slow commit
		ask := func(n int) *dhcpv4.DHCPv4 {
			return s.say(n, request, wants("10.1.0.1"+string(rune('0'+n))), server("10.1.0.2"))
		}
		if ask(1) != nil {
			t.Fatal("an ACK before the commit")
		}
		s.after(3 * time.Second)
		if ask(2) != nil {
			t.Fatal("an ACK before the commit")
		}
		gate <- struct{}{} // 3 s after the first
		synctest.Wait()
		if m := <-s.hatch.out; m.YourIPAddr.String() != "10.1.0.11" {
			t.Errorf("ACK for %v", m.YourIPAddr)
		}
		s.after(4 * time.Second)
		gate <- struct{}{}
		if m := <-s.hatch.out; m.YourIPAddr.String() != "10.1.0.12" {
			t.Errorf("ACK for %v", m.YourIPAddr)
		}
		ask(3)
		s.after(3 * time.Second)
		ask(4)
		s.after(1900 * time.Millisecond)
		gate <- struct{}{} // 4.9 s after the first, 1.9 s after the second
		synctest.Wait()
		<-s.hatch.out
		s.after(4 * time.Second)
		gate <- struct{}{} // 5.9 s after the second
		synctest.Wait()
		if len(s.hatch.out) > 0 {
			t.Errorf("an ACK leaves %v after its REQUEST", 5900*time.Millisecond)
		}
		if m := ask(4); m == nil || m.IPAddressLeaseTime(0) != time.Hour-6*time.Second {
			t.Errorf("the repeated REQUEST gets %v", m)
		}
		s.book.mu.Lock()
		s.book.gate = nil
		s.book.mu.Unlock()
	})
}

// TestDeviceComesAndGoes: the role waits for its device and says so.
func TestDeviceComesAndGoes(t *testing.T) {
	inBubble(t, hall(), func(s *shop) {
		a := s.lease(1)
		s.mu.Lock()
		s.noDoor = errors.New("device eth1: link not found")
		s.mu.Unlock()
		s.hatch.mu.Lock()
		s.hatch.gone = errors.New("device eth1 was made anew")
		s.hatch.mu.Unlock()
		s.after(10 * time.Second)
		if c := s.Checks()[0]; c.OK || c.Name != "dhcp-device-eth1" {
			t.Errorf("the first check is %+v", c)
		}
		s.mu.Lock()
		s.noDoor = nil
		s.mu.Unlock()
		s.after(3 * time.Second)
		if m := s.say(1, request, wants(a)); m == nil || m.YourIPAddr.String() != a {
			t.Errorf("with the device back the client gets %v", m)
		}
		if got := s.kinds(); got != "device-gone" {
			t.Errorf("events %q", got)
		}
	})
}

// TestShare: one client that asks in a loop is silenced, another is not.
func TestShare(t *testing.T) {
	inBubble(t, hall(), func(s *shop) {
		answered := 0
		for range 200 {
			answered += btoi(s.say(1, discover) != nil)
		}
		if answered != limitBurst {
			t.Errorf("%d of 200 messages at once are answered, want %d", answered, limitBurst)
		}
		if s.lease(2) == "" {
			t.Error("another client gets nothing")
		}
		s.after(time.Second)
		answered = 0
		for range 200 {
			answered += btoi(s.say(1, discover) != nil)
		}
		if answered < 9 || answered > 11 {
			t.Errorf("%d are answered a second later, want 10", answered)
		}
	})
}

// TestFloodOfMACs: 130,000 DISCOVERs from made-up addresses, the largest flood on record at
// an event, in the middle of which known clients and new ones are served.
func TestFloodOfMACs(t *testing.T) {
	cfg := wideHall(time.Hour)
	cfg.Pool = plan.Range{From: addr("10.1.4.0"), To: addr("10.1.11.255")} // 2,048 addresses
	inBubble(t, cfg, func(s *shop) {
		for n := range 3 {
			s.lease(n)
		}
		for n := range 130_000 {
			s.hatch.in <- message(t, mac(10_000+n), discover)
			if n%100 == 0 {
				time.Sleep(10 * time.Millisecond) // 10,000 a second
			}
			if n%20_000 == 0 {
				synctest.Wait()
				for len(s.hatch.out) > 0 {
					<-s.hatch.out
				}
				known := n / 20_000 % 3
				if s.lease(3+n/20_000) == "" {
					t.Errorf("after %d DISCOVERs a new client gets nothing", n)
				}
				if a := s.lease(known); a != fmt.Sprintf("10.1.4.%d", known) {
					t.Errorf("after %d DISCOVERs client %d gets %q", n, known, a)
				}
			}
		}
		g := s.segments[0]
		g.mu.Lock()
		defer g.mu.Unlock()
		if len(g.pool.offered) > 1024 || len(g.pool.clients) > 10 || cap(g.pool.dirty) > 100 {
			t.Errorf("%d offers, %d clients, %d to save are remembered", len(g.pool.offered), len(g.pool.clients), cap(g.pool.dirty))
		}
	})
}
