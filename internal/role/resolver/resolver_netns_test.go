//go:build linux

package resolver

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/hotstage/hotstage/internal/testnet"
	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/vishvananda/netlink"
)

// venue is a network of three namespaces:
//
//	client ── 10.1.0.0/20, 2001:db8:1::/64 ── gw (the resolver) ── 192.0.2.0/24 ── world
//	10.1.0.50-60, 10.9.0.5 (no segment)       10.1.0.1, ::1                     .1 and .2 resolve
type venue struct {
	client, gw, world *kernel.Namespace
	first, second     *world
	leases            *leaseTable
	events            *events
	server            *Server
	stop              func()
}

// world is a resolver of the internet: every name has the address 192.0.2.80.
type world struct {
	ns   *kernel.Namespace
	addr netip.AddrPort
	dumb atomic.Bool // takes questions and says nothing

	mu    sync.Mutex
	asked map[string]int // by name in lower case
	udp   *net.UDPConn
	stop  []func()
}

func (w *world) start(t *testing.T) {
	t.Helper()
	var tcp net.Listener
	testnet.Do(t, w.ns, func() (err error) {
		if w.udp, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(w.addr)); err != nil {
			return err
		}
		tcp, err = net.Listen("tcp4", w.addr.String())
		return err
	})
	for _, s := range []*dns.Server{{PacketConn: w.udp, Handler: w}, {Listener: tcp, Handler: w}} {
		started, done := make(chan struct{}), make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		go func() { s.ActivateAndServe(); close(done) }()
		<-started
		w.stop = append(w.stop, func() { s.Shutdown(); <-done })
	}
}

// die closes the resolver's sockets.
func (w *world) die() {
	for _, stop := range w.stop {
		stop()
	}
	w.stop = nil
}

func (w *world) count(name string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.asked[name]
}

func (w *world) ServeDNS(out dns.ResponseWriter, m *dns.Msg) {
	name := strings.ToLower(m.Question[0].Name)
	w.mu.Lock()
	w.asked[name]++
	w.mu.Unlock()
	if w.dumb.Load() {
		return
	}
	r := new(dns.Msg)
	r.SetReply(m)
	r.SetEdns0(1232, false)
	_, byUDP := out.RemoteAddr().(*net.UDPAddr)
	add := func(a string) {
		rr, _ := dns.NewRR(m.Question[0].Name + " 60 IN A " + a)
		r.Answer = append(r.Answer, rr)
	}
	switch label, _, _ := strings.Cut(name, "."); label {
	case "slow":
		time.Sleep(300 * time.Millisecond)
	case "big":
		r.Truncated = byUDP
		for n := range 100 {
			if !byUDP {
				add(fmt.Sprintf("192.0.2.%d", 100+n))
			}
		}
	case "forged":
		w.forge(out, r)
	}
	if len(r.Answer) == 0 && !r.Truncated && m.Question[0].Qtype == dns.TypeA {
		add("192.0.2.80")
	}
	out.WriteMsg(r)
}

// forge sends what an attacker could, before the answer: from another port, with another id,
// for another name, as a query; each says 203.0.113.66.
func (w *world) forge(out dns.ResponseWriter, r *dns.Msg) {
	evil := r.Copy()
	rr, _ := dns.NewRR(r.Question[0].Name + " 60 IN A 203.0.113.66")
	evil.Answer = []dns.RR{rr}
	w.ns.Do(func() error {
		c, err := net.DialUDP("udp4", &net.UDPAddr{IP: w.addr.Addr().AsSlice()}, out.RemoteAddr().(*net.UDPAddr))
		if err != nil {
			return err
		}
		defer c.Close()
		b, _ := evil.Pack()
		_, err = c.Write(b)
		return err
	})
	for n := range 20 {
		other := evil.Copy()
		other.Id += uint16(n + 1)
		out.WriteMsg(other)
	}
	other := evil.Copy()
	other.Question[0].Name = "forget.example.net."
	out.WriteMsg(other)
	other = evil.Copy()
	other.Response = false
	out.WriteMsg(other)
}

// within opens sockets in the namespace.
func within(ns *kernel.Namespace) network {
	n := system()
	inside := n
	n.in = ns.Do
	n.packet = func(a netip.AddrPort, shared bool) (c *net.UDPConn, err error) {
		e := ns.Do(func() error { c, err = inside.packet(a, shared); return nil })
		return c, firstError(err, e)
	}
	n.stream = func(a netip.AddrPort) (l net.Listener, err error) {
		e := ns.Do(func() error { l, err = inside.stream(a); return nil })
		return l, firstError(err, e)
	}
	n.dial = func(ctx context.Context, network string, to netip.AddrPort) (c net.Conn, err error) {
		e := ns.Do(func() error { c, err = inside.dial(ctx, network, to); return nil })
		return c, firstError(err, e)
	}
	return n
}

