//go:build linux

package segment

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/hotstage/hotstage/internal/plan"
	"github.com/hotstage/hotstage/internal/testnet"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// smallVenue has one router with untagged interfaces:
//
//	a1 ─┐isolated                    ┌─ eth3 ── srv (resolver)
//	    ├─ switch ── eth1  gw1 ──────┼─ eth4 ── mgmt (a switch)
//	a2 ─┘                  │  └ eth0 ┼── internet
//	b1 ───────────── eth2 ─┘         └─ eth5 ── crew
const smallVenue = `
event: {name: Small, attendees: 10}
sites:
  venue:
    uplinks: {isp: {ipv4: [203.0.113.0/28], gateway: 203.0.113.14, ipv6: "2001:db8:53::/48"}}
segments:
  a: {class: attendee, ipv4: 10.1.0.0/24}
  b: {class: attendee, ipv4: 10.2.0.0/24}
  server: {ipv4: 10.3.0.0/24}
  management: {ipv4: 10.4.0.0/24}
  staff: {ipv4: 10.5.0.0/24}
nodes:
  gw1:
    roles: [router, dhcp, resolver, ntp]
    interfaces: {eth0: {uplink: isp}, eth1: {segment: a}, eth2: {segment: b}, eth3: {segment: server}, eth4: {segment: management}, eth5: {segment: staff}}
  srv1:
    roles: [resolver]
    interfaces: {ens1: {segment: server}}
resolver: {vrrp: off}
`

// venue is the namespaces of a small venue.
type venue struct {
	plan                                      *plan.Plan
	gw, a1, a2, b1, srv, mgmt, crew, internet *kernel.Namespace
	address                                   map[*kernel.Namespace][2]netip.Addr // IPv4, IPv6
}

func newVenue(t *testing.T) *venue { return newVenueOf(t, smallVenue) }

// newVenueOf is a venue of smallVenue's nodes and segments.
func newVenueOf(t *testing.T, text string) *venue {
	t.Helper()
	v := &venue{plan: load(t, []byte(text)), address: map[*kernel.Namespace][2]netip.Addr{}}
	ns := func() *kernel.Namespace { return testnet.Namespace(t) }
	v.gw, v.a1, v.a2, v.b1, v.srv, v.mgmt, v.crew, v.internet = ns(), ns(), ns(), ns(), ns(), ns(), ns(), ns()
	fabric := ns()
	testnet.Do(t, fabric, func() error { return kernel.AddBridge("br") })
	for port, end := range map[string]struct {
		ns   *kernel.Namespace
		link string
	}{"p1": {v.gw, "eth1"}, "p2": {v.a1, "e"}, "p3": {v.a2, "e"}} {
		testnet.Veth(t, fabric, port, nil, end.ns, end.link, nil)
		testnet.Do(t, fabric, func() error {
			return errors.Join(kernel.SetMaster(port, "br"), kernel.SetIsolated(port, port != "p1"))
		})
	}
	testnet.Do(t, fabric, func() error { return kernel.SetUp("br") })
	for link, end := range map[string]*kernel.Namespace{"eth2": v.b1, "eth3": v.srv, "eth4": v.mgmt, "eth5": v.crew} {
		testnet.Veth(t, v.gw, link, nil, end, "e", nil)
	}
	testnet.Veth(t, v.gw, "eth0", []string{"203.0.113.1/28", "2001:db8:ff::1/64"}, v.internet, "e", []string{"203.0.113.14/28", "2001:db8:ff::2/64"})
	v.address[v.internet] = [2]netip.Addr{netip.MustParseAddr("203.0.113.14"), netip.MustParseAddr("2001:db8:ff::2")}
	testnet.Do(t, v.gw, func() error { // role uplink's part
		return errors.Join(kernel.SetSysctl("net/ipv4/conf/eth0/forwarding", "1"))
	})
	testnet.Do(t, v.internet, func() error {
		return errors.Join(
			kernel.AddRoute(kernel.Route{To: netip.MustParsePrefix("10.0.0.0/8"), Via: netip.MustParseAddr("203.0.113.1"), Device: "e"}, 0),
			kernel.AddRoute(kernel.Route{To: netip.MustParsePrefix("2001:db8:53::/48"), Via: netip.MustParseAddr("2001:db8:ff::1"), Device: "e", Metric: 1024}, 0))
	})
	v.join(t, v.a1, "a", 77)
	v.join(t, v.a2, "a", 78)
	for segment, ns := range map[string]*kernel.Namespace{"b": v.b1, "server": v.srv, "management": v.mgmt, "staff": v.crew} {
		v.join(t, ns, segment, 77)
	}
	return v
}

