//go:build linux

package venue

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Usage is what the processes of a node have taken of the machine.
type Usage struct {
	RSS     int64         // bytes of memory now; 0 when no process runs
	PeakRSS int64         // the most it had, over all processes of the node
	CPU     time.Duration // user and system time, summed over all processes of the node
}

// Usage reads what the node's processes use. The peak of a process that ended by itself is
// only known as far as Usage was called before.
func (v *Venue) Usage(name string) (Usage, error) {
	n, err := v.node(name)
	if err != nil {
		return Usage{}, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.process == nil || n.process.over() {
		return n.past, nil
	}
	now, err := usageOf(n.process.cmd.Process.Pid)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return n.past, nil // it has ended this moment
	}
	if err != nil {
		return Usage{}, fmt.Errorf("read usage of node %s: %w", name, err)
	}
	n.past.PeakRSS = max(n.past.PeakRSS, now.PeakRSS)
	return Usage{RSS: now.RSS, PeakRSS: n.past.PeakRSS, CPU: n.past.CPU + now.CPU}, nil
}

// tick is the unit of CPU times in /proc: USER_HZ, which is 100 on all of Linux's
// architectures that Go runs on (proc(5), "clock ticks").
const tick = time.Second / 100

// usageOf reads /proc/PID/status and /proc/PID/stat. The kernel's rusage would not do: its
// peak includes that of the process which forked.
func usageOf(pid int) (Usage, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return Usage{}, err
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Usage{}, err
	}
	u := Usage{RSS: kilobytes(status, "VmRSS:"), PeakRSS: kilobytes(status, "VmHWM:")}
	// After the name in parentheses, which may hold anything: state is field 3, utime 14,
	// stime 15.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 13 {
		return Usage{}, fmt.Errorf("/proc/%d/stat has %d fields after the name, want 13 or more", pid, len(fields))
	}
	for _, f := range fields[11:13] {
		ticks, err := strconv.ParseInt(string(f), 10, 64)
		if err != nil {
			return Usage{}, fmt.Errorf("/proc/%d/stat: %w", pid, err)
		}
		u.CPU += time.Duration(ticks) * tick
	}
	return u, nil
}

// kilobytes finds "key: 123 kB" and returns bytes; 0 where it is missing (a zombie has none).
func kilobytes(status []byte, key string) int64 {
	for line := range bytes.Lines(status) {
		if f := bytes.Fields(line); len(f) == 3 && string(f[0]) == key {
			n, _ := strconv.ParseInt(string(f[1]), 10, 64)
			return n << 10
		}
	}
	return 0
}
