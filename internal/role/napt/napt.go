//go:build linux

// Package napt lets many devices reach the internet under few IPv4 addresses (RFC 3022),
// with the timers of the plan, on the router of the exit site. It watches how full the
// table of connection tracking is, which is what fails first at an event. IPv6 is routed,
// not translated; its flows get the same timers, since they are in the same table.
package napt

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/hotstage/hotstage/internal/plan"
	"github.com/hotstage/hotstage/internal/task"
	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

const (
	every       = 5 * time.Second  // the longest that drift stays unseen
	countEvery  = time.Second      // reading the table's fill costs nothing
	walkEvery   = 20 * time.Second // walking 75,000 flows is about 0.3 s of a core
	failedAgain = time.Minute      // between two words about a fill that cannot be read
)

// Server keeps one node's translation.
type Server struct {
	config  Config
	metrics *Metrics
	tell    func(fact.Event)
	ready   chan struct{}

	probe sync.Once
	icmp  bool // the kernel has timers for ICMP
	noted error

	mu       sync.Mutex
	right    bool
	faulty   error
	told     string // the failure that was told of last
	tracking kernel.Tracking
	busiest  kernel.Session // address and protocol with the most flows
	most     int
}

// New makes the task; it changes nothing before Run. tell must be safe for concurrent use.
func New(c Config, m *Metrics, tell func(fact.Event)) *Server {
	return &Server{config: c, metrics: m, tell: tell, ready: make(chan struct{})}
}

// String is the task's name.
func (s *Server) String() string { return "napt" }

// Ready is closed once translation is as planned for the first time.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Run keeps translation as planned in the calling thread's namespace until ctx ends, and
// leaves it as it is then. On a node that is no exit it only removes what an earlier plan left.
func (s *Server) Run(ctx context.Context) error {
	ns, err := kernel.CurrentNamespace()
	if err != nil {
		return fmt.Errorf("napt: %w", err)
	}
	defer ns.Close()
	var work errgroup.Group
	watching, stop := context.WithCancel(ctx)
	if s.config.Active() {
		work.Go(func() error { return s.watch(watching, ns) })
	}
	var once sync.Once
	err = kernel.Keeper{
		Diff:  s.Diff,
		Done:  s.done,
		Every: every,
		Right: func(right bool) {
			s.mu.Lock()
			s.right = right
			if right {
				s.faulty = nil
			}
			s.mu.Unlock()
			if right {
				once.Do(func() { close(s.ready) })
			}
		},
	}.Keep(ctx)
	stop()
	if err = errors.Join(err, work.Wait()); err != nil {
		return fmt.Errorf("napt: %w", err)
	}
	return nil
}

// Diff lists what differs from the plan in the calling thread's namespace. It is empty when
// all is so.
func (s *Server) Diff(context.Context) (changes []task.Change, err error) {
	add := func(f func() error, words string, args ...any) {
		changes = append(changes, task.Change{Words: fmt.Sprintf(words, args...), Do: func(context.Context) error { return f() }})
	}
	if s.config.Active() {
		if err := s.canTimeICMP(); err != nil {
			return nil, fmt.Errorf("napt: %w", err)
		}
		t := s.config.table(s.icmp)
		drift, err := t.Drift()
		if err != nil {
			return nil, fmt.Errorf("napt: %w", err)
		}
		if drift != "" {
			add(t.Write, "write nftables table inet %s: %s", t.Name, drift)
		}
	} else if drift, err := (&kernel.Table{Name: tableName}).Drift(); err != nil {
		return nil, fmt.Errorf("napt: %w", err)
	} else if drift != "it is missing" {
		add(func() error { return kernel.DeleteTable(tableName) }, "delete nftables table inet %s: this node is no exit", tableName)
	}
	local, err := localAddresses()
	if err != nil {
		return nil, fmt.Errorf("napt: %w", err)
	}
	routes, stale, err := kernel.RouteChanges(s.config.routes(func(a netip.Addr) bool { return local[a] }), kernel.OwnerNAPT)
	if err != nil {
		return nil, fmt.Errorf("napt: %w", err)
	}
	for _, r := range routes {
		add(func() error { return kernel.AddRoute(r, kernel.OwnerNAPT) }, "add route %s", r)
	}
	for _, r := range stale {
		add(func() error { return kernel.DeleteRoute(r, kernel.OwnerNAPT) }, "delete route %s", r)
	}
	return changes, nil
}

// canTimeICMP finds out once whether the kernel has timers for ICMP, and tells when not.
func (s *Server) canTimeICMP() error {
	s.probe.Do(func() {
		s.icmp, s.noted = kernel.CanTime(unix.IPPROTO_ICMP)
		if s.noted == nil && !s.icmp {
			s.event("no-icmp-timer", fact.Info, fmt.Sprintf("This kernel has no timers for ICMP flows: they keep the system's instead of %s. To set it: %s.",
				s.config.Timeouts.ICMP, kernel.SysctlCommand("net/netfilter/nf_conntrack_icmp_timeout", fmt.Sprint(kernel.Seconds(s.config.Timeouts.ICMP)))))
		}
	})
	return s.noted
}

func localAddresses() (map[netip.Addr]bool, error) {
	all, err := netlink.AddrList(nil, netlink.FAMILY_V4)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	local := map[netip.Addr]bool{}
	for _, a := range all {
		if ip, ok := netip.AddrFromSlice(a.IP); ok {
			local[ip.Unmap()] = true
		}
	}
	return local, nil
}

