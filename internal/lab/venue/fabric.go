//go:build linux

package venue

import (
	"context"
	"fmt"

	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/hotstage/hotstage/internal/plan"
)

// mtu is Ethernet's, in bytes.
const mtu = 1500

// fabric is the namespace of the switches of a segment's site.
func (v *Venue) fabric(s *plan.Segment) (*kernel.Namespace, error) {
	if f := v.fabrics[s.Site]; f != nil {
		return f, nil
	}
	return nil, fmt.Errorf("the plan has no site %q", s.Site)
}

func bridgeOf(s *plan.Segment) string { return fmt.Sprintf("br%d", s.VLAN) }

// joint is a new name for the fabric's end of a link.
func (v *Venue) joint() string {
	v.joints++
	return fmt.Sprintf("p%d", v.joints)
}

// makeSegment makes the segment's switch and its ports for simulated devices.
func (v *Venue) makeSegment(s *plan.Segment) error {
	f, err := v.fabric(s)
	if err != nil {
		return err
	}
	if err := addBridge(f, bridgeOf(s)); err != nil {
		return err
	}
	ports := 1
	if s.Class == plan.Attendee {
		ports = v.options.APs
	}
	for i := range ports {
		device, joint := fmt.Sprintf("v%dap%d", s.VLAN, i), v.joint()
		if err := join(f, joint, v.aps, device, mtu); err != nil {
			return err
		}
		if err := enslave(f, joint, bridgeOf(s), s.Isolate); err != nil {
			return err
		}
		v.ports[s.Name] = append(v.ports[s.Name], Port{Namespace: v.aps, Device: device})
	}
	return nil
}

// makeInterface makes one interface of a node, as the machine's owner would plug it in.
func (v *Venue) makeInterface(running context.Context, n *plan.Node, f plan.Interface) error {
	switch {
	case f.Uplink != "":
		return v.makeUplink(running, n, f)
	case f.Segment != "":
		return v.plugIn(n, f.Name, f.Segment)
	case v.tags:
		return v.makeTrunk(n, f)
	default:
		return v.makeUntaggedTrunk(n, f)
	}
}

// plugIn joins the node's link to the switch of the segment.
func (v *Venue) plugIn(n *plan.Node, link, segment string) error {
	s, f, err := v.segment(segment)
	if err != nil {
		return err
	}
	joint, in := v.joint(), v.nodes[n.Name].Namespace
	if err := join(f, joint, in, link, mtu); err != nil {
		return err
	}
	if err := fullChecksums(in, link); err != nil {
		return err
	}
	return enslave(f, joint, bridgeOf(s), false)
}

func (v *Venue) segment(name string) (*plan.Segment, *kernel.Namespace, error) {
	s := v.plan.Segment(name)
	if s == nil {
		return nil, nil, fmt.Errorf("the plan has no segment %q", name)
	}
	f, err := v.fabric(s)
	return s, f, err
}

// makeTrunk makes one link that carries tagged frames. The node makes its own VLAN
// interfaces on it; ours, at the other end, are ports of the switches.
func (v *Venue) makeTrunk(n *plan.Node, f plan.Interface) error {
	fabric, in := v.fabrics[n.Site], v.nodes[n.Name].Namespace
	if fabric == nil {
		return fmt.Errorf("the plan has no site %q", n.Site)
	}
	joint := v.joint()
	if err := join(fabric, joint, in, f.Name, mtu); err != nil {
		return err
	}
	if err := fullChecksums(in, f.Name); err != nil {
		return err
	}
	for _, name := range f.Trunk {
		s, at, err := v.segment(name)
		if err != nil {
			return err
		}
		if at != fabric {
			return fmt.Errorf("segment %s is of site %s, the node is of site %s", name, s.Site, n.Site)
		}
		port := fmt.Sprintf("%s.%d", joint, s.VLAN)
		if err := fabric.Do(func() error { return kernel.AddVLAN(port, joint, s.VLAN) }); err != nil {
			return err
		}
		if err := enslave(fabric, port, bridgeOf(s), false); err != nil {
			return err
		}
	}
	return nil
}

// makeUntaggedTrunk is makeTrunk for a kernel without 802.1Q: each VLAN interface is a link
// of its own, under the name and with the hardware address that it would have.
func (v *Venue) makeUntaggedTrunk(n *plan.Node, f plan.Interface) error {
	fabric, in := v.fabrics[n.Site], v.nodes[n.Name].Namespace
	if fabric == nil {
		return fmt.Errorf("the plan has no site %q", n.Site)
	}
	if err := join(fabric, v.joint(), in, f.Name, mtu); err != nil {
		return err
	}
	for _, a := range n.Attachments {
		for _, port := range a.Ports {
			if port.Parent != f.Name {
				continue
			}
			if err := v.plugIn(n, port.Device, a.Segment); err != nil {
				return fmt.Errorf("%s: %w", port.Device, err)
			}
			if err := borrowMAC(in, port.Device, f.Name); err != nil {
				return err
			}
		}
	}
	return nil
}
