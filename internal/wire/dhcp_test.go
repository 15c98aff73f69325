package wire

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"
)

// request is a client's message made by the library that is our oracle.
func request(t testing.TB, mods ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	t.Helper()
	m, err := dhcpv4.New(append([]dhcpv4.Modifier{
		dhcpv4.WithHwAddr(net.HardwareAddr{2, 0, 0, 0, 0, 7}), dhcpv4.WithTransactionID(dhcpv4.TransactionID{1, 2, 3, 4}),
	}, mods...)...)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func full(t testing.TB) []byte {
	return request(t, dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest), dhcpv4.WithBroadcast(true),
		dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(net.IP{10, 1, 2, 3})),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IP{10, 1, 0, 1})),
		dhcpv4.WithOption(dhcpv4.OptClientIdentifier([]byte{1, 2, 0, 0, 0, 0, 7})),
		dhcpv4.WithOption(dhcpv4.OptHostName("phone")),
		dhcpv4.WithOption(dhcpv4.OptMaxMessageSize(1200)),
		dhcpv4.WithRequestedOptions(dhcpv4.OptionRouter, dhcpv4.OptionSubnetMask, dhcpv4.OptionDomainNameServer)).ToBytes()
}

func TestParseDHCP(t *testing.T) {
	var m DHCP
	if err := m.Parse(full(t)); err != nil {
		t.Fatal(err)
	}
	type seen struct {
		Type                 DHCPType
		XID                  uint32
		Broadcast            bool
		CHAddr               [6]byte
		Requested, ServerID  string
		ClientID, Parameters []byte
		Hostname             string
		MaxSize              uint16
	}
	want := seen{DHCPRequest, 0x01020304, true, [6]byte{2, 0, 0, 0, 0, 7}, "10.1.2.3", "10.1.0.1", []byte{1, 2, 0, 0, 0, 0, 7}, []byte{3, 1, 6}, "phone", 1200}
	got := seen{m.Type, m.XID, m.Broadcast, m.CHAddr, m.Requested.String(), m.ServerID.String(), m.ClientID, m.Parameters, string(m.Hostname), m.MaxSize}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// message builds one by hand: options as given, file and sname as given.
func message(options, file, sname string) []byte {
	b := make([]byte, 240)
	b[0], b[1], b[2] = 1, 1, 6
	copy(b[28:], []byte{2, 0, 0, 0, 0, 7})
	copy(b[108:236], file)
	copy(b[44:108], sname)
	binary.BigEndian.PutUint32(b[236:], dhcpMagic)
	return append(b, options...)
}

func TestParseDHCPPieces(t *testing.T) {
	for _, c := range []struct{ name, options, file, sname, id, host string }{
		{"in the options twice (RFC 3396)", "\x35\x01\x01\x3d\x02ab\x0c\x01h\x3d\x02cd\xff", "", "", "abcd", "h"},
		{"in file too (RFC 2132 section 9.3)", "\x35\x01\x01\x34\x01\x01\x3d\x02ab\xff", "\x3d\x02cd\xff", "\x3d\x02xx", "abcd", ""},
		{"in sname too", "\x35\x01\x01\x34\x01\x02\x3d\x02ab\xff", "\x3d\x02xx", "\x3d\x02ef\xff", "abef", ""},
		{"in both, file first (RFC 3396 section 5)", "\x35\x01\x01\x34\x01\x03\x3d\x02ab\xff", "\x3d\x02cd\xff", "\x3d\x02ef\x0c\x01n\xff", "abcdef", "n"},
		{"the type itself in file", "\x34\x01\x01\xff", "\x35\x01\x01\xff", "", "", ""},
		{"pads and no end", "\x00\x00\x35\x01\x01\x00\x3d\x02ab", "", "", "ab", ""},
		{"nothing after the end counts", "\x35\x01\x01\xff\x3d\x02ab", "", "", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var m DHCP
			if err := m.Parse(message(c.options, c.file, c.sname)); err != nil {
				t.Fatal(err)
			}
			if string(m.ClientID) != c.id || string(m.Hostname) != c.host || m.Type != DHCPDiscover {
				t.Errorf("client %q host %q type %d; want %q %q 1", m.ClientID, m.Hostname, m.Type, c.id, c.host)
			}
		})
	}
}

