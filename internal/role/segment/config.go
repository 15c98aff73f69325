//go:build linux

package segment

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/hotstage/hotstage/internal/plan"
)

// Config is what a node's part of the segments shall be.
type Config struct {
	Node     string
	Router   bool
	Segments []Segment      // that the node has an interface in, in plan order
	Uplinks  []string       // names of links to the internet
	Routes   []kernel.Route // to other segments, and the default route of a node without uplink
	// What attendees may ask of this node.
	DHCP, DNS, NTP bool
	Encrypted      bool // the plan's resolvers may serve by TLS, HTTPS and QUIC too
	// The whole plan's prefixes by what may go there.
	Attendees, Management, Inside []netip.Prefix
	Near                          []netip.Prefix // those of this node's site
	// Addresses that attendees are told of, and may ask on the service's port.
	Resolvers, Clocks []netip.Addr
	// Service addresses of segments of attendees that this node may have, and where the
	// nodes that share them advertise from.
	Shared, Advertisers []netip.Addr `json:",omitempty"`
}

// Segment is one segment as this node has it.
type Segment struct {
	Name    string
	Class   plan.Class
	Isolate bool
	Device  string
	Ports   []plan.Port
	Own     []netip.Prefix // this node's addresses, with the length of the segment's prefix
	Nets    []netip.Prefix // the segment's prefixes
	Leases  []netip.Addr   `json:",omitempty"` // of attendees: DHCP servers that they renew with beyond their router
}

// Configure derives the node's part from the plan.
func Configure(p *plan.Plan, node string) (Config, error) {
	n := p.Node(node)
	if n == nil {
		return Config{}, fmt.Errorf("configure segment: the plan has no node %q", node)
	}
	c := Config{
		Node: n.Name, Router: n.Has(plan.RoleRouter),
		DHCP: n.Has(plan.RoleDHCP) || n.Has(plan.RoleRouter) && relays(p, n), DNS: n.Has(plan.RoleResolver), NTP: n.Has(plan.RoleNTP),
	}
	c.Encrypted = p.Resolver.Encrypted.Mode != plan.EncryptedOff && slices.ContainsFunc(p.Nodes, func(n plan.Node) bool { return n.Has(plan.RoleResolver) })
	for _, i := range n.Interfaces {
		if i.Uplink != "" {
			c.Uplinks = append(c.Uplinks, i.Name)
		}
	}
	for _, a := range n.Attachments {
		s := p.Segment(a.Segment)
		if s == nil {
			return Config{}, fmt.Errorf("configure segment: node %s is attached to %q, which the plan does not have", node, a.Segment)
		}
		c.Segments = append(c.Segments, Segment{
			Name: s.Name, Class: s.Class, Isolate: s.Isolate, Device: a.Device, Ports: a.Ports,
			Own: valid(a.IPv4, a.IPv6), Nets: valid(s.IPv4, s.IPv6), Leases: renewed(p, s),
		})
	}
	for _, s := range p.Segments {
		c.Inside = append(c.Inside, valid(s.IPv4, s.IPv6)...)
		if s.Site == n.Site {
			c.Near = append(c.Near, valid(s.IPv4, s.IPv6)...)
		}
		if s.Service != nil && s.Class == plan.Attendee && n.Attachment(s.Name) != nil {
			c.share(s.Service)
		}
		switch s.Class {
		case plan.Attendee:
			c.Attendees = append(c.Attendees, valid(s.IPv4, s.IPv6)...)
			c.Resolvers = union(c.Resolvers, s.DNS4, s.DNS6)
			c.Clocks = union(c.Clocks, s.NTP4)
		case plan.Management:
			c.Management = append(c.Management, valid(s.IPv4, s.IPv6)...)
		}
	}
	c.Routes = routes(p, n)
	return c, nil
}

// share notes a service address of a segment of attendees.
func (c *Config) share(x *plan.ServiceAddress) {
	for _, n := range x.Nodes {
		for _, a := range []netip.Addr{n.IPv4, n.IPv6} {
			if a.IsValid() {
				c.Advertisers = union(c.Advertisers, []netip.Addr{a})
			}
		}
		if n.Node != c.Node {
			continue
		}
		for _, a := range []netip.Addr{x.IPv4, x.IPv6} {
			if a.IsValid() {
				c.Shared = append(c.Shared, a)
			}
		}
	}
}

