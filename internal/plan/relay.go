package plan

import (
	"fmt"
	"net/netip"
	"slices"
)

// Relayed is a node's address service in a segment that it has no interface in: the gateway
// of that segment relays it (RFC 1542).
type Relayed struct {
	Segment string
	Gateway string     // the router that relays
	Relay   netip.Addr // its address in the segment, which it writes into giaddr
	Over    string     // the segment that both nodes have an interface in
	Near    netip.Addr // the router's address there
	Server  netip.Addr // this node's address there: devices renew with it
	Pool    Range      // the part of the segment's pool that this node hands out; parts are disjoint
}

// service is one node's part in a segment's address service, while it is derived.
type service struct {
	node *Node
	via  *Relayed // nil: the node has an interface in the segment
}

// servers lists who gives addresses in a segment, in the order of the nodes: whom the plan
// names, else the dhcp nodes in it, else those that its gateway reaches.
func (d *deriver) servers(s *draft) (all []service) {
	if s.raw.gives("dhcp") {
		return d.namedServers(s)
	}
	for i := range d.plan.Nodes {
		if n := &d.plan.Nodes[i]; n.Has(RoleDHCP) && n.Attachment(s.Name) != nil {
			all = append(all, service{node: n})
		}
	}
	if len(all) > 0 {
		return all
	}
	for i := range d.plan.Nodes {
		if n := &d.plan.Nodes[i]; n.Has(RoleDHCP) {
			if via := d.relay(s, n); via != nil {
				all = append(all, service{n, via})
			}
		}
	}
	return all
}

// namedServers are those that the plan names for the segment under dhcp.
func (d *deriver) namedServers(s *draft) (all []service) {
	var able []string
	for i := range d.plan.Nodes {
		n := &d.plan.Nodes[i]
		via := d.relay(s, n)
		if !n.Has(RoleDHCP) || n.Attachment(s.Name) == nil && via == nil {
			continue
		}
		able = append(able, n.Name)
		if slices.Contains(s.raw.dhcp, n.Name) {
			all = append(all, service{n, via})
		}
	}
	at := s.raw.of("dhcp")
	for i, name := range s.raw.dhcp {
		here := at
		if at.kind == list && len(at.items) == len(s.raw.dhcp) {
			here = at.items[i]
		}
		n, allowed := d.plan.Node(name), choices(able)
		if allowed == "" {
			allowed = "a node with role dhcp and an interface in the segment, or in a server segment that its gateway is in too"
		}
		switch {
		case slices.Contains(s.raw.dhcp[:i], name):
			d.at(here, fmt.Sprintf("node %s stands twice for segment %s", name, s.Name), "each node once", "")
		case slices.Contains(able, name):
		case n == nil:
			d.lost = true
			d.at(here, "the plan has no node "+name, allowed, didYouMean(name, able))
		case !n.Has(RoleDHCP):
			d.at(here, fmt.Sprintf("node %s does not have the role dhcp", name), allowed, "add dhcp to its roles")
		default:
			d.at(here, fmt.Sprintf("node %s has no interface in segment %s, and its gateway %s", name, s.Name, d.noWay(s, n)), allowed, "")
		}
	}
	return all
}

// noWay says why the gateway of the segment does not relay to the node.
func (d *deriver) noWay(s *draft, n *Node) string {
	switch g := d.gatewayOf(s); {
	case g == nil:
		return "is missing"
	case n.Site != g.Site:
		return fmt.Sprintf("%s is at another site than %s: this version has no tunnel to relay through", g.Name, n.Name)
	default:
		return fmt.Sprintf("%s shares no server segment with it to relay over", g.Name)
	}
}

func (d *deriver) gatewayOf(s *draft) *Node {
	for i := range d.plan.Nodes {
		if a := d.plan.Nodes[i].Attachment(s.Name); a != nil && a.Gateway {
			return &d.plan.Nodes[i]
		}
	}
	return nil
}

