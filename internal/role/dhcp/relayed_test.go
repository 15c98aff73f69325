package dhcp

import (
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/plan"
	"github.com/hotstage/hotstage/internal/wire"
	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// far is hall as a node serves it that is in segment server only, at 10.9.0.5 beside the
// gateway's 10.9.0.1.
func far() Segment {
	c := hall()
	c.Device, c.Server, c.Relayed, c.Devices = "ens192", addr("10.9.0.5"), true, 100
	c.Relays, c.Near = []netip.Addr{addr("10.1.0.1"), addr("10.1.0.7")}, []netip.Addr{addr("10.9.0.1")}
	return c
}

// near is the segment that the node is in.
func near() Segment {
	c := hall()
	c.Name, c.Device, c.Server, c.Prefix = "server", "ens192", addr("10.9.0.5"), netip.MustParsePrefix("10.9.0.0/24")
	c.Pool = plan.Range{From: addr("10.9.0.64"), To: addr("10.9.0.99")}
	return c
}

// exits is a door that keeps what leaves by it.
type exits struct{ sent []answer }

func (e *exits) receive([]packet) (int, error) { return 0, os.ErrClosed }
func (e *exits) check() error                  { return nil }
func (e *exits) interrupt()                    {}
func (e *exits) Close() error                  { return nil }
func (e *exits) send(es []*entry, _ netip.Addr) {
	for _, s := range es {
		e.sent = append(e.sent, s.own().reply)
	}
}

func relay(a string) dhcpv4.Modifier { return dhcpv4.WithGatewayIP(addr(a).AsSlice()) }

func circuit(s string) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptRelayAgentInfo(dhcpv4.OptGeneric(dhcpv4.AgentCircuitIDSubOption, []byte(s))))
}

// Which segment a message that comes by the device is of, and which get no answer.
func TestRelayedSegments(t *testing.T) {
	const all, one = true, false // broadcast or unicast
	for _, c := range []struct {
		name      string
		kind      dhcpv4.MessageType
		from      string
		broadcast bool
		mods      []dhcpv4.Modifier
		both, far string // with the device's own segment, and without
	}{
		{"in the device's segment", discover, "0.0.0.0", all, nil, "OFFER of server to all", "astray"},
		{"relayed under giaddr", discover, "10.1.0.1", one, []dhcpv4.Modifier{relay("10.1.0.1"), circuit("hall/eth1")}, "OFFER of hall to 10.1.0.1", ""},
		{"relayed under the near address", discover, "10.9.0.1", one, []dhcpv4.Modifier{relay("10.1.0.1")}, "OFFER of hall to 10.1.0.1", ""},
		{"by a relay of others in the segment", discover, "10.1.0.7", one, []dhcpv4.Modifier{relay("10.1.0.7")}, "OFFER of hall to 10.1.0.7", ""},
		{"somebody poses as the relay", discover, "10.1.0.66", one, []dhcpv4.Modifier{relay("10.1.0.1")}, "relayed", ""},
		{"a relay that the plan does not have", discover, "10.1.0.8", one, []dhcpv4.Modifier{relay("10.1.0.8")}, "relayed", ""},
		{"the device's segment has no relay", discover, "10.9.0.1", one, []dhcpv4.Modifier{relay("10.9.0.1")}, "relayed", ""},
		{"renewing, routed", request, "10.1.0.12", one, []dhcpv4.Modifier{from("10.1.0.12")}, "ACK of hall to 10.1.0.12", ""},
		{"renewing under another address", request, "10.1.0.66", one, []dhcpv4.Modifier{from("10.1.0.12")}, "astray", ""},
		{"releasing for another", release, "10.1.0.66", one, []dhcpv4.Modifier{from("10.1.0.12")}, "astray", ""},
		{"renewing one of nobody's", request, "10.2.0.12", one, []dhcpv4.Modifier{from("10.2.0.12")}, "NAK of server to all", "astray"},
		{"rebinding, relayed", request, "10.1.0.1", one, []dhcpv4.Modifier{from("10.1.0.12"), relay("10.1.0.1")}, "ACK of hall to 10.1.0.1", ""},
		{"rebinding with a relayed address in the device's segment", request, "10.1.0.12", all, []dhcpv4.Modifier{from("10.1.0.12")}, "NAK of server to all", "astray"},
		{"asking, routed", inform, "10.1.0.200", one, []dhcpv4.Modifier{from("10.1.0.200")}, "ACK of hall to 10.1.0.200", ""},
	} {
		for i, segments := range [][]Segment{{near(), far()}, {far()}} {
			want := c.both
			if i == 1 && c.far != "" {
				want = c.far
			}
			if got := sayRelayed(t, segments, c.kind, c.from, c.broadcast, c.mods...); got != want {
				t.Errorf("%s, %d segments: %s, want %s", c.name, len(segments), got, want)
			}
		}
	}
}

