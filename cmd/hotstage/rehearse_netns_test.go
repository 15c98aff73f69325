package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/hotstage/hotstage/internal/testnet"
	"golang.org/x/net/html"
	"golang.org/x/sys/unix"
)

// finding is what these tests read of report.json.
type finding struct {
	Pass    bool                     `json:"pass"`
	Devices int                      `json:"devices"`
	Host    struct{ Root bool }      `json:"host"`
	Checks  []fact.Check             `json:"checks"`
	Gaps    []struct{ Words string } `json:"gaps"`
	Series  []fact.Sample            `json:"series"`
}

// failed lists the checks that failed, but for those that a machine busy with other tests
// fails: they judge time.
func (f *finding) failed() (names []string) {
	for _, c := range f.Checks {
		if !c.OK && !slices.Contains([]string{"dora", "generator"}, c.Name) {
			names = append(names, c.Name+": "+c.Measured)
		}
	}
	return names
}

// check finds the check of that name.
func (f *finding) check(t *testing.T, name string) fact.Check {
	t.Helper()
	for _, c := range f.Checks {
		if c.Name == name {
			return c
		}
	}
	t.Fatalf("the verdict has no check %s", name)
	return fact.Check{}
}

// rehearsing is a rehearsal in a process of its own, with a folder for temporary files of its
// own.
type rehearsing struct {
	cmd       *exec.Cmd
	tmp       string
	out, errs lockedBuffer
}

// rehearse starts a rehearsal of the smallest plan unless args name another.
func rehearse(t *testing.T, args ...string) *rehearsing {
	t.Helper()
	testnet.Root(t)
	tmp, err := os.MkdirTemp("", "hs") // not t.TempDir: nodes have sockets below, and their paths must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(tmp) })
	r := &rehearsing{cmd: program(t, append([]string{"rehearse", "--doors", "3s", "--stay", "3s"}, args...)...), tmp: tmp}
	r.cmd.Env = append(os.Environ(), "TMPDIR="+tmp)
	r.cmd.Stdout, r.cmd.Stderr = &r.out, &r.errs
	t.Cleanup(func() {
		if r.cmd.Process != nil && r.cmd.ProcessState == nil {
			r.cmd.Process.Kill()
			r.cmd.Wait()
		}
	})
	return r
}

// shipped has the rehearsal run the program as it is shipped: the race detector, which this
// test may be built with, takes several times the memory that the verdict is about.
func (r *rehearsing) shipped(t *testing.T) *rehearsing {
	t.Helper()
	path := filepath.Join(t.TempDir(), "hotstage")
	build := exec.Command("go", "build", "-o", path, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	r.cmd.Path, r.cmd.Args[0] = path, path
	return r
}

func (r *rehearsing) start(t *testing.T) {
	t.Helper()
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
}

// wait waits for the end and returns the exit code.
func (r *rehearsing) wait(t *testing.T) int {
	t.Helper()
	if err := r.cmd.Wait(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatal(err)
	}
	return r.cmd.ProcessState.ExitCode()
}

// says waits until standard output has the text.
func (r *rehearsing) says(t *testing.T, text string) {
	t.Helper()
	for begun := time.Now(); !strings.Contains(r.out.String(), text); time.Sleep(10 * time.Millisecond) {
		if time.Since(begun) > 20*time.Second {
			t.Fatalf("it does not say %q but: %s%s", text, r.out.String(), r.errs.String())
		}
	}
}

// processes lists those of the rehearsal, found by their TMPDIR, and their networks.
func (r *rehearsing) processes(t *testing.T) (pids, networks []string) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		if env, err := os.ReadFile(p + "/environ"); err != nil || !bytes.Contains(env, []byte("TMPDIR="+r.tmp+"\x00")) {
			continue
		}
		pids = append(pids, p)
		if net, err := os.Readlink(p + "/ns/net"); err == nil && p != fmt.Sprint("/proc/", r.cmd.Process.Pid) {
			networks = append(networks, net)
		}
	}
	return pids, networks
}

