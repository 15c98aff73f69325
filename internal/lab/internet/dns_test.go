//go:build linux

package internet

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

func testWorld(t testing.TB) *world {
	t.Helper()
	w, err := newWorld(Config{Seed: 7, Names: 500, Also: []string{"time.venue.example", "www.kumodns.com", "192.0.2.5"}, Resolvers: []netip.AddrPort{netip.MustParseAddrPort("9.9.9.9:53")}})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// replyTo unpacks what the server at the address says.
func (w *world) replyTo(t testing.TB, at, name string, kind uint16, change func(*dns.Msg)) *dns.Msg {
	t.Helper()
	q := new(dns.Msg).SetQuestion(name, kind)
	if change != nil {
		change(q)
	}
	wire, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	answer, err := w.answer(netip.MustParseAddr(at), wire, true)
	if err != nil || answer == nil {
		t.Fatalf("no answer: %v", err)
	}
	r := new(dns.Msg)
	if err := r.Unpack(answer); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestAnswers(t *testing.T) {
	w := testWorld(t)
	const root, public = "198.41.0.4", "9.9.9.9"
	com := w.zones["com."].records["a.nic.com."][dns.TypeA][0].(*dns.A).A.String()
	for _, c := range []struct {
		name, at, ask string
		kind          uint16
		change        func(*dns.Msg)
		want          string
	}{
		{"root refers", root, "www.kumodns.com.", dns.TypeA, nil, "NOERROR ns=2 extra=4"},
		{"root answers for itself", root, ".", dns.TypeNS, nil, "NOERROR aa answer=13"},
		{"root knows no such domain", root, "nowhere.nosuch.", dns.TypeA, nil, "NXDOMAIN aa ns=1"},
		{"top domain refers on", com, "www.kumodns.com.", dns.TypeA, nil, "NOERROR ns=2 extra=4"},
		{"top domain in capitals", com, "WWW.KUMODNS.COM.", dns.TypeA, nil, "NOERROR ns=2 extra=4"},
		{"top domain has no such name", com, "nosuch.com.", dns.TypeA, nil, "NXDOMAIN aa ns=1"},
		{"another's zone", com, "www.venue.example.", dns.TypeA, nil, "REFUSED"},
		{"nobody's address", "198.18.77.77", "com.", dns.TypeA, nil, "REFUSED"},
		{"delegation signer is the parent's", root, "com.", dns.TypeDS, nil, "NOERROR aa ns=1"},
		{"public resolver", public, "time.venue.example.", dns.TypeTXT, nil, "NOERROR ra ns=1"},
		{"public resolver has no such name", public, "nosuch.example.", dns.TypeA, nil, "NXDOMAIN ra ns=1"},
		{"a name between", public, "venue.example.", dns.TypeA, nil, "NOERROR ra ns=1"},
		{"any", public, "com.", dns.TypeANY, nil, "NOERROR ra answer=1"},
		{"not a query", public, "com.", dns.TypeA, func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }, "NOTIMP"},
		{"two questions", public, "com.", dns.TypeA, func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }, "FORMERR"},
		{"chaos", public, "com.", dns.TypeTXT, func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }, "REFUSED"},
		{"EDNS", public, "nosuch.example.", dns.TypeA, func(m *dns.Msg) { m.SetEdns0(4096, false) }, "NXDOMAIN ra ns=1 extra=1"},
		{"EDNS of the future", public, "com.", dns.TypeA, func(m *dns.Msg) { m.SetEdns0(1232, false); m.IsEdns0().SetVersion(1) }, "BADVERS extra=1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := w.replyTo(t, c.at, c.ask, c.kind, c.change)
			if diff := cmp.Diff(c.want, summary(r)); diff != "" {
				t.Errorf("-want +got\n%s\n%v", diff, r)
			}
		})
	}
}

func summary(r *dns.Msg) string {
	s := dns.RcodeToString[r.Rcode]
	if r.Rcode == dns.RcodeBadVers {
		s = "BADVERS"
	}
	for _, f := range []struct {
		on   bool
		text string
	}{
		{r.Authoritative, " aa"}, {r.RecursionAvailable, " ra"}, {r.Truncated, " tc"},
		{len(r.Answer) > 0, fmt.Sprintf(" answer=%d", len(r.Answer))},
		{len(r.Ns) > 0, fmt.Sprintf(" ns=%d", len(r.Ns))}, {len(r.Extra) > 0, fmt.Sprintf(" extra=%d", len(r.Extra))},
	} {
		if f.on {
			s += f.text
		}
	}
	return s
}

