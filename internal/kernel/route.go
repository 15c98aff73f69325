//go:build linux

package kernel

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Route is one route of the main table. It is comparable: two that are equal are the same
// route.
type Route struct {
	To     netip.Prefix // 0.0.0.0/0 and ::/0 are the default routes
	Via    netip.Addr   // next hop, invalid for what is on the link
	Device string       // empty for an unreachable route
	Metric int          // lower wins; the kernel makes 0 of IPv6 1024, so say 1024 there
	// Unreachable answers with an ICMP error instead of sending on.
	Unreachable bool
	// OnLink takes Via for reachable on Device whatever the prefixes there say.
	OnLink bool
}

// String is the route as `ip route` has it.
func (r Route) String() string {
	if r.Unreachable {
		return "unreachable " + r.To.String()
	}
	s := r.To.String()
	if r.To.Bits() == 0 {
		s = "default"
	}
	if r.Via.IsValid() {
		s += " via " + r.Via.String()
	}
	return s + " dev " + r.Device
}

// Routes lists the routes of the main table that the owner has set, both families.
func Routes(owner Owner) ([]Route, error) {
	return routes(&netlink.Route{Table: unix.RT_TABLE_MAIN, Protocol: netlink.RouteProtocol(owner)}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL)
}

// AllRoutes lists the unicast and unreachable routes of the main table, whoever set them.
func AllRoutes() ([]Route, error) {
	return routes(&netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
}

func routes(filter *netlink.Route, mask uint64) ([]Route, error) {
	var all []Route
	names := map[int]string{}
	err := dump(func() error {
		all = nil
		found, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, filter, mask)
		if err != nil {
			return err
		}
		for _, f := range found {
			if r, ok := fromKernel(f, names); ok {
				all = append(all, r)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	return all, nil
}

// fromKernel is false for routes of kinds that we never set.
func fromKernel(f netlink.Route, names map[int]string) (Route, bool) {
	r := Route{Metric: f.Priority, Unreachable: f.Type == unix.RTN_UNREACHABLE, OnLink: f.Flags&int(netlink.FLAG_ONLINK) != 0}
	if f.Type != unix.RTN_UNICAST && !r.Unreachable || len(f.MultiPath) > 0 {
		return r, false
	}
	switch {
	case f.Dst == nil && f.Family == netlink.FAMILY_V6:
		r.To = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	case f.Dst == nil:
		r.To = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	default:
		a, _ := netip.AddrFromSlice(f.Dst.IP)
		bits, _ := f.Dst.Mask.Size()
		if f.Family == netlink.FAMILY_V4 {
			a = a.Unmap()
		}
		r.To = netip.PrefixFrom(a, bits)
	}
	if a, ok := netip.AddrFromSlice(f.Gw); ok {
		r.Via = a.Unmap()
	}
	if r.Unreachable {
		return r, true // IPv6 puts them on lo
	}
	if names[f.LinkIndex] == "" {
		l, err := netlink.LinkByIndex(f.LinkIndex)
		if err != nil {
			return r, false // gone since
		}
		names[f.LinkIndex] = l.Attrs().Name
	}
	r.Device = names[f.LinkIndex]
	return r, true
}

// AddRoute sets the route as the owner's, in place of one with the same destination and metric.
func AddRoute(r Route, owner Owner) error {
	k, err := toKernel(r, owner)
	if err == nil {
		err = netlink.RouteReplace(k)
	}
	if err != nil {
		return fmt.Errorf("add route %s: %w", r, err)
	}
	return nil
}

// DeleteRoute removes the owner's route; one that is not there is no error.
func DeleteRoute(r Route, owner Owner) error {
	k, err := toKernel(r, owner)
	if errors.Is(err, ErrNoLink) {
		return nil
	}
	if err == nil {
		err = netlink.RouteDel(k)
	}
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("delete route %s: %w", r, err)
	}
	return nil
}

func toKernel(r Route, owner Owner) (*netlink.Route, error) {
	k := &netlink.Route{
		Dst:      &net.IPNet{IP: r.To.Addr().AsSlice(), Mask: net.CIDRMask(r.To.Bits(), r.To.Addr().BitLen())},
		Protocol: netlink.RouteProtocol(owner), Priority: r.Metric, Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNICAST,
	}
	if r.Unreachable {
		k.Type = unix.RTN_UNREACHABLE
		return k, nil
	}
	l, err := find(r.Device)
	if err != nil {
		return nil, err
	}
	k.LinkIndex = l.Attrs().Index
	if r.Via.IsValid() {
		k.Gw = r.Via.AsSlice()
	} else if r.To.Addr().Is4() {
		k.Scope = netlink.SCOPE_LINK
	}
	if r.OnLink {
		k.Flags |= int(netlink.FLAG_ONLINK)
	}
	return k, nil
}

// RouteChanges compares what shall be with what the owner has set: the routes to add and
// those to delete.
func RouteChanges(want []Route, owner Owner) (add, remove []Route, err error) {
	have, err := Routes(owner)
	if err != nil {
		return nil, nil, err
	}
	for _, r := range want {
		if !slices.Contains(have, r) {
			add = append(add, r)
		}
	}
	for _, r := range have {
		replaced := slices.ContainsFunc(add, func(a Route) bool { return a.To == r.To && a.Metric == r.Metric })
		if !slices.Contains(want, r) && !replaced {
			remove = append(remove, r)
		}
	}
	return add, remove, nil
}
