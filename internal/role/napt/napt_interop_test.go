//go:build linux

package napt

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/golden"
	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/hotstage/hotstage/internal/plan"
	"github.com/hotstage/hotstage/internal/testnet"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
)

// client 10.1.0.2, .3 … ── eth1  router  eth0 ── internet, which routes the pool to the router
type net3 struct{ client, router, internet *kernel.Namespace }

func newNet(t *testing.T) net3 {
	t.Helper()
	n := net3{testnet.Namespace(t), testnet.Namespace(t), testnet.Namespace(t)}
	var many []string
	for i := range 40 {
		many = append(many, "10.1.0."+strconv.Itoa(i+2)+"/24")
	}
	testnet.Veth(t, n.client, "e", many, n.router, "eth1", []string{"10.1.0.1/24"})
	testnet.Veth(t, n.router, "eth0", []string{"192.0.2.1/24"}, n.internet, "e", []string{"192.0.2.2/24"})
	testnet.Do(t, n.router, func() error { return kernel.SetSysctl("net/ipv4/ip_forward", "1") })
	everywhere := netip.MustParsePrefix("0.0.0.0/0")
	testnet.Do(t, n.client, func() error {
		return kernel.AddRoute(kernel.Route{To: everywhere, Via: netip.MustParseAddr("10.1.0.1"), Device: "e"}, 0)
	})
	testnet.Do(t, n.router, func() error {
		return kernel.AddRoute(kernel.Route{To: everywhere, Via: netip.MustParseAddr("192.0.2.2"), Device: "eth0"}, 0)
	})
	testnet.Do(t, n.internet, func() error {
		return errors.Join(
			kernel.AddRoute(kernel.Route{To: netip.MustParsePrefix("198.51.100.0/24"), Via: netip.MustParseAddr("192.0.2.1"), Device: "e"}, 0),
			kernel.AddRoute(kernel.Route{To: netip.MustParsePrefix("203.0.113.0/24"), Via: netip.MustParseAddr("192.0.2.1"), Device: "e"}, 0))
	})
	return n
}

func config(addresses ...string) Config {
	var all []netip.Addr
	for _, s := range addresses {
		all = append(all, netip.MustParseAddr(s))
	}
	return Config{
		Node:     "gw1",
		Exits:    []Exit{{Uplink: "isp", Device: "eth0", Ranges: ranges(all)}},
		Inside:   []netip.Prefix{netip.MustParsePrefix("10.1.0.0/24")},
		Segments: []string{"eth1"},
		Timeouts: plan.Timeouts{UDP: 20 * time.Second, UDPStream: 35 * time.Second, TCPEstablished: 7440 * time.Second, TCPTransitory: 240 * time.Second, TCPClosed: 25 * time.Second, ICMP: 60 * time.Second},
		Sessions: 1000, Table: 2000,
	}
}

func run(t *testing.T, in *kernel.Namespace, c Config) (s *Server, events chan fact.Event, reg *prometheus.Registry, stop func()) {
	t.Helper()
	events, reg = make(chan fact.Event, 100), prometheus.NewRegistry()
	s = New(c, NewMetrics(reg), func(e fact.Event) {
		select {
		case events <- e:
		default:
		}
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- in.Do(func() error { return s.Run(ctx) }) }()
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			cancel()
			if err := <-ended; err != nil {
				t.Errorf("Run: %v", err)
			}
		}
	}
	t.Cleanup(stop)
	select {
	case <-s.Ready():
	case <-time.After(20 * time.Second):
		t.Fatalf("not ready: %+v", s.Checks())
	}
	return s, events, reg, stop
}

// mirror answers every UDP packet with the address and port that it came from.
func mirror(t *testing.T, in *kernel.Namespace) {
	t.Helper()
	testnet.Do(t, in, func() error {
		u, err := net.ListenUDP("udp4", &net.UDPAddr{Port: 7})
		if err != nil {
			return err
		}
		t.Cleanup(func() { u.Close() })
		go func() {
			for buffer := make([]byte, 64); ; {
				_, from, err := u.ReadFromUDPAddrPort(buffer)
				if errors.Is(err, net.ErrClosed) {
					return
				}
				if err == nil {
					u.WriteToUDPAddrPort([]byte(from.String()), from)
				}
			}
		}()
		return nil
	})
}

