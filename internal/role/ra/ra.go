// Package ra announces IPv6 to the segments of which this node is the gateway: router
// advertisements (RFC 4861 section 6.2) with the prefix for autoconfiguration (RFC 4862),
// the resolvers and the search domains (RFC 8106), and the captive portal (RFC 8910). It answers solicitations, says farewell
// when it stops, and notices other routers, because one laptop that shares its connection
// can take a whole segment's IPv6 away.
package ra

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
)

// Config says what is announced and where.
type Config struct {
	Links []Link
}

// Link is one segment as announced on one device.
type Link struct {
	Segment string
	Device  string
	Prefix  netip.Prefix // a /64, for autoconfiguration and on-link
	DNS     []netip.Addr // RDNSS, nearest first; may be empty
	Search  []string     // DNSSL; may be empty
	MTU     int          // bytes; 0: no MTU option, the link's own holds
	Portal  string       // captive portal's API or that there is none (RFC 8910); may be empty
}

// Server announces on every link of its Config. Make it with New.
type Server struct {
	links []*link
	open  func(device string) (socket, error)
	m     *Metrics
	tell  func(fact.Event)
	ready chan struct{}
}

// link is a Link and what is so of it.
type link struct {
	Link
	mu      sync.Mutex
	serving bool
	why     string               // of not serving
	last    time.Time            // of the last multicast advertisement
	foreign map[netip.Addr]rival // other routers heard
}

// rival is another router of the segment.
type rival struct {
	mac    string
	seen   time.Time
	told   time.Time
	prefix string
}

// New allocates a server; nothing starts before Run. tell gets the events and must not
// block; m is made once per process.
func New(cfg Config, m *Metrics, tell func(fact.Event)) *Server {
	s := &Server{open: openSocket, m: m, tell: tell, ready: make(chan struct{})}
	for _, l := range cfg.Links {
		s.links = append(s.links, &link{Link: l, why: "not started", foreign: map[netip.Addr]rival{}})
	}
	return s
}

// String is the task's name.
func (s *Server) String() string { return "ra" }

// Ready is closed once every link has been announced on.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Run announces until ctx ends, then sends a final advertisement on every link. A device
// that is missing or goes away is waited for; the other links go on.
func (s *Server) Run(ctx context.Context) error {
	var all, first sync.WaitGroup
	first.Add(len(s.links))
	for _, l := range s.links {
		all.Go(func() { s.keep(ctx, l, sync.OnceFunc(first.Done)) })
	}
	first.Wait() // keep calls done at the latest when ctx ends
	if ctx.Err() == nil {
		close(s.ready)
	}
	<-ctx.Done()
	all.Wait()
	return nil
}

// Checks says of each link whether it is announced and whether another router is there.
func (s *Server) Checks() []fact.Check {
	now := time.Now()
	var bad, good []fact.Check
	for _, l := range s.links {
		for _, c := range l.checks(now) {
			if c.OK {
				good = append(good, c)
			} else {
				bad = append(bad, c)
			}
		}
	}
	return append(bad, good...)
}

func (l *link) checks(now time.Time) []fact.Check {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := fact.Check{
		Name: "ra-" + l.Segment, Words: "IPv6 is announced on segment " + l.Segment,
		Goal: fmt.Sprintf("every %v at most", maxInterval), OK: l.serving && now.Sub(l.last) < maxInterval+minDelay,
	}
	if l.serving && !l.last.IsZero() {
		c.Measured = fmt.Sprintf("%v ago", now.Sub(l.last).Round(time.Second))
	} else {
		c.Measured = l.why
	}
	if !c.OK {
		c.Hint = "ip -6 address show dev " + l.Device
	}
	checks := []fact.Check{c}
	rivals := 0
	var who string
	for a, r := range l.foreign {
		if now.Sub(r.seen) < rivalMemory {
			rivals++
			if one := fmt.Sprintf("%s (%s)", a.WithZone(""), r.mac); who == "" || one < who {
				who = one
			}
		}
	}
	alone := fact.Check{
		Name: "ra-alone-" + l.Segment, Words: "no other router announces itself on segment " + l.Segment,
		Goal: "0 routers", Measured: fmt.Sprintf("%d routers", rivals), OK: rivals == 0,
	}
	if rivals > 0 {
		alone.Hint = "find the switch port or access point of " + who + " and shut it"
	}
	return append(checks, alone)
}
