//go:build linux

package crowd

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/hotstage/hotstage/internal/plan"
	"github.com/hotstage/hotstage/internal/testnet"
	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/mdlayher/ndp"
	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// testVenue is a small venue with a real kernel as the router:
//
//	crowd's namespace          node's namespace
//	 a0 ───────────────────── p0 ┐
//	 a1 ───────────────────── p1 ┴ br-a (10.1.0.1/20, 2001:db8:1::1/64)  DHCP, RA, DNS
//	 b0 ───────────────────── p2 ── br-b (10.2.0.1/20)                   DHCP, DNS
//	 m0 ───────────────────── p3 ── br-m (10.9.0.1/24), node at 10.9.0.10
//	                             lo (198.18.0.1, .2, 2001:2::1)          echo on UDP, TCP
type testVenue struct {
	t          *testing.T
	node, aps  *kernel.Namespace
	cfg        Config
	lie        bool // the DHCP server forgets what it gave away
	short      time.Duration
	dhcp       []*testDHCP
	background sync.WaitGroup
}

func newTestVenue(t *testing.T, perSegment int) *testVenue {
	v := &testVenue{t: t, node: testnet.Namespace(t), aps: testnet.Namespace(t)}
	links := []struct {
		ap, node, bridge string
	}{{"a0", "p0", "br-a"}, {"a1", "p1", "br-a"}, {"b0", "p2", "br-b"}, {"m0", "p3", "br-m"}}
	for _, l := range links {
		testnet.Veth(t, v.node, l.node, nil, v.aps, l.ap, nil)
	}
	testnet.Do(t, v.aps, func() error { return os.WriteFile("/proc/sys/net/ipv6/conf/all/disable_ipv6", []byte("1"), 0) })
	testnet.Do(t, v.node, func() error {
		for name, addrs := range map[string][]string{"br-a": {"10.1.0.1/20", "2001:db8:1::1/64"}, "br-b": {"10.2.0.1/20"}, "br-m": {"10.9.0.1/24", "10.9.0.10/24"}} {
			if err := bridge(name, addrs); err != nil {
				return err
			}
		}
		for _, l := range links {
			if err := enslave(l.node, l.bridge, l.bridge == "br-a"); err != nil {
				return err
			}
		}
		for _, a := range []string{"198.18.0.1/32", "198.18.0.2/32", "2001:2::1/128"} {
			if err := address("lo", a); err != nil {
				return err
			}
		}
		return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0)
	})
	segment := func(name string, class plan.Class, v4, v6 string, devices int, devs ...string) Segment {
		s := Segment{Devices: devices, Plan: plan.Segment{Name: name, Class: class, IPv4: netip.MustParsePrefix(v4), Isolate: class == plan.Attendee}}
		s.Plan.Gateway4 = s.Plan.IPv4.Addr().Next()
		if v6 != "" {
			s.Plan.IPv6 = netip.MustParsePrefix(v6)
		}
		for _, d := range devs {
			s.Ports = append(s.Ports, Port{Namespace: v.aps, Device: d})
		}
		return s
	}
	v.cfg = Config{
		Segments: []Segment{
			segment("hall", plan.Attendee, "10.1.0.0/20", "2001:db8:1::/64", perSegment, "a0", "a1"),
			segment("event-hall", plan.Attendee, "10.2.0.0/20", "", perSegment, "b0"),
			segment("management", plan.Management, "10.9.0.0/24", "", 0, "m0"),
		},
		Doors: 2 * time.Second, Stay: 3 * time.Second, Seed: 1,
		Names: []string{"one.example", "two.example"}, Own: []string{"gw.event.example"},
		Management: []netip.Addr{netip.MustParseAddr("10.9.0.10")},
		Queries:    1, Sessions: 12.5,
	}
	return v
}

func bridge(name string, addrs []string) error {
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}); err != nil {
		return fmt.Errorf("add %s: %w", name, err)
	}
	for _, a := range addrs {
		if err := address(name, a); err != nil {
			return err
		}
	}
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(l)
}

func enslave(port, bridge string, isolated bool) error {
	l, err := netlink.LinkByName(port)
	if err != nil {
		return err
	}
	b, err := netlink.LinkByName(bridge)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetMaster(l, b); err != nil {
		return err
	}
	return netlink.LinkSetIsolated(l, isolated)
}

func address(link, addr string) error {
	l, err := netlink.LinkByName(link)
	if err != nil {
		return err
	}
	a, err := netlink.ParseAddr(addr)
	if err != nil {
		return err
	}
	if a.IP.To4() == nil {
		a.Flags = unix.IFA_F_NODAD
	}
	return netlink.AddrAdd(l, a)
}

