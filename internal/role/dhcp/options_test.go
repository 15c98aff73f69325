package dhcp

import (
	"encoding/binary"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hotstage/hotstage/internal/plan"
	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/miekg/dns"
)

const optionsPlan = `event: {name: T, attendees: 100}
sites: {venue: {uplinks: {isp: {ipv6: "2001:db8::/48"}}}}
segments:
  attendee:
    ipv4: 10.9.0.0/22
    ipv6_only: 30m
    nat64: 64:ff9b::/96
    captive_portal: https://portal.example/api
    search: [conf.example, example.org]
    routes: {10.20.0.0/16: 10.9.0.5, 10.30.7.0/25: 10.9.0.6}
    mtu: 1454
    ntp: 192.0.2.123
    encrypted_dns:
      - {name: dns.example, addresses: [192.0.2.53, 192.0.2.54], alpn: [dot, h2], port: 8853}
      - {name: two.example, addresses: 192.0.2.55}
`

// planned is the server's part of the plan's attendee segment.
func planned(t *testing.T, src string) Segment {
	t.Helper()
	p, _, faults := plan.Parse([]byte(src), nil)
	if p == nil || len(faults) > 0 {
		t.Fatal(faults)
	}
	cfg, err := Configure(p, "gw1")
	if err != nil {
		t.Fatal(err)
	}
	return cfg.Segments[0]
}

// TestOptionsOfThePlan has the library read what the plan's keys come to.
func TestOptionsOfThePlan(t *testing.T) {
	d := newDesk(t, planned(t, optionsPlan))
	d.g.cfg.Server = addr("10.9.0.1")
	list := dhcpv4.WithGeneric(dhcpv4.OptionParameterRequestList, []byte{1, 3, 6, 15, 26, 42, 108, 114, 119, 121, 162})
	got := d.reply(d.ask(mac(1), discover, list, dhcpv4.WithOption(dhcpv4.OptMaxMessageSize(1500))))
	mtu, _ := dhcpv4.GetUint16(dhcpv4.OptionInterfaceMTU, got.Options)
	wait, _ := got.IPv6OnlyPreferred()
	type read struct {
		Mask, Routers, NTP, Domain, Routes, Search, Portal, Wait string
		MTU                                                      uint16
	}
	have := read{
		got.SubnetMask().String(), got.Router()[0].String(), got.NTPServers()[0].String(), got.DomainName(), dhcpv4.Routes(got.ClasslessStaticRoute()).String(),
		strings.Join(got.DomainSearch().Labels, " "), string(got.Options.Get(dhcpv4.GenericOptionCode(114))), wait.String(), mtu,
	}
	want := read{
		"fffffc00", "10.9.0.1", "192.0.2.123", "t.home.arpa",
		"route to 10.20.0.0/16 via 10.9.0.5; route to 10.30.7.0/25 via 10.9.0.6; route to 0.0.0.0/0 via 10.9.0.1",
		"conf.example example.org", "https://portal.example/api", "30m0s", 1454,
	}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{
		`1 dns.example. alpn="dot,h2" port="8853" dohpath="/dns-query{?dns}" 192.0.2.53 192.0.2.54`,
		`2 two.example. alpn="dot" 192.0.2.55`,
	}, resolversIn(t, got.Options.Get(dhcpv4.GenericOptionCode(162)))); diff != "" {
		t.Errorf("encrypted resolvers (-want +got):\n%s", diff)
	}
}

// resolversIn reads option 162, RFC 9463 section 5.1; without its lengths and addresses it
// is an SVCB record, which the DNS library reads.
func resolversIn(t *testing.T, b []byte) (all []string) {
	t.Helper()
	for len(b) > 0 {
		n := int(binary.BigEndian.Uint16(b))
		one := b[2 : 2+n]
		b = b[2+n:]
		name := one[3 : 3+int(one[2])]
		addrs, params := one[4+len(name):4+len(name)+int(one[3+len(name)])], one[4+len(name)+int(one[3+len(name)]):]
		rdata := append(append(append([]byte{}, one[:2]...), name...), params...)
		rr := append([]byte{0, 0, 64, 0, 1, 0, 0, 0, 0}, byte(len(rdata)>>8), byte(len(rdata)))
		svcb, _, err := dns.UnpackRR(append(rr, rdata...), 0)
		if err != nil {
			t.Fatal(err)
		}
		words := strings.TrimPrefix(svcb.String(), svcb.Header().String())
		for i := 0; i < len(addrs); i += 4 {
			words += " " + netipString(addrs[i:])
		}
		all = append(all, words)
	}
	return all
}

func netipString(b []byte) string { return address(binary.BigEndian.Uint32(b)).String() }

// TestPartners: the plan's other dhcp nodes in a segment are no rogues there.
func TestPartners(t *testing.T) {
	src, err := os.ReadFile("../../../examples/janog53.yaml")
	if err != nil {
		t.Fatal(err)
	}
	p, _, faults := plan.Parse(src, nil)
	if p == nil {
		t.Fatal(faults)
	}
	for node, other := range map[string]string{"srv1": "srv2", "srv2": "srv1"} {
		cfg, err := Configure(p, node)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range cfg.Segments {
			var want netip.Addr
			if s.Relayed {
				want = p.Node(other).Relay(s.Name).Server
			} else {
				want = p.Node(other).Attachment(s.Name).IPv4.Addr()
			}
			if len(s.Partners) != 1 || s.Partners[0] != want || s.Server == want {
				t.Errorf("%s in segment %s: partners %v, want %v", node, s.Name, s.Partners, want)
			}
		}
	}
}

// TestNoOptionsUnsaid: a plan that says nothing gives none of them.
func TestNoOptionsUnsaid(t *testing.T) {
	d := newDesk(t, planned(t, "event: {name: T, attendees: 100}\nsites: {venue: {uplinks: {isp: {}}}}\n"))
	got := d.reply(d.ask(mac(1), discover, dhcpv4.WithGeneric(dhcpv4.OptionParameterRequestList, []byte{26, 108, 114, 119, 121, 162})))
	for _, code := range []uint8{26, 108, 114, 121, 162} {
		if got.Options.Has(dhcpv4.GenericOptionCode(code)) {
			t.Errorf("option %d is sent", code)
		}
	}
	if s := got.DomainSearch(); len(s.Labels) != 1 || s.Labels[0] != "t.home.arpa" {
		t.Errorf("search list %v, want the domain", s)
	}
}

// TestIPv6Only: a device that can do without IPv4 is told to, with an address while there
// are some and without when there are none; that it does not take the address counts as no
// offer that went unheard (RFC 8925).
func TestIPv6Only(t *testing.T) {
	cfg := hall()
	cfg.IPv6Only = true
	d := newDesk(t, cfg)
	lists := dhcpv4.WithGeneric(dhcpv4.OptionParameterRequestList, []byte{1, 3, 108})
	if got := words(d, d.ask(mac(1), discover, lists)); got != "offer 10.1.0.10 to hardware" {
		t.Errorf("with free addresses: %s", got)
	}
	d.clock.pass(offerFor)
	for n := range 10 {
		if d.lease(mac(100+n)) == "" {
			t.Fatalf("client %d got none", n)
		}
	}
	if d.g.pool.lapsed != 0 {
		t.Errorf("%d offers count as not taken", d.g.pool.lapsed)
	}
	if got := words(d, d.ask(mac(1), discover, lists)); got != "offer 0.0.0.0 to all" {
		t.Errorf("with a full pool: %s", got)
	}
	if got := words(d, d.ask(mac(2), discover)); got != "pool-full" {
		t.Errorf("another device with a full pool: %s", got)
	}
}
