//go:build linux

package venue

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hotstage/hotstage/internal/kernel"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// stopDeadline is how long a node may take to stop in order; systemd gives it 90 s, people
// at a rehearsal are less patient.
const stopDeadline = 10 * time.Second

// Death is the end of a node's process that nobody asked for.
type Death struct {
	Node string
	Err  error // how the process ended, with the last lines of its log
}

// node is a machine of the venue: its network, and at most one process.
type node struct {
	*kernel.Namespace
	name, dir string

	change  sync.Mutex // held while the process is started or stopped
	mu      sync.Mutex // guards what follows
	process *process
	past    Usage // of the processes that have ended
}

// process is one run of the binary.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed when err is set
	err   error
	asked bool // to end; guarded by the node's mu
}

func (v *Venue) newNode(name string) (*node, error) {
	n := &node{name: name, dir: filepath.Join(v.options.Dir, name)}
	if err := os.MkdirAll(n.state(), 0o700); err != nil {
		return nil, err
	}
	// The internet of a rehearsal is not signed: a child Unbound gets no trust anchor, which
	// is an empty file in its directory. Probe tells.
	child := filepath.Join(n.state(), "unbound")
	if err := errors.Join(os.MkdirAll(child, 0o700), os.WriteFile(filepath.Join(child, "root.key"), nil, 0o600)); err != nil {
		return nil, err
	}
	var err error
	n.Namespace, err = newSpace(nil)
	return n, err
}

func (n *node) log() string   { return filepath.Join(n.dir, "log") }
func (n *node) state() string { return filepath.Join(n.dir, "state") }

func (v *Venue) node(name string) (*node, error) {
	if n := v.nodes[name]; n != nil {
		return n, nil
	}
	return nil, fmt.Errorf("the plan has no node %q", name)
}

// StartAll starts all nodes at once, as after a power cut, and waits until each is ready.
// The error tells of every node that is not; the others keep running.
func (v *Venue) StartAll(ctx context.Context) error {
	errs := make([]error, len(v.plan.Nodes))
	var g errgroup.Group
	for i := range v.plan.Nodes {
		g.Go(func() error {
			errs[i] = v.Start(ctx, v.plan.Nodes[i].Name)
			return nil
		})
	}
	g.Wait()
	return errors.Join(errs...)
}

// Start starts the node's process and waits until it is ready. State and network are as the
// last process left them. When the process ends before that, or ctx does, the error has the
// last lines of the log; a process that is not ready in time keeps running.
func (v *Venue) Start(ctx context.Context, name string) error {
	n, err := v.node(name)
	if err != nil {
		return err
	}
	n.change.Lock()
	defer n.change.Unlock()
	p, err := n.launch(v.options)
	if err != nil {
		return fmt.Errorf("start node %s: %w", name, err)
	}
	if v.options.Ready != nil {
		alive, cancel := context.WithCancel(ctx)
		go func() { // ends with alive
			select {
			case <-p.ended:
				cancel()
			case <-alive.Done():
			}
		}()
		err = v.options.Ready(alive, name, n.state())
		cancel()
	}
	select {
	case <-p.ended:
		return fmt.Errorf("start node %s: %w", name, n.ending(p))
	default:
	}
	go v.watch(n, p)
	if err != nil {
		return fmt.Errorf("start node %s: not ready: %w%s", name, err, n.lastLines())
	}
	return nil
}

// launch starts the process, with both of its streams into the node's log.
func (n *node) launch(o Options) (*process, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.process != nil && !n.process.over() {
		return nil, fmt.Errorf("it is running already, as process %d", n.process.cmd.Process.Pid)
	}
	log, err := os.OpenFile(n.log(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := &exec.Cmd{
		Path:   self,
		Args:   []string{os.Args[0], "run", o.PlanFile, "--node", n.name, "--state", n.state(), "--keys", o.KeysDir, "--local-leases"}, // see Probe
		Env:    withoutMark(os.Environ()),
		Stdout: log, Stderr: log,
		// Without a rehearsal there is no venue: its nodes end with it.
		SysProcAttr: &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL, Setpgid: true},
	}
	if err := n.Namespace.Start(cmd); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, ended: make(chan struct{})}
	n.process = p
	go func() { // ends with the process
		p.err = cmd.Wait()
		n.mu.Lock()
		defer n.mu.Unlock()
		n.past.CPU += cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
		close(p.ended)
	}()
	return p, nil
}