// gone checks that no process and no network of the rehearsal is left.
func (r *rehearsing) gone(t *testing.T, networks []string) {
	t.Helper()
	var left []string
	for begun := time.Now(); time.Since(begun) < 5*time.Second; time.Sleep(20 * time.Millisecond) {
		left, _ = r.processes(t)
		used, err := filepath.Glob("/proc/[0-9]*/ns/net")
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range used {
			for _, n := range networks {
				if there, err := os.Readlink(p); err == nil && there == n {
					left = append(left, p+" is in "+n)
				}
			}
		}
		if len(left) == 0 {
			return
		}
	}
	t.Errorf("left behind: %v", left)
}

// folders lists what is in the rehearsal's folder for temporary files.
func (r *rehearsing) folders(t *testing.T) (names []string) {
	t.Helper()
	all, err := os.ReadDir(r.tmp)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		names = append(names, e.Name())
	}
	return names
}

func read(t *testing.T, text string) *finding {
	t.Helper()
	f := new(finding)
	if err := json.Unmarshal([]byte(text), f); err != nil {
		t.Fatalf("%v in\n%.500s", err, text)
	}
	return f
}

const smallest = "../../examples/smallest.yaml"

func TestRehearsePasses(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "a", "report")
	keep := filepath.Join(t.TempDir(), "kept")
	r := rehearse(t, smallest, "--people", "30", "--report", dir, "--keep", keep).shipped(t)
	r.start(t)
	code := r.wait(t)
	text, err := os.ReadFile(filepath.Join(dir, "report.json"))
	if err != nil {
		t.Fatal(err)
	}
	f := read(t, string(text))
	if f.Pass != (code == 0) || f.Devices != 60 || !f.Host.Root || len(f.Series) == 0 || len(f.failed()) > 0 {
		t.Errorf("report.json: pass %t, %d devices, root %t, %d samples, failed %v", f.Pass, f.Devices, f.Host.Root, len(f.Series), f.failed())
	}
	page, err := os.ReadFile(filepath.Join(dir, "report.html"))
	if err != nil {
		t.Fatal(err)
	}
	tokens, plots := html.NewTokenizer(bytes.NewReader(page)), 0
	for tokens.Next() != html.ErrorToken {
		if name, _ := tokens.TagName(); string(name) == "svg" {
			plots++
		}
	}
	if err := tokens.Err(); err != io.EOF || plots < 4 || !strings.Contains(string(page), "Small Meetup") {
		t.Errorf("report.html: %v, %d plots", err, plots)
	}
	verdict := []string{"PASS  Small Meetup\n", "All 13 checks passed."}
	if !f.Pass {
		verdict = []string{"FAIL  Small Meetup\n", " of 13 checks failed."}
	}
	for _, want := range append(verdict, "the doors open\n", "report: "+filepath.Join(dir, "report.html")) {
		if !strings.Contains(r.out.String(), want) {
			t.Errorf("it does not say %q but\n%s", want, r.out.String())
		}
	}
	if strings.Contains(r.out.String(), "\x1b") || r.errs.String() != "" {
		t.Errorf("in a pipe: colours, or errors: %q", r.errs.String())
	}
	if log, err := os.ReadFile(filepath.Join(keep, "gw1", "log")); err != nil || !bytes.Contains(log, []byte("segment set-up")) {
		t.Errorf("the kept log: %v, %s", err, log)
	}
	if left := r.folders(t); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// What is acknowledged outlives kill -9 of the server in the middle of the rush. Read from
