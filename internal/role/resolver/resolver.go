// Package resolver answers attendees' DNS queries: from its cache, from the event's own
// names and leases, and else by asking other resolvers, several at once for nobody twice.
//
//	packet ─► share ─► cache ─hit──────────────────────────► answer
//	                     │miss
//	                     ├─► our own names, private zones ──► answer
//	                     └─► one flight per question ─► backend ─► cache ─► all who asked
//
// It answers clients of the plan's segments alone, on the node's addresses in segments.
package resolver

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/plan"
	"github.com/hotstage/hotstage/internal/role/resolver/unbound"
)

// Config is what a node's resolver needs to know.
type Config struct {
	Name    string          // this node, FQDN
	Domain  string          // the event's
	Listen  []netip.Addr    // addresses to serve port 53 on, UDP and TCP
	Clients []netip.Prefix  // who is answered
	Ask     []plan.Asked    // resolvers to ask; with Unbound, when that is not well
	Health  []string        `json:",omitempty"` // names that a well resolver resolves; none: the root's and others
	Names   []plan.Name     // the event's own
	Cache   int64           // bytes
	Rate    int             // queries per second of one client
	Unbound *unbound.Config `json:",omitempty"` // the children to ask; nil: none
	// Encrypted is nil when the plan wants none.
	Encrypted *Encrypted `json:",omitempty"`
	Log       float64    `json:",omitempty"` // share of the queries that is logged, 0 to 1
	Block     []string   `json:",omitempty"` // names that are not to resolve, nor what is below them
	XDP       bool       // hot answers leave before the socket
	Devices   []string   // interfaces of segments, for XDP
}

// ourSize is the UDP payload that we take and give: what fits any path without fragments
// (DNS flag day 2020; RFC 9715 section 3.1 says 1400 at most).
const ourSize = 1232

// backend finds answers outside. It returns a response in wire format whose question is q's,
// or an error when nobody could be asked; it must return soon after ctx ends. Safe for
// concurrent use.
type backend interface {
	resolve(ctx context.Context, q ask) ([]byte, error)
}

// ask is a question for a backend.
type ask struct {
	name []byte // on the wire, lower case
	typ  uint16
	do   bool // with DNSSEC records
	cd   bool // without checking
}

// Server is the resolver of one node. Make it with New.
type Server struct {
	cfg      Config
	net      network
	handler  handler
	flights  *flights
	upstream *forwarder
	front    *front            // nil without
	children *unbound.Recursor // nil without
	m        *Metrics
	tell     func(fact.Event)
	ready    chan struct{}
	secure   *secure // nil without encrypted service
	serving  atomic.Bool
}

// New allocates a resolver; nothing starts before Run. names may be nil: then leases have no
// names. tell gets the events and must not block; m is made once per process.
func New(cfg Config, names leaseNames, m *Metrics, tell func(fact.Event)) *Server {
	s := &Server{cfg: cfg, net: system(), m: m, tell: tell, ready: make(chan struct{})}
	cache := newCache(cfg.Cache)
	clients := newClients(cfg.Rate)
	s.upstream = newForwarder(cfg.Ask, func(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
		return s.net.dial(ctx, network, to)
	}, m, s.event)
	s.upstream.health = newHealth(cfg.Health)
	if cfg.Unbound != nil {
		s.children = unbound.New(*cfg.Unbound, m.unbound, s.event, func(i int) { s.upstream.upstreams[i].begun() })
		s.upstream.children(s.children.Names(), s.children.Addr)
	}
	s.flights = newFlights(cache, s.upstream, clients, m)
	s.handler = handler{segments: cfg.Clients, cache: cache, local: newLocal(cfg, names), clients: clients, baker: newBaker(), renew: s.flights.renew, top: newTop(), m: m}
	if cfg.Encrypted != nil {
		s.secure = newSecure(s)
	}
	if cfg.XDP && cfg.Log == 0 { // what leaves before the socket cannot be logged
		s.front = &front{cfg: cfg, cache: cache, local: s.handler.local, demand: s.handler.top, m: m, event: s.event,
			in: func(f func() error) error { return s.net.in(f) }}
	}
	return s
}

// String is the task's name.
func (s *Server) String() string { return "resolver" }

// Ready is closed once every address is served.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Run serves until ctx ends or an address cannot be served.
func (s *Server) Run(ctx context.Context) error {
	listeners, err := s.listen()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	failed := make(chan error, 1)
	fail := func(err error) {
		if ctx.Err() == nil {
			select {
			case failed <- err:
			default:
			}
		}
	}
	s.flights.start(ctx, &all)
	if s.children != nil {
		all.Go(func() { fail(s.children.Run(ctx)) })
	}
	all.Go(func() { s.upstream.watch(ctx) })
	all.Go(func() { s.measure(ctx) })
	if s.front != nil {
		all.Go(func() { s.front.run(ctx) })
	}
	all.Go(func() { s.handler.top.run(ctx) })
	all.Go(func() { s.handler.log.run(ctx) })
	for _, u := range listeners.packets {
		all.Go(func() { fail(s.serveUDP(u)) })
	}
	for _, l := range listeners.streams {
		all.Go(func() { fail(s.serveTCP(ctx, l, &all)) })
	}
	if s.secure != nil {
		s.secure.try(ctx, &all)
		all.Go(func() { s.secure.run(ctx, &all) })
	}
	s.serving.Store(true)
	defer s.serving.Store(false)
	close(s.ready)
	select {
	case <-ctx.Done():
		err = nil
	case err = <-failed:
	}
	cancel()
	listeners.close()
	all.Wait()
	return err
}

// measure keeps the gauges that are counted rather than moved.
func (s *Server) measure(ctx context.Context) {
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		entries, bytes := s.handler.cache.used()
		s.m.cacheEntries.Set(float64(entries))
		s.m.cacheBytes.Set(float64(bytes))
		s.m.connections.Set(float64(s.handler.clients.connections()))
		s.m.secureConnections.Set(float64(s.handler.clients.secureConnections()))
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Checks says whether names can be resolved, by whom, and how full the cache is.
func (s *Server) Checks() []fact.Check {
	checks := append(s.upstream.checks(), s.secure.checks()...)
	if s.children != nil {
		checks = append(checks, s.children.Checks()...)
	}
	entries, bytes := s.handler.cache.used()
	return append(checks, s.front.check(), fact.Check{
		Name: "resolver-cache", Words: "the cache is within its size", OK: int64(bytes) <= s.cfg.Cache,
		Goal: fmt.Sprintf("under %d MiB", s.cfg.Cache>>20), Measured: fmt.Sprintf("%.1f MiB, %d answers", float64(bytes)/(1<<20), entries),
	})
}

func (s *Server) event(severity fact.Severity, kind, words string) {
	s.tell(fact.Event{Time: time.Now(), Task: s.String(), Kind: kind, Severity: severity, Words: words})
}

// askOf is the question of a key.
func askOf(k *key) ask {
	bits := k.buf[k.n-1]
	return ask{
		name: append([]byte(nil), k.name()...), typ: k.typ(),
		do: bits&1 != 0, cd: bits&2 != 0,
	}
}
