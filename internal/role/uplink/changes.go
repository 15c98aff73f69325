//go:build linux

package uplink

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"

	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/hotstage/hotstage/internal/plan"
	"github.com/hotstage/hotstage/internal/task"
)

// Diff lists what differs from the plan, and from the leases that the providers have given,
// in the calling thread's namespace. It is empty when all is so, and says nothing of links
// that are not there: Checks does.
func (s *Server) Diff(context.Context) ([]task.Change, error) {
	d := &differ{}
	var routes []kernel.Route
	for i, l := range s.config.Links {
		k, err := kernel.FindLink(l.Device)
		if errors.Is(err, kernel.ErrNoLink) {
			continue
		}
		if err == nil {
			lease := s.lease(i)
			err = d.link(s.config, l, k, lease)
			routes = append(routes, l.routes(lease)...)
		}
		if err != nil {
			return nil, fmt.Errorf("uplink %s: %w", l.Uplink, err)
		}
	}
	for _, l := range s.config.Links {
		if s.config.Router && l.Delegated.IsValid() {
			// What is not a segment's must not go back to the provider, who would send it here.
			routes = append(routes, kernel.Route{To: l.Delegated, Unreachable: true, Metric: 1024})
		}
	}
	add, remove, err := kernel.RouteChanges(routes, kernel.OwnerUplink)
	if err != nil {
		return nil, fmt.Errorf("uplink: %w", err)
	}
	for _, r := range add {
		d.add(func() error { return kernel.AddRoute(r, kernel.OwnerUplink) }, "add route %s", r)
	}
	for _, r := range remove {
		d.add(func() error { return kernel.DeleteRoute(r, kernel.OwnerUplink) }, "delete route %s", r)
	}
	return d.changes, nil
}

type differ struct{ changes []task.Change }

func (d *differ) add(f func() error, words string, args ...any) {
	d.changes = append(d.changes, task.Change{Words: fmt.Sprintf(words, args...), Do: func(context.Context) error { return f() }})
}

func (d *differ) link(c Config, l Link, k kernel.Link, lease *Lease) error {
	if l.Mode != plan.UplinkSystem {
		if !k.Up {
			d.add(func() error { return kernel.SetUp(l.Device) }, "set %s up", l.Device)
		}
		mtu := l.MTU
		if lease != nil && lease.MTU > 0 {
			mtu = min(mtu, lease.MTU)
		}
		if mtu > 0 && k.MTU != mtu {
			d.add(func() error { return kernel.SetMTU(l.Device, mtu) }, "set MTU %d on %s", mtu, l.Device)
		}
	}
	if err := d.settings(c, l); err != nil {
		return err
	}
	return d.addresses(l, lease)
}

// settings are the kernel parameters of the interface.
func (d *differ) settings(c Config, l Link) error {
	four, six := "net/ipv4/conf/"+l.Device+"/", "net/ipv6/conf/"+l.Device+"/"
	want := map[string]string{
		four + "accept_redirects":    "0",
		four + "accept_source_route": "0",
		four + "send_redirects":      "0",
		four + "arp_ignore":          "1", // no word about the addresses of our segments
		four + "arp_announce":        "2",
		// Loose: with two uplinks an answer may come in by the other (RFC 3704 section 2.4).
		four + "rp_filter":       "2",
		six + "accept_redirects": "0",
	}
	if c.Router {
		want[four+"forwarding"] = "1"
	}
	// 2 is: by router advertisement although we forward.
	switch now, err := kernel.Sysctl(six + "accept_ra"); {
	case errors.Is(err, fs.ErrNotExist): // no IPv6 here
	case err != nil:
		return err
	case l.Mode == plan.UplinkSystem && now == "0": // somebody else does it
	case l.IPv6 && !l.Gateway6.IsValid():
		want[six+"accept_ra"] = "2"
	case l.Mode != plan.UplinkSystem:
		want[six+"accept_ra"] = "0"
	}
	names := make([]string, 0, len(want))
	for name := range want {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		now, err := kernel.Sysctl(name)
		if errors.Is(err, fs.ErrNotExist) || err == nil && now == want[name] {
			continue
		}
		if err != nil {
			return err
		}
		d.add(func() error { return kernel.SetSysctl(name, want[name]) }, "%s", kernel.SysctlCommand(name, want[name]))
	}
	return nil
}

func (d *differ) addresses(l Link, lease *Lease) error {
	have, err := kernel.Addresses(l.Device)
	if err != nil {
		return err
	}
	want := slices.Clone(l.Own)
	if lease != nil {
		want = append(want, lease.Prefix)
	}
	if l.Mode != plan.UplinkStatic {
		want = append(want, l.covered(have, lease)...)
	}
	for _, p := range want {
		if slices.ContainsFunc(have, func(a kernel.Address) bool { return a.Prefix == p }) {
			continue
		}
		d.add(func() error {
			if lease != nil && p == lease.Prefix {
				return lease.apply(l.Device)
			}
			return kernel.AddAddress(l.Device, p, kernel.OwnerUplink)
		}, "add %s to %s", p, l.Device)
	}
	if l.Mode == plan.UplinkDHCP && lease == nil {
		return nil // what an earlier process got stays until its lease ends
	}
	for _, a := range have {
		if a.Owner == kernel.OwnerUplink && !slices.Contains(want, a.Prefix) {
			d.add(func() error { return kernel.DeleteAddress(l.Device, a.Prefix) }, "delete %s from %s", a.Prefix, l.Device)
		}
	}
	return nil
}

// covered lists the addresses of the pool that lie in a prefix of the interface but are not
// set: neighbours on the link ask for them.
func (l Link) covered(have []kernel.Address, lease *Lease) (all []netip.Prefix) {
	var nets []netip.Prefix
	own := map[netip.Addr]bool{}
	for _, a := range have {
		if a.Owner != kernel.OwnerUplink {
			nets = append(nets, a.Prefix)
			own[a.Prefix.Addr()] = true
		}
	}
	if lease != nil {
		nets = append(nets, lease.Prefix)
		own[lease.Prefix.Addr()] = true
	}
	for _, a := range l.Pool {
		inside := slices.ContainsFunc(nets, func(p netip.Prefix) bool { return p.Addr().Is4() && p.Bits() < 31 && p.Masked().Contains(a) })
		if inside && !own[a] {
			all = append(all, netip.PrefixFrom(a, 32))
		}
	}
	return all
}

// routes are the link's: to the provider's next hop, and what a lease says.
func (l Link) routes(lease *Lease) (all []kernel.Route) {
	everything4, everything6 := netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	if l.Gateway4.IsValid() {
		all = append(all, kernel.Route{To: everything4, Via: l.Gateway4, Device: l.Device, Metric: l.Metric, OnLink: !covers(l.Own, l.Gateway4)})
	}
	if l.Gateway6.IsValid() {
		all = append(all, kernel.Route{To: everything6, Via: l.Gateway6, Device: l.Device, Metric: 1024 + l.Metric,
			OnLink: !l.Gateway6.IsLinkLocalUnicast() && !covers(l.Own, l.Gateway6)})
	}
	if lease == nil {
		return all
	}
	for _, r := range lease.Routes {
		all = append(all, kernel.Route{To: r.To, Via: r.Via, Device: l.Device, Metric: l.Metric, OnLink: r.Via.IsValid() && !covers([]netip.Prefix{lease.Prefix}, r.Via)})
	}
	return all
}

func covers(nets []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(nets, func(p netip.Prefix) bool { return p.Masked().Contains(a) })
}
