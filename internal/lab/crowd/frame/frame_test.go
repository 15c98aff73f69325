package frame

import (
	"bytes"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/mdlayher/ndp"
	"github.com/miekg/dns"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

var (
	macA, macB = MAC{2, 0, 0, 0, 0, 0xa}, MAC{2, 0, 0, 0, 0, 0xb}
	v4a, v4b   = netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("198.18.0.1")
	v6a, v6b   = netip.MustParseAddr("2001:db8::a"), netip.MustParseAddr("fe80::b")
	comparers  = cmp.Options{cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})}
)

func headers() []Header {
	return []Header{{Dst: macB, Src: macA, From: v4a, To: v4b}, {Dst: macB, Src: macA, From: v6a, To: v6b}}
}

// sum0 says whether the transport checksum of a whole frame is right, by adding up all.
func sum0(frame []byte, h Header, protocol byte) bool {
	start := 14 + 20
	if h.To.Is6() {
		start = 14 + 40
	}
	return transportSum(frame[start:], h, protocol) == 0
}

func TestUDPAndTCPComeBackAsSent(t *testing.T) {
	for _, h := range headers() {
		for _, payload := range []string{"", "x", "even", "odd bytes"} {
			f := AppendUDP(nil, h, 1000, 53, []byte(payload))
			var p Packet
			if err := p.Parse(f); err != nil {
				t.Fatal(err)
			}
			want := Packet{Dst: macB, Src: macA, Type: p.Type, From: h.From, To: h.To, Protocol: UDP, HopLimit: 64, SrcPort: 1000, DstPort: 53, Payload: []byte(payload)}
			if diff := cmp.Diff(want, p, comparers); diff != "" {
				t.Errorf("UDP (-sent +parsed):\n%s", diff)
			}
			if !sum0(f, h, UDP) {
				t.Errorf("UDP %q to %v: wrong checksum", payload, h.To)
			}
			s := Segment{SrcPort: 1000, DstPort: 443, Seq: 7, Ack: 9, Flags: SYN | ACK, MSS: 1400}
			f = AppendTCP(nil, h, s, []byte(payload))
			p = Packet{}
			if err := p.Parse(f); err != nil {
				t.Fatal(err)
			}
			want = Packet{Dst: macB, Src: macA, Type: p.Type, From: h.From, To: h.To, Protocol: TCP, HopLimit: 64, SrcPort: 1000, DstPort: 443, Seq: 7, Ack: 9, Flags: SYN | ACK, Payload: []byte(payload)}
			if diff := cmp.Diff(want, p, comparers); diff != "" {
				t.Errorf("TCP (-sent +parsed):\n%s", diff)
			}
			if !sum0(f, h, TCP) {
				t.Errorf("TCP %q to %v: wrong checksum", payload, h.To)
			}
		}
	}
}

// A real capture's checksum: RFC 1071's own example bytes, and an IPv4 header of Wikipedia's
// article on its checksum.
func TestChecksumKnownValues(t *testing.T) {
	if got := fold(add(0, []byte{0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7})); got != ^uint16(0xddf2) {
		t.Errorf("RFC 1071 section 3: %#x, want %#x", got, ^uint16(0xddf2))
	}
	header := []byte{0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0, 0, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0, 0xc7}
	if got := fold(add(0, header)); got != 0xb861 {
		t.Errorf("IPv4 header: %#x, want 0xb861", got)
	}
}

func TestIPv4HeaderAgainstXNet(t *testing.T) {
	h := headers()[0]
	f := AppendUDP(nil, h, 1, 2, []byte("abc"))
	got, err := ipv4.ParseHeader(f[14:])
	if err != nil {
		t.Fatal(err)
	}
	if got.TotalLen != 31 || got.Flags != ipv4.DontFragment || got.Protocol != UDP || !got.Src.Equal(v4a.AsSlice()) || !got.Dst.Equal(v4b.AsSlice()) {
		t.Errorf("x/net reads %v", got)
	}
	if fold(add(0, f[14:34])) != 0 {
		t.Error("wrong header checksum")
	}
}

