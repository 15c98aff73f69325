// Package dhcp gives IPv4 addresses to the devices of the node's segments: DHCPv4 as RFC
// 2131 and RFC 2132 describe it, made for the minute the doors open.
//
// An OFFER touches memory alone. An ACK leaves only after its lease is on disk; leases are
// written in groups, and when they cannot be written no ACK leaves, an event says so, and
// clients ask again by themselves. So no two clients ever hold one address, whenever the
// process or the machine dies.
//
// Several nodes may serve one segment, each with its own part of the pool. A server is
// silent about addresses of another one's part, and says NAK to an address of another
// network.
//
// A flood of made-up devices takes nothing from those that have an address or come back to
// theirs, and holds what it takes for 10 minutes instead of a lease; see surge.
//
// A guard on each segment notices servers that the plan does not have, and devices that use
// an address of the pool without a lease, and names them. It probes addresses before they
// are wanted, so that an offer still touches memory alone.
//
// Segments that the node is not in are served too, by a relay of the plan: Relay is our own.
//
// Rapid commit (RFC 4039) is left out on purpose: it would let one packet with a made-up
// MAC address bind an address for a whole lease, where an offer is gone after 20 s; and with
// two servers on a segment every client would hold two leases.
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

// Config is what the role needs to know of the plan; see Configure.
type Config struct {
	Node     string
	Partner  string // the node that this one is paired with, "" without; see Pair
	Segments []Segment
	Names    []string // FQDNs of the plan's own, which no client may have
}

// Segment is the service of one segment.
type Segment struct {
	Name         string
	Device       string
	Server       netip.Addr   // our address there and our server identifier
	Prefix       netip.Prefix // the segment's network
	Pool         plan.Range   // this node's part
	Partner      *Partner     // the other server of a pair, nil without
	Partners     []netip.Addr // the plan's other DHCP servers there
	Never        []netip.Addr // addresses within the pool that no client may have
	Relays       []netip.Addr // relays in the segment whose requests are served (giaddr, RFC 1542)
	Relayed      bool         // we have no device in the segment: Device is where its gateway's relay reaches us
	Near         []netip.Addr // other addresses that relays send under: the gateway's on Device
	Devices      int          // expected, which bounds what comes by one port of a relay
	Lease        time.Duration
	Domain       string // of the clients' names
	Reservations []plan.Reservation
	Options      []wire.DHCPOption // for every client that asks, and in this order for one that names none
	IPv6Only     bool              // Options has 108: clients that can shall do without IPv4
}

// Partner is the other server of a pair in a segment.
type Partner struct {
	Node string
	Pool plan.Range // its part
}

// Server serves DHCPv4 on all segments of a node. It is a task.Task and a task.Reporter.
// Leases, NameOf and AddrOf are safe for concurrent use at any time.
type Server struct {
	segments []*segment
	links    []*link
	ledger   *ledger
	names    *names
	clock    Clock
	metrics  *Metrics
	tell     *teller
	ready    chan struct{}
	loaded   chan struct{} // closed when the pools are what the store had
	node     string
	partner  string
	pair     *Pair // nil without; see Join
	fault    error // of the Config

	mu    sync.Mutex // of ratio
	ratio map[*segment]*takeUp
}

// New makes a server that keeps its leases in the book. It starts nothing; Run does, once.
// tell must not block.
func New(cfg Config, book leaseBook, clock Clock, m *Metrics, tell func(fact.Event)) *Server {
	s := &Server{
		names: newNames(cfg.Names), clock: clock, metrics: m, tell: newTeller("dhcp", tell),
		ready: make(chan struct{}), loaded: make(chan struct{}), node: cfg.Node, partner: cfg.Partner, ratio: map[*segment]*takeUp{},
	}
	for _, c := range cfg.Segments {
		g, err := newSegment(c, clock.Boot(), s.names)
		if err != nil {
			s.fault = fmt.Errorf("dhcp: segment %s: %w", c.Name, err)
			continue
		}
		s.segments = append(s.segments, g)
		s.ratio[g] = &takeUp{}
	}
	s.ledger = newLedger(book, clock, s.segments, m, s.tell)
	relays := map[netip.Addr]*link{}
	for _, g := range s.segments {
		s.links = append(s.links, s.carried(&link{
			relays: relays, ports: newShare(g.cfg.Devices), seg: g, ledger: s.ledger, clock: clock, m: m, tell: s.tell, limit: newLimiter(), tried: make(chan struct{}),
			guard: newGuard(g, clock, m, s.tell),
			open:  func() (door, error) { return openDoor(g.cfg.Device, netip.IPv4Unspecified()) }, listen: func() (ear, error) { return openEar(g.cfg.Device) },
		}))
	}
	for _, l := range s.links {
		for _, a := range l.seg.cfg.Relays {
			relays[a] = l
		}
	}
	return s
}

// String is the task's name.
func (s *Server) String() string { return "dhcp" }

