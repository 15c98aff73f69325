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
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/hotstage/hotstage/bench/rig"
)

func main() {
	log.SetFlags(0)
	flags := rig.NewFlags("cached,xdp,miss,flood,memory")
	systems := flag.String("systems", strings.Join(peers(), ","), "whom ours is measured beside")
	seconds := flag.Int("seconds", 8, "how long a system is saturated in a trial")
	echo := flag.String("echo", "", "be the UDP echo on this address and port, and nothing else")
	blast := flag.String("blast", "", "be the flood, from this address to that (FROM,TO:PORT), and nothing else")
	flag.Parse()
	if *echo != "" || *blast != "" {
		if err := be(*echo, *blast); err != nil {
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
	flags.Main("dns", func(r *rig.Bench) error {
		b := &bench{Bench: r, seconds: max(*seconds, 1), peers: beside}
		return b.run()
	})
}

// be is the program as one of its own servers or clients.
func be(echo, blast string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
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
	*rig.Bench
	seconds int
	peers   []string
	auth    *rig.Authority
}

// run measures the parts one after the other.
func (b *bench) run() (err error) {
	if err := rig.Need("nsd", "unbound", "dnsdist", "pdns_recursor", "kresd", "dnsperf", "nft"); err != nil {
		return err
	}
	b.Say("the zones")
	if b.auth, err = rig.StartAuthority(b.Ctx, b.Dir); err != nil {
		return err
	}
	defer b.auth.Stop()
	if err := b.writeQueries(); err != nil {
		return err
	}
	return b.Measure(versions(), rig.Part{Name: "cached", Run: b.cached}, rig.Part{Name: "xdp", Run: b.xdp}, rig.Part{Name: "miss", Run: b.miss},
		rig.Part{Name: "flood", Run: b.flood}, rig.Part{Name: "memory", Run: b.memory})
}

// versions are those of the peers.
func versions() string {
	recursor := rig.FirstLine("pdns_recursor", "--version")
	if i := strings.Index(recursor, "PowerDNS"); i >= 0 {
		recursor = recursor[i:]
	}
	recursor, _, _ = strings.Cut(recursor, " (C)")
	return strings.Join([]string{"unbound " + strings.TrimPrefix(rig.FirstLine("unbound", "-V"), "Version "), rig.FirstLine("dnsdist", "--version"), recursor, rig.FirstLine("kresd", "-V"), rig.FirstLine("nsd", "-v")}, ", ")
}