// renewed lists the servers that attendees reach by their gateway's relay at first and by
// themselves later: RFC 2131 section 4.4.5. Others are not filtered.
func renewed(p *plan.Plan, s *plan.Segment) (all []netip.Addr) {
	for i := range p.Nodes {
		if r := p.Nodes[i].Relay(s.Name); r != nil && s.Class == plan.Attendee {
			all = append(all, r.Server)
		}
	}
	return all
}

// relays tells whether the node is the relay of a segment of attendees.
func relays(p *plan.Plan, n *plan.Node) bool {
	for i := range p.Nodes {
		for _, r := range p.Nodes[i].Relayed {
			if s := p.Segment(r.Segment); r.Gateway == n.Name && s != nil && s.Class == plan.Attendee {
				return true
			}
		}
	}
	return false
}

func valid(all ...netip.Prefix) (out []netip.Prefix) {
	for _, p := range all {
		if p.IsValid() {
			out = append(out, p)
		}
	}
	return out
}

func union(all []netip.Addr, more ...[]netip.Addr) []netip.Addr {
	for _, a := range slices.Concat(more...) {
		if !slices.Contains(all, a) {
			all = append(all, a)
		}
	}
	return all
}

// Metrics of our routes: worse than what a person sets without saying one, which is 0 for
// IPv4 and 1024 for IPv6.
const (
	metricDefault = 2048
	metricSegment = 1536
)

// routes are those to the segments that this node has no interface in, by the router that
// has, and the default routes of a node without an uplink.
func routes(p *plan.Plan, n *plan.Node) (all []kernel.Route) {
	def := defaultGateway(p, n)
	if def != nil {
		all = append(all, by(def, netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0), metricDefault)...)
	}
	for _, s := range p.Segments {
		if s.Site != n.Site || n.Attachment(s.Name) != nil {
			continue
		}
		if h := hop(p, n, s.Name); h != nil && (def == nil || h.via4 != def.via4) {
			all = append(all, by(h, s.IPv4, s.IPv6, metricSegment)...)
		}
	}
	return all
}

// next is a next hop in both families, on the node's device.
type next struct {
	device     string
	via4, via6 netip.Addr
}

func by(h *next, net4, net6 netip.Prefix, metric int) (all []kernel.Route) {
	if h.via4.IsValid() && net4.IsValid() {
		all = append(all, kernel.Route{To: net4, Via: h.via4, Device: h.device, Metric: metric})
	}
	if h.via6.IsValid() && net6.IsValid() {
		all = append(all, kernel.Route{To: net6, Via: h.via6, Device: h.device, Metric: metric})
	}
	return all
}

// defaultGateway is the gateway of the node's best segment, nil for a node with an uplink.
func defaultGateway(p *plan.Plan, n *plan.Node) *next {
	if slices.ContainsFunc(n.Interfaces, func(i plan.Interface) bool { return i.Uplink != "" }) {
		return nil
	}
	for _, class := range []plan.Class{plan.Server, plan.Management, plan.Staff, plan.Attendee} {
		for _, a := range n.Attachments {
			s := p.Segment(a.Segment)
			if s == nil || s.Class != class || a.Gateway || !s.Gateway4.IsValid() {
				continue
			}
			h := &next{device: a.Device, via4: s.Gateway4}
			if a.IPv6.IsValid() {
				h.via6 = s.Gateway6
			}
			return h
		}
	}
	return nil
}

// hop is the way to the gateway of a segment by one that both have an interface in; server
// segments first, since attendees' are the busiest.
func hop(p *plan.Plan, n *plan.Node, segment string) *next {
	for i := range p.Nodes {
		g := &p.Nodes[i]
		if a := g.Attachment(segment); a == nil || !a.Gateway || g.Name == n.Name {
			continue
		}
		for _, class := range []plan.Class{plan.Server, plan.Management, plan.Staff, plan.Attendee} {
			for _, a := range n.Attachments {
				theirs, s := g.Attachment(a.Segment), p.Segment(a.Segment)
				if theirs != nil && s != nil && s.Class == class {
					return &next{a.Device, theirs.IPv4.Addr(), theirs.IPv6.Addr()}
				}
			}
		}
	}
	return nil
}
