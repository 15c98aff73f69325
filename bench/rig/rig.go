//go:build linux

// Package rig is what the programs of bench share: namespaces and links, servers that are
// started, watched and ended, the systems that ours is measured beside, and the figures with
// their goals. Nothing of it leaves the machine, and all of it is gone when a program ends.
package rig

import (
	"fmt"
	"log"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// First runs the program once more in a session of its own whose autogroup comes before the
// rest of the machine (sched(7)), so that other work on it takes little from servers and
// load. With again the caller exits with code; else it is the second of the two, which gets the
// signals that end the first.
func First() (code int, again bool) {
	if os.Getenv("BENCH_SESSION") != "" {
		_ = os.WriteFile("/proc/self/autogroup", []byte("-20"), 0) // not every kernel has it
		// Whoever outlives its parent becomes our child, so that Sweep finds it.
		_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
		return 0, false
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), "BENCH_SESSION=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGTERM}
	ends := make(chan os.Signal, 1)
	signal.Notify(ends, os.Interrupt, syscall.SIGTERM)
	if err := cmd.Start(); err != nil {
		log.Fatal(err)
	}
	go func() {
		for s := range ends {
			cmd.Process.Signal(s)
		}
	}()
	if err := cmd.Wait(); cmd.ProcessState == nil {
		log.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), true
}

// packages are Debian's names of the packages that hold the tools.
var packages = map[string]string{
	"dnsdist": "dnsdist", "dnsperf": "dnsperf", "keepalived": "keepalived", "kresd": "knot-resolver", "nft": "nftables",
	"nsd": "nsd", "pdns_recursor": "pdns-recursor", "unbound": "unbound",
}

// Need tells in one error what to install when one of the tools is not there, and that the
// programs of bench run as root.
func Need(tools ...string) error {
	var missing []string
	for _, t := range tools {
		if _, err := exec.LookPath(t); err != nil && !slices.Contains(missing, packages[t]) {
			missing = append(missing, packages[t])
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("programs to measure with are missing; as root: apt-get install --no-install-recommends %s", strings.Join(missing, " "))
	}
	if os.Getuid() != 0 {
		return fmt.Errorf("namespaces, links and port 53 need root; run it with sudo")
	}
	return nil
}
