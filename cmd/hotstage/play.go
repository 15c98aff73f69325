package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hotstage/hotstage/internal/control"
	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/hotstage/hotstage/internal/lab/crowd"
	"github.com/hotstage/hotstage/internal/lab/internet"
	"github.com/hotstage/hotstage/internal/lab/venue"
	"github.com/hotstage/hotstage/internal/ops/report"
	"github.com/hotstage/hotstage/internal/plan"
	"github.com/hotstage/hotstage/internal/task"
)

// rehearsal is one run of a plan's venue in namespaces.
type rehearsal struct {
	plan *plan.Plan
	file string
	dir  string
	say  io.Writer

	venue    *venue.Venue
	internet *internet.Internet
	crowd    *crowd.Crowd

	mu       sync.Mutex
	samples  []fact.Sample
	faults   []report.Fault // begun
	played   int            // faults that were played to their end
	failures []string       // why others were not
	deaths   []venue.Death
	mute     []string // nodes that did not say their status in the end
}

// Bounds of a rehearsal's parts.
const (
	readyTimeout   = 30 * time.Second // a node from its start until it serves
	recheckTimeout = 60 * time.Second // all devices asked whether their lease is still theirs
)

// play builds the venue, walks the crowd in, and gathers what was seen.
func (r *rehearsal) play(ctx context.Context) (*report.Rehearsal, error) {
	rep := &report.Rehearsal{Event: r.plan.Event.Name, Plan: filepath.Base(r.file), Hash: r.plan.Hash, Version: version,
		Start: time.Now(), Seed: r.plan.Rehearsal.Seed, People: r.plan.Rehearsal.People, Host: host()}
	gaps, err := venue.Probe(r.plan, served())
	if err != nil {
		return nil, err
	}
	for _, g := range gaps {
		rep.Gaps = append(rep.Gaps, report.Gap{Words: g.Words, Hint: g.Todo})
	}
	if t := r.plan.Tunnel; len(t.Route)+len(t.Stretch) > 0 {
		rep.Gaps = append(rep.Gaps, report.Gap{Words: "the tunnel between the sites: this version does not build it"})
	}
	fmt.Fprintf(r.say, "%s: building the venue: %d nodes, %d segments\n", r.plan.Event.Name, len(r.plan.Nodes), len(r.plan.Segments))
	keys := filepath.Join(r.dir, "keys") // of this rehearsal alone; the event's own stay where they are
	if _, err := makeKeys(keys, r.plan); err != nil {
		return nil, err
	}
	r.venue, err = venue.Build(ctx, r.plan, venue.Options{PlanFile: r.file, KeysDir: keys, Dir: r.dir, Ready: waitReady}, func(string) {})
	if err != nil {
		return nil, err
	}
	closed := false
	defer func() {
		if !closed {
			r.venue.Close()
		}
	}()
	stopInternet, err := r.startInternet(ctx)
	if err != nil {
		return nil, err
	}
	defer stopInternet()
	if err := r.venue.StartAll(ctx); err != nil {
		return nil, err
	}
	fmt.Fprintf(r.say, "all nodes are ready after %v; the doors open\n", time.Since(rep.Start).Round(10*time.Millisecond))
	result, err := r.walkIn(ctx)
	if err != nil {
		return nil, err
	}
	r.gather(ctx, rep, result)
	closed = true
	if err := r.venue.Close(); err != nil {
		return nil, err
	}
	rep.Duration = report.Seconds(time.Since(rep.Start))
	return rep, nil
}

// waitReady asks a node for its status until every task of it is ready.
func waitReady(ctx context.Context, _, state string) error {
	ctx, stop := context.WithTimeout(ctx, readyTimeout)
	defer stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		var st status
		err := control.Fetch(ctx, state, "status", &st)
		if err == nil {
			if err = notReady(st); err == nil {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not ready: %w", err)
		case <-tick.C:
		}
	}
}

func notReady(st status) error {
	for _, t := range st.Tasks {
		if t.State != task.Ready {
			return fmt.Errorf("%s is %s: %s", t.Name, t.State, t.Because)
		}
	}
	return nil
}

// asked are the addresses of the resolvers that the plan's ask.
func asked(p *plan.Plan) (all []netip.AddrPort) {
	for _, a := range p.Resolver.Ask {
		all = append(all, a.Addr)
	}
	return all
}

// startInternet plays the providers and the world behind them until stop is called.
func (r *rehearsal) startInternet(ctx context.Context) (stop func(), err error) {
	ns, access := r.venue.Internet()
	cfg := internet.Config{Namespace: ns, Resolvers: asked(r.plan), Seed: r.plan.Rehearsal.Seed, Also: r.plan.NTP.Sources}
	for _, a := range access {
		cfg.Access = append(cfg.Access, internet.Access{Device: a.Device, Uplink: a.Uplink})
	}
	if r.internet, err = internet.New(cfg); err != nil {
		return nil, err
	}
	inner, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- r.internet.Run(inner) }()
	select {
	case <-r.internet.Ready():
	case err := <-ended:
		cancel()
		return nil, errors.Join(errors.New("the small internet ended"), err)
	}
	return func() { cancel(); <-ended }, nil
}

