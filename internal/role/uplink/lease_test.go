//go:build linux

package uplink

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/insomniacslk/dhcp/dhcpv4"
)

func ack(t testing.TB, modifiers ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	t.Helper()
	m, err := dhcpv4.New(append([]dhcpv4.Modifier{
		dhcpv4.WithMessageType(dhcpv4.MessageTypeAck),
		dhcpv4.WithYourIP(net.IPv4(192, 0, 2, 7)),
		dhcpv4.WithNetmask(net.CIDRMask(24, 32)),
		dhcpv4.WithServerIP(net.IPv4(192, 0, 2, 1)),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(192, 0, 2, 1))),
		dhcpv4.WithRouter(net.IPv4(192, 0, 2, 1)),
		dhcpv4.WithLeaseTime(3600),
	}, modifiers...)...)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

var compare = cmp.Options{
	cmpopts.IgnoreUnexported(Lease{}),
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
}

func TestLeaseOf(t *testing.T) {
	now := time.Now()
	gateway := netip.MustParseAddr("192.0.2.1")
	plain := Lease{Prefix: netip.MustParsePrefix("192.0.2.7/24"), Server: gateway, Taken: now, Renew: 30 * time.Minute, Rebind: 3150 * time.Second, Valid: time.Hour,
		Routes: []Route{{netip.MustParsePrefix("0.0.0.0/0"), gateway}}}
	for name, c := range map[string]struct {
		ack  *dhcpv4.DHCPv4
		want func(*Lease)
	}{
		"plain": {ack(t), func(*Lease) {}},
		"no mask: a lone address": {ack(t, dhcpv4.WithoutOption(dhcpv4.OptionSubnetMask)), func(l *Lease) {
			l.Prefix = netip.MustParsePrefix("192.0.2.7/32")
		}},
		"times of the server": {ack(t, dhcpv4.WithOption(dhcpv4.OptRenewTimeValue(10*time.Minute)), dhcpv4.WithOption(dhcpv4.OptRebindingTimeValue(50*time.Minute))), func(l *Lease) {
			l.Renew, l.Rebind = 10*time.Minute, 50*time.Minute
		}},
		"times in no order": {ack(t, dhcpv4.WithOption(dhcpv4.OptRenewTimeValue(2*time.Hour)), dhcpv4.WithOption(dhcpv4.OptRebindingTimeValue(50*time.Hour))), func(*Lease) {}},
		"a lease of a second": {ack(t, dhcpv4.WithLeaseTime(1)), func(l *Lease) {
			l.Valid, l.Rebind, l.Renew = time.Minute, 52500*time.Millisecond, 30*time.Second
		}},
		"an MTU":              {ack(t, dhcpv4.WithGeneric(dhcpv4.OptionInterfaceMTU, []byte{5, 0xdc})), func(l *Lease) { l.MTU = 1500 }},
		"an MTU that is none": {ack(t, dhcpv4.WithGeneric(dhcpv4.OptionInterfaceMTU, []byte{0, 68})), func(*Lease) {}},
		"classless routes win": {ack(t, dhcpv4.WithOption(dhcpv4.OptClasslessStaticRoute(
			&dhcpv4.Route{Dest: &net.IPNet{IP: net.IPv4(10, 9, 0, 0).To4(), Mask: net.CIDRMask(16, 32)}, Router: net.IPv4(192, 0, 2, 9)},
			&dhcpv4.Route{Dest: &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}, Router: net.IPv4(192, 0, 2, 2)}))), func(l *Lease) {
			l.Routes = []Route{{netip.MustParsePrefix("10.9.0.0/16"), netip.MustParseAddr("192.0.2.9")}, {netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr("192.0.2.2")}}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			want := plain
			c.want(&want)
			got, err := leaseOf(c.ack, now)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, *got, compare); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	for name, c := range map[string]struct {
		ack  *dhcpv4.DHCPv4
		want string
	}{
		"no address": {ack(t, dhcpv4.WithYourIP(net.IPv4zero)), "no usable address"},
		"multicast":  {ack(t, dhcpv4.WithYourIP(net.IPv4(224, 0, 0, 1))), "no usable address"},
		"odd mask":   {ack(t, dhcpv4.WithNetmask(net.IPv4Mask(255, 0, 255, 0))), "netmask"},
		"no server":  {ack(t, dhcpv4.WithoutOption(dhcpv4.OptionServerIdentifier)), "option 54"},
	} {
		if _, err := leaseOf(c.ack, now); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", name, err, c.want)
		}
	}
}

// Whatever a provider sends: no panic, and a lease that can be kept.
func FuzzLeaseOf(f *testing.F) {
	f.Add(ack(f).ToBytes())
	f.Add(ack(f, dhcpv4.WithGeneric(dhcpv4.OptionClasslessStaticRoute, []byte{33, 1, 2, 3})).ToBytes())
	f.Add(ack(f, dhcpv4.WithGeneric(dhcpv4.OptionSubnetMask, []byte{255})).ToBytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := dhcpv4.FromBytes(b)
		if err != nil {
			return
		}
		l, err := leaseOf(m, time.Now())
		if err != nil {
			return
		}
		if !l.Prefix.IsValid() || !l.Server.IsValid() || l.Renew <= 0 || l.Renew > l.Rebind || l.Rebind >= l.Valid || len(l.Routes) > mostRoutes {
			t.Errorf("lease %+v", l)
		}
		for _, r := range l.Routes {
			if !r.To.IsValid() {
				t.Errorf("route %+v", r)
			}
		}
	})
}
