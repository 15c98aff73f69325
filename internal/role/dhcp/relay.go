package dhcp

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/plan"
	"github.com/hotstage/hotstage/internal/wire"
)

// RelayConfig is what the relay needs to know of the plan; see ConfigureRelay.
type RelayConfig struct {
	Node     string // in option 82: RFC 3046 section 3.2
	Segments []RelaySegment
}

// RelaySegment is a segment whose devices are served from elsewhere.
type RelaySegment struct {
	Name    string
	Device  string
	Ports   []string     // of Device where it is a bridge, else Device itself
	Addr    netip.Addr   // ours in the segment: giaddr
	Prefix  netip.Prefix // the segment's network
	Relays  []netip.Addr // others in the segment, whose messages go on as they are
	Servers []RelayServer
	Devices int // expected, which bounds what comes by one port
}

// RelayServer is a server and the device that leads to it.
type RelayServer struct {
	Addr   netip.Addr
	Device string
}

// ConfigureRelay says which segments the node relays by the plan, and to whom; none for a
// node that is no segment's gateway.
func ConfigureRelay(p *plan.Plan, node string) (RelayConfig, error) {
	n := p.Node(node)
	if n == nil {
		return RelayConfig{}, fmt.Errorf("dhcp relay: the plan has no node %q", node)
	}
	c := RelayConfig{Node: node}
	for _, a := range n.Attachments {
		s := p.Segment(a.Segment)
		if s == nil {
			return RelayConfig{}, fmt.Errorf("dhcp relay: the plan has no segment %q", a.Segment)
		}
		seg := RelaySegment{Name: s.Name, Device: a.Device, Ports: []string{a.Device}, Addr: a.IPv4.Addr(), Prefix: s.IPv4.Masked(), Relays: s.Relays, Devices: s.Devices}
		if len(a.Ports) > 1 {
			seg.Ports = nil
			for _, port := range a.Ports {
				seg.Ports = append(seg.Ports, port.Device)
			}
		}
		for i := range p.Nodes {
			r := p.Nodes[i].Relay(s.Name)
			if r == nil || r.Gateway != node {
				continue
			}
			over := n.Attachment(r.Over)
			if over == nil || r.Relay != seg.Addr {
				return RelayConfig{}, fmt.Errorf("dhcp relay: node %s does not relay segment %s over %s as %v", node, s.Name, r.Over, r.Relay)
			}
			seg.Servers = append(seg.Servers, RelayServer{r.Server, over.Device})
		}
		if len(seg.Servers) > 0 {
			c.Segments = append(c.Segments, seg)
		}
	}
	return c, nil
}

// Relay brings what devices of segments without a DHCP server of their own say to servers
// elsewhere, and the answers back: RFC 1542 section 4.1, RFC 3046. It is a task.Task and a
// task.Reporter.
//
// Each segment has a socket for broadcasts alone, so that a server of the same node may serve
// it too, and one for the answers on each device that leads to servers.
type Relay struct {
	agents []*agent
	clock  Clock
	tell   *teller
	ready  chan struct{}
}

// NewRelay makes a relay. It starts nothing; Run does, once. tell must not block.
func NewRelay(cfg RelayConfig, clock Clock, m *RelayMetrics, tell func(fact.Event)) *Relay {
	r := &Relay{clock: clock, tell: newTeller("dhcp-relay", tell), ready: make(chan struct{})}
	for _, s := range cfg.Segments {
		r.agents = append(r.agents, newAgent(cfg.Node, s, clock, m, r.tell))
	}
	return r
}

// String is the task's name.
func (r *Relay) String() string { return "dhcp-relay" }

// Ready is closed once every device was opened or found missing: one that is not there yet
// is served when it comes.
func (r *Relay) Ready() <-chan struct{} { return r.ready }

// Run relays until ctx ends and returns nil. It may be called once.
func (r *Relay) Run(ctx context.Context) error {
	var all sync.WaitGroup
	for _, g := range r.agents {
		for _, l := range g.legs() {
			all.Go(func() { l.run(ctx) })
		}
	}
	r.look(ctx)
	all.Wait()
	for _, g := range r.agents {
		g.unlearn()
	}
	return nil
}

// look notices every second whether servers are silent.
func (r *Relay) look(ctx context.Context) {
	for _, g := range r.agents {
		for _, l := range g.legs() {
			select {
			case <-l.tried:
			case <-ctx.Done():
				return
			}
		}
	}
	close(r.ready)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			for _, g := range r.agents {
				g.complain(read(r.clock))
			}
		}
	}
}

// Checks says what is so, what is wrong first.
func (r *Relay) Checks() []fact.Check {
	var checks []fact.Check
	for _, g := range r.agents {
		checks = append(checks, g.check(read(r.clock)))
	}
	slices.SortStableFunc(checks, func(a, b fact.Check) int { return btoi(a.OK) - btoi(b.OK) })
	return checks
}

// info is the option 82 of each port, and of a device whose port is not known.
func (s RelaySegment) info(node string) map[string][]byte {
	all := map[string][]byte{}
	for _, port := range append([]string{s.Device}, s.Ports...) {
		all[port] = wire.AppendDHCPRelayInfo(nil, s.Name+"/"+port, node)
	}
	return all
}
