package wire

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

func optioned(t testing.TB, options ...dns.EDNS0) []byte {
	t.Helper()
	m := new(dns.Msg)
	m.SetQuestion("www.example.net.", dns.TypeA)
	if options != nil {
		m.SetEdns0(1232, true)
		m.Extra[0].(*dns.OPT).Option = options
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestHasDNSOption(t *testing.T) {
	cookie := &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0123456789abcdef"}
	padding := &dns.EDNS0_PADDING{Padding: make([]byte, 9)}
	for _, c := range []struct {
		name string
		in   []byte
		want bool
	}{
		{"none", optioned(t), false},
		{"no option", optioned(t, []dns.EDNS0{}...), false},
		{"another", optioned(t, cookie), false},
		{"alone", optioned(t, padding), true},
		{"empty", optioned(t, &dns.EDNS0_PADDING{}), true},
		{"behind another", optioned(t, cookie, padding), true},
	} {
		q, err := ParseDNSQuery(c.in)
		if err != nil {
			t.Fatal(c.name, err)
		}
		if got := HasDNSOption(c.in, q.End, DNSOptionPadding); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
		for n := range c.in { // whatever is cut off, nothing is read beyond the end
			HasDNSOption(c.in[:n], q.End, DNSOptionPadding)
		}
	}
}

// TestPadDNS holds padded answers against the library: the same records, the right length.
func TestPadDNS(t *testing.T) {
	for records := range 60 {
		m := new(dns.Msg)
		m.SetQuestion("www.example.net.", dns.TypeTXT)
		m.Response = true
		for range records {
			m.Answer = append(m.Answer, &dns.TXT{Hdr: dns.RR_Header{Name: "www.example.net.", Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: 60}, Txt: []string{"some words that take their room"}})
		}
		m.SetEdns0(1232, true)
		b, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		padded := PadDNS(append([]byte{0, 0}, b...), 2, 468)[2:]
		if len(padded)%468 != 0 || len(padded) < len(b)+4 || len(padded) >= len(b)+4+468 {
			t.Fatalf("%d octets became %d", len(b), len(padded))
		}
		got := new(dns.Msg)
		if err := got.Unpack(padded); err != nil {
			t.Fatal(err)
		}
		option, ok := got.IsEdns0().Option[0].(*dns.EDNS0_PADDING)
		if !ok || len(padded)-len(option.Padding)-4 != len(b) {
			t.Fatalf("options: %v", got.IsEdns0().Option)
		}
		got.IsEdns0().Option = nil
		if diff := cmp.Diff(m.String(), got.String()); diff != "" {
			t.Fatal(diff)
		}
	}
	without := optioned(t)
	without[2] |= 0x80
	if got := PadDNS(without, 0, 468); len(got) != len(without) {
		t.Errorf("an answer without OPT was padded to %d octets", len(got))
	}
}

func TestPadDNSAtTheEnd(t *testing.T) {
	m := new(dns.Msg)
	m.SetQuestion("www.example.net.", dns.TypeNULL)
	m.Response = true
	m.Answer = []dns.RR{&dns.NULL{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeNULL, Class: dns.ClassINET}}}
	m.SetEdns0(1232, false)
	for _, c := range []struct{ spare, want int }{{0, 0xffff}, {3, 0xffff - 3}, {4, 0xffff}, {10, 0xffff}, {200, 140 * 468}} {
		m.Answer[0].(*dns.NULL).Data = ""
		m.Answer[0].(*dns.NULL).Data = string(make([]byte, 0xffff-c.spare-m.Len()))
		b, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		if got := PadDNS(b, 0, 468); len(got) != c.want {
			t.Errorf("%d octets to spare: %d, want %d", c.spare, len(got), c.want)
		}
	}
}

func TestService(t *testing.T) {
	q := DNSQuery{Name: []byte("\x04_dns\x08resolver\x04arpa\x00"), Type: DNSTypeSVCB, Class: DNSClassIN}
	a := BeginDNSAnswer(nil, &q, 0, DNSNoError)
	target := []byte("\x03dns\x04conf\x07example\x00")
	a.Service(DNSService{Priority: 1, Target: target, ALPN: []string{"dot", "doq"}, Port: 8853, Hints: []netip.Addr{netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("10.1.0.2")}}, 300)
	a.Service(DNSService{Priority: 2, Target: target, ALPN: []string{"h2"}, DoHPath: "/dns-query{?dns}"}, 300)
	m := new(dns.Msg)
	if err := m.Unpack(a.Finish(&q, DNSNoError, 1232)); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range m.Answer {
		got = append(got, r.String())
	}
	want := []string{
		"_dns.resolver.arpa.\t300\tIN\tSVCB\t1 dns.conf.example. alpn=\"dot,doq\" port=\"8853\" ipv4hint=\"10.1.0.1,10.1.0.2\" ipv6hint=\"2001:db8::1\"",
		"_dns.resolver.arpa.\t300\tIN\tSVCB\t2 dns.conf.example. alpn=\"h2\" dohpath=\"/dns-query{?dns}\"",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// FuzzPadDNS: what can be read before can be read after, and is a whole number of blocks.
func FuzzPadDNS(f *testing.F) {
	f.Add(optioned(f, &dns.EDNS0_PADDING{Padding: make([]byte, 9)}))
	f.Add(optioned(f))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if q, err := ParseDNSQuery(b); err == nil {
			HasDNSOption(b, q.End, DNSOptionPadding)
		}
		before := len(b)
		got := PadDNS(append([]byte(nil), b...), 0, 468)
		if len(got) == before {
			return
		}
		if len(got)%468 != 0 && len(got) != 0xffff {
			t.Fatalf("%d octets became %d", before, len(got))
		}
		if _, err := WalkDNS(got, func(DNSRecord) {}); err != nil {
			t.Fatalf("unreadable when padded: %x", got)
		}
	})
}