func TestParseDHCPRefuses(t *testing.T) {
	good := message("\x35\x01\x01\xff", "", "")
	change := func(at int, v byte) []byte {
		b := bytes.Clone(good)
		b[at] = v
		return b
	}
	pieces := "\x35\x01\x01"
	for range 80 {
		pieces += "\x3d\x0a0123456789"
	}
	for _, c := range []struct {
		name string
		b    []byte
		want error
	}{
		{"empty", nil, ErrDHCPShort},
		{"cut in the cookie", good[:239], ErrDHCPShort},
		{"a reply", change(0, 2), ErrDHCPOp},
		{"token ring", change(1, 6), ErrDHCPHardware},
		{"a long hardware address", change(2, 16), ErrDHCPHardware},
		{"no cookie", change(236, 0), ErrDHCPMagic},
		{"no type", message("\xff", "", ""), ErrDHCPNoType},
		{"code without length", message("\x35\x01\x01\x3d", "", ""), ErrDHCPTruncated},
		{"length past the end", message("\x35\x01\x01\x3d\x05ab", "", ""), ErrDHCPTruncated},
		{"length past the end of file", message("\x35\x01\x01\x34\x01\x01\xff", string(bytes.Repeat([]byte{60, 255}, 64)), ""), ErrDHCPTruncated},
		{"type of two bytes", message("\x35\x02\x01\x01\xff", "", ""), ErrDHCPLength},
		{"address of three bytes", message("\x35\x01\x03\x32\x03abc\xff", "", ""), ErrDHCPLength},
		{"server of five bytes", message("\x35\x01\x03\x36\x05abcde\xff", "", ""), ErrDHCPLength},
		{"size of one byte", message("\x35\x01\x03\x39\x01a\xff", "", ""), ErrDHCPLength},
		{"overload of 4", message("\x35\x01\x03\x34\x01\x04\xff", "", ""), ErrDHCPLength},
		{"a client id in 80 pieces", message(pieces, "", ""), ErrDHCPPieces},
	} {
		t.Run(c.name, func(t *testing.T) {
			var m DHCP
			if err := m.Parse(c.b); err != c.want {
				t.Errorf("%v, want %v", err, c.want)
			}
		})
	}
}