// walkIn runs the crowd, with progress, samples and the script's faults beside it.
func (r *rehearsal) walkIn(ctx context.Context) (crowd.Result, error) {
	var err error
	if r.crowd, err = crowd.New(r.scenario()); err != nil {
		return crowd.Result{}, err
	}
	inner, stop := context.WithCancel(ctx)
	var beside sync.WaitGroup
	beside.Go(func() { r.watch(inner) })
	beside.Go(func() { r.breakThings(inner) })
	result, err := r.crowd.Run(ctx)
	stop()
	beside.Wait()
	return result, err
}

// scenario spreads the people over the segments as the plan expects them.
func (r *rehearsal) scenario() crowd.Config {
	h := r.plan.Rehearsal
	cfg := crowd.Config{Doors: h.Doors, Stay: h.Stay, Seed: h.Seed, Names: r.internet.Names(), SessionTimer: r.plan.NAPT.Timeouts.UDP,
		Sessions: float64(r.plan.Event.SessionsPerAttendee) / r.plan.Event.DevicesPerAttendee}
	for _, n := range r.plan.Resolver.Names {
		cfg.Own = append(cfg.Own, n.FQDN)
	}
	for i := range r.plan.Segments {
		s := r.plan.Segments[i]
		seg := crowd.Segment{Plan: s}
		for _, p := range r.venue.Ports(s.Name) {
			seg.Ports = append(seg.Ports, crowd.Port{Namespace: p.Namespace, Device: p.Device})
		}
		if s.Class == plan.Attendee {
			seg.Devices = s.Devices * h.People / r.plan.Event.Attendees
		}
		cfg.Segments = append(cfg.Segments, seg)
		if s.Class == plan.Management {
			cfg.Management = append(cfg.Management, r.addressesIn(s.Name)...)
		}
	}
	return cfg
}

// addressesIn lists the nodes' addresses of a segment.
func (r *rehearsal) addressesIn(segment string) (all []netip.Addr) {
	for i := range r.plan.Nodes {
		if a := r.plan.Nodes[i].Attachment(segment); a != nil {
			all = append(all, a.IPv4.Addr())
			if a.IPv6.IsValid() {
				all = append(all, a.IPv6.Addr())
			}
		}
	}
	return all
}

// watch samples what the crowd can't see, and shows progress: a line that is rewritten on a
// terminal, a line each five seconds in a pipe.
func (r *rehearsal) watch(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	live := color(r.say)
	for i := 1; ; i++ {
		select {
		case <-ctx.Done():
			if live {
				fmt.Fprint(r.say, "\r\x1b[K")
			}
			return
		case d := <-r.venue.Down():
			r.mu.Lock()
			r.deaths = append(r.deaths, d)
			r.mu.Unlock()
			fmt.Fprintf(r.say, "node %s ended by itself: %v\n", d.Node, d.Err)
			continue
		case now := <-tick.C:
			r.sample(now)
		}
		if line := r.progress(); live {
			fmt.Fprint(r.say, "\r\x1b[K"+line)
		} else if i%5 == 0 {
			fmt.Fprintln(r.say, line)
		}
	}
}

func (r *rehearsal) progress() string {
	s := r.crowd.Snapshot()
	what := "arriving"
	switch {
	case s.Leaving:
		what = "leaving"
	case s.Probing:
		what = "probing the isolation"
	case s.Arrived == s.Devices:
		what = "all here"
	}
	return fmt.Sprintf("%4.0fs  %5d of %d here, %5d with an address  DORA p99 %5.1f ms  DNS %5d/s  flows %6d  errors %d  %s",
		s.Elapsed.Seconds(), s.Arrived, s.Devices, s.Bound, s.DORA.P99, s.DNSRate, s.Flows, s.Errors, what)
}

// sample reads the connection tables of the routers and the memory of all nodes.
func (r *rehearsal) sample(now time.Time) {
	sessions := 0
	for i := range r.plan.Nodes {
		n := &r.plan.Nodes[i]
		if u, err := r.venue.Usage(n.Name); err == nil {
			r.add(fact.Sample{Time: now, Series: "rss_mb_" + n.Name, Value: float64(u.RSS) / (1 << 20)})
		}
		if n.Has(plan.RoleRouter) && n.Site == r.plan.NAPT.Exit {
			sessions += tracked(r.venue.Namespace(n.Name))
		}
	}
	r.add(fact.Sample{Time: now, Series: "napt_sessions", Value: float64(sessions)})
}

func (r *rehearsal) add(s fact.Sample) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.samples = append(r.samples, s)
}

// tracked is the number of entries in a namespace's connection table.
func tracked(ns *kernel.Namespace) (n int) {
	ns.Do(func() error {
		text, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_count")
		if err == nil {
			n, err = strconv.Atoi(strings.TrimSpace(string(text)))
		}
		return err
	})
	return n
}
