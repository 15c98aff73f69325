package resolver

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hotstage/hotstage/internal/wire"
	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// ask gives a packet to the handler at noon.
func (h *handler) ask(packet []byte, from string, udp bool) ([]byte, verdict) {
	var q wire.DNSQuery
	var k key
	return h.handle(nil, packet, addr(from), udp, noon, &q, &k)
}

// said is an answer in one line: "NXDOMAIN aa", and its size when it is truncated.
func said(m *dns.Msg) string {
	s := dns.RcodeToString[m.Rcode]
	for _, f := range []struct {
		is   bool
		name string
	}{{m.Authoritative, "aa"}, {m.Truncated, "tc"}, {m.AuthenticatedData, "ad"}, {m.CheckingDisabled, "cd"}, {m.RecursionDesired, "rd"}} {
		if f.is {
			s += " " + f.name
		}
	}
	if opt := m.IsEdns0(); opt != nil {
		s += " edns"
		if opt.Do() {
			s += " do"
		}
	}
	return s
}

func TestHandle(t *testing.T) {
	const in, out = "10.1.0.50", "10.1.16.50"
	cd := func(m *dns.Msg) { m.CheckingDisabled = true }
	ad := func(m *dns.Msg) { m.AuthenticatedData = true }
	opcode := func(n int) func(*dns.Msg) { return func(m *dns.Msg) { m.Opcode = n } }
	version := func(m *dns.Msg) { m.SetEdns0(1232, false); m.IsEdns0().SetVersion(1) }
	class := func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }
	prerequisite := func(m *dns.Msg) {
		m.Opcode = dns.OpcodeUpdate
		m.Answer = append(m.Answer, record(t, "a.b. 0 IN A 1.2.3.4"))
	}
	for _, c := range []struct {
		what   string
		packet []byte
		from   string
		want   string
		counts string // the counter that moves, beside the transport's
	}{
		{"in the cache", question(t, "www.example.net", dns.TypeA), in, "NOERROR rd", "cache"},
		{"in the cache, other case, EDNS", question(t, "WWW.eXample.NET", dns.TypeA, edns(4096, false)), in, "NOERROR rd edns", "cache"},
		{"another key with DO", question(t, "www.example.net", dns.TypeA, edns(4096, true)), in, "wait", ""},
		{"another key with CD", question(t, "www.example.net", dns.TypeA, cd), in, "wait", ""},
		{"AD asked for", question(t, "www.example.net", dns.TypeA, ad), in, "NOERROR ad rd", "cache"},
		{"not to be snooped on", question(t, "www.example.net", dns.TypeA, noRD), in, "REFUSED", "refused"},
		{"not in the cache", question(t, "www.example.org", dns.TypeA), in, "wait", ""},
		{"not in the cache, without RD", question(t, "www.example.org", dns.TypeA, noRD), in, "REFUSED", "refused"},
		{"too large for 512 octets", question(t, "big.example.net", dns.TypeTXT), in, "NOERROR tc rd", "cache"},
		{"fits with EDNS", question(t, "big.example.net", dns.TypeTXT, edns(1232, false)), in, "NOERROR rd edns", "cache"},
		{"EDNS of less than 512 is 512", question(t, "big.example.net", dns.TypeTXT, edns(100, false)), in, "NOERROR tc rd edns", "cache"},
		{"larger than we send by UDP", question(t, "huge.example.net", dns.TypeTXT, edns(4096, false)), in, "NOERROR tc rd edns", "cache"},
		{"our name", question(t, "gw1.yapc.example", dns.TypeA), in, "NOERROR aa rd", "own"},
		{"our name without RD", question(t, "gw1.yapc.example", dns.TypeA, noRD), in, "NOERROR aa", "own"},
		{"ANY", question(t, "www.example.org", dns.TypeANY), in, "NOERROR rd", "own"},
		{"IPv6 client", question(t, "www.example.net", dns.TypeA), "2001:db8:1::7", "NOERROR rd", "cache"},
		{"link-local client", question(t, "www.example.net", dns.TypeA), "fe80::7", "NOERROR rd", "cache"},
		{"this node", question(t, "www.example.net", dns.TypeA), "127.0.0.1", "NOERROR rd", "cache"},
		{"a stranger", question(t, "www.example.net", dns.TypeA), out, "ignore", "foreign"},
		{"an IPv6 stranger", question(t, "www.example.net", dns.TypeA), "2001:db8:2::7", "ignore", "foreign"},
		{"EDNS version 1 (16 is BADVERS there)", question(t, "www.example.net", dns.TypeA, version), in, "BADSIG rd edns", "refused"},
		{"class CHAOS", question(t, "version.bind", dns.TypeTXT, class), in, "REFUSED rd", "refused"},
		{"AXFR", question(t, "yapc.example", dns.TypeAXFR), in, "REFUSED rd", "refused"},
		{"type 0", question(t, "www.example.net", 0), in, "FORMERR rd", "refused"},
		{"NOTIFY", question(t, "yapc.example", dns.TypeSOA, opcode(dns.OpcodeNotify)), in, "NOTIMP rd", "refused"},
		{"UPDATE with a prerequisite", question(t, "yapc.example", dns.TypeSOA, prerequisite), in, "NOTIMP rd", "refused"},
		{"a response", response(t, "www.example.net", dns.TypeA, 0), in, "ignore", "malformed"},
		{"eleven octets", make([]byte, 11), in, "ignore", "malformed"},
		{"no question", make([]byte, 12), in, "FORMERR", "malformed"},
		{"name in a loop", append(question(t, "", dns.TypeA)[:12], 0xc0, 12, 0, 1, 0, 1), in, "FORMERR rd", "malformed"},
	} {
		t.Run(c.what, func(t *testing.T) {
			h := newHandler(hall(), nil)
			www := cached(t, noon, response(t, "www.example.net", dns.TypeA, 0, "www.example.net. 300 IN A 192.0.2.1"))
			www.msg[3] |= 0x20 // AD
			h.cache.put(www)
			h.cache.put(cached(t, noon, response(t, "big.example.net", dns.TypeTXT, 0, text("big.example.net", 600))))
			h.cache.put(cached(t, noon, response(t, "huge.example.net", dns.TypeTXT, 0, text("huge.example.net", 1300))))
			reply, v := h.ask(c.packet, c.from, true)
			got := [...]string{"ignore", "answer", "wait"}[v]
			if v == answer {
				m := unpacked(t, reply)
				got = said(m)
				limit := 512
				if q, err := wire.ParseDNSQuery(c.packet); err == nil {
					limit = min(int(q.Size), 1232)
					if !bytes.Equal(reply[12:q.End], c.packet[12:q.End]) {
						t.Errorf("the question came back as %q", reply[12:q.End])
					}
				}
				if m.Id != binary.BigEndian.Uint16(c.packet) || !m.Response || !m.RecursionAvailable || len(reply) > limit {
					t.Errorf("%d octets, header %+v", len(reply), m.MsgHdr)
				}
				if m.Truncated && len(m.Answer) > 0 {
					t.Errorf("records in a truncated answer: %v", m.Answer)
				}
			}
			if got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
			if moved := h.m.moved(); moved != c.counts {
				t.Errorf("counted as %q, want %q", moved, c.counts)
			}
			// By TCP everything fits.
			if reply, v := h.ask(c.packet, c.from, false); v == answer && unpacked(t, reply).Truncated {
				t.Error("truncated by TCP")
			}
		})
	}
}

