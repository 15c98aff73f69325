//go:build linux

package internet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/hotstage/hotstage/internal/plan"
	"github.com/vishvananda/netlink"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// gateway6 is the provider's end of every uplink, as most providers number it.
var gateway6 = netip.MustParseAddr("fe80::1")

// access is the provider's end of one uplink.
type access struct {
	Access
	ours     netip.Prefix   // our IPv4 address on the link
	customer netip.Addr     // the node's own IPv4 address: next hop for all else that is the customer's
	routed   []netip.Prefix // the customer's other IPv4 addresses and prefixes
	next6    netip.Addr     // next hop for the customer's IPv6 prefix; invalid until learnt
}

// newAccess decides how the link is addressed; i makes the carrier-grade range of DHCP distinct.
func newAccess(i int, a Access) (*access, error) {
	x := &access{Access: a}
	u := a.Uplink
	switch u.Mode {
	case plan.UplinkStatic:
		if u.Address4.IsValid() && !u.Gateway4.IsValid() {
			return nil, fmt.Errorf("internet: uplink %s: static address %s without a gateway to play", u.Name, u.Address4)
		}
		if u.Address4.IsValid() {
			x.ours, x.customer = netip.PrefixFrom(u.Gateway4, u.Address4.Bits()), u.Address4.Addr()
		}
		x.next6 = u.Address6.Addr()
	case plan.UplinkSystem:
		x.ours = netip.MustParsePrefix("100.64.0.1/32") // RFC 6598: the provider's side of the link
		if all := u.Addresses4(); len(all) > 0 {
			x.customer = all[0]
		}
	case plan.UplinkDHCP:
		if i > 254 {
			return nil, fmt.Errorf("internet: uplink %s is number %d: at most 255 by DHCP", u.Name, i+1)
		}
		x.ours = netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64, byte(i + 1), 1}), 24)
		x.customer = x.ours.Addr().Next()
		if all := u.Addresses4(); len(all) > 0 {
			x.customer = all[0]
			x.ours = besides(all[0])
		}
	default:
		return nil, fmt.Errorf("internet: uplink %s has mode %q: it must be static, dhcp or system", u.Name, u.Mode)
	}
	for _, p := range u.IPv4 {
		if p.IsSingleIP() && p.Addr() == x.customer || p.Contains(x.ours.Addr()) && p.Bits() <= x.ours.Bits() {
			continue // on the link already
		}
		x.routed = append(x.routed, p.Masked())
	}
	return x, nil
}

// besides is a host address next to a, with the length of the smallest prefix that has both
// as hosts.
func besides(a netip.Addr) netip.Prefix {
	for bits := 30; bits > 8; bits-- {
		p := netip.PrefixFrom(a, bits).Masked()
		if first, last := p.Addr(), plan.LastAddr(p); a == first || a == last {
			continue
		}
		if host := p.Addr().Next(); host != a {
			return netip.PrefixFrom(host, bits)
		}
		return netip.PrefixFrom(p.Addr().Next().Next(), bits)
	}
	return netip.PrefixFrom(a.Next(), 8)
}

// up addresses the link, sets it up and routes the customer's addresses to it. What is so
// already stays. Runs in the namespace.
func (a *access) up(nl *netlink.Handle) error {
	link, err := nl.LinkByName(a.Device)
	if err != nil {
		return fmt.Errorf("access link %s: %w", a.Device, err)
	}
	for name, value := range map[string]string{
		"ipv4/conf/" + a.Device + "/rp_filter":     "0", // the world's addresses come from lo
		"ipv4/conf/" + a.Device + "/arp_announce":  "2", // ask as the link's address, not as the world's
		"ipv6/conf/" + a.Device + "/disable_ipv6":  "0",
		"ipv6/conf/" + a.Device + "/accept_dad":    "0",
		"ipv6/conf/" + a.Device + "/addr_gen_mode": "1", // fe80::1 and no other
		"ipv6/conf/" + a.Device + "/accept_ra":     "0",
	} {
		if err := sysctl(name, value); err != nil {
			return err
		}
	}
	if err := nl.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", a.Device, err)
	}
	addrs := []netip.Prefix{netip.PrefixFrom(gateway6, 64)}
	if a.ours.IsValid() {
		addrs = append(addrs, a.ours)
	}
	if g := a.Uplink.Gateway6; g.IsValid() && g != gateway6 {
		bits := 64
		if a.Uplink.Address6.IsValid() && !g.IsLinkLocalUnicast() {
			bits = a.Uplink.Address6.Bits()
		}
		addrs = append(addrs, netip.PrefixFrom(g, bits))
	}
	for _, p := range addrs {
		ad := &netlink.Addr{IPNet: ipNet(p)}
		if p.Addr().Is6() {
			ad.Flags = unix.IFA_F_NODAD
		}
		if err := nl.AddrReplace(link, ad); err != nil {
			return fmt.Errorf("add %s to %s: %w", p, a.Device, err)
		}
	}
	return a.route(nl, link)
}

