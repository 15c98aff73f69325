package dhcp

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/plan"
	"github.com/hotstage/hotstage/internal/wire"
	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// relaySegment is hall as the gateway relays it, with two ports and a layer 3 switch.
func relaySegment() RelaySegment {
	return RelaySegment{
		Name: "hall", Device: "br101", Ports: []string{"eth1.101", "eth2.101"}, Addr: addr("10.1.0.1"), Prefix: netip.MustParsePrefix("10.1.0.0/24"),
		Relays: []netip.Addr{addr("10.1.0.7")}, Servers: []RelayServer{{addr("10.9.0.5"), "eth1.10"}, {addr("10.9.0.6"), "eth1.10"}}, Devices: 100,
	}
}

func newClerk() clerk {
	s := relaySegment()
	return clerk{cfg: s, info: s.info("gw1")}
}

func hops(n uint8) dhcpv4.Modifier { return func(m *dhcpv4.DHCPv4) { m.HopCount = n } }

// filler makes a message of about that many bytes.
func filler(n int) dhcpv4.Modifier {
	return func(m *dhcpv4.DHCPv4) {
		for code := uint8(224); n > 0; code++ { // site-specific: RFC 3942
			m.UpdateOption(dhcpv4.OptGeneric(dhcpv4.GenericOptionCode(code), bytes.Repeat([]byte{7}, min(n, 250))))
			n -= 250
		}
	}
}

