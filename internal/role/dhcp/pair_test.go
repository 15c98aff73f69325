package dhcp

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/plan"
	"github.com/hotstage/hotstage/internal/wire"
	"github.com/insomniacslk/dhcp/dhcpv4"
)

// duo is a pair of servers in one segment, their machines, the wire between them, and the
// clients' beliefs, kept from nothing but the messages. True time goes on through everything;
// each machine has a clock of its own that begins anew at a boot.
type duo struct {
	t     *testing.T
	r     *rand.Rand
	ctx   context.Context
	s     [2]*Server // nil while it does not run
	book  [2]*memory
	clock [2]*steppedClock
	off   [2]bool // its machine
	was   [2]bool // the other has been told to be sole since it was last in touch
	memos [2]*word
	told  [2]bool // when it stopped, the other knew all that it knew
	cut   bool
	lossy bool // replies between the two are lost now and then
	now   time.Duration
	boots int
	has   map[int]belief
	by    map[int]int // the server of a client's lease
	n     map[string]int
	seed  uint64
	m     wire.DHCP
	past  []string // what happened, for a failure
}

func (d *duo) note(format string, args ...any) {
	d.past = append(d.past, fmt.Sprintf("%v %s| ", d.now, d.modes())+fmt.Sprintf(format, args...))
}

// about is what happened to the address, and the fates in between.
func (d *duo) about(a netip.Addr) string {
	var lines []string
	for _, l := range d.past {
		if strings.Contains(l, "!") || strings.Contains(l, a.String()+" ") {
			lines = append(lines, l)
		}
	}
	return strings.Join(lines[max(0, len(lines)-25):], "\n")
}

const duoClients = 40

func newDuo(t *testing.T, seed uint64) *duo {
	d := &duo{seed: seed, t: t, r: rand.New(rand.NewPCG(seed, 11)), ctx: t.Context(), has: map[int]belief{}, by: map[int]int{}, n: map[string]int{}}
	for i := range d.s {
		d.book[i], d.clock[i], d.memos[i] = newMemory(), newClock(), new(word)
		d.clock[i].boot = time.Duration(i) * 777 * time.Second
		d.power(i)
	}
	return d
}

func duoConfig(i int) Config {
	c := hall()
	parts := [2]plan.Range{{From: addr("10.1.0.10"), To: addr("10.1.0.25")}, {From: addr("10.1.0.26"), To: addr("10.1.0.41")}}
	c.Server = addr(fmt.Sprintf("10.1.0.%d", 2+i))
	c.Pool, c.Partner = parts[i], &Partner{Node: duoName(1 - i), Pool: parts[1-i]}
	c.Never, c.Reservations = []netip.Addr{addr("10.1.0.30")}, nil
	return Config{Node: duoName(i), Partner: duoName(1 - i), Segments: []Segment{c}}
}

func duoName(i int) string { return [2]string{"srv1", "srv2"}[i] }

// word is a memo in memory.
type word string

func (w *word) Read() (string, error) { return string(*w), nil }

func (w *word) Write(to string) error {
	*w = word(to)
	return nil
}

// wireTo is the line of server i to the other one.
type wireTo struct {
	d *duo
	i int
}

func (w wireTo) Exchange(ctx context.Context, text []byte) ([]byte, error) {
	other := w.d.s[1-w.i]
	if other == nil || w.d.cut {
		return nil, errors.New("no route to host")
	}
	answer, err := other.Hear(ctx, text)
	if w.d.lossy && w.d.r.IntN(8) == 0 {
		return nil, errors.New("connection reset")
	}
	return answer, err
}

// power boots the machine.
func (d *duo) power(i int) {
	d.boots++
	d.off[i] = false
	d.clock[i].id = fmt.Sprintf("boot-%d", d.boots)
	d.clock[i].boot = time.Duration(d.r.IntN(30)) * time.Second
	d.start(i)
}

// start begins the server's process from what its book has.
func (d *duo) start(i int) {
	s := New(duoConfig(i), d.book[i], d.clock[i], metrics(), func(e fact.Event) { d.n[e.Kind]++ })
	if s.fault != nil {
		d.t.Fatal(s.fault)
	}
	leases, err := d.book[i].Load(d.ctx)
	if err != nil {
		d.t.Fatal(err)
	}
	s.segments[0].restore(read(d.clock[i]), leases)
	s.Join(wireTo{d, i}, d.memos[i])
	s.pair.begin(leases)
	close(s.loaded)
	d.s[i] = s
}

func (d *duo) pass(t time.Duration) {
	d.now += t
	for i := range d.s {
		if !d.off[i] {
			d.clock[i].pass(t)
		}
	}
}

