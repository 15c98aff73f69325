//go:build linux

package main

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/hotstage/hotstage/bench/rig"
	"github.com/hotstage/hotstage/internal/kernel"
	"golang.org/x/sys/unix"
)

// What stands before the unbounds.
const (
	ours      = "hotstage"
	oursChild = "hotstage child" // the unbounds are its own
	dnsdist   = "dnsdist"
)

const (
	backendRate = 1000
	backendTime = 8 * time.Second
	backendWarm = 2 * time.Second // from the first query to the kill
)

// backend is one of two unbounds killed under load, or one of our own: how many queries are
// lost. No name is asked twice, so that no cache helps.
func (b *bench) backend() (err error) {
	fmt.Printf("\nbackend: an unbound killed with -9 under %d queries/s, each of a name of its own\n\n", backendRate)
	systems := []string{ours, dnsdist}
	if b.hasChild() {
		systems = []string{ours, oursChild, dnsdist}
	} else {
		fmt.Printf("%s is not measured: this program's plan has no recursion: unbound\n\n", oursChild)
	}
	b.Say("the zones")
	if b.auth, err = rig.StartAuthority(b.Ctx, b.Dir); err != nil {
		return err
	}
	defer b.auth.Stop()
	r := b.Report.Part("backend")
	for n := range b.Trials {
		for _, sys := range systems {
			b.Say("backend, trial %d: %s", n+1, sys)
			if err := b.backendTrial(r, sys); err != nil {
				return fmt.Errorf("%s: %w", sys, err)
			}
		}
	}
	r.Print(os.Stdout, systems)
	b.Report.AtMost("failover-backend-lost", r.Median(ours, "lost"), 0)
	if len(systems) > 2 {
		b.Report.AtMost("failover-child-lost", r.Median(oursChild, "lost"), 0)
	}
	return nil
}

func (b *bench) backendTrial(r rig.Results, sys string) error {
	if err := b.Ctx.Err(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(b.Dir, "run")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	all, err := rig.Namespaces(2)
	if err != nil {
		return err
	}
	defer rig.Close(all)
	f := front{b: b, sys: sys, ns: all[0], dir: dir, addr: netip.MustParseAddr("10.56.0.1")}
	var own []string
	if sys == dnsdist {
		own = []string{f.addr.String() + "/24"}
	}
	if err := rig.Join(rig.End{In: f.ns, Name: "e0", Addrs: own}, rig.End{In: all[1], Name: "c0", Addrs: []string{"10.56.0.250/24"}}); err != nil {
		return err
	}
	cut, err := b.auth.Uplink(f.ns)
	if err != nil {
		return err
	}
	defer cut()
	defer f.stop()
	if err := f.start(); err != nil {
		return err
	}
	if err := rig.Await(b.Ctx, all[1], f.addr, "first.wild.site.tld", f.proc); err != nil {
		return err
	}
	time.Sleep(time.Second) // both have had their first check
	victim, err := f.victim()
	if err != nil {
		return err
	}
	began, killed := time.Now(), make(chan error, 1)
	kill := time.AfterFunc(backendWarm, func() { killed <- unix.Kill(victim, unix.SIGKILL) })
	defer kill.Stop()
	queries, err := client{ns: all[1], server: f.addr, rate: backendRate, most: backendTime, name: func(i int) string { return fmt.Sprintf("q%d.wild.site.tld", i) }}.ask(b.Ctx)
	if err == nil {
		err = b.Ctx.Err()
	}
	if err == nil {
		err = <-killed
	}
	if err != nil {
		return err
	}
	r.Add(sys, "lost", float64(lost(queries)))
	r.Add(sys, "sent", float64(len(queries)))
	from, to := began.Add(backendWarm), began.Add(time.Hour)
	r.Add(sys, "outage, ms", outage(queries, from, to).Seconds()*1e3)
	r.Add(sys, "slowest answer from the kill on, ms", slowest(queries, from, to).Seconds()*1e3)
	return nil
}

// front is what stands before two unbounds.
type front struct {
	b        *bench
	sys, dir string
	ns       *kernel.Namespace
	addr     netip.Addr // where it answers
	proc     *rig.Process
	backends []*rig.Process // not those of its own
}

// start runs the unbounds and what stands before them.
func (f *front) start() error {
	if f.sys != oursChild {
		for _, at := range []string{"127.0.0.1@5301", "127.0.0.1@5302"} {
			p, err := rig.Unbound{Listen: []string{at}, Hints: f.b.auth.Hints, Threads: 1}.Start(f.ns, f.dir)
			if err != nil {
				return err
			}
			f.backends = append(f.backends, p)
		}
	}
	var err error
	if f.sys == dnsdist {
		f.proc, err = rig.Dnsdist{Listen: f.addr.String() + ":53", Backends: []string{`address="127.0.0.1:5301"`, `address="127.0.0.1:5302"`}}.Start(f.ns, f.dir)
		return err
	}
	h, recursion := &rig.Hotstage{Program: f.b.Hotstage, Dir: f.dir}, "['127.0.0.1:5301', '127.0.0.1:5302']"
	if f.sys == oursChild {
		recursion = "unbound"
		if err := h.Root("srv1", f.b.auth.Hints); err != nil {
			return err
		}
	}
	if err := h.Plan(backendPlan(recursion)); err != nil {
		return err
	}
	a, err := h.Addr("srv1", "e0")
	if err != nil {
		return err
	}
	f.addr = a.Addr()
	f.proc, err = h.Start(f.ns, "srv1")
	return err
}

// victim is the process that is killed: the first of the unbounds.
func (f *front) victim() (int, error) {
	if len(f.backends) > 0 {
		return f.backends[0].Pid, nil
	}
	for _, pid := range f.proc.Tree() {
		if name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); strings.TrimSpace(string(name)) == "unbound" {
			return pid, nil
		}
	}
	return 0, fmt.Errorf("it has no unbound of its own:\n%s", f.proc.Log())
}

func (f *front) stop() {
	f.proc.Stop()
	for _, p := range f.backends {
		p.Stop()
	}
}

// hasChild tells whether our program knows recursion: unbound.
func (b *bench) hasChild() bool {
	dir, err := os.MkdirTemp(b.Dir, "plan")
	if err != nil {
		return false
	}
	h := &rig.Hotstage{Program: b.Hotstage, Dir: dir}
	return h.Plan(backendPlan("unbound")) == nil
}

func backendPlan(recursion string) string {
	return fmt.Sprintf(`event: {name: Bench, attendees: 50}
sites: {venue: {uplinks: {isp: {}}}}
segments: {attendee: {ipv4: 10.56.0.0/24}}
resolver: {recursion: %s, client_rate: 100000}
nodes:
  gw1: {roles: [router, dhcp], interfaces: {eth0: {uplink: isp}, eth1: {segment: attendee}}}
  srv1: {roles: [resolver], interfaces: {e0: {segment: attendee}}}
`, recursion)
}
