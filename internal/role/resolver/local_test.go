package resolver

import (
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hotstage/hotstage/internal/wire"
	"github.com/miekg/dns"
)

// soaOf is the SOA record of a zone of ours, as lines has it.
func soaOf(zone string, ttl string) string {
	return "!" + zone + ". " + ttl + " IN SOA gw1.yapc.example. hostmaster.yapc.example. 1 3600 600 86400 " + ttl
}

func TestLocal(t *testing.T) {
	leases := &leaseTable{}
	leases.bind("phone.yapc.example", addr("10.1.0.50"))
	l := newLocal(hall(), leases)
	for _, c := range []struct {
		name string
		typ  uint16
		want string // response code, then records; "outside" when it is not ours
	}{
		{"gw1.yapc.example", dns.TypeA, "NOERROR|gw1.yapc.example. 300 IN A 10.1.0.1"},
		{"GW1.yapc.EXAMPLE", dns.TypeAAAA, "NOERROR|GW1.yapc.EXAMPLE. 300 IN AAAA 2001:db8:1::1"},
		{"gw1.yapc.example", dns.TypeTXT, "NOERROR|" + soaOf("yapc.example", "30")},
		{"gw1.yapc.example", dns.TypeANY, "NOERROR|gw1.yapc.example. 3600 IN HINFO \"RFC8482\" \"\""},
		{"hall.yapc.example", dns.TypeA, "NOERROR|" + soaOf("yapc.example", "30")}, // gw.hall is below it
		{"nobody.yapc.example", dns.TypeA, "NXDOMAIN|" + soaOf("yapc.example", "30")},
		{"a.gw1.yapc.example", dns.TypeA, "NXDOMAIN|" + soaOf("yapc.example", "30")},
		{"yapc.example", dns.TypeSOA, "NOERROR|" + strings.TrimPrefix(soaOf("yapc.example", "30"), "!")},
		{"yapc.example", dns.TypeNS, "NOERROR|yapc.example. 300 IN NS gw1.yapc.example."},
		{"yapc.example", dns.TypeA, "NOERROR|" + soaOf("yapc.example", "30")},
		{"yapc.example", dns.TypeDS, "NOERROR|" + soaOf("yapc.example", "30")},
		{"phone.yapc.example", dns.TypeA, "NOERROR|phone.yapc.example. 60 IN A 10.1.0.50"},
		{"Phone.yapc.example", dns.TypeAAAA, "NOERROR|" + soaOf("yapc.example", "30")},
		{"stream.video.example", dns.TypeA, "NOERROR|stream.video.example. 300 IN A 10.1.0.9"},
		{"stream.video.example", dns.TypeAAAA, "NOERROR|" + soaOf("stream.video.example", "30")},
		{"video.example", dns.TypeA, "outside"},
		{"www.video.example", dns.TypeA, "outside"},
		{"example", dns.TypeA, "outside"},
		{".", dns.TypeNS, "outside"},

		{"1.0.1.10.in-addr.arpa", dns.TypePTR, "NOERROR|1.0.1.10.in-addr.arpa. 300 IN PTR gw1.yapc.example."},
		{"50.0.1.10.in-addr.arpa", dns.TypePTR, "NOERROR|50.0.1.10.in-addr.arpa. 60 IN PTR phone.yapc.example."},
		{"51.0.1.10.in-addr.arpa", dns.TypePTR, "NXDOMAIN|" + soaOf("0.1.10.in-addr.arpa", "30")},
		{"9.16.1.10.in-addr.arpa", dns.TypePTR, "NXDOMAIN|" + soaOf("10.in-addr.arpa", "10800")},
		{"1.10.in-addr.arpa", dns.TypePTR, "NOERROR|" + soaOf("10.in-addr.arpa", "10800")},
		{"01.0.1.10.in-addr.arpa", dns.TypePTR, "NXDOMAIN|" + soaOf("0.1.10.in-addr.arpa", "30")},
		{"x.1.0.1.10.in-addr.arpa", dns.TypePTR, "NXDOMAIN|" + soaOf("0.1.10.in-addr.arpa", "30")},
		{"5.3.0.192.in-addr.arpa", dns.TypePTR, "NOERROR|" + soaOf("5.3.0.192.in-addr.arpa", "30")},
		{"70.3.0.192.in-addr.arpa", dns.TypePTR, "outside"},
		{"8.8.8.8.in-addr.arpa", dns.TypePTR, "outside"},
		{"1.0.0.127.in-addr.arpa", dns.TypePTR, "NOERROR|1.0.0.127.in-addr.arpa. 300 IN PTR localhost."},
		{"1.64.168.192.in-addr.arpa", dns.TypePTR, "NXDOMAIN|" + soaOf("168.192.in-addr.arpa", "10800")},
		{"1.0.20.172.in-addr.arpa", dns.TypePTR, "NXDOMAIN|" + soaOf("20.172.in-addr.arpa", "10800")},
		{"1.0.32.172.in-addr.arpa", dns.TypePTR, "outside"},
		{"1.0.127.100.in-addr.arpa", dns.TypePTR, "NXDOMAIN|" + soaOf("127.100.in-addr.arpa", "10800")},
		{"1.0.128.100.in-addr.arpa", dns.TypePTR, "outside"},
		{"1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa", dns.TypePTR,
			"NOERROR|1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa. 300 IN PTR gw1.yapc.example."},
		{"0.0.0.8.e.f.ip6.arpa", dns.TypePTR, "NXDOMAIN|" + soaOf("8.e.f.ip6.arpa", "10800")},
		{"1.0.0.0.0.2.6.2.ip6.arpa", dns.TypePTR, "outside"},

		{"localhost", dns.TypeA, "NOERROR|localhost. 300 IN A 127.0.0.1"},
		{"a.localhost", dns.TypeAAAA, "NOERROR|a.localhost. 300 IN AAAA ::1"},
		{"printer.local", dns.TypeA, "NXDOMAIN|" + soaOf("local", "10800")},
		{"abc.onion", dns.TypeA, "NXDOMAIN|" + soaOf("onion", "10800")},
		{"x.test", dns.TypeA, "NXDOMAIN|" + soaOf("test", "10800")},
		{"nas.home.arpa", dns.TypeA, "NXDOMAIN|" + soaOf("home.arpa", "10800")},
		{"_dns.resolver.arpa", dns.TypeSVCB, "NOERROR|" + soaOf("resolver.arpa", "10800")},
		{"db.corp.internal", dns.TypeA, "NXDOMAIN|" + soaOf("internal", "10800")},
		{"home.arpa", dns.TypeDS, "outside"}, // RFC 8375 section 4
		{"nas.home.arpa", dns.TypeDS, "NXDOMAIN|" + soaOf("home.arpa", "10800")},
	} {
		q, err := wire.ParseDNSQuery(question(t, c.name, c.typ))
		if err != nil {
			t.Fatal(err)
		}
		var k key
		k.set(&q)
		got := "outside"
		if reply, ours := l.answer([]byte("before"), &q, k.name()); ours {
			m := unpacked(t, reply[len("before"):])
			got = strings.Join(append([]string{dns.RcodeToString[m.Rcode]}, lines(m)...), "|")
			if !m.Authoritative || m.AuthenticatedData {
				t.Errorf("%s: header %+v", c.name, m.MsgHdr)
			}
		} else if string(reply) != "before" {
			t.Errorf("%s: written to: %q", c.name, reply)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s %s (-want +got):\n%s", c.name, dns.TypeToString[c.typ], diff)
		}
	}
}

