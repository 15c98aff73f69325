//go:build linux

// Package venue builds the plan's whole venue on one Linux machine: every node a network
// namespace in which this same binary runs, every segment a switch with isolated ports,
// every uplink a link to a small internet, and the far sites as far away as they are.
//
//	   node gw1                      fabric of the site              aps
//	┌────────────┐                ┌──────────────────┐         ┌────────────┐
//	│ eth1.101 ──┼── veth ────────┼─ br101 ── p3 ────┼─ veth ──┼─ v101ap0   │ simulated
//	│            │                │       └── p4 ────┼─ veth ──┼─ v101ap1   │ devices
//	│ eth0 ──────┼── veth ── (delay line) ── veth ───┼─────────┼──► internet
//	└────────────┘                └──────────────────┘         └────────────┘
//
// The processes of the nodes see what they would see on the machines of the venue, and
// cannot tell the difference. What this machine cannot rehearse, Probe says.
package venue

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/hotstage/hotstage/internal/lab/venue/delay"
	"github.com/hotstage/hotstage/internal/plan"
)

// Options are the choices of a rehearsal that the plan does not make.
type Options struct {
	// PlanFile is given to each node, which is this binary once more: "hotstage run PlanFile
	// --node NAME --state Dir/NAME/state".
	PlanFile string
	KeysDir  string // of the event's keys; given to each node
	// Dir holds a folder per node: its log and its state. It must exist.
	Dir string
	// APs is the number of ports for simulated access points in each attendee segment; 0
	// means 4. Every other segment has one port.
	APs int
	// Ready returns when the node that was just started serves, or with the reason why it
	// will not. Its ctx ends when the node's process does. Nil: started is ready.
	Ready func(ctx context.Context, node, stateDir string) error
}

// Venue is a built venue. Its methods are safe for concurrent use, except Close, which must
// come last.
type Venue struct {
	plan    *plan.Plan
	options Options
	say     func(string)
	tags    bool // the kernel has 802.1Q

	fabrics  map[string]*kernel.Namespace // by site: the switches
	aps      *kernel.Namespace            // where simulated devices are
	path     *kernel.Namespace            // the way to far sites; nil when all are near
	internet *kernel.Namespace
	nodes    map[string]*node
	ports    map[string][]Port
	access   []Access
	lines    []*delay.Line
	joints   int // counts the veth pairs, for their names

	down   chan Death
	cancel context.CancelFunc // ends the delay lines
	work   sync.WaitGroup

	mu     sync.Mutex
	broken []error // of delay lines that ended by themselves
}

// Port is where simulated devices are attached to a segment: the far end of a veth pair, up
// and without addresses. Use it by packet socket; frames carry real checksums. Frames
// between two ports of an isolating segment are dropped, those to and from nodes pass.
type Port struct {
	Namespace *kernel.Namespace
	Device    string
}

// Access is the internet's end of the uplink of one node. Another package addresses it.
type Access struct {
	Device string
	Uplink plan.Uplink // the plan's; in mode system without addresses, IPv4 has Address4
	Node   string
	// Address4 is what stands on the node's interface in mode system, as a /32 whose next
	// hop is SystemGateway4; invalid in the other modes.
	Address4 netip.Addr
}

// SystemGateway4 and SystemGateway6 are the next hops of uplinks in mode system: the
// internet must answer to them on such links. RFC 6598 addresses are what carriers use
// between themselves and a customer.
var (
	SystemGateway4 = netip.AddrFrom4([4]byte{100, 64, 0, 1})
	SystemGateway6 = netip.MustParseAddr("fe80::1")
)

// Build makes the namespaces and links of the plan; no node runs yet. say gets a line for
// people about each step, from one goroutine. ctx bounds the building only. After an error
// nothing is left; otherwise Close must follow.
func Build(ctx context.Context, p *plan.Plan, o Options, say func(string)) (*Venue, error) {
	if err := o.complete(); err != nil {
		return nil, fmt.Errorf("build venue: %w", err)
	}
	running, cancel := context.WithCancel(context.Background())
	v := &Venue{
		plan: p, options: o, say: say,
		fabrics: map[string]*kernel.Namespace{},
		nodes:   map[string]*node{},
		ports:   map[string][]Port{},
		down:    make(chan Death, 64),
		cancel:  cancel,
	}
	if err := v.build(ctx, running); err != nil {
		v.Close()
		return nil, fmt.Errorf("build venue: %w", err)
	}
	return v, nil
}

