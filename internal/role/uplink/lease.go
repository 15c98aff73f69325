//go:build linux

package uplink

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Lease is what a provider's DHCP server has given us.
type Lease struct {
	Prefix netip.Prefix // our address, with the length of the link's prefix
	Server netip.Addr
	Routes []Route
	MTU    int // 0 when the server says none
	Taken  time.Time
	// From Taken on: when to ask the server, when to ask any server, when it ends.
	Renew, Rebind, Valid time.Duration

	ack *dhcpv4.DHCPv4 // what a renewal repeats
}

// Route is one route of a lease; the default route is 0.0.0.0/0.
type Route struct {
	To  netip.Prefix
	Via netip.Addr // invalid: on the link
}

// left is how long the lease is still valid, 0 when it is over.
func (l *Lease) left(now time.Time) time.Duration { return max(0, l.Valid-now.Sub(l.Taken)) }

// apply puts the address on the link, for the rest of the lease.
func (l *Lease) apply(device string) error {
	return kernel.AddLease(device, l.Prefix, kernel.OwnerUplink, l.left(time.Now()))
}

const (
	// shortest lease that we take for real; RFC 2131 has no least one, but renewing more
	// often than every 30 s is a fault of the server.
	shortest = time.Minute
	// smallest MTU that a server may set: RFC 2132 section 5.1 has 68, RFC 791 576 for hosts.
	smallestMTU = 576
	// mostRoutes bounds what a server can put into our table.
	mostRoutes = 16
)

// leaseOf reads an ACK. Wrong ones are errors that say what is wrong.
func leaseOf(ack *dhcpv4.DHCPv4, now time.Time) (*Lease, error) {
	addr, ok := netip.AddrFromSlice(ack.YourIPAddr.To4())
	if !ok || addr.IsUnspecified() || addr.IsMulticast() || addr.IsLoopback() {
		return nil, fmt.Errorf("the server acknowledged no usable address: %s", ack.YourIPAddr)
	}
	bits := 32
	if mask := ack.SubnetMask(); mask != nil {
		ones, size := mask.Size()
		if size != 32 || ones == 0 {
			return nil, fmt.Errorf("the server sent the netmask %s", mask)
		}
		bits = ones
	}
	server, ok := netip.AddrFromSlice(ack.ServerIdentifier().To4())
	if !ok {
		return nil, errors.New("the server does not name itself (option 54)")
	}
	l := &Lease{Prefix: netip.PrefixFrom(addr, bits), Server: server, Taken: now, ack: ack}
	l.Valid = max(shortest, ack.IPAddressLeaseTime(shortest))
	// RFC 2131 section 4.4.5: T1 is half of the lease and T2 seven eighths, unless said.
	l.Renew, l.Rebind = ack.IPAddressRenewalTime(0), ack.IPAddressRebindingTime(0)
	if l.Rebind <= 0 || l.Rebind >= l.Valid {
		l.Rebind = l.Valid * 7 / 8
	}
	if l.Renew <= 0 || l.Renew >= l.Rebind {
		l.Renew = min(l.Valid/2, l.Rebind)
	}
	if m, err := dhcpv4.GetUint16(dhcpv4.OptionInterfaceMTU, ack.Options); err == nil && m >= smallestMTU {
		l.MTU = int(m)
	}
	l.Routes = routesOf(ack)
	return l, nil
}

// routesOf reads option 121, or else option 3: RFC 3442 says that a client that knows the
// first must not look at the second when both are there.
func routesOf(ack *dhcpv4.DHCPv4) (all []Route) {
	for _, r := range ack.ClasslessStaticRoute() {
		if len(all) == mostRoutes || r == nil || r.Dest == nil {
			break
		}
		to, ok := netip.AddrFromSlice(r.Dest.IP.To4())
		ones, size := r.Dest.Mask.Size()
		via, okVia := netip.AddrFromSlice(r.Router.To4())
		if !ok || !okVia || size != 32 {
			continue
		}
		if via.IsUnspecified() {
			via = netip.Addr{}
		}
		all = append(all, Route{netip.PrefixFrom(to, ones).Masked(), via})
	}
	if len(all) > 0 {
		return all
	}
	for _, ip := range ack.Router() {
		if via, ok := netip.AddrFromSlice(ip.To4()); ok && !via.IsUnspecified() {
			return []Route{{netip.PrefixFrom(netip.IPv4Unspecified(), 0), via}}
		}
	}
	return nil
}