func (p *process) over() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// watch tells when the process ends unasked.
func (v *Venue) watch(n *node, p *process) {
	<-p.ended
	n.mu.Lock()
	asked := p.asked
	n.mu.Unlock()
	if asked {
		return
	}
	select {
	case v.down <- Death{Node: n.name, Err: n.ending(p)}:
	default: // nobody reads: 64 deaths are waiting already
	}
}

// Down gets a value for each node that ended by itself after it was ready; at most 64 wait
// to be read, later ones are lost. It is never closed.
func (v *Venue) Down() <-chan Death { return v.down }

// Kill ends the node's process by SIGKILL, as a power cut would, and returns when it is gone.
func (v *Venue) Kill(name string) error {
	n, err := v.node(name)
	if err != nil {
		return err
	}
	n.change.Lock()
	defer n.change.Unlock()
	if !n.signal(unix.SIGKILL) {
		return fmt.Errorf("kill node %s: it is not running", name)
	}
	<-n.process.ended
	return nil
}

// Stop ends the node's process in order: SIGTERM, and SIGKILL after 10 s, which is an error.
// A node that does not run is stopped already.
func (v *Venue) Stop(name string) error {
	n, err := v.node(name)
	if err != nil {
		return err
	}
	n.change.Lock()
	defer n.change.Unlock()
	if !n.signal(unix.SIGTERM) {
		return nil
	}
	select {
	case <-n.process.ended:
		return nil
	case <-time.After(stopDeadline):
	}
	n.signal(unix.SIGKILL)
	<-n.process.ended
	return fmt.Errorf("stop node %s: still running %s after SIGTERM, killed%s", name, stopDeadline, n.lastLines())
}

// signal sends s to the process, after noting what it has used, and tells whether there was
// one. The caller holds change.
func (n *node) signal(s syscall.Signal) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	p := n.process
	if p == nil || p.over() {
		return false
	}
	if u, err := usageOf(p.cmd.Process.Pid); err == nil {
		n.past.PeakRSS = max(n.past.PeakRSS, u.PeakRSS)
	}
	p.asked = true
	p.cmd.Process.Signal(s) // an error means that it has just ended
	return true
}

// ending says how the process ended, for people.
func (n *node) ending(p *process) error {
	how := "exit status 0"
	if p.err != nil {
		how = p.err.Error()
	}
	return fmt.Errorf("the process ended by itself: %s%s", how, n.lastLines())
}

// Log is the path of the file with both output streams of all processes of the node.
func (v *Venue) Log(node string) string {
	if n := v.nodes[node]; n != nil {
		return n.log()
	}
	return ""
}

// lastLines is the end of the node's log, ready to be put behind an error.
func (n *node) lastLines() string {
	const lines, bytes = 10, 4096
	f, err := os.Open(n.log())
	if err != nil {
		return ""
	}
	defer f.Close()
	size, err := f.Seek(0, 2)
	if err != nil {
		return ""
	}
	text := make([]byte, min(size, bytes))
	if _, err := f.ReadAt(text, size-int64(len(text))); err != nil {
		return ""
	}
	all := strings.Split(strings.TrimSpace(string(text)), "\n")
	if all = all[max(0, len(all)-lines):]; len(all) == 1 && all[0] == "" {
		return "; its log is empty (" + n.log() + ")"
	}
	return "; the end of " + n.log() + ":\n\t" + strings.Join(all, "\n\t")
}
