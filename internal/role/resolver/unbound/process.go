package unbound

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
)

var errMissing = errors.New("unbound is not installed")

// find is the program, which a PATH without sbin does not have.
func find() (string, error) {
	if path, err := exec.LookPath("unbound"); err == nil {
		return path, nil
	}
	for _, path := range []string{"/usr/sbin/unbound", "/usr/local/sbin/unbound", "/sbin/unbound"} {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%w: %s", errMissing, install())
}

// install is the line to type on this system.
func install() string {
	b, err := os.ReadFile("/etc/os-release")
	if err != nil {
		b = nil // the line for an unknown system
	}
	return installOn(string(b))
}

// installOn reads os-release(5). Debian's package starts a daemon of its own, which has no
// work here.
func installOn(release string) string {
	var like string
	for line := range strings.Lines(release) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		if key == "ID" || key == "ID_LIKE" {
			like += " " + strings.Trim(value, `"'`)
		}
	}
	for _, id := range strings.Fields(like) {
		switch id {
		case "debian", "ubuntu":
			return "apt-get install unbound && systemctl disable --now unbound"
		case "fedora", "rhel", "centos":
			return "dnf install unbound"
		case "alpine":
			return "apk add unbound"
		case "arch":
			return "pacman -S unbound"
		}
	}
	return "install the package unbound of this system"
}

var versionLine = regexp.MustCompile(`(?m)^Version (\d+)\.(\d+)\.\S+`)

// versionOf is "unbound 1.17.1" and whether it knows extended errors (since 1.16).
func versionOf(ctx context.Context, path string) (version string, explains bool) {
	ctx, cancel := context.WithTimeout(ctx, stopTime)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "-V").Output()
	m := versionLine.FindSubmatch(out)
	if err != nil || m == nil {
		return "unbound of an unknown version", false
	}
	major, _ := strconv.Atoi(string(m[1]))
	minor, _ := strconv.Atoi(string(m[2]))
	return "unbound " + strings.TrimPrefix(string(m[0]), "Version "), major > 1 || minor >= 16
}

// owner is whom the children run as: the package's user where we are root, else ourselves.
func owner() *syscall.Credential {
	if os.Geteuid() != 0 {
		return nil
	}
	for _, name := range []string{"unbound", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, e1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, e2 := strconv.ParseUint(u.Gid, 10, 32)
		if e1 == nil && e2 == nil && mapped("/proc/self/uid_map", uid) && mapped("/proc/self/gid_map", gid) {
			return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		}
	}
	return nil
}

// mapped tells whether this user namespace has the id (user_namespaces(7)): a rehearsal
// without privilege has one alone.
func mapped(file string, id uint64) bool {
	b, err := os.ReadFile(file)
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		var first, outside, n uint64
		if _, err := fmt.Sscan(line, &first, &outside, &n); err == nil && id >= first && id-first < n {
			return true
		}
	}
	return false
}

// Descriptors that the child gets beside the first three, in this order.
const (
	configFD = 3 + iota
	dirFD
)

// once starts the child and returns why it ended.
func (r *Recursor) once(ctx context.Context, i int) error {
	c := &r.children[i]
	path, err := r.find()
	if err != nil {
		return err
	}
	version, explains := versionOf(ctx, path)
	at, err := r.free()
	if err != nil {
		return err
	}
	cred := owner()
	file, err := r.write(c, at.Port(), explains, cred)
	if err != nil {
		return err
	}
	defer file.Close()
	cmd := exec.CommandContext(ctx, path, "-d", "-p", "-c", fmt.Sprintf("/proc/self/fd/%d", configFD))
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopTime
	cmd.ExtraFiles = []*os.File{file, r.dir}
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	// A group of its own: a terminal's ^C is for us alone. The credentials are set before the
	// signal of the parent's death, which a change of them would clear (prctl(2)).
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL, Credential: cred}
	said, ours, err := os.Pipe()
	if err != nil {
		return err
	}
	defer said.Close()
	cmd.Stdout, cmd.Stderr = ours, ours
	last := &lastWords{}
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		r.listen(said, i, last)
	}()
	err = r.cfg.Within(func() error {
		if err := cmd.Start(); err != nil {
			return err
		}
		c.started(at, cmd.Process.Pid, version)
		r.m.starts.WithLabelValues(c.name).Inc()
		return cmd.Wait() // here: the thread lives as long as the child
	})
	ours.Close()
	<-heard
	if err == nil {
		err = errors.New("it ended by itself")
	}
	if words := last.text(); words != "" {
		return fmt.Errorf("%w; it said: %s", err, words)
	}
	return err
}

