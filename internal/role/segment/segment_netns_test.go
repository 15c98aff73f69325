//go:build linux

package segment

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/hotstage/hotstage/internal/testnet"
	"github.com/prometheus/client_golang/prometheus"
)

// Who may reach whom, through a real router, over IPv4 and IPv6.
func TestWhoReachesWhom(t *testing.T) {
	v := newVenue(t)
	v.run(t, make(chan fact.Event, 100))
	for _, ns := range []*kernel.Namespace{v.gw, v.a1, v.a2, v.b1, v.srv, v.mgmt, v.crew, v.internet} {
		for _, port := range []int{53, 123, 443, 853, 9999} {
			answer(t, ns, port)
		}
	}
	gateway := func(segment string) [2]netip.Addr {
		s := v.plan.Segment(segment)
		return [2]netip.Addr{s.Gateway4, s.Gateway6}
	}
	for _, c := range []struct {
		words string
		from  *kernel.Namespace
		how   string
		to    [2]netip.Addr
		port  uint16
		want  bool
	}{
		{"attendee to attendee of the segment, by the gateway", v.a1, "ping", v.address[v.a2], 0, false},
		{"attendee to attendee of the segment, by the gateway", v.a1, "udp", v.address[v.a2], 9999, false},
		{"attendee to attendee of another segment", v.a1, "ping", v.address[v.b1], 0, false},
		{"attendee to attendee of another segment", v.a1, "tcp", v.address[v.b1], 53, false},
		{"attendee to management", v.a1, "ping", v.address[v.mgmt], 0, false},
		{"attendee to management", v.a1, "udp", v.address[v.mgmt], 53, false},
		{"attendee to the router's management address", v.a1, "ping", gateway("management"), 0, false},
		{"attendee to the router's management address", v.a1, "tcp", gateway("management"), 53, false},
		{"attendee to crew", v.a1, "ping", v.address[v.crew], 0, false},
		{"attendee to the crew's gateway", v.a1, "ping", gateway("staff"), 0, false},
		{"attendee to a server's closed port", v.a1, "tcp", v.address[v.srv], 9999, false},
		{"attendee to a closed port of the gateway", v.a1, "tcp", gateway("a"), 9999, false},
		{"attendee to the gateway", v.a1, "ping", gateway("a"), 0, true},
		{"attendee to DNS of the gateway", v.a1, "udp", gateway("a"), 53, true},
		{"attendee to DNS of the gateway", v.a1, "tcp", gateway("a"), 53, true},
		{"attendee to DNS over TLS of the gateway", v.a1, "tcp", gateway("a"), 853, true},
		{"attendee to DNS over QUIC of the gateway", v.a1, "udp", gateway("a"), 853, true},
		{"attendee to DNS over HTTPS of the gateway", v.a1, "tcp", gateway("a"), 443, true},
		{"attendee to HTTP/3 of the gateway", v.a1, "udp", gateway("a"), 443, false},
		{"attendee to management's DNS over TLS", v.a1, "tcp", gateway("management"), 853, false},
		{"attendee to NTP of the gateway", v.a1, "udp", gateway("a"), 123, true},
		{"attendee to the internet", v.a1, "tcp", v.address[v.internet], 9999, true},
		{"attendee to the internet", v.b1, "udp", v.address[v.internet], 9999, true},
		{"management to server", v.mgmt, "tcp", v.address[v.srv], 9999, true},
		{"management to attendee", v.mgmt, "ping", v.address[v.a1], 0, true},
		{"management to the router", v.mgmt, "tcp", gateway("management"), 9999, true},
		{"server to management", v.srv, "udp", v.address[v.mgmt], 9999, true},
		{"crew to management", v.crew, "tcp", v.address[v.mgmt], 9999, true},
		{"server to the internet", v.srv, "udp", v.address[v.internet], 9999, true},
		{"internet to attendee", v.internet, "ping", v.address[v.a1], 0, false},
		{"internet to server", v.internet, "tcp", v.address[v.srv], 9999, false},
		{"internet to the router's DNS", v.internet, "udp", [2]netip.Addr{netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("2001:db8:ff::1")}, 53, false},
		{"internet to the router's DNS over TLS", v.internet, "tcp", [2]netip.Addr{netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("2001:db8:ff::1")}, 853, false},
		{"internet to the router's DNS over QUIC", v.internet, "udp", [2]netip.Addr{netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("2001:db8:ff::1")}, 853, false},
		{"internet to the router's DNS over HTTPS", v.internet, "tcp", gateway("a"), 443, false},
		{"internet to a web server of the router, by its uplink's address", v.internet, "tcp", [2]netip.Addr{netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("2001:db8:ff::1")}, 443, true},
		{"internet to a port of the router that is the system's to filter", v.internet, "tcp", [2]netip.Addr{netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("2001:db8:ff::1")}, 9999, true},
	} {
		for _, to := range c.to {
			got := reaches(t, c.from, c.how, to, c.port)
			for try := 0; c.want && !got && try < 10; try++ { // a slow or busy machine
				got = reaches(t, c.from, c.how, to, c.port)
			}
			if got != c.want {
				t.Errorf("%s: %s %s port %d: reaches %v, want %v", c.words, c.how, to, c.port, got, c.want)
			}
		}
	}
	// The server of the resolver's list is asked across segments: by IPv4 as attendees are told.
	for _, s := range v.plan.Segment("a").DNS4 {
		if !reaches(t, v.a1, "udp", s, 53) {
			t.Errorf("attendee to resolver %s: no answer", s)
		}
	}
}