// text is a TXT record with data of about n octets.
func text(name string, n int) string {
	s := name + ". 300 IN TXT"
	for ; n > 0; n -= 101 {
		s += ` "` + strings.Repeat("x", 100) + `"`
	}
	return s
}

// moved names the counters that are not zero, without those of the transport.
func (m *Metrics) moved() string {
	var names []string
	for name, c := range map[string]prometheus.Counter{
		"cache": m.hits, "own": m.own, "asked": m.asked, "stale": m.stale, "failed": m.failed, "malformed": m.malformed,
		"foreign": m.foreign, "client-rate-truncated": m.limited, "client-rate": m.dropped, "refused": m.refused, "busy": m.busy,
	} {
		if testutil.ToFloat64(c) > 0 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

// TestTTLsRun: what a client is told counts down, and an expired answer is not given.
func TestTTLsRun(t *testing.T) {
	h := newHandler(hall(), nil)
	h.cache.put(cached(t, noon, response(t, "www.example.net", dns.TypeA, 0,
		"www.example.net. 300 IN CNAME web.example.net.", "web.example.net. 60 IN A 192.0.2.1", "!example.net. 86400 IN NS ns.example.net.")))
	for _, c := range []struct {
		after time.Duration
		want  []string
	}{
		{0, []string{"www.example.net. 300 IN CNAME web.example.net.", "web.example.net. 60 IN A 192.0.2.1", "!example.net. 86400 IN NS ns.example.net."}},
		{1500 * time.Millisecond, []string{"www.example.net. 299 IN CNAME web.example.net.", "web.example.net. 59 IN A 192.0.2.1", "!example.net. 86399 IN NS ns.example.net."}},
		{59999 * time.Millisecond, []string{"www.example.net. 241 IN CNAME web.example.net.", "web.example.net. 1 IN A 192.0.2.1", "!example.net. 86341 IN NS ns.example.net."}},
		{60 * time.Second, nil},
	} {
		var q wire.DNSQuery
		var k key
		reply, v := h.handle(nil, question(t, "www.example.net", dns.TypeA, edns(1232, false)), addr("10.1.0.50"), true, noon.Add(c.after), &q, &k)
		if (v == answer) != (c.want != nil) {
			t.Errorf("after %v: verdict %v", c.after, v)
			continue
		}
		if v == answer {
			if diff := cmp.Diff(c.want, lines(unpacked(t, reply))); diff != "" {
				t.Errorf("after %v (-want +got):\n%s", c.after, diff)
			}
		}
	}
}

// TestClientOverItsRate: a burst passes, then truncated answers send the client to TCP, then
// nothing; another client is not touched, and a second later the first may ask again.
func TestClientOverItsRate(t *testing.T) {
	h := newHandler(hall(), nil)
	packet := question(t, "gw1.yapc.example", dns.TypeA)
	var q wire.DNSQuery
	var k key
	got := map[string]int{}
	ask := func(from string, n int, at time.Time) {
		clear(got)
		for range n {
			reply, v := h.handle(nil, packet, addr(from), true, at, &q, &k)
			if v == ignore {
				got["none"]++
			} else {
				got[said(unpacked(t, reply))]++
			}
		}
	}
	ask("10.1.0.50", 1100, noon)
	if diff := cmp.Diff(map[string]int{"NOERROR aa rd": clientBurst, "NOERROR tc rd": slipRate, "none": 80}, got); diff != "" {
		t.Errorf("burst (-want +got):\n%s", diff)
	}
	ask("10.1.0.51", 1, noon)
	if diff := cmp.Diff(map[string]int{"NOERROR aa rd": 1}, got); diff != "" {
		t.Errorf("neighbour (-want +got):\n%s", diff)
	}
	ask("10.1.0.50", 400, noon.Add(time.Second))
	if diff := cmp.Diff(map[string]int{"NOERROR aa rd": clientRate, "NOERROR tc rd": slipRate, "none": 80}, got); diff != "" {
		t.Errorf("a second later (-want +got):\n%s", diff)
	}
}

// TestCachedAnswerAllocatesNothing holds for all that the hot path does, whoever asks.
func TestCachedAnswerAllocatesNothing(t *testing.T) {
	h := newHandler(hall(), nil)
	h.cache.put(cached(t, noon, response(t, "www.example.net", dns.TypeA, 0, "www.example.net. 300 IN A 192.0.2.1")))
	buf := make([]byte, 0, ourSize)
	var q wire.DNSQuery
	var k key
	now := noon
	for _, from := range []netip.Addr{addr("10.1.0.50"), addr("2001:db8:1::50"), addr("fe80::50")} {
		for _, packet := range [][]byte{question(t, "wWw.example.net", dns.TypeA, edns(1232, false)), question(t, "www.example.net", dns.TypeA)} {
			n := testing.AllocsPerRun(1000, func() {
				now = now.Add(10 * time.Millisecond)
				if _, v := h.handle(buf, packet, from, true, now, &q, &k); v != answer {
					t.Fatal("not from the cache")
				}
			})
			if n != 0 {
				t.Errorf("%v allocations for a cached answer to %v", n, from)
			}
		}
	}
}

func BenchmarkCachedAnswer(b *testing.B) {
	h := newHandler(hall(), nil)
	packets := make([][]byte, 512)
	for i := range packets {
		name := fmt.Sprintf("www%d.example.net", i)
		h.cache.put(cached(b, noon, response(b, name, dns.TypeA, 0, name+". 86400 IN CNAME a."+name+".", "a."+name+". 86400 IN A 192.0.2.1")))
		packets[i] = question(b, name, dns.TypeA, edns(1232, false))
	}
	buf := make([]byte, 0, ourSize)
	var q wire.DNSQuery
	var k key
	from := addr("10.1.0.50")
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		now := noon.Add(time.Duration(i%20_000_000) * 4 * time.Millisecond) // 250 queries per second: below the client's rate
		if _, v := h.handle(buf, packets[i%len(packets)], from, true, now, &q, &k); v != answer {
			b.Fatal("not from the cache")
		}
	}
}

// FuzzHandle: whatever comes, no panic, the cache is as before, every packet is counted, an
// answer goes with its question, is no longer than the client takes and can be read by the
// library, and a backend is asked only for what the library reads as one question too.
func FuzzHandle(f *testing.F) {
	good := question(f, "www.example.net", dns.TypeA, edns(1232, true))
	f.Add(good, true)
	f.Add(question(f, "gw1.yapc.example", dns.TypeAAAA), false)
	f.Add(question(f, "50.0.1.10.in-addr.arpa", dns.TypePTR), true)
	f.Add(question(f, "phone.yapc.example", dns.TypeANY), true)
	f.Add(question(f, "www.example.org", dns.TypeA), true)
	f.Add(good[:len(good)-1], true)
	f.Add(good[:15], false)
	f.Add(append(question(f, "", dns.TypeA)[:12], 0xc0, 12, 0, 1, 0, 1), true)
	loop := question(f, "www.example.net", dns.TypeA)
	loop[11] = 1
	f.Add(append(loop, 0xc0, byte(len(loop)), 0, 1, 0, 1, 0, 0, 0, 0, 0, 0), true)
	f.Add(append(slices.Clone(good), make([]byte, maxQuery)...), true)
	many := question(f, "www.example.net", dns.TypeA)
	binary.BigEndian.PutUint16(many[10:], 0xffff)
	f.Add(many, true)
	f.Add(response(f, "www.example.net", dns.TypeA, 0, "www.example.net. 300 IN A 192.0.2.1"), true)
	f.Add(append([]byte{0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}, append(bytes.Repeat(append([]byte{63}, make([]byte, 63)...), 4), 0, 0, 1, 0, 1)...), true)
	leases := &leaseTable{}
	leases.bind("phone.yapc.example", addr("10.1.0.50"))
	h := newHandler(hall(), leases)
	h.cache.put(cached(f, noon, response(f, "www.example.net", dns.TypeA, 0, "www.example.net. 86400 IN A 192.0.2.1")))
	entries, octets := h.cache.used()
	now := noon
	f.Fuzz(func(t *testing.T, b []byte, udp bool) {
		now = now.Add(time.Millisecond * 10)
		if now.Sub(noon) > time.Hour {
			now = noon
		}
		sent := bytes.Clone(b)
		before := h.m.packets()
		var q wire.DNSQuery
		var k key
		reply, v := h.handle(nil, b, addr("10.1.0.50"), udp, now, &q, &k)
		if !bytes.Equal(sent, b) {
			t.Error("the packet was written to")
		}
		if e, o := h.cache.used(); e != entries || o != octets {
			t.Errorf("the cache has %d answers, had %d", e, entries)
		}
		if h.m.packets() == before {
			t.Error("not counted")
		}
		switch v {
		case wait:
			if name, _, err := dns.UnpackDomainName(q.Name, 0); err != nil || dns.IsSubDomain("yapc.example.", strings.ToLower(name)) {
				t.Errorf("asked outside: %q, %v", name, err)
			}
		case answer:
			limit := 0xffff
			if udp {
				limit = min(int(q.Size), ourSize)
			}
			if len(reply) > limit || binary.BigEndian.Uint16(reply) != binary.BigEndian.Uint16(b) || reply[2]&0x80 == 0 {
				t.Errorf("answer %x", reply)
			}
			if err := new(dns.Msg).Unpack(reply); err != nil {
				t.Errorf("the library cannot read %x: %v", reply, err)
			}
		}
	})
}

// packets grows with every packet.
func (m *Metrics) packets() float64 {
	n := testutil.ToFloat64(m.udp) + testutil.ToFloat64(m.tcp) + testutil.ToFloat64(m.foreign)
	return n + testutil.ToFloat64(m.malformed)
}
