//go:build linux

package uplink

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/hotstage/hotstage/internal/plan"
)

// Config is what the node's uplinks shall be.
type Config struct {
	Node   string
	Router bool // forwards for others
	Links  []Link
}

// Link is one interface to the internet.
type Link struct {
	Uplink string // name in the plan
	Device string
	Mode   plan.UplinkMode
	// Own are the addresses that we set in mode static: the interface's, then others that a
	// neighbour on the link may ask for.
	Own []netip.Prefix
	// Pool are the single addresses that the plan gives; in the modes in which somebody else
	// addresses the interface, those of them that its prefix covers are added to it.
	Pool               []netip.Addr
	Gateway4, Gateway6 netip.Addr // static only, invalid: none, or by router advertisement
	IPv6               bool       // the plan expects IPv6 here
	Delegated          netip.Prefix
	MTU                int // bytes, the most that we set
	Metric             int // of the default route: the plan's first uplink has the lowest
}

// Configure derives the node's uplinks from the plan.
func Configure(p *plan.Plan, node string) (Config, error) {
	n := p.Node(node)
	if n == nil {
		return Config{}, fmt.Errorf("configure uplink: the plan has no node %q", node)
	}
	c := Config{Node: n.Name, Router: n.Has(plan.RoleRouter)}
	for _, i := range n.Interfaces {
		if i.Uplink == "" {
			continue
		}
		u := p.Uplink(n.Site, i.Uplink)
		if u == nil {
			return Config{}, fmt.Errorf("configure uplink: site %s has no uplink %q, which %s of node %s is connected to", n.Site, i.Uplink, i.Name, node)
		}
		l := Link{
			Uplink: u.Name, Device: i.Name, Mode: u.Mode, Pool: u.Addresses4(),
			IPv6: u.IPv6.IsValid() || u.Mode == plan.UplinkDHCP, Delegated: u.IPv6.Masked(), MTU: u.MTU, Metric: 100 + len(c.Links),
		}
		if u.Mode == plan.UplinkStatic {
			l.Own, l.Gateway4, l.Gateway6 = own(u), u.Gateway4, u.Gateway6
		}
		c.Links = append(c.Links, l)
	}
	return c, nil
}

// own lists the addresses of a static interface. Single addresses may be asked for on the
// link; those of a prefix that is routed to us are not.
func own(u *plan.Uplink) []netip.Prefix {
	var all []netip.Prefix
	if u.Address4.IsValid() {
		all = append(all, u.Address4)
	}
	for _, a := range u.Addresses4() {
		host := netip.PrefixFrom(a, 32)
		onLink := u.Address4.IsValid() && u.Address4.Masked().Contains(a)
		if a != u.Address4.Addr() && a != u.Gateway4 && (onLink || slices.Contains(u.IPv4, host)) {
			all = append(all, host)
		}
	}
	if u.Address6.IsValid() {
		all = append(all, u.Address6)
	}
	return all
}