// Ready is closed once the leases are loaded and every device was opened or found missing:
// a device that is not there yet is served when it comes.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Run loads the leases and serves until ctx ends; then it stops listening, stores what was
// granted, sends those ACKs and returns nil. It returns an error when the leases cannot be
// loaded, or at once when the Config is not one that Configure made. It may be called once.
func (s *Server) Run(ctx context.Context) error {
	if s.fault != nil {
		return s.fault
	}
	leases, err := s.ledger.book.Load(ctx)
	if err != nil {
		return fmt.Errorf("dhcp: load leases: %w", err)
	}
	at := read(s.clock)
	for _, g := range s.segments {
		if n := g.restore(at, leases); n > 0 {
			s.tell.say(at, fact.Warning, "leases-outside-pool", g.cfg.Name,
				"%d live leases of segment %s are outside this node's part of the pool since the plan was changed: their devices keep them until they end and then get other addresses", n, g.cfg.Name)
		}
	}
	var listening, writing sync.WaitGroup
	if s.pair != nil {
		s.pair.begin(leases)
		listening.Add(1)
		go func() { defer listening.Done(); s.pair.run(ctx) }()
	}
	close(s.loaded)
	for _, l := range s.links {
		if l.via == nil {
			listening.Go(func() { l.run(ctx) })
		}
	}
	writing.Add(1)
	go func() { defer writing.Done(); s.ledger.run(ctx) }()
	s.sweep(ctx)
	listening.Wait()
	close(s.ledger.queue)
	writing.Wait()
	for _, l := range s.links {
		l.close()
	}
	return nil
}

// sweep does every second what time does, until ctx ends.
func (s *Server) sweep(ctx context.Context) {
	for _, l := range s.links {
		select {
		case <-l.tried:
		case <-ctx.Done():
			return
		}
	}
	close(s.ready)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for n := 1; ; n++ {
		for _, g := range s.segments {
			s.tidy(g, n%takeUpSeconds == 0)
		}
		s.metrics.queue.Set(float64(s.ledger.waiting.Load()))
		s.ledger.overdue(read(s.clock))
		s.ledger.stir()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// takeUp counts, for a window of time, how many offers were made and how many nobody took.
type takeUp struct{ made, lapsed, wasMade, wasLapsed uint64 }

const takeUpSeconds = 60

func (s *Server) tidy(g *segment, window bool) {
	// In steps, so that the end of a long break delays no client.
	for range 64 {
		g.mu.Lock()
		before := len(g.pool.live) + g.pool.offers.n + g.pool.resting.n
		g.pool.expire(read(s.clock), 64, g.ended)
		done := before-len(g.pool.live)-g.pool.offers.n-g.pool.resting.n < 64
		g.mu.Unlock()
		if done {
			break
		}
	}
	g.mu.Lock()
	made, lapsed := g.made, g.pool.lapsed
	count := map[string]int{
		"free": g.pool.fresh.n + g.pool.past.n, "offered": g.pool.offers.n,
		"resting": g.pool.resting.n, "bound": g.pool.leased(),
	}
	g.mu.Unlock()
	for state, n := range count {
		s.metrics.pool.WithLabelValues(g.cfg.Name, state).Set(float64(n))
	}
	if window {
		s.mu.Lock()
		u := s.ratio[g]
		u.made, u.lapsed, u.wasMade, u.wasLapsed = made-u.wasMade, lapsed-u.wasLapsed, made, lapsed
		s.mu.Unlock()
	}
}

// Checks says what is so, what is wrong first.
func (s *Server) Checks() []fact.Check {
	checks := []fact.Check{s.ledger.check()}
	if s.pair != nil {
		checks = append(checks, s.pair.check())
	}
	for _, l := range s.links {
		if l.seg.cfg.Relayed {
			checks = append(checks, l.relayedCheck())
			continue
		}
		checks = append(checks, l.check(), l.guard.check(read(s.clock)))
	}
	for _, g := range s.segments {
		checks = append(checks, g.poolCheck(), s.takeUpCheck(g))
	}
	slices.SortStableFunc(checks, func(a, b fact.Check) int { return btoi(a.OK) - btoi(b.OK) })
	return checks
}

// fullFrom is the share of the pool in use from which the crew is warned.
const fullFrom = 0.95

func (g *segment) poolCheck() fact.Check {
	g.mu.Lock()
	used, all := g.pool.leased(), g.pool.size()
	g.mu.Unlock()
	c := fact.Check{
		Name: "dhcp-pool-" + g.cfg.Name, Words: "segment " + g.cfg.Name + " has addresses left", Goal: "at most 95 % leased",
		Measured: "no dynamic pool", OK: true,
	}
	if all > 0 {
		share := float64(used) / float64(all)
		c.Measured = fmt.Sprintf("%d of %d leased (%.0f %%)", used, all, 100*share)
		c.OK = share <= fullFrom
	}
	if !c.OK {
		c.Hint = "shorten the segment's lease or widen its prefix in the plan; who has them: hotstage leases"
	}
	return c
}

func (s *Server) takeUpCheck(g *segment) fact.Check {
	s.mu.Lock()
	u := *s.ratio[g]
	s.mu.Unlock()
	c := fact.Check{
		Name: "dhcp-offers-" + g.cfg.Name, Words: "devices of segment " + g.cfg.Name + " take the offers up",
		Goal: "most of them", Measured: fmt.Sprintf("%d made, %d not taken in the last minute", u.made, u.lapsed), OK: true,
	}
	if u.lapsed > 20 && u.lapsed*2 > u.made {
		c.OK = false
		c.Hint = "devices do not hear the offers, or somebody floods with made-up MAC addresses: tcpdump -eni " + g.cfg.Device + " port 67"
	}
	return c
}

// Leases is a copy of what the store has of the node's segments: live leases and what became
// of the others, in the order of the plan and the addresses.
func (s *Server) Leases() []fact.Lease {
	var all []fact.Lease
	for _, g := range s.segments {
		all = g.leases(all)
	}
	return all
}

// NameOf is the name of the device that has a live lease of the address, without a trailing
// dot; not ok when it has none.
func (s *Server) NameOf(a netip.Addr) (fqdn string, ok bool) { return s.names.nameOf(a) }

// AddrOf is the address of the device with that name, in any case, with or without a
// trailing dot.
func (s *Server) AddrOf(fqdn string) (netip.Addr, bool) { return s.names.addrOf(fqdn) }