// TestLongAnswersAreTruncated: the root's 13 name servers with nothing but 512 bytes do not
// overflow, and a referral over UDP never exceeds what was offered.
func TestLongAnswersAreTruncated(t *testing.T) {
	w := testWorld(t)
	z := w.zones["venue.example."]
	for i := range 60 {
		z.add(&dns.A{Hdr: head("big.venue.example.", dns.TypeA, 60), A: address4(uint32(i)).AsSlice()})
	}
	for _, c := range []struct {
		offered uint16
		udp     bool
		most    int
		cut     bool
	}{{0, true, 512, true}, {600, true, 600, true}, {65000, true, 1232, false}, {0, false, 65535, false}} {
		q := new(dns.Msg).SetQuestion("big.venue.example.", dns.TypeA)
		if c.offered > 0 {
			q.SetEdns0(c.offered, false)
		}
		wire, err := q.Pack()
		if err != nil {
			t.Fatal(err)
		}
		answer, err := w.answer(netip.MustParseAddr("9.9.9.9"), wire, c.udp)
		if err != nil {
			t.Fatal(err)
		}
		if truncated := answer[2]&2 != 0; len(answer) > c.most || truncated != c.cut {
			t.Errorf("offered %d: %d bytes, truncated %v", c.offered, len(answer), truncated)
		}
	}
}

func TestWorldHasVarietyAndIsRepeatable(t *testing.T) {
	w, again := testWorld(t), testWorld(t)
	if diff := cmp.Diff(w.popular, again.popular); diff != "" {
		t.Errorf("two worlds of one seed differ:\n%s", diff)
	}
	if n := len(w.popular); n != 500 {
		t.Errorf("%d names, want 500", n)
	}
	sorted := slices.Sorted(slices.Values(w.popular))
	if unique := slices.Compact(slices.Clone(sorted)); len(unique) != len(sorted) {
		t.Errorf("%d names, only %d distinct", len(sorted), len(unique))
	}
	count := map[string]int{}
	for _, name := range w.popular {
		for _, kind := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeHTTPS} {
			r := w.replyTo(t, "9.9.9.9", name+".", kind, nil)
			if r.Rcode != dns.RcodeSuccess {
				t.Errorf("%s: %v", name, r)
			}
			for _, rr := range r.Answer {
				count[dns.TypeToString[rr.Header().Rrtype]]++
				if a, ok := rr.(*dns.A); ok {
					if at, _ := netip.AddrFromSlice(a.A.To4()); !world4.Contains(at) {
						t.Errorf("%s is outside the world", at)
					}
				}
			}
		}
	}
	for _, kind := range []string{"A", "AAAA", "HTTPS", "CNAME"} {
		if count[kind] < 50 {
			t.Errorf("only %d %s records among 500 names", count[kind], kind)
		}
	}
}

func TestNewWorldRefuses(t *testing.T) {
	for _, c := range []struct {
		cfg  Config
		want string
	}{
		{Config{Names: 20000}, "1 to 10000 are possible"},
		{Config{Names: 10, Also: []string{"localhost"}}, "two labels or more"},
		{Config{Names: 10, Also: []string{"bad..name"}}, "two labels or more"},
		{Config{Names: 10, Resolvers: []netip.AddrPort{netip.MustParseAddrPort("9.9.9.9:5353")}}, "only port 53"},
	} {
		if _, err := newWorld(c.cfg); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.cfg, err, c.want)
		}
	}
}

// FuzzAnswer: whatever is asked of whomever, the answer is none or a well-formed reply to it.
func FuzzAnswer(f *testing.F) {
	w := testWorld(f)
	at := []netip.Addr{netip.MustParseAddr("198.41.0.4"), netip.MustParseAddr("9.9.9.9"), address4(1), address4(20)}
	for _, name := range []string{".", "www.kumodns.com.", w.popular[0] + ".", "\\000.example."} {
		wire, err := new(dns.Msg).SetQuestion(name, dns.TypeA).SetEdns0(1232, true).Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(wire, byte(0))
		f.Add(wire, byte(1))
		f.Add(wire[:len(wire)-3], byte(2))
	}
	f.Fuzz(func(t *testing.T, query []byte, server byte) {
		answer, err := w.answer(at[int(server)%len(at)], query, true)
		if err != nil || answer == nil {
			return
		}
		r := new(dns.Msg)
		if err := r.Unpack(answer); err != nil {
			t.Fatalf("answered %x, which can't be read: %v", answer, err)
		}
		if len(answer) > payload || !r.Response || answer[0] != query[0] || answer[1] != query[1] {
			t.Fatalf("%d bytes, response %v", len(answer), r.Response)
		}
	})
}

func BenchmarkAnswer(b *testing.B) {
	w := testWorld(b)
	at := netip.MustParseAddr("9.9.9.9")
	var wires [][]byte
	for _, name := range w.popular {
		wire, err := new(dns.Msg).SetQuestion(name+".", dns.TypeA).Pack()
		if err != nil {
			b.Fatal(err)
		}
		wires = append(wires, wire)
	}
	i := 0
	for b.Loop() {
		if _, err := w.answer(at, wires[i%len(wires)], true); err != nil {
			b.Fatal(err)
		}
		i++
	}
}
