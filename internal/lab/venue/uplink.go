//go:build linux

package venue

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/hotstage/hotstage/internal/lab/venue/delay"
	"github.com/hotstage/hotstage/internal/plan"
	"golang.org/x/sys/unix"
)

// makeUplink joins the node to the internet: at once when its site is near, else through a
// line that delays each direction by half of the site's round trip.
func (v *Venue) makeUplink(running context.Context, n *plan.Node, f plan.Interface) error {
	site, u := v.plan.Site(n.Site), v.plan.Uplink(n.Site, f.Uplink)
	if u == nil {
		return fmt.Errorf("site %s of the plan has no uplink %q", n.Site, f.Uplink)
	}
	size := u.MTU
	if size == 0 {
		size = mtu
	}
	in, number := v.nodes[n.Name].Namespace, len(v.access)
	far := fmt.Sprintf("isp%d", number)
	if site.RTT == 0 {
		if err := join(v.internet, far, in, f.Name, size); err != nil {
			return err
		}
	} else {
		a, b := fmt.Sprintf("near%d", number), fmt.Sprintf("far%d", number)
		if err := join(v.path, a, in, f.Name, size); err != nil {
			return err
		}
		if err := join(v.path, b, v.internet, far, size); err != nil {
			return err
		}
		line, err := delay.Open(delay.End{Namespace: v.path, Device: a}, delay.End{Namespace: v.path, Device: b}, site.RTT/2)
		if err != nil {
			return err
		}
		v.lines = append(v.lines, line)
		v.work.Go(func() { v.carry(running, line, n.Name, f.Name) })
	}
	access := Access{Device: far, Uplink: *u, Node: n.Name}
	if u.Mode == plan.UplinkSystem {
		access.Address4 = systemAddress(u, number)
		if len(u.IPv4) == 0 {
			access.Uplink.IPv4 = []netip.Prefix{netip.PrefixFrom(access.Address4, 32)}
		}
		// A node's second uplink of this kind is its fallback, as the metric says.
		metric := 0
		for _, other := range v.access {
			if other.Node == n.Name && other.Address4.IsValid() {
				metric += 100
			}
		}
		if err := dialIn(in, f.Name, access.Address4, u.IPv6.IsValid(), metric); err != nil {
			return err
		}
	}
	v.access = append(v.access, access)
	return nil
}

// carry runs a delay line and remembers why it ended, if it did so by itself.
func (v *Venue) carry(running context.Context, line *delay.Line, node, link string) {
	if err := line.Run(running); err != nil {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.broken = append(v.broken, fmt.Errorf("path to %s of node %s: %w", link, node, err))
	}
}

// systemAddress is what the provider gives the interface: the uplink's first address, or
// one of the carrier's own (RFC 6598) when the plan says none.
func systemAddress(u *plan.Uplink, number int) netip.Addr {
	if all := u.Addresses4(); len(all) > 0 {
		return all[0]
	}
	return netip.AddrFrom4([4]byte{100, 127, byte(number), 2})
}

// dialIn sets up the interface as pppd or a cloud's image does before we are started: one
// address, and default routes to next hops that no prefix of ours covers. They bear no mark
// of ours.
func dialIn(in *kernel.Namespace, link string, a netip.Addr, ipv6 bool, metric int) error {
	return in.Do(func() error {
		if err := kernel.AddAddress(link, netip.PrefixFrom(a, 32), 0); err != nil {
			return err
		}
		route := kernel.Route{To: netip.PrefixFrom(netip.IPv4Unspecified(), 0), Via: SystemGateway4, Device: link, Metric: metric, OnLink: true}
		if err := kernel.AddRoute(route, unix.RTPROT_BOOT); err != nil || !ipv6 {
			return err
		}
		route.To, route.Via, route.Metric = netip.PrefixFrom(netip.IPv6Unspecified(), 0), SystemGateway6, 1024+metric
		return kernel.AddRoute(route, unix.RTPROT_BOOT)
	})
}