func firstError(errs ...error) error {
	i := slices.IndexFunc(errs, func(err error) bool { return err != nil })
	if i < 0 {
		return nil
	}
	return errs[i]
}

// newVenue starts everything. The server is stopped with the test at the latest, and then no
// goroutine of it may be left.
func newVenue(t *testing.T, listen ...string) *venue {
	t.Helper()
	return newVenueWith(t, func(*Config) {}, listen...)
}

// newVenueWith is newVenue with another configuration.
func newVenueWith(t *testing.T, change func(*Config), listen ...string) *venue {
	t.Helper()
	v := &venue{client: testnet.Namespace(t), gw: testnet.Namespace(t), world: testnet.Namespace(t), leases: &leaseTable{}, events: newEvents()}
	clients := []string{"10.9.0.5/32", "2001:db8:1::50/64"}
	for n := 50; n <= 60; n++ {
		clients = append(clients, fmt.Sprintf("10.1.0.%d/20", n))
	}
	testnet.Veth(t, v.gw, "hall", []string{"10.1.0.1/20", "10.9.0.1/24", "2001:db8:1::1/64"}, v.client, "eth0", clients)
	testnet.Veth(t, v.gw, "wan", []string{"192.0.2.254/24"}, v.world, "eth0", []string{"192.0.2.1/24", "192.0.2.2/24"})
	for i, w := range []**world{&v.first, &v.second} {
		*w = &world{ns: v.world, addr: upstreamAddr(i + 1), asked: map[string]int{}}
		(*w).start(t)
		t.Cleanup((*w).die)
	}
	cfg := hall()
	cfg.Ask = byUDP(v.first.addr, v.second.addr)
	for _, a := range append([]string{"10.1.0.1", "2001:db8:1::1"}, listen...) {
		cfg.Listen = append(cfg.Listen, addr(a))
	}
	change(&cfg)
	before := runtime.NumGoroutine()
	v.server = New(cfg, v.leases, newMetrics(), v.events.tell)
	v.server.net = within(v.gw)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- v.server.Run(ctx) }()
	v.stop = sync.OnceFunc(func() {
		cancel()
		begun := time.Now()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
		if d := time.Since(begun); d > time.Second {
			t.Errorf("Run ended %v after its context", d)
		}
		for end := time.Now().Add(2 * time.Second); runtime.NumGoroutine() > before; {
			if time.Now().After(end) {
				buf := make([]byte, 1<<16)
				t.Fatalf("%d goroutines, %d before Run:\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
			}
			runtime.Gosched()
		}
	})
	t.Cleanup(v.stop)
	select {
	case <-v.server.Ready():
	case err := <-ended:
		t.Fatalf("Run: %v", err)
	}
	return v
}

// connect opens a connection from a client's address to the resolver's.
func (v *venue) connect(t *testing.T, network, from, to string) *dns.Conn {
	t.Helper()
	c := new(dns.Conn)
	testnet.Do(t, v.client, func() (err error) {
		d := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr(from), 0)), Timeout: 5 * time.Second}
		if network == "tcp" {
			d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(addr(from), 0))
		}
		c.Conn, err = d.Dial(network, netip.AddrPortFrom(addr(to), port).String())
		return err
	})
	c.UDPSize = 4096
	t.Cleanup(func() { c.Close() })
	return c
}

// ask sends one question and says what came, or "none".
func ask1(c *dns.Conn, name string, typ uint16, change ...func(*dns.Msg)) string {
	m := new(dns.Msg)
	m.SetQuestion(dns.Fqdn(name), typ)
	for _, f := range change {
		f(m)
	}
	c.SetDeadline(time.Now().Add(6 * time.Second))
	if err := c.WriteMsg(m); err != nil {
		return "none: " + err.Error()
	}
	r, err := c.ReadMsg()
	if err != nil {
		return "none: " + err.Error()
	}
	if r.Id != m.Id {
		return "an answer to another question"
	}
	all := append([]string{said(r)}, lines(r)...)
	if len(all) > 5 {
		all = append(all[:2], fmt.Sprintf("and %d more", len(all)-2))
	}
	return strings.Join(all, "|")
}

