package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/hotstage/hotstage/internal/lab/crowd"
	"github.com/hotstage/hotstage/internal/plan"
	"github.com/hotstage/hotstage/internal/testnet"
	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// onePlan is a gateway between one uplink and one segment.
//
//	isp (192.0.2.1, answers DNS) ── eth0 [gw1] eth1 ── p1 (attendees)
const onePlan = `event: {name: One, attendees: 20}
sites: {venue: {uplinks: {isp: {ipv4: [192.0.2.2/24], gateway: 192.0.2.1}}}}
segments: {attendee: {}}
resolver: {recursion: [192.0.2.1]}
nodes:
  gw1: {roles: [router, dhcp, resolver], interfaces: {eth0: {uplink: isp}, eth1: {segment: attendee}}}
`

// program is this binary as hotstage, as testscript.Main has put it in the path.
func program(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	path, err := exec.LookPath("hotstage")
	if err != nil {
		t.Fatal(err)
	}
	return exec.Command(path, args...)
}

// output runs a command and returns both streams and the exit code.
func output(t *testing.T, args ...string) (out, errs string, code int) {
	t.Helper()
	cmd := program(t, args...)
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &e
	if err := cmd.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatal(err)
	}
	return o.String(), e.String(), cmd.ProcessState.ExitCode()
}

// gateway is a machine with the plan's interfaces, and a node on it.
type gateway struct {
	plan  *plan.Plan
	file  string
	state string
	ns    *kernel.Namespace
	aps   *kernel.Namespace
	cmd   *exec.Cmd
	log   lockedBuffer
}

// lockedBuffer is a bytes.Buffer that may be read while a process writes to it.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newGateway(t *testing.T) *gateway {
	t.Helper()
	g := &gateway{ns: testnet.Namespace(t), aps: testnet.Namespace(t), file: filepath.Join(t.TempDir(), "plan.yaml")}
	g.state = filepath.Join(filepath.Dir(g.file), "state")
	isp := testnet.Namespace(t)
	testnet.Veth(t, g.ns, "eth0", nil, isp, "isp", []string{"192.0.2.1/24"})
	answerDNS(t, isp, "192.0.2.1:53")
	testnet.Veth(t, g.ns, "eth1", nil, g.aps, "p1", nil)
	if err := os.WriteFile(g.file, []byte(onePlan), 0o644); err != nil {
		t.Fatal(err)
	}
	var faults plan.Faults
	if g.plan, _, faults = plan.Parse([]byte(onePlan), nil); g.plan == nil {
		t.Fatal(faults)
	}
	return g
}

// answerDNS says NOERROR to every question.
func answerDNS(t *testing.T, ns *kernel.Namespace, addr string) {
	t.Helper()
	var conn net.PacketConn
	testnet.Do(t, ns, func() (err error) {
		conn, err = net.ListenPacket("udp4", addr)
		return err
	})
	s := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) { w.WriteMsg(new(dns.Msg).SetReply(q)) })}
	ended := make(chan error)
	go func() { ended <- s.ActivateAndServe() }()
	t.Cleanup(func() {
		conn.Close()
		<-ended
	})
}

func (g *gateway) command(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := program(t, "run", g.file, "--node", "gw1", "--state", g.state)
	cmd.Stdout, cmd.Stderr = &g.log, &g.log
	return cmd
}

// start starts the node and waits until all its tasks are ready.
func (g *gateway) start(t *testing.T) {
	t.Helper()
	g.cmd = g.command(t)
	if err := g.ns.Start(g.cmd); err != nil {
		t.Fatal(err)
	}
	cmd := g.cmd
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			cmd.Process.Kill()
			cmd.Wait()
		}
	})
	if err := waitReady(t.Context(), "gw1", g.state); err != nil {
		t.Fatalf("%v\n%s", err, g.log.String())
	}
}

// end sends a signal, waits, and says how the process ended.
func (g *gateway) end(t *testing.T, s os.Signal) error {
	t.Helper()
	if err := g.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(5*time.Second, func() { g.cmd.Process.Kill() })
	defer late.Stop()
	return g.cmd.Wait()
}

