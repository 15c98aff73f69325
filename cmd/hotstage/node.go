package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hotstage/hotstage/internal/control"
	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/plan"
	"github.com/hotstage/hotstage/internal/role/dhcp"
	"github.com/hotstage/hotstage/internal/role/napt"
	"github.com/hotstage/hotstage/internal/role/ra"
	"github.com/hotstage/hotstage/internal/role/resolver"
	"github.com/hotstage/hotstage/internal/role/segment"
	"github.com/hotstage/hotstage/internal/role/uplink"
	"github.com/hotstage/hotstage/internal/role/vrrp"
	"github.com/hotstage/hotstage/internal/store/sqlite"
	"github.com/hotstage/hotstage/internal/task"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// served are the roles that this version has; the others of a plan are warned about.
func served() []plan.Role { return []plan.Role{plan.RoleRouter, plan.RoleDHCP, plan.RoleResolver} }

// node joins the roles of one node.
type node struct {
	name     string
	plan     *plan.Plan
	state    string
	begun    time.Time
	group    *task.Group
	registry *prometheus.Registry
	events   *eventLog
	dhcp     atomic.Pointer[dhcp.Server] // the running one, nil before the first
	resolver atomic.Pointer[resolver.Server]
	queries  *sqlite.Queries // nil without a query log
	keys     string          // directory of the event's keys
	pair     *pairing        // nil without
	alone    bool            // leases stay on this node, whatever the plan says
}

// newNode configures everything the node has in the plan and starts nothing. With alone it
// keeps its leases to itself.
func newNode(p *plan.Plan, name, state, keys string, alone bool, log io.Writer) (*node, error) {
	n := &node{name: name, plan: p, state: state, keys: keys, alone: alone, begun: time.Now(), registry: prometheus.NewRegistry()}
	n.events = &eventLog{node: name, out: log}
	n.group = task.NewGroup(n.events.tell)
	return n, errors.Join(n.addNetwork(), n.addServices())
}

// addNetwork adds what makes the node's own network: segments, uplinks, NAPT.
func (n *node) addNetwork() error {
	seg, err := segment.Configure(n.plan, n.name)
	if err != nil {
		return fmt.Errorf("configure segment: %w", err)
	}
	segM := segment.NewMetrics(n.registry)
	err = n.group.Add("segment", func() (task.Task, error) { return segment.New(seg, segM, n.events.tell), nil })
	if err != nil || !n.plan.Node(n.name).Has(plan.RoleRouter) {
		return err
	}
	up, err := uplink.Configure(n.plan, n.name)
	if err != nil {
		return fmt.Errorf("configure uplink: %w", err)
	}
	nat, err := napt.Configure(n.plan, n.name)
	if err != nil {
		return fmt.Errorf("configure napt: %w", err)
	}
	upM, natM := uplink.NewMetrics(n.registry), napt.NewMetrics(n.registry)
	return errors.Join(
		n.group.Add("uplink", func() (task.Task, error) { return uplink.New(up, upM, n.events.tell), nil }),
		n.group.Add("napt", func() (task.Task, error) { return napt.New(nat, natM, n.events.tell), nil }, "segment"),
	)
}

// addServices adds what answers attendees.
func (n *node) addServices() error {
	me := n.plan.Node(n.name)
	if me.Has(plan.RoleRouter) {
		cfg, err := ra.Configure(n.plan, n.name)
		if err != nil {
			return fmt.Errorf("configure ra: %w", err)
		}
		m := ra.NewMetrics(n.registry)
		if err := n.group.Add("ra", func() (task.Task, error) { return ra.New(cfg, m, n.events.tell), nil }, "segment"); err != nil {
			return err
		}
	}
	if me.Has(plan.RoleRouter) {
		cfg, err := dhcp.ConfigureRelay(n.plan, n.name)
		if err != nil {
			return fmt.Errorf("configure dhcp relay: %w", err)
		}
		m := dhcp.NewRelayMetrics(n.registry)
		if len(cfg.Segments) > 0 {
			err = n.group.Add("dhcp-relay", func() (task.Task, error) { return dhcp.NewRelay(cfg, dhcp.SystemClock(), m, n.events.tell), nil }, "segment")
		}
		if err != nil {
			return err
		}
	}
	if me.Has(plan.RoleDHCP) && gives(me) {
		if err := n.addDHCP(); err != nil {
			return err
		}
	}
	if me.Has(plan.RoleResolver) && len(me.Attachments) > 0 {
		cfg, err := resolver.Configure(n.plan, n.name)
		if err != nil {
			return fmt.Errorf("configure resolver: %w", err)
		}
		n.ownCertificate(&cfg)
		if cfg.Unbound != nil {
			cfg.Unbound.Dir = filepath.Join(n.state, "unbound")
		}
		m := resolver.NewMetrics(n.registry)
		if cfg.Log > 0 {
			n.queries = sqlite.NewQueries(queriesFile(n.state), mostQueries)
		}
		err = n.group.Add("resolver", func() (task.Task, error) {
			s := resolver.New(cfg, n, m, n.events.tell)
			s.LogTo(n.queries)
			n.resolver.Store(s)
			return s, nil
		}, "segment")
		return errors.Join(err, n.addVRRP())
	}
	return nil
}

