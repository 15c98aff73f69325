package dhcp

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/plan"
	"github.com/hotstage/hotstage/internal/wire"
)

// lookout is a desk with its guard, and who answers ARP for which address.
type lookout struct {
	*desk
	guard  *guard
	ear    *shell
	uses   map[netip.Addr][6]byte
	events []fact.Event
	probes int
}

func newLookout(t *testing.T, cfg Segment) *lookout {
	l := &lookout{desk: newDesk(t, cfg), ear: &shell{}, uses: map[netip.Addr][6]byte{}}
	l.guard = newGuard(l.g, l.clock, metrics(), newTeller("dhcp", func(e fact.Event) { l.events = append(l.events, e) }))
	return l
}

// after lets time pass, in which the guard probes and is answered.
func (l *lookout) after(d time.Duration) {
	for end := l.clock.boot + d; l.clock.boot < end; {
		l.clock.pass(guardTick)
		l.g.pool.expire(read(l.clock), 1<<20, l.g.ended)
		l.ear.said = l.ear.said[:0]
		l.guard.due(read(l.clock), l.ear)
		for _, b := range l.ear.said {
			a, ok := wire.ParseARP(b)
			if !ok {
				continue
			}
			l.probes++
			if own := l.g.pool.at(a.Target); own == nil || own.state == bound || own.owner {
				l.t.Fatalf("%v is probed, which has a lease or a reservation", a.Target)
			}
			if mac, used := l.uses[a.Target]; used {
				l.answer(a.Target, mac)
			}
		}
	}
}

func (l *lookout) answer(a netip.Addr, mac [6]byte) {
	own := l.ear.hardware()
	b := wire.AppendARPProbe(nil, mac, addr("10.1.0.2"))
	copy(b, own[:])
	b[21] = 2
	v := a.As4()
	copy(b[28:], v[:])
	l.guard.hear(read(l.clock), own, b)
}

func TestSquatterIsNamedAndPassedOver(t *testing.T) {
	l := newLookout(t, hall())
	squatter := [6]byte{2, 0xdd}
	l.uses[addr("10.1.0.11")] = squatter
	l.after(time.Second)
	if len(l.events) != 1 || l.events[0].Kind != "address-in-use" || !strings.Contains(l.events[0].Words, "10.1.0.11 of the pool of segment hall is in use by 02:dd:00:00:00:00") {
		t.Fatalf("events %+v", l.events)
	}
	for n := range 9 {
		if a := l.lease(mac(n)); a == "10.1.0.11" || a == "" {
			t.Fatalf("client %d gets %q", n, a)
		}
	}
	if got := words(l.desk, l.ask(mac(50), discover, wants("10.1.0.11"))); got != "pool-full" {
		t.Errorf("one that wishes the address: %s", got)
	}
	l.after(5 * time.Minute) // it stays set aside while it answers
	if got := words(l.desk, l.ask(mac(50), discover)); got != "pool-full" || len(l.events) != 1 {
		t.Errorf("after 5 minutes: %s, %d events", got, len(l.events))
	}
	l.save()
	if s := l.book.leases["hall 10.1.0.11"]; s.State != fact.LeaseDeclined || s.MAC.String() != "02:dd:00:00:00:00" {
		t.Errorf("in the store: %+v", s)
	}
	delete(l.uses, addr("10.1.0.11"))
	l.after(quietAfter*probeResting + 2*probeResting)
	if a := l.lease(mac(50)); a != "10.1.0.11" {
		t.Errorf("when it is quiet a client gets %q", a)
	}
	sound(t, l.g.pool)
}