func TestEchoAgainstXNet(t *testing.T) {
	for i, h := range headers() {
		for _, reply := range []bool{false, true} {
			f := AppendEcho(nil, h, reply, 3, 4, []byte("payload"))
			body, protocol := f[34:], ICMP
			kinds := [2]icmp.Type{ipv4.ICMPTypeEcho, ipv4.ICMPTypeEchoReply}
			if i == 1 {
				body, protocol = f[54:], ICMPv6
				kinds = [2]icmp.Type{ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply}
			}
			m, err := icmp.ParseMessage(protocol, body)
			if err != nil {
				t.Fatal(err)
			}
			kind := kinds[0]
			if reply {
				kind = kinds[1]
			}
			want := &icmp.Echo{ID: 3, Seq: 4, Data: []byte("payload")}
			if diff := cmp.Diff(want, m.Body); diff != "" || m.Type != kind {
				t.Errorf("x/net reads %v: (-want +got)\n%s", m.Type, diff)
			}
			var p Packet
			if err := p.Parse(f); err != nil || p.IsEcho() == reply || p.IsEchoReply() != reply || p.ID != 3 || p.Number != 4 || string(p.Payload) != "payload" {
				t.Errorf("we read %+v, %v", p, err)
			}
			if protocol == ICMPv6 && !sum0(f, h, ICMPv6) || protocol == ICMP && fold(add(0, body)) != 0 {
				t.Error("wrong checksum")
			}
		}
	}
}

func TestARP(t *testing.T) {
	f := AppendARP(nil, Broadcast, macA, false, v4a, MAC{}, v4b)
	want := []byte{0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 0xa, 10, 1, 2, 3, 0, 0, 0, 0, 0, 0, 198, 18, 0, 1}
	if diff := cmp.Diff(want, f[14:]); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
	var p Packet
	if err := p.Parse(AppendARP(nil, macB, macA, true, v4a, macB, v4b)); err != nil || !p.ARPReply || p.From != v4a || p.To != v4b || p.SenderMAC != macA || p.Queried != macB {
		t.Errorf("reply: %+v, %v", p, err)
	}
}

func TestDiscoveryAgainstNDP(t *testing.T) {
	body := func(f []byte) ndp.Message {
		t.Helper()
		m, err := ndp.ParseMessage(f[54:])
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	hw := net.HardwareAddr(macA[:])
	source := &ndp.LinkLayerAddress{Direction: ndp.Source, Addr: hw}
	for _, c := range []struct {
		words string
		frame []byte
		want  ndp.Message
	}{
		{"router solicitation", AppendRouterSolicitation(nil, macA, v6b), &ndp.RouterSolicitation{Options: []ndp.Option{source}}},
		{"solicitation", AppendSolicitation(nil, macA, v6b, v6a), &ndp.NeighborSolicitation{TargetAddress: v6a, Options: []ndp.Option{source}}},
		{"detection", AppendSolicitation(nil, macA, netip.IPv6Unspecified(), v6a), &ndp.NeighborSolicitation{TargetAddress: v6a}},
		{"advertisement", AppendAdvertisement(nil, Header{Dst: macB, Src: macA, From: v6a, To: v6b}, v6a, true), &ndp.NeighborAdvertisement{
			Solicited: true, Override: true, TargetAddress: v6a, Options: []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Target, Addr: hw}}}},
	} {
		if diff := cmp.Diff(c.want, body(c.frame), comparers, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s (-want +ndp reads):\n%s", c.words, diff)
		}
		var p Packet
		if err := p.Parse(c.frame); err != nil || p.HopLimit != 255 {
			t.Errorf("%s: %+v, %v", c.words, p, err)
		}
		h := Header{From: p.From, To: p.To}
		if !sum0(c.frame, h, ICMPv6) {
			t.Errorf("%s: wrong checksum", c.words)
		}
	}
	want, err := ndp.SolicitedNodeMulticast(v6a)
	if err != nil || SolicitedNode(v6a) != want {
		t.Errorf("solicited node of %v: %v, want %v (%v)", v6a, SolicitedNode(v6a), want, err)
	}
}

