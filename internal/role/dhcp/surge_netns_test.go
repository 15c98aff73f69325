//go:build linux

package dhcp

import (
	"encoding/binary"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/hotstage/hotstage/internal/plan"
	"github.com/hotstage/hotstage/internal/wire"
	"github.com/insomniacslk/dhcp/dhcpv4"
)

// hallway is many devices behind one device of a namespace: they ask in turn, and whatever
// else is answered is counted and, in a flood, taken up.
type hallway struct {
	t      *testing.T
	frames *kernel.Frames
	mu     sync.Mutex // of sending
	waits  sync.Map   // hardware address: channel for what is said to it
	owns   sync.Map   // IPv4 address: the hardware address that answers ARP for it
	taking atomic.Bool
	offers atomic.Int64
	acks   atomic.Int64
}

func openHallway(t *testing.T, ns *kernel.Namespace) *hallway {
	t.Helper()
	frames, err := kernel.OpenFrames(ns, "eth0")
	if err != nil {
		t.Fatal(err)
	}
	h := &hallway{t: t, frames: frames}
	var done sync.WaitGroup
	done.Go(h.listen)
	t.Cleanup(func() { frames.Close(); done.Wait() })
	return h
}

func (h *hallway) listen() {
	var in [][]byte
	for {
		var err error
		if in, err = h.frames.Receive(in); err != nil {
			return
		}
		for _, b := range in {
			if a, ok := wire.ParseARP(b); ok {
				h.neighbour(a)
				continue
			}
			f, payload, ok := wire.ParseUDPFrame(b)
			if !ok || f.DstPort != clientPort || len(payload) < 240 {
				continue
			}
			who := [6]byte(payload[28:34])
			if ch, ok := h.waits.Load(who); ok {
				if m, err := dhcpv4.FromBytes(payload); err == nil {
					select {
					case ch.(chan *dhcpv4.DHCPv4) <- m:
					default:
					}
				}
				continue
			}
			h.stranger(who, payload)
		}
	}
}

// neighbour answers who asks for an address that a device has, probes too (RFC 5227 section
// 2.1.1).
func (h *hallway) neighbour(a wire.ARP) {
	own, ok := h.owns.Load(a.Target)
	if a.Reply || !ok {
		return
	}
	mac := own.([6]byte)
	b := wire.AppendARPProbe(nil, mac, a.Sender)
	copy(b, a.SenderMAC[:])
	b[21] = 2 // a reply
	v := a.Target.As4()
	copy(b[28:], v[:])
	copy(b[32:], a.SenderMAC[:])
	h.mu.Lock()
	defer h.mu.Unlock()
	h.frames.Send([][]byte{b})
}

// stranger takes an offer to a made-up device up.
func (h *hallway) stranger(who [6]byte, payload []byte) {
	switch payload[242] { // our server writes the message type first
	case byte(wire.DHCPAck):
		h.acks.Add(1)
	case byte(wire.DHCPOffer):
		h.offers.Add(1)
		if h.taking.Load() {
			m, err := dhcpv4.New(dhcpv4.WithHwAddr(who[:]), dhcpv4.WithMessageType(request), server("10.1.0.2"),
				dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(net.IP(payload[16:20]))))
			if err == nil {
				h.send(who, m.ToBytes())
			}
		}
	}
}

func (h *hallway) send(mac [6]byte, payload []byte) {
	b := append(make([]byte, wire.UDPFrameHead), payload...)
	wire.PutUDPFrame(b, &wire.UDPFrame{SrcMAC: mac, DstMAC: [6]byte{255, 255, 255, 255, 255, 255}, Src: addr("0.0.0.0"), Dst: broadcast4, SrcPort: clientPort, DstPort: serverPort})
	h.mu.Lock()
	defer h.mu.Unlock()
	h.frames.Send([][]byte{b})
}

// ask sends a device's message until it is answered, up to five times, as devices do; nil
// for silence.
func (h *hallway) ask(n int, kind dhcpv4.MessageType, mods ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	h.t.Helper()
	who, ch := [6]byte(mac(n)), make(chan *dhcpv4.DHCPv4, 4)
	h.waits.Store(who, ch)
	defer h.waits.Delete(who)
	msg := message(h.t, mac(n), kind, mods...)
	for range 5 {
		h.send(who, msg)
		select {
		case m := <-ch:
			return m
		case <-time.After(2 * time.Second):
		}
	}
	return nil
}

