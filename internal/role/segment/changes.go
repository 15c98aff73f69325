//go:build linux

package segment

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/hotstage/hotstage/internal/plan"
	"github.com/hotstage/hotstage/internal/task"
)

// Diff lists what differs from the plan in the calling thread's namespace, in the order in
// which it must be put right: the filter before anything is forwarded, links before what is
// on them. It is empty when all is so.
func (s *Server) Diff(ctx context.Context) ([]task.Change, error) {
	d := &differ{config: s.config}
	for _, f := range []func() error{d.filter, d.links, d.sysctls, d.addresses, d.routes} {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := f(); err != nil {
			return nil, fmt.Errorf("segment: compare with the plan: %w", err)
		}
	}
	return d.changes, nil
}

type differ struct {
	config  Config
	changes []task.Change
}

func (d *differ) add(f func() error, words string, args ...any) {
	d.changes = append(d.changes, task.Change{Words: fmt.Sprintf(words, args...), Do: func(context.Context) error { return f() }})
}

func (d *differ) filter() error {
	t := d.config.table()
	drift, err := t.Drift()
	if err == nil && drift != "" {
		d.add(t.Write, "write nftables table inet %s: %s", t.Name, drift)
	}
	return err
}

// found is the link, or a zero one with Index 0 when there is none.
func found(name string) (kernel.Link, error) {
	l, err := kernel.FindLink(name)
	if errors.Is(err, kernel.ErrNoLink) {
		return kernel.Link{Name: name}, nil
	}
	return l, err
}