// another folder, and with the report on standard output, which has nothing else.
func TestRehearseKill(t *testing.T) {
	t.Parallel()
	r := rehearse(t, filepath.Base(smallest), "--people", "30", "--stay", "4s", "--kill", "gw1@1500ms", "-o", "json")
	r.cmd.Dir = filepath.Dir(smallest)
	r.start(t)
	code := r.wait(t)
	f := read(t, r.out.String())
	if c := f.check(t, "script"); !c.OK {
		t.Errorf("script: %+v", c)
	}
	if c := f.check(t, "leases-kept"); !c.OK || strings.HasPrefix(c.Measured, "0 kept") || !strings.Contains(c.Measured, " kept, 0 lost, 0 silent") {
		t.Errorf("leases-kept: %+v", c)
	}
	if c := f.check(t, "duplicates"); !c.OK {
		t.Errorf("duplicates: %+v", c)
	}
	if f.Pass != (code == 0) {
		t.Errorf("pass is %t, and the exit code %d", f.Pass, code)
	}
	if !strings.Contains(r.errs.String(), "the doors open") || !strings.Contains(r.errs.String(), "kill -9 gw1") {
		t.Errorf("progress on standard error: %s", r.errs.String())
	}
}

// The only DHCP server is in another segment than the attendees: the gateway relays, and
// renewals are routed past it. A server that is killed in the rush loses no lease here either.
func TestRehearseRelay(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "plan.yaml")
	text := "event: {name: Far Server, attendees: 30}\nsites: {venue: {uplinks: {isp: {}}}}\nsegments: {attendee: {}, server: {}}\nnodes:\n" +
		"  gw1: {roles: [router, resolver], interfaces: {eth0: {uplink: isp}, eth1: {trunk: [attendee, server]}}}\n" +
		"  srv1: {roles: [dhcp], interfaces: {ens192: {segment: server}}}\n"
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	r := rehearse(t, file, "--stay", "5s", "--kill", "srv1@1500ms", "-o", "json")
	r.start(t)
	r.wait(t)
	f := read(t, r.out.String())
	if f.Devices != 60 || len(f.failed()) > 0 {
		t.Errorf("%d devices, failed %v", f.Devices, f.failed())
	}
	if c := f.check(t, "leases-kept"); !c.OK || strings.HasPrefix(c.Measured, "0 kept") {
		t.Errorf("leases-kept: %+v", c)
	}
}

// Two servers that know each other's leases, each killed in the rush: in the segment, and
// behind a relay.
func TestRehearsePair(t *testing.T) {
	t.Parallel()
	for name, at := range map[string]string{"in the segment": "{trunk: [attendee, server]}", "behind a relay": "{segment: server}"} {
		t.Run(name, func(t *testing.T) {
			file, logs := filepath.Join(t.TempDir(), "plan.yaml"), filepath.Join(t.TempDir(), "logs")
			text := "event: {name: Two Servers, attendees: 60}\nsites: {venue: {uplinks: {isp: {}}}}\nsegments: {attendee: {}, server: {}}\nnodes:\n" +
				"  gw1: {roles: [router, resolver], interfaces: {eth0: {uplink: isp}, eth1: {trunk: [attendee, server]}}}\n" +
				"  srv1: {roles: [dhcp], interfaces: {ens192: " + at + "}}\n" +
				"  srv2: {roles: [dhcp], interfaces: {ens192: " + at + "}}\n"
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			r := rehearse(t, file, "--doors", "12s", "--stay", "5s", "--kill", "srv1@3s", "--kill", "srv2@8s", "--keep", logs, "-o", "json")
			r.start(t)
			r.wait(t)
			f := read(t, r.out.String())
			if f.Devices != 120 || len(f.failed()) > 0 {
				t.Errorf("%d devices, failed %v", f.Devices, f.failed())
			}
			for _, node := range []string{"srv1", "srv2"} {
				log, err := os.ReadFile(filepath.Join(logs, node, "log"))
				if err != nil {
					t.Fatal(err)
				}
				if n := strings.Count(string(log), "pair-normal"); n < 3 {
					t.Errorf("%s knew its partner's leases %d times, want at the start and after each kill:\n%s", node, n, log)
				}
				if strings.Contains(string(log), "pair-contrary") {
					t.Errorf("%s gave what its partner gave:\n%s", node, log)
				}
			}
		})
	}
}