// done tells of what was put right, and of what could not be.
func (s *Server) done(put []string, err error) {
	first := true
	select {
	case <-s.ready:
		first = false
	default:
	}
	switch {
	case len(put) > 0 && first:
		s.event("set-up", fact.Info, "Address translation was set up: "+brief(put)+".")
	case len(put) > 0:
		s.metrics.repairs.Inc()
		s.event("drift", fact.Warning, "Address translation differed from the plan; put back: "+brief(put)+". If no uplink changed, find out who does it.")
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
		s.event("cannot-set-up", fact.Alarm, fmt.Sprintf("Address translation cannot be set up, so attendees have no IPv4 internet; tried again every %s: %s.", every, oneLine(err)))
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

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

func (s *Server) event(kind string, severity fact.Severity, words string) {
	s.tell(fact.Event{Time: time.Now(), Task: s.String(), Kind: kind, Severity: severity, Words: words})
}

// watch reads how full the table is, every second, and whose flows they are, less often.
func (s *Server) watch(ctx context.Context, ns *kernel.Namespace) error {
	var level levels
	var failed time.Time
	tick := time.NewTicker(countEvery)
	defer tick.Stop()
	for walked := (time.Time{}); ; {
		walk := time.Since(walked) >= walkEvery
		if walk {
			walked = time.Now()
		}
		err := ns.Do(func() error { return s.look(walk) })
		switch {
		case errors.Is(err, fs.ErrNotExist): // nothing is tracked before the table is written
		case err != nil && time.Since(failed) > failedAgain:
			failed = time.Now()
			s.event("cannot-look", fact.Warning, fmt.Sprintf("The fill of the translation table cannot be read: %s.", oneLine(err)))
		case err == nil:
			s.mu.Lock()
			t := s.tracking
			s.mu.Unlock()
			if e, ok := level.passed(t.Count, t.Max); ok {
				s.event(e.Kind, e.Severity, e.Words)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (s *Server) look(walk bool) error {
	t, err := kernel.ReadTracking()
	if err != nil {
		return err
	}
	s.metrics.tracking(t)
	counts, err := kernel.Counts(tableName)
	if err != nil {
		return err
	}
	s.metrics.flows(counts[translated].Packets)
	s.mu.Lock()
	s.tracking = t
	s.mu.Unlock()
	if !walk {
		return nil
	}
	all, err := kernel.Sessions(s.ours())
	if err != nil {
		return err
	}
	s.metrics.perAddress(all)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.most = 0
	for session, n := range all {
		if n > s.most {
			s.busiest, s.most = session, n
		}
	}
	return nil
}

// ours tells addresses under which flows leave: those of the plan, or else the links' own.
func (s *Server) ours() func(netip.Addr) bool {
	own := map[netip.Addr]bool{}
	for _, e := range s.config.Exits {
		if len(e.Ranges) > 0 {
			continue
		}
		addresses, err := kernel.Addresses(e.Device)
		if err != nil {
			continue // the link is not there yet
		}
		for _, a := range addresses {
			own[a.Prefix.Addr()] = true
		}
	}
	return func(a netip.Addr) bool {
		if own[a] {
			return true
		}
		for _, e := range s.config.Exits {
			for _, r := range e.Ranges {
				if r.Contains(a) {
					return true
				}
			}
		}
		return false
	}
}

// Checks says whether translation is as planned, and how full the table and ports are.
func (s *Server) Checks() []fact.Check {
	if !s.config.Active() {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	rules := fact.Check{Name: "napt", Words: "address translation is as planned", Goal: "no difference", Measured: "no difference", OK: s.right}
	if !s.right {
		rules.Measured, rules.Hint = "not set up yet", "hotstage diff lists what differs"
		if s.faulty != nil {
			rules.Measured = oneLine(s.faulty)
		}
	}
	all := []fact.Check{rules}
	if t := s.tracking; t.Max > 0 {
		all = append(all,
			fact.Check{Name: "napt-table-size", Words: "the table of connection tracking has the size that the plan needs", Goal: fmt.Sprintf("%d entries", s.config.Table),
				Measured: fmt.Sprintf("%d entries", t.Max), OK: t.Max >= s.config.Table,
				Hint: "as root of the host: " + kernel.SysctlCommand("net/netfilter/nf_conntrack_max", fmt.Sprint(s.config.Table))},
			fact.Check{Name: "napt-table", Words: "the table of connection tracking has room for a burst", Goal: fmt.Sprintf("under %d%%", alarmShare),
				Measured: fmt.Sprintf("%d of %d entries (%d%%)", t.Count, t.Max, t.Count*100/t.Max), OK: t.Count*100 < t.Max*alarmShare,
				Hint: "a shorter napt.timeout.udp in the plan, or a larger table"})
	}
	if s.most > 0 {
		all = append(all, fact.Check{Name: "napt-ports", Words: "the busiest address has ports left, should all its flows go to one destination", Goal: fmt.Sprintf("under %d flows", plan.PortsPerAddress),
			Measured: fmt.Sprintf("%d %s flows of %s", s.most, protocolName(s.busiest.Protocol), s.busiest.Addr), OK: s.most < plan.PortsPerAddress,
			Hint: "more addresses at the exit's uplink"})
	}
	return worstFirst(all)
}

func worstFirst(all []fact.Check) []fact.Check {
	var bad, good []fact.Check
	for _, c := range all {
		if c.OK {
			c.Hint = ""
			good = append(good, c)
		} else {
			bad = append(bad, c)
		}
	}
	return append(bad, good...)
}
