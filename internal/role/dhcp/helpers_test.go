package dhcp

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/plan"
	"github.com/hotstage/hotstage/internal/wire"
	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/prometheus/client_golang/prometheus"
)

// hall is a segment with a pool of 10.1.0.10 to 10.1.0.19; .20 and .21 are another server's.
func hall() Segment {
	return Segment{
		Name: "hall", Device: "eth1", Server: addr("10.1.0.2"), Prefix: netip.MustParsePrefix("10.1.0.0/24"),
		Pool: plan.Range{From: addr("10.1.0.10"), To: addr("10.1.0.19")}, Lease: time.Hour, Domain: "yapc.example",
		Options: []wire.DHCPOption{
			{Code: wire.DHCPOptSubnetMask, Data: []byte{255, 255, 255, 0}}, {Code: wire.DHCPOptRouter, Data: []byte{10, 1, 0, 1}},
			{Code: wire.DHCPOptDNS, Data: []byte{10, 1, 0, 1}},
		},
	}
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func mac(n int) net.HardwareAddr {
	return net.HardwareAddr{2, 0, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}
}

// steppedClock is moved by the test.
type steppedClock struct {
	mu   sync.Mutex
	boot time.Duration
	wall time.Time
	id   string
}

func newClock() *steppedClock {
	return &steppedClock{boot: 1000 * time.Hour, wall: time.Date(2026, 11, 24, 10, 0, 0, 0, time.UTC), id: "boot-1"}
}

func (c *steppedClock) Boot() string { return c.id }

func (c *steppedClock) Now() (time.Duration, time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.boot, c.wall
}

func (c *steppedClock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.boot, c.wall = c.boot+d, c.wall.Add(d)
}

// memory is a book that keeps leases by address, fails when told to and can be held up.
type memory struct {
	mu      sync.Mutex
	leases  map[string]fact.Lease
	fail    error
	gate    chan struct{} // a commit takes one from it when it is not nil
	commits int
}

func newMemory() *memory { return &memory{leases: map[string]fact.Lease{}} }

func (b *memory) Load(context.Context) ([]fact.Lease, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []fact.Lease
	for _, l := range b.leases {
		all = append(all, l)
	}
	slices.SortFunc(all, func(x, y fact.Lease) int { return x.Addr.Compare(y.Addr) })
	return all, nil
}

func (b *memory) Commit(ctx context.Context, leases []fact.Lease) error {
	b.mu.Lock()
	gate := b.gate
	b.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.commits++
	if b.fail != nil {
		return b.fail
	}
	for _, l := range leases {
		b.leases[l.Segment+" "+l.Addr.String()] = l
	}
	return nil
}

func (b *memory) set(fail error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fail = fail
}

var errFull = errors.New("no space left on device")

// message makes a client's message with the library that is the codec's oracle too.
func message(t testing.TB, mac net.HardwareAddr, kind dhcpv4.MessageType, mods ...dhcpv4.Modifier) []byte {
	t.Helper()
	m, err := dhcpv4.New(append([]dhcpv4.Modifier{dhcpv4.WithHwAddr(mac), dhcpv4.WithMessageType(kind)}, mods...)...)
	if err != nil {
		t.Fatal(err)
	}
	return m.ToBytes()
}

func wants(a string) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(net.ParseIP(a).To4()))
}

func server(a string) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.ParseIP(a).To4()))
}

func from(a string) dhcpv4.Modifier { return dhcpv4.WithClientIP(net.ParseIP(a).To4()) }

func id(s string) dhcpv4.Modifier { return dhcpv4.WithOption(dhcpv4.OptClientIdentifier([]byte(s))) }

func hostname(s string) dhcpv4.Modifier { return dhcpv4.WithOption(dhcpv4.OptHostName(s)) }

func metrics() *Metrics { return NewMetrics(prometheus.NewRegistry()) }

// desk is a segment with a clock, for one message after the other; its store is a map.
type desk struct {
	t     testing.TB
	g     *segment
	clock *steppedClock
	book  *memory
	m     wire.DHCP
	a     answer
}

func newDesk(t testing.TB, cfg Segment) *desk {
	d := &desk{t: t, clock: newClock(), book: newMemory()}
	d.restart(cfg)
	return d
}

// restart forgets everything but the store.
func (d *desk) restart(cfg Segment) (outside int) {
	d.t.Helper()
	g, err := newSegment(cfg, d.clock.Boot(), newNames([]string{"gw1.yapc.example"}))
	if err != nil {
		d.t.Fatal(err)
	}
	all, err := d.book.Load(context.Background())
	if err != nil {
		d.t.Fatal(err)
	}
	d.g = g
	return g.restore(read(d.clock), all)
}

// ask has the segment handle a broadcast message and, where a lease is made, stores it.
func (d *desk) ask(mac net.HardwareAddr, kind dhcpv4.MessageType, mods ...dhcpv4.Modifier) *answer {
	d.t.Helper()
	return d.hand(message(d.t, mac, kind, mods...), true)
}

func (d *desk) hand(b []byte, broadcast bool) *answer {
	d.t.Helper()
	if err := d.m.Parse(b); err != nil {
		d.t.Fatal(err)
	}
	d.g.handle(read(d.clock), &d.m, broadcast, true, &d.a)
	if a := &d.a; a.grant != nil {
		if err := d.book.Commit(context.Background(), []fact.Lease{d.g.fact(a.grant, &a.rec)}); err != nil {
			d.g.notStored(a.grant, a.gen)
			a.frame = a.frame[:0]
			a.why = storeDown
		} else if !d.g.stored(a.grant, a.gen, &a.rec) {
			d.t.Fatal("the client is gone already")
		}
	}
	return &d.a
}

// save writes what ended.
func (d *desk) save() {
	d.t.Helper()
	leases, _ := d.g.unsaved(1<<20, nil, nil)
	if err := d.book.Commit(context.Background(), leases); err != nil {
		d.t.Fatal(err)
	}
}

// reply reads the answer's message; nil for silence.
func (d *desk) reply(a *answer) *dhcpv4.DHCPv4 {
	d.t.Helper()
	if len(a.frame) == 0 {
		return nil
	}
	m, err := dhcpv4.FromBytes(a.frame[wire.UDPFrameHead:])
	if err != nil {
		d.t.Fatal(err)
	}
	return m
}

// lease takes an address by DISCOVER and REQUEST, and returns it, "" when none was offered.
func (d *desk) lease(mac net.HardwareAddr, mods ...dhcpv4.Modifier) string {
	d.t.Helper()
	offer := d.reply(d.ask(mac, dhcpv4.MessageTypeDiscover, mods...))
	if offer == nil {
		return ""
	}
	ack := d.reply(d.ask(mac, dhcpv4.MessageTypeRequest, append(mods, wants(offer.YourIPAddr.String()), server("10.1.0.2"))...))
	if ack == nil || ack.MessageType() != dhcpv4.MessageTypeAck || !ack.YourIPAddr.Equal(offer.YourIPAddr) {
		d.t.Fatalf("offer %v, then %v", offer.YourIPAddr, ack)
	}
	return ack.YourIPAddr.String()
}
