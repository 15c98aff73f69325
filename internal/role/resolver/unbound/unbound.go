// Package unbound keeps Unbound running as the resolver's child: a process that finds names
// from the root and checks DNSSEC, configured from the plan, on the loopback alone.
//
//	                ┌──► unbound-1 (half of the names) ──► root, top-level domains, …
//	cache ─► flight ┤
//	                └──► unbound-2 (the other half) ─────► root, top-level domains, …
//
// There are two, each with its half of the names, so that a child that dies costs nobody a
// query: the other is there and warm while the first is started anew. A child ends with its
// parent, however that ends.
package unbound

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/plan"
)

// Children is how many there are.
const Children = 2

const (
	firstBackoff = 100 * time.Millisecond
	lastBackoff  = 10 * time.Second
	stopTime     = 2 * time.Second // for a child to end by itself
)

// Config is what a node's Unbound needs to know.
type Config struct {
	Dir  string `json:",omitempty"` // where it keeps its files; made when it is not there
	IPv6 bool   // the site has IPv6 to ask by
	// Within runs what opens sockets and starts processes, where these shall be; it returns
	// when that does, and keeps one thread for it until then. Nil: here.
	Within func(func() error) error `json:"-"`
}

// Configure reads from the plan whether the node's site has IPv6. The caller gives Dir.
func Configure(p *plan.Plan, node string) Config {
	var cfg Config
	if n := p.Node(node); n != nil {
		if s := p.Site(n.Site); s != nil {
			for _, u := range s.Uplinks {
				cfg.IPv6 = cfg.IPv6 || u.IPv6.IsValid()
			}
		}
	}
	return cfg
}

// Recursor is the children. Make it with New; safe for concurrent use.
type Recursor struct {
	cfg   Config
	tell  func(severity fact.Severity, kind, words string)
	m     *Metrics
	begun func(i int)                     // a child is there, or there again
	find  func() (path string, err error) // the program

	dir      *os.File // Dir, while Run runs
	children [Children]child
}

// child is one process, or its place.
type child struct {
	name string

	mu      sync.Mutex
	addr    netip.AddrPort
	pid     int
	since   time.Time
	because error // it does not run
	version string
	starts  int
}

// New allocates the children; nothing starts before Run. tell gets the events and must not
// block; begun is called with the index of a child that has begun to serve.
func New(cfg Config, m *Metrics, tell func(fact.Severity, string, string), begun func(i int)) *Recursor {
	r := &Recursor{cfg: cfg, tell: tell, m: m, begun: begun, find: find}
	if r.cfg.Within == nil {
		r.cfg.Within = onOwnThread
	}
	for i := range r.children {
		r.children[i].name = fmt.Sprintf("unbound-%d", i+1)
		r.children[i].addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 0)
		r.children[i].because = errNotStarted
	}
	return r
}

var errNotStarted = errors.New("not started yet")

// onOwnThread runs f on a thread that it keeps and that ends with it: a child's life is bound
// to the thread that started it (prctl(2), PR_SET_PDEATHSIG).
func onOwnThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked
		done <- f()
	}()
	return <-done
}

// Names of the children.
func (r *Recursor) Names() (names []string) {
	for i := range r.children {
		names = append(names, r.children[i].name)
	}
	return names
}

// Addr is where the child answers, by UDP and TCP. While it does not run nobody listens
// there.
func (r *Recursor) Addr(i int) netip.AddrPort {
	c := &r.children[i]
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.addr
}

// Run keeps the children running until ctx ends and they have. That Unbound is missing or
// cannot start is no error of Run: it is told, and tried again.
func (r *Recursor) Run(ctx context.Context) error {
	if err := os.MkdirAll(r.cfg.Dir, 0o700); err != nil {
		return fmt.Errorf("unbound: make its directory: %w", err)
	}
	var err error
	if r.dir, err = os.Open(r.cfg.Dir); err != nil {
		return fmt.Errorf("unbound: %w", err)
	}
	defer r.dir.Close()
	var all sync.WaitGroup
	for i := range r.children {
		all.Go(func() { r.keep(ctx, i) })
		all.Go(func() { r.measure(ctx, i) })
	}
	all.Wait()
	return nil
}

// keep runs one child again and again.
func (r *Recursor) keep(ctx context.Context, i int) {
	c := &r.children[i]
	wait, told := firstBackoff, ""
	for {
		begun := time.Now()
		err := r.once(ctx, i)
		if ctx.Err() != nil {
			return
		}
		c.mu.Lock()
		c.because, c.pid = err, 0
		c.mu.Unlock()
		if time.Since(begun) > lastBackoff {
			wait, told = firstBackoff, ""
		}
		if words := err.Error(); words != told { // each reason once, however often it is tried
			told = words
			r.tell(fact.Alarm, "unbound-down", fmt.Sprintf("%s does not run: %v. It is started again and again; the other resolvers answer meanwhile.", c.name, err))
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		wait = min(2*wait, lastBackoff)
	}
}

// free finds a port of the loopback that nobody has, for UDP and TCP.
func (r *Recursor) free() (at netip.AddrPort, err error) {
	err = r.cfg.Within(func() error {
		for range 16 {
			u, e := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
			if e != nil {
				return e
			}
			at = u.LocalAddr().(*net.UDPAddr).AddrPort()
			t, e := net.Listen("tcp4", at.String())
			u.Close()
			if e == nil {
				return t.Close()
			}
		}
		return errors.New("no free port on the loopback")
	})
	return at, err
}

// socket is the path of the child's control socket: as the child sees it, through the
// directory's descriptor, since the path may be too long for a socket, or closed to its user.
func socket(fd uintptr, name string) string {
	return filepath.Join("/proc/self/fd", fmt.Sprint(fd), name+".sock")
}

// measure reads the child's statistics now and then.
func (r *Recursor) measure(ctx context.Context, i int) {
	c := &r.children[i]
	tick := time.NewTicker(statsEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if c.check().OK {
			r.read(ctx, c)
		}
	}
}

// read is one reading; a child that does not answer has none, and its resolver's check says
// so.
func (r *Recursor) read(ctx context.Context, c *child) error {
	all, err := stats(ctx, socket(r.dir.Fd(), c.name))
	if err != nil {
		r.m.stat.DeletePartialMatch(map[string]string{"child": c.name})
		return err
	}
	for _, name := range kept {
		if v, ok := all[name]; ok {
			r.m.stat.WithLabelValues(c.name, name).Set(v)
		}
	}
	return nil
}

// Checks says of each child whether it runs.
func (r *Recursor) Checks() (all []fact.Check) {
	for i := range r.children {
		all = append(all, r.children[i].check())
	}
	return all
}

func (c *child) check() fact.Check {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := fact.Check{Name: c.name, Words: c.name + " runs", Goal: "running", OK: c.because == nil}
	if !k.OK {
		k.Measured = c.because.Error()
		if errors.Is(c.because, errMissing) {
			k.Measured, k.Hint = errMissing.Error(), install()
		}
		return k
	}
	k.Measured = fmt.Sprintf("%s, pid %d, since %s, started %d times", c.version, c.pid, c.since.Format("15:04:05"), c.starts)
	return k
}
