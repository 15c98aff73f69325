//go:build linux

// Package kernel is the one door to what only Linux can do: namespaces, links, addresses,
// routes, nftables, conntrack and raw frames. Everything here is safe for concurrent use
// unless said otherwise.
package kernel

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"

	"golang.org/x/sys/unix"
)

// Namespace is an anonymous network namespace: it has no name, so no two can collide, and
// the kernel removes it when its last process and handle are gone.
type Namespace struct{ file *os.File }

// NewNamespace makes an empty network namespace (its loopback is down). Needs
// CAP_SYS_ADMIN in the user namespace. The caller closes it.
func NewNamespace() (*Namespace, error) {
	var ns *Namespace
	err := onOwnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare network namespace: %w", err)
		}
		var err error
		ns, err = CurrentNamespace()
		return err
	})
	return ns, err
}

// CurrentNamespace is a handle on the calling thread's network namespace.
func CurrentNamespace() (*Namespace, error) {
	f, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	return &Namespace{file: f}, nil
}

// Close gives the handle back. Sockets and processes keep the namespace alive.
func (n *Namespace) Close() error { return n.file.Close() }

// FD is the handle's descriptor, for netlink calls that move a link here; -1 after Close.
func (n *Namespace) FD() int { return int(n.file.Fd()) }

// Do runs f on a thread that is in the namespace. Sockets that f opens stay there; goroutines
// that f starts do not run there. The thread is given up afterwards. Where a new thread is in
// the namespace already, no privilege is needed.
func (n *Namespace) Do(f func() error) error {
	return onOwnThread(func() error {
		if n.here() {
			return f()
		}
		if err := unix.Setns(n.FD(), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return f()
	})
}

// here tells whether the calling thread is in the namespace.
func (n *Namespace) here() bool {
	now, err := os.Stat("/proc/thread-self/ns/net")
	if err != nil {
		return false
	}
	this, err := n.file.Stat()
	return err == nil && os.SameFile(now, this)
}

// Start starts cmd as a process in the namespace. With SysProcAttr.Pdeathsig set, note that
// the signal is sent when the starting thread ends, so Start keeps that thread until the
// process has exited.
func (n *Namespace) Start(cmd *exec.Cmd) error {
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		if err := unix.Setns(n.FD(), unix.CLONE_NEWNET); err != nil {
			started <- fmt.Errorf("enter network namespace: %w", err)
			return
		}
		err := cmd.Start()
		started <- err
		if err != nil || cmd.SysProcAttr == nil || cmd.SysProcAttr.Pdeathsig == 0 {
			return
		}
		// The process is reaped by the caller's Wait; WNOWAIT leaves it to that.
		for {
			err := unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
			if !errors.Is(err, unix.EINTR) {
				return
			}
		}
	}()
	return <-started
}

// onOwnThread runs f on a thread of its own, which is thrown away afterwards because its
// namespace may have changed.
func onOwnThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- f()
	}()
	return <-done
}
