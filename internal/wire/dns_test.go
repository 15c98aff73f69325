package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

// question packs a query by the library.
func question(t testing.TB, name string, typ uint16, change func(*dns.Msg)) []byte {
	t.Helper()
	m := new(dns.Msg)
	m.SetQuestion(name, typ)
	m.Id = 0x1234
	if change != nil {
		change(m)
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestParseDNSQuery(t *testing.T) {
	edns := func(size uint16, do bool) func(*dns.Msg) { return func(m *dns.Msg) { m.SetEdns0(size, do) } }
	for name, c := range map[string]struct {
		b    []byte
		want DNSQuery
	}{
		"plain": {question(t, "WwW.example.", dns.TypeA, nil),
			DNSQuery{ID: 0x1234, Flags: DNSFlagRD, Name: []byte("\x03WwW\x07example\x00"), Type: 1, Class: 1, End: 29, Size: 512}},
		"EDNS": {question(t, "a.", dns.TypeAAAA, edns(4096, true)),
			DNSQuery{ID: 0x1234, Flags: DNSFlagRD, Name: []byte("\x01a\x00"), Type: 28, Class: 1, End: 19, Size: 4096, EDNS: true, DO: true}},
		"EDNS smaller than allowed": {question(t, ".", dns.TypeNS, edns(100, false)),
			DNSQuery{ID: 0x1234, Flags: DNSFlagRD, Name: []byte("\x00"), Type: 2, Class: 1, End: 17, Size: 512, EDNS: true}},
	} {
		got, err := ParseDNSQuery(c.b)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestParseDNSQueryFaults(t *testing.T) {
	good := question(t, "www.example.", dns.TypeA, func(m *dns.Msg) { m.SetEdns0(1232, false) })
	change := func(f func(b []byte) []byte) []byte { return f(bytes.Clone(good)) }
	for name, c := range map[string]struct {
		b    []byte
		want error
	}{
		"empty":                  {nil, ErrDNSIgnore},
		"eleven octets":          {good[:11], ErrDNSIgnore},
		"header alone":           {good[:12], ErrDNSForm},
		"cut in the name":        {good[:15], ErrDNSForm},
		"cut in the OPT":         {good[:len(good)-1], ErrDNSForm},
		"a response":             {change(func(b []byte) []byte { b[2] |= 0x80; return b }), ErrDNSIgnore},
		"no question":            {change(func(b []byte) []byte { b[5] = 0; return b }), ErrDNSForm},
		"two questions":          {change(func(b []byte) []byte { b[5] = 2; return b }), ErrDNSForm},
		"an answer":              {change(func(b []byte) []byte { b[7] = 1; return b }), ErrDNSForm},
		"65535 additional":       {change(func(b []byte) []byte { b[10], b[11] = 255, 255; return b }), ErrDNSForm},
		"pointer in question":    {change(func(b []byte) []byte { b[12], b[13] = 0xc0, 12; return b }), ErrDNSForm},
		"label of reserved kind": {change(func(b []byte) []byte { b[12] = 0x41; return b }), ErrDNSForm},
		"two OPTs":               {change(func(b []byte) []byte { b[11] = 2; return append(b, b[len(b)-11:]...) }), ErrDNSForm},
		"name of 256 octets": {append([]byte{0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0}, append(bytes.Repeat(append([]byte{63}, make([]byte, 63)...), 4),
			0, 0, 1, 0, 1)...), ErrDNSForm},
	} {
		if _, err := ParseDNSQuery(c.b); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func TestWalkDNS(t *testing.T) {
	m := new(dns.Msg)
	m.SetQuestion("www.example.", dns.TypeA)
	m.Response, m.Compress = true, true
	for _, s := range []string{"www.example. 300 IN CNAME web.example.", "web.example. 60 IN A 192.0.2.1", "web.example. 61 IN A 192.0.2.2"} {
		m.Answer = append(m.Answer, rr(t, s))
	}
	m.Ns = append(m.Ns, rr(t, "example. 3600 IN NS ns.example."))
	m.Extra = append(m.Extra, rr(t, "ns.example. 3601 IN AAAA 2001:db8::1"))
	m.SetEdns0(1232, true)
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	type line struct {
		Section int
		Type    uint16
		TTL     uint32
	}
	var got []line
	end, err := WalkDNS(b, func(r DNSRecord) {
		if binary.BigEndian.Uint32(b[r.TTLAt:]) != r.TTL {
			t.Errorf("TTLAt %d is not the place of the TTL", r.TTLAt)
		}
		if r.Type != DNSTypeOPT {
			got = append(got, line{r.Section, r.Type, r.TTL})
		}
	})
	if err != nil || end != DNSHeader+13+4 {
		t.Fatalf("question ends at %d, %v", end, err)
	}
	want := []line{{1, 5, 300}, {1, 1, 60}, {1, 1, 61}, {2, 2, 3600}, {3, 28, 3601}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for cut := range len(b) {
		if _, err := WalkDNS(b[:cut], func(DNSRecord) {}); err == nil {
			t.Errorf("a message cut to %d of %d octets: no error", cut, len(b))
		}
	}
}

func rr(t testing.TB, s string) dns.RR {
	t.Helper()
	r, err := dns.NewRR(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestSkipNameEndsInLoops(t *testing.T) {
	head := make([]byte, 12)
	for name, c := range map[string]struct {
		tail string
		ok   bool
	}{
		"root":               {"\x00", true},
		"to itself":          {"\xc0\x0c", false},
		"forward":            {"\xc0\x10\x00\x00\x00\x00", false},
		"into the header":    {"\xc0\x00", false},
		"cut pointer":        {"\xc0", false},
		"label past the end": {"\x05ab", false},
	} {
		if _, ok := skipName(append(head, c.tail...), 12); ok != c.ok {
			t.Errorf("%s: ok = %v", name, ok)
		}
	}
	// Pointers to pointers: more than a name has labels only cost time.
	chain := append(head, 0)
	for at := 12; len(chain) < 600; {
		next := len(chain)
		chain = append(chain, 0xc0|byte(at>>8), byte(at))
		at = next
	}
	for n, want := range map[int]bool{1: true, dnsMaxLabels: true, dnsMaxLabels + 1: false, 250: false} {
		if _, ok := skipName(chain, 13+2*(n-1)); ok != want {
			t.Errorf("%d pointers: ok = %v", n, ok)
		}
	}
	// 130 labels of one letter, each followed by a pointer to the one before: 260 octets.
	b := append(head, 0)
	last := 12
	for range 130 {
		at := len(b)
		b = append(b, 1, 'x', 0xc0|byte(last>>8), byte(last))
		last = at
	}
	if _, ok := skipName(b, last); ok {
		t.Error("a name of more than 255 octets by pointers is ok")
	}
}

func TestDNSAnswersAreReadByTheLibrary(t *testing.T) {
	b := question(t, "Gw1.Yapc.Example.", dns.TypeA, func(m *dns.Msg) { m.SetEdns0(1232, true) })
	q, err := ParseDNSQuery(b)
	if err != nil {
		t.Fatal(err)
	}
	zone, _ := PackDNSName(nil, "yapc.example")
	host, _ := PackDNSName(nil, "gw1.yapc.example.")
	a := BeginDNSAnswer(nil, &q, DNSFlagAA, DNSNoError)
	a.Addr(netip.MustParseAddr("10.0.0.1"), 60)
	a.Addr(netip.MustParseAddr("2001:db8::1"), 61)
	a.Name(DNSTypePTR, host, 62)
	a.HINFO("RFC8482", "", 3600)
	a.SOA(2, zone, host, host, 7, 30)
	var m dns.Msg
	if err := m.Unpack(a.Finish(&q, DNSBadVers, 1232)); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range append(append(m.Answer, m.Ns...), m.Extra...) {
		got = append(got, strings.ReplaceAll(r.String(), "\t", " "))
	}
	want := []string{
		"Gw1.Yapc.Example. 60 IN A 10.0.0.1",
		"Gw1.Yapc.Example. 61 IN AAAA 2001:db8::1",
		"Gw1.Yapc.Example. 62 IN PTR gw1.yapc.example.",
		"Gw1.Yapc.Example. 3600 IN HINFO \"RFC8482\" \"\"",
		"yapc.example. 30 IN SOA gw1.yapc.example. gw1.yapc.example. 7 3600 600 86400 30",
		"\n;; OPT PSEUDOSECTION:\n; EDNS: version 0; flags: do; udp: 1232",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if !m.Authoritative || !m.RecursionAvailable || !m.RecursionDesired || m.Id != 0x1234 || m.Rcode != dns.RcodeBadVers {
		t.Errorf("header %+v", m.MsgHdr)
	}
}

func TestPackDNSName(t *testing.T) {
	for name, ok := range map[string]bool{
		"": true, ".": true, "a": true, "a.b.": true, "a..b": false, ".a": false,
		strings.Repeat("x", 63): true, strings.Repeat("x", 64): false, strings.Repeat("x.", 127): true, strings.Repeat("x.", 128): false,
	} {
		b, err := PackDNSName([]byte("before"), name)
		if (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
			continue
		}
		if !ok {
			if string(b) != "before" {
				t.Errorf("%q: left %q", name, b)
			}
			continue
		}
		if got, want := DNSNameString(b[6:]), strings.TrimSuffix(name, "."); got != want && want != "" {
			t.Errorf("%q came back as %q", name, got)
		}
	}
	if got := DNSNameString([]byte("\x03a.b\x02\x01\xff\x00")); got != `a\046b.\001\255` {
		t.Errorf("escaped %q", got)
	}
}

func FuzzParseDNSQuery(f *testing.F) {
	f.Add(question(f, "www.example.", dns.TypeA, nil))
	f.Add(question(f, "www.example.", dns.TypeAAAA, func(m *dns.Msg) { m.SetEdns0(1232, true) }))
	f.Add([]byte("0000\x00\x01\x00\x00\x00\x01\x00\x00\x000000\x00\x00)000000\x00\x00")) // OPT in the authority section
	f.Add(question(f, ".", dns.TypeNS, func(m *dns.Msg) { m.Extra = append(m.Extra, rr(f, "a. 1 IN A 192.0.2.1")) }))
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := ParseDNSQuery(b)
		if err != nil {
			return
		}
		if q.End > len(b) || len(q.Name) > DNSMaxName {
			t.Fatalf("%+v of %x", q, b)
		}
		// The library reads what we read, and the same (it reads less: not every record's
		// data must be right for a query to be answered).
		var m dns.Msg
		if m.Unpack(b) != nil {
			return
		}
		want := dns.Question{Name: m.Question[0].Name, Qtype: q.Type, Qclass: q.Class}
		if diff := cmp.Diff(want, m.Question[0]); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if name, _, err := dns.UnpackDomainName(q.Name, 0); err != nil || name != want.Name {
			t.Errorf("name %q, %v, library %q", name, err, want.Name)
		}
		if opt := m.IsEdns0(); (opt != nil) != q.EDNS || opt != nil && (opt.Do() != q.DO || opt.Version() != q.Version) {
			t.Errorf("EDNS: %v, library %v", q, opt)
		}
	})
}

func FuzzWalkDNS(f *testing.F) {
	m := new(dns.Msg)
	m.SetQuestion("www.example.", dns.TypeA)
	m.Response, m.Compress = true, true
	m.Answer = append(m.Answer, rr(f, "www.example. 300 IN CNAME web.example."), rr(f, "web.example. 60 IN A 192.0.2.1"))
	m.SetEdns0(1232, true)
	b, err := m.Pack()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(question(f, "www.example.", dns.TypeA, nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		var types []uint16
		var ttls []uint32
		if _, err := WalkDNS(b, func(r DNSRecord) { types, ttls = append(types, r.Type), append(ttls, r.TTL) }); err != nil {
			return
		}
		var m dns.Msg
		if m.Unpack(b) != nil {
			return // the library also reads the records' data
		}
		all := append(append(m.Answer, m.Ns...), m.Extra...)
		if len(all) != len(types) {
			t.Fatalf("%d records, library %d", len(types), len(all))
		}
		for i, r := range all {
			if r.Header().Rrtype != types[i] || r.Header().Ttl != ttls[i] {
				t.Errorf("record %d: type %d TTL %d, library %v", i, types[i], ttls[i], r)
			}
		}
	})
}

func BenchmarkParseDNSQuery(b *testing.B) {
	p := question(b, "www.example.com.", dns.TypeA, func(m *dns.Msg) { m.SetEdns0(1232, false) })
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseDNSQuery(p); err != nil {
			b.Fatal(err)
		}
	}
}
