package dhcp

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/hotstage/hotstage/internal/plan"
	"github.com/hotstage/hotstage/internal/wire"
)

// mostAddresses is the largest part of a pool: a /14. Every address takes about 350 bytes.
const mostAddresses = 1 << 18

// Configure says what the node's DHCP server has to do by the plan. The error names the
// node and what is missing for it.
func Configure(p *plan.Plan, node string) (Config, error) {
	n := p.Node(node)
	if n == nil {
		return Config{}, fmt.Errorf("dhcp: the plan has no node %q", node)
	}
	if !n.Has(plan.RoleDHCP) {
		return Config{}, fmt.Errorf("dhcp: node %s does not have the role dhcp", node)
	}
	c := Config{Node: node}
	for _, name := range p.Resolver.Names {
		c.Names = append(c.Names, name.FQDN)
	}
	for _, a := range n.Attachments {
		s := p.Segment(a.Segment)
		if s == nil || !slices.Contains(s.Servers, node) || !a.Pool.IsValid() && len(s.Reservations) == 0 {
			continue
		}
		seg, err := configureSegment(p, s, a, node)
		if err != nil {
			return Config{}, fmt.Errorf("dhcp: node %s: segment %s: %w", node, s.Name, err)
		}
		c.Segments = append(c.Segments, seg)
	}
	for _, r := range n.Relayed {
		seg, err := configureRelayed(p, n, r)
		if err != nil {
			return Config{}, fmt.Errorf("dhcp: node %s: relayed segment %s: %w", node, r.Segment, err)
		}
		c.Segments = append(c.Segments, seg)
	}
	c.onlyPartner(plan.Pairs(p)[node])
	if len(c.Segments) == 0 {
		return Config{}, fmt.Errorf("dhcp: node %s has the role dhcp but has no segment to serve; give it an interface in one, or name it under dhcp of one", node)
	}
	return c, nil
}

func configureSegment(p *plan.Plan, s *plan.Segment, a plan.Attachment, node string) (Segment, error) {
	seg := Segment{
		Name: s.Name, Device: a.Device, Server: a.IPv4.Addr(), Prefix: s.IPv4.Masked(), Pool: a.Pool,
		Lease: s.Lease, Domain: s.Domain, Reservations: s.Reservations, Relays: s.Relays, Devices: s.Devices,
	}
	switch {
	case !seg.Server.Is4() || a.Segment == s.Name && !seg.Prefix.Contains(seg.Server):
		return seg, fmt.Errorf("the node's address %v is not in %v", seg.Server, s.IPv4)
	case s.Lease <= 0:
		return seg, fmt.Errorf("lease time %v; more than 0 is needed", s.Lease)
	case a.Pool.Size() > mostAddresses:
		return seg, fmt.Errorf("a pool of %d addresses; at most %d are allowed, give a smaller one", a.Pool.Size(), mostAddresses)
	case a.Pool.IsValid() && !(seg.Prefix.Contains(a.Pool.From) && seg.Prefix.Contains(a.Pool.To)):
		return seg, fmt.Errorf("the pool %v to %v is not in %v", a.Pool.From, a.Pool.To, s.IPv4)
	}
	for _, r := range s.Reservations {
		byMAC, byID := len(r.MAC) == 6 && r.ClientID == nil, r.MAC == nil && len(r.ClientID) >= 2 && len(r.ClientID) <= 255
		if !byMAC && !byID || !seg.Prefix.Contains(r.Addr) {
			return seg, fmt.Errorf("reservation %s: %v for %s; an Ethernet address or a client identifier, and an address in %v are needed", r.Name, r.Addr, r.Device(), s.IPv4)
		}
	}
	seg.Partner = partner(p, s, node, a.Pool)
	seg.Never, seg.Partners = never(p, s, seg), partners(p, s, seg.Server)
	seg.Options, seg.IPv6Only = options(s), s.IPv6Only > 0
	if _, err := wire.NewDHCPTemplate(seg.Options); err != nil {
		return seg, err
	}
	return seg, nil
}

// partners lists the addresses of the plan's other DHCP servers in the segment.
func partners(p *plan.Plan, s *plan.Segment, own netip.Addr) []netip.Addr {
	var all []netip.Addr
	for i := range p.Nodes {
		n := &p.Nodes[i]
		if a := n.Attachment(s.Name); a != nil && n.Has(plan.RoleDHCP) && a.IPv4.Addr() != own {
			all = append(all, a.IPv4.Addr())
		}
		if r := n.Relay(s.Name); r != nil && r.Server != own {
			all = append(all, r.Server)
		}
	}
	return all
}

// partner is the other server of the segment when there are two, each with a part of the
// pool, in the segment or by its relay; nil otherwise.
func partner(p *plan.Plan, s *plan.Segment, node string, pool plan.Range) (other *Partner) {
	for _, name := range s.Servers {
		n := p.Node(name)
		if n == nil || name == node {
			continue
		}
		var part plan.Range
		if a := n.Attachment(s.Name); a != nil {
			part = a.Pool
		} else if r := n.Relay(s.Name); r != nil {
			part = r.Pool
		}
		if other != nil || !part.IsValid() || !pool.IsValid() {
			return nil
		}
		other = &Partner{Node: name, Pool: part}
	}
	return other
}

// onlyPartner leaves the partner in the segments that the node serves with it, and none in
// others.
func (c *Config) onlyPartner(name string) {
	for i := range c.Segments {
		switch other := c.Segments[i].Partner; {
		case other == nil:
		case other.Node == name:
			c.Partner = name
		default:
			c.Segments[i].Partner = nil
		}
	}
}

// Alone is the Config of a server that has nobody to talk to, whatever the plan says: it gives
// addresses of its own part, and knows nothing of others.
func (c Config) Alone() Config {
	c.Partner, c.Segments = "", slices.Clone(c.Segments)
	for i := range c.Segments {
		c.Segments[i].Partner = nil
	}
	return c
}

// never lists the addresses within the pool's parts that are in use by the plan itself.
func never(p *plan.Plan, s *plan.Segment, seg Segment) []netip.Addr {
	var all []netip.Addr
	add := func(a netip.Addr) {
		if seg.Pool.Contains(a) || seg.Partner != nil && seg.Partner.Pool.Contains(a) {
			all = append(all, a)
		}
	}
	add(s.IPv4.Masked().Addr())
	add(plan.LastAddr(s.IPv4))
	add(s.Gateway4)
	for i := range p.Nodes {
		if a := p.Nodes[i].Attachment(s.Name); a != nil {
			add(a.IPv4.Addr())
		}
	}
	return all
}
