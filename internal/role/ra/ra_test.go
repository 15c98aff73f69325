package ra

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/plan"
	"github.com/mdlayher/ndp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// paper is a socket whose other side is the test.
type paper struct {
	in     chan packet
	closed chan struct{}
	mu     sync.Mutex
	away   bool
	sent   []sentRA
}

type packet struct {
	b    []byte
	hops int
	src  netip.Addr
}

type sentRA struct {
	At       time.Duration
	To       string
	Lifetime time.Duration
}

var (
	router = netip.MustParseAddr("fe80::1%p0")
	host   = netip.MustParseAddr("fe80::99%p0")
	rs     = []byte{133, 0, 0, 0, 0, 0, 0, 0}
)

func (p *paper) receive(b []byte) (int, int, netip.Addr, error) {
	select {
	case x := <-p.in:
		return copy(b, x.b), x.hops, x.src, nil
	case <-p.closed:
		return 0, 0, netip.Addr{}, errors.New("closed")
	}
}

var start time.Time

func (p *paper) send(m *ndp.RouterAdvertisement, dst netip.Addr) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sent = append(p.sent, sentRA{time.Since(start), dst.WithZone("").String(), m.RouterLifetime})
	return nil
}

func (p *paper) hardware() net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 0, 1} }
func (p *paper) own() netip.Addr            { return router }
func (p *paper) close()                     { close(p.closed) }
func (p *paper) gone() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.away
}

func (p *paper) all() []sentRA {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]sentRA(nil), p.sent...)
}

func testLink() Link {
	return Link{Segment: "hall", Device: "p0", Prefix: netip.MustParsePrefix("2001:db8:1::/64"),
		DNS: []netip.Addr{netip.MustParseAddr("2001:db8:1::1")}, Search: []string{"yapc.example", "example.org"}, MTU: 1454, Portal: "https://portal.yapc.example/api"}
}

// bench starts a server on paper within a synctest bubble and returns its socket, the
// events told and a function that stops it.
func bench(t *testing.T) (*Server, *paper, *[]fact.Event, func()) {
	t.Helper()
	start = time.Now()
	p := &paper{in: make(chan packet), closed: make(chan struct{})}
	events := &[]fact.Event{}
	s := New(Config{Links: []Link{testLink()}}, NewMetrics(prometheus.NewRegistry()), func(e fact.Event) { *events = append(*events, e) })
	s.open = func(string) (socket, error) { return p, nil }
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	<-s.Ready()
	return s, p, events, func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
}

func TestInitialBurstThenIntervalThenFarewell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p, _, stop := bench(t)
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		for _, c := range s.Checks() {
			if !c.OK {
				t.Errorf("check %+v", c)
			}
		}
		stop()
		sent := p.all()
		for i, x := range sent {
			if x.To != "ff02::1" {
				t.Errorf("advertisement %d to %s", i, x.To)
			}
			if i == 0 || i == len(sent)-1 {
				continue
			}
			gap := x.At - sent[i-1].At
			if lo, hi := minInterval, maxInterval; i < maxInitial {
				if gap != maxInitialInterval {
					t.Errorf("initial gap %v, want %v", gap, maxInitialInterval)
				}
			} else if gap < lo || gap > hi {
				t.Errorf("gap %v, want between %v and %v", gap, lo, hi)
			}
		}
		if n := len(sent); n < 13 || n > 21 {
			t.Errorf("%d advertisements in two hours", n)
		}
		if last := sent[len(sent)-1]; last.Lifetime != 0 {
			t.Errorf("final router lifetime %v, want 0", last.Lifetime)
		}
		if sent[0].Lifetime != routerLifetime {
			t.Errorf("router lifetime %v", sent[0].Lifetime)
		}
	})
}

func TestSolicitationIsAnsweredByUnicastWithinHalfASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, p, _, stop := bench(t)
		time.Sleep(time.Minute)
		before := len(p.all())
		asked := time.Since(start)
		for range 5 { // the same host asking five times at once gets one answer
			p.in <- packet{rs, 255, host}
		}
		time.Sleep(time.Second)
		got := p.all()[before:]
		if len(got) != 1 || got[0].To != "fe80::99" || got[0].At-asked > maxReplyDelay {
			t.Errorf("answers %+v to a solicitation at %v", got, asked)
		}
		stop()
	})
}