func TestAdvertisementOfNDP(t *testing.T) {
	dns6 := []netip.Addr{netip.MustParseAddr("2001:db8::53"), netip.MustParseAddr("2001:db8::54")}
	m := &ndp.RouterAdvertisement{CurrentHopLimit: 64, RouterLifetime: 30 * time.Minute, Options: []ndp.Option{
		&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: net.HardwareAddr(macB[:])},
		ndp.NewMTU(1500),
		&ndp.PrefixInformation{PrefixLength: 64, OnLink: true, AutonomousAddressConfiguration: true, ValidLifetime: time.Hour, PreferredLifetime: time.Minute, Prefix: netip.MustParseAddr("2001:db8:1::")},
		&ndp.RecursiveDNSServer{Lifetime: time.Hour, Servers: dns6},
	}}
	b, err := ndp.MarshalMessage(m)
	if err != nil {
		t.Fatal(err)
	}
	h := Header{Dst: Multicast(AllNodes), Src: macB, From: v6b, To: AllNodes, HopLimit: 255}
	var p Packet
	if err := p.Parse(AppendICMP(nil, h, b[0], b[4:], nil)); err != nil {
		t.Fatal(err)
	}
	got, err := ParseAdvertisement(&p)
	want := Advertisement{Lifetime: 30 * time.Minute, Source: macB, DNS: dns6, Prefixes: []Prefix{{
		Prefix: netip.MustParsePrefix("2001:db8:1::/64"), OnLink: true, Auto: true, Valid: time.Hour, Preferred: time.Minute}}}
	if diff := cmp.Diff(want, got, comparers); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	p.HopLimit = 64
	if _, err := ParseAdvertisement(&p); err == nil {
		t.Error("an advertisement from beyond the link (hop limit 64) is accepted")
	}
}

func TestAskAgainstInsomniacslk(t *testing.T) {
	a := Ask{Type: Request, XID: 0xdeadbeef, Secs: 9, Broadcast: true, MAC: macA, Current: v4a, Requested: v4b, Server: v4a,
		Client: append([]byte{1}, macA[:]...), Class: "android-dhcp-14", Host: "Pixel-8", Want: []byte{1, 3, 6}}
	m, err := dhcpv4.FromBytes(AppendAsk(nil, a))
	if err != nil {
		t.Fatal(err)
	}
	got := Ask{Type: byte(m.MessageType()), XID: uint32(m.TransactionID[0])<<24 | uint32(m.TransactionID[1])<<16 | uint32(m.TransactionID[2])<<8 | uint32(m.TransactionID[3]),
		Secs: m.NumSeconds, Broadcast: m.IsBroadcast(), MAC: MAC(m.ClientHWAddr), Current: addr(m.ClientIPAddr), Requested: addr(m.RequestedIPAddress()),
		Server: addr(m.ServerIdentifier()), Client: m.Options.Get(dhcpv4.OptionClientIdentifier), Class: m.ClassIdentifier(), Host: m.HostName(), Want: m.Options.Get(dhcpv4.OptionParameterRequestList)}
	if diff := cmp.Diff(a, got, comparers); diff != "" {
		t.Errorf("(-sent +insomniacslk reads):\n%s", diff)
	}
	if n := len(AppendAsk(nil, Ask{Type: Discover})); n != 300 {
		t.Errorf("a short message has %d bytes, want 300", n)
	}
}

func addr(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip.To4())
	return a
}