// sixty finds a TTL of 60 s that has run for some seconds on a busy machine.
var sixty = regexp.MustCompile(` 5[0-9] IN`)

// TestServes goes through what a client may see, by both transports and both families.
func TestServes(t *testing.T) {
	v := newVenue(t)
	v.leases.bind("phone.yapc.example", addr("10.1.0.52"))
	for _, c := range []struct {
		network, name string
		typ           uint16
		change        func(*dns.Msg)
		want          string
	}{
		{"udp", "www.example.net", dns.TypeA, edns(1232, false), "NOERROR rd edns|www.example.net. 60 IN A 192.0.2.80"},
		{"tcp", "www2.example.net", dns.TypeA, edns(1232, false), "NOERROR rd edns|www2.example.net. 60 IN A 192.0.2.80"},
		{"udp", "big.example.net", dns.TypeA, edns(4096, false), "NOERROR tc rd edns"},
		{"tcp", "big.example.net", dns.TypeA, edns(4096, false), "NOERROR rd edns|big.example.net. 60 IN A 192.0.2.100|and 99 more"},
		{"udp", "phone.yapc.example", dns.TypeA, noRD, "NOERROR aa|phone.yapc.example. 60 IN A 10.1.0.52"},
		{"tcp", "52.0.1.10.in-addr.arpa", dns.TypePTR, noRD, "NOERROR aa|52.0.1.10.in-addr.arpa. 60 IN PTR phone.yapc.example."},
		{"udp", "forged.example.net", dns.TypeA, edns(1232, false), "NOERROR rd edns|forged.example.net. 60 IN A 192.0.2.80"},
	} {
		for from, to := range map[string]string{"10.1.0.50": "10.1.0.1", "2001:db8:1::50": "2001:db8:1::1"} {
			got := ask1(v.connect(t, c.network, from, to), c.name, c.typ, c.change)
			if diff := cmp.Diff(c.want, sixty.ReplaceAllString(got, " 60 IN")); diff != "" {
				t.Errorf("%s of %s by %s (-want +got):\n%s", c.name, from, c.network, diff)
			}
		}
	}
	for _, name := range []string{"phone.yapc.example.", "52.0.1.10.in-addr.arpa."} {
		if n := v.first.count(name) + v.second.count(name); n > 0 {
			t.Errorf("%s was asked outside %d times", name, n)
		}
	}
	if got := ask1(v.connect(t, "udp", "10.1.0.50", "10.1.0.1"), "new.yapc.example", dns.TypeA); !strings.HasPrefix(got, "NXDOMAIN") {
		t.Errorf("before the lease: %s", got)
	}
	v.leases.bind("new.yapc.example", addr("10.1.0.53"))
	if got := ask1(v.connect(t, "udp", "10.1.0.50", "10.1.0.1"), "new.yapc.example", dns.TypeA); got != "NOERROR aa rd|new.yapc.example. 60 IN A 10.1.0.53" {
		t.Errorf("as soon as there is a lease: %s", got)
	}
	for _, c := range v.server.Checks() {
		if !c.OK {
			t.Errorf("check %+v", c)
		}
	}
}

// TestStrangerGetsNoAnswer: who is outside the segments is not answered, though a way back
// is there; by TCP the connection is closed.
func TestStrangerGetsNoAnswer(t *testing.T) {
	v := newVenue(t)
	stranger := v.connect(t, "udp", "10.9.0.5", "10.1.0.1")
	m := new(dns.Msg)
	m.SetQuestion("gw1.yapc.example.", dns.TypeA)
	if err := stranger.WriteMsg(m); err != nil {
		t.Fatal(err)
	}
	// The socket is read in order: when this is answered the stranger's had its turn.
	if got := ask1(v.connect(t, "udp", "10.1.0.50", "10.1.0.1"), "gw1.yapc.example", dns.TypeA); !strings.HasPrefix(got, "NOERROR") {
		t.Fatal(got)
	}
	stranger.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := stranger.ReadMsg(); err == nil {
		t.Error("the stranger was answered")
	}
	byTCP := v.connect(t, "tcp", "10.9.0.5", "10.1.0.1")
	byTCP.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := byTCP.Conn.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the stranger's connection: %v", err)
	}
	if n := testutil.ToFloat64(v.server.m.foreign); n != 2 {
		t.Errorf("%v foreign queries counted", n)
	}
}