// walkIn lets devices walk in until all have an address, or for two seconds. They do not
// leave in order: nothing is released. Addressed is what they got.
func (g *gateway) walkIn(t *testing.T, devices int, seed int64) crowd.Result {
	t.Helper()
	c, err := crowd.New(crowd.Config{Doors: 300 * time.Millisecond, Stay: time.Minute, Seed: seed, Probes: -1, Queries: 1e-9, Sessions: 1e-9,
		Segments: []crowd.Segment{{Plan: g.plan.Segments[0], Ports: []crowd.Port{{Namespace: g.aps, Device: "p1"}}, Devices: devices}}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(t.Context(), 2*time.Second)
	defer stop()
	go func() { // ends with ctx
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil && c.Snapshot().Bound < devices {
			<-tick.C
		}
		stop()
	}()
	result, err := c.Run(ctx)
	if ctx.Err() == nil {
		t.Fatal(err)
	}
	return result
}

// until asks for the status until its first line says what is wanted.
func (g *gateway) until(t *testing.T, want string) (out string, code int) {
	t.Helper()
	for begun := time.Now(); time.Since(begun) < 15*time.Second; time.Sleep(50 * time.Millisecond) {
		if out, _, code = output(t, "status", "--state", g.state); strings.Contains(strings.SplitN(out, "\n", 2)[0], want) {
			return out, code
		}
	}
	t.Fatalf("status does not say %q but\n%s\nthe node's log:\n%s", want, out, g.log.String())
	return "", 0
}

func TestRunServesAndStops(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	g.start(t)
	if out, errs, code := output(t, "status", "--state", g.state); code != 0 || !strings.Contains(out, "all is well") || errs != "" {
		t.Errorf("status: exit %d, %s\n%s", code, errs, out)
	}
	out, _, code := output(t, "status", "--state", g.state, "-o", "json")
	var st status
	if err := json.Unmarshal([]byte(out), &st); err != nil || code != 0 || st.Node != "gw1" || len(st.Tasks) != 6 {
		t.Errorf("status -o json: exit %d, %v: %+v", code, err, st)
	}
	// A second one for the same state directory is refused before it touches anything.
	second, errs := g.command(t), new(bytes.Buffer)
	second.Stderr = errs
	if err := g.ns.Start(second); err != nil {
		t.Fatal(err)
	}
	if second.Wait(); second.ProcessState.ExitCode() != 1 || !strings.Contains(errs.String(), "runs with this state directory already; see: hotstage status --state") {
		t.Errorf("started twice: %v, %s", second.ProcessState, errs)
	}
	if info, err := os.Stat(g.state); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("state directory: %v, %v; want drwx------", info, err)
	}
	begun := time.Now()
	if err := g.end(t, unix.SIGTERM); err != nil || time.Since(begun) > 4*time.Second {
		t.Errorf("SIGTERM: ended after %v: %v\n%s", time.Since(begun), err, g.log.String())
	}
	if _, errs, code := output(t, "status", "--state", g.state); code != 1 || !strings.Contains(errs, "no node runs") {
		t.Errorf("status of a stopped node: exit %d, %s", code, errs)
	}
	g.start(t) // as if nothing had been
	if err := g.end(t, unix.SIGINT); err != nil {
		t.Errorf("SIGINT: %v", err)
	}
}

func TestLeasesOutliveKill(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	g.start(t)
	if r := g.walkIn(t, 8, 1); r.Addressed != 8 {
		t.Fatalf("%d of 8 devices have an address\n%s", r.Addressed, g.log.String())
	}
	all := g.leases(t)
	if len(all) != 8 {
		t.Fatalf("%d leases, want 8: %+v", len(all), all)
	}
	for i, l := range all {
		if i > 0 && !all[i-1].Addr.Less(l.Addr) || l.Segment != "attendee" || !g.plan.Segments[0].IPv4.Contains(l.Addr) {
			t.Errorf("lease %d: %+v", i, l)
		}
	}
	one := all[3]
	for _, find := range []string{one.Addr.String(), strings.ToUpper(one.MAC.String())} {
		if got := g.leases(t, find); len(got) != 1 || got[0].Addr != one.Addr {
			t.Errorf("leases %s: %+v", find, got)
		}
	}
	if got := g.leases(t, "attendee", "10.0.0.1"); len(got) != 0 {
		t.Errorf("leases attendee 10.0.0.1: %+v, want none: both must match", got)
	}
	text, _, code := output(t, "leases", "--state", g.state)
	if rows := strings.Split(strings.TrimSpace(text), "\n"); code != 0 || len(rows) != 9 || !strings.HasPrefix(rows[0], "ADDRESS") || !strings.HasPrefix(rows[4], one.Addr.String()+" ") {
		t.Errorf("leases: exit %d\n%s", code, text)
	}
	csv, _, code := output(t, "leases", "--state", g.state, "-o", "csv")
	if rows := strings.Split(strings.TrimSpace(csv), "\n"); code != 0 || len(rows) != 9 || rows[0] != "address,mac,segment,state,expires,hostname,client" ||
		!strings.HasPrefix(rows[4], one.Addr.String()+","+one.MAC.String()+",attendee,bound,20") {
		t.Errorf("leases -o csv: exit %d\n%s", code, csv)
	}
	if err := g.end(t, unix.SIGKILL); err == nil {
		t.Error("kill -9: it ended well")
	}
	g.start(t)
	if d := cmp.Diff(all, g.leases(t), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
		t.Errorf("leases after kill -9 (-before +after):\n%s", d)
	}
}

func (g *gateway) leases(t *testing.T, find ...string) (all []fact.Lease) {
	t.Helper()
	out, errs, code := output(t, append([]string{"leases", "--state", g.state, "-o", "json"}, find...)...)
	if err := json.Unmarshal([]byte(out), &all); err != nil || code != 0 {
		t.Fatalf("leases: exit %d, %v, %s", code, err, errs)
	}
	return all
}

func TestStatusNamesTheFirstBroken(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	g.start(t)
	testnet.Do(t, g.ns, func() error {
		l, err := netlink.LinkByName("eth1")
		if err != nil {
			return err
		}
		return netlink.LinkDel(l)
	})
	out, code := g.until(t, "first broken: segment/")
	if code != 1 {
		t.Errorf("status: exit %d, want 1", code)
	}
	rows := strings.Split(out, "\n")
	if len(rows) < 4 || !strings.HasPrefix(rows[2], "segment/") || !strings.Contains(rows[2], "NOT OK") || !strings.Contains(rows[2], "no link eth1") ||
		!strings.HasPrefix(rows[3], "dhcp/") || !strings.Contains(rows[3], "NOT OK") {
		t.Errorf("want segment and then dhcp first:\n%s", out)
	}
	if _, _, code := output(t, "status", "--state", g.state, "-o", "json"); code != 1 {
		t.Errorf("status -o json: exit %d, want 1", code)
	}
	testnet.Veth(t, g.ns, "eth1", nil, g.aps, "p1", nil)
	if _, code := g.until(t, "all is well"); code != 0 {
		t.Errorf("status when the link is back: exit %d", code)
	}
	if r := g.walkIn(t, 3, 2); r.Addressed != 3 {
		t.Errorf("%d of 3 devices have an address when the link is back\n%s", r.Addressed, g.log.String())
	}
}

func TestMetricsOnTheSocket(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	g.start(t)
	g.walkIn(t, 2, 3)
	text := g.metrics(t)
	for _, want := range []string{"hotstage_dhcp_replies_total{type=\"ack\"} ", "hotstage_napt_table_entries ", "hotstage_segment_as_planned 1", "hotstage_uplink_up{uplink=\"isp\"} 1", "hotstage_resolver_"} {
		if !strings.Contains(text, "\n"+want) {
			t.Errorf("/metrics has no %s", want)
		}
	}
}

func (g *gateway) metrics(t *testing.T) string {
	t.Helper()
	conn, err := net.Dial("unix", filepath.Join(g.state, "control.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	conn.Write([]byte("GET /metrics HTTP/1.0\r\n\r\n"))
	var b bytes.Buffer
	if _, err := b.ReadFrom(conn); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// disk is a small file system of its own at dir, in a mount namespace that only do's
// functions and the processes that they start are in.
type disk struct {
	dir  string
	work chan func()
}

func newDisk(t *testing.T, flags uintptr, options string) *disk {
	t.Helper()
	testnet.Root(t)
	d := &disk{dir: t.TempDir(), work: make(chan func())}
	mounted := make(chan error)
	go func() {
		runtime.LockOSThread() // and never given back: the namespace ends with the thread
		err := errors.Join(unix.Unshare(unix.CLONE_FS|unix.CLONE_NEWNS), unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
		if err == nil {
			err = unix.Mount("tmpfs", d.dir, "tmpfs", flags, options)
		}
		mounted <- err
		for f := range d.work {
			f()
		}
	}()
	t.Cleanup(func() { close(d.work) })
	if err := <-mounted; err != nil {
		t.Fatal(err)
	}
	return d
}

func (d *disk) do(f func() error) error {
	done := make(chan error)
	d.work <- func() { done <- f() }
	return <-done
}

// startOn starts the node with its state on the disk, and makes state the path by which
// others find it.
func (g *gateway) startOn(t *testing.T, d *disk) {
	t.Helper()
	g.state = d.dir
	g.cmd = g.command(t)
	err := d.do(func() error {
		if err := unix.Setns(g.ns.FD(), unix.CLONE_NEWNET); err != nil {
			return err
		}
		return g.cmd.Start()
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if g.cmd.ProcessState == nil {
			g.cmd.Process.Kill()
			g.cmd.Wait()
		}
	})
	g.state = fmt.Sprintf("/proc/%d/root%s", g.cmd.Process.Pid, d.dir)
}

// fill writes until nothing more fits.
func (d *disk) fill() error {
	return d.do(func() error {
		f, err := os.Create(filepath.Join(d.dir, "fill"))
		if err != nil {
			return err
		}
		defer f.Close()
		for size := 64 << 10; size > 0; {
			if _, err := f.Write(make([]byte, size)); errors.Is(err, unix.ENOSPC) {
				size /= 2
			} else if err != nil {
				return err
			}
		}
		return nil
	})
}

func (d *disk) empty() error {
	return d.do(func() error { return os.Remove(filepath.Join(d.dir, "fill")) })
}

func TestReadOnlyStateIsRefused(t *testing.T) {
	t.Parallel()
	d := newDisk(t, unix.MS_RDONLY, "size=1m")
	g := newGateway(t)
	g.startOn(t, d)
	if err := g.cmd.Wait(); g.cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("ended with %v, want exit status 1", err)
	}
	if got := g.log.String(); !strings.Contains(got, "read-only file system; choose another state directory with --state") || strings.Count(got, "\n") != 1 {
		t.Errorf("it says: %s", got)
	}
	testnet.Do(t, g.ns, func() error {
		l, err := netlink.LinkByName("eth1")
		if err != nil {
			return err
		}
		if addrs, err := netlink.AddrList(l, netlink.FAMILY_V4); err != nil || len(addrs) > 0 {
			t.Errorf("half a node was started: eth1 has %v, %v", addrs, err)
		}
		return nil
	})
}

// A disk that is full when the node starts: no leases, and the others serve. Then there is
// room, and leases are given; it fills up, and none are; there is room again.
func TestFullDiskGivesNoLeases(t *testing.T) {
	t.Parallel()
	d := newDisk(t, 0, "size=512k")
	g := newGateway(t)
	if err := d.fill(); err != nil {
		t.Fatal(err)
	}
	g.startOn(t, d)
	out, code := g.until(t, "first broken: dhcp")
	if code != 1 || !strings.Contains(out, "full") || !strings.Contains(out, "resolver ") {
		t.Errorf("status with a full disk: exit %d\n%s", code, out)
	}
	if r := g.walkIn(t, 3, 1); r.Addressed != 0 {
		t.Errorf("%d devices have a lease that is not on disk", r.Addressed)
	}
	if err := d.empty(); err != nil {
		t.Fatal(err)
	}
	g.until(t, "all is well")
	if r := g.walkIn(t, 3, 2); r.Addressed != 3 {
		t.Errorf("%d of 3 devices have an address when there is room", r.Addressed)
	}
	if err := d.fill(); err != nil {
		t.Fatal(err)
	}
	// The log of the database has room left for some, so come many.
	r := g.walkIn(t, 100, 3)
	if out, code = g.until(t, "first broken: dhcp"); code != 1 {
		t.Errorf("status when the disk has filled up: exit %d\n%s", code, out)
	}
	if known := len(g.leases(t)); r.Addressed > known {
		t.Errorf("%d devices have an address, but %d leases are known", r.Addressed, known)
	}
	if err := d.empty(); err != nil {
		t.Fatal(err)
	}
	if r := g.walkIn(t, 3, 4); r.Addressed != 3 {
		t.Errorf("%d of 3 devices have an address when there is room again\n%s", r.Addressed, g.log.String())
	}
	g.until(t, "all is well")
}
