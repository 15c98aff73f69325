//go:build linux

// Command failover measures what clients see when something dies: a backend behind ours and
// behind dnsdist, and the node that holds the service address, ours beside keepalived with
// unbound. All in namespaces, in turn in one run on one machine.
//
//	go run ./bench/failover -hotstage bin/hotstage -part backend,address
//
// A client asks at a steady rate, each query from a port of its own, and waits a second for
// an answer. The outage is the time from the last query answered to the next one that is, when
// some in between are lost. An observer asks by ARP all the while who has the service address,
// and counts who says so.
//
// Each figure is the median of several trials with the least and the most. A line "bar" ends
// each goal: what was measured, what it is held to, and ok or short.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/hotstage/hotstage/bench/rig"
)

func main() {
	log.SetFlags(0)
	hotstage := flag.String("hotstage", "bin/hotstage", "our program")
	trials := flag.Int("trials", 3, "how often each is measured")
	parts := flag.String("part", "backend,address", "what is measured, in this order")
	only := flag.String("event", "", "of part address: this event alone (kill, cut, pause or stop)")
	file := flag.String("json", "", "file that gets every trial and goal as JSON")
	flag.Parse()
	if code, again := rig.First(); again {
		os.Exit(code)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	b := &bench{ctx: ctx, trials: max(*trials, 1), only: *only}
	err := b.run(*hotstage, strings.Split(*parts, ","))
	rig.Sweep()
	if err2 := b.report.Write(*file); err == nil {
		err = err2
	}
	if err != nil {
		log.Fatal(err)
	}
}

type bench struct {
	ctx      context.Context
	dir      string
	hotstage string
	trials   int
	only     string
	auth     *rig.Authority // of part backend
	report   rig.Report
}

// run measures the parts one after the other.
func (b *bench) run(hotstage string, parts []string) (err error) {
	if err := rig.Need("unbound", "dnsdist", "keepalived", "nsd"); err != nil {
		return err
	}
	if b.hotstage, err = filepath.Abs(hotstage); err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp("", "bench-failover"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	if err := os.Chmod(b.dir, 0o755); err != nil { // servers that give up root read their files
		return err
	}
	fmt.Printf("%s · %s · figures: median (least-most) of %d\n", time.Now().UTC().Format("2006-01-02"), versions(), b.trials)
	for _, part := range parts {
		f := map[string]func() error{"backend": b.backend, "address": b.address}[part]
		if f == nil {
			return fmt.Errorf("no part %q; allowed: backend, address", part)
		}
		if err := f(); err != nil {
			return fmt.Errorf("%s: %w", part, err)
		}
	}
	return nil
}

// say tells on the side how far the run is.
func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().Format("15:04:05 ")+format+"\n", args...)
}

// versions are those of the peers.
func versions() string {
	first := func(name, arg string) string {
		out, _ := exec.Command(name, arg).CombinedOutput()
		line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
		return line
	}
	return strings.Join([]string{first("keepalived", "-v"), "unbound " + strings.TrimPrefix(first("unbound", "-V"), "Version "), first("dnsdist", "--version")}, ", ")
}

// siteZones makes an unbound answer everything below site.tld itself, and what dnsdist and
// ours ask to see whether a backend is well.
func siteZones() []string {
	return []string{
		`local-zone: "site.tld." redirect`, `local-data: "site.tld. 30 A 192.0.2.80"`,
		`local-zone: "." static`, `local-data: ". 3600 NS a.root-servers.net."`, `local-data: "a.root-servers.net. 3600 A 198.41.0.4"`,
	}
}