// serve starts the servers in the node's namespace; they end with the test.
func (v *testVenue) serve() {
	ctx, cancel := context.WithCancel(context.Background())
	v.t.Cleanup(func() { cancel(); v.background.Wait() })
	testnet.Do(v.t, v.node, func() error {
		for _, s := range []struct{ device, gateway string }{{"br-a", "10.1.0.1"}, {"br-b", "10.2.0.1"}} {
			d, err := v.listenDHCP(ctx, s.device, netip.MustParseAddr(s.gateway))
			if err != nil {
				return err
			}
			v.dhcp = append(v.dhcp, d)
		}
		for _, a := range []string{"10.1.0.1:53", "10.2.0.1:53", "[2001:db8:1::1]:53"} {
			if err := v.listenDNS(ctx, a); err != nil {
				return fmt.Errorf("DNS on %s: %w", a, err)
			}
		}
		for _, a := range []string{"198.18.0.1", "198.18.0.2", "2001:2::1"} {
			if err := v.listenEcho(ctx, a); err != nil {
				return err
			}
		}
		return v.announce(ctx)
	})
}

// run starts f, which ends when close is called at the end of the test.
func (v *testVenue) run(ctx context.Context, c io.Closer, f func()) {
	context.AfterFunc(ctx, func() { c.Close() })
	v.background.Go(f)
}

// testDHCP gives addresses in memory, by insomniacslk's codec.
type testDHCP struct {
	mu      sync.Mutex
	gateway netip.Addr
	next    netip.Addr
	leases  map[string]netip.Addr
	deny    bool // NAK every REQUEST
	mute    bool
	lie     bool
	lease   time.Duration
	asks    map[dhcpv4.MessageType]int
}

func (v *testVenue) listenDHCP(ctx context.Context, device string, gateway netip.Addr) (*testDHCP, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		c.Control(func(fd uintptr) {
			err = unix.BindToDevice(int(fd), device)
			if err == nil {
				err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1)
			}
			if err == nil {
				err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
			}
		})
		return err
	}}
	conn, err := lc.ListenPacket(ctx, "udp4", ":67")
	if err != nil {
		return nil, err
	}
	d := newTestDHCP(gateway, v.short)
	d.lie = v.lie
	v.run(ctx, conn, func() {
		b := make([]byte, 2048)
		for {
			n, from, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			if m := d.answer(b[:n]); m != nil {
				to := &net.UDPAddr{IP: net.IPv4bcast, Port: 68}
				if a := from.(*net.UDPAddr); !a.IP.IsUnspecified() {
					to = a
				}
				conn.WriteTo(m, to)
			}
		}
	})
	return d, nil
}

func newTestDHCP(gateway netip.Addr, lease time.Duration) *testDHCP {
	if lease == 0 {
		lease = time.Hour
	}
	d := &testDHCP{gateway: gateway, next: gateway, lease: lease, leases: map[string]netip.Addr{}, asks: map[dhcpv4.MessageType]int{}}
	for range 9 {
		d.next = d.next.Next()
	}
	return d
}

// answer is the server's reply to a message, or nil.
func (d *testDHCP) answer(b []byte) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	m, err := dhcpv4.FromBytes(b)
	if err != nil {
		return nil
	}
	d.asks[m.MessageType()]++
	client := m.ClientHWAddr.String()
	had, known := d.leases[client]
	kind := dhcpv4.MessageTypeAck
	switch m.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		kind = dhcpv4.MessageTypeOffer
		if !known {
			if !d.lie {
				d.next = d.next.Next()
			}
			had = d.next
			d.leases[client] = had
		}
	case dhcpv4.MessageTypeRequest:
		wants := m.RequestedIPAddress()
		if wants == nil || wants.IsUnspecified() {
			wants = m.ClientIPAddr
		}
		if d.deny || !known || !wants.Equal(had.AsSlice()) {
			kind = dhcpv4.MessageTypeNak
		}
	case dhcpv4.MessageTypeRelease, dhcpv4.MessageTypeDecline:
		delete(d.leases, client)
		return nil
	default:
		return nil
	}
	if d.mute {
		return nil
	}
	seconds := binary.BigEndian.AppendUint32(nil, uint32(d.lease/time.Second))
	r, err := dhcpv4.NewReplyFromRequest(m, dhcpv4.WithMessageType(kind), dhcpv4.WithServerIP(d.gateway.AsSlice()),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(d.gateway.AsSlice())))
	if err != nil {
		return nil
	}
	if kind != dhcpv4.MessageTypeNak {
		r.YourIPAddr = had.AsSlice()
		dhcpv4.WithNetmask(net.CIDRMask(20, 32))(r)
		dhcpv4.WithRouter(d.gateway.AsSlice())(r)
		dhcpv4.WithDNS(d.gateway.AsSlice())(r)
		r.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionIPAddressLeaseTime, seconds))
	}
	return r.ToBytes()
}

