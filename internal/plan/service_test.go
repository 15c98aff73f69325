package plan

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

// shared has two resolvers in the segment server; KEYS are more of the segment.
const shared = base + `segments: {attendee: {}, server: {ipv4: 10.3.0.0/24, ipv6: "2001:db8:3::/64"KEYS}, management: {}}
nodes:
  gw1: {roles: [router, dhcp, resolver], interfaces: {eth0: {uplink: isp}, eth1: {trunk: [attendee, server, management]}}}
  srv1: {roles: [resolver], interfaces: {e: {segment: server}}}
`

func parsed(t *testing.T, src string, lock *Lock) (*Plan, *Lock) {
	t.Helper()
	p, l, faults := Parse([]byte(src), lock)
	if p == nil {
		t.Fatalf("%s\n%v", src, faults)
	}
	return p, l
}

func with4(keys string) string { return strings.Replace(shared, "KEYS", keys, 1) }

func TestResolversShareAnAddress(t *testing.T) {
	p, _ := parsed(t, with4(""), nil)
	s := p.Segment("server")
	x := s.Service
	if x == nil || !s.IPv4.Contains(x.IPv4) || s.Pool.Contains(x.IPv4) || !s.IPv6.Contains(x.IPv6) || x.VRID < 1 || x.VRID > 255 {
		t.Fatalf("%+v", x)
	}
	for _, n := range p.Nodes {
		if a := n.Attachment("server"); a != nil && (a.IPv4.Addr() == x.IPv4 || a.IPv6.Addr() == x.IPv6) {
			t.Errorf("it is that of node %s", n.Name)
		}
	}
	if len(x.Nodes) != 2 || x.Nodes[0].Node != "gw1" || x.Nodes[0].Priority != 200 || x.Nodes[1].Priority != 190 || x.Nodes[0].IPv6 == x.Nodes[1].IPv6 || !x.Nodes[1].IPv6.IsLinkLocalUnicast() {
		t.Errorf("shared by %+v", x.Nodes)
	}
	if s.DNS4[0] != x.IPv4 || s.DNS6[0] != x.IPv6 || len(s.DNS4) != 3 {
		t.Errorf("devices are told %v %v", s.DNS4, s.DNS6)
	}
	named := 0
	for _, n := range p.Resolver.Names {
		if n.FQDN == "dns.server.t.home.arpa" && (n.Addr == x.IPv4 || n.Addr == x.IPv6) {
			named++
		}
	}
	if named != 2 {
		t.Errorf("its name has %d addresses", named)
	}
	if p.Segment("attendee").Service != nil || p.Segment("management").Service != nil {
		t.Error("a segment with one resolver has a service address")
	}
	if v := p.Resolver.VRRP; v == nil || v.Interval != 50*time.Millisecond || !v.Preempt {
		t.Errorf("moves as %+v", v)
	}
}

func TestSharedAddressAsGiven(t *testing.T) {
	p, _ := parsed(t, with4(", service: [10.3.0.10, '2001:db8:3::53']")+"resolver: {vrrp: {interval: 1s, preempt: false}}\n", nil)
	if x := p.Segment("server").Service; x.IPv4 != netip.MustParseAddr("10.3.0.10") || x.IPv6 != netip.MustParseAddr("2001:db8:3::53") {
		t.Errorf("%+v", x)
	}
	if v := p.Resolver.VRRP; v.Interval != time.Second || v.Preempt {
		t.Errorf("%+v", v)
	}
	p, _ = parsed(t, with4(", service: 10.3.0.10"), nil)
	if x := p.Segment("server").Service; x.IPv6 != netip.MustParseAddr("2001:db8:3::a") {
		t.Errorf("the IPv6 address has not the IPv4 one's host number: %v", x.IPv6)
	}
	p, l := parsed(t, with4("")+"resolver: {vrrp: off}\n", nil)
	if p.Segment("server").Service != nil || p.Resolver.VRRP != nil || strings.Contains(string(l.Bytes()), "service") {
		t.Error("it is off, and there is one")
	}
}

// An address that was derived once stays, and nothing else moves for it: nodes come and go,
// also those that would have had it.
func TestSharedAddressStays(t *testing.T) {
	p, lock := parsed(t, with4(""), nil)
	was := p.Segment("server").Service.IPv4
	back, err := ReadLock(lock.Bytes())
	if err != nil || back.Segments["server"].Service != was {
		t.Fatalf("the lock has %v, %v", back, err)
	}
	off, _ := parsed(t, with4("")+"resolver: {vrrp: off}\n", nil)
	for _, n := range p.Nodes {
		for _, a := range n.Attachments {
			if other := off.Node(n.Name).Attachment(a.Segment); other.IPv4 != a.IPv4 {
				t.Errorf("node %s has %s, and %s without", n.Name, a.IPv4, other.IPv4)
			}
		}
	}
	more := with4("")
	for i := range 40 {
		more += "  x" + string(rune('a'+i/26)) + string(rune('a'+i%26)) + ": {roles: [resolver], interfaces: {e: {segment: server}}}\n"
	}
	q, _ := parsed(t, more, back)
	x := q.Segment("server").Service
	if x.IPv4 != was {
		t.Errorf("it was %s and is %s", was, x.IPv4)
	}
	for i, n := range x.Nodes {
		if n.IPv4 == was || n.Priority < leastPriority || i > 0 && n.Priority > x.Nodes[i-1].Priority {
			t.Errorf("%+v", n)
		}
	}
	if a, b := p.Node("srv1").Attachment("server").IPv4, q.Node("srv1").Attachment("server").IPv4; a != b {
		t.Errorf("srv1 was %s and is %s", a, b)
	}
}

func TestSharedAddressFaults(t *testing.T) {
	for _, c := range []struct{ name, src, words string }{
		{"in the pool", with4(", service: 10.3.0.100"), "lies in the pool"},
		{"elsewhere", with4(", service: 10.4.0.1"), "not a host of segment server"},
		{"elsewhere, IPv6", with4(", service: '2001:db8:4::1'"), "not a host of segment server"},
		{"the gateway's", with4(", service: 10.3.0.1"), "already that of the gateway"},
		{"the gateway's, IPv6", with4(", service: '2001:db8:3::1'"), "already that of the gateway"},
		{"two of one family", with4(", service: [10.3.0.8, 10.3.0.9]"), "two service addresses of one family"},
		{"and off", with4(", service: 10.3.0.8") + "resolver: {vrrp: off}\n", "vrrp is off"},
		{"one resolver", base + "segments: {attendee: {ipv4: 10.0.0.0/22, service: 10.0.0.9}, server: {}, management: {}}\n", "1 resolver nodes"},
		{"on", with4("") + "resolver: {vrrp: on}\n", "not a way to share"},
		{"too fast", with4("") + "resolver: {vrrp: {interval: 5ms}}\n", "not a time that fits"},
		{"too slow", with4("") + "resolver: {vrrp: {interval: 41s}}\n", "not a time that fits"},
		{"between", with4("") + "resolver: {vrrp: {interval: 55ms}}\n", "hundredths"},
		{"name taken", with4("") + "resolver: {local: {dns.server.t.home.arpa: 10.9.9.9}}\n", "already the name of the service address"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, _, faults := Parse([]byte(c.src), nil)
			if p != nil || len(faults) != 1 || !strings.Contains(faults[0].Words, c.words) {
				t.Errorf("%v", faults)
			}
		})
	}
}
