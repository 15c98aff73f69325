package ra

import (
	"fmt"

	"github.com/hotstage/hotstage/internal/plan"
)

// ethernetMTU is what hosts assume without an MTU option (RFC 2464 section 2).
const ethernetMTU = 1500

// Configure reads from the plan what the node announces: every segment with IPv6 whose
// gateway the node is. A Config without links is no fault.
func Configure(p *plan.Plan, node string) (Config, error) {
	n := p.Node(node)
	if n == nil {
		return Config{}, fmt.Errorf("ra: the plan has no node %q; hotstage show PLAN lists its nodes", node)
	}
	var cfg Config
	if !n.Has(plan.RoleRouter) {
		return cfg, nil
	}
	for _, a := range n.Attachments {
		seg := p.Segment(a.Segment)
		if seg == nil {
			return Config{}, fmt.Errorf("ra: node %s is attached to segment %q, which the plan lacks", node, a.Segment)
		}
		if !a.Gateway || !seg.IPv6.IsValid() {
			continue
		}
		if seg.IPv6.Bits() != 64 {
			// RFC 4862 section 5.5.3 d: prefix and interface identifier together are 128 bits.
			return Config{}, fmt.Errorf("ra: segment %s has %s; hosts configure themselves from a /64 alone", seg.Name, seg.IPv6)
		}
		cfg.Links = append(cfg.Links, Link{
			Segment: seg.Name, Device: a.Device, Prefix: seg.IPv6.Masked(),
			DNS: seg.DNS6, Search: seg.Search, MTU: smallestMTU(p.Site(n.Site), seg.MTU), Portal: seg.CaptivePortal,
		})
	}
	return cfg, nil
}

// smallestMTU is that of the site's uplinks with IPv6 and of the segment (0: not given), or 0
// when all carry Ethernet's.
func smallestMTU(site *plan.Site, segment int) int {
	least := ethernetMTU
	if segment > 0 {
		least = min(least, segment)
	}
	if site != nil {
		for _, u := range site.Uplinks {
			if u.IPv6.IsValid() && u.MTU > 0 {
				least = min(least, u.MTU)
			}
		}
	}
	if least >= ethernetMTU {
		return 0
	}
	return max(least, 1280) // RFC 8200 section 5: no IPv6 link may have less
}
