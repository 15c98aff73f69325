//go:build linux

package rig

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hotstage/hotstage/internal/kernel"
	"golang.org/x/sys/unix"
)

// Process is a server that was started for a measurement. It ends with this program.
type Process struct {
	Pid  int
	cmd  *exec.Cmd
	log  string
	done chan struct{}
}

// Start runs a program in the namespace with both its streams in a file of the directory.
// The caller ends it with Stop.
func Start(ns *kernel.Namespace, dir, name string, args ...string) (*Process, error) {
	out, err := os.CreateTemp(dir, filepath.Base(name)+"-*.log")
	if err != nil {
		return nil, err
	}
	defer out.Close()
	p := &Process{cmd: exec.Command(name, args...), log: out.Name(), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr, p.cmd.Dir = out, out, dir
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := ns.Start(p.cmd); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p.Pid = p.cmd.Process.Pid
	go func() {
		p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// Stop ends the program in order, or after five seconds not so, with those it has started.
func (p *Process) Stop() {
	if p == nil {
		return
	}
	all := p.Tree()
	p.cmd.Process.Signal(syscall.SIGCONT)
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(5 * time.Second):
		for _, pid := range all {
			unix.Kill(pid, unix.SIGKILL)
		}
		<-p.done
	}
}

// Ended tells whether the program is gone.
func (p *Process) Ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Log is the end of what the program has said.
func (p *Process) Log() string {
	text, _ := os.ReadFile(p.log)
	return string(text[max(0, len(text)-2000):])
}

// Tree is the process and all those below it, itself first; empty when it is gone.
func (p *Process) Tree() []int {
	if p.Ended() {
		return nil
	}
	return tree(p.Pid)
}

func tree(pid int) []int {
	all := []int{pid}
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, f := range files {
		text, _ := os.ReadFile(f)
		for _, s := range strings.Fields(string(text)) {
			if child, err := strconv.Atoi(s); err == nil {
				all = append(all, tree(child)...)
			}
		}
	}
	return all
}

// Signal sends the signal to the process and all those below it.
func (p *Process) Signal(s syscall.Signal) {
	for _, pid := range p.Tree() {
		unix.Kill(pid, s)
	}
}

// CPU is the user and system time so far of the process and those below it.
func (p *Process) CPU() time.Duration {
	var d time.Duration
	for _, pid := range p.Tree() {
		d += Spent(pid)
	}
	return d
}

// Resident is the memory that the process alone holds, in bytes.
func (p *Process) Resident() float64 {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Pid))
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	kib, _ := strconv.Atoi(strings.Fields(rest + " 0")[0])
	return float64(kib) * 1024
}

// Spent is a process's user and system time so far, of all its threads.
func Spent(pid int) time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	return ticks(f[11]) + ticks(f[12])
}

// ticks reads a time of /proc; USER_HZ is 100 on Linux.
func ticks(s string) time.Duration {
	n, _ := strconv.ParseInt(s, 10, 64)
	return time.Duration(n) * 10 * time.Millisecond
}

// Machine is the time that all processors together have worked, and the part of it in soft
// interrupts, where the kernel receives packets.
func Machine() (busy, softirq time.Duration) {
	text, _ := os.ReadFile("/proc/stat")
	line, _, _ := strings.Cut(string(text), "\n")
	f := strings.Fields(line) // cpu user nice system idle iowait irq softirq steal …
	if len(f) < 9 {
		return 0, 0
	}
	return ticks(f[1]) + ticks(f[2]) + ticks(f[3]) + ticks(f[6]) + ticks(f[7]), ticks(f[7])
}

// Sweep kills what was started and has outlived its parent, but for the given processes and
// those below them. It is for the end, and for between trials when a server may leave a
// process behind.
func Sweep(keep ...*Process) {
	spared := []int{os.Getpid()}
	for _, p := range keep {
		if p != nil {
			spared = append(spared, p.Tree()...)
		}
	}
	for _, pid := range tree(os.Getpid()) {
		if !slices.Contains(spared, pid) {
			unix.Kill(pid, unix.SIGKILL)
			reap(pid)
		}
	}
}

// reap waits a second at most for a process of ours to be gone. One that Start has started
// is waited for there.
func reap(pid int) {
	for range 100 {
		if n, err := unix.Wait4(pid, nil, unix.WNOHANG, nil); n == pid || err != nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}
