//go:build linux

// Command dns measures the resolver beside unbound, dnsdist with unbound, pdns-recursor and
// knot-resolver: each in a namespace of its own, the clients in another, a root, a tld and a
// site on nsd in a third; all in turn in one run on one machine.
//
//	go run ./bench/dns -hotstage bin/hotstage -part cached,xdp,miss,flood,memory
//
// Part cached is answers from the cache through sockets, beside a bare UDP echo in Go too; xdp
// is the same with ours answering before the socket; miss is names that nobody has asked
// before; flood is a client that asks while another asks as fast as it can; memory is what a
// full cache of 64 MiB takes.
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
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/hotstage/hotstage/bench/rig"
)

func main() {
	log.SetFlags(0)
	hotstage := flag.String("hotstage", "bin/hotstage", "our program")
	trials := flag.Int("trials", 3, "how often each is measured")
	parts := flag.String("part", "cached,xdp,miss,flood,memory", "what is measured, in this order")
	systems := flag.String("systems", strings.Join(peers(), ","), "whom ours is measured beside")
	seconds := flag.Int("seconds", 8, "how long a system is saturated in a trial")
	file := flag.String("json", "", "file that gets every trial and goal as JSON")
	echo := flag.String("echo", "", "be the UDP echo on this address and port, and nothing else")
	blast := flag.String("blast", "", "be the flood, from this address to that (FROM,TO:PORT), and nothing else")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if *echo != "" || *blast != "" {
		if err := be(ctx, *echo, *blast); err != nil {
			log.Fatal(err)
		}
		return
	}
	beside := strings.Split(*systems, ",")
	for _, sys := range beside {
		if !slices.Contains(peers(), sys) { // it would be measured as ours
			log.Fatalf("-systems %s: not a system to be measured beside ours, which is always there; allowed: %s", sys, strings.Join(peers(), ", "))
		}
	}
	if code, again := rig.First(); again {
		os.Exit(code)
	}
	b := &bench{ctx: ctx, trials: max(*trials, 1), seconds: max(*seconds, 1), peers: beside}
	err := b.run(*hotstage, strings.Split(*parts, ","))
	rig.Sweep()
	if err2 := b.report.Write(*file); err == nil {
		err = err2
	}
	if err != nil {
		log.Fatal(err)
	}
}

// be is the program as one of its own servers or clients.
func be(ctx context.Context, echo, blast string) error {
	if echo != "" {
		return runEcho(ctx, echo)
	}
	from, to, ok := strings.Cut(blast, ",")
	if !ok {
		return fmt.Errorf("-blast %s: give FROM,TO:PORT", blast)
	}
	return runBlast(ctx, from, to)
}

type bench struct {
	ctx      context.Context
	dir      string
	hotstage string
	trials   int
	seconds  int
	peers    []string
	auth     *rig.Authority
	report   rig.Report
}

// run measures the parts one after the other.
func (b *bench) run(hotstage string, parts []string) (err error) {
	if err := rig.Need("nsd", "unbound", "dnsdist", "pdns_recursor", "kresd", "dnsperf", "nft"); err != nil {
		return err
	}
	if b.hotstage, err = filepath.Abs(hotstage); err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp("", "bench-dns"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	if err := os.Chmod(b.dir, 0o755); err != nil { // servers that give up root read their files
		return err
	}
	b.say("the zones")
	if b.auth, err = rig.StartAuthority(b.ctx, b.dir); err != nil {
		return err
	}
	defer b.auth.Stop()
	if err := b.writeQueries(); err != nil {
		return err
	}
	fmt.Printf("%s · %s · figures: median (least-most) of %d\n", time.Now().UTC().Format("2006-01-02"), versions(), b.trials)
	for _, part := range parts {
		f := map[string]func() error{"cached": b.cached, "xdp": b.xdp, "miss": b.miss, "flood": b.flood, "memory": b.memory}[part]
		if f == nil {
			return fmt.Errorf("no part %q; allowed: cached, xdp, miss, flood, memory", part)
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

// each runs f for every system in turn, as often as there are trials.
func (b *bench) each(part string, systems []string, f func(sys string, n int) error) error {
	for n := range b.trials {
		for _, sys := range systems {
			b.say("%s, trial %d: %s", part, n+1, sys)
			if err := f(sys, n); err != nil {
				return fmt.Errorf("%s: %w", sys, err)
			}
		}
	}
	return nil
}

// versions are those of the peers.
func versions() string {
	first := func(name string, args ...string) string {
		out, _ := exec.Command(name, args...).CombinedOutput()
		line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
		return line
	}
	recursor := first("pdns_recursor", "--version")
	if i := strings.Index(recursor, "PowerDNS"); i >= 0 {
		recursor = recursor[i:]
	}
	recursor, _, _ = strings.Cut(recursor, " (C)")
	return strings.Join([]string{"unbound " + strings.TrimPrefix(first("unbound", "-V"), "Version "), first("dnsdist", "--version"), recursor, first("kresd", "-V"), first("nsd", "-v")}, ", ")
}
