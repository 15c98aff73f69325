//go:build linux

package venue

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// mark is the environment variable that tells the inner process what it is. Its value is the
// host's limit of neighbours, which cannot be read inside; 0 when it is not known.
const mark = "HOTSTAGE_REHEARSAL"

// lifeline is the inner process's end of a pipe whose other end only the outer one has.
const lifeline = 3

// self is this binary, also when its file has been replaced or is out of a chroot's sight.
const self = "/proc/self/exe"

// Inside tells whether this process is the inner one that Enter makes. What concerns the
// host, such as its limits, is for the outer one to do, before Enter.
func Inside() bool { return os.Getenv(mark) != "" }

// Enter moves the program into namespaces of its own (process ids, mounts, network; users
// too unless it is privileged), so that everything it will start is gone when it ends,
// however it ends.
//
// In the process that the user started, Enter runs this binary once more with the same
// arguments, as the first process of the new namespaces, forwards signals to it, waits, and
// returns its exit code; a signal n that ended it counts as 128+n. Standard streams are passed
// through, except a terminal as input: the inner process is in the background for it.
// In the inner process it returns inside=true; there processes whose parents ended are
// ours, and are reaped with the namespace. It must be called early, and once.
func Enter() (inside bool, exit int, err error) {
	if !Inside() {
		exit, err = enterOuter()
		return false, exit, err
	}
	if os.Getpid() != 1 {
		return false, 0, fmt.Errorf("enter rehearsal: the environment variable %s is set, but this is not the first process of a namespace; unset it", mark)
	}
	if err := enterInner(); err != nil {
		return false, 0, fmt.Errorf("enter rehearsal: %w", err)
	}
	return true, 0, nil
}

func enterOuter() (exit int, err error) {
	privileged, err := mayNamespace()
	if err != nil {
		return 0, err
	}
	ours, theirs, err := os.Pipe()
	if err != nil {
		return 0, fmt.Errorf("enter rehearsal: %w", err)
	}
	// The write end is closed by the kernel when this process ends, not before.
	defer runtime.KeepAlive(theirs)
	cmd := &exec.Cmd{
		Path: self, Args: os.Args,
		Env:   append(os.Environ(), mark+"="+strconv.Itoa(hostNeighbours())),
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		ExtraFiles: []*os.File{ours}, // becomes number 3: lifeline
		SysProcAttr: &syscall.SysProcAttr{
			Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET,
			Pdeathsig:  unix.SIGKILL,
			Setpgid:    true, // the terminal's Ctrl-C reaches us alone; we forward it once
		},
	}
	if isTerminal(os.Stdin) {
		cmd.Stdin = nil
	}
	if !privileged {
		own(cmd.SysProcAttr)
	}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGWINCH)
	defer signal.Stop(signals)
	runtime.LockOSThread() // Pdeathsig means the death of the thread that forked
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("enter rehearsal: make namespaces: %w%s", err, hint(err, privileged))
	}
	ours.Close()
	over := make(chan struct{})
	go func() { // ends with the inner process
		for {
			select {
			case s := <-signals:
				cmd.Process.Signal(s)
			case <-over:
				return
			}
		}
	}()
	err = cmd.Wait()
	close(over)
	var ended *exec.ExitError
	if err != nil && !errors.As(err, &ended) {
		return 0, fmt.Errorf("enter rehearsal: %w", err)
	}
	if s := cmd.ProcessState.Sys().(syscall.WaitStatus); s.Signaled() {
		return 128 + int(s.Signal()), nil
	}
	return cmd.ProcessState.ExitCode(), nil
}

// own adds a user namespace in which the user is root, and nobody else exists.
func own(a *syscall.SysProcAttr) {
	a.Cloneflags |= unix.CLONE_NEWUSER
	a.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
	a.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
}

// enterInner makes the new namespaces usable.
func enterInner() error {
	unix.CloseOnExec(lifeline)
	go func() {
		// Pdeathsig does this too, but is set a moment after the process begins to live.
		os.NewFile(lifeline, "lifeline").Read(make([]byte, 1))
		os.Exit(128 + int(unix.SIGKILL)) // the outer process is gone; all others here end with us
	}()
	err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	if errors.Is(err, unix.EINVAL) { // in a chroot / is no mount; /proc is the one that counts
		err = unix.Mount("", "/proc", "", unix.MS_PRIVATE, "")
	}
	if err != nil {
		return fmt.Errorf("make mounts private: %w%s", err, hint(err, false))
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w; a container that hides parts of /proc does not allow it: run the rehearsal outside of it, or the container as privileged", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find loopback: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set loopback up: %w%s", err, hint(err, false))
	}
	return nil
}

// mayNamespace tells whether this process may make namespaces and links without a user
// namespace of its own.
func mayNamespace() (bool, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false, fmt.Errorf("read capabilities: %w", err)
	}
	const need = 1<<unix.CAP_SYS_ADMIN | 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_NET_RAW
	return data[0].Effective&need == need, nil
}

// hint says what a person can do about an error of making namespaces.
func hint(err error, privileged bool) string {
	switch {
	case errors.Is(err, unix.ENOSPC):
		return "; the limit of namespaces is reached: as root, sysctl -w user.max_user_namespaces=10000 user.max_net_namespaces=10000 user.max_pid_namespaces=10000"
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS):
		return "; this kernel lacks a kind of namespace that is needed (CONFIG_USER_NS, CONFIG_PID_NS, CONFIG_NET_NS)"
	case privileged || !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EACCES):
		return ""
	case readNumber("/proc/sys/kernel/unprivileged_userns_clone") == 0:
		return "; this kernel keeps user namespaces for root: run as root, or, as root, sysctl -w kernel.unprivileged_userns_clone=1"
	case readNumber("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == 1:
		return "; AppArmor keeps user namespaces for root: run as root, or, as root, sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
	}
	return "; user namespaces are not allowed here: run as root, or, in a container, with --privileged"
}

// readNumber reads a file of /proc/sys; -1 when there is none.
func readNumber(path string) int {
	text, err := os.ReadFile(path)
	if err != nil {
		return -1
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return -1
	}
	return n
}

// hostNeighbours is the smaller of the limits of the IPv4 and the IPv6 neighbour table.
func hostNeighbours() int {
	return max(0, min(readNumber("/proc/sys/net/ipv4/neigh/default/gc_thresh3"), readNumber("/proc/sys/net/ipv6/neigh/default/gc_thresh3")))
}

// withoutMark is the environment for a node, which must not know that it is rehearsed.
func withoutMark(env []string) []string {
	var out []string
	for _, e := range env {
		if !strings.HasPrefix(e, mark+"=") {
			out = append(out, e)
		}
	}
	return out
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