func TestReplyOfInsomniacslk(t *testing.T) {
	build := func(more ...dhcpv4.Modifier) []byte {
		m, err := dhcpv4.New(append([]dhcpv4.Modifier{
			dhcpv4.WithReply(&dhcpv4.DHCPv4{OpCode: dhcpv4.OpcodeBootRequest, HWType: 1, ClientHWAddr: macA[:], TransactionID: [4]byte{1, 2, 3, 4}}),
			dhcpv4.WithMessageType(dhcpv4.MessageTypeAck), dhcpv4.WithYourIP(v4a.AsSlice()),
			dhcpv4.WithServerIP(net.IP{9, 9, 9, 9}), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(v4b.AsSlice())),
			dhcpv4.WithNetmask(net.CIDRMask(20, 32)), dhcpv4.WithRouter(v4b.AsSlice()), dhcpv4.WithDNS(v4b.AsSlice(), v4a.AsSlice()),
			dhcpv4.WithLeaseTime(3600),
		}, more...)...)
		if err != nil {
			t.Fatal(err)
		}
		return m.ToBytes()
	}
	want := Reply{Type: Ack, XID: 0x01020304, MAC: macA, Given: v4a, Server: v4b, Mask: netip.MustParseAddr("255.255.240.0"),
		Routers: []netip.Addr{v4b}, DNS: []netip.Addr{v4b, v4a}, Lease: time.Hour, T1: 30 * time.Minute, T2: 3150 * time.Second}
	check := func(words string, b []byte) {
		t.Helper()
		got, err := ParseReply(b)
		if diff := cmp.Diff(want, got, comparers); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", words, err, diff)
		}
	}
	plain := build()
	check("defaults", plain)
	// Overload: the DNS option moves into file and, in two parts, sname (RFC 3396).
	over := build(func(m *dhcpv4.DHCPv4) { delete(m.Options, dhcpv4.OptionDomainNameServer.Code()) })
	over = append(over[:bytes.LastIndexByte(over, 255)], 52, 1, 3, 255)
	copy(over[108:], []byte{6, 3, 198, 18, 0, 255})
	copy(over[44:], []byte{0, 6, 5, 1, 10, 1, 2, 3, 255})
	check("overload and parts", over)
	want.T1, want.T2 = time.Minute, 2*time.Minute
	check("own timers", build(dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.GenericOptionCode(58), []byte{0, 0, 0, 60})),
		dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.GenericOptionCode(59), []byte{0, 0, 0, 120}))))
	for n := range plain {
		if r, err := ParseReply(plain[:n]); err == nil && n < headerSize+8 {
			t.Errorf("%d bytes parse: %+v", n, r)
		}
	}
}

func TestQueryAgainstMiekg(t *testing.T) {
	q := AppendQuestion(nil, "www.example.com", TypeAAAA)
	var m dns.Msg
	if err := m.Unpack(AppendQuery(nil, 77, q)); err != nil {
		t.Fatal(err)
	}
	want := new(dns.Msg).SetQuestion("www.example.com.", dns.TypeAAAA).SetEdns0(1232, false)
	want.Id = 77
	if diff := cmp.Diff(want.String(), m.String()); diff != "" {
		t.Errorf("(-want +miekg reads):\n%s", diff)
	}
	for _, bad := range []string{"a..b", string(bytes.Repeat([]byte("x"), 64)) + ".com", ".com"} {
		if got := AppendQuestion([]byte("kept"), bad, TypeA); string(got) != "kept" {
			t.Errorf("AppendQuestion(%q) = %q", bad, got)
		}
	}
}