// TestLeaseNamesComeAndGo: a name is there with its lease, and what was denied before is not
// held against it.
func TestLeaseNamesComeAndGo(t *testing.T) {
	leases := &leaseTable{}
	h := newHandler(hall(), leases)
	rcode := func(name string, typ uint16) string {
		reply, _ := h.ask(question(t, name, typ), "10.1.0.50", true)
		return said(unpacked(t, reply))
	}
	for _, want := range []string{"NXDOMAIN aa rd", "NOERROR aa rd"} {
		for name, typ := range map[string]uint16{"tablet.yapc.example": dns.TypeA, "11.0.1.10.in-addr.arpa": dns.TypePTR} {
			if got := rcode(name, typ); got != want {
				t.Errorf("%s: %s, want %s", name, got, want)
			}
		}
		leases.bind("tablet.yapc.example", addr("10.1.0.11"))
	}
	leases.bind("bad..name", addr("10.1.0.10"))
	if got := rcode("10.0.1.10.in-addr.arpa", dns.TypePTR); got != "NXDOMAIN aa rd" {
		t.Errorf("a name that cannot be written: %s", got)
	}
}

// TestOwnDomainWithinASpecialOne: an event without a domain of its own has one in home.arpa.
func TestOwnDomainWithinASpecialOne(t *testing.T) {
	cfg := hall()
	cfg.Domain, cfg.Name = "yapc.home.arpa", "gw1.yapc.home.arpa"
	cfg.Names[0].FQDN = "gw1.yapc.home.arpa"
	h := newHandler(cfg, nil)
	for name, want := range map[string]string{"gw1.yapc.home.arpa": "NOERROR aa rd", "x.yapc.home.arpa": "NXDOMAIN aa rd", "x.home.arpa": "NXDOMAIN aa rd"} {
		reply, _ := h.ask(question(t, name, dns.TypeA), "10.1.0.50", true)
		if got := said(unpacked(t, reply)); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

// TestReverseNames: our reverse names are the library's, and come back as they went.
func TestReverseNames(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 1000 {
		var b [16]byte
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		for _, a := range []netip.Addr{netip.AddrFrom4([4]byte(b[:4])), netip.AddrFrom16(b)} {
			want, err := dns.ReverseAddr(a.String())
			if err != nil {
				t.Fatal(err)
			}
			name := reverseName(netip.PrefixFrom(a, a.BitLen()))
			if got := wire.DNSNameString(name) + "."; got != want {
				t.Fatalf("%s: %s, library %s", a, got, want)
			}
			if p, ok := parseReverse(name); !ok || p != netip.PrefixFrom(a, a.BitLen()) {
				t.Fatalf("%s came back as %v", a, p)
			}
		}
	}
}

// TestReverseZonesCoverThePrefix: every address of a prefix lies in a zone made for it, and
// none beside it.
func TestReverseZonesCoverThePrefix(t *testing.T) {
	for _, text := range []string{"203.0.112.0/23", "100.64.0.0/10", "198.18.0.0/15", "203.0.113.128/25", "203.0.113.7/32", "255.255.255.240/28", "2001:db8:4::/46", "2001:db8:ffff:fffc::/62"} {
		p := netip.MustParsePrefix(text)
		l := &local{zones: map[string]*zone{}}
		l.reverse(p, 1)
		inside := func(a netip.Addr) bool { return l.find(reverseName(netip.PrefixFrom(a, a.BitLen()))) != nil }
		last := p.Addr().AsSlice()
		for i := p.Bits(); i < p.Addr().BitLen(); i++ {
			last[i/8] |= 1 << (7 - i%8)
		}
		end, _ := netip.AddrFromSlice(last)
		if !inside(p.Addr()) || !inside(end) {
			t.Errorf("%s: an end is not covered", p)
		}
		if before, after := p.Addr().Prev(), end.Next(); before.IsValid() && inside(before) || after.IsValid() && inside(after) {
			t.Errorf("%s: more is covered than the prefix", p)
		}
	}
}
