//go:build linux

// Package uplink connects this node to the internet by the uplinks of the plan: with the
// addresses that the plan gives, with those that a provider's DHCP server gives, or as the
// system has set the interface up. What drifts is put back and told. When it ends it leaves
// all as it is, leases too, so that a restart cuts nobody off.
package uplink

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/hotstage/hotstage/internal/plan"
	"github.com/mdlayher/ndp"
)

const (
	// every is the longest that drift stays unseen, when the kernel does not tell of it.
	every = 5 * time.Second
	// discoveries in vain are told of: at the first the link is not up yet.
	discoveries = 3
)

// Server keeps one node's uplinks.
type Server struct {
	config  Config
	metrics *Metrics
	tell    func(fact.Event)
	ready   chan struct{}
	wake    chan struct{} // a lease has come or gone

	mu     sync.Mutex
	leases []*Lease // by link; nil: none
	states []state  // by link
	quiet  []int    // by link: exchanges in a row that nobody answered
	told   string   // the failure that was told of last
	faulty error
}

// state is what a link lacks, or the addresses that it has.
type state struct {
	lacks     string // "" when it is up
	addresses string
}

// New makes the task; it changes nothing before Run. tell must be safe for concurrent use.
func New(c Config, m *Metrics, tell func(fact.Event)) *Server {
	n := len(c.Links)
	s := &Server{config: c, metrics: m, tell: tell, ready: make(chan struct{}), wake: make(chan struct{}, 1),
		leases: make([]*Lease, n), states: make([]state, n), quiet: make([]int, n)}
	for i, l := range c.Links {
		s.states[i].lacks = "not looked at yet"
		m.up.WithLabelValues(l.Uplink).Set(0)
	}
	return s
}

// String is the task's name.
func (s *Server) String() string { return "uplink" }

// Ready is closed once an uplink is up; at once on a node that has none.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Run keeps the uplinks as planned in the calling thread's namespace until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	ns, err := kernel.CurrentNamespace()
	if err != nil {
		return fmt.Errorf("uplink: %w", err)
	}
	defer ns.Close()
	running, cancel := context.WithCancel(ctx)
	var clients sync.WaitGroup
	for i, l := range s.config.Links {
		if l.Mode == plan.UplinkDHCP {
			clients.Go(func() { s.client(i, ns).run(running) })
		}
	}
	var once sync.Once
	err = kernel.Keeper{
		Diff:  s.Diff,
		Done:  s.done,
		Every: every,
		Wake:  s.wake,
		Right: func(right bool) {
			if s.look(right) {
				once.Do(func() { close(s.ready) })
			}
		},
	}.Keep(ctx)
	cancel()
	clients.Wait()
	if err != nil {
		return fmt.Errorf("uplink: %w", err)
	}
	return nil
}

// client is the DHCP client of one link.
func (s *Server) client(i int, ns *kernel.Namespace) *client {
	l := s.config.Links[i]
	count := func(result string) { s.metrics.leases.WithLabelValues(l.Uplink, result).Inc() }
	return &client{
		server: &provider{device: l.Device, ns: ns},
		got: func(lease *Lease, why error) {
			s.mu.Lock()
			before := s.leases[i]
			s.leases[i], s.quiet[i] = lease, 0
			s.mu.Unlock()
			switch {
			case lease == nil:
				count("lost")
				s.event("lease-lost", fact.Alarm, fmt.Sprintf("Uplink %s has lost its address %s: %s. Asking for another.", l.Uplink, before.Prefix.Addr(), why))
			case before == nil:
				count("got")
				s.event("lease", fact.Info, fmt.Sprintf("Uplink %s got %s from %s for %s.", l.Uplink, lease.Prefix, lease.Server, lease.Valid))
			default:
				count("got")
				// Its time only: the address is there, or the next round puts it back.
				ns.Do(func() error { return lease.apply(l.Device) })
			}
			select {
			case s.wake <- struct{}{}:
			default:
			}
		},
		silent: func(err error) {
			count("silent")
			s.mu.Lock()
			s.quiet[i]++
			lease, times := s.leases[i], s.quiet[i]
			s.mu.Unlock()
			switch {
			case lease == nil && times == discoveries:
				s.event("no-lease", fact.Alarm, fmt.Sprintf("Uplink %s gets no address: %s. Asking on; look at the cable, then call the provider.", l.Uplink, err))
			case lease != nil && times == 1:
				s.event("not-renewed", fact.Warning, fmt.Sprintf("Uplink %s: the provider's server does not prolong %s: %s. It is ours until %s; call the provider before that.",
					l.Uplink, lease.Prefix.Addr(), err, lease.Taken.Add(lease.Valid).Format(time.TimeOnly)))
			}
		},
	}
}

func (s *Server) lease(i int) *Lease {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leases[i]
}