// TestAnswersThatTakeNothing: leases, reservations, offers to the answerer and addresses
// that nobody asked about stay as they are.
func TestAnswersThatTakeNothing(t *testing.T) {
	cfg := hall()
	cfg.Reservations = []plan.Reservation{{Name: "printer", MAC: mac(3), Addr: addr("10.1.0.19")}}
	l := newLookout(t, cfg)
	bound, gone := addr(l.lease(mac(1))), addr(l.lease(mac(2)))
	l.ask(mac(2), release, from(gone.String()), server("10.1.0.2"))
	l.uses[gone] = [6]byte(mac(2)) // it said that it goes, and stays
	other := [6]byte{2, 0xdd}
	l.answer(addr("10.1.0.15"), other)
	l.after(time.Second)
	l.answer(bound, other)
	l.answer(addr("10.1.0.19"), other)
	l.answer(addr("10.1.0.200"), other)
	l.clock.pass(answerWithin + time.Second)
	l.answer(addr("10.1.0.15"), other)
	if l.g.pool.resting.n != 0 || len(l.events) != 0 {
		t.Errorf("%d set aside, events %+v", l.g.pool.resting.n, l.events)
	}
	if a := l.lease(mac(2)); a != gone.String() {
		t.Errorf("the device that still uses %v comes back and gets %q", gone, a)
	}
	if got := words(l.desk, l.ask(mac(1), request, from(bound.String()))); got != "ack "+bound.String()+" to "+bound.String() {
		t.Errorf("the holder renews: %s", got)
	}
}

// TestSquatterMayBecomeAClient: the leases were lost, a device goes on with the address that
// it was once given, is found and set aside, and then renews.
func TestSquatterMayBecomeAClient(t *testing.T) {
	l := newLookout(t, hall())
	l.uses[addr("10.1.0.13")] = [6]byte(mac(7))
	l.after(time.Second)
	if l.g.pool.at(addr("10.1.0.13")).state != declined {
		t.Fatal("not set aside")
	}
	if got := words(l.desk, l.ask(mac(8), request, from("10.1.0.13"))); got != "nak to all" {
		t.Errorf("somebody else renews it: %s", got)
	}
	if got := words(l.desk, l.ask(mac(7), request, from("10.1.0.13"))); got != "ack 10.1.0.13 to 10.1.0.13" {
		t.Errorf("it renews: %s", got)
	}
	sound(t, l.g.pool)
}

// TestOneThatAnswersAll: who answers every probe sets an eighth of the pool aside, no more,
// and is told of no more than the crew can read.
func TestOneThatAnswersAll(t *testing.T) {
	cfg := hall()
	cfg.Pool = plan.Range{From: addr("10.1.0.10"), To: addr("10.1.0.209")}
	l := newLookout(t, cfg)
	for a := cfg.Pool.From; cfg.Pool.Contains(a); a = a.Next() {
		l.uses[a] = [6]byte{2, 0xee}
	}
	got := 0
	for n := range 300 {
		l.after(time.Second)
		got += btoi(l.lease(mac(n)) != "")
	}
	if got < 170 || len(l.events) > 5*namedAMinute+namedAMinute {
		t.Errorf("%d of 200 addresses are given, %d events", got, len(l.events))
	}
	sound(t, l.g.pool)
}

// TestProbesAreFew: at rest about one a second, in the rush enough to be ahead.
func TestProbesAreFew(t *testing.T) {
	l := newLookout(t, rushHall())
	l.after(10 * time.Second)
	if l.probes != probeAhead {
		t.Errorf("%d probes in the first 10 s, want %d", l.probes, probeAhead)
	}
	l.after(10 * time.Minute)
	if most := probeAhead * 11; l.probes > most {
		t.Errorf("%d probes in 10 minutes at rest, want at most %d", l.probes, most)
	}
	unprobed, before := 0, l.probes
	for n := range 1000 { // 100 a second
		l.lease(mac(n))
		unprobed += btoi(l.a.grant.probed == 0)
		if n%10 == 0 {
			l.after(guardTick)
		}
	}
	t.Logf("in the rush %d probes for 1000 devices", l.probes-before)
	if unprobed > 0 {
		t.Errorf("%d of 1000 were given addresses that were not probed", unprobed)
	}
}