// addVRRP adds what moves the service addresses, where the node may have one.
func (n *node) addVRRP() error {
	cfg, err := vrrp.Configure(n.plan, n.name)
	if err != nil {
		return fmt.Errorf("configure vrrp: %w", err)
	}
	if len(cfg.Segments) == 0 {
		return nil
	}
	m := vrrp.NewMetrics(n.registry)
	return n.group.Add("vrrp", func() (task.Task, error) { return vrrp.New(cfg, n, m, n.events.tell), nil }, "resolver")
}

// Resolves tells vrrp whether this node's resolver can resolve, and if not, why.
func (n *node) Resolves() (ok bool, why string) {
	if s := n.resolver.Load(); s != nil {
		return s.Resolves()
	}
	return false, "the resolver does not run"
}

// gives tells whether the node has addresses to give. A node without stands by; the plan's
// check has warned of it.
func gives(n *plan.Node) bool {
	return len(n.Relayed) > 0 || slices.ContainsFunc(n.Attachments, func(a plan.Attachment) bool { return a.Pool.IsValid() })
}

// NameOf and AddrOf let the resolver ask whichever DHCP server runs now.
func (n *node) NameOf(a netip.Addr) (string, bool) {
	if s := n.dhcp.Load(); s != nil {
		return s.NameOf(a)
	}
	return "", false
}

// AddrOf is the live lease's address of a name.
func (n *node) AddrOf(name string) (netip.Addr, bool) {
	if s := n.dhcp.Load(); s != nil {
		return s.AddrOf(name)
	}
	return netip.Addr{}, false
}

// run serves until ctx ends.
func (n *node) run(ctx context.Context, server *control.Server) error {
	listening, stop := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan error, 1)
	go func() { ended <- server.Run(listening) }()
	err := n.group.Run(ctx, patience)
	stop()
	err = errors.Join(err, <-ended)
	if n.queries != nil {
		err = errors.Join(err, n.queries.Close())
	}
	return err
}

// status is what the control socket says of the node.
type status struct {
	Node    string        `json:"node"`
	Event   string        `json:"event"`
	Plan    string        `json:"plan"` // its hash
	Version string        `json:"version"`
	Since   time.Time     `json:"since"`
	Tasks   []task.Status `json:"tasks"`
	Absent  []string      `json:"absent,omitempty"` // roles of the plan that do not run, and why
	Events  []fact.Event  `json:"events"`           // newest last
}

func (n *node) status() status {
	s := status{Node: n.name, Event: n.plan.Event.Name, Plan: n.plan.Hash, Version: version, Since: n.begun,
		Tasks: n.group.Status(), Events: n.events.last()}
	me := n.plan.Node(n.name)
	for _, r := range me.Roles {
		switch {
		case !slices.Contains(served(), r):
			s.Absent = append(s.Absent, string(r)+": not served by this version")
		case r == plan.RoleDHCP && !gives(me):
			s.Absent = append(s.Absent, string(r)+": stands by, no segment to serve")
		case r == plan.RoleResolver && len(me.Attachments) == 0:
			s.Absent = append(s.Absent, string(r)+": stands by, no interface in a segment")
		}
	}
	if n.alone && n.plan.DHCP.Shared != nil && me.Has(plan.RoleDHCP) {
		s.Absent = append(s.Absent, "leases: kept on this node alone (--local-leases)")
	}
	return s
}

func (n *node) leases() []fact.Lease {
	if s := n.dhcp.Load(); s != nil {
		return s.Leases()
	}
	return []fact.Lease{}
}

func (n *node) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /status", control.JSON(func() any { return n.status() }))
	mux.Handle("GET /leases", control.JSON(func() any { return n.leases() }))
	mux.Handle("GET /metrics", promhttp.HandlerFor(n.registry, promhttp.HandlerOpts{}))
	n.pairHandlers(mux)
	n.dnsHandlers(mux)
	return mux
}

// eventLog keeps the last events and writes each as a line.
type eventLog struct {
	node string
	out  io.Writer

	mu   sync.Mutex
	ring []fact.Event
}

// remembered is how many events status can show.
const remembered = 200

func (j *eventLog) tell(e fact.Event) {
	e.Node = j.node
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.ring) == remembered {
		j.ring = append(j.ring[:0], j.ring[1:]...)
	}
	j.ring = append(j.ring, e)
	fmt.Fprintf(j.out, "%s %-7s %s %s: %s\n", e.Time.Format("2006-01-02T15:04:05.000Z07:00"), e.Severity, e.Task, e.Kind, e.Words)
}

func (j *eventLog) last() []fact.Event {
	j.mu.Lock()
	defer j.mu.Unlock()
	return append([]fact.Event{}, j.ring...)
}
