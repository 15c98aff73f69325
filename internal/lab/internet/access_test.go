//go:build linux

package internet

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	ntp "github.com/facebook/time/ntp/protocol"
	"github.com/google/go-cmp/cmp"
	"github.com/hotstage/hotstage/internal/plan"
	"github.com/insomniacslk/dhcp/dhcpv4"
)

func prefixes(all ...string) (out []netip.Prefix) {
	for _, s := range all {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func TestAccessPlaysTheProvider(t *testing.T) {
	for _, c := range []struct {
		name string
		u    plan.Uplink
		want string
	}{
		{"static", plan.Uplink{Mode: plan.UplinkStatic, IPv4: prefixes("203.0.113.10/32"), Address4: netip.MustParsePrefix("203.0.113.10/29"), Gateway4: netip.MustParseAddr("203.0.113.9")}, "203.0.113.9/29 203.0.113.10 []"},
		{"static, its own prefix", plan.Uplink{Mode: plan.UplinkStatic, IPv4: prefixes("203.0.113.8/29"), Address4: netip.MustParsePrefix("203.0.113.10/29"), Gateway4: netip.MustParseAddr("203.0.113.9")}, "203.0.113.9/29 203.0.113.10 []"},
		{"static with a routed prefix", plan.Uplink{Mode: plan.UplinkStatic, IPv4: prefixes("203.0.113.10/32", "198.51.100.0/28"), Address4: netip.MustParsePrefix("203.0.113.10/29"), Gateway4: netip.MustParseAddr("203.0.113.9")}, "203.0.113.9/29 203.0.113.10 [198.51.100.0/28]"},
		{"system", plan.Uplink{Mode: plan.UplinkSystem, IPv4: prefixes("198.51.100.8/29")}, "100.64.0.1/32 198.51.100.9 [198.51.100.8/29]"},
		{"system without addresses", plan.Uplink{Mode: plan.UplinkSystem}, "100.64.0.1/32 invalid IP []"},
		{"dhcp", plan.Uplink{Mode: plan.UplinkDHCP}, "100.64.3.1/24 100.64.3.2 []"},
		{"dhcp with an address", plan.Uplink{Mode: plan.UplinkDHCP, IPv4: prefixes("192.0.2.77/32")}, "192.0.2.78/30 192.0.2.77 []"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, err := newAccess(2, Access{Device: "acc2", Uplink: c.u})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, fmt.Sprint(a.ours, a.customer, a.routed)); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
	for name, u := range map[string]plan.Uplink{
		"no mode":    {},
		"no gateway": {Mode: plan.UplinkStatic, Address4: netip.MustParsePrefix("203.0.113.10/29")},
	} {
		if _, err := newAccess(0, Access{Uplink: u}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestBesides: for every address there is a gateway in a prefix where both are hosts.
func TestBesides(t *testing.T) {
	for a := netip.MustParseAddr("192.0.2.0"); a.Less(netip.MustParseAddr("192.0.4.0")); a = a.Next() {
		p := besides(a)
		net, last := p.Masked().Addr(), plan.LastAddr(p)
		if !p.Contains(a) || p.Addr() == a || a == net || a == last || p.Addr() == net || p.Addr() == last {
			t.Errorf("besides %s: %s", a, p)
		}
	}
}

func TestLeases(t *testing.T) {
	a, err := newAccess(0, Access{Uplink: plan.Uplink{Mode: plan.UplinkDHCP}})
	if err != nil {
		t.Fatal(err)
	}
	l := newLeases(a, []netip.AddrPort{netip.MustParseAddrPort("9.9.9.9:53"), netip.MustParseAddrPort("[2620:fe::fe]:53")})
	mac := func(i int) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, byte(i >> 8), byte(i)} }
	ask := func(i int, kind dhcpv4.MessageType, more ...dhcpv4.Modifier) string {
		t.Helper()
		m, err := dhcpv4.New(append([]dhcpv4.Modifier{dhcpv4.WithHwAddr(mac(i)), dhcpv4.WithMessageType(kind)}, more...)...)
		if err != nil {
			t.Fatal(err)
		}
		r, err := l.reply(m)
		if err != nil {
			t.Fatal(err)
		}
		if r == nil {
			return "none"
		}
		return fmt.Sprint(r.MessageType(), " ", r.YourIPAddr, " ", r.DNS())
	}
	wants := func(ip string) dhcpv4.Modifier {
		return dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(net.ParseIP(ip)))
	}
	got := []string{
		ask(1, dhcpv4.MessageTypeDiscover),
		ask(1, dhcpv4.MessageTypeRequest, wants("100.64.1.2")),
		ask(1, dhcpv4.MessageTypeRequest, wants("10.0.0.1")),
		ask(1, dhcpv4.MessageTypeRequest, dhcpv4.WithClientIP(net.IPv4(100, 64, 1, 2))),
		ask(2, dhcpv4.MessageTypeDiscover),
		ask(1, dhcpv4.MessageTypeRelease),
		ask(1, dhcpv4.MessageTypeRequest, wants("100.64.1.2"), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(10, 0, 0, 1)))),
	}
	want := []string{
		"OFFER 100.64.1.2 [9.9.9.9]", "ACK 100.64.1.2 [9.9.9.9]", "NAK 0.0.0.0 []", "ACK 100.64.1.2 [9.9.9.9]",
		"OFFER 100.64.1.3 [9.9.9.9]", "none", "none",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	seen := map[netip.Addr]bool{}
	for i := range 400 {
		if a := l.address(mac(i)); a.IsValid() {
			if seen[a] || !l.server.Contains(a) || a == plan.LastAddr(l.server) {
				t.Fatalf("client %d: %s", i, a)
			}
			seen[a] = true
		}
	}
	if len(seen) != 253 || len(l.byMAC) != 253 {
		t.Errorf("%d addresses given, %d kept, want 253", len(seen), len(l.byMAC))
	}
}

func FuzzTime(f *testing.F) {
	good, err := (&ntp.Packet{Settings: 0x23}).Bytes()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:40])
	f.Add(append([]byte{0x1b}, make([]byte, 100)...))
	in := &Internet{}
	f.Fuzz(func(t *testing.T, query []byte) {
		answer := in.time(netip.Addr{}, netip.Addr{}, query, nil)
		if answer == nil {
			return
		}
		if len(answer) != ntp.PacketSizeBytes || answer[0]&7 != 4 || string(answer[24:32]) != string(query[40:48]) {
			t.Fatalf("%x answers %x", answer, query)
		}
	})
}