// A plan that cannot work: its resolver asks where nobody is. The verdict must say so.
func TestRehearseFails(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "plan.yaml")
	const src = "event: {name: Lost, attendees: 20}\nsites: {venue: {uplinks: {isp: {}}}}\nsegments: {attendee: {}, server: {ipv4: 10.9.8.0/24}}\nresolver: {recursion: [10.9.8.77]}\n"
	if err := os.WriteFile(file, []byte(src), 0o644); err != nil {
		t.Fatal(err)
	}
	r := rehearse(t, file)
	r.start(t)
	if code := r.wait(t); code != 1 {
		t.Errorf("exit %d, want 1", code)
	}
	for _, want := range []string{"FAIL  Lost\n", "ok    devices with an address", "FAIL  names resolve", " SERVFAIL", "checks failed."} {
		if !strings.Contains(r.out.String(), want) {
			t.Errorf("it does not say %q but\n%s", want, r.out.String())
		}
	}
}

// What cannot be written in the end is told in the beginning.
func TestRehearseNeedsItsFolders(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range [][3]string{{"--report", filepath.Join(file, "report"), "not a directory"}, {"--report", "/proc/sys", "--report or --keep"}, {"--keep", dir, "not empty; name a new one"}} {
		r := rehearse(t, smallest, c[0], c[1])
		r.start(t)
		if code := r.wait(t); code != 1 || !strings.Contains(r.errs.String(), c[2]) || r.out.String() != "" {
			t.Errorf("%s %s: exit %d, %s%s", c[0], c[1], code, r.errs.String(), r.out.String())
		}
	}
}

// nobody is Debian's user without privileges.
const nobody = 65534

func TestRehearseUnprivileged(t *testing.T) {
	testnet.Root(t)
	probe := exec.Command("/proc/self/exe", "-test.run=^$")
	probe.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNET}
	if err := probe.Run(); err != nil {
		testnet.Missing(t, "netns", "user namespaces: "+err.Error())
	}
	t.Parallel()
	// A limit that needs raising whoever else has raised it for his own rehearsal.
	const src = "event: {name: Large, attendees: 3000, devices_per_attendee: 10}\nsites: {venue: {uplinks: {isp: {}}}}\n"
	r := rehearse(t, "/dev/null", "--people", "30").shipped(t)
	if err := errors.Join(os.Chmod(r.tmp, 0o755), os.WriteFile(filepath.Join(r.tmp, "plan.yaml"), []byte(src), 0o644), os.Mkdir(filepath.Join(r.tmp, "t"), 0o777),
		os.Chmod(filepath.Join(r.tmp, "t"), 0o777)); err != nil {
		t.Fatal(err)
	}
	binary, err := os.ReadFile(r.cmd.Path)
	if err == nil {
		err = os.WriteFile(filepath.Join(r.tmp, "hotstage"), binary, 0o755) // where nobody can read it
	}
	if err != nil {
		t.Fatal(err)
	}
	r.cmd.Path = filepath.Join(r.tmp, "hotstage")
	r.cmd.Args[0], r.cmd.Args[len(r.cmd.Args)-3] = r.cmd.Path, filepath.Join(r.tmp, "plan.yaml")
	r.cmd.Env = append(os.Environ(), "TMPDIR="+filepath.Join(r.tmp, "t"))
	r.cmd.Dir = "/"
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	r.cmd.Args = append(r.cmd.Args, "-o", "json")
	r.start(t)
	code := r.wait(t)
	f := read(t, r.out.String())
	if f.Pass != (code == 0) || f.Devices != 300 || f.Host.Root || len(f.failed()) > 0 {
		t.Errorf("exit %d, pass %t, %d devices, root %t, failed %v\n%s", code, f.Pass, f.Devices, f.Host.Root, f.failed(), r.errs.String())
	}
	if want := "warning: limits of this machine are too low; as root: sysctl -w net.ipv4.neigh.default.gc_thresh3=181200 net."; !strings.HasPrefix(r.errs.String(), want) {
		t.Errorf("it does not say %q but\n%s", want, r.errs.String())
	}
	if !slices.ContainsFunc(f.Gaps, func(g struct{ Words string }) bool {
		return strings.HasPrefix(g.Words, "neighbour tables: the host's limit is")
	}) {
		t.Errorf("the report does not name the limit: %v", f.Gaps)
	}
	if left, err := os.ReadDir(filepath.Join(r.tmp, "t")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

const neighbours = "net/ipv4/neigh/default/gc_thresh3"

// hostLimit is the host's limit of neighbours when no rehearsal has raised it: others may
// run on this machine.
func hostLimit(t *testing.T) string {
	t.Helper()
	for begun := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		_, err := os.Stat(limitsFile)
		limit, err2 := kernel.Sysctl(neighbours)
		if err2 != nil {
			t.Fatal(err2)
		}
		if errors.Is(err, os.ErrNotExist) {
			return limit
		}
		if time.Since(begun) > 2*time.Minute {
			t.Fatalf("%s is %s and %s is there still: a rehearsal did not put it back, or one runs for long", neighbours, limit, limitsFile)
		}
	}
}

