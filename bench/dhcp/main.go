//go:build linux

// Command dhcp measures the DHCP server beside Kea's, each in a namespace of its own with the
// load in another, in turn in one run on one machine: CPU an exchange, latency and the highest
// rate by perfdhcp, the rate at which a faster generator saturates it, and 6,000 devices at
// once. Ours has every lease on disk (fsync) before its ACK; Kea's memfile does not sync.
//
//	go run ./bench/dhcp -hotstage bin/hotstage
//
// Each figure is the median of several trials with the least and the most. A line "bar" ends
// each goal: what was measured, what it is held to, and ok or short.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/vishvananda/netlink"
)

func main() {
	log.SetFlags(0)
	hotstage := flag.String("hotstage", "bin/hotstage", "our program")
	trials := flag.Int("trials", 3, "how often each is measured")
	only := flag.String("only", "steady,saturated,rush,highest", "which parts are measured")
	flag.Parse()
	if code, again := first(); again {
		os.Exit(code)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	dir, err := os.MkdirTemp("", "bench-dhcp")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path, err := filepath.Abs(*hotstage)
	if err != nil {
		log.Fatal(err)
	}
	b := &bench{ctx: ctx, dir: dir, hotstage: path, trials: *trials, parts: strings.Split(*only, ",")}
	if err := b.run(); err != nil {
		log.Print(err)
		os.RemoveAll(dir)
		os.Exit(1)
	}
}

// first runs the program once more in a session of its own whose autogroup comes before the
// rest of the machine (sched(7)), so that other work on it takes little from servers and load.
func first() (code int, again bool) {
	if os.Getenv("BENCH_SESSION") != "" {
		_ = os.WriteFile("/proc/self/autogroup", []byte("-20"), 0) // not every kernel has it
		return 0, false
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), "BENCH_SESSION=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGTERM}
	if err := cmd.Run(); cmd.ProcessState == nil {
		log.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), true
}

type bench struct {
	ctx      context.Context
	dir      string
	hotstage string
	trials   int
	parts    []string
}

// systems are measured in turn.
var systems = [...]string{"hotstage", "kea"}

// run measures each figure of all systems before the next figure.
func (b *bench) run() error {
	for _, tool := range []string{"kea-dhcp4", "perfdhcp"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%s is not installed; as root: apt-get install kea-dhcp4-server kea-admin", tool)
		}
	}
	version, _ := exec.Command("kea-dhcp4", "-v").Output()
	fmt.Printf("%s · Kea %s, memfile · hotstage, sqlite, fsync before each ACK · median (least-most) of %d\n\n", time.Now().UTC().Format("2006-01-02"), strings.TrimSpace(string(version)), b.trials)
	all := results{}
	for n := range b.trials {
		for _, sys := range systems {
			if err := b.trial(sys, n, all); err != nil {
				return fmt.Errorf("%s: %w", sys, err)
			}
		}
	}
	all.print()
	return nil
}

// trial measures one system once, each figure with an empty lease table.
func (b *bench) trial(sys string, n int, all results) error {
	fresh := func(f func(*server) error) error {
		s, err := b.start(sys)
		if err != nil {
			return err
		}
		defer s.stop()
		if err := b.ctx.Err(); err != nil {
			return err
		}
		return f(s)
	}
	steady := func(s *server) error {
		r, err := s.perfdhcp(3000, 5*time.Second, n)
		if err == nil {
			all.add(sys, "3,000/s: lost, %", r.lost)
			all.add(sys, "3,000/s: p50, ms", r.p50)
			all.add(sys, "3,000/s: p99, ms", r.p99)
			all.add(sys, "3,000/s: CPU an exchange, us", r.cpu)
		}
		return err
	}
	highest := func() error {
		best := 0.0
		for _, rate := range []int{4000, 5000, 6000, 7000, 8000, 9000, 10000, 11000, 12000, 13500, 15000} {
			var r rates
			err := fresh(func(s *server) (err error) { r, err = s.perfdhcp(rate, 4*time.Second, n); return err })
			if err != nil {
				return err
			}
			if r.lost >= 1 || r.acks < 0.97*float64(rate)*4*(1-r.lost/100) {
				break
			}
			best = float64(rate)
		}
		all.add(sys, "highest by perfdhcp, under 1 % lost, /s", best)
		return nil
	}
	saturated := func(s *server) error {
		r, err := s.saturate(5 * time.Second)
		if err == nil {
			all.add(sys, "saturated, /s", r.rate)
			all.add(sys, "saturated: CPU an exchange, us", r.cpu)
		}
		return err
	}
	rush := func(s *server) error {
		r, err := s.rush(6000)
		if err == nil {
			all.add(sys, "6,000 at once: until the last ACK, s", r.seconds)
			all.add(sys, "6,000 at once: most tries of a client", float64(r.tries))
			all.add(sys, "6,000 at once: without an address", float64(r.lost))
		}
		return err
	}
	parts := []struct {
		name    string
		measure func() error
	}{
		{"steady", func() error { return fresh(steady) }}, {"saturated", func() error { return fresh(saturated) }},
		{"rush", func() error { return fresh(rush) }}, {"highest", highest},
	}
	for _, p := range parts {
		if !slices.Contains(b.parts, p.name) {
			continue
		}
		if err := p.measure(); err != nil {
			return err
		}
	}
	return nil
}