// work does what the servers do by themselves.
func (d *duo) work() {
	for range 2 {
		for i, s := range d.s {
			if s == nil {
				continue
			}
			g := s.segments[0]
			g.mu.Lock()
			g.pool.expire(read(d.clock[i]), 1000, g.ended)
			g.mu.Unlock()
			leases, _ := g.unsaved(1<<20, nil, nil)
			if err := d.book[i].Commit(d.ctx, leases); err != nil {
				d.t.Fatal(err)
			}
			s.pair.beat(d.ctx)
			s.pair.judge(read(d.clock[i]))
		}
	}
	for i, s := range d.s {
		if s != nil && s.pair.mode == normal {
			d.was[i] = false
		}
	}
}

// deliver hands a message to server i and returns its reply, stored first where it must be.
func (d *duo) deliver(i, c int, b []byte, broadcast bool) *dhcpv4.DHCPv4 {
	s := d.s[i]
	if s == nil {
		return nil
	}
	if err := d.m.Parse(b); err != nil {
		d.t.Fatal(err)
	}
	g, a := s.segments[0], &answer{}
	g.handle(read(d.clock[i]), &d.m, broadcast, true, a)
	if a.grant != nil {
		if a.grant.theirs {
			d.n["lent in "+modeWords[g.pool.mode]]++
		}
		err := d.book[i].Commit(d.ctx, []fact.Lease{g.fact(a.grant, &a.rec)})
		if err != nil || !g.stored(a.grant, a.gen, &a.rec) {
			d.t.Fatal("not stored", err)
		}
	}
	if len(a.frame) == 0 {
		d.n[silenceWords[a.why]]++
		return nil
	}
	m, err := dhcpv4.FromBytes(a.frame[wire.UDPFrameHead:])
	if err != nil {
		d.t.Fatal(err)
	}
	if m.MessageType() == dhcpv4.MessageTypeAck {
		d.acked(c, i, m)
	}
	if m.MessageType() == dhcpv4.MessageTypeNak {
		d.n["nak"]++
		d.note("%v nak to %d by %s", d.has[c].addr, c, duoName(i))
		delete(d.has, c)
	}
	return m
}

// acked is the judge: whoever holds the address by an ACK that has not run out is alone.
func (d *duo) acked(c, i int, m *dhcpv4.DHCPv4) {
	a, _ := netip.AddrFromSlice(m.YourIPAddr.To4())
	for other, b := range d.has {
		if other != c && b.addr == a && b.ends > d.now {
			d.t.Fatalf("seed %d, %v: %v was given to client %d by %s, and client %d has it from %s for %v %s\n%s", d.seed, d.now, a, c, duoName(i), other, duoName(d.by[other]), b.ends-d.now, d.modes(), d.about(a))
		}
	}
	d.n["ack"]++
	d.note("%v acked to %d by %s for %v", a, c, duoName(i), m.IPAddressLeaseTime(0))
	d.has[c], d.by[c] = belief{a, d.now + m.IPAddressLeaseTime(0)}, i
}

func (d *duo) modes() (words string) {
	for i, s := range d.s {
		words += duoName(i) + " "
		if s == nil {
			words += "down "
			continue
		}
		words += modeWords[s.pair.mode] + " "
	}
	return words
}

func (d *duo) mods(c int, more ...dhcpv4.Modifier) []dhcpv4.Modifier {
	if d.r.IntN(2) == 0 {
		more = append(more, func(m *dhcpv4.DHCPv4) { m.NumSeconds = 4 })
	}
	if c%3 == 0 {
		return append(more, id(fmt.Sprintf("client-%d", c)))
	}
	return more
}

// discover takes an address like a device that knows nothing.
func (d *duo) discover(c int) {
	delete(d.has, c)
	var offers []*dhcpv4.DHCPv4
	b := message(d.t, mac(c), dhcpv4.MessageTypeDiscover, d.mods(c)...)
	for i := range d.s {
		if o := d.deliver(i, c, b, true); o != nil {
			offers = append(offers, o)
		}
	}
	if len(offers) == 0 {
		d.n["no offer"]++
		return
	}
	if d.r.IntN(10) == 0 {
		return // it goes away
	}
	o := offers[d.r.IntN(len(offers))]
	b = message(d.t, mac(c), dhcpv4.MessageTypeRequest, d.mods(c, wants(o.YourIPAddr.String()), server(o.ServerIdentifier().String()))...)
	for i := range d.s {
		d.deliver(i, c, b, true)
	}
}

