//go:build linux

package segment

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/hotstage/hotstage/internal/testnet"
)

// asks tells whether a UDP packet from the local address and port is answered.
func asks(t *testing.T, in *kernel.Namespace, local, to netip.AddrPort) (ok bool) {
	t.Helper()
	testnet.Do(t, in, func() error {
		c, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(local), net.UDPAddrFromAddrPort(to))
		if err != nil {
			return err
		}
		defer c.Close()
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

// tracked is how many flows the namespace's table has.
func tracked(t *testing.T, in *kernel.Namespace) (n int) {
	t.Helper()
	testnet.Do(t, in, func() error {
		now, err := kernel.ReadTracking()
		n = now.Count
		return err
	})
	return n
}

// awaitDrops waits for the counter to reach n.
func awaitDrops(t *testing.T, in *kernel.Namespace, counter string, n uint64) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		var got uint64
		testnet.Do(t, in, func() error {
			counts, err := kernel.Counts(tableName)
			got = counts[counter].Packets
			return err
		})
		if got == n {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("%s counts %d, want %d", counter, got, n)
			return
		}
	}
}

// Questions to our services and their answers take no place in the table; others do.
func TestQuestionsToServicesAreNotTracked(t *testing.T) {
	v := newVenue(t)
	v.run(t, make(chan fact.Event, 100))
	for _, port := range []int{53, 67, 123} {
		answer(t, v.gw, port)
		answer(t, v.internet, port)
	}
	answer(t, v.srv, 53)
	a := v.plan.Segment("a")
	// Link-local addresses serve a second or two after the link is up.
	for deadline := time.Now().Add(10 * time.Second); !reaches(t, v.a1, "ping", v.address[v.internet][1], 0); {
		if time.Now().After(deadline) {
			t.Fatal("no way to the internet by IPv6")
		}
	}
	before := tracked(t, v.gw)
	for _, to := range []netip.Addr{a.Gateway4, a.Gateway6, v.address[v.srv][0]} {
		if !reaches(t, v.a1, "udp", to, 53) {
			t.Errorf("no answer from DNS of %s", to)
		}
	}
	for _, port := range []uint16{67, 123} {
		if !reaches(t, v.a1, "udp", a.Gateway4, port) {
			t.Errorf("no answer from port %d of the gateway", port)
		}
	}
	if got := tracked(t, v.gw); got != before {
		t.Errorf("the table has %d flows, had %d before", got, before)
	}
	// A resolver in the internet, asked by an attendee and by the node itself.
	for _, from := range []*kernel.Namespace{v.a1, v.gw} {
		for _, to := range v.address[v.internet] {
			if !reaches(t, from, "udp", to, 53) {
				t.Errorf("no answer from DNS of %s in the internet", to)
			}
		}
	}
	// The server asks from the service's own port, as ntpd does.
	own, clock := v.address[v.srv][0], v.address[v.internet][0]
	if !asks(t, v.srv, netip.AddrPortFrom(own, 67), netip.AddrPortFrom(clock, 123)) {
		t.Errorf("no answer of %s to a question from the port of a service", clock)
	}
	if got := tracked(t, v.gw); got != before+5 {
		t.Errorf("the table has %d flows, want %d", got, before+5)
	}
}

// What is not tracked is filtered as strictly: a service's port opens nothing.
func TestServicePortsOpenNothing(t *testing.T) {
	v := newVenue(t)
	v.run(t, make(chan fact.Event, 100))
	a := v.plan.Segment("a")
	// An error about an answer that nobody waits for.
	asks(t, v.gw, netip.AddrPortFrom(a.Gateway4, 53), netip.AddrPortFrom(v.address[v.a1][0], 4444))
	awaitDrops(t, v.gw, forgotten, 1)
	awaitDrops(t, v.gw, toNode, 0)

	for _, ns := range []*kernel.Namespace{v.gw, v.a1, v.b1, v.srv} {
		answer(t, ns, 9999)
	}
	answer(t, v.gw, 53)
	for i := range 2 {
		any := []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}[i]
		gateway := [2]netip.Addr{a.Gateway4, a.Gateway6}[i]
		for _, port := range []uint16{53, 67, 123} {
			for _, c := range []struct {
				words string
				from  *kernel.Namespace
				to    netip.Addr
			}{
				{"attendee to attendee", v.a1, v.address[v.b1][i]},
				{"attendee to attendee of the segment", v.a1, v.address[v.a2][i]},
				{"attendee to server", v.a1, v.address[v.srv][i]},
				{"attendee to the gateway", v.a1, gateway},
				{"internet to attendee", v.internet, v.address[v.a1][i]},
				{"internet to server", v.internet, v.address[v.srv][i]},
			} {
				if asks(t, c.from, netip.AddrPortFrom(any, port), netip.AddrPortFrom(c.to, 9999)) {
					t.Errorf("%s, from port %d to port 9999 of %s: through", c.words, port, c.to)
				}
			}
		}
	}
	// A question under somebody else's address would be answered to him.
	victim := netip.MustParseAddr("2001:db8:bad::1")
	testnet.Do(t, v.a1, func() error { return kernel.AddAddress("e", netip.PrefixFrom(victim, 128), 0) })
	testnet.Do(t, v.gw, func() error {
		counts, err := kernel.Counts(tableName)
		if n := counts[spoofed].Packets; n != 0 {
			t.Errorf("%d packets dropped as spoofed before any was", n)
		}
		return err
	})
	asks(t, v.a1, netip.AddrPortFrom(victim, 4444), netip.AddrPortFrom(a.Gateway6, 53))
	awaitDrops(t, v.gw, spoofed, 1)
}
