//go:build linux

// Package internet is the small internet of the rehearsal: one namespace that plays the
// providers behind every uplink and the world behind them.
//
//	node ── uplink ── access ─┐
//	node ── uplink ── access ─┼─ forwarding ── lo: 198.18.0.0/15, 2001:2::/48, root servers,
//	node ── uplink ── access ─┘                public resolvers (DNS, NTP, echo, ICMP)
//
// Every address of the world is local to the namespace, so one socket per service serves
// them all, and answers come from the address that was asked.
package internet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/hotstage/hotstage/internal/plan"
	"github.com/vishvananda/netlink"
	"golang.org/x/net/icmp"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// defaultNames is how many names the world has unless Config says otherwise.
const defaultNames = 1000

// Access is the provider's end of one uplink: a link that is in the namespace already.
type Access struct {
	Device string
	Uplink plan.Uplink
}

// Config says what internet to play. Two with the same Seed, Names and Also are the same.
type Config struct {
	Namespace *kernel.Namespace // borrowed: the caller closes it, after Run has returned
	Access    []Access
	Resolvers []netip.AddrPort // public resolvers to play; port 53 unless given
	Seed      int64
	Names     int // names that exist; 1,000 unless given
	// Also lists host names and addresses that the plan counts on, such as NTP sources:
	// a host name is added to the world's names, an address becomes reachable.
	Also []string
}

// Internet is a task that plays the internet; see New.
type Internet struct {
	cfg    Config
	world  *world
	access []*access
	ready  chan struct{}

	silence sync.Mutex                          // serialises writers of silent
	silent  atomic.Pointer[map[netip.Addr]bool] // resolvers that do not answer; replaced, never changed

	mu sync.Mutex      // guards nl and what is done to the links
	nl *netlink.Handle // nil unless Run is running

	counts counters
}

// New prepares the internet and starts nothing. An error says which part of cfg can't be played.
func New(cfg Config) (*Internet, error) {
	if cfg.Namespace == nil {
		return nil, errors.New("internet: no namespace given to play it in")
	}
	cfg.Names = cmp.Or(cfg.Names, defaultNames)
	in := &Internet{cfg: cfg, ready: make(chan struct{})}
	in.silent.Store(&map[netip.Addr]bool{})
	for i, a := range cfg.Access {
		x, err := newAccess(i, a)
		if err != nil {
			return nil, err
		}
		in.access = append(in.access, x)
	}
	w, err := newWorld(cfg)
	if err != nil {
		return nil, err
	}
	in.world = w
	return in, nil
}

// Ready is closed once every address answers.
func (in *Internet) Ready() <-chan struct{} { return in.ready }

// Names lists the host names that exist, the most asked first. The caller must not change it.
func (in *Internet) Names() []string { return in.world.popular }

// Run addresses the access links, serves until ctx ends, and leaves the links as they are.
// It may be called once.
func (in *Internet) Run(ctx context.Context) error {
	var tasks []func(context.Context) error
	var ping *icmp.PacketConn
	err := in.cfg.Namespace.Do(func() (err error) {
		if err := in.open(); err != nil {
			return err
		}
		if ping, err = listenPing(); err != nil {
			return err
		}
		if tasks, err = in.listen(); err != nil {
			ping.Close()
		}
		return err
	})
	defer in.shut()
	if err != nil {
		return fmt.Errorf("internet: %w", err)
	}
	group, gctx := errgroup.WithContext(ctx)
	for _, task := range tasks {
		group.Go(func() error { return task(gctx) })
	}
	group.Go(func() error { return in.learn(gctx, ping) })
	close(in.ready)
	if err := group.Wait(); err != nil && ctx.Err() == nil {
		return fmt.Errorf("internet: %w", err)
	}
	return nil
}

// open takes a netlink handle on the namespace and makes the world and the access links so.
func (in *Internet) open() error {
	in.mu.Lock()
	defer in.mu.Unlock()
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	in.nl = nl
	if err := in.world.attach(nl); err != nil {
		return err
	}
	for _, a := range in.access {
		if err := a.up(nl); err != nil {
			return err
		}
	}
	return nil
}

func (in *Internet) shut() {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.nl != nil {
		in.nl.Close()
		in.nl = nil
	}
}

// Cut takes the access links of the named devices down, all of them when none is named:
// the nodes lose their carrier. Restore brings them back. Only while Run is running.
func (in *Internet) Cut(devices ...string) error {
	return in.each(devices, (*access).down)
}