func (d *differ) links() error {
	for _, s := range d.config.Segments {
		bridged := len(s.Ports) > 1
		if bridged {
			if err := d.bridge(s.Device); err != nil {
				return err
			}
		}
		for _, p := range s.Ports {
			if err := d.port(s, p, bridged); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *differ) bridge(name string) error {
	l, err := found(name)
	if err != nil {
		return err
	}
	if l.Index == 0 {
		d.add(func() error { return kernel.AddBridge(name) }, "add bridge %s", name)
	}
	d.up(l)
	return nil
}

func (d *differ) up(l kernel.Link) {
	if !l.Up {
		d.add(func() error { return kernel.SetUp(l.Name) }, "set %s up", l.Name)
	}
}

// port makes one interface's part in the segment. A link that has the name already is used
// as it is, whatever made it.
func (d *differ) port(s Segment, p plan.Port, bridged bool) error {
	l, err := found(p.Device)
	if err != nil {
		return err
	}
	switch {
	case l.Index != 0:
	case p.VLAN == 0:
		d.add(func() error {
			return fmt.Errorf("node %s has no link %s for segment %s: plug it in, or correct the node's interfaces in the plan", d.config.Node, p.Device, s.Name)
		}, "wait for link %s", p.Device)
		return nil
	default:
		parent, err := found(p.Parent)
		if err != nil {
			return err
		}
		d.up(parent) // a VLAN interface is not up before its parent is
		d.add(func() error { return kernel.AddVLAN(p.Device, p.Parent, p.VLAN) }, "add VLAN interface %s with id %d on %s", p.Device, p.VLAN, p.Parent)
	}
	if bridged {
		if l.Master != s.Device {
			d.add(func() error { return kernel.SetMaster(p.Device, s.Device) }, "put %s into bridge %s", p.Device, s.Device)
		}
		if l.Isolated != s.Isolate {
			words := "isolate port %s"
			if !s.Isolate {
				words = "end the isolation of port %s"
			}
			d.add(func() error { return kernel.SetIsolated(p.Device, s.Isolate) }, words, p.Device)
		}
	}
	d.up(l)
	return nil
}

// setting is a kernel parameter; Device is the link that it is of, or "".
type setting struct{ name, value, device string }

// settings of one segment's link. Router says that the node forwards.
func settings(device string, router, ipv6 bool) []setting {
	four, six := "net/ipv4/conf/"+device+"/", "net/ipv6/conf/"+device+"/"
	all := []setting{
		{four + "proxy_arp", "0", device},
		{four + "accept_redirects", "0", device},
		{four + "accept_source_route", "0", device},
		{four + "send_redirects", "0", device},
		// Answer only for the address of this link, ask as it: a node in several segments
		// must not mix them.
		{four + "arp_ignore", "1", device},
		{four + "arp_announce", "2", device},
	}
	if router {
		all = append(all,
			setting{four + "forwarding", "1", device},
			setting{four + "rp_filter", "1", device}) // RFC 3704 section 2.2
	} else {
		// Not strict: a server in two segments hears attendees of one by the other's router.
		all = append(all, setting{four + "rp_filter", "2", device}) // RFC 3704 section 2.4
	}
	all = append(all,
		setting{six + "accept_ra", "0", device}, // whoever announces himself there is not our router
		setting{six + "autoconf", "0", device},
		setting{six + "accept_redirects", "0", device},
		setting{six + "accept_source_route", "0", device})
	if ipv6 {
		all = append(all, setting{six + "disable_ipv6", "0", device})
	}
	return all
}

func (d *differ) sysctls() error {
	var all []setting
	for _, s := range d.config.Segments {
		all = append(all, settings(s.Device, d.config.Router, hasIPv6(s))...)
	}
	if len(all) > 0 {
		// The kernel sends redirects when either this or the link's own says so: one attendee
		// must not be sent directly to another.
		all = append(all, setting{"net/ipv4/conf/all/send_redirects", "0", ""})
	}
	if slices.ContainsFunc(d.config.Segments, func(s Segment) bool { return len(s.Ports) > 1 }) {
		// On by default where the kernel has it: frames between ports of a bridge would be
		// tracked and judged as packets that this node forwards, unknown flows dropped among
		// them. What keeps ports apart is their isolation.
		for _, of := range []string{"iptables", "ip6tables", "arptables"} {
			all = append(all, setting{"net/bridge/bridge-nf-call-" + of, "0", ""})
		}
	}
	if d.config.Router && slices.ContainsFunc(d.config.Segments, hasIPv6) {
		// IPv6 has no forwarding per link.
		all = append(all, setting{"net/ipv6/conf/all/forwarding", "1", ""})
	}
	for _, x := range all {
		now, err := kernel.Sysctl(x.name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			if x.device == "" {
				continue
			}
			if l, err := found(x.device); err != nil || l.Index != 0 {
				continue // this kernel does not have it
			}
		case err != nil:
			return err
		case now == x.value:
			continue
		}
		d.add(func() error {
			err := kernel.SetSysctl(x.name, x.value)
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}, "%s", kernel.SysctlCommand(x.name, x.value))
	}
	return nil
}

func hasIPv6(s Segment) bool {
	for _, p := range s.Own {
		if p.Addr().Is6() {
			return true
		}
	}
	return false
}

func (d *differ) addresses() error {
	for _, s := range d.config.Segments {
		have, err := kernel.Addresses(s.Device)
		if err != nil && !errors.Is(err, kernel.ErrNoLink) {
			return err
		}
		for _, p := range s.Own {
			if !slices.ContainsFunc(have, func(a kernel.Address) bool { return a.Prefix == p }) {
				d.add(func() error { return kernel.AddAddress(s.Device, p, kernel.OwnerSegment) }, "add %s to %s", p, s.Device)
			}
		}
		for _, a := range have {
			if a.Owner == kernel.OwnerSegment && !slices.Contains(s.Own, a.Prefix) {
				d.add(func() error { return kernel.DeleteAddress(s.Device, a.Prefix) }, "delete %s, which the plan no longer has, from %s", a.Prefix, s.Device)
			}
		}
	}
	return nil
}

func (d *differ) routes() error {
	add, remove, err := kernel.RouteChanges(d.config.Routes, kernel.OwnerSegment)
	if err != nil {
		return err
	}
	for _, r := range add {
		d.add(func() error { return kernel.AddRoute(r, kernel.OwnerSegment) }, "add route %s", r)
	}
	for _, r := range remove {
		d.add(func() error { return kernel.DeleteRoute(r, kernel.OwnerSegment) }, "delete route %s, which the plan no longer has", r)
	}
	return nil
}