func TestSecondDiffIsEmpty(t *testing.T) {
	v := newVenue(t)
	s, _, stop := v.run(t, make(chan fact.Event, 100))
	stop()
	testnet.Do(t, v.gw, func() error {
		changes, err := s.Diff(t.Context())
		for _, c := range changes {
			t.Errorf("still to do: %s", c.Words)
		}
		return err
	})
}

func TestDriftIsPutBackAndTold(t *testing.T) {
	v := newVenue(t)
	events := make(chan fact.Event, 100)
	s, reg, _ := v.run(t, events)
	own := v.plan.Node("gw1").Attachment("a").IPv4
	foreign := netip.MustParsePrefix("192.0.2.1/24")
	for _, c := range []struct {
		words string
		drift func() error
		want  string
	}{
		{"an address", func() error { return kernel.DeleteAddress("eth1", own) }, "add 10.1.0.1/24 to eth1"},
		{"the filter", func() error { return kernel.DeleteTable(tableName) }, "write nftables table inet hotstage_segment: it is missing"},
		{"a parameter", func() error { return kernel.SetSysctl("net/ipv4/conf/eth1/forwarding", "0") }, "sysctl -w net.ipv4.conf.eth1.forwarding=1"},
		{"an address that only looks like ours", func() error {
			return kernel.AddAddress("eth1", netip.MustParsePrefix("10.9.9.9/24"), kernel.OwnerSegment)
		}, "delete 10.9.9.9/24, which the plan no longer has, from eth1"},
	} {
		for len(events) > 0 {
			<-events
		}
		testnet.Do(t, v.gw, func() error {
			if err := kernel.AddAddress("eth1", foreign, 0); err != nil {
				return err
			}
			return c.drift()
		})
		select {
		case e := <-events:
			if e.Kind != "drift" || e.Severity != fact.Warning || !strings.Contains(e.Words, c.want) {
				t.Errorf("%s: told %+v, want drift with %q", c.words, e, c.want)
			}
		case <-time.After(15 * time.Second):
			t.Fatalf("%s: nobody told", c.words)
		}
	}
	testnet.Do(t, v.gw, func() error {
		have, err := kernel.Addresses("eth1")
		found := false
		for _, a := range have {
			found = found || a.Prefix == foreign
		}
		if !found {
			t.Errorf("somebody else's address %s is gone", foreign)
		}
		return err
	})
	if got := gather(t, reg, "hotstage_segment_repairs_total", ""); got != 4 {
		t.Errorf("%v repairs counted, want 4", got)
	}
	if c := s.Checks(); !c[0].OK {
		t.Errorf("checks after repair: %+v", c)
	}
}

func TestDropsAreCounted(t *testing.T) {
	v := newVenue(t)
	_, reg, _ := v.run(t, make(chan fact.Event, 100))
	to := v.address[v.b1][0]
	if reaches(t, v.a1, "udp", to, 9999) {
		t.Error("an attendee reached another")
	}
	testnet.Do(t, v.gw, func() error { return kernel.DeleteTable(tableName + "x") }) // wakes the server
	for deadline := time.Now().Add(15 * time.Second); gather(t, reg, "hotstage_segment_dropped_packets_total", toAttendee) < 1; {
		if time.Now().After(deadline) {
			t.Fatal("not counted")
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func gather(t *testing.T, reg *prometheus.Registry, name, label string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			if label == "" || m.GetLabel()[0].GetValue() == label {
				return m.GetCounter().GetValue()
			}
		}
	}
	t.Fatalf("no metric %s %s", name, label)
	return 0
}
