//go:build linux

package uplink

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/hotstage/hotstage/internal/plan"
	"github.com/hotstage/hotstage/internal/task"
	"github.com/hotstage/hotstage/internal/testnet"
	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/server4"
	"github.com/mdlayher/ndp"
	"github.com/prometheus/client_golang/prometheus"
)

// wire is a router with eth0 at an internet.
func wire(t *testing.T) (router, internet *kernel.Namespace) {
	t.Helper()
	router, internet = testnet.Namespace(t), testnet.Namespace(t)
	testnet.Veth(t, router, "eth0", nil, internet, "isp", []string{"192.0.2.254/24", "fe80::1/64"})
	return router, internet
}

func run(t *testing.T, in *kernel.Namespace, links ...Link) (s *Server, events chan fact.Event, stop func()) {
	t.Helper()
	events = make(chan fact.Event, 100)
	s = New(Config{Node: "gw1", Router: true, Links: links}, NewMetrics(prometheus.NewRegistry()), func(e fact.Event) {
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
	return s, events, stop
}

func ready(t *testing.T, s *Server) {
	t.Helper()
	select {
	case <-s.Ready():
	case <-time.After(20 * time.Second):
		t.Fatalf("not ready: %+v", s.Checks())
	}
}

// await reads events until one of the kind comes.
func await(t *testing.T, events chan fact.Event, kind string) fact.Event {
	t.Helper()
	for timeout := time.After(20 * time.Second); ; {
		select {
		case e := <-events:
			if e.Kind == kind {
				return e
			}
		case <-timeout:
			t.Fatalf("no event %s", kind)
		}
	}
}

// wantNetwork compares the addresses and routes that are ours.
func wantNetwork(t *testing.T, in *kernel.Namespace, addresses, routes []string) {
	t.Helper()
	testnet.Do(t, in, func() error {
		have, err := kernel.Addresses("eth0")
		var got []string
		for _, a := range have {
			if a.Owner == kernel.OwnerUplink {
				got = append(got, a.Prefix.String())
			}
		}
		if diff := cmp.Diff(addresses, got); diff != "" {
			t.Errorf("addresses (-want +got):\n%s", diff)
		}
		all, err2 := kernel.Routes(kernel.OwnerUplink)
		got = nil
		for _, r := range all {
			got = append(got, r.String())
		}
		slices.Sort(got)
		if diff := cmp.Diff(routes, got); diff != "" {
			t.Errorf("routes (-want +got):\n%s", diff)
		}
		return errors.Join(err, err2)
	})
}

// settled waits until there is nothing to do: what the kernel tells may come in several parts.
func settled(t *testing.T, in *kernel.Namespace, s *Server) {
	t.Helper()
	var changes []task.Change
	for range 200 {
		testnet.Do(t, in, func() (err error) { changes, err = s.Diff(t.Context()); return err })
		if len(changes) == 0 {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	for _, c := range changes {
		t.Errorf("still to do after 10 s: %s", c.Words)
	}
}

func TestStatic(t *testing.T) {
	router, _ := wire(t)
	u := plan.Uplink{Mode: plan.UplinkStatic, IPv4: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/29"), netip.MustParsePrefix("203.0.113.9/32"), netip.MustParsePrefix("198.51.100.0/28")},
		Address4: netip.MustParsePrefix("192.0.2.1/29"), Gateway4: netip.MustParseAddr("192.0.2.6"), Address6: netip.MustParsePrefix("2001:db8:f::2/64")}
	l := Link{Uplink: "isp", Device: "eth0", Mode: plan.UplinkStatic, Own: own(&u), Gateway4: u.Gateway4, Gateway6: netip.MustParseAddr("fe80::1"),
		IPv6: true, Delegated: netip.MustParsePrefix("2001:db8:53::/48"), MTU: 1400, Metric: 100}
	s, events, stop := run(t, router, l)
	ready(t, s)
	addresses := []string{"192.0.2.1/29", "192.0.2.2/32", "192.0.2.3/32", "192.0.2.4/32", "192.0.2.5/32", "203.0.113.9/32", "2001:db8:f::2/64"}
	routes := []string{"default via 192.0.2.6 dev eth0", "default via fe80::1 dev eth0", "unreachable 2001:db8:53::/48"}
	wantNetwork(t, router, addresses, routes)
	settled(t, router, s)
	await(t, events, "uplink-up")
	testnet.Do(t, router, func() error {
		k, err := kernel.FindLink("eth0")
		if k.MTU != 1400 {
			t.Errorf("MTU is %d", k.MTU)
		}
		return errors.Join(err, kernel.DeleteAddress("eth0", netip.MustParsePrefix("192.0.2.1/29")))
	})
	await(t, events, "drift")
	stop()
	wantNetwork(t, router, []string{"192.0.2.2/32", "192.0.2.3/32", "192.0.2.4/32", "192.0.2.5/32", "203.0.113.9/32", "192.0.2.1/29", "2001:db8:f::2/64"}, routes)
	if c := s.Checks(); len(c) != 1 || !c[0].OK {
		t.Errorf("checks %+v", c)
	}
}

// As pppd sets an interface up, after we have started.
func TestSystem(t *testing.T) {
	router, internet := testnet.Namespace(t), testnet.Namespace(t)
	s, events, _ := run(t, router, Link{Uplink: "isp", Device: "ppp0", Mode: plan.UplinkSystem, Pool: []netip.Addr{netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("203.0.113.10")}, MTU: 1500, Metric: 100})
	testnet.Do(t, router, func() error { return kernel.AddVeth("ppp0", "isp", internet) })
	testnet.Do(t, internet, func() error { return kernel.SetUp("isp") })
	if c := s.Checks(); c[0].OK {
		t.Errorf("checks without an address: %+v", c)
	}
	testnet.Do(t, router, func() error {
		return errors.Join(kernel.SetUp("ppp0"), kernel.AddAddress("ppp0", netip.MustParsePrefix("203.0.113.9/24"), 0))
	})
	ready(t, s)
	await(t, events, "uplink-up")
	settled(t, router, s)
	testnet.Do(t, router, func() error {
		have, err := kernel.Addresses("ppp0")
		var ours []netip.Prefix
		for _, a := range have {
			if a.Owner == kernel.OwnerUplink {
				ours = append(ours, a.Prefix)
			}
		}
		if len(ours) != 1 || ours[0] != netip.MustParsePrefix("203.0.113.10/32") {
			t.Errorf("added %v to what the system has set up", ours)
		}
		return err
	})
	testnet.Do(t, internet, func() error { // the far end goes: no carrier
		link, err := net.InterfaceByName("isp")
		if err != nil {
			return err
		}
		return setDown(link.Name)
	})
	if e := await(t, events, "uplink-down"); e.Severity != fact.Alarm {
		t.Errorf("told %+v", e)
	}
}

// isp gives leases of an hour, and says nothing while mute is set.
func isp(t *testing.T, in *kernel.Namespace, mute *atomic.Bool) (requests chan *dhcpv4.DHCPv4) {
	t.Helper()
	requests = make(chan *dhcpv4.DHCPv4, 100)
	testnet.Do(t, in, func() error {
		conn, err := server4.NewIPv4UDPConn("isp", &net.UDPAddr{Port: 67})
		if err != nil {
			return err
		}
		s, err := server4.NewServer("isp", nil, func(c net.PacketConn, _ net.Addr, m *dhcpv4.DHCPv4) {
			requests <- m
			if mute.Load() {
				return
			}
			kind := dhcpv4.MessageTypeAck
			if m.MessageType() == dhcpv4.MessageTypeDiscover {
				kind = dhcpv4.MessageTypeOffer
			}
			answer, err := dhcpv4.NewReplyFromRequest(m, dhcpv4.WithMessageType(kind), dhcpv4.WithYourIP(net.IPv4(192, 0, 2, 7)), dhcpv4.WithNetmask(net.CIDRMask(24, 32)),
				dhcpv4.WithServerIP(net.IPv4(192, 0, 2, 254)), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(192, 0, 2, 254))), dhcpv4.WithRouter(net.IPv4(192, 0, 2, 254)), dhcpv4.WithLeaseTime(3600))
			if err != nil {
				t.Error(err)
				return
			}
			peer := &net.UDPAddr{IP: net.IPv4bcast, Port: 68}
			if !m.ClientIPAddr.IsUnspecified() {
				peer.IP = m.ClientIPAddr
			}
			c.WriteTo(answer.ToBytes(), peer)
		}, server4.WithConn(conn))
		if err != nil {
			return err
		}
		go s.Serve()
		t.Cleanup(func() { s.Close() })
		return nil
	})
	return requests
}

func TestDHCP(t *testing.T) {
	router, internet := wire(t)
	var mute atomic.Bool
	requests := isp(t, internet, &mute)
	link := Link{Uplink: "isp", Device: "eth0", Mode: plan.UplinkDHCP, IPv6: true, MTU: 1500, Metric: 100}
	s, events, stop := run(t, router, link)
	ready(t, s)
	await(t, events, "lease")
	routes := []string{"default via 192.0.2.254 dev eth0"}
	wantNetwork(t, router, []string{"192.0.2.7/24"}, routes)
	settled(t, router, s)

	// Renewal by unicast, and by broadcast when that is silent.
	lease := s.lease(0)
	p := &provider{device: "eth0", ns: router}
	for _, any := range []bool{false, true} {
		longer, err := p.renew(t.Context(), lease, any)
		if err != nil {
			t.Errorf("renew (any: %v): %v", any, err)
		} else if longer.Prefix != lease.Prefix {
			t.Errorf("renew (any: %v): %v", any, longer.Prefix)
		}
	}

	// The next process keeps the address while it asks for it again, and tells when nobody answers.
	stop()
	for len(requests) > 0 {
		<-requests
	}
	mute.Store(true)
	wantNetwork(t, router, []string{"192.0.2.7/24"}, routes)
	_, events, _ = run(t, router, link)
	if m := <-requests; m.MessageType() != dhcpv4.MessageTypeDiscover || !m.RequestedIPAddress().Equal(net.IPv4(192, 0, 2, 7)) {
		t.Errorf("asked %s", m.Summary())
	}
	if e := await(t, events, "no-lease"); e.Severity != fact.Alarm {
		t.Errorf("told %+v", e)
	}
	testnet.Do(t, router, func() error {
		have, err := kernel.Addresses("eth0")
		if !slices.ContainsFunc(have, func(a kernel.Address) bool { return a.Prefix == netip.MustParsePrefix("192.0.2.7/24") }) {
			t.Errorf("the address is gone while its lease lasts: %v", have)
		}
		return err
	})
}

// The default route of IPv6 comes by router advertisement although the node forwards.
func TestRouterAdvertisementIsHeard(t *testing.T) {
	router, internet := wire(t)
	testnet.Do(t, router, func() error { return kernel.SetSysctl("net/ipv6/conf/all/forwarding", "1") })
	testnet.Do(t, internet, func() error {
		link, err := net.InterfaceByName("isp")
		if err != nil {
			return err
		}
		c, _, err := ndp.Listen(link, ndp.Addr("fe80::1"))
		if err != nil {
			return err
		}
		t.Cleanup(func() { c.Close() })
		if err := c.JoinGroup(netip.IPv6LinkLocalAllRouters()); err != nil {
			return err
		}
		go func() { // answers solicitations only
			for {
				m, _, from, err := c.ReadFrom()
				if errors.Is(err, net.ErrClosed) {
					return
				}
				if _, ok := m.(*ndp.RouterSolicitation); ok {
					c.WriteTo(&ndp.RouterAdvertisement{CurrentHopLimit: 64, RouterLifetime: 30 * time.Minute}, nil, from)
				}
			}
		}()
		return nil
	})
	run(t, router, Link{Uplink: "isp", Device: "eth0", Mode: plan.UplinkStatic, Own: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")},
		Gateway4: netip.MustParseAddr("192.0.2.254"), IPv6: true, MTU: 1500, Metric: 100})
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		found := false
		testnet.Do(t, router, func() error {
			all, err := kernel.AllRoutes()
			found = slices.ContainsFunc(all, func(r kernel.Route) bool {
				return r.To == netip.MustParsePrefix("::/0") && r.Via == netip.MustParseAddr("fe80::1") && r.Device == "eth0"
			})
			return err
		})
		if found {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("no IPv6 default route")
		}
	}
}
