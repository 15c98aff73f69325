package crowd

import (
	"bytes"
	"context"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hotstage/hotstage/internal/lab/crowd/frame"
	"github.com/hotstage/hotstage/internal/plan"
	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/mdlayher/ndp"
	"github.com/miekg/dns"
)

var (
	fakeMAC    = frame.MAC{0x02, 0xee, 0, 0, 0, 1}
	fakeLocal  = netip.MustParseAddr("fe80::1")
	fakeGate   = netip.MustParseAddr("10.1.0.1")
	fakeGate6  = netip.MustParseAddr("2001:db8:1::1")
	fakePrefix = netip.MustParsePrefix("2001:db8:1::/64")
)

// fake is a node in this process, in a bubble of fake time: frames in, frames out.
type fake struct {
	t    *testing.T
	c    *Crowd
	dhcp *testDHCP
	in   chan fakeFrame
	// seen are the frames of devices, taken apart, with the time since the start.
	mu   sync.Mutex
	seen []sighting
	// drop decides over each frame of a device; nil passes all.
	drop func(k *frame.Packet) bool
	ra   bool
}

type fakeFrame struct {
	p *port
	f []byte
}

type sighting struct {
	at time.Duration
	frame.Packet
}

// fakeWire is the way out of a port.
type fakeWire struct {
	n *fake
	p *port
}

func (w fakeWire) Send(frames [][]byte) (int, error) {
	for _, f := range frames {
		w.n.in <- fakeFrame{w.p, bytes.Clone(f)}
	}
	return 0, nil
}

// fakeConfig is one attendee segment with two ports.
func fakeConfig(devices int) Config {
	return Config{
		Segments: []Segment{{Devices: devices, Ports: make([]Port, 2), Plan: plan.Segment{Name: "hall", Class: plan.Attendee, Isolate: true,
			IPv4: netip.MustParsePrefix("10.1.0.0/20"), Gateway4: fakeGate, IPv6: fakePrefix}}},
		Doors: time.Second, Stay: time.Second, Seed: 7, Names: []string{"one.example", "two.example"}, Probes: -1,
	}
}

// inBubble runs test with a crowd whose ports end at a fake node, for as long as test takes.
// Nothing happens before begin is called.
func inBubble(t *testing.T, cfg Config, test func(n *fake, begin func())) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		n := &fake{t: t, c: c, dhcp: newTestDHCP(fakeGate, time.Hour), in: make(chan fakeFrame, 1<<16), ra: true}
		for _, p := range c.w.ports {
			p.out = fakeWire{n, p}
		}
		ctx, cancel := context.WithCancel(t.Context())
		var done sync.WaitGroup
		test(n, func() {
			c.w.begin(time.Now())
			done.Go(n.serve)
			done.Go(func() { c.w.keepTime(ctx) })
		})
		cancel()
		synctest.Wait()
		close(n.in)
		done.Wait()
	})
}

func (n *fake) serve() {
	for f := range n.in {
		var k frame.Packet
		if k.Parse(f.f) != nil {
			n.t.Errorf("a device sent a frame that doesn't parse: %x", f.f)
			continue
		}
		n.mu.Lock()
		n.seen = append(n.seen, sighting{time.Since(n.c.w.start), k})
		drop := n.drop != nil && n.drop(&k)
		n.mu.Unlock()
		if drop {
			continue
		}
		if reply := n.answer(&k); reply != nil {
			n.c.w.lock()
			f.p.input(reply)
			n.c.w.unlock()
		}
	}
}

// answer is what the node says to a frame, or nil.
func (n *fake) answer(k *frame.Packet) []byte {
	h := frame.Header{Dst: k.Src, Src: fakeMAC, From: k.To, To: k.From}
	switch {
	case k.Type == frame.TypeARP:
		if !k.ARPReply && k.To == fakeGate {
			return frame.AppendARP(nil, k.Src, fakeMAC, true, fakeGate, k.Src, k.From)
		}
	case k.Protocol == frame.UDP && k.DstPort == frame.DHCPServerPort:
		if m := n.dhcp.answer(k.Payload); m != nil {
			h = frame.Header{Dst: frame.Broadcast, Src: fakeMAC, From: fakeGate, To: broadcast4}
			return frame.AppendUDP(nil, h, 67, 68, m)
		}
	case k.Protocol == frame.UDP && k.DstPort == frame.DNSPort:
		return frame.AppendUDP(nil, h, k.DstPort, k.SrcPort, n.resolve(k.Payload, false))
	case k.Protocol == frame.UDP:
		return frame.AppendUDP(nil, h, k.DstPort, k.SrcPort, k.Payload)
	case k.IsEcho():
		return frame.AppendEcho(nil, h, true, k.ID, k.Number, k.Payload)
	case k.Protocol == frame.ICMPv6 && k.ICMPType == frame.NeighbourSolicitation:
		if s, err := frame.ParseNeighbour(k); err == nil && (s.Target == fakeLocal || s.Target == fakeGate6) {
			h.From = s.Target
			return frame.AppendAdvertisement(nil, h, s.Target, true)
		}
	case k.Protocol == frame.ICMPv6 && k.ICMPType == frame.RouterSolicitation && n.ra:
		return fakeRA(k)
	case k.Protocol == frame.TCP:
		return n.tcp(h, k)
	}
	return nil
}