// Restore brings the named access links back, all of them when none is named, with their
// addresses and routes. Only while Run is running.
func (in *Internet) Restore(devices ...string) error {
	return in.each(devices, (*access).up)
}

func (in *Internet) each(devices []string, do func(*access, *netlink.Handle) error) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.nl == nil {
		return errors.New("internet: not running: its links can't be cut or restored")
	}
	for _, d := range devices {
		if !slices.ContainsFunc(in.access, func(a *access) bool { return a.Device == d }) {
			return fmt.Errorf("internet: no access link %q to cut or restore", d)
		}
	}
	var errs []error
	for _, a := range in.access {
		if len(devices) == 0 || slices.Contains(devices, a.Device) {
			// netlink.Handle is bound to the namespace; the sysctls that up sets are not.
			errs = append(errs, in.cfg.Namespace.Do(func() error { return do(a, in.nl) }))
		}
	}
	return errors.Join(errs...)
}

// Silence makes the public resolver at addr swallow every query, or answer again.
func (in *Internet) Silence(addr netip.Addr, silent bool) error {
	if !slices.ContainsFunc(in.cfg.Resolvers, func(r netip.AddrPort) bool { return r.Addr() == addr }) {
		return fmt.Errorf("internet: no public resolver at %s: known are %v", addr, in.cfg.Resolvers)
	}
	in.silence.Lock()
	defer in.silence.Unlock()
	next := map[netip.Addr]bool{addr: silent}
	for a, s := range *in.silent.Load() {
		if a != addr {
			next[a] = s
		}
	}
	in.silent.Store(&next)
	return nil
}

// Counts is the far end's view of what came in since Run began.
type Counts struct {
	Queries     int64 `json:"queries"`      // DNS, all servers together
	Recursive   int64 `json:"recursive"`    // of these, to a public resolver
	Swallowed   int64 `json:"swallowed"`    // of these, left unanswered because of Silence
	Malformed   int64 `json:"malformed"`    // DNS, NTP and DHCP messages that could not be read
	Datagrams   int64 `json:"datagrams"`    // UDP echoed
	Connections int64 `json:"connections"`  // TCP accepted by the echo service
	Refused     int64 `json:"refused"`      // TCP closed at once because too many were open
	Times       int64 `json:"times"`        // NTP requests answered
	DHCP        int64 `json:"dhcp"`         // DHCP messages of uplinks answered
	BytesIn     int64 `json:"bytes_in"`     // payload of UDP and TCP, all services
	BytesOut    int64 `json:"bytes_out"`    // likewise
	Sources4    int64 `json:"sources_ipv4"` // distinct IPv4 addresses that asked for anything, at most 4,096 counted
}

type counters struct {
	queries, recursive, swallowed, malformed     atomic.Int64
	datagrams, connections, refused, times, dhcp atomic.Int64
	bytesIn, bytesOut                            atomic.Int64
	sources                                      sync.Map // netip.Addr -> struct{}
	distinct                                     atomic.Int64
}

// maxSources bounds the memory for distinct sources: NAPT has tens of addresses, not thousands.
const maxSources = 4096

// saw notes a source address and how much it sent.
func (c *counters) saw(from netip.Addr, bytes int) {
	c.bytesIn.Add(int64(bytes))
	from = from.Unmap()
	if !from.Is4() || c.distinct.Load() >= maxSources {
		return
	}
	if _, known := c.sources.Load(from); known {
		return
	}
	if _, known := c.sources.LoadOrStore(from, struct{}{}); !known {
		c.distinct.Add(1)
	}
}

// Counts is safe at any time.
func (in *Internet) Counts() Counts {
	c := &in.counts
	return Counts{
		Queries: c.queries.Load(), Recursive: c.recursive.Load(), Swallowed: c.swallowed.Load(),
		Malformed: c.malformed.Load(), Datagrams: c.datagrams.Load(), Connections: c.connections.Load(),
		Refused: c.refused.Load(), Times: c.times.Load(), DHCP: c.dhcp.Load(),
		BytesIn: c.bytesIn.Load(), BytesOut: c.bytesOut.Load(), Sources4: c.distinct.Load(),
	}
}

// Sources4 lists the distinct IPv4 addresses that asked for anything, sorted: behind NAPT
// these are the exit's addresses and the nodes' own.
func (in *Internet) Sources4() []netip.Addr {
	var all []netip.Addr
	in.counts.sources.Range(func(k, _ any) bool { all = append(all, k.(netip.Addr)); return true })
	slices.SortFunc(all, netip.Addr.Compare)
	return all
}
