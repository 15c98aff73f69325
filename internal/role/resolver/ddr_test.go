package resolver

import (
	"net/netip"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hotstage/hotstage/internal/plan"
	"github.com/hotstage/hotstage/internal/wire"
	"github.com/miekg/dns"
)

// discoverable is a handler whose encrypted service is on.
func discoverable(name string, on bool, names ...plan.Name) *handler {
	cfg := hall()
	cfg.Names = append(cfg.Names, names...)
	cfg.Encrypted = &Encrypted{Name: name, Hints: []netip.Addr{addr("10.1.0.1"), addr("2001:db8:1::1"), addr("192.0.3.1")}}
	h := newHandler(cfg, nil)
	flag := new(atomic.Bool)
	flag.Store(on)
	h.ddr = newDDR(cfg, h.local, flag)
	return h
}

func TestDiscovery(t *testing.T) {
	const (
		quick  = " 300 IN SVCB 1 dns.yapc.example. alpn=\"doq,dot\" ipv4hint=\"10.1.0.1\" ipv6hint=\"2001:db8:1::1\""
		web    = " 300 IN SVCB 2 dns.yapc.example. alpn=\"h2\" ipv4hint=\"10.1.0.1\" ipv6hint=\"2001:db8:1::1\" dohpath=\"/dns-query{?dns}\""
		negate = "gw1.yapc.example. hostmaster.yapc.example. 1 3600 600 86400 "
	)
	own := discoverable("dns.yapc.example", true)
	for _, c := range []struct {
		name, asked string
		h           *handler
		from        string
		typ         uint16
		rcode       int
		want        []string
	}{
		{"designated", "_dns.resolver.arpa", own, "10.1.0.50", dns.TypeSVCB, 0, []string{"_dns.resolver.arpa." + quick, "_dns.resolver.arpa." + web}},
		{"by IPv6", "_DNS.Resolver.ARPA", own, "2001:db8:1::50", dns.TypeSVCB, 0, []string{
			"_DNS.Resolver.ARPA. 300 IN SVCB 1 dns.yapc.example. alpn=\"doq,dot\" ipv4hint=\"10.1.0.1,192.0.3.1\" ipv6hint=\"2001:db8:1::1\"",
			"_DNS.Resolver.ARPA. 300 IN SVCB 2 dns.yapc.example. alpn=\"h2\" ipv4hint=\"10.1.0.1,192.0.3.1\" ipv6hint=\"2001:db8:1::1\" dohpath=\"/dns-query{?dns}\""}},
		{"by name", "_dns.dns.yapc.example", own, "10.1.0.50", dns.TypeSVCB, 0, []string{"_dns.dns.yapc.example." + quick, "_dns.dns.yapc.example." + web}},
		{"no such type", "_dns.resolver.arpa", own, "10.1.0.50", dns.TypeA, 0, []string{"!resolver.arpa. 10800 IN SOA " + negate + "10800"}},
		{"nothing above", "resolver.arpa", own, "10.1.0.50", dns.TypeSVCB, 0, []string{"!resolver.arpa. 10800 IN SOA " + negate + "10800"}},
		{"nothing beside", "x.resolver.arpa", own, "10.1.0.50", dns.TypeSVCB, 0, []string{"!resolver.arpa. 10800 IN SOA " + negate + "10800"}},
		{"any", "_dns.resolver.arpa", own, "10.1.0.50", dns.TypeANY, 0, []string{"_dns.resolver.arpa. 3600 IN HINFO \"RFC8482\" \"\""}},
		{"its address", "dns.yapc.example", own, "10.1.0.50", dns.TypeA, 0, []string{"dns.yapc.example. 300 IN A 10.1.0.1"}},
		{"its address elsewhere", "dns.yapc.example", own, "192.0.3.7", dns.TypeA, 0, []string{"dns.yapc.example. 300 IN A 192.0.3.1"}},
		{"its IPv6 address", "dns.yapc.example", own, "10.1.0.50", dns.TypeAAAA, 0, []string{"dns.yapc.example. 300 IN AAAA 2001:db8:1::1"}},
		{"its other types", "dns.yapc.example", own, "10.1.0.50", dns.TypeHTTPS, 0, []string{"!yapc.example. 30 IN SOA " + negate + "30"}},
		{"a name of the world", "dns.world.example", discoverable("dns.world.example", true), "10.1.0.50", dns.TypeMX, 0, []string{"!dns.world.example. 30 IN SOA " + negate + "30"}},
		{"the plan gives its address", "dns.yapc.example", discoverable("dns.yapc.example", true, plan.Name{FQDN: "dns.yapc.example", Addr: addr("10.1.0.77")}), "10.1.0.50", dns.TypeA, 0, []string{"dns.yapc.example. 300 IN A 10.1.0.77"}},
		{"not served", "_dns.resolver.arpa", discoverable("dns.yapc.example", false), "10.1.0.50", dns.TypeSVCB, 0, []string{"!resolver.arpa. 10800 IN SOA " + negate + "10800"}},
	} {
		reply, v := ask2(c.h, question(t, c.asked, c.typ), c.from)
		if v != answer {
			t.Errorf("%s: no answer", c.name)
			continue
		}
		m := unpacked(t, reply)
		if diff := cmp.Diff(c.want, lines(m)); diff != "" || m.Rcode != c.rcode || !m.Authoritative {
			t.Errorf("%s: rcode %d, authoritative %v (-want +got):\n%s", c.name, m.Rcode, m.Authoritative, diff)
		}
	}
}

// ask2 hands a packet to a handler by UDP.
func ask2(h *handler, packet []byte, from string) ([]byte, verdict) {
	var q wire.DNSQuery
	var k key
	return h.handle(nil, packet, addr(from), true, noon, &q, &k)
}

// FuzzDiscovery: whatever is asked, the answer can be read, and only names of discovery are
// answered for by it.
func FuzzDiscovery(f *testing.F) {
	f.Add(question(f, "_dns.resolver.arpa", dns.TypeSVCB, edns(512, true)))
	f.Add(question(f, "_dns.dns.yapc.example", dns.TypeANY))
	f.Add(question(f, "dns.yapc.example", dns.TypeAAAA))
	h := discoverable("dns.yapc.example", true)
	f.Fuzz(func(t *testing.T, packet []byte) {
		reply, v := ask2(h, packet, "10.1.0.50")
		if v != answer {
			return
		}
		m := new(dns.Msg)
		if len(reply) == 0 || len(reply) > ourSize {
			t.Fatalf("%d octets", len(reply))
		}
		if err := m.Unpack(reply); err != nil {
			t.Fatalf("%v: %x", err, reply)
		}
	})
}