func TestManySolicitationsAreAnsweredByOneMulticast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, p, _, stop := bench(t)
		time.Sleep(time.Minute)
		before := len(p.all())
		for i := range 10 * maxPending {
			a := netip.MustParseAddr("fe80::1:0").As16()
			a[14], a[15] = byte(i>>8), byte(i)
			p.in <- packet{rs, 255, netip.AddrFrom16(a).WithZone("p0")}
		}
		time.Sleep(4 * time.Second)
		multicast, unicast := 0, 0
		for _, x := range p.all()[before:] {
			if x.To == "ff02::1" {
				multicast++
			} else {
				unicast++
			}
		}
		if multicast != 1 || unicast > maxPending {
			t.Errorf("%d multicast and %d unicast answers to %d solicitations", multicast, unicast, 10*maxPending)
		}
		stop()
	})
}

func TestMulticastsKeepTheirDistance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, p, _, stop := bench(t)
		for range 300 { // 30 s of solicitations from the unspecified address
			p.in <- packet{rs, 255, netip.IPv6Unspecified()}
			time.Sleep(100 * time.Millisecond)
		}
		sent := p.all()
		for i := 1; i < len(sent); i++ {
			if gap := sent[i].At - sent[i-1].At; gap < minDelay {
				t.Errorf("multicasts %v apart", gap)
			}
		}
		if len(sent) < 9 {
			t.Errorf("%d advertisements in 30 s of asking", len(sent))
		}
		stop()
	})
}

func TestDeviceGoesAndComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first := &paper{in: make(chan packet), closed: make(chan struct{})}
		second := &paper{in: make(chan packet), closed: make(chan struct{})}
		start = time.Now()
		var kinds []string
		s := New(Config{Links: []Link{testLink()}}, NewMetrics(prometheus.NewRegistry()), func(e fact.Event) { kinds = append(kinds, e.Kind) })
		s.open = func(string) (socket, error) {
			switch at := time.Since(start); {
			case at < time.Second:
				return first, nil
			case at < 40*time.Second:
				return nil, errors.New("no such device")
			}
			return second, nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()
		<-s.Ready()
		time.Sleep(5500 * time.Millisecond)
		first.mu.Lock()
		first.away = true
		first.mu.Unlock()
		time.Sleep(20 * time.Second)
		if c := s.Checks()[0]; c.OK || c.Hint == "" {
			t.Errorf("check while the device is away: %+v", c)
		}
		time.Sleep(20 * time.Second)
		cancel()
		<-done
		if got := second.all(); len(got) < 2 || got[0].Lifetime != routerLifetime {
			t.Errorf("after the device came back: %+v", got)
		}
		if diff := cmp.Diff([]string{"ra-device-missing", "ra-resumed"}, kinds); diff != "" {
			t.Errorf("events (-want +got):\n%s", diff)
		}
	})
}

func TestForeignRouterIsToldOnceInAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p, events, stop := bench(t)
		theirs := Link{Prefix: netip.MustParsePrefix("2001:db8:bad::/64")}
		b, err := ndp.MarshalMessage(theirs.advertisement(net.HardwareAddr{0xaa, 0xbb, 0xcc, 0, 0, 1}, false))
		if err != nil {
			t.Fatal(err)
		}
		for range 100 {
			p.in <- packet{b, 255, host}
		}
		p.in <- packet{b, 255, router} // our own, looped back
		synctest.Wait()
		if len(*events) != 1 {
			t.Fatalf("%d events", len(*events))
		}
		want := "On segment hall the router fe80::99 (aa:bb:cc:00:00:01) announces 2001:db8:bad::/64; find its port and shut it, attendees may send their IPv6 to it."
		if diff := cmp.Diff(want, (*events)[0].Words); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if c := s.Checks()[0]; c.Name != "ra-alone-hall" || c.OK {
			t.Errorf("first check %+v, want ra-alone-hall to fail", c)
		}
		time.Sleep(rivalMemory)
		p.in <- packet{b, 255, host}
		synctest.Wait()
		if len(*events) != 2 {
			t.Errorf("%d events after a while", len(*events))
		}
		for i := range 1000 { // forged sources
			a := netip.MustParseAddr("fe80::2:0").As16()
			a[14], a[15] = byte(i>>8), byte(i)
			p.in <- packet{b, 255, netip.AddrFrom16(a)}
		}
		synctest.Wait()
		if n := len(s.links[0].foreign); n > maxRivals {
			t.Errorf("%d routers remembered, at most %d wanted", n, maxRivals)
		}
		stop()
	})
}