// testZone answers for the names of the test's Config; big.example only over TCP.
func testZone(q *dns.Msg, tcp bool) *dns.Msg {
	m := new(dns.Msg).SetReply(q)
	records := map[string]string{
		"one.example. A": "198.18.0.1", "one.example. AAAA": "2001:2::1", "two.example. A": "198.18.0.2",
		"gw.event.example. A": "10.1.0.1", "big.example. A": "198.18.0.1",
	}
	name, kind := q.Question[0].Name, dns.TypeToString[q.Question[0].Qtype]
	switch name {
	case "one.example.", "two.example.", "gw.event.example.":
	case "big.example.":
		m.Truncated = !tcp
	case "broken.example.":
		m.Rcode = dns.RcodeServerFailure
	default:
		m.Rcode = dns.RcodeNameError
	}
	if a, ok := records[name+" "+kind]; ok && !m.Truncated {
		rr, err := dns.NewRR(fmt.Sprintf("%s 60 IN %s %s", name, kind, a))
		if err == nil {
			m.Answer = append(m.Answer, rr)
		}
	}
	return m
}

func (v *testVenue) listenDNS(ctx context.Context, addr string) error {
	pc, err := net.ListenPacket("udp", addr)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		w.WriteMsg(testZone(q, w.RemoteAddr().Network() == "tcp"))
	})
	for _, s := range []*dns.Server{{PacketConn: pc, Handler: handler}, {Listener: l, Handler: handler}} {
		var c io.Closer = pc
		if s.Listener != nil {
			c = l
		}
		v.run(ctx, c, func() { s.ActivateAndServe() })
	}
	return nil
}

// listenEcho says everything back on UDP 7 and 443 and TCP 7, 80 and 443.
func (v *testVenue) listenEcho(ctx context.Context, addr string) error {
	for _, port := range []string{"7", "443"} {
		pc, err := net.ListenPacket("udp", net.JoinHostPort(addr, port))
		if err != nil {
			return err
		}
		v.run(ctx, pc, func() {
			b := make([]byte, 2048)
			for {
				n, from, err := pc.ReadFrom(b)
				if err != nil {
					return
				}
				pc.WriteTo(b[:n], from)
			}
		})
	}
	for _, port := range []string{"7", "80", "443"} {
		l, err := net.Listen("tcp", net.JoinHostPort(addr, port))
		if err != nil {
			return err
		}
		v.run(ctx, l, func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				v.run(ctx, c, func() {
					io.Copy(c, c)
					c.Close()
				})
			}
		})
	}
	return nil
}

// announce answers router solicitations on br-a.
func (v *testVenue) announce(ctx context.Context) error {
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0); err != nil {
		return err
	}
	ifi, err := net.InterfaceByName("br-a")
	if err != nil {
		return err
	}
	// By its number: package net remembers for a minute which index a zone's name has, and
	// other tests have a br-a too.
	ifi.Name = strconv.Itoa(ifi.Index)
	var c *ndp.Conn
	for range 100 { // until duplicate address detection of the bridge's link-local is over
		if c, _, err = ndp.Listen(ifi, ndp.LinkLocal); err == nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err != nil {
		return err
	}
	if err := c.JoinGroup(netip.MustParseAddr("ff02::2")); err != nil {
		return err
	}
	m := &ndp.RouterAdvertisement{RouterLifetime: 30 * time.Minute, Options: []ndp.Option{
		&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: ifi.HardwareAddr},
		&ndp.PrefixInformation{PrefixLength: 64, OnLink: true, AutonomousAddressConfiguration: true, ValidLifetime: time.Hour, PreferredLifetime: time.Hour, Prefix: netip.MustParseAddr("2001:db8:1::")},
		&ndp.RecursiveDNSServer{Lifetime: time.Hour, Servers: []netip.Addr{netip.MustParseAddr("2001:db8:1::1")}},
	}}
	v.run(ctx, c, func() {
		for {
			q, _, from, err := c.ReadFrom()
			if err != nil {
				if ctx.Err() != nil {
					return
				}
				continue
			}
			if _, ok := q.(*ndp.RouterSolicitation); ok {
				c.WriteTo(m, nil, from)
			}
		}
	})
	return nil
}