// Ctrl-C and kill -9 in the middle leave no process, network, folder or limit; the folder
// and the limit after kill -9 are put right by the next start.
func TestRehearseLeavesNothing(t *testing.T) {
	testnet.Root(t)
	file := filepath.Join(t.TempDir(), "plan.yaml")
	const src = "event: {name: Large, attendees: 3000}\nsites: {venue: {uplinks: {isp: {}}}}\n"
	if err := os.WriteFile(file, []byte(src), 0o644); err != nil {
		t.Fatal(err)
	}
	before := hostLimit(t)
	raised := func() {
		t.Helper()
		if now, err := kernel.Sysctl(neighbours); err != nil || now == before {
			t.Errorf("while it runs %s is %s, %v: not raised", neighbours, now, err)
		}
	}

	killed := rehearse(t, file, "--people", "30")
	killed.start(t)
	killed.says(t, "the doors open")
	raised()
	pids, networks := killed.processes(t)
	if len(pids) != 3 || len(networks) != 2 { // outer, inner, gw1
		t.Errorf("processes %v, networks %v", pids, networks)
	}
	killed.cmd.Process.Kill()
	killed.wait(t)
	killed.gone(t, networks)
	if left := killed.folders(t); len(left) != 1 {
		t.Errorf("kill -9: folders %v, want one, for the next start to remove", left)
	}
	raised()

	for _, when := range []string{"building the venue", "the doors open"} {
		r := rehearse(t, file, "--people", "30")
		r.cmd.Env = append(os.Environ(), "TMPDIR="+killed.tmp)
		r.tmp = killed.tmp
		r.start(t)
		r.says(t, when)
		_, networks := r.processes(t)
		begun := time.Now()
		r.cmd.Process.Signal(unix.SIGINT)
		if code := r.wait(t); code != interrupted || time.Since(begun) > 5*time.Second {
			t.Errorf("SIGINT while %s: exit %d after %v", when, code, time.Since(begun))
		}
		if d := cmp.Diff("hotstage: rehearse: interrupted; there is no verdict, and nothing is left behind\n", r.errs.String()); d != "" {
			t.Errorf("SIGINT while %s (-want +got):\n%s", when, d)
		}
		r.gone(t, networks)
		if left := r.folders(t); len(left) > 0 {
			t.Errorf("SIGINT while %s: left behind %v", when, left)
		}
	}
	if after := hostLimit(t); after != before {
		t.Errorf("%s is %s, and was %s before", neighbours, after, before)
	}
}