// device does something that a client may do.
func (d *duo) device(c int) {
	b, has := d.has[c]
	if !has || b.ends <= d.now {
		d.discover(c)
		return
	}
	switch k := d.r.IntN(20); {
	case k < 9: // RENEWING
		d.deliver(d.by[c], c, message(d.t, mac(c), dhcpv4.MessageTypeRequest, d.mods(c, from(b.addr.String()))...), false)
	case k < 13: // REBINDING
		d.each(c, message(d.t, mac(c), dhcpv4.MessageTypeRequest, d.mods(c, from(b.addr.String()))...))
	case k < 16: // INIT-REBOOT
		d.each(c, message(d.t, mac(c), dhcpv4.MessageTypeRequest, d.mods(c, wants(b.addr.String()))...))
	case k < 18:
		d.discover(c)
	case k == 18:
		d.note("%v released by %d to %s", b.addr, c, duoName(d.by[c]))
		delete(d.has, c)
		d.deliver(d.by[c], c, message(d.t, mac(c), dhcpv4.MessageTypeRelease, d.mods(c, from(b.addr.String()), server(fmt.Sprintf("10.1.0.%d", 2+d.by[c])))...), false)
	case d.r.IntN(4) == 0:
		delete(d.has, c)
		d.each(c, message(d.t, mac(c), dhcpv4.MessageTypeDecline, d.mods(c, wants(b.addr.String()), server(fmt.Sprintf("10.1.0.%d", 2+d.by[c])))...))
	}
}

func (d *duo) each(c int, b []byte) {
	for i := range d.s {
		d.deliver(i, c, b, true)
	}
}

func (d *duo) stop(i int) {
	if s := d.s[i]; s != nil {
		d.told[i] = s.pair.mode == normal && len(s.segments[0].pool.news) == 0
	}
	d.s[i] = nil
}

// fate is what happens to machines, wires and the crew.
func (d *duo) fate() {
	i := d.r.IntN(2)
	k := d.r.IntN(100)
	defer func() { d.note("! fate %d of %s: off %v cut %v", k, duoName(i), d.off, d.cut) }()
	switch {
	case k < 12:
		d.cut = !d.cut
	case k < 16:
		d.lossy = !d.lossy
	case k < 40: // kill -9 and start again
		if d.s[i] != nil {
			d.stop(i)
			d.n["kill"]++
		} else if !d.off[i] {
			d.start(i)
		}
	case k < 60: // the machine, not both for long
		if !d.off[i] {
			if d.off[1-i] && d.r.IntN(4) > 0 {
				return
			}
			d.stop(i)
			d.off[i] = true
			d.n["power off"]++
		} else {
			d.power(i)
		}
	case k < 62: // a new machine, or a new disk
		if d.off[i] && d.told[i] { // what nobody else knew is lost with a disk
			d.book[i], d.memos[i] = newMemory(), new(word)
			d.power(i)
			d.n["new disk"]++
		}
	case k < 80:
		if s := d.s[i]; s != nil && d.off[1-i] {
			if s.pair.mode == waiting && !d.was[i] && d.r.IntN(3) == 0 && !s.segments[0].pair.blank {
				if _, err := s.Order("alone"); err != nil {
					d.t.Fatal(err)
				}
				d.n["told alone"]++
			}
			if s.pair.mode == alone {
				if _, err := s.Order("sole"); err != nil {
					d.t.Fatal(err)
				}
				d.was[1-i] = true
				d.n["told sole"]++
				if d.r.IntN(2) == 0 {
					d.work()
					d.pass(hall().Lease)
					d.work()
					d.pass(graceFor)
				}
			}
		}
	case k < 90:
		d.pass(time.Duration(d.r.IntN(4000)) * time.Second)
	}
}

// TestPairHoldsNoAddressTwice plays random evenings and judges each ACK by what the clients
// have: kills, power cuts, cuts between the two, lost replies, a crew that says sole, new disks.
func TestPairHoldsNoAddressTwice(t *testing.T) {
	seeds, steps := 60, 1500
	if testing.Short() {
		seeds = 12
	}
	all := map[string]int{}
	for seed := range seeds {
		d := newDuo(t, uint64(seed))
		for range steps {
			switch k := d.r.IntN(100); {
			case k < 80:
				d.device(d.r.IntN(duoClients))
			case k < 95:
				d.pass(time.Duration(d.r.IntN(3000)) * time.Millisecond)
			default:
				d.fate()
			}
			d.work()
		}
		for k, n := range d.n {
			all[k] += n
		}
	}
	for _, k := range []string{"ack", "kill", "power off", "new disk", "told alone", "told sole", "pair-normal", "pair-alone", "pair-sole", "pair-waiting", "lent in alone", "lent in normal", "lent in sole", "nak", "partner-answers", "partner-unheard"} {
		if all[k] == 0 {
			t.Errorf("in %d evenings there was no %q, so nothing is judged of it", seeds, k)
		}
	}
	if n := all["pair-contrary"]; n > 0 {
		t.Errorf("%d addresses seemed to be held twice", n)
	}
	t.Logf("%v", all)
}