// sayRelayed hands one message to a server of the segments, which share a device.
func sayRelayed(t *testing.T, segments []Segment, kind dhcpv4.MessageType, from string, broadcast bool, mods ...dhcpv4.Modifier) string {
	t.Helper()
	s := New(Config{Segments: segments}, newMemory(), newClock(), metrics(), func(fact.Event) {})
	out, open := &exits{}, 0
	for _, l := range s.links {
		if l.via == nil {
			open++
			l.door = out
		}
	}
	if open != 1 {
		t.Fatalf("%d sockets on one device", open)
	}
	said := &entry{since: time.Now()}
	s.links[0].one(read(s.clock), packet{data: message(t, mac(1), kind, mods...), from: addr(from), broadcast: broadcast}, &wire.DHCP{}, said)
	switch {
	case said.reply.grant != nil: // an ACK that waits for the store
		s.ledger.cancel()
		send([]*entry{said})
	case len(said.reply.frame) > 0:
		send([]*entry{said})
	}
	if len(out.sent) == 0 {
		for i := range silences {
			if i != replied && testutil.ToFloat64(s.metrics.silences[i]) > 0 {
				return silenceWords[i]
			}
		}
		return "silence"
	}
	m, err := dhcpv4.FromBytes(out.sent[0].frame[wire.UDPFrameHead:])
	if err != nil {
		t.Fatal(err)
	}
	segment := "server"
	if mask := m.YourIPAddr; strings.HasPrefix(mask.String(), "10.1.0.") || out.sent[0].dst.String() == "10.1.0.200" {
		segment = "hall"
	}
	if m.ServerIdentifier().String() != "10.9.0.5" {
		t.Errorf("server identifier %v", m.ServerIdentifier())
	}
	to := out.sent[0].dst.String()
	if out.sent[0].way == toAll || out.sent[0].way == toHardware {
		to = "all"
	}
	return m.MessageType().String() + " of " + segment + " to " + to
}

// A device that may not have what it renews hears so where it is: no broadcast gets there.
func TestRelayedNak(t *testing.T) {
	d := newDesk(t, far())
	if got := words(d, d.hand(message(t, mac(1), request, from("10.1.0.12")), false)); got != "ack 10.1.0.12 to 10.1.0.12" {
		t.Fatal(got)
	}
	if got := words(d, d.hand(message(t, mac(2), request, from("10.1.0.12")), false)); got != "nak to 10.1.0.12" {
		t.Error(got)
	}
}

// One port that floods is held back and named; the others are served.
func TestRelayPortShare(t *testing.T) {
	clock, told := newClock(), []fact.Event{}
	s := New(Config{Segments: []Segment{far()}}, newMemory(), clock, metrics(), func(e fact.Event) { told = append(told, e) })
	l := s.links[0]
	l.door = &exits{}
	heard := map[string]int{}
	say := func(port string, n int) {
		m := &wire.DHCP{}
		if err := m.Parse(message(t, mac(n), discover, relay("10.1.0.1"), circuit(port))); err != nil {
			t.Fatal(err)
		}
		if _, why := l.origin(read(clock), m, packet{from: addr("10.1.0.1")}); why == replied {
			heard[port]++
		}
	}
	for n := range 5000 {
		say("hall/eth1", n)
	}
	for n := range 100 {
		say("hall/eth2", n)
	}
	clock.pass(time.Second)
	for n := range 5000 {
		say("hall/eth1", n)
	}
	rate := int(l.ports.rate)
	if heard["hall/eth1"] != rate*(shareSeconds+1) || heard["hall/eth2"] != 100 || rate != leastShare {
		t.Errorf("heard %v at %d messages a second", heard, rate)
	}
	if len(told) != 1 || told[0].Kind != "relay-port-flood" || !strings.Contains(told[0].Words, `port "hall/eth1" of relay 10.1.0.1`) {
		t.Errorf("told %v", told)
	}
}