func template(t testing.TB) *DHCPTemplate {
	t.Helper()
	tm, err := NewDHCPTemplate([]DHCPOption{
		{DHCPOptSubnetMask, []byte{255, 255, 224, 0}}, {DHCPOptRouter, []byte{10, 1, 0, 1}}, {DHCPOptDNS, []byte{10, 1, 0, 1, 10, 1, 0, 2}},
		{DHCPOptDomain, []byte("yapc.example")}, {DHCPOptNTP, []byte{10, 1, 0, 1}}, {DHCPOptBroadcast, []byte{10, 1, 31, 255}},
		{DHCPOptDomainSearch, bytes.Repeat([]byte{1}, 250)}, {DHCPOptMTU, []byte{5, 0xdc}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return tm
}

// codes lists a reply's options in their order.
func codes(b []byte) []int {
	var all []int
	for i := 240; i < len(b) && b[i] != DHCPOptEnd; i += 2 + int(b[i+1]) {
		all = append(all, int(b[i]))
	}
	return all
}

func TestDHCPReply(t *testing.T) {
	tm := template(t)
	offer := DHCPReply{Type: DHCPOffer, YIAddr: netip.MustParseAddr("10.1.2.3"), Server: netip.MustParseAddr("10.1.0.1"), Lease: 3600, Renew: 1800, Rebind: 3150, Hostname: []byte("printer")}
	nak := DHCPReply{Type: DHCPNak, Server: netip.MustParseAddr("10.1.0.1"), Message: "no"}
	list := func(codes ...uint8) dhcpv4.Modifier {
		return dhcpv4.WithGeneric(dhcpv4.OptionParameterRequestList, codes)
	}
	size := func(n uint16) dhcpv4.Modifier { return dhcpv4.WithOption(dhcpv4.OptMaxMessageSize(n)) }
	id := dhcpv4.WithOption(dhcpv4.OptClientIdentifier([]byte("hello")))
	for _, c := range []struct {
		name  string
		reply DHCPReply
		mods  []dhcpv4.Modifier
		want  []int
	}{
		{"no list: all that fits into 576, the search list too long", offer, nil, []int{53, 54, 51, 58, 59, 1, 3, 6, 15, 42, 28, 26}},
		{"no list, a larger client", offer, []dhcpv4.Modifier{size(1500)}, []int{53, 54, 51, 58, 59, 1, 3, 6, 15, 42, 28, 119, 26}},
		{"a size below 576 is taken as 576 (RFC 2132 section 9.10)", offer, []dhcpv4.Modifier{size(100), list(1, 119)}, []int{53, 54, 51, 58, 59, 1, 119}},
		{"the client's order (RFC 2132 section 9.8)", offer, []dhcpv4.Modifier{list(42, 6, 1, 3)}, []int{53, 54, 51, 58, 59, 42, 6, 1, 3}},
		{"mask before router (RFC 2132 section 3.3)", offer, []dhcpv4.Modifier{list(6, 3, 1)}, []int{53, 54, 51, 58, 59, 6, 1, 3}},
		{"once each, unknown ones not at all", offer, []dhcpv4.Modifier{list(6, 6, 200, 0, 255, 53, 12, 12, 6)}, []int{53, 54, 51, 58, 59, 6, 12}},
		{"client id repeated (RFC 6842)", offer, []dhcpv4.Modifier{id, list(6)}, []int{53, 54, 51, 58, 59, 61, 6}},
		{"NAK without configuration (RFC 2131 table 3)", nak, []dhcpv4.Modifier{id, list(1, 3, 6)}, []int{53, 54, 61, 56}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var m DHCP
			if err := m.Parse(request(t, append(c.mods, dhcpv4.WithMessageType(dhcpv4.MessageTypeDiscover))...).ToBytes()); err != nil {
				t.Fatal(err)
			}
			b := AppendDHCPReply(nil, &m, tm, &c.reply)
			if d := cmp.Diff(c.want, codes(b)); d != "" {
				t.Errorf("options (-want +got):\n%s", d)
			}
			if len(b) < 300 || len(b) > max(int(m.MaxSize), 576)-28 {
				t.Errorf("%d bytes", len(b))
			}
			checkReply(t, &m, b, &c.reply)
		})
	}
}

// checkReply has the library read what we wrote.
func checkReply(t testing.TB, m *DHCP, b []byte, r *DHCPReply) {
	t.Helper()
	p, err := dhcpv4.FromBytes(b)
	if err != nil {
		t.Fatalf("the library cannot read our reply: %v\n%x", err, b)
	}
	if p.OpCode != dhcpv4.OpcodeBootReply || binary.BigEndian.Uint32(p.TransactionID[:]) != m.XID ||
		uint8(p.MessageType()) != uint8(r.Type) || !bytes.Equal(p.ClientHWAddr, m.CHAddr[:]) || p.ServerIdentifier().String() != r.Server.String() {
		t.Errorf("read back: %s", p.Summary())
	}
	if r.YIAddr.IsValid() && p.YourIPAddr.String() != r.YIAddr.String() {
		t.Errorf("yiaddr %v, want %v", p.YourIPAddr, r.YIAddr)
	}
	if r.Lease > 0 && uint32(p.IPAddressLeaseTime(0).Seconds()) != r.Lease {
		t.Errorf("lease %v, want %d s", p.IPAddressLeaseTime(0), r.Lease)
	}
}

// TestDHCPLongOption: a value of more than 255 bytes goes in pieces that the library joins
// (RFC 3396), or not at all to a client that cannot take them.
func TestDHCPLongOption(t *testing.T) {
	for _, n := range []int{1, 254, 255, 256, 510, 511, 1000} {
		long := make([]byte, n)
		for i := range long {
			long[i] = byte(i)
		}
		tm, err := NewDHCPTemplate([]DHCPOption{{DHCPOptDNS, []byte{10, 1, 0, 1}}, {DHCPOptEncryptedDNS, long}})
		if err != nil {
			t.Fatal(err)
		}
		for _, size := range []uint16{576, 1500} {
			var m DHCP
			asked := dhcpv4.WithGeneric(dhcpv4.OptionParameterRequestList, []byte{DHCPOptEncryptedDNS, DHCPOptDNS})
			in := request(t, dhcpv4.WithMessageType(dhcpv4.MessageTypeDiscover), asked, dhcpv4.WithOption(dhcpv4.OptMaxMessageSize(size)))
			if err := m.Parse(in.ToBytes()); err != nil {
				t.Fatal(err)
			}
			r := DHCPReply{Type: DHCPOffer, YIAddr: netip.MustParseAddr("10.1.2.3"), Server: netip.MustParseAddr("10.1.0.1")}
			b := AppendDHCPReply(nil, &m, tm, &r)
			p, err := dhcpv4.FromBytes(b)
			if err != nil {
				t.Fatal(err)
			}
			got := p.Options.Get(dhcpv4.GenericOptionCode(DHCPOptEncryptedDNS))
			if fits := n <= 256 || size == 1500; fits && !bytes.Equal(got, long) || !fits && got != nil || len(p.DNS()) != 1 {
				t.Errorf("%d bytes to a client that takes %d: %d come, DNS %v", n, size, len(got), p.DNS())
			}
		}
	}
}

// TestDHCPIPv6Only: option 108 goes with an address, to those that list it (RFC 8925 section 3.3).
func TestDHCPIPv6Only(t *testing.T) {
	tm, err := NewDHCPTemplate([]DHCPOption{{DHCPOptSubnetMask, []byte{255, 255, 255, 0}}, {DHCPOptIPv6Only, []byte{0, 0, 7, 8}}})
	if err != nil {
		t.Fatal(err)
	}
	lists := dhcpv4.WithGeneric(dhcpv4.OptionParameterRequestList, []byte{1, DHCPOptIPv6Only})
	for _, c := range []struct {
		what  string
		reply DHCPReply
		mods  []dhcpv4.Modifier
		want  bool
	}{
		{"listed", DHCPReply{Type: DHCPOffer, YIAddr: netip.MustParseAddr("10.1.2.3")}, []dhcpv4.Modifier{lists}, true},
		{"an offer of no address", DHCPReply{Type: DHCPOffer, YIAddr: netip.IPv4Unspecified()}, []dhcpv4.Modifier{lists}, true},
		{"no list", DHCPReply{Type: DHCPOffer, YIAddr: netip.MustParseAddr("10.1.2.3")}, nil, false},
		{"not listed", DHCPReply{Type: DHCPAck, YIAddr: netip.MustParseAddr("10.1.2.3")}, []dhcpv4.Modifier{dhcpv4.WithRequestedOptions(dhcpv4.OptionSubnetMask)}, false},
		{"the ACK of an INFORM", DHCPReply{Type: DHCPAck}, []dhcpv4.Modifier{lists}, false},
		{"NAK", DHCPReply{Type: DHCPNak}, []dhcpv4.Modifier{lists}, false},
	} {
		var m DHCP
		in, err := dhcpv4.New(append(c.mods, dhcpv4.WithHwAddr(net.HardwareAddr{2, 0, 0, 0, 0, 7}), dhcpv4.WithMessageType(dhcpv4.MessageTypeDiscover))...)
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Parse(in.ToBytes()); err != nil {
			t.Fatal(err)
		}
		p, err := dhcpv4.FromBytes(AppendDHCPReply(nil, &m, tm, &c.reply))
		if err != nil {
			t.Fatal(err)
		}
		wait, got := p.IPv6OnlyPreferred()
		if got != c.want || got && wait.Seconds() != 1800 {
			t.Errorf("%s: %v, %v", c.what, wait, got)
		}
	}
}

func TestDHCPTemplateRefuses(t *testing.T) {
	for _, opts := range [][]DHCPOption{
		{{DHCPOptDNS, make([]byte, 1025)}}, {{DHCPOptDNS, nil}, {DHCPOptDNS, nil}}, {{DHCPOptType, []byte{1}}}, {{DHCPOptEnd, nil}}, make([]DHCPOption, 33),
	} {
		if _, err := NewDHCPTemplate(opts); err == nil {
			t.Errorf("%d options, first %v: no error", len(opts), opts[0].Code)
		}
	}
}

func TestUDPFrame(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for n := range 600 {
		b := make([]byte, UDPFrameHead+n)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		payload := bytes.Clone(b[UDPFrameHead:])
		PutUDPFrame(b, &UDPFrame{
			SrcMAC: [6]byte{2, 1}, DstMAC: [6]byte{2, 2}, Src: netip.MustParseAddr("10.1.0.1"), Dst: netip.MustParseAddr("255.255.255.255"), SrcPort: 67, DstPort: 68,
		})
		if !bytes.Equal(payload, b[UDPFrameHead:]) {
			t.Fatal("payload changed")
		}
		if s := naiveSum(b[14:34]); s != 0xffff {
			t.Fatalf("%d bytes: IPv4 checksum: sum %#x", n, s)
		}
		pseudo := append(bytes.Clone(b[26:34]), 0, 17, byte((n+8)>>8), byte(n+8))
		if s := naiveSum(append(pseudo, b[34:]...)); s != 0xffff {
			t.Fatalf("%d bytes: UDP checksum: sum %#x", n, s)
		}
	}
}

// naiveSum is RFC 1071 word by word: 0xffff over data with a right checksum.
func naiveSum(b []byte) uint32 {
	if len(b)%2 == 1 {
		b = append(bytes.Clone(b), 0)
	}
	var s uint32
	for i := 0; i < len(b); i += 2 {
		s += uint32(b[i])<<8 | uint32(b[i+1])
		s = s>>16 + s&0xffff
	}
	return s
}

// FuzzDHCP compares with the library where both read a message, and has it read our reply.
// TestRelayAgentComesBack: RFC 3046 section 2.2, as our oracle reads it.
func TestRelayAgentComesBack(t *testing.T) {
	info := dhcpv4.OptRelayAgentInfo(dhcpv4.OptGeneric(dhcpv4.AgentCircuitIDSubOption, []byte("hall/eth1")), dhcpv4.OptGeneric(dhcpv4.AgentRemoteIDSubOption, []byte{2, 0, 0, 0, 0, 7}))
	tmpl, err := NewDHCPTemplate([]DHCPOption{{Code: DHCPOptSubnetMask, Data: []byte{255, 255, 255, 0}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		relay net.IP
		want  bool
	}{{net.IP{10, 1, 0, 5}, true}, {net.IPv4zero, false}} {
		var m DHCP
		in := request(t, dhcpv4.WithMessageType(dhcpv4.MessageTypeDiscover), dhcpv4.WithGatewayIP(c.relay), dhcpv4.WithOption(info))
		if err := m.Parse(in.ToBytes()); err != nil {
			t.Fatal(err)
		}
		out, err := dhcpv4.FromBytes(AppendDHCPReply(nil, &m, tmpl, &DHCPReply{Type: DHCPOffer, YIAddr: netip.MustParseAddr("10.1.0.9"), Server: netip.MustParseAddr("10.1.0.2"), Lease: 60}))
		if err != nil {
			t.Fatal(err)
		}
		if got := out.Options.Get(dhcpv4.OptionRelayAgentInformation); bytes.Equal(got, in.Options.Get(dhcpv4.OptionRelayAgentInformation)) != c.want {
			t.Errorf("giaddr %v: option 82 %x", c.relay, got)
		}
		if !out.GatewayIPAddr.Equal(c.relay) || out.Options.Get(dhcpv4.OptionSubnetMask) == nil {
			t.Errorf("reply %v", out.Summary())
		}
	}
}

func FuzzDHCP(f *testing.F) {
	f.Add(full(f))
	f.Add(message("\x35\x01\x01\x34\x01\x03\x3d\x02ab\xff", "\x3d\x02cd\xff", "\x3d\x02ef\xff"))
	f.Add(message("\x35\x01\x01\x3d\xff", "", ""))
	f.Add(message("\x35\x01\x01\x3d\x02ab\x3d\x02cd\x37\x03\x03\x01\x0c\x39\x02\x02\x00\xff", "", ""))
	tm := template(f)
	var m DHCP
	f.Fuzz(func(t *testing.T, b []byte) {
		if m.Parse(b) != nil {
			return
		}
		r := DHCPReply{Type: DHCPAck, YIAddr: netip.MustParseAddr("10.1.2.3"), Server: netip.MustParseAddr("10.1.0.1"), Lease: 60, Renew: 30, Rebind: 50, Hostname: []byte("h")}
		out := AppendDHCPReply(nil, &m, tm, &r)
		if len(out) > max(int(m.MaxSize), 576)-28 || len(out) > DHCPMaxMessage {
			t.Fatalf("reply of %d bytes to a client that takes %d", len(out), m.MaxSize)
		}
		checkReply(t, &m, out, &r)

		p, err := dhcpv4.FromBytes(b)
		if err != nil || m.opts[atOverload] != nil { // the library does not read file and sname
			return
		}
		if uint8(p.MessageType()) != uint8(m.Type) || !bytes.Equal(p.Options.Get(dhcpv4.OptionClientIdentifier), m.ClientID) ||
			!bytes.Equal(p.Options.Get(dhcpv4.OptionHostName), m.Hostname) || !bytes.Equal(p.Options.Get(dhcpv4.OptionParameterRequestList), m.Parameters) ||
			p.IsBroadcast() != m.Broadcast || p.ClientIPAddr.String() != m.CIAddr.String() {
			t.Errorf("the library reads %s\nwe read %+v", p.Summary(), m)
		}
		if m.Requested.IsValid() && p.RequestedIPAddress().String() != m.Requested.String() {
			t.Errorf("requested: library %v, ours %v", p.RequestedIPAddress(), m.Requested)
		}
	})
}

func BenchmarkDHCP(b *testing.B) {
	in, tm := full(b), template(b)
	var m DHCP
	out := make([]byte, 0, DHCPMaxMessage)
	r := DHCPReply{Type: DHCPAck, YIAddr: netip.MustParseAddr("10.1.2.3"), Server: netip.MustParseAddr("10.1.0.1"), Lease: 3600, Renew: 1800, Rebind: 3150}
	b.ReportAllocs()
	for b.Loop() {
		if err := m.Parse(in); err != nil {
			b.Fatal(err)
		}
		out = AppendDHCPReply(out[:0], &m, tm, &r)
	}
}