// join gives a host of the segment its addresses and the gateway as its way to everything,
// its own segment too.
func (v *venue) join(t *testing.T, ns *kernel.Namespace, segment string, host byte) {
	t.Helper()
	s := v.plan.Segment(segment)
	base := s.IPv4.Masked().Addr().As4()
	base[3] = host
	own4 := netip.AddrFrom4(base)
	if segment == "server" { // in place of srv1
		own4 = v.plan.Node("srv1").Attachment("server").IPv4.Addr()
	}
	b6 := s.IPv6.Masked().Addr().As16()
	b6[15] = base[3]
	own6 := netip.AddrFrom16(b6)
	v.address[ns] = [2]netip.Addr{own4, own6}
	testnet.Do(t, ns, func() error {
		return errors.Join(
			kernel.AddAddress("e", netip.PrefixFrom(own4, 32), 0), kernel.AddAddress("e", netip.PrefixFrom(own6, 128), 0),
			kernel.AddRoute(kernel.Route{To: netip.MustParsePrefix("0.0.0.0/0"), Via: s.Gateway4, Device: "e", OnLink: true}, 0),
			kernel.AddRoute(kernel.Route{To: netip.MustParsePrefix("::/0"), Via: s.Gateway6, Device: "e", OnLink: true, Metric: 1024}, 0))
	})
}

// run starts the server of gw1 and waits until it is ready; its end comes with the test's.
func (v *venue) run(t *testing.T, events chan fact.Event) (s *Server, reg *prometheus.Registry, stop func()) {
	t.Helper()
	c, err := Configure(v.plan, "gw1")
	if err != nil {
		t.Fatal(err)
	}
	reg = prometheus.NewRegistry()
	s = New(c, NewMetrics(reg), func(e fact.Event) {
		select {
		case events <- e:
		default:
		}
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- v.gw.Do(func() error { return s.Run(ctx) }) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
	t.Cleanup(stop)
	select {
	case <-s.Ready():
	case <-time.After(20 * time.Second):
		t.Fatalf("not ready: %+v", s.Checks())
	}
	return s, reg, stop
}

// answer echoes UDP and accepts TCP on the port of every address of the namespace.
func answer(t *testing.T, ns *kernel.Namespace, port int) {
	t.Helper()
	testnet.Do(t, ns, func() error {
		u, err := net.ListenUDP("udp", &net.UDPAddr{Port: port})
		if err != nil {
			return err
		}
		l, err := net.ListenTCP("tcp", &net.TCPAddr{Port: port})
		if err != nil {
			return err
		}
		t.Cleanup(func() { u.Close(); l.Close() })
		go func() {
			buffer := make([]byte, 64)
			for {
				n, from, err := u.ReadFromUDPAddrPort(buffer)
				if errors.Is(err, net.ErrClosed) {
					return
				}
				if err == nil {
					u.WriteToUDPAddrPort(buffer[:n], from)
				}
			}
		}()
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				c.Close()
			}
		}()
		return nil
	})
}

const patience = 150 * time.Millisecond

// reaches tells whether "udp", "tcp" or "ping" gets an answer. Each thread of the calls
// stays in the namespace, so nothing may be resolved or raced by package net.
func reaches(t *testing.T, from *kernel.Namespace, how string, to netip.Addr, port uint16) (ok bool) {
	t.Helper()
	testnet.Do(t, from, func() error {
		if how == "ping" {
			var err error
			ok, err = ping(to)
			return err
		}
		c, err := net.DialTimeout(how, netip.AddrPortFrom(to, port).String(), patience)
		if err != nil {
			return nil
		}
		defer c.Close()
		if how == "tcp" {
			ok = true
			return nil
		}
		c.SetDeadline(time.Now().Add(patience))
		if _, err := c.Write([]byte("hello")); err != nil {
			return nil
		}
		_, err = c.Read(make([]byte, 16))
		ok = err == nil
		return nil
	})
	return ok
}

func ping(to netip.Addr) (bool, error) {
	network, listen, echo, reply, protocol := "ip4:icmp", "0.0.0.0", icmp.Type(ipv4.ICMPTypeEcho), icmp.Type(ipv4.ICMPTypeEchoReply), 1
	if to.Is6() {
		network, listen, echo, reply, protocol = "ip6:ipv6-icmp", "::", ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply, 58
	}
	c, err := icmp.ListenPacket(network, listen)
	if err != nil {
		return false, err
	}
	defer c.Close()
	id := os.Getpid() & 0xffff
	m := icmp.Message{Type: echo, Body: &icmp.Echo{ID: id, Seq: 1, Data: []byte("hello")}}
	b, err := m.Marshal(nil)
	if err != nil {
		return false, err
	}
	c.SetDeadline(time.Now().Add(patience))
	if _, err := c.WriteTo(b, &net.IPAddr{IP: to.AsSlice()}); err != nil {
		return false, nil
	}
	for buffer := make([]byte, 512); ; {
		n, from, err := c.ReadFrom(buffer)
		if err != nil {
			return false, nil
		}
		a, _ := netip.AddrFromSlice(from.(*net.IPAddr).IP)
		got, err := icmp.ParseMessage(protocol, buffer[:n])
		if err == nil && got.Type == reply && a.Unmap() == to {
			return true, nil
		}
	}
}