// seen is how the internet sees a UDP packet from the client's address.
func seen(t *testing.T, in *kernel.Namespace, from string) netip.AddrPort {
	t.Helper()
	var got netip.AddrPort
	testnet.Do(t, in, func() error {
		c, err := net.DialUDP("udp4", &net.UDPAddr{IP: net.ParseIP(from)}, &net.UDPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 7})
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(3 * time.Second))
		if _, err := c.Write([]byte("who am I")); err != nil {
			return err
		}
		buffer := make([]byte, 64)
		n, err := c.Read(buffer)
		if err != nil {
			return err
		}
		got, err = netip.ParseAddrPort(string(buffer[:n]))
		return err
	})
	return got
}

func TestManyBehindFewAddresses(t *testing.T) {
	for name, addresses := range map[string][]string{
		"one":                      {"198.51.100.9"},
		"two that follow":          {"198.51.100.9", "198.51.100.10"},
		"three that do not":        {"198.51.100.9", "198.51.100.10", "203.0.113.5"},
		"the link's own (by DHCP)": nil,
	} {
		t.Run(name, func(t *testing.T) {
			testnet.Root(t)
			n := newNet(t)
			mirror(t, n.internet)
			run(t, n.router, config(addresses...))
			used := map[netip.Addr]bool{}
			for i := range 40 {
				client := "10.1.0." + strconv.Itoa(i+2)
				first := seen(t, n.client, client)
				if first.Port() < 1024 {
					t.Errorf("port %d is a well-known one", first.Port())
				}
				used[first.Addr()] = true
				if again := seen(t, n.client, client); again.Addr() != first.Addr() {
					t.Errorf("%s leaves as %s and as %s", client, first.Addr(), again.Addr())
				}
			}
			if addresses == nil {
				addresses = []string{"192.0.2.1"}
			}
			for _, a := range addresses {
				if !used[netip.MustParseAddr(a)] {
					t.Errorf("nobody leaves as %s", a)
				}
			}
			if len(used) != len(addresses) {
				t.Errorf("addresses in use: %v, want %v", used, addresses)
			}
		})
	}
}

// conntrack shows the plan's timers on forwarded flows, and the system's on the node's own.
func TestTimersAsConntrackShowsThem(t *testing.T) {
	tool := testnet.Tools(t, "conntrack")[0]
	n := newNet(t)
	mirror(t, n.internet)
	run(t, n.router, config("198.51.100.9"))
	seen(t, n.client, "10.1.0.2")
	seen(t, n.router, "192.0.2.1")
	testnet.Do(t, n.internet, func() error {
		l, err := net.Listen("tcp4", "192.0.2.2:80")
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		return nil
	})
	testnet.Do(t, n.client, func() error {
		c, err := net.DialTimeout("tcp4", "192.0.2.2:80", 3*time.Second)
		if err != nil {
			return err
		}
		t.Cleanup(func() { c.Close() })
		return nil
	})
	if out, err := testnet.Output(n.client, testnet.Tools(t, "ping")[0], "-c1", "-W2", "192.0.2.2"); err != nil {
		t.Fatalf("ping: %v\n%s", err, out)
	}
	out, err := testnet.Output(n.router, tool, "-L")
	if err != nil {
		t.Fatalf("conntrack: %v\n%s", err, out)
	}
	for _, c := range []struct {
		flow     string
		from, to int
	}{
		{`udp +17 (\d+) src=10\.1\.0\.2 `, 15, 20},
		{`udp +17 (\d+) src=192\.0\.2\.1 `, 25, 30}, // the kernel's own for a question: 30 s too
		{`tcp +6 (\d+) ESTABLISHED src=10\.1\.0\.2 `, 7400, 7440},
		{`icmp +1 (\d+) src=10\.1\.0\.2 `, 50, 60},
	} {
		m := regexp.MustCompile(c.flow).FindStringSubmatch(out)
		if m == nil {
			t.Errorf("no flow %s in\n%s", c.flow, out)
			continue
		}
		if n, _ := strconv.Atoi(m[1]); n < c.from || n > c.to {
			t.Errorf("flow %s has %d s left, want %d to %d", c.flow, n, c.from, c.to)
		}
	}
	if strings.Count(out, "dst=198.51.100.9") < 3 {
		t.Errorf("flows are not translated:\n%s", out)
	}
}

