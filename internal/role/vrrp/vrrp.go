// Package vrrp moves the service addresses of resolvers between the nodes of a segment:
// VRRPv3 (RFC 9568) for IPv4 and IPv6. A node that cannot resolve steps back behind those
// that can, and where none can the order of the plan holds.
//
//	advertisements, ARP, neighbour solicitations ──► link ──► machine ──► deeds
//	                                                                      │
//	            advertise, announce, answer ◄── packet socket ◄───────────┤
//	            the address itself          ◄── TUN device of the process ┘
//
// The address does not outlive the process: it is on a TUN device that ends with it. And a
// process that is paused does not keep it: the process itself answers who asks for the
// address, and the first thing that it does when it goes on is to see how late it is.
package vrrp

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
	"golang.org/x/sys/unix"
)

// Config says which service addresses the node may have.
type Config struct {
	Interval time.Duration // between advertisements
	Preempt  bool
	Segments []Segment
}

// Segment is one virtual router.
type Segment struct {
	Name      string
	Device    string
	VRID      int
	Priority  int       // of this node while it resolves
	Addresses []Address // one of each family
}

// Address is a service address and who may have it.
type Address struct {
	Service netip.Addr
	Beside  netip.Addr // stands before it in advertisements; IPv6 only
	Own     netip.Addr // this node's advertisements come from there
	Peers   []Peer
}

// Peer is another node of the plan.
type Peer struct {
	Name string
	Addr netip.Addr // its advertisements come from there
}

// health tells whether this node can resolve, and why not. Safe for concurrent use; it
// answers at once.
type health interface {
	Resolves() (ok bool, why string)
}

// Server moves the addresses of its Config. Make it with New.
type Server struct {
	cfg    Config
	links  []*link
	health health
	now    func() moment
	open   func(Segment) (socket, error)
	make   func() (keeper, error)
	keeper keeper
	m      *Metrics
	tell   func(fact.Event)
	ready  chan struct{}
}

// New allocates a server; nothing starts before Run. tell gets the events and must not
// block; m is made once per process.
func New(cfg Config, h health, m *Metrics, tell func(fact.Event)) *Server {
	s := &Server{cfg: cfg, health: h, now: boottime, open: openSocket, m: m, tell: tell, ready: make(chan struct{})}
	s.make = func() (keeper, error) { return newKeeper(s.event) }
	for _, seg := range cfg.Segments {
		l := &link{Segment: seg, s: s, strangers: map[string]moment{}, why: "not started"}
		for _, a := range seg.Addresses {
			l.instances = append(l.instances, &instance{Address: a, link: l, wish: make(chan struct{}, 1), machine: machine{
				own: a.Own, priority: seg.Priority, interval: cfg.Interval, preempt: cfg.Preempt,
			}})
		}
		s.links = append(s.links, l)
	}
	return s
}

// boottime is CLOCK_BOOTTIME, which goes on in suspend.
func boottime() moment {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) != nil {
		return 0
	}
	return moment(t.Nano())
}

// String is the task's name.
func (s *Server) String() string { return "vrrp" }

// Ready is closed once every link has been tried: then the node takes part.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Run takes part until ctx ends, and then gives up what it has: another node takes over at
// once. A device that is missing or has no carrier is waited for.
func (s *Server) Run(ctx context.Context) error {
	k, err := s.make()
	if err != nil {
		return err
	}
	s.keeper = k
	defer k.close()
	for _, l := range s.links {
		for _, i := range l.instances {
			if err := k.sweep(l.Device, i.Service); err != nil {
				return fmt.Errorf("take away what an earlier process left: %w", err)
			}
		}
	}
	var all, first sync.WaitGroup
	first.Add(len(s.links))
	having, given := context.WithCancel(context.WithoutCancel(ctx))
	var had sync.WaitGroup
	for _, l := range s.links {
		all.Go(func() { l.keep(ctx, sync.OnceFunc(first.Done)) })
		for _, i := range l.instances {
			had.Go(func() { i.have(having) })
		}
	}
	all.Go(func() { s.watch(ctx) })
	first.Wait()
	if ctx.Err() == nil {
		close(s.ready)
	}
	<-ctx.Done()
	all.Wait()
	given() // nothing is wanted any more
	had.Wait()
	return nil
}

const (
	// healthTick is how often the node asks itself whether it can resolve.
	healthTick = 100 * time.Millisecond
	// healthAgain is how long it must have been able to, before its priority rises again.
	healthAgain = 2 * time.Second
)

// watch turns health into priority until ctx ends.
func (s *Server) watch(ctx context.Context) {
	tick := time.NewTicker(healthTick)
	defer tick.Stop()
	was := true
	well := s.now() - healthAgain
	for {
		ok, why := s.health.Resolves()
		now := s.now()
		if !ok {
			well = now + healthAgain
		}
		if good := now >= well; good != was {
			was = good
			s.weigh(good, why)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (s *Server) weigh(good bool, why string) {
	for _, l := range s.links {
		l.weigh(good)
	}
	if good {
		s.event(fact.Info, "vrrp-well", "This node resolves again and counts as well for the service address.")
		return
	}
	s.event(fact.Warning, "vrrp-unwell", fmt.Sprintf("This node cannot resolve (%s): the service address goes to one that can, if there is any.", why))
}

// Checks says of each address who has it.
func (s *Server) Checks() []fact.Check {
	var bad, good []fact.Check
	for _, l := range s.links {
		for _, c := range l.checks(s.now()) {
			if c.OK {
				good = append(good, c)
			} else {
				bad = append(bad, c)
			}
		}
	}
	return append(bad, good...)
}

func (l *link) checks(now moment) (all []fact.Check) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, i := range l.instances {
		c := fact.Check{Name: fmt.Sprintf("service-%s-%s", l.Name, strings.ToLower(i.family())), Goal: "one node",
			Words: fmt.Sprintf("one node has the service address %s of segment %s", i.Service, l.Name)}
		m := &i.machine
		ago := (now - m.since).Round(time.Second)
		switch {
		case m.state == initial:
			c.Measured, c.Hint = "not taking part: "+l.why, "ip link show dev "+l.Device
		case m.contended(now):
			c.Measured = "this node and " + i.who(m.rival.who)
			c.Hint = "the nodes do not hear each other's advertisements: look at the switch between them (multicast to 224.0.0.18 and ff02::12)"
		case m.state == master:
			c.OK, c.Measured = true, fmt.Sprintf("this node, since %v (%s), priority %d, %s", ago, m.why, m.priority, l.s.keeper.where())
		case m.heard.priority > 0:
			c.OK, c.Measured = true, fmt.Sprintf("%s with priority %d; this node is a backup since %v, priority %d", i.who(m.heard.from.String()), m.heard.priority, ago, m.priority)
		default:
			c.OK, c.Measured = true, fmt.Sprintf("none yet; this node is a backup since %v", ago)
		}
		all = append(all, c)
	}
	return all
}

// who is the name of a peer with its address, or what is given.
func (a Address) who(addr string) string {
	i := slices.IndexFunc(a.Peers, func(p Peer) bool { return p.Addr.String() == addr })
	if i < 0 {
		return addr
	}
	return a.Peers[i].Name + " (" + addr + ")"
}

func (s *Server) event(severity fact.Severity, kind, words string) {
	s.tell(fact.Event{Time: time.Now(), Task: s.String(), Kind: kind, Severity: severity, Words: words})
}
