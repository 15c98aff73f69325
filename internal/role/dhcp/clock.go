package dhcp

import (
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Clock tells both times that a lease has. Now must be monotonic in boot, which counts from
// the machine's start and through suspend; wall may jump and decides nothing while the
// machine runs. Boot names the run of the machine that the boot clock belongs to.
type Clock interface {
	Now() (boot time.Duration, wall time.Time)
	Boot() string
}

type systemClock struct{ boot string }

// SystemClock is the machine's: CLOCK_BOOTTIME and the kernel's boot id. Where the kernel
// does not tell the id, Boot is "" and every restart counts as a reboot; see restore.
func SystemClock() Clock {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return systemClock{}
	}
	return systemClock{boot: strings.TrimSpace(string(b))}
}

func (c systemClock) Boot() string { return c.boot }

func (c systemClock) Now() (time.Duration, time.Time) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		// Linux has had the clock since 2.6.39 and the arguments are constant: it cannot fail.
		panic("dhcp: CLOCK_BOOTTIME: " + err.Error())
	}
	return time.Duration(ts.Nano()), time.Now()
}

// moment is one reading of the clock.
type moment struct {
	boot time.Duration
	wall time.Time
}

func read(c Clock) moment {
	boot, wall := c.Now()
	return moment{boot: boot, wall: wall.Round(0)} // without Go's monotonic reading: wall is for people
}
