package wire

import (
	"net/netip"
	"testing"

	"github.com/mdlayher/ndp"
)

var (
	service = netip.MustParseAddr("2001:db8::a")
	asker   = netip.MustParseAddr("2001:db8::77")
	ours    = [6]byte{2, 0, 0, 0, 0, 1}
	theirs  = [6]byte{2, 0, 0, 0, 0, 7}
)

// solicit is a frame with a solicitation as the ndp library writes it.
func solicit(t testing.TB, from, target netip.Addr, mac []byte) []byte {
	t.Helper()
	m := &ndp.NeighborSolicitation{TargetAddress: target}
	if mac != nil {
		m.Options = []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: mac}}
	}
	to := SolicitedNode(target)
	b, err := ndp.MarshalMessageChecksum(m, from, to)
	if err != nil {
		t.Fatal(err)
	}
	f := appendEthernet(nil, [6]byte{0x33, 0x33, 0xff, 0, 0, 10}, theirs, 0x86dd)
	return append(appendIPv6(f, from, to, 58, len(b)), b...)
}

func TestSolicitationIsReadAndAnswered(t *testing.T) {
	n, ok := ParseNeighbour(solicit(t, asker, service, []byte{2, 0, 0, 0, 0, 9}))
	if !ok || n.Advertisement || n.Target != service || n.Source != asker || n.MAC != [6]byte{2, 0, 0, 0, 0, 9} {
		t.Fatalf("%+v %v", n, ok)
	}
	for _, c := range []struct {
		name      string
		asked     *Neighbour
		to        netip.Addr
		mac       [6]byte
		solicited bool
	}{
		{"answer", &n, asker, n.MAC, true},
		{"announcement", nil, allNodes, [6]byte{0x33, 0x33, 5: 1}, false},
		{"answer to who looks for duplicates", &Neighbour{Source: netip.IPv6Unspecified()}, allNodes, [6]byte{0x33, 0x33, 5: 1}, false},
	} {
		b := AppendAdvertisement(nil, ours, service, c.asked)
		got, err := ndp.ParseMessage(b[14+40:])
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		na, ok := got.(*ndp.NeighborAdvertisement)
		if !ok || na.Router || !na.Override || na.Solicited != c.solicited || na.TargetAddress != service || len(na.Options) != 1 {
			t.Errorf("%s: %+v", c.name, got)
		}
		if to := netip.AddrFrom16([16]byte(b[14+24:])); to != c.to || [6]byte(b[:6]) != c.mac || [6]byte(b[6:12]) != ours {
			t.Errorf("%s: to %s by %x", c.name, to, b[:12])
		}
		read, ok := ParseNeighbour(b)
		if !ok || !read.Advertisement || read.Target != service || read.MAC != ours {
			t.Errorf("%s: read as %+v %v", c.name, read, ok)
		}
	}
}

func TestBadNeighbours(t *testing.T) {
	for name, spoil := range map[string]func([]byte) []byte{
		"hop limit": func(b []byte) []byte { b[14+7] = 254; return b },
		"checksum":  func(b []byte) []byte { b[14+40+20]++; return b },
		"another":   func(b []byte) []byte { b[14+6] = 17; return b },
		"cut":       func(b []byte) []byte { return b[:len(b)-1] },
		"option":    func(b []byte) []byte { b[14+40+25] = 0; b[14+42]++; return b },
	} {
		if n, ok := ParseNeighbour(spoil(solicit(t, asker, service, []byte{2, 0, 0, 0, 0, 9}))); ok {
			t.Errorf("%s: read as %+v", name, n)
		}
	}
	if n, ok := ParseNeighbour(solicit(t, netip.IPv6Unspecified(), service, []byte{2, 0, 0, 0, 0, 9})); ok {
		t.Errorf("from nobody with a hardware address: %+v", n)
	}
	if n, ok := ParseNeighbour(solicit(t, netip.IPv6Unspecified(), service, nil)); !ok || n.MAC != theirs {
		t.Errorf("from who looks for duplicates: %+v %v", n, ok)
	}
}

func FuzzNeighbour(f *testing.F) {
	f.Add(solicit(f, asker, service, []byte{2, 0, 0, 0, 0, 9}))
	f.Add(solicit(f, netip.IPv6Unspecified(), service, nil))
	f.Add(AppendAdvertisement(nil, ours, service, nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		n, ok := ParseNeighbour(b)
		if !ok || n.Advertisement {
			return
		}
		if _, ok := ParseNeighbour(AppendAdvertisement(nil, ours, n.Target, &n)); !ok && !n.Target.IsUnspecified() {
			t.Errorf("the answer to %+v cannot be read", n)
		}
	})
}

func TestARPAnswersAndAnnouncements(t *testing.T) {
	a := netip.MustParseAddr("10.53.0.10")
	asked := ARP{SenderMAC: theirs, Sender: netip.MustParseAddr("10.53.0.77"), Target: a}
	b := AppendARPReply(nil, ours, asked)
	got, ok := ParseARP(b)
	if want := (ARP{Reply: true, SenderMAC: ours, TargetMAC: theirs, Sender: a, Target: asked.Sender}); !ok || got != want || [6]byte(b[:6]) != theirs {
		t.Errorf("reply %+v %v to %x", got, ok, b[:6])
	}
	b = AppendARPAnnouncement(nil, ours, a)
	got, ok = ParseARP(b)
	if want := (ARP{SenderMAC: ours, Sender: a, Target: a}); !ok || got != want || [6]byte(b[:6]) != broadcastMAC {
		t.Errorf("announcement %+v %v to %x", got, ok, b[:6])
	}
}