func TestAnswerOfMiekg(t *testing.T) {
	q := new(dns.Msg).SetQuestion("WWW.example.com.", dns.TypeA)
	m := new(dns.Msg).SetReply(q)
	for _, s := range []string{"www.example.com. 60 IN CNAME web.example.com.", "web.example.com. 60 IN A 198.18.0.1", "web.example.com. 60 IN A 10.1.2.3"} {
		rr, err := dns.NewRR(s)
		if err != nil {
			t.Fatal(err)
		}
		m.Answer = append(m.Answer, rr)
	}
	m.Compress, m.Truncated, m.Rcode = true, true, dns.RcodeServerFailure
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseAnswer(b)
	want := Answer{ID: m.Id, RCode: ServFail, Truncated: true, Question: b[12:33], Addrs: []netip.Addr{v4b, v4a}}
	if diff := cmp.Diff(want, got, comparers); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if !SameQuestion(got.Question, AppendQuestion(nil, "www.EXAMPLE.com", TypeA)) {
		t.Error("the same question in another case is not the same")
	}
	if SameQuestion(got.Question, AppendQuestion(nil, "www.example.com", TypeAAAA)) {
		t.Error("another type is the same question")
	}
	for n := range b {
		if _, err := ParseAnswer(b[:n]); err == nil {
			t.Errorf("%d of %d bytes parse", n, len(b))
		}
	}
}

func TestParseRefuses(t *testing.T) {
	udp := AppendUDP(nil, headers()[0], 1, 2, []byte("abc"))
	with := func(at int, c byte) []byte {
		b := bytes.Clone(udp)
		b[at] = c
		return b
	}
	for _, c := range []struct {
		words string
		frame []byte
		want  error
	}{
		{"empty", nil, ErrTruncated},
		{"cut in the payload", udp[:len(udp)-1], ErrTruncated},
		{"unknown EtherType", with(12, 0x99), ErrUnknown},
		{"IPv4 of version 5", with(14, 0x55), ErrMalformed},
		{"header shorter than 20", with(14, 0x44), ErrMalformed},
		{"more fragments", with(20, 0x20), ErrFragment},
		{"UDP length too long", with(39, 99), ErrMalformed},
		{"protocol 99", with(23, 99), ErrUnknown},
	} {
		var p Packet
		if err := p.Parse(c.frame); err != c.want {
			t.Errorf("%s: %v, want %v", c.words, err, c.want)
		}
	}
}

// FuzzParse looks for a panic and for payloads beyond the frame, in all parsers.
func FuzzParse(f *testing.F) {
	for _, h := range headers() {
		f.Add(AppendUDP(nil, h, 1, 2, AppendQuery(nil, 1, AppendQuestion(nil, "a.b", TypeA))))
		f.Add(AppendTCP(nil, h, Segment{Flags: SYN, MSS: 1400}, nil))
		f.Add(AppendEcho(nil, h, false, 1, 2, []byte("x")))
	}
	f.Add(AppendSolicitation(nil, macA, v6b, v6a))
	f.Add(AppendARP(nil, macB, macA, true, v4a, macB, v4b))
	f.Add(AppendUDP(nil, headers()[0], 67, 68, AppendAsk(nil, Ask{Type: Discover})))
	f.Fuzz(func(t *testing.T, b []byte) {
		var p Packet
		if p.Parse(b) == nil && len(p.Payload) > len(b) {
			t.Error("payload longer than the frame")
		}
		for _, part := range [][]byte{b, p.Payload} {
			if r, err := ParseReply(part); err == nil && !r.Server.IsValid() {
				t.Error("reply without server")
			}
			if a, err := ParseAnswer(part); err == nil && len(a.Question) < 5 {
				t.Error("answer without question")
			}
			q := Packet{From: v6b, HopLimit: 255, Payload: part}
			_, _ = ParseAdvertisement(&q)
			_, _ = ParseNeighbour(&q)
		}
	})
}

func BenchmarkParseAndAsk(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 1))
	buf := make([]byte, 0, 1500)
	var p Packet
	b.ReportAllocs()
	for b.Loop() {
		payload := AppendAsk(buf[:0], Ask{Type: Discover, XID: r.Uint32(), MAC: macA, Host: "x", Want: []byte{1, 3}})
		f := AppendUDP(buf[len(payload):len(payload)], headers()[0], 68, 67, payload)
		if err := p.Parse(f); err != nil {
			b.Fatal(err)
		}
	}
}