// What the plan says of a relayed segment.
func TestConfigureRelayed(t *testing.T) {
	src := `
event: {name: T, attendees: 100}
sites: {venue: {uplinks: {isp: {}}}}
segments:
  attendee: {ipv4: 10.1.0.0/22, relays: [10.1.0.9], reservations: {tv: {mac: "02:00:5e:10:00:01", address: 10.1.0.20}}}
  server: {ipv4: 10.9.0.0/24, dhcp: []}
nodes:
  gw1: {roles: [router, resolver], interfaces: {eth0: {uplink: isp}, eth1: {trunk: [attendee, server]}}}
  srv1: {roles: [dhcp], interfaces: {ens192: {segment: server}}}
  srv2: {roles: [dhcp], interfaces: {ens192: {segment: server}}}
`
	p, _, faults := plan.Parse([]byte(src), nil)
	if p == nil {
		t.Fatal(faults)
	}
	own, other := p.Node("srv1").Attachments[0].IPv4.Addr(), p.Node("srv2").Attachments[0].IPv4.Addr()
	cfg, err := Configure(p, "srv1")
	if err != nil || len(cfg.Segments) != 1 {
		t.Fatalf("%v, %+v", err, cfg)
	}
	got := cfg.Segments[0]
	want := Segment{
		Name: "attendee", Device: "ens192", Server: own, Prefix: netip.MustParsePrefix("10.1.0.0/22"), Pool: plan.Range{From: addr("10.1.0.64"), To: addr("10.1.2.30")},
		Partner: &Partner{Node: "srv2", Pool: plan.Range{From: addr("10.1.2.31"), To: addr("10.1.3.254")}}, Partners: []netip.Addr{other}, Relays: []netip.Addr{addr("10.1.0.1"), addr("10.1.0.9")}, Relayed: true, Near: []netip.Addr{addr("10.9.0.1")}, Devices: 200,
		Lease: time.Hour, Domain: "t.home.arpa", Reservations: got.Reservations, Options: got.Options,
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" || len(got.Reservations) != 1 {
		t.Errorf("-want +got\n%s", diff)
	}
}

// Of two servers of a segment each knows the other as its partner, wherever they are.
func TestRelayedPartners(t *testing.T) {
	p, _, faults := plan.Parse([]byte(`
event: {name: T, attendees: 100}
sites: {venue: {uplinks: {isp: {}}}}
segments: {attendee: {dhcp: [gw1, srv1]}, server: {dhcp: []}}
nodes:
  gw1: {roles: [router, dhcp, resolver], interfaces: {eth0: {uplink: isp}, eth1: {trunk: [attendee, server]}}}
  srv1: {roles: [dhcp], interfaces: {ens192: {segment: server}}}
`), nil)
	if p == nil {
		t.Fatal(faults)
	}
	parts := map[string]plan.Range{"gw1": p.Node("gw1").Attachment("attendee").Pool, "srv1": p.Node("srv1").Relay("attendee").Pool}
	for node, other := range map[string]string{"gw1": "srv1", "srv1": "gw1"} {
		cfg, err := Configure(p, node)
		if err != nil || len(cfg.Segments) != 1 {
			t.Fatalf("%s: %v, %+v", node, err, cfg)
		}
		s := cfg.Segments[0]
		if want := (Partner{Node: other, Pool: parts[other]}); s.Partner == nil || *s.Partner != want || s.Pool != parts[node] {
			t.Errorf("%s: partner %+v, want %+v", node, s.Partner, want)
		}
	}
}