// TestOneQuestionForAll: what 100 clients ask at once is asked outside as one question.
func TestOneQuestionForAll(t *testing.T) {
	v := newVenue(t)
	var all sync.WaitGroup
	for n := range 100 {
		network := []string{"udp", "udp", "tcp"}[n%3]
		c := v.connect(t, network, fmt.Sprintf("10.1.0.%d", 50+n%10), "10.1.0.1")
		all.Go(func() {
			if got := ask1(c, "slow.example.net", dns.TypeA); got != "NOERROR rd|slow.example.net. 60 IN A 192.0.2.80" {
				t.Error(got)
			}
		})
	}
	all.Wait()
	// 300 ms are less than the patience with a resolver that has not been asked before, but on
	// a busy machine it may end: one question is never asked more than three times.
	if n := v.first.count("slow.example.net.") + v.second.count("slow.example.net."); n < 1 || n > 3 {
		t.Errorf("asked %d times", n)
	}
	if got := testutil.ToFloat64(v.server.m.waiting); got != 0 {
		t.Errorf("%v questions are under way", got)
	}
}

// TestPipelinedTCP: several questions on one connection, the fast answer first (RFC 7766
// section 6.2.1.1).
func TestPipelinedTCP(t *testing.T) {
	v := newVenue(t)
	c := v.connect(t, "tcp", "10.1.0.50", "10.1.0.1")
	c.SetDeadline(time.Now().Add(5 * time.Second))
	for id, name := range []string{"slow.example.net.", "fast.example.net.", "gw1.yapc.example."} {
		m := new(dns.Msg)
		m.SetQuestion(name, dns.TypeA)
		m.Id = uint16(id)
		if err := c.WriteMsg(m); err != nil {
			t.Fatal(err)
		}
	}
	var order []uint16
	for range 3 {
		m, err := c.ReadMsg()
		if err != nil {
			t.Fatal(err)
		}
		order = append(order, m.Id)
	}
	if order[2] != 0 {
		t.Errorf("answers came in the order %v: the slow one kept others waiting", order)
	}
}

// TestNoQueryIsLostWhenAResolverDies: 200 queries per second, each for a new name, while the
// first resolver dies.
func TestNoQueryIsLostWhenAResolverDies(t *testing.T) {
	for what, die := range map[string]func(*venue){
		"its sockets are closed": func(v *venue) { v.first.die() },
		"its packets are lost":   func(v *venue) { v.first.dumb.Store(true) },
	} {
		t.Run(what, func(t *testing.T) {
			v := newVenue(t)
			var all sync.WaitGroup
			var mu sync.Mutex
			var took []time.Duration
			clients := make([]*dns.Conn, 600)
			for n := range clients {
				clients[n] = v.connect(t, "udp", fmt.Sprintf("10.1.0.%d", 50+n%10), "10.1.0.1")
			}
			tick := time.NewTicker(5 * time.Millisecond)
			defer tick.Stop()
			for n, c := range clients {
				if n == 200 {
					die(v)
				}
				all.Go(func() {
					begun := time.Now()
					if got := ask1(c, fmt.Sprintf("n%d.example.net", n), dns.TypeA); !strings.HasPrefix(got, "NOERROR") {
						t.Errorf("query %d: %s", n, got)
					}
					mu.Lock()
					took = append(took, time.Since(begun))
					mu.Unlock()
				})
				<-tick.C
			}
			all.Wait()
			slices.Sort(took)
			t.Logf("600 queries, none lost: p50 %v, p99 %v, longest %v", took[300], took[594], took[599])
			if took[599] > 2*time.Second {
				t.Errorf("the longest took %v", took[599])
			}
			v.events.await(t, "upstream-down")
			if n := v.second.count("n599.example.net."); n != 1 {
				t.Errorf("the last name was asked of the second resolver %d times", n)
			}
		})
	}
}

