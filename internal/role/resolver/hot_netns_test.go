//go:build linux

package resolver

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hotstage/hotstage/internal/testnet"
	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/vishvananda/netlink"
)

// hotVenue is a venue whose resolver puts hot answers before the socket of hall.
func hotVenue(t *testing.T, devices ...string) *venue {
	t.Helper()
	v := newVenue(t)
	cfg := v.server.cfg
	v.stop()
	cfg.XDP, cfg.Devices = true, devices
	v.events = newEvents()
	v.server = New(cfg, v.leases, newMetrics(), v.events.tell)
	v.server.net = within(v.gw)
	startVenue(t, v)
	return v
}

// startVenue runs the venue's server until v.stop.
func startVenue(t *testing.T, v *venue) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- v.server.Run(ctx) }()
	v.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(v.stop)
	<-v.server.Ready()
}

// eventually waits until f holds.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !f(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 5 s: %s", what)
		}
	}
}

// before is how many answers have left before the socket, as the metrics say.
func (v *venue) before() float64 { return testutil.ToFloat64(v.server.m.before) }

func (v *venue) xdpCheck() string {
	for _, c := range v.server.Checks() {
		if c.Name == "resolver-xdp" {
			return c.Measured
		}
	}
	return ""
}

func TestHotAnswersLeaveBeforeTheSocket(t *testing.T) {
	v := hotVenue(t, "hall", "absent")
	c := v.connect(t, "udp", "10.1.0.50", "10.1.0.1")
	c6 := v.connect(t, "udp", "2001:db8:1::50", "2001:db8:1::1")
	ask := func(name string) string { return ask1(c, name, dns.TypeA) }
	eventually(t, "an answer by each family before the socket", func() bool {
		for _, got := range []string{ask("popular.example.net"), ask1(c6, "POPular.example.net", dns.TypeA)} {
			if !strings.Contains(got, "192.0.2.80") {
				t.Fatalf("the answer is %s", got)
			}
		}
		return v.before() > 4
	})
	if got := v.xdpCheck(); !strings.Contains(got, "hall (generic: the other end of the veth pair") || !strings.Contains(got, "absent (off: ") {
		t.Errorf("the check says %q", got)
	}
	if n := v.first.count("popular.example.net.") + v.second.count("popular.example.net."); n > 2 {
		t.Errorf("asked %d times outside", n)
	}
	eventually(t, "the demand knows of what it did not see", func() bool {
		for _, h := range v.server.handler.top.names(10) {
			if strings.HasPrefix(string(h.key.name()), "\x07popular") && h.weight > 6 {
				return true
			}
		}
		return false
	})
	attached := func() (is bool) {
		testnet.Do(t, v.gw, func() error {
			l, err := netlink.LinkByName("hall")
			is = err == nil && l.Attrs().Xdp != nil && l.Attrs().Xdp.Attached
			return err
		})
		return is
	}
	if !attached() {
		t.Error("the kernel says that no program is on hall")
	}
	v.stop()
	if attached() {
		t.Error("a resolver that has stopped leaves its program")
	}
}

// The event's own names change with leases; a copy would outlive one.
func TestOwnNamesStayWithTheSocket(t *testing.T) {
	v := hotVenue(t, "hall")
	v.leases.bind("phone.yapc.example", addr("10.1.0.77"))
	c := v.connect(t, "udp", "10.1.0.50", "10.1.0.1")
	for range 30 {
		ask1(c, "phone.yapc.example", dns.TypeA)
		ask1(c, "gw1.yapc.example", dns.TypeA)
		ask1(c, "popular.example.net", dns.TypeA)
	}
	eventually(t, "the other name is before the socket", func() bool {
		ask1(c, "popular.example.net", dns.TypeA)
		return v.before() > 0
	})
	v.leases.bind("phone.yapc.example", addr("10.1.0.78"))
	if got := ask1(c, "phone.yapc.example", dns.TypeA); !strings.Contains(got, "10.1.0.78") {
		t.Errorf("a moved lease: %s", got)
	}
}