func TestRulesetAsNFTShowsIt(t *testing.T) {
	nft := testnet.Tools(t, "nft")[0]
	n := newNet(t)
	s, _, _, stop := run(t, n.router, config("198.51.100.9", "198.51.100.10", "203.0.113.5"))
	stop()
	out, err := testnet.Output(n.router, nft, "list", "ruleset")
	if err != nil {
		t.Fatalf("nft: %v\n%s", err, out)
	}
	golden.Compare(t, "ruleset.nft", []byte(out))
	testnet.Do(t, n.router, func() error {
		changes, err := s.Diff(t.Context())
		for _, c := range changes {
			t.Errorf("still to do: %s", c.Words)
		}
		return err
	})
}

// A packet to an address of the pool that belongs to no flow must not go round in circles.
func TestPoolAddressesThatNoLinkHasAreUnreachable(t *testing.T) {
	testnet.Root(t)
	n := newNet(t)
	testnet.Do(t, n.router, func() error {
		return kernel.AddAddress("eth0", netip.MustParsePrefix("198.51.100.9/32"), kernel.OwnerUplink)
	})
	run(t, n.router, config("198.51.100.9", "198.51.100.10"))
	testnet.Do(t, n.router, func() error {
		got, err := kernel.Routes(kernel.OwnerNAPT)
		if len(got) != 1 || got[0].String() != "unreachable 198.51.100.10/32" {
			t.Errorf("routes are %v", got)
		}
		return err
	})
}

func TestDriftIsPutBackAndSessionsAreCounted(t *testing.T) {
	testnet.Root(t)
	n := newNet(t)
	mirror(t, n.internet)
	s, events, reg, _ := run(t, n.router, config("198.51.100.9"))
	for len(events) > 0 {
		<-events
	}
	testnet.Do(t, n.router, func() error { return kernel.DeleteTable(tableName) })
	select {
	case e := <-events:
		if e.Kind != "drift" || !strings.Contains(e.Words, "it is missing") {
			t.Errorf("told %+v", e)
		}
	case <-time.After(15 * time.Second):
		t.Fatal("nobody told of the deleted table")
	}
	for i := range 5 {
		seen(t, n.client, "10.1.0."+strconv.Itoa(i+2))
	}
	testnet.Do(t, n.router, func() error {
		if err := s.look(true); err != nil {
			return err
		}
		all, err := kernel.Sessions(s.ours())
		if got := all[kernel.Session{Addr: netip.MustParseAddr("198.51.100.9"), Protocol: unix.IPPROTO_UDP}]; got != 5 || len(all) != 1 {
			t.Errorf("sessions %v, want 5 of UDP", all)
		}
		return err
	})
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]float64{}
	for _, f := range families {
		m := f.GetMetric()[0]
		found[f.GetName()] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
	}
	if found["hotstage_napt_sessions"] != 5 || found["hotstage_napt_repairs_total"] != 1 || found["hotstage_napt_flows_total"] != 5 || found["hotstage_napt_table_size"] < 1 {
		t.Errorf("metrics %v", found)
	}
	for _, c := range s.Checks() {
		if !c.OK {
			t.Errorf("check %+v", c)
		}
	}
}

// What an earlier plan left on a node that is no exit any more is removed.
func TestNoExitNoTable(t *testing.T) {
	testnet.Root(t)
	n := newNet(t)
	_, _, _, stop := run(t, n.router, config("198.51.100.9"))
	stop()
	s, _, _, stop := run(t, n.router, Config{Node: "gw1"})
	stop()
	testnet.Do(t, n.router, func() error {
		drift, err := (&kernel.Table{Name: tableName}).Drift()
		if drift != "it is missing" {
			t.Errorf("the table is still there: %s", drift)
		}
		routes, err2 := kernel.Routes(kernel.OwnerNAPT)
		if len(routes) > 0 {
			t.Errorf("routes are still there: %v", routes)
		}
		return errors.Join(err, err2)
	})
	if s.Checks() != nil {
		t.Errorf("checks of a node that is no exit: %v", s.Checks())
	}
}