func TestInvalidPacketsAreDroppedAndCounted(t *testing.T) {
	global := netip.MustParseAddr("2001:db8:1::99")
	lla := append(rs[:8:8], 1, 1, 2, 0, 0, 0, 0, 9)
	long := append(rs[:8:8], 1, 2, 2, 0, 0, 0, 0, 9)
	zero := append(rs[:8:8], 1, 0, 2, 0, 0, 0, 0, 9)
	for name, c := range map[string]struct {
		packet
		want error
	}{
		"plain":                            {packet{rs, 255, host}, nil},
		"unspecified":                      {packet{rs, 255, netip.IPv6Unspecified()}, nil},
		"global of the prefix":             {packet{lla, 255, global}, nil},
		"forwarded":                        {packet{rs, 254, host}, errHopLimit},
		"short":                            {packet{rs[:7], 255, host}, errMessage},
		"code":                             {packet{[]byte{133, 1, 0, 0, 0, 0, 0, 0}, 255, host}, errMessage},
		"empty":                            {packet{nil, 255, host}, errMessage},
		"option longer than the packet":    {packet{long, 255, host}, errMessage},
		"option of length zero":            {packet{zero, 255, host}, errMessage},
		"unspecified with a link address":  {packet{lla, 255, netip.IPv6Unspecified()}, errMessage},
		"address of another network":       {packet{rs, 255, netip.MustParseAddr("2001:db8:2::1")}, errSource},
		"neighbour solicitation":           {packet{[]byte{135, 0, 0, 0, 0, 0, 0, 0}, 255, host}, errType},
		"advertisement from a global":      {packet{make16(134), 255, global}, errSource},
		"advertisement with eight octets":  {packet{[]byte{134, 0, 0, 0, 0, 0, 0, 0}, 255, host}, errMessage},
		"advertisement of nothing is fine": {packet{make16(134), 255, host}, nil},
	} {
		if _, _, err := check(c.b, c.hops, c.src, testLink().Prefix); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		s, p, _, stop := bench(t)
		p.in <- packet{rs, 64, host}
		p.in <- packet{zero, 255, host}
		synctest.Wait()
		if got := testutil.ToFloat64(s.m.invalid.WithLabelValues("hall", "hop-limit")); got != 1 {
			t.Errorf("hop-limit counted %v times", got)
		}
		if got := testutil.ToFloat64(s.m.invalid.WithLabelValues("hall", "malformed")); got != 1 {
			t.Errorf("malformed counted %v times", got)
		}
		stop()
	})
}

func make16(kind byte) []byte { return append([]byte{kind}, make([]byte, 15)...) }