// server is a running DHCP server and the namespace of its load.
type server struct {
	node, load *kernel.Namespace
	cmd        *exec.Cmd
	addr       netip.Addr
	log        string
}

// loadAddr is where the load comes from: a relay in the segment.
var loadAddr = netip.MustParseAddr("10.64.0.3")

// start runs a server with an empty lease table in two new namespaces.
func (b *bench) start(sys string) (_ *server, err error) {
	dir, err := os.MkdirTemp(b.dir, sys)
	if err != nil {
		return nil, err
	}
	s := &server{log: filepath.Join(dir, "log")}
	defer func() {
		if err != nil {
			s.stop()
		}
	}()
	if s.node, err = kernel.NewNamespace(); err != nil {
		return nil, err
	}
	if s.load, err = kernel.NewNamespace(); err != nil {
		return nil, err
	}
	switch sys {
	case "kea":
		err = b.prepareKea(s, dir)
	default:
		err = b.prepareHotstage(s, dir)
	}
	if err != nil {
		return nil, err
	}
	if err := s.join(sys == "kea"); err != nil {
		return nil, err
	}
	out, err := os.Create(s.log)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	s.cmd.Stdout, s.cmd.Stderr = out, out
	if err := s.node.Start(s.cmd); err != nil {
		return nil, err
	}
	return s, s.answers()
}

const benchPlan = `event: {name: Bench, attendees: 100000, devices_per_attendee: 1, sessions_per_attendee: 1}
sites: {venue: {uplinks: {isp: {}}}}
segments: {attendee: {ipv4: 10.64.0.0/12, pool: 10.64.1.0-10.67.255.255, relays: [10.64.0.3]}}
napt: {use: 100%}
nodes:
  gw1: {roles: [router, resolver], interfaces: {eth0: {uplink: isp}, eth1: {segment: attendee}}}
  srv1: {roles: [dhcp], interfaces: {v0: {segment: attendee}}}
`

func (b *bench) prepareHotstage(s *server, dir string) error {
	file := filepath.Join(dir, "plan.yaml")
	if err := os.WriteFile(file, []byte(benchPlan), 0o644); err != nil {
		return err
	}
	text, err := exec.Command(b.hotstage, "show", file, "-o", "json").Output()
	if err != nil {
		return fmt.Errorf("show the plan: %w\n%s", err, text)
	}
	var shown struct {
		Nodes []struct {
			Name        string
			Attachments []struct{ IPv4 netip.Prefix }
		}
	}
	if err := json.Unmarshal(text, &shown); err != nil {
		return err
	}
	for _, n := range shown.Nodes {
		if n.Name == "srv1" {
			s.addr = n.Attachments[0].IPv4.Addr()
		}
	}
	s.cmd = exec.Command(b.hotstage, "run", file, "--node", "srv1", "--state", filepath.Join(dir, "state"))
	return nil
}

const keaConfig = `{"Dhcp4":{"interfaces-config":{"interfaces":["v0"]},
"lease-database":{"type":"memfile","persist":true,"name":"%[1]s/leases.csv"},
"multi-threading":{"enable-multi-threading":false},"valid-lifetime":3600,
"option-data":[{"name":"domain-name-servers","data":"10.64.0.1"},{"name":"routers","data":"10.64.0.1"}],
"subnet4":[{"id":1,"subnet":"10.64.0.0/12","pools":[{"pool":"10.64.1.0-10.67.255.255"}]}],
"loggers":[{"name":"kea-dhcp4","output_options":[{"output":"%[1]s/kea.log"}],"severity":"INFO"}]}}`