// TestAllResolversDead: an answer that has expired is given, what was never known fails, and
// the event's own names stay; the alarm is told, and it is over when one is back.
func TestAllResolversDead(t *testing.T) {
	v := newVenue(t)
	old := cached(t, time.Now().Add(-time.Hour), response(t, "old.example.net", dns.TypeA, 0, "old.example.net. 60 IN A 192.0.2.81"))
	v.server.handler.cache.put(old)
	v.first.die()
	v.second.die()
	c := v.connect(t, "udp", "10.1.0.50", "10.1.0.1")
	for name, want := range map[string]string{
		"old.example.net":  "NOERROR rd|old.example.net. 30 IN A 192.0.2.81",
		"new.example.net":  "SERVFAIL rd",
		"gw1.yapc.example": "NOERROR aa rd|gw1.yapc.example. 300 IN A 10.1.0.1",
	} {
		if diff := cmp.Diff(want, ask1(c, name, dns.TypeA)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	v.events.await(t, "no-upstream")
	if checks := v.server.Checks(); checks[0].OK || checks[0].Name != "resolver-can-resolve" {
		t.Errorf("first check %+v", checks[0])
	}
	v.second.start(t)
	v.events.await(t, "upstream-up")
	if got := ask1(c, "newer.example.net", dns.TypeA); !strings.HasPrefix(got, "NOERROR") {
		t.Errorf("when one is back: %s", got)
	}
}

// TestAddressesComeAndGo: an address that comes later is served then; one that goes away,
// with its link even, is served again when it is back.
func TestAddressesComeAndGo(t *testing.T) {
	v := newVenue(t, "10.1.0.7", "2001:db8:1::7")
	change := func(f func(netlink.Link, *netlink.Addr) error, addrs ...string) {
		t.Helper()
		testnet.Do(t, v.gw, func() error {
			l, err := netlink.LinkByName("hall")
			if err != nil {
				return err
			}
			for _, s := range addrs {
				a, err := netlink.ParseAddr(s)
				if err != nil {
					return err
				}
				a.Flags = 2 // IFA_F_NODAD
				if err := f(l, a); err != nil {
					return err
				}
			}
			return nil
		})
	}
	served := func(when string) {
		t.Helper()
		for from, to := range map[string][]string{"10.1.0.50": {"10.1.0.1", "10.1.0.7"}, "2001:db8:1::50": {"2001:db8:1::1", "2001:db8:1::7"}} {
			for _, to := range to {
				for _, network := range []string{"udp", "tcp"} {
					if got := ask1(v.connect(t, network, from, to), "gw1.yapc.example", dns.TypeA); !strings.HasPrefix(got, "NOERROR") {
						t.Errorf("%s: %s by %s: %s", when, to, network, got)
					}
				}
			}
		}
	}
	change(netlink.AddrAdd, "10.1.0.7/20", "2001:db8:1::7/64")
	served("addresses that came later")
	all := []string{"10.1.0.7/20", "2001:db8:1::7/64", "10.1.0.1/20", "2001:db8:1::1/64"} // the kernel takes 10.1.0.7 off with 10.1.0.1
	change(netlink.AddrDel, all...)
	change(netlink.AddrAdd, all...)
	served("addresses that were away")
	testnet.Do(t, v.gw, func() error {
		l, err := netlink.LinkByName("hall")
		if err != nil {
			return err
		}
		return netlink.LinkDel(l)
	})
	testnet.Veth(t, v.gw, "hall", all, v.client, "eth0", []string{"10.1.0.50/20", "2001:db8:1::50/64"})
	served("a link that was away")
}

// TestConnectionsAreShared: one client that opens as many connections as it can leaves room
// for others.
func TestConnectionsAreShared(t *testing.T) {
	v := newVenue(t)
	var open atomic.Int32
	var all sync.WaitGroup
	for range 200 {
		c := v.connect(t, "tcp", "10.1.0.60", "10.1.0.1")
		all.Go(func() {
			c.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
			if _, err := c.Conn.Read(make([]byte, 1)); err != nil && err != io.EOF && strings.Contains(err.Error(), "timeout") {
				open.Add(1)
			}
		})
	}
	all.Wait()
	if n := int(open.Load()); n > maxTCP/8 || n < maxTCP/10 {
		t.Errorf("one client has %d connections", n)
	}
	if got := ask1(v.connect(t, "tcp", "10.1.0.50", "10.1.0.1"), "gw1.yapc.example", dns.TypeA); !strings.HasPrefix(got, "NOERROR") {
		t.Errorf("another client: %s", got)
	}
}

// TestAddressInUse: who has the port already is a clear error.
func TestAddressInUse(t *testing.T) {
	ns := testnet.Namespace(t)
	testnet.Do(t, ns, func() error {
		c, err := net.Listen("tcp4", "127.0.0.1:53")
		if err == nil {
			t.Cleanup(func() { c.Close() })
		}
		return err
	})
	cfg := hall()
	cfg.Listen, cfg.Ask = []netip.Addr{addr("127.0.0.1")}, byUDP(upstreamAddr(1))
	s := New(cfg, nil, newMetrics(), newEvents().tell)
	s.net = within(ns)
	err := s.Run(t.Context())
	if want := "listen on 127.0.0.1 port 53 by TCP"; err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "ss -ltnp") {
		t.Errorf("error %v, want %q", err, want)
	}
}