func (o *Options) complete() error {
	if o.APs == 0 {
		o.APs = 4
	}
	if o.PlanFile == "" || o.Dir == "" {
		return errors.New("options PlanFile and Dir are needed")
	}
	var err error
	if o.KeysDir == "" {
		o.KeysDir = filepath.Join(o.Dir, "keys")
	}
	if o.PlanFile, err = filepath.Abs(o.PlanFile); err != nil {
		return err
	}
	if o.Dir, err = filepath.Abs(o.Dir); err != nil {
		return err
	}
	_, err = os.Stat(o.Dir)
	return err
}

func (v *Venue) build(ctx, running context.Context) error {
	if err := v.makeSpaces(); err != nil {
		return err
	}
	var err error
	if v.tags, err = kernel.Has8021Q(); err != nil {
		return err
	}
	for i := range v.plan.Segments {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := v.makeSegment(&v.plan.Segments[i]); err != nil {
			return fmt.Errorf("segment %s: %w", v.plan.Segments[i].Name, err)
		}
	}
	for i := range v.plan.Nodes {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := &v.plan.Nodes[i]
		for _, f := range n.Interfaces {
			if err := v.makeInterface(running, n, f); err != nil {
				return fmt.Errorf("node %s: interface %s: %w", n.Name, f.Name, err)
			}
		}
	}
	v.say(fmt.Sprintf("built %d segments, %d nodes, %d uplinks", len(v.plan.Segments), len(v.plan.Nodes), len(v.access)))
	return nil
}

// makeSpaces makes all namespaces, with their defaults set before any link is in them.
func (v *Venue) makeSpaces() error {
	var err error
	if v.aps, err = newSpace(quiet); err != nil {
		return err
	}
	if v.path, err = newSpace(quiet); err != nil {
		return err
	}
	if v.internet, err = newSpace(noDAD); err != nil {
		return err
	}
	for _, site := range v.plan.Sites {
		if v.fabrics[site.Name], err = newSpace(quiet); err != nil {
			return err
		}
	}
	for i := range v.plan.Nodes {
		name := v.plan.Nodes[i].Name
		if v.nodes[name], err = v.newNode(name); err != nil {
			return fmt.Errorf("node %s: %w", name, err)
		}
	}
	return nil
}

// Ports lists where simulated devices are attached to the segment; nil for an unknown one.
func (v *Venue) Ports(segment string) []Port { return v.ports[segment] }

// Internet is the namespace in which all uplinks end, and the ends in it, up and without
// addresses. The handle stays the venue's.
func (v *Venue) Internet() (*kernel.Namespace, []Access) { return v.internet, v.access }

// Namespace is the node's; nil for an unknown node. The handle stays the venue's.
func (v *Venue) Namespace(node string) *kernel.Namespace {
	if n := v.nodes[node]; n != nil {
		return n.Namespace
	}
	return nil
}

// Close stops all nodes (SIGTERM, then SIGKILL at the deadline), the delay lines, and gives
// every namespace back. State and logs of the nodes stay in Dir.
func (v *Venue) Close() error {
	var work sync.WaitGroup
	errs := make([]error, len(v.plan.Nodes))
	for i := range v.plan.Nodes {
		if v.nodes[v.plan.Nodes[i].Name] == nil {
			continue
		}
		work.Go(func() { errs[i] = v.Stop(v.plan.Nodes[i].Name) })
	}
	work.Wait()
	v.cancel()
	v.work.Wait()
	for _, l := range v.lines {
		if n := l.Dropped(); n > 0 {
			v.say(fmt.Sprintf("the path to a far site dropped %d frames", n))
		}
		l.Close()
	}
	errs = append(errs, v.broken...)
	spaces := append(slices.Collect(maps.Values(v.fabrics)), v.aps, v.path, v.internet)
	for _, n := range v.nodes {
		if n != nil {
			spaces = append(spaces, n.Namespace)
		}
	}
	for _, s := range spaces {
		if s != nil {
			s.Close()
		}
	}
	return errors.Join(errs...)
}
