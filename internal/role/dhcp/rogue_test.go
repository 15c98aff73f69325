package dhcp

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/wire"
	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/net/bpf"
)

// shell is an ear that keeps what is said into it.
type shell struct{ said [][]byte }

func (s *shell) hear([]byte) (int, error) { select {} }
func (s *shell) say(b []byte) error       { s.said = append(s.said, append([]byte(nil), b...)); return nil }
func (s *shell) hardware() [6]byte        { return [6]byte{2, 0xaa} }
func (s *shell) Close() error             { return nil }

// serverFrame is what a server says to all: it offers, acknowledges or refuses an address.
func serverFrame(t testing.TB, mac [6]byte, id string, kind dhcpv4.MessageType, offers string) []byte {
	t.Helper()
	m, err := dhcpv4.New(dhcpv4.WithMessageType(kind), dhcpv4.WithYourIP(netip.MustParseAddr(offers).AsSlice()), dhcpv4.WithBroadcast(true))
	if err != nil {
		t.Fatal(err)
	}
	m.OpCode = dhcpv4.OpcodeBootReply
	if id != "" {
		m.UpdateOption(dhcpv4.OptServerIdentifier(netip.MustParseAddr(id).AsSlice()))
	}
	b := append(make([]byte, wire.UDPFrameHead), m.ToBytes()...)
	wire.PutUDPFrame(b, &wire.UDPFrame{SrcMAC: mac, DstMAC: [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, Src: addr("10.1.0.66"), Dst: broadcast4, SrcPort: 67, DstPort: 68})
	return b
}

// watch is a guard of hall, whose partner is 10.1.0.3, with a clock and its events.
func watch(t testing.TB) (g *guard, clock *steppedClock, events *[]fact.Event) {
	cfg := hall()
	cfg.Partners = []netip.Addr{addr("10.1.0.3")}
	clock, events = newClock(), &[]fact.Event{}
	seg, err := newSegment(cfg, clock.Boot(), newNames(nil))
	if err != nil {
		t.Fatal(err)
	}
	return newGuard(seg, clock, metrics(), newTeller("dhcp", func(e fact.Event) { *events = append(*events, e) })), clock, events
}

func TestRogueIsNamed(t *testing.T) {
	ours, partner, rogue := [6]byte{2, 0xaa}, [6]byte{2, 0xbb}, [6]byte{2, 0xcc}
	offer, ack, nak := dhcpv4.MessageTypeOffer, dhcpv4.MessageTypeAck, dhcpv4.MessageTypeNak
	for _, c := range []struct {
		what, want string
		frame      []byte
	}{
		{"an offer", "192.168.1.1 at 02:cc:00:00:00:00, and gives addresses such as 192.168.1.7:", serverFrame(t, rogue, "192.168.1.1", offer, "192.168.1.7")},
		{"an ACK", "192.168.1.1 at 02:cc:00:00:00:00", serverFrame(t, rogue, "192.168.1.1", ack, "192.168.1.7")},
		{"a NAK", "and takes devices their addresses", serverFrame(t, rogue, "192.168.1.1", nak, "0.0.0.0")},
		{"no server identifier: its address", "10.1.0.66 at 02:cc", serverFrame(t, rogue, "", offer, "192.168.1.7")},
		{"in our name", "10.1.0.2 at 02:cc:00:00:00:00, and gives addresses such as 10.1.0.99, in our name", serverFrame(t, rogue, "10.1.0.2", offer, "10.1.0.99")},
		{"our partner", "", serverFrame(t, partner, "10.1.0.3", offer, "10.1.0.20")},
		{"our own frame, come back", "", serverFrame(t, ours, "10.1.0.2", offer, "10.1.0.10")},
		{"cut", "", serverFrame(t, rogue, "192.168.1.1", offer, "192.168.1.7")[:250]},
	} {
		g, clock, events := watch(t)
		for range 3 {
			g.hear(read(clock), ours, c.frame)
		}
		switch {
		case c.want == "" && (len(*events) > 0 || !g.check(read(clock)).OK):
			t.Errorf("%s: %v, %+v", c.what, *events, g.check(read(clock)))
		case c.want == "":
		case len(*events) != 1 || (*events)[0].Kind != "rogue-dhcp" || (*events)[0].Severity != fact.Alarm || !strings.Contains((*events)[0].Words, c.want) || !strings.Contains((*events)[0].Words, "segment hall"):
			t.Errorf("%s: %+v; want %q", c.what, *events, c.want)
		default:
			if check := g.check(read(clock)); check.OK || !strings.Contains(check.Hint, "02:cc:00:00:00:00") {
				t.Errorf("%s: check %+v", c.what, check)
			}
			clock.pass(rogueMemory + time.Second)
			if !g.check(read(clock)).OK {
				t.Errorf("%s: the check fails a minute after its last word", c.what)
			}
		}
	}
}

// TestManyRogues: made-up hardware addresses fill neither memory nor the crew's eyes.
func TestManyRogues(t *testing.T) {
	g, clock, events := watch(t)
	for n := range 10_000 {
		g.hear(read(clock), [6]byte{2, 0xaa}, serverFrame(t, [6]byte{2, 1, 0, 0, byte(n >> 8), byte(n)}, "192.168.1.1", dhcpv4.MessageTypeOffer, "192.168.1.7"))
	}
	if len(*events) != mostRogues || len(g.rogues) != mostRogues {
		t.Errorf("%d events, %d remembered", len(*events), len(g.rogues))
	}
	clock.pass(rogueMemory)
	g.hear(read(clock), [6]byte{2, 0xaa}, serverFrame(t, [6]byte{2, 9}, "192.168.1.9", dhcpv4.MessageTypeOffer, "192.168.1.7"))
	if last := (*events)[len(*events)-1]; !strings.Contains(last.Words, "02:09:") {
		t.Errorf("a minute later a new one is not told of: %s", last.Words)
	}
}

// TestGuardIsNoClient: the guard asks every seekEvery, and no server of ours answers it or
// keeps anything for it.
func TestGuardIsNoClient(t *testing.T) {
	g, clock, _ := watch(t)
	ear := &shell{}
	for range 300 {
		g.due(read(clock), ear)
		clock.pass(guardTick)
	}
	asked := 0
	d := newDesk(t, hall())
	for _, b := range ear.said {
		f, payload, ok := wire.ParseUDPFrame(b)
		if !ok {
			continue
		}
		asked++
		if f.SrcMAC != ear.hardware() || f.Dst != broadcast4 || f.SrcPort != 68 {
			t.Fatalf("asked by %+v", f)
		}
		if got := words(d, d.hand(payload, true)); got != "watch" {
			t.Errorf("a partner says %s", got)
		}
	}
	if asked != 6 {
		t.Errorf("asked %d times in 30 s, want 6", asked)
	}
	if p := d.g.pool; len(p.offered) != 0 || len(p.clients) != 0 {
		t.Errorf("%d offers and %d clients are remembered", len(p.offered), len(p.clients))
	}
}

func TestEarFilter(t *testing.T) {
	vm, err := bpf.NewVM(heard)
	if err != nil {
		t.Fatal(err)
	}
	offer := serverFrame(t, [6]byte{2}, "10.1.0.66", dhcpv4.MessageTypeOffer, "10.1.0.99")
	with := func(b []byte, at int, v ...byte) []byte {
		b = append([]byte(nil), b...)
		copy(b[at:], v)
		return b
	}
	probe := wire.AppendARPProbe(nil, [6]byte{2}, addr("10.1.0.10"))
	options := append(append([]byte(nil), offer[:34]...), 1, 1, 1, 1) // IPv4 options before UDP
	options = append(options, offer[34:]...)
	options[14] = 0x46
	for _, c := range []struct {
		what string
		b    []byte
		want bool
	}{
		{"a server's message", offer, true}, {"with IPv4 options", options, true}, {"an ARP reply", with(probe, 20, 0, 2), true},
		{"an ARP request", probe, false}, {"from a client's port", with(offer, 34, 0, 68), false}, {"a later fragment", with(offer, 20, 0, 9), false},
		{"TCP", with(offer, 23, 6), false}, {"IPv6", with(offer, 12, 0x86, 0xdd), false}, {"short", offer[:20], false},
	} {
		if n, err := vm.Run(c.b); err != nil || n > 0 != c.want {
			t.Errorf("%s: %d, %v", c.what, n, err)
		}
	}
}