// resolve answers a DNS message; nil when it is none.
func (n *fake) resolve(b []byte, tcp bool) []byte {
	q := new(dns.Msg)
	if err := q.Unpack(b); err != nil {
		n.t.Errorf("a device sent DNS that doesn't parse: %v", err)
		return nil
	}
	b, err := testZone(q, tcp).Pack()
	if err != nil {
		n.t.Error(err)
	}
	return b
}

// tcp is a server without state: it says data back, or answers DNS on port 53.
func (n *fake) tcp(h frame.Header, k *frame.Packet) []byte {
	g := frame.Segment{SrcPort: k.DstPort, DstPort: k.SrcPort, Seq: k.Ack, Ack: k.Seq + uint32(len(k.Payload)), Flags: frame.ACK}
	switch {
	case k.Flags&frame.RST != 0:
		return nil
	case k.Flags&frame.SYN != 0:
		g.Seq, g.Ack, g.Flags = 0xffff_fff0, k.Seq+1, frame.SYN|frame.ACK // wraps soon
	case k.Flags&frame.FIN != 0:
		g.Ack++
		g.Flags |= frame.FIN
	case len(k.Payload) == 0:
		return nil
	case k.DstPort == frame.DNSPort:
		m := n.resolve(k.Payload[2:], true)
		return frame.AppendTCP(nil, h, g, append([]byte{byte(len(m) >> 8), byte(len(m))}, m...))
	}
	return frame.AppendTCP(nil, h, g, k.Payload)
}

// fakeRA answers a router solicitation.
func fakeRA(k *frame.Packet) []byte {
	b, err := ndp.MarshalMessage(&ndp.RouterAdvertisement{RouterLifetime: 30 * time.Minute, Options: []ndp.Option{
		&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: fakeMAC[:]},
		&ndp.PrefixInformation{PrefixLength: 64, OnLink: true, AutonomousAddressConfiguration: true, ValidLifetime: time.Hour, PreferredLifetime: time.Hour, Prefix: fakePrefix.Addr()},
		&ndp.RecursiveDNSServer{Lifetime: time.Hour, Servers: []netip.Addr{fakeGate6}},
	}})
	if err != nil {
		panic(err)
	}
	h := frame.Header{Dst: k.Src, Src: fakeMAC, From: fakeLocal, To: k.From, HopLimit: 255}
	return frame.AppendICMP(nil, h, b[0], b[4:], nil)
}

// asked are the DHCP messages of a kind that a device sent, with their times.
func (n *fake) asked(kind dhcpv4.MessageType) (all []sighting, messages []*dhcpv4.DHCPv4) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, s := range n.seen {
		if s.Protocol != frame.UDP || s.DstPort != frame.DHCPServerPort {
			continue
		}
		m, err := dhcpv4.FromBytes(s.Payload)
		if err != nil {
			n.t.Errorf("a device sent DHCP that doesn't parse: %v", err)
			continue
		}
		if m.MessageType() == kind {
			all, messages = append(all, s), append(messages, m)
		}
	}
	return all, messages
}

// set changes the server under its lock.
func (n *fake) set(f func(d *testDHCP)) {
	n.dhcp.mu.Lock()
	defer n.dhcp.mu.Unlock()
	f(n.dhcp)
}

// dropping sets what is lost on the way; it may also do what a node would do.
func (n *fake) dropping(f func(k *frame.Packet) bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.drop = f
}

// look reads the world under its lock.
func (n *fake) look(f func(w *world)) {
	n.c.w.lock()
	defer n.c.w.unlock()
	f(n.c.w)
}
