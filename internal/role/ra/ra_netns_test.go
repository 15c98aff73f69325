//go:build linux

package ra

import (
	"context"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/hotstage/hotstage/internal/testnet"
	"github.com/mdlayher/ndp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/vishvananda/netlink"
)

// inside is a real socket whose look at the device is done in a namespace too.
type inside struct {
	socket
	ns *kernel.Namespace
}

func (i inside) gone() (away bool) {
	if err := i.ns.Do(func() error { away = i.socket.gone(); return nil }); err != nil {
		return true
	}
	return away
}

// events collects what a server tells.
type events struct {
	mu  sync.Mutex
	all []fact.Event
}

func (e *events) tell(x fact.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, x)
}

func (e *events) has(kind string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, x := range e.all {
		if x.Kind == kind {
			return true
		}
	}
	return false
}

// run starts a server in the namespace and returns what stops it.
func run(t *testing.T, ns *kernel.Namespace, l Link, e *events) (stop func()) {
	t.Helper()
	s := New(Config{Links: []Link{l}}, NewMetrics(prometheus.NewRegistry()), e.tell)
	s.open = func(name string) (sock socket, err error) {
		err = ns.Do(func() error { sock, err = openSocket(name); return err })
		return inside{sock, ns}, err
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(stop)
	select {
	case <-s.Ready():
	case <-time.After(10 * time.Second):
		t.Fatalf("not ready after 10 s: %+v", s.Checks())
	}
	return stop
}

// until asks again and again, because the kernel tells no one when it has worked through a
// packet.
func until(t *testing.T, what string, so func() bool) {
	t.Helper()
	for range 500 {
		if so() {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatalf("not so after 10 s: %s", what)
}

func sysctl(t *testing.T, ns *kernel.Namespace, key, value string) {
	t.Helper()
	testnet.Do(t, ns, func() error { return os.WriteFile("/proc/sys/net/ipv6/conf/"+key, []byte(value), 0o644) })
}

// has6 tells whether the link has a global address of the prefix, and a default route.
func has6(t *testing.T, ns *kernel.Namespace, dev string, prefix netip.Prefix) (address, route bool) {
	t.Helper()
	testnet.Do(t, ns, func() error {
		l, err := netlink.LinkByName(dev)
		if err != nil {
			return err
		}
		addrs, err := netlink.AddrList(l, netlink.FAMILY_V6)
		if err != nil {
			return err
		}
		for _, a := range addrs {
			if ip, _ := netip.AddrFromSlice(a.IP); prefix.Contains(ip) {
				address = true
			}
		}
		routes, err := netlink.RouteList(l, netlink.FAMILY_V6)
		for _, r := range routes {
			if ones, _ := maskOf(r.Dst); r.Gw != nil && ones == 0 {
				route = true
			}
		}
		return err
	})
	return address, route
}

func maskOf(n *net.IPNet) (ones, bits int) {
	if n == nil {
		return 0, 0
	}
	return n.Mask.Size()
}

func TestKernelConfiguresItself(t *testing.T) {
	t.Parallel()
	gw, host := testnet.Namespace(t), testnet.Namespace(t)
	sysctl(t, host, "default/accept_ra", "1")
	sysctl(t, host, "default/dad_transmits", "0")
	testnet.Veth(t, gw, "gw0", []string{"fe80::1/64"}, host, "h0", nil)
	l := testLink()
	l.Device = "gw0"
	stop := run(t, gw, l, &events{})
	until(t, "the host has an address and a default route", func() bool {
		a, r := has6(t, host, "h0", l.Prefix)
		return a && r
	})
	stop()
	until(t, "the default route goes with the final advertisement, the address stays", func() bool {
		a, r := has6(t, host, "h0", l.Prefix)
		return a && !r
	})
}

func TestDeviceIsServedAgain(t *testing.T) {
	t.Parallel()
	gw, host := testnet.Namespace(t), testnet.Namespace(t)
	sysctl(t, host, "default/accept_ra", "1")
	testnet.Veth(t, gw, "gw0", []string{"fe80::1/64"}, host, "h0", nil)
	l := testLink()
	l.Device = "gw0"
	run(t, gw, l, &events{})
	testnet.Do(t, gw, func() error {
		link, err := netlink.LinkByName("gw0")
		if err != nil {
			return err
		}
		return netlink.LinkDel(link)
	})
	testnet.Veth(t, gw, "gw0", []string{"fe80::1/64"}, host, "h1", nil)
	until(t, "the new link has a default route", func() bool {
		_, r := has6(t, host, "h1", l.Prefix)
		return r
	})
}

func TestForeignRouterOnTheWire(t *testing.T) {
	t.Parallel()
	gw, host := testnet.Namespace(t), testnet.Namespace(t)
	sysctl(t, host, "default/addr_gen_mode", "1") // no address but the given one
	testnet.Veth(t, gw, "gw0", []string{"fe80::1/64"}, host, "h0", []string{"fe80::bad/64"})
	l := testLink()
	l.Device = "gw0"
	e := &events{}
	run(t, gw, l, e)
	// The host's routes to the group may come a moment after its link.
	until(t, "the rogue has announced itself", func() bool {
		return nil == host.Do(func() error {
			ifi, err := net.InterfaceByName("h0")
			if err != nil {
				return err
			}
			conn, _, err := ndp.Listen(numbered(ifi), ndp.LinkLocal)
			if err != nil {
				return err
			}
			defer conn.Close()
			rogue := Link{Prefix: netip.MustParsePrefix("2001:db8:bad::/64")}
			return conn.WriteTo(rogue.advertisement(ifi.HardwareAddr, false), nil, allNodes)
		})
	})
	until(t, "the other router is told of", func() bool { return e.has("foreign-router") })
}

// A router hears on one segment neither its own announcements to another one nor the
// solicitations from there.
func TestSegmentsApart(t *testing.T) {
	router, a, b := testnet.Namespace(t), testnet.Namespace(t), testnet.Namespace(t)
	testnet.Veth(t, router, "r0", []string{"fe80::1/64"}, a, "a0", nil)
	testnet.Veth(t, router, "r1", []string{"fe80::2/64"}, b, "b0", nil)
	sysctl(t, router, "all/forwarding", "1")
	var onA, onB events
	run(t, router, Link{Segment: "a", Device: "r0", Prefix: netip.MustParsePrefix("2001:db8:a::/64")}, &onA)
	run(t, router, Link{Segment: "b", Device: "r1", Prefix: netip.MustParsePrefix("2001:db8:b::/64")}, &onB)
	for ns, c := range map[*kernel.Namespace]struct{ dev, prefix string }{a: {"a0", "2001:db8:a::/64"}, b: {"b0", "2001:db8:b::/64"}} {
		until(t, c.dev+" has an address", func() bool {
			address, _ := has6(t, ns, c.dev, netip.MustParsePrefix(c.prefix))
			return address
		})
	}
	if onA.has("foreign-router") || onB.has("foreign-router") {
		t.Errorf("a router takes itself for another: %v, %v", onA.all, onB.all)
	}
}