// done tells of what was put right after the start, and of what could not be.
func (s *Server) done(put []string, err error) {
	select {
	case <-s.ready:
		if len(put) > 0 {
			s.metrics.repairs.Inc()
			s.event("drift", fact.Warning, "The uplinks differed from the plan or the lease; put right: "+brief(put)+".")
		}
	default:
	}
	s.mu.Lock()
	s.faulty = err
	news := err != nil && err.Error() != s.told
	s.told = ""
	if err != nil {
		s.told = err.Error()
	}
	s.mu.Unlock()
	if news {
		s.event("cannot-set-up", fact.Alarm, fmt.Sprintf("A part of the uplinks cannot be set up and is tried again every %s: %s.", every, strings.ReplaceAll(err.Error(), "\n", "; ")))
	}
}

// brief is at most 3 of all, in words.
func brief(all []string) string {
	const most = 3
	if len(all) <= most {
		return strings.Join(all, "; ")
	}
	return fmt.Sprintf("%s; and %d more", strings.Join(all[:most], "; "), len(all)-most)
}

func (s *Server) event(kind string, severity fact.Severity, words string) {
	s.tell(fact.Event{Time: time.Now(), Task: s.String(), Kind: kind, Severity: severity, Words: words})
}

// look finds out what each link lacks, tells of changes, and says whether one is up, or
// there are none.
func (s *Server) look(right bool) (up bool) {
	if right {
		s.mu.Lock()
		s.faulty, s.told = nil, ""
		s.mu.Unlock()
	}
	up = len(s.config.Links) == 0
	for i, l := range s.config.Links {
		now := l.look(s.lease(i))
		s.mu.Lock()
		before := s.states[i]
		s.states[i] = now
		s.mu.Unlock()
		s.change(l, before, now)
		up = up || now.lacks == "" && right
		if now.lacks == "" && l.IPv6 && !l.Gateway6.IsValid() {
			solicit(l.Device)
		}
	}
	return up
}

func (s *Server) change(l Link, before, now state) {
	value := 0.0
	if now.lacks == "" {
		value = 1
	}
	s.metrics.up.WithLabelValues(l.Uplink).Set(value)
	switch {
	case before == now:
	case now.lacks == "":
		s.event("uplink-up", fact.Info, fmt.Sprintf("Uplink %s is up on %s with %s.", l.Uplink, l.Device, now.addresses))
	case before.lacks == "":
		s.event("uplink-down", fact.Alarm, fmt.Sprintf("Uplink %s is down: %s %s. Look at the cable and the modem, then call the provider.", l.Uplink, l.Device, now.lacks))
	}
}

// look is what the link lacks at this moment.
func (l Link) look(lease *Lease) state {
	k, err := kernel.FindLink(l.Device)
	switch {
	case errors.Is(err, kernel.ErrNoLink):
		return state{lacks: "does not exist"}
	case err != nil:
		return state{lacks: "cannot be read: " + err.Error()}
	case !k.Up:
		return state{lacks: "is not set up"}
	case !k.Carrier:
		return state{lacks: "has no carrier"}
	case l.Mode == plan.UplinkDHCP && lease == nil:
		return state{lacks: "has no lease"}
	}
	have, err := kernel.Addresses(l.Device)
	if err != nil {
		return state{lacks: "cannot be read: " + err.Error()}
	}
	var all []string
	for _, a := range have {
		if a.Usable && !a.Prefix.Addr().IsLinkLocalUnicast() {
			all = append(all, a.Prefix.String())
		}
	}
	if len(all) == 0 {
		return state{lacks: "has no address"}
	}
	slices.Sort(all)
	return state{addresses: brief(all)}
}

// solicit asks for a router advertisement (RFC 4861 section 6.3.7) while the link has no
// IPv6 default route: the kernel asks only when the link comes up, which was before it knew
// that it shall listen. A failure leaves us to the periodic ones.
func solicit(device string) {
	routes, err := kernel.AllRoutes()
	if err != nil || slices.ContainsFunc(routes, func(r kernel.Route) bool {
		return r.Device == device && r.To == netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}) {
		return
	}
	link, err := net.InterfaceByName(device)
	if err != nil {
		return
	}
	c, _, err := ndp.Listen(link, ndp.LinkLocal)
	if err != nil {
		return
	}
	defer c.Close()
	c.WriteTo(&ndp.RouterSolicitation{Options: []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: link.HardwareAddr}}}, nil, netip.IPv6LinkLocalAllRouters())
}

// Checks says which uplinks are up, broken ones first.
func (s *Server) Checks() []fact.Check {
	s.mu.Lock()
	defer s.mu.Unlock()
	var bad, good []fact.Check
	for i, l := range s.config.Links {
		c := fact.Check{Name: "uplink-" + l.Uplink, Words: fmt.Sprintf("uplink %s is up on %s", l.Uplink, l.Device), Goal: "link, carrier and address"}
		if now := s.states[i]; now.lacks == "" {
			c.OK, c.Measured = true, now.addresses
			good = append(good, c)
			continue
		}
		c.Measured, c.Hint = l.Device+" "+s.states[i].lacks, "ip address show dev "+l.Device
		if s.faulty != nil {
			c.Hint = s.faulty.Error()
		}
		bad = append(bad, c)
	}
	return append(bad, good...)
}
