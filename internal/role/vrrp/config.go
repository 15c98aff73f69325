package vrrp

import (
	"fmt"
	"net/netip"

	"github.com/hotstage/hotstage/internal/plan"
)

// Configure reads from the plan which service addresses the node may have. A Config without
// segments is no fault.
func Configure(p *plan.Plan, node string) (Config, error) {
	n := p.Node(node)
	if n == nil {
		return Config{}, fmt.Errorf("vrrp: the plan has no node %q; hotstage show PLAN lists its nodes", node)
	}
	cfg := Config{}
	if p.Resolver.VRRP == nil {
		return cfg, nil
	}
	cfg.Interval, cfg.Preempt = p.Resolver.VRRP.Interval, p.Resolver.VRRP.Preempt
	for _, a := range n.Attachments {
		s := p.Segment(a.Segment)
		if s == nil {
			return Config{}, fmt.Errorf("vrrp: node %s is attached to segment %q, which the plan lacks", node, a.Segment)
		}
		if s.Service == nil {
			continue
		}
		seg := Segment{Name: s.Name, Device: a.Device, VRID: s.Service.VRID}
		four, six := Address{Service: s.Service.IPv4}, Address{Service: s.Service.IPv6, Beside: virtualLinkLocal(s.Service.VRID)}
		for _, x := range s.Service.Nodes {
			if x.Node == node {
				seg.Priority, four.Own, six.Own = x.Priority, x.IPv4, x.IPv6
				continue
			}
			four.Peers = append(four.Peers, Peer{x.Node, x.IPv4})
			if x.IPv6.IsValid() {
				six.Peers = append(six.Peers, Peer{x.Node, x.IPv6})
			}
		}
		if seg.Priority == 0 {
			continue // not a resolver
		}
		seg.Addresses = append(seg.Addresses, four)
		if six.Service.IsValid() && six.Own.IsValid() {
			seg.Addresses = append(seg.Addresses, six)
		}
		cfg.Segments = append(cfg.Segments, seg)
	}
	return cfg, nil
}

// virtualLinkLocal is the address that RFC 9568 section 5.2.9 wants first in an IPv6
// advertisement: link-local, of the virtual router. It is made of the virtual router's MAC
// address (section 7.3) as RFC 4291 appendix A does. Nobody needs to reach it.
func virtualLinkLocal(vrid int) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 8: 0x02, 10: 0x5e, 11: 0xff, 12: 0xfe, 14: 0x02, 15: byte(vrid)})
}
