package dhcp

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/plan"
	"github.com/hotstage/hotstage/internal/wire"
)

// A relayed segment is one that the node has no interface in. Its messages come by a device
// that serves another segment, or none:
//
//	broadcast of a device ──► relay of its gateway ──giaddr──► our device ──► the segment of giaddr
//	renewal of a device ─────────── routed ──────────ciaddr──► our device ──► the segment of ciaddr
//
// Who may pose as the relay is written in the plan: its address in the segment, and the one
// that it has on our device.

// configureRelayed is the service of a segment that its gateway relays to the node.
func configureRelayed(p *plan.Plan, n *plan.Node, r plan.Relayed) (Segment, error) {
	s, over := p.Segment(r.Segment), n.Attachment(r.Over)
	if s == nil || over == nil {
		return Segment{}, fmt.Errorf("the plan has no segment %q, or the node no interface in %q", r.Segment, r.Over)
	}
	a := *over
	a.Pool = r.Pool
	seg, err := configureSegment(p, s, a, n.Name)
	if err != nil {
		return seg, err
	}
	seg.Relayed, seg.Near = true, []netip.Addr{r.Near}
	seg.Relays = append([]netip.Addr{r.Relay}, seg.Relays...)
	return seg, nil
}

// carried gives the link of a relayed segment to the one that has its device open, if there
// is one: two sockets on one device would share its messages out.
func (s *Server) carried(l *link) *link {
	if !l.seg.cfg.Relayed {
		return l
	}
	l.listen, l.guard = nil, nil
	for _, other := range s.links {
		if other.via == nil && other.seg.cfg.Device == l.seg.cfg.Device {
			l.via, l.tried = other, other.tried
			other.behind = append(other.behind, l)
			return l
		}
	}
	l.behind = append(l.behind, l)
	return l
}

// exit is the door that the link's replies leave by, nil while the device is not there.
func (l *link) exit() door {
	if l.via != nil {
		return l.via.exit()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.door
}

// origin finds the link of the segment that a message is from, and why it is not served
// unless that is replied; the link is never nil.
func (l *link) origin(at moment, m *wire.DHCP, p packet) (*link, silence) {
	if viaRelay(m) {
		// RFC 2131 section 4.3.1: the segment is that of the relay's address. The request may
		// have come by another one.
		to := l.relays[m.GIAddr]
		if to == nil || !slices.Contains(to.seg.cfg.Relays, p.from) && !slices.Contains(to.seg.cfg.Near, p.from) {
			return l, relayed
		}
		return to, to.fromRelay(at, m)
	}
	// A renewal is not relayed: RFC 2131 section 4.4.5. Its answer is routed back to where it
	// says to be from, so that must be true.
	if m.CIAddr.Is4() && !m.CIAddr.IsUnspecified() && !p.broadcast {
		for _, to := range l.behind {
			if to.seg.cfg.Prefix.Contains(m.CIAddr) {
				if p.from != m.CIAddr {
					return l, astray
				}
				return to, replied
			}
		}
	}
	if l.seg.cfg.Relayed {
		return l, astray
	}
	return l, replied
}

// fromRelay holds a relayed message against its port's share.
func (l *link) fromRelay(at moment, m *wire.DHCP) silence {
	l.heard.Add(1)
	relay, port := m.GIAddr.As4(), wire.DHCPCircuit(m.RelayAgent)
	if l.ports.allow(relay[:], port, at.boot) {
		return replied
	}
	l.tell.say(at, fact.Warning, "relay-port-flood", l.seg.cfg.Name,
		"more than %d messages a second come by port %q of relay %v in segment %s: the rest is dropped; look at what is behind that port", l.ports.rate, port, m.GIAddr, l.seg.cfg.Name)
	return tooMany
}

// relayedCheck says whether a relayed segment is served.
func (l *link) relayedCheck() fact.Check {
	c := fact.Check{
		Name: "dhcp-relayed-" + l.seg.cfg.Name, Words: fmt.Sprintf("segment %s is served by the relay of its gateway %v", l.seg.cfg.Name, l.seg.cfg.Relays[0]),
		Measured: fmt.Sprintf("%d messages relayed", l.heard.Load()), OK: l.exit() != nil,
	}
	if !c.OK {
		c.Measured, c.Hint = "device "+l.seg.cfg.Device+" is not open", "ip link show "+l.seg.cfg.Device
	}
	return c
}
