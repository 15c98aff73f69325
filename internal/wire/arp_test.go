package wire

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

func TestARP(t *testing.T) {
	mac := [6]byte{2, 0, 0, 0, 0, 7}
	b := AppendARPProbe(nil, mac, netip.MustParseAddr("10.1.2.3"))
	want := []byte{
		255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 7, 8, 6, // all, from us, ARP
		0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10, 1, 2, 3, // RFC 5227 section 2.1.1
	}
	if !bytes.Equal(b, want) {
		t.Fatalf("probe %x, want %x", b, want)
	}
	a, ok := ParseARP(append(b, make([]byte, 18)...))
	if !ok || a.Reply || a.SenderMAC != mac || a.Target.String() != "10.1.2.3" || !a.Sender.IsUnspecified() {
		t.Errorf("read back: %+v, %v", a, ok)
	}
	for at, v := range map[int]byte{13: 0, 15: 6, 17: 1, 18: 8, 19: 6, 21: 3} {
		bad := bytes.Clone(b)
		bad[at] = v
		if _, ok := ParseARP(bad); ok {
			t.Errorf("byte %d as %d is taken", at, v)
		}
	}
	if _, ok := ParseARP(b[:41]); ok {
		t.Error("a cut frame is taken")
	}
}

func TestDHCPDiscover(t *testing.T) {
	mac := [6]byte{2, 0, 0, 0, 0, 7}
	p, err := dhcpv4.FromBytes(AppendDHCPDiscover(nil, 0x01020304, mac, "who"))
	if err != nil {
		t.Fatal(err)
	}
	if p.MessageType() != dhcpv4.MessageTypeDiscover || !bytes.Equal(p.ClientHWAddr, mac[:]) || !p.IsBroadcast() ||
		string(p.Options.Get(dhcpv4.OptionClientIdentifier)) != "who" || p.TransactionID != [4]byte{1, 2, 3, 4} {
		t.Errorf("read back: %s", p.Summary())
	}
}

// FuzzServerFrame: whatever a device hears, nothing breaks; and the library reads the same
// of a server's message.
func FuzzServerFrame(f *testing.F) {
	frame := func(payload []byte) []byte {
		b := append(make([]byte, UDPFrameHead), payload...)
		PutUDPFrame(b, &UDPFrame{Src: netip.MustParseAddr("10.1.0.66"), Dst: netip.MustParseAddr("255.255.255.255"), SrcPort: 67, DstPort: 68})
		return b
	}
	offer, err := dhcpv4.NewReplyFromRequest(request(f, dhcpv4.WithMessageType(dhcpv4.MessageTypeDiscover)),
		dhcpv4.WithMessageType(dhcpv4.MessageTypeOffer), dhcpv4.WithServerIP([]byte{10, 1, 0, 66}), dhcpv4.WithYourIP([]byte{10, 1, 9, 9}),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier([]byte{10, 1, 0, 66})))
	if err != nil {
		f.Fatal(err)
	}
	good := frame(offer.ToBytes())
	f.Add(good)
	f.Add(good[:200])
	f.Add(frame([]byte{2, 1, 6}))
	f.Add(append(AppendARPProbe(nil, [6]byte{2}, netip.MustParseAddr("10.1.2.3")), 0, 0, 0))
	fragment := bytes.Clone(good)
	fragment[20] = 0x20
	f.Add(fragment)
	var m DHCP
	f.Fuzz(func(t *testing.T, b []byte) {
		ParseARP(b)
		u, payload, ok := ParseUDPFrame(b)
		if !ok {
			return
		}
		if len(payload) > len(b)-UDPFrameHead || !u.Src.Is4() {
			t.Fatalf("%d bytes of payload in a frame of %d from %v", len(payload), len(b), u.Src)
		}
		if m.ParseReply(payload) != nil {
			return
		}
		p, err := dhcpv4.FromBytes(payload)
		if err != nil || m.opts[atOverload] != nil {
			return
		}
		if uint8(p.MessageType()) != uint8(m.Type) || p.YourIPAddr.String() != m.YIAddr.String() || m.ServerID.IsValid() && p.ServerIdentifier().String() != m.ServerID.String() {
			t.Errorf("the library reads %s\nwe read %+v", p.Summary(), m)
		}
	})
}