func TestAdvertisement(t *testing.T) {
	got := testLink().advertisement(net.HardwareAddr{2, 0, 0, 0, 0, 1}, false)
	b, err := ndp.MarshalMessage(got)
	if err != nil {
		t.Fatal(err)
	}
	back, err := ndp.ParseMessage(b)
	if err != nil {
		t.Fatal(err)
	}
	want := &ndp.RouterAdvertisement{
		CurrentHopLimit: 64, RouterLifetime: 45 * time.Minute,
		Options: []ndp.Option{
			&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: net.HardwareAddr{2, 0, 0, 0, 0, 1}},
			&ndp.MTU{MTU: 1454},
			&ndp.PrefixInformation{PrefixLength: 64, OnLink: true, AutonomousAddressConfiguration: true,
				ValidLifetime: 90 * time.Minute, PreferredLifetime: 45 * time.Minute, Prefix: netip.MustParseAddr("2001:db8:1::")},
			&ndp.RecursiveDNSServer{Lifetime: 45 * time.Minute, Servers: []netip.Addr{netip.MustParseAddr("2001:db8:1::1")}},
			&ndp.DNSSearchList{Lifetime: 45 * time.Minute, DomainNames: []string{"yapc.example", "example.org"}},
			&ndp.CaptivePortal{URI: "https://portal.yapc.example/api"},
		},
	}
	if diff := cmp.Diff(ndp.Message(want), back, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func testPlan() *plan.Plan {
	six := netip.MustParsePrefix("2001:db8:1::/64")
	return &plan.Plan{
		Sites: []plan.Site{{Name: "venue", Uplinks: []plan.Uplink{
			{Name: "flets", IPv6: netip.MustParsePrefix("2001:db8::/32"), MTU: 1454}, {Name: "v4only", MTU: 1400}}}},
		Segments: []plan.Segment{
			{Name: "hall", IPv6: six, Search: []string{"yapc.example"}, CaptivePortal: plan.NoPortal, MTU: 1400, DNS6: []netip.Addr{six.Addr().Next()}},
			{Name: "four", IPv4: netip.MustParsePrefix("10.0.0.0/24")},
			{Name: "other", IPv6: netip.MustParsePrefix("2001:db8:2::/64")},
		},
		Nodes: []plan.Node{
			{Name: "gw1", Site: "venue", Roles: []plan.Role{plan.RoleRouter}, Attachments: []plan.Attachment{
				{Segment: "hall", Device: "br101", Gateway: true}, {Segment: "four", Device: "br102", Gateway: true}, {Segment: "other", Device: "br103"}}},
			{Name: "srv1", Site: "venue", Roles: []plan.Role{plan.RoleDHCP}, Attachments: []plan.Attachment{{Segment: "hall", Device: "eth0", Gateway: true}}},
		},
	}
}

func TestConfigure(t *testing.T) {
	cfg, err := Configure(testPlan(), "gw1")
	if err != nil {
		t.Fatal(err)
	}
	want := Config{Links: []Link{{Segment: "hall", Device: "br101", Prefix: netip.MustParsePrefix("2001:db8:1::/64"),
		DNS: []netip.Addr{netip.MustParseAddr("2001:db8:1::1")}, Search: []string{"yapc.example"}, MTU: 1400, Portal: plan.NoPortal}}}
	same := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
	samePrefix := cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })
	if diff := cmp.Diff(want, cfg, same, samePrefix); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if cfg, err := Configure(testPlan(), "srv1"); err != nil || len(cfg.Links) != 0 {
		t.Errorf("a node that is no router: %+v, %v", cfg, err)
	}
	if _, err := Configure(testPlan(), "gw9"); err == nil {
		t.Error("a node that is not in the plan: no error")
	}
	p := testPlan()
	p.Segments[0].IPv6 = netip.MustParsePrefix("2001:db8:1::/60")
	if _, err := Configure(p, "gw1"); err == nil {
		t.Error("a /60: no error")
	}
}

func FuzzCheck(f *testing.F) {
	b, err := ndp.MarshalMessage(testLink().advertisement(net.HardwareAddr{2, 0, 0, 0, 0, 1}, false))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(rs)
	f.Add(append(rs[:8:8], 1, 1, 2, 0, 0, 0, 0, 9))
	f.Fuzz(func(t *testing.T, b []byte) {
		kind, _, err := check(b, 255, host, testLink().Prefix)
		if err == nil && kind == typeAdvertisement {
			announces(b)
		}
		// What the library reads as a solicitation is one for us, but for option lengths
		// that only it checks by option type.
		if m, lib := ndp.ParseMessage(b); lib == nil && err != nil && b[1] == 0 {
			switch m.(type) {
			case *ndp.RouterSolicitation, *ndp.RouterAdvertisement:
				t.Errorf("check says %v of a message that the library reads: %x", err, b)
			}
		}
	})
}