func (c *child) started(at netip.AddrPort, pid int, version string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.addr, c.pid, c.version, c.since, c.because = at, pid, version, time.Now(), errStarting
	c.starts++
}

var errStarting = errors.New("starting")

// write makes the child's configuration file and opens it.
func (r *Recursor) write(c *child, port uint16, explains bool, cred *syscall.Credential) (*os.File, error) {
	anchors, err := anchorsIn(r.cfg.Dir)
	if err != nil {
		return nil, err
	}
	cfg := conf{port: port, threads: max(1, runtime.NumCPU()/Children), ipv6: r.cfg.IPv6, explain: explains,
		control: socket(dirFD, c.name), anchors: anchors}
	if _, err := os.Stat(filepath.Join(r.cfg.Dir, hintsFile)); err == nil {
		cfg.hints = fmt.Sprintf("/proc/self/fd/%d/%s", dirFD, hintsFile)
	}
	path := filepath.Join(r.cfg.Dir, c.name+".conf")
	if err := os.WriteFile(path, []byte(cfg.text()), 0o600); err != nil {
		return nil, err
	}
	if cred != nil { // its sockets and files are in the directory
		for _, p := range []string{r.cfg.Dir, path} {
			if err := os.Chown(p, int(cred.Uid), int(cred.Gid)); err != nil {
				return nil, err
			}
		}
	}
	return os.Open(path)
}

// logLine is a line of Unbound's log: "[1732484000] unbound[123:0] error: words".
var logLine = regexp.MustCompile(`^\[\d+\] unbound\[\d+:[^\]]*\] ([\w ]+): (.*)$`)

const (
	mostWords = 4096 // octets of a line
	mostLines = 10   // told per minute and child
	lineTime  = time.Minute
)

// listen reads what the child says until it ends: that it serves, and what is wrong.
func (r *Recursor) listen(said io.Reader, i int, last *lastWords) {
	c := &r.children[i]
	lines := bufio.NewReaderSize(said, mostWords)
	told, since := 0, time.Now()
	for {
		b, cut, err := lines.ReadLine()
		if err != nil {
			return
		}
		b = slices.Clone(b)     // it is the reader's until the next line
		for cut && err == nil { // the rest of a long line
			_, cut, err = lines.ReadLine()
		}
		m := logLine.FindSubmatch(b)
		switch {
		case m == nil:
			last.add(string(b))
			continue
		case string(m[1]) == "info" && strings.HasPrefix(string(m[2]), "start of service"):
			r.serves(c, i)
			continue
		case string(m[1]) == "info", string(m[1]) == "notice", string(m[1]) == "debug":
			continue
		}
		last.add(string(m[2]))
		if time.Since(since) > lineTime {
			told, since = 0, time.Now()
		}
		if told++; told <= mostLines {
			r.tell(fact.Warning, "unbound-says", fmt.Sprintf("%s: %s: %s", c.name, m[1], m[2]))
		}
	}
}

// serves notes that the child answers.
func (r *Recursor) serves(c *child, i int) {
	c.mu.Lock()
	c.because = nil
	again, version := c.starts > 1, c.version
	c.mu.Unlock()
	words := fmt.Sprintf("%s serves (%s).", c.name, version)
	if again {
		words = fmt.Sprintf("%s serves again (%s).", c.name, version)
	}
	r.tell(fact.Info, "unbound-up", words)
	r.begun(i)
}

// lastWords are the last few lines of a child.
type lastWords struct{ lines []string }

func (l *lastWords) add(line string) {
	if line = strings.TrimSpace(line); len(line) > 200 {
		line = line[:200]
	}
	if l.lines = append(l.lines, line); len(l.lines) > 3 {
		l.lines = l.lines[1:]
	}
}

func (l *lastWords) text() string { return strings.Join(l.lines, "; ") }