// relay is how the segment's gateway reaches a node that has no interface in the segment,
// nil when it does not: over a segment that both are in, and that the segment's own devices
// get to in order to renew. Of several, a server segment is best.
func (d *deriver) relay(s *draft, n *Node) *Relayed {
	g := d.gatewayOf(s)
	if g == nil || g == n || n.Attachment(s.Name) != nil {
		return nil
	}
	classes := []Class{Server, Management, Staff}
	if s.Class == Attendee {
		classes = classes[:1] // attendees do not get to the others
	}
	for _, class := range classes {
		for _, a := range n.Attachments {
			near := g.Attachment(a.Segment)
			if near == nil || d.class(a.Segment) != class || !a.IPv4.IsValid() || !near.IPv4.IsValid() {
				continue
			}
			return &Relayed{Segment: s.Name, Gateway: g.Name, Relay: s.Gateway4, Over: a.Segment, Near: near.IPv4.Addr(), Server: a.IPv4.Addr()}
		}
	}
	return nil
}

// splitPools gives each DHCP node of a segment a part of the pool of its own, so that no
// two servers can ever hand out one address, whatever becomes of the path between them.
func (d *deriver) splitPools() {
	var lacking, others []*draft
	for _, s := range d.drafts {
		var servers []service
		if s.Pool.IsValid() {
			servers = d.servers(s)
		}
		size, from := s.Pool.Size(), uint32(0)
		if len(servers) > 0 {
			from = u32(s.Pool.From)
		}
		for i, one := range servers {
			lo, hi := size*i/len(servers), size*(i+1)/len(servers)-1
			part := Range{fromU32(from + uint32(lo)), fromU32(from + uint32(hi))}
			s.Servers = append(s.Servers, one.node.Name)
			if one.via == nil {
				one.node.Attachment(s.Name).Pool = part
				continue
			}
			one.via.Pool = part
			one.node.Relayed = append(one.node.Relayed, *one.via)
		}
		switch {
		case len(servers) > 0 || !s.Pool.IsValid() || d.lost:
		case s.raw.gives("dhcp"):
			if s.Class == Attendee && len(s.raw.dhcp) == 0 {
				d.warn(s.raw.of("dhcp"), "no node gives addresses in segment "+s.Name, "well, if another DHCP server does; devices of attendees have none by hand")
			}
		case s.Class == Attendee:
			lacking = append(lacking, s)
		default:
			others = append(others, s)
		}
	}
	for _, s := range others {
		if len(lacking) == 0 && len(d.noGateway) == 0 {
			d.warn(s.raw.at, "no node gives addresses in segment "+s.Name, "well, if all in it have theirs by hand: say dhcp: []; else a node with role dhcp and an interface in it, or in a server segment that its gateway is in too")
		}
	}
	d.lack(lacking, "no node that gives addresses", "a node with role dhcp and an interface in it, or in a server segment that its gateway is in too")
}

// Part is a node's part in the address service of a segment, for people.
type Part struct {
	Segment, Node string
	Pool          Range
	Arithmetic    string // the part's addresses, and how many of how many they are
	Way           string // directly, or by which relay
}

// Service lists every part, by segments and then nodes in the order of the plan.
func Service(p *Plan) (all []Part) {
	for _, s := range p.Segments {
		for _, name := range s.Servers {
			n := p.Node(name)
			part := Part{Segment: s.Name, Node: name, Way: "directly"}
			if a := n.Attachment(s.Name); a != nil {
				part.Pool = a.Pool
			} else if r := n.Relay(s.Name); r != nil {
				part.Pool = r.Pool
				part.Way = fmt.Sprintf("%s relays as %s, over %s to %s", r.Gateway, r.Relay, r.Over, r.Server)
			}
			part.Arithmetic = fmt.Sprintf("%s-%s (%d of %d, 1/%d)", part.Pool.From, part.Pool.To, part.Pool.Size(), s.Pool.Size(), len(s.Servers))
			all = append(all, part)
		}
	}
	return all
}

// Relay is how the node's address service of the named segment is relayed, or nil.
func (n *Node) Relay(segment string) *Relayed {
	for i := range n.Relayed {
		if n.Relayed[i].Segment == segment {
			return &n.Relayed[i]
		}
	}
	return nil
}