// What devices say, and what of it the servers hear.
func TestRelayOnward(t *testing.T) {
	d := newClerk()
	for _, c := range []struct {
		name, from string
		kind       dhcpv4.MessageType
		mods       []dhcpv4.Modifier
		want       string // hops, giaddr and circuit, or why not
	}{
		{"a device", "0.0.0.0", discover, nil, "1 10.1.0.1 hall/eth2.101"},
		{"requesting", "0.0.0.0", request, []dhcpv4.Modifier{wants("10.1.0.12"), server("10.9.0.5")}, "1 10.1.0.1 hall/eth2.101"},
		{"declining", "0.0.0.0", decline, nil, "1 10.1.0.1 hall/eth2.101"},
		{"asking", "10.1.0.200", inform, []dhcpv4.Modifier{from("10.1.0.200")}, "1 10.1.0.1 hall/eth2.101"},
		{"rebinding", "10.1.0.12", request, []dhcpv4.Modifier{from("10.1.0.12")}, "1 10.1.0.1 hall/eth2.101"},
		{"a server's message as a request", "0.0.0.0", dhcpv4.MessageTypeOffer, nil, "malformed"},
		{"16 hops", "0.0.0.0", discover, []dhcpv4.Modifier{hops(16)}, "17 10.1.0.1 hall/eth2.101"},
		{"17 hops", "0.0.0.0", discover, []dhcpv4.Modifier{hops(17)}, "hops"},
		{"255 hops", "0.0.0.0", discover, []dhcpv4.Modifier{hops(255)}, "hops"},
		{"option 82 of a device", "0.0.0.0", discover, []dhcpv4.Modifier{circuit("hall/eth1.101")}, "spoofed-option"},
		{"giaddr of nobody", "0.0.0.0", discover, []dhcpv4.Modifier{relay("192.0.2.1")}, "foreign-relay"},
		{"giaddr is ours", "0.0.0.0", discover, []dhcpv4.Modifier{relay("10.1.0.1")}, "foreign-relay"},
		{"giaddr is ours, from us", "10.1.0.1", discover, []dhcpv4.Modifier{relay("10.1.0.1")}, "foreign-relay"},
		{"giaddr of a relay of the plan, from elsewhere", "10.1.0.66", discover, []dhcpv4.Modifier{relay("10.1.0.7")}, "foreign-relay"},
		{"a relay of the plan", "10.1.0.7", discover, []dhcpv4.Modifier{relay("10.1.0.7"), hops(1), circuit("its own")}, "2 10.1.0.7 its own"},
		{"a long message", "0.0.0.0", discover, []dhcpv4.Modifier{filler(1160)}, "1 10.1.0.1 hall/eth2.101"},
		{"one that leaves no room for option 82", "0.0.0.0", discover, []dhcpv4.Modifier{filler(1200)}, "1 10.1.0.1 -"},
	} {
		b := message(t, mac(1), c.kind, c.mods...)
		m := &wire.DHCP{}
		if err := m.Parse(b); err != nil {
			t.Fatal(err)
		}
		out, why := d.onward(m, b, addr(c.from), "eth2.101", nil)
		got := refusalWords[why]
		if why == passed {
			p, err := dhcpv4.FromBytes(out)
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
				continue
			}
			port := "-"
			if r := p.RelayAgentInfo(); r != nil {
				port = string(r.Get(dhcpv4.AgentCircuitIDSubOption))
			}
			got = fmt.Sprint(p.HopCount, " ", p.GatewayIPAddr, " ", port)
			if len(out) > wire.DHCPMaxMessage {
				t.Errorf("%s: %d bytes", c.name, len(out))
			}
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

// What servers say, and what of it the device hears.
func TestRelayBack(t *testing.T) {
	d := newClerk()
	own := wire.AppendDHCPRelayInfo(nil, "hall/eth2.101", "gw1")
	raw := func(b []byte) dhcpv4.Modifier {
		return dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionRelayAgentInformation, b))
	}
	flag := func(m *dhcpv4.DHCPv4) { m.SetBroadcast() }
	yours := func(a string) dhcpv4.Modifier { return dhcpv4.WithYourIP(net.ParseIP(a).To4()) }
	offer, ack, nak := dhcpv4.MessageTypeOffer, dhcpv4.MessageTypeAck, dhcpv4.MessageTypeNak
	for _, c := range []struct {
		name, from string
		kind       dhcpv4.MessageType
		giaddr     string
		mods       []dhcpv4.Modifier
		want       string
	}{
		{"an offer", "10.9.0.5", offer, "10.1.0.1", []dhcpv4.Modifier{yours("10.1.0.12"), raw(own)}, "to hardware 10.1.0.12"},
		{"an offer of the other server", "10.9.0.6", offer, "10.1.0.1", []dhcpv4.Modifier{yours("10.1.0.12"), raw(own)}, "to hardware 10.1.0.12"},
		{"to a device that asks for broadcast", "10.9.0.5", offer, "10.1.0.1", []dhcpv4.Modifier{yours("10.1.0.12"), raw(own), flag}, "to all"},
		{"without option 82", "10.9.0.5", ack, "10.1.0.1", []dhcpv4.Modifier{yours("10.1.0.12")}, "to hardware 10.1.0.12"},
		{"the answer to INFORM", "10.9.0.5", ack, "10.1.0.1", []dhcpv4.Modifier{from("10.1.0.200"), raw(own)}, "to hardware 10.1.0.200"},
		{"a refusal", "10.9.0.5", nak, "10.1.0.1", []dhcpv4.Modifier{raw(own), flag}, "to all"},
		{"a refusal without the flag", "10.9.0.5", nak, "10.1.0.1", []dhcpv4.Modifier{raw(own)}, "to all"},
		{"from nobody's server", "10.9.0.66", offer, "10.1.0.1", []dhcpv4.Modifier{yours("10.1.0.12"), raw(own)}, "not-a-server"},
		{"for another relay", "10.9.0.5", offer, "10.2.0.1", []dhcpv4.Modifier{yours("10.1.0.12"), raw(own)}, "not-ours"},
		{"without giaddr", "10.9.0.5", offer, "0.0.0.0", []dhcpv4.Modifier{yours("10.1.0.12"), raw(own)}, "not-ours"},
		{"with an option 82 of others", "10.9.0.5", offer, "10.1.0.1", []dhcpv4.Modifier{yours("10.1.0.12"), circuit("hall/eth2.101")}, "not-ours"},
		{"with an option 82 that is too long", "10.9.0.5", offer, "10.1.0.1", []dhcpv4.Modifier{yours("10.1.0.12"), raw(bytes.Repeat(own, 9))}, "not-ours"},
		{"an address of another segment", "10.9.0.5", offer, "10.1.0.1", []dhcpv4.Modifier{yours("10.2.0.12"), raw(own)}, "not-of-segment"},
		{"a device's message as an answer", "10.9.0.5", discover, "10.1.0.1", []dhcpv4.Modifier{raw(own)}, "malformed"},
	} {
		b := message(t, mac(1), c.kind, append([]dhcpv4.Modifier{relay(c.giaddr)}, c.mods...)...)
		b[0] = 2 // BOOTREPLY
		m, a := &wire.DHCP{}, &answer{}
		if err := m.ParseReply(b); err != nil {
			t.Fatal(err)
		}
		got := refusalWords[d.back(m, b, addr(c.from), a)]
		if got == "passed" {
			got = map[delivery]string{toAll: "to all", toHardware: "to hardware " + a.dst.String()}[a.way]
			if p, err := dhcpv4.FromBytes(a.frame[wire.UDPFrameHead:]); err != nil || p.RelayAgentInfo() != nil || a.mac != [6]byte(mac(1)) {
				t.Errorf("%s: %v, %v for %x", c.name, err, p, a.mac)
			}
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

// FuzzRelay: whatever comes, what leaves is read again, is under our name, and never too long.
func FuzzRelay(f *testing.F) {
	d := newClerk()
	f.Add(message(f, mac(1), discover, filler(400)))
	f.Add(message(f, mac(1), request, from("10.1.0.12"), relay("10.1.0.7")))
	reply := message(f, mac(1), dhcpv4.MessageTypeAck, relay("10.1.0.1"), dhcpv4.WithYourIP(net.IP{10, 1, 0, 12}))
	reply[0] = 2
	f.Add(reply)
	m, n, a := &wire.DHCP{}, &wire.DHCP{}, &answer{}
	f.Fuzz(func(t *testing.T, b []byte) {
		if m.Parse(b) == nil {
			if out, why := d.onward(m, b, addr("10.1.0.7"), "eth2.101", nil); why == passed {
				if err := n.Parse(out); err != nil {
					t.Fatalf("%v in %x, made of %x", err, out, b)
				}
				if n.GIAddr != d.cfg.Addr && n.GIAddr != addr("10.1.0.7") || n.Hops > mostHops+1 || len(out) > max(len(b)+1, wire.DHCPMaxMessage) {
					t.Fatalf("%+v in %d bytes", n, len(out))
				}
				if n.GIAddr == d.cfg.Addr && n.RelayAgent != nil && !d.wrote(n.RelayAgent) {
					t.Fatalf("under our name: option 82 %x", n.RelayAgent)
				}
			}
		}
		if m.ParseReply(b) == nil && d.back(m, b, addr("10.9.0.5"), a) == passed {
			if err := n.ParseReply(a.frame[wire.UDPFrameHead:]); err != nil || n.RelayAgent != nil || n.CHAddr != m.CHAddr || n.YIAddr != m.YIAddr {
				t.Fatalf("%v: %+v became %+v", err, m, n)
			}
		}
	})
}

// gateway is a relay whose sockets are the test's.
type gateway struct {
	*Relay
	g     *agent
	front *exits
	back  *exits
	clock *steppedClock
	told  []fact.Event
}

func newGateway(cfg RelaySegment) *gateway {
	w := &gateway{front: &exits{}, back: &exits{}, clock: newClock()}
	w.Relay = NewRelay(RelayConfig{Node: "gw1", Segments: []RelaySegment{cfg}}, w.clock, NewRelayMetrics(prometheus.NewRegistry()), func(e fact.Event) { w.told = append(w.told, e) })
	w.g = w.agents[0]
	w.g.front.set(w.front, nil)
	for _, l := range w.g.backs {
		l.set(w.back, nil)
	}
	return w
}

func (w *gateway) say(b []byte) {
	w.g.front.take(read(w.clock), packet{data: b, from: netip.IPv4Unspecified(), broadcast: true})
}

// Each server hears each message; one device that asks on and on is held back, and one port.
func TestRelayShares(t *testing.T) {
	w := newGateway(relaySegment())
	for range 100 {
		w.say(message(t, mac(1), discover))
	}
	if len(w.back.sent) != 2*limitBurst || w.back.sent[0].dst != addr("10.9.0.5") || w.back.sent[1].dst != addr("10.9.0.6") || w.back.sent[0].way != toRelay {
		t.Errorf("%d messages sent on", len(w.back.sent))
	}
	for n := range 3000 {
		w.say(message(t, mac(1000+n), discover))
	}
	most := leastShare * shareSeconds
	if len(w.back.sent) != 2*most || testutil.ToFloat64(w.g.flood["br101"]) != float64(3000+limitBurst-most) {
		t.Errorf("%d messages sent on, %v dropped", len(w.back.sent), testutil.ToFloat64(w.g.flood["br101"]))
	}
	if len(w.told) != 1 || w.told[0].Kind != "relay-port-flood" || !strings.Contains(w.told[0].Words, "port br101 of segment hall") {
		t.Errorf("told %v", w.told)
	}
	w.say([]byte("nonsense"))
	w.say(message(t, mac(9), discover, circuit("x")))
	for reason, want := range map[refusal]float64{unreadable: 1, overClient: 60, overPort: float64(3000 + limitBurst - most + 1)} {
		if got := testutil.ToFloat64(w.g.m.drops[reason]); got != want {
			t.Errorf("%s: %v, want %v", refusalWords[reason], got, want)
		}
	}
}

// Who poses as a relay is named, once a minute.
func TestRelayNamesPosers(t *testing.T) {
	w := newGateway(relaySegment())
	for range 3 {
		w.say(message(t, mac(1), discover, circuit("x")))
		w.say(message(t, mac(2), discover, relay("192.0.2.1")))
	}
	if len(w.told) != 2 || w.told[0].Kind != "relay-spoofed" || !strings.Contains(w.told[0].Words, mac(1).String()) || w.told[1].Kind != "relay-foreign" || len(w.back.sent) != 0 {
		t.Errorf("told %v, sent %d", w.told, len(w.back.sent))
	}
}

// Servers that are silent are noticed; our guards' questions, which nobody answers, are not.
func TestRelaySilence(t *testing.T) {
	w := newGateway(relaySegment())
	state := func() bool { w.g.complain(read(w.clock)); return w.Checks()[0].OK }
	w.say(message(t, mac(1), discover, id(seekID+"10.1.0.2")))
	w.clock.pass(time.Minute)
	if !state() || len(w.told) != 0 {
		t.Errorf("a guard's question counts: %v %v", w.Checks(), w.told)
	}
	w.say(message(t, mac(1), discover))
	w.clock.pass(silentFor)
	if state() || len(w.told) != 1 || w.told[0].Kind != "relay-unanswered" || !strings.Contains(w.told[0].Words, "10.9.0.5 and 10.9.0.6") {
		t.Errorf("silence: %v %v", w.Checks(), w.told)
	}
	b := message(t, mac(1), dhcpv4.MessageTypeOffer, relay("10.1.0.1"), dhcpv4.WithYourIP(net.IP{10, 1, 0, 12}))
	b[0] = 2
	w.g.backs["eth1.10"].take(read(w.clock), packet{data: b, from: addr("10.9.0.5")})
	if !state() || len(w.front.sent) != 1 || w.front.sent[0].way != toHardware {
		t.Errorf("after an answer: %v, %+v", w.Checks(), w.front.sent)
	}
	w.g.front.set(nil, fmt.Errorf("device br101 is down"))
	if state() {
		t.Error("a device that is down is well")
	}
}

// Which segments a node relays, and to whom.
func TestConfigureRelay(t *testing.T) {
	p, _, faults := plan.Parse([]byte(`
event: {name: T, attendees: 100}
sites: {venue: {uplinks: {isp: {}}}}
segments: {attendee: {ipv4: 10.1.0.0/22, relays: [10.1.0.9]}, server: {ipv4: 10.9.0.0/24}}
nodes:
  gw1: {roles: [router, resolver], interfaces: {eth0: {uplink: isp}, eth1: {trunk: [attendee, server]}, eth2: {trunk: [attendee]}}}
  srv1: {roles: [dhcp], interfaces: {ens192: {segment: server}}}
`), nil)
	if p == nil {
		t.Fatal(faults)
	}
	c, err := ConfigureRelay(p, "gw1")
	if err != nil || c.Node != "gw1" || len(c.Segments) != 1 {
		t.Fatalf("%v, %+v", err, c)
	}
	s, over := c.Segments[0], p.Node("gw1").Attachment("server").Device
	want := RelaySegment{
		Name: "attendee", Device: p.Node("gw1").Attachment("attendee").Device, Ports: s.Ports, Addr: addr("10.1.0.1"), Prefix: netip.MustParsePrefix("10.1.0.0/22"),
		Relays: []netip.Addr{addr("10.1.0.9")}, Servers: []RelayServer{{p.Node("srv1").Attachments[0].IPv4.Addr(), over}}, Devices: 200,
	}
	if fmt.Sprint(s) != fmt.Sprint(want) || len(s.Ports) != 2 || !strings.HasPrefix(s.Device, "br") {
		t.Errorf("got %+v\nwant %+v", s, want)
	}
	if c, err := ConfigureRelay(p, "srv1"); err != nil || len(c.Segments) != 0 {
		t.Errorf("srv1 relays: %v, %+v", err, c)
	}
	if _, err := ConfigureRelay(p, "gw9"); err == nil {
		t.Error("gw9 relays")
	}
}

// nowhere is a door that takes all and keeps nothing.
type nowhere struct{ exits }

func (nowhere) send([]*entry, netip.Addr) {}

// BenchmarkRelay is a DISCOVER to two servers and an OFFER back, without the sockets.
func BenchmarkRelay(b *testing.B) {
	cfg := relaySegment()
	cfg.Devices = 1 << 20
	w := newGateway(cfg)
	w.g.front.set(&nowhere{}, nil)
	w.g.backs["eth1.10"].set(&nowhere{}, nil)
	in := message(b, mac(1), discover)
	back := message(b, mac(1), dhcpv4.MessageTypeOffer, relay("10.1.0.1"), dhcpv4.WithYourIP(net.IP{10, 1, 0, 12}),
		dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionRelayAgentInformation, wire.AppendDHCPRelayInfo(nil, "hall/br101", "gw1"))))
	back[0] = 2
	at := read(w.clock)
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		at.boot += limitEvery
		w.g.front.take(at, packet{data: in, from: netip.IPv4Unspecified(), broadcast: true})
		w.g.backs["eth1.10"].take(at, packet{data: back, from: addr("10.9.0.5")})
	}
}
