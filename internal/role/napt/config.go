//go:build linux

package napt

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/hotstage/hotstage/internal/plan"
)

// Config is what a node does of address translation. Without exits it does none.
type Config struct {
	Node     string
	Exits    []Exit
	Inside   []netip.Prefix // IPv4 prefixes of all segments
	Segments []string       // links of this node's segments
	Timeouts plan.Timeouts
	Sessions int // expected at the peak
	Table    int // entries of connection tracking that are needed
}

// Exit is one way out of this node.
type Exit struct {
	Uplink string
	Device string
	// Ranges are the addresses that flows leave under; none means the link's own.
	Ranges []plan.Range
}

// size is the number of addresses.
func (e Exit) size() (n int) {
	for _, r := range e.Ranges {
		n += r.Size()
	}
	return n
}

// Active tells whether the node translates at all: it is a router with an uplink at the exit.
func (c Config) Active() bool { return len(c.Exits) > 0 }

// Configure derives the node's part from the plan. IPv6 is routed, not translated.
func Configure(p *plan.Plan, node string) (Config, error) {
	n := p.Node(node)
	if n == nil {
		return Config{}, fmt.Errorf("configure napt: the plan has no node %q", node)
	}
	c := Config{Node: n.Name, Timeouts: p.NAPT.Timeouts, Sessions: p.NAPT.Sessions, Table: p.NAPT.Table}
	if !n.Has(plan.RoleRouter) || n.Site != p.NAPT.Exit {
		return c, nil
	}
	for _, s := range p.Segments {
		if s.IPv4.IsValid() {
			c.Inside = append(c.Inside, s.IPv4)
		}
	}
	for _, a := range n.Attachments {
		c.Segments = append(c.Segments, a.Device)
	}
	for _, i := range n.Interfaces {
		u := p.Uplink(n.Site, i.Uplink)
		if i.Uplink == "" || u == nil {
			continue
		}
		c.Exits = append(c.Exits, Exit{Uplink: u.Name, Device: i.Name, Ranges: ranges(u.Addresses4())})
	}
	return c, nil
}

// ranges gathers addresses that follow each other.
func ranges(all []netip.Addr) (out []plan.Range) {
	all = slices.Clone(all)
	slices.SortFunc(all, netip.Addr.Compare)
	for _, a := range slices.Compact(all) {
		if n := len(out); n > 0 && out[n-1].To.Next() == a {
			out[n-1].To = a
			continue
		}
		out = append(out, plan.Range{From: a, To: a})
	}
	return out
}