// route sends the customer's addresses to the link.
func (a *access) route(nl *netlink.Handle, link netlink.Link) error {
	var routes []*netlink.Route
	index := link.Attrs().Index
	if a.customer.IsValid() && !a.ours.Contains(a.customer) {
		routes = append(routes, &netlink.Route{LinkIndex: index, Scope: netlink.SCOPE_LINK, Dst: ipNet(netip.PrefixFrom(a.customer, 32)), Src: a.ours.Addr().AsSlice()})
	}
	for _, p := range a.routed {
		routes = append(routes, &netlink.Route{LinkIndex: index, Dst: ipNet(p), Gw: a.customer.AsSlice(), Flags: int(netlink.FLAG_ONLINK)})
	}
	if p := a.Uplink.IPv6; p.IsValid() && a.next6.IsValid() {
		routes = append(routes, &netlink.Route{LinkIndex: index, Dst: ipNet(p.Masked()), Gw: a.next6.AsSlice(), Flags: int(netlink.FLAG_ONLINK)})
	}
	for _, r := range routes {
		if err := nl.RouteReplace(r); err != nil {
			return fmt.Errorf("route %s to %s by %s: %w", r.Dst, a.Device, r.Gw, err)
		}
	}
	return nil
}

// down takes the link down; the kernel forgets its IPv6 addresses and its routes.
func (a *access) down(nl *netlink.Handle) error {
	link, err := nl.LinkByName(a.Device)
	if err != nil {
		return fmt.Errorf("access link %s: %w", a.Device, err)
	}
	if err := nl.LinkSetDown(link); err != nil {
		return fmt.Errorf("set %s down: %w", a.Device, err)
	}
	return nil
}

// learnEvery is how often an access looks for its node's link-local address.
const learnEvery = 200 * time.Millisecond

// learn finds the next hop of each customer's IPv6 prefix, as a provider's DHCPv6 server
// would know it: the link-local address that the kernel has as a neighbour. A ping to all
// nodes makes the customer ask for us, which makes it a neighbour.
func (in *Internet) learn(ctx context.Context, ping *icmp.PacketConn) error {
	defer ping.Close()
	tick := time.NewTicker(learnEvery)
	defer tick.Stop()
	for {
		if err := in.learnOnce(ping); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (in *Internet) learnOnce(ping *icmp.PacketConn) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, a := range in.access {
		if !a.Uplink.IPv6.IsValid() || a.next6.IsValid() {
			continue
		}
		link, err := in.nl.LinkByName(a.Device)
		if err != nil {
			return fmt.Errorf("access link %s: %w", a.Device, err)
		}
		askAll(ping, link)
		if a.next6 = neighbour6(in.nl, link); !a.next6.IsValid() {
			continue
		}
		if err := a.route(in.nl, link); err != nil && !errors.Is(err, unix.ENETDOWN) {
			return err
		}
	}
	return nil
}

// neighbour6 is the link-local address of the neighbour behind the link, or invalid.
func neighbour6(nl *netlink.Handle, link netlink.Link) netip.Addr {
	neighbours, err := nl.NeighList(link.Attrs().Index, netlink.FAMILY_V6)
	own, addrErr := nl.AddrList(link, netlink.FAMILY_V6)
	if err != nil || addrErr != nil {
		return netip.Addr{} // the kernel was interrupted while it listed: the next tick asks again
	}
	ours := func(ip net.IP) bool { // a ping to all nodes comes back to us too
		return slices.ContainsFunc(own, func(a netlink.Addr) bool { return a.IP.Equal(ip) })
	}
	const known = netlink.NUD_REACHABLE | netlink.NUD_STALE | netlink.NUD_DELAY | netlink.NUD_PROBE | netlink.NUD_PERMANENT
	for _, n := range neighbours {
		if addr, ok := netip.AddrFromSlice(n.IP); ok && addr.IsLinkLocalUnicast() && n.State&known != 0 && !ours(n.IP) {
			return addr
		}
	}
	return netip.Addr{}
}

// askAll pings all nodes of the link. An answer is not waited for, and a link that is down
// is asked again later.
func askAll(ping *icmp.PacketConn, link netlink.Link) {
	echo, err := (&icmp.Message{Type: ipv6.ICMPTypeEchoRequest, Body: &icmp.Echo{ID: 1, Seq: 1}}).Marshal(nil)
	if err != nil {
		return
	}
	_, _ = ping.IPv6PacketConn().WriteTo(echo, &ipv6.ControlMessage{IfIndex: link.Attrs().Index, Src: net.IP(gateway6.AsSlice())},
		&net.IPAddr{IP: net.IPv6linklocalallnodes, Zone: link.Attrs().Name})
}

// attach makes the namespace forward and all addresses of the world local. Runs in the namespace.
func (w *world) attach(nl *netlink.Handle) error {
	for name, value := range map[string]string{
		"ipv4/ip_forward":              "1",
		"ipv6/conf/all/forwarding":     "1",
		"ipv4/conf/all/rp_filter":      "0",
		"ipv4/conf/all/send_redirects": "0",
	} {
		if err := sysctl(name, value); err != nil {
			return err
		}
	}
	lo, err := nl.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	if err := nl.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	for _, p := range w.local {
		r := &netlink.Route{LinkIndex: lo.Attrs().Index, Dst: ipNet(p), Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST}
		if p.Addr().Is6() {
			r.Scope = netlink.SCOPE_UNIVERSE
		}
		if err := nl.RouteReplace(r); err != nil {
			return fmt.Errorf("make %s local: %w", p, err)
		}
	}
	return nil
}

// sysctl sets net/<name> of the calling thread's namespace.
func sysctl(name, value string) error {
	if err := os.WriteFile(filepath.Join("/proc/sys/net", name), []byte(value), 0o644); err != nil {
		return fmt.Errorf("set net/%s to %s: %w", name, value, err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