func (h *hallway) lease(n int, mods ...dhcpv4.Modifier) string {
	h.t.Helper()
	offer := h.ask(n, discover, mods...)
	if offer == nil {
		return ""
	}
	ack := h.ask(n, request, append(mods, wants(offer.YourIPAddr.String()), server("10.1.0.2"))...)
	if ack == nil || ack.MessageType() != dhcpv4.MessageTypeAck {
		return ""
	}
	return ack.YourIPAddr.String()
}

// flood sends many DISCOVERs of made-up devices as fast as the machine can.
func (h *hallway) flood(many, from int) (took time.Duration) {
	h.t.Helper()
	b := append(make([]byte, wire.UDPFrameHead), message(h.t, mac(0), discover)...)
	start := time.Now()
	for n := range many {
		who := [6]byte(mac(from + n))
		copy(b[wire.UDPFrameHead+28:], who[:])
		binary.BigEndian.PutUint32(b[wire.UDPFrameHead+4:], uint32(n))
		wire.PutUDPFrame(b, &wire.UDPFrame{SrcMAC: who, DstMAC: [6]byte{255, 255, 255, 255, 255, 255}, Src: addr("0.0.0.0"), Dst: broadcast4, SrcPort: clientPort, DstPort: serverPort})
		h.mu.Lock()
		h.frames.Send([][]byte{b})
		h.mu.Unlock()
	}
	return time.Since(start)
}

// TestFloodAtFullRate: 200 devices have leases, 10 gave theirs back; 130,000 DISCOVERs of
// made-up devices come as fast as this machine makes them, then as many whose offers are
// all taken up. Every holder renews, who comes back gets its own, a reserved device gets in.
func TestFloodAtFullRate(t *testing.T) {
	cfg := wideHall(time.Hour)
	cfg.Pool = plan.Range{From: addr("10.1.4.0"), To: addr("10.1.11.255")}
	cfg.Reservations = []plan.Reservation{{Name: "printer", MAC: mac(900), Addr: addr("10.1.4.77")}}
	s, client := served(t, cfg, newMemory())
	h := openHallway(t, client)
	had := map[int]string{}
	for n := range 210 {
		if had[n] = h.lease(n); had[n] == "" {
			t.Fatalf("device %d got nothing", n)
		}
		if n < 200 {
			h.owns.Store(addr(had[n]), [6]byte(mac(n)))
		}
	}
	for n := 200; n < 210; n++ {
		h.send([6]byte(mac(n)), message(t, mac(n), release, from(had[n]), server("10.1.0.2")))
	}
	const many = 130_000
	for i, taking := range []bool{false, true} {
		h.taking.Store(taking)
		h.offers.Store(0)
		took := h.flood(many, 1_000_000+i*many)
		t.Logf("taken up %v: %d DISCOVERs in %v (%.0f a second), %d offers, %d ACKs", taking, many, took.Round(time.Millisecond), many/took.Seconds(), h.offers.Load(), h.acks.Load())
	}
	for n := range 200 {
		if ack := h.ask(n, request, from(had[n])); ack == nil || ack.MessageType() != dhcpv4.MessageTypeAck || ack.YourIPAddr.String() != had[n] {
			t.Fatalf("holder %d of %s is told %v", n, had[n], ack)
		}
	}
	for n := 200; n < 210; n++ {
		if got := h.lease(n); got != had[n] {
			t.Errorf("device %d comes back and gets %q, want %s", n, got, had[n])
		}
	}
	if got := h.lease(900); got != "10.1.4.77" {
		t.Errorf("the reserved device gets %q", got)
	}
	g := s.segments[0]
	g.mu.Lock()
	defer g.mu.Unlock()
	sound(t, g.pool)
	t.Logf("bound %d, offered %d, fresh %d, past %d", len(g.pool.live), g.pool.offers.n, g.pool.fresh.n, g.pool.past.n)
}