func (b *bench) prepareKea(s *server, dir string) error {
	s.addr = netip.MustParseAddr("10.64.0.1")
	file := filepath.Join(dir, "kea.json")
	if err := os.WriteFile(file, fmt.Appendf(nil, keaConfig, dir), 0o644); err != nil {
		return err
	}
	s.cmd = exec.Command("kea-dhcp4", "-c", file)
	s.cmd.Env = append(os.Environ(), "KEA_PIDFILE_DIR="+dir, "KEA_LOCKFILE_DIR="+dir)
	return nil
}

// join makes the link between the two namespaces; ours gives its end the address itself.
func (s *server) join(address bool) error {
	up := func(name, addr string) error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		if addr != "" {
			a, err := netlink.ParseAddr(addr)
			if err != nil {
				return err
			}
			if err := netlink.AddrAdd(l, a); err != nil {
				return err
			}
		}
		return netlink.LinkSetUp(l)
	}
	own := ""
	if address {
		own = s.addr.String() + "/12"
	}
	err := s.node.Do(func() error {
		a := netlink.NewLinkAttrs()
		a.Name = "v0"
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: a, PeerName: "v1", PeerNamespace: netlink.NsFd(s.load.FD())}); err != nil {
			return err
		}
		return up("v0", own)
	})
	if err != nil {
		return err
	}
	return s.load.Do(func() error { return up("v1", loadAddr.String()+"/12") })
}

// answers waits until the server gives a lease.
func (s *server) answers() error {
	for begun := time.Now(); time.Since(begun) < 15*time.Second; {
		if r, err := s.rushFor(1, 200*time.Millisecond, 0xfe); err == nil && r.lost == 0 {
			return nil
		}
	}
	text, _ := os.ReadFile(s.log)
	return fmt.Errorf("it gives no lease:\n%s", text)
}

func (s *server) stop() {
	if s.cmd != nil && s.cmd.Process != nil {
		s.cmd.Process.Kill()
		s.cmd.Wait()
	}
	for _, ns := range []*kernel.Namespace{s.node, s.load} {
		if ns != nil {
			ns.Close()
		}
	}
}

// cpu is the server's user and system time so far.
func (s *server) cpu() time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond // USER_HZ is 100 on Linux
}

// results are the figures of all trials, by figure and system, in the order of their coming.
type results map[string]map[string][]float64

func (r results) add(sys, figure string, v float64) {
	if r[figure] == nil {
		r[figure] = map[string][]float64{}
	}
	r[figure][sys] = append(r[figure][sys], v)
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	if len(v) == 0 {
		return 0
	}
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

func (r results) print() {
	fmt.Printf("%-42s", "figure")
	for _, s := range systems {
		fmt.Printf("  %-26s", s)
	}
	fmt.Println()
	for _, f := range slices.Sorted(func(yield func(string) bool) {
		for k := range r {
			if !yield(k) {
				return
			}
		}
	}) {
		fmt.Printf("%-42s", f)
		for _, s := range systems {
			v := r[f][s]
			fmt.Printf("  %-26s", fmt.Sprintf("%.4g (%.4g-%.4g)", median(v), slices.Min(v), slices.Max(v)))
		}
		fmt.Println()
	}
	fmt.Println()
	ratio := func(f string) float64 { return median(r[f]["hotstage"]) / median(r[f]["kea"]) }
	bar := func(name string, v float64, goal string, ok bool) {
		fmt.Printf("bar %s measured=%.3g goal=%s %s\n", name, v, goal, map[bool]string{true: "ok", false: "short"}[ok])
	}
	cpu := ratio("3,000/s: CPU an exchange, us")
	bar("dhcp-cpu-per-exchange-to-kea", cpu, "0.7", cpu <= 0.7)
	high := ratio("highest by perfdhcp, under 1 % lost, /s")
	bar("dhcp-rate-by-perfdhcp-to-kea", high, "1.3", high >= 1.3)
	sat := ratio("saturated, /s")
	bar("dhcp-rate-saturated-to-kea", sat, "2", sat >= 2)
	p99 := ratio("3,000/s: p99, ms")
	bar("dhcp-p99-at-3000-to-kea", p99, "1", p99 <= 1)
	last := median(r["6,000 at once: until the last ACK, s"]["hotstage"])
	bar("dhcp-6000-at-once-seconds", last, "2", last <= 2 && median(r["6,000 at once: without an address"]["hotstage"]) == 0)
	tries := median(r["6,000 at once: most tries of a client"]["hotstage"])
	bar("dhcp-6000-at-once-tries", tries, "2", tries <= 2)
}
