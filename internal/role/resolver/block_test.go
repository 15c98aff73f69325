package resolver

import (
	"strings"
	"testing"

	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/plan"
	"github.com/hotstage/hotstage/internal/wire"
	"github.com/miekg/dns"
)

// blocking is a venue that blocks a name in the world, one of its own domain, and one that
// it has a name of its own below.
func blocking() Config {
	cfg := hall()
	cfg.Block = []string{"ads.example.net", "wpad.yapc.example", "video.example"}
	return cfg
}

func TestBlocks(t *testing.T) {
	leases := &leaseTable{}
	leases.bind("wpad.yapc.example", addr("10.1.0.50"))
	h := newHandler(blocking(), leases)
	for _, c := range []struct {
		name string
		typ  uint16
		want string // the zone of the SOA; "" when it is not blocked
	}{
		{"ads.example.net", dns.TypeA, "ads.example.net."},
		{"ads.example.net", dns.TypeDS, "ads.example.net."},
		{"a.b.ADS.example.net", dns.TypeAAAA, "ads.example.net."},
		{"ads.example.net", dns.TypeANY, "ads.example.net."},
		{"badads.example.net", dns.TypeA, ""},
		{"example.net", dns.TypeA, ""},
		{"wpad.yapc.example", dns.TypeA, "wpad.yapc.example."}, // though a device took the name
		{"phone.yapc.example", dns.TypeA, ""},
		{"video.example", dns.TypeA, "video.example."},
		{"www.video.example", dns.TypeA, "video.example."},
		{"stream.video.example", dns.TypeA, ""}, // the plan's own
	} {
		reply, v := h.ask(question(t, c.name, c.typ, edns(1232, true)), "10.1.0.50", true)
		got := ""
		if v == answer {
			m := unpacked(t, reply)
			for _, o := range m.IsEdns0().Option {
				if e, ok := o.(*dns.EDNS0_EDE); ok && e.InfoCode == dns.ExtendedErrorCodeBlocked && m.Rcode == dns.RcodeNameError && len(m.Answer) == 0 {
					got = m.Ns[0].Header().Name
				}
			}
			if m.Rcode != dns.RcodeSuccess && c.want == "" && c.name != "phone.yapc.example" {
				t.Errorf("%s: %v", c.name, m)
			}
		}
		if got != c.want {
			t.Errorf("%s: blocked by %q, want %q", c.name, got, c.want)
		}
	}
	// Without EDNS there is no room for a reason, and the answer is the same.
	reply, _ := h.ask(question(t, "x.ads.example.net", dns.TypeA), "10.1.0.50", true)
	if m := unpacked(t, reply); m.Rcode != dns.RcodeNameError || m.IsEdns0() != nil || m.Ns[0].Header().Ttl != blockTTL {
		t.Errorf("without EDNS: %v", m)
	}
	// A name near the longest leaves no room for all of it in 512 octets.
	long := strings.Repeat(strings.Repeat("a", 60)+".", 3) + "ads.example.net"
	for _, change := range [][]func(*dns.Msg){nil, {edns(512, true)}} {
		reply, _ = h.ask(question(t, long, dns.TypeA, change...), "10.1.0.50", true)
		if m := unpacked(t, reply); len(reply) > wire.DNSNoEDNS || m.Rcode != dns.RcodeNameError {
			t.Errorf("%d octets: %v", len(reply), m)
		}
	}
}

// TestLookupSaysBlocked: the crew sees that it was the plan.
func TestLookupSaysBlocked(t *testing.T) {
	s := New(blocking(), nil, newMetrics(), func(fact.Event) {})
	f, err := s.Lookup(t.Context(), "x.ads.example.net", dns.TypeA)
	if err != nil || f.From != FromBlock || f.Rcode != "NXDOMAIN" || len(f.Reasons) != 1 || f.Reasons[0].Code != 15 {
		t.Errorf("%v, %+v", err, f)
	}
}

// TestConfigureBlock: what the plan blocks arrives here.
func TestConfigureBlock(t *testing.T) {
	p, _, faults := plan.Parse([]byte("event: {name: T, attendees: 5}\nsites: {venue: {uplinks: {isp: {}}}}\nresolver: {block: [ads.example.net]}\n"), nil)
	if p == nil {
		t.Fatal(faults)
	}
	cfg, err := Configure(p, "gw1")
	if err != nil || len(cfg.Block) != 1 || cfg.Block[0] != "ads.example.net" {
		t.Errorf("%v, %v", err, cfg.Block)
	}
}
