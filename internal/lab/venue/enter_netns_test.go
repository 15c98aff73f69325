//go:build linux

package venue

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hotstage/hotstage/internal/plan"
	"github.com/hotstage/hotstage/internal/testnet"
	"golang.org/x/sys/unix"
)

// enterTest is the environment variable that makes this binary a rehearsal in the folder it
// names; the folder's name also finds the processes that belong to it.
const enterTest = "HOTSTAGE_VENUE_TEST"

// rehearse is what `hotstage rehearse` does, in small: enter, build, start, wait for a
// signal (or the end of the input), close.
func rehearse(dir string) int {
	inside, exit, err := Enter()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 70
	}
	if !inside {
		return exit
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	v, err := Build(ctx, twoSites(), Options{PlanFile: "plan.yaml", Dir: dir, Ready: standInReady}, func(string) {})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 72
	}
	if err := v.StartAll(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 73
	}
	gaps, err := Probe(twoSites(), []plan.Role{plan.RoleRouter, plan.RoleDHCP})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 74
	}
	for _, g := range gaps {
		fmt.Println("gap", g.Key)
	}
	ours, _ := os.Readlink("/proc/self/ns/net")
	node := fmt.Sprintf("net:[%d]", inode(v.nodes["gw1"].FD()))
	fmt.Println("running", os.Getpid(), os.Geteuid(), ours, node, v.nodes["gw1"].process.cmd.Process.Pid)
	input := make(chan string, 1)
	go func() {
		all, _ := io.ReadAll(os.Stdin)
		input <- string(all)
	}()
	select {
	case <-ctx.Done():
		exit = 41
	case s := <-input:
		fmt.Printf("heard %q\n", s)
		exit = 42
	}
	if err := v.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 75
	}
	return exit
}

func inode(fd int) uint64 {
	var s unix.Stat_t
	unix.Fstat(fd, &s)
	return s.Ino
}

// rehearsal is such a process.
type rehearsal struct {
	cmd    *exec.Cmd
	dir    string
	input  io.WriteCloser
	output *bufio.Reader
	errors bytes.Buffer
	gaps   []string
	spaces []string // network namespaces: the inner process's, and a node's
}

// begin starts a rehearsal as root or as nobody, and waits until it runs.
func begin(t *testing.T, user int) *rehearsal {
	t.Helper()
	testnet.Root(t)
	dir := t.TempDir() // below /tmp, and for the user
	binary := filepath.Join(dir, "hotstage")
	copyFile(t, self, binary)
	r := &rehearsal{cmd: exec.Command(binary), dir: filepath.Join(dir, "rehearsal")}
	if err := os.Mkdir(r.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if user != 0 {
		r.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(user), Gid: uint32(user)}}
		for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
			if err := os.Chmod(d, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chown(r.dir, user, user); err != nil {
			t.Fatal(err)
		}
	}
	r.cmd.Env = append(os.Environ(), enterTest+"="+r.dir)
	r.cmd.Dir = "/"
	r.cmd.Stderr = &r.errors
	var err error
	if r.input, err = r.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	r.output = bufio.NewReader(out)
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.cmd.Process.Kill() })
	for {
		line, err := r.output.ReadString('\n')
		if err != nil {
			r.cmd.Wait()
			t.Fatalf("the rehearsal ends before it runs: %v, %s", r.cmd.ProcessState, r.errors.String())
		}
		var pid, uid, node int
		var ours, theirs, gap string
		if n, _ := fmt.Sscanf(line, "gap %s", &gap); n == 1 {
			r.gaps = append(r.gaps, gap)
			continue
		}
		if _, err := fmt.Sscanf(line, "running %d %d %s %s %d", &pid, &uid, &ours, &theirs, &node); err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		if pid != 1 || uid != 0 {
			t.Errorf("inside it is process %d of user %d, want 1 and 0", pid, uid)
		}
		r.spaces = []string{ours, theirs}
		return r
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}

// processes lists those that belong to the rehearsal, by their environment.
func (r *rehearsal) processes(t *testing.T) []string {
	t.Helper()
	var all []string
	paths, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range paths {
		if env, err := os.ReadFile(p); err == nil && bytes.Contains(env, []byte(r.dir)) {
			all = append(all, p)
		}
	}
	return all
}

// gone checks that neither a process nor a namespace of the rehearsal is left.
func (r *rehearsal) gone(t *testing.T) {
	t.Helper()
	var processes, spaces []string
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		processes, spaces = r.processes(t), nil
		used := namespacesInUse(t)
		for _, s := range r.spaces {
			if used[s] {
				spaces = append(spaces, s)
			}
		}
		if len(processes)+len(spaces) == 0 {
			return
		}
	}
	t.Errorf("left behind: processes %v, namespaces %v", processes, spaces)
}

// nobody is Debian's user without privileges.
const nobody = 65534

// unprivileged skips the test where the kernel keeps user namespaces for root.
func unprivileged(t *testing.T) {
	t.Helper()
	testnet.Root(t)
	cmd := exec.Command(self, "-test.run=^$")
	cmd.Env = []string{}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNET}
	if err := cmd.Run(); err != nil {
		testnet.Missing(t, "netns", "user namespaces: "+err.Error())
	}
}

func TestEnter(t *testing.T) {
	for _, user := range []int{0, nobody} {
		t.Run(fmt.Sprint("user ", user), func(t *testing.T) {
			if user != 0 {
				unprivileged(t)
			}
			r := begin(t, user)
			if got := r.processes(t); len(got) != 5 { // outer, inner, three nodes
				t.Errorf("%d processes, want 5: %v", len(got), got)
			}
			if got := strings.Join(r.gaps, " "); !strings.Contains(got, "role-ntp") || !strings.Contains(got, "conntrack") || strings.Contains(got, "role-dhcp") {
				t.Errorf("gaps: %s", got)
			}
			io.WriteString(r.input, "hello")
			r.input.Close()
			rest, err := io.ReadAll(r.output)
			if string(rest) != "heard \"hello\"\n" || err != nil {
				t.Errorf("standard streams: got %q, %v", rest, err)
			}
			var exit *exec.ExitError
			if err := r.cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 42 {
				t.Errorf("ended with %v, want exit status 42; %s", err, r.errors.String())
			}
			r.gone(t)
		})
	}
}

func TestEnterForwardsSignals(t *testing.T) {
	for _, s := range []syscall.Signal{unix.SIGINT, unix.SIGTERM} {
		r := begin(t, 0)
		r.cmd.Process.Signal(s)
		io.Copy(io.Discard, r.output)
		var exit *exec.ExitError
		if err := r.cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 41 {
			t.Errorf("%s: ended with %v, want exit status 41; %s", s, err, r.errors.String())
		}
		r.gone(t)
	}
}

func TestKillLeavesNothing(t *testing.T) {
	for _, user := range []int{0, nobody} {
		t.Run(fmt.Sprint("user ", user), func(t *testing.T) {
			if user != 0 {
				unprivileged(t)
			}
			r := begin(t, user)
			if used := namespacesInUse(t); !used[r.spaces[0]] || !used[r.spaces[1]] {
				t.Fatal("the test does not see namespaces that are in use")
			}
			if err := r.cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			r.cmd.Wait()
			r.gone(t)
		})
	}
}

func TestEnterRefusesAForgedMark(t *testing.T) {
	t.Setenv(mark, "1")
	inside, _, err := Enter()
	if inside || err == nil || !strings.Contains(err.Error(), "unset it") {
		t.Errorf("got inside=%t, %v", inside, err)
	}
}