// An address that the node loses is not answered for, and one that it gets is.
func TestServesTheAddressesItHas(t *testing.T) {
	v := hotVenue(t, "hall")
	c := v.connect(t, "udp", "10.1.0.50", "10.1.0.1")
	hot := func(what string) {
		t.Helper()
		eventually(t, what, func() bool {
			before := v.before()
			ask1(c, "popular.example.net", dns.TypeA)
			time.Sleep(250 * time.Millisecond)
			return v.before() > before
		})
	}
	hot("an answer before the socket")
	change := func(f func(netlink.Link, *netlink.Addr) error) {
		testnet.Do(t, v.gw, func() error {
			l, err := netlink.LinkByName("hall")
			if err != nil {
				return err
			}
			a, err := netlink.ParseAddr("10.1.0.1/20")
			if err != nil {
				return err
			}
			return f(l, a)
		})
	}
	change(func(l netlink.Link, a *netlink.Addr) error { return netlink.AddrDel(l, a) })
	time.Sleep(50 * time.Millisecond)
	c.SetDeadline(time.Now().Add(300 * time.Millisecond))
	m := new(dns.Msg)
	m.SetQuestion("popular.example.net.", dns.TypeA)
	if err := c.WriteMsg(m); err != nil {
		t.Fatal(err)
	}
	if r, err := c.ReadMsg(); err == nil {
		t.Errorf("an address that is gone answers: %v", r)
	}
	change(func(l netlink.Link, a *netlink.Addr) error { return netlink.AddrAdd(l, a) })
	hot("an answer at the address that is back")
}

// What the cache does not have any more is not answered; what it has anew is.
func TestCopiesFollowTheCache(t *testing.T) {
	cfg := hall()
	h := newHandler(cfg, nil)
	now := time.Now()
	answerOf := func(a string, ttl int) func(*dns.Msg) {
		return func(m *dns.Msg) {
			m.Answer = []dns.RR{record(t, fmt.Sprintf("%s %d IN A %s", m.Question[0].Name, ttl, a))}
		}
	}
	for i := range 3 {
		store(t, h.cache, fmt.Sprintf("n%d.example.net", i), dns.TypeA, false, false, now, answerOf("192.0.2.1", 100))
	}
	store(t, h.cache, "failed.example.net", dns.TypeA, false, false, now, func(m *dns.Msg) { m.Rcode = dns.RcodeServerFailure })
	store(t, h.cache, "brief.example.net", dns.TypeA, false, false, now, answerOf("192.0.2.1", 1))
	f, w := newFront(t, h, clientRate)
	w.want(h.cache)
	fill := func(at time.Time, want int) {
		t.Helper()
		if err := f.fill(at); err != nil {
			t.Fatal(err)
		}
		if len(f.kept) != want {
			t.Errorf("%d answers kept, not %d: failed and brief ones have no place", len(f.kept), want)
		}
	}
	fill(now, 3)
	try := func(name string) string {
		t.Helper()
		_, verdict, err := f.program.Try(hotMAC, false, testnet.UDPFrame(hotMAC, clientMAC, addrPort("10.1.0.50:999"), addrPort("10.1.0.1:53"), question(t, name, dns.TypeA)))
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(verdict)
	}
	answered, passed := try("n0.example.net"), try("n9.example.net")
	if answered == passed {
		t.Fatalf("verdict %s for a hot name and a cold one", answered)
	}
	first := *f.kept[firstKey(h.cache, "n0.example.net", t)]
	store(t, h.cache, "n0.example.net", dns.TypeA, false, false, now, answerOf("192.0.2.9", 100))
	fill(now, 3)
	if second := *f.kept[firstKey(h.cache, "n0.example.net", t)]; second.of == first.of {
		t.Error("the old answer is still before the socket")
	}
	flushed := firstKey(h.cache, "n1.example.net", t)
	e := f.kept[flushed].of
	h.cache.shards[e.hash%shardCount].entries.remove(e)
	fill(now, 2)
	if got := try("n1.example.net"); got != passed {
		t.Errorf("a flushed name: verdict %s", got)
	}
	w.keys = nil // nothing is hot any more: what is there stays until its time
	fill(now.Add(89*time.Second), 2)
	fill(now.Add(91*time.Second), 0) // the last tenth is the socket's
	if got := try("n2.example.net"); got != passed {
		t.Errorf("an old name: verdict %s", got)
	}
}

// Hot questions find a place when all are taken.
func TestTheHottestStay(t *testing.T) {
	h := newHandler(hall(), nil)
	f, w := newFront(t, h, clientRate)
	for i := range 3 {
		store(t, h.cache, fmt.Sprintf("n%d.example.net", i), dns.TypeA, false, false, time.Now(), func(m *dns.Msg) {
			m.Answer = []dns.RR{record(t, m.Question[0].Name+" 100 IN A 192.0.2.1")}
		})
	}
	w.want(h.cache)
	if err := f.fill(time.Now()); err != nil {
		t.Fatal(err)
	}
	f.kept[string(w.keys[1].bytes())].asked = time.Now().Add(time.Second)
	if err := f.thin(2); err != nil {
		t.Fatal(err)
	}
	if len(f.kept) != 1 || f.kept[string(w.keys[1].bytes())] == nil {
		t.Errorf("%d kept, not the one asked last alone", len(f.kept))
	}
}
