//go:build linux

package main

import (
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/hotstage/hotstage/bench/rig"
)

// The rate at which latency is compared: an hour's peak of a large conference is a tenth.
const steadyRate = 20_000

// cached is answers from the cache through sockets: as many as the machine can, and at a rate
// that it can serve well.
func (b *bench) cached() error {
	fmt.Print("\ncached: answers from the cache, through sockets\n\n")
	systems := append([]string{ours, echo, echoRules}, b.peers...)
	r := b.Report.Part("cached")
	err := b.Each("cached", systems, func(sys string, n int) error {
		return b.cachedTrial(r, sys, options{resolver: b.sockets()})
	})
	if err != nil {
		return err
	}
	r.Print(os.Stdout, systems)
	fmt.Printf("CPU an answer to that of an echo behind the same packet filter: %.3g\n", r.Median(ours, figCPU)/r.Median(echoRules, figCPU))
	b.Report.AtLeast("dns-cached-rate-to-best-peer", r.Median(ours, figRate)/r.Best(b.peers, figRate, false), 0.95)
	b.Report.AtMost("dns-cached-cpu-to-echo", r.Median(ours, figCPU)/r.Median(echo, figCPU), 1.15)
	b.Report.AtMost("dns-p99-at-20000-to-best-peer", r.Median(ours, figP99)/r.Best(b.peers, figP99, true), 1)
	return nil
}

// Names of figures that bars are made of.
const (
	figRate    = "saturated, /s"
	figCPU     = "saturated: CPU an answer, us"
	figMachine = "saturated: machine less generator, us"
	figAverage = "saturated: latency average, ms"
	figP99     = "20000/s: p99, ms"
)

// someone is who is asked in a plan that nobody runs.
const someone = "[127.0.0.1]"

// sockets is the key that keeps our XDP program out, where the program knows it.
func (b *bench) sockets() string {
	if key := "xdp: off"; b.accepts(someone, key) {
		return key
	}
	return ""
}

// cachedTrial measures one system once, warm.
func (b *bench) cachedTrial(r rig.Results, sys string, o options) error {
	s, err := b.start(sys, o)
	if err != nil {
		return err
	}
	defer s.close()
	if !isEcho(sys) {
		if _, err := s.dnsperf("zipf.txt", "-n", "1", "-q", "200"); err != nil {
			return err
		}
	}
	p, err := s.dnsperf("zipf.txt", "-q", "400", "-l", strconv.Itoa(b.seconds))
	if err != nil {
		return err
	}
	r.Add(sys, figRate, p.rate)
	r.Add(sys, "saturated: lost, %", p.lost)
	r.Add(sys, figCPU, p.cpu)
	r.Add(sys, figMachine, p.machine)
	r.Add(sys, figAverage, p.average)
	r.Add(sys, "saturated: latency longest, ms", p.longest)
	r.Add(sys, "saturated: softirq, % of a core", p.softirq)
	cpu, begun := s.cpu(), time.Now()
	t, err := s.probe(load{from: clientAddr, rate: steadyRate, most: 5 * time.Second, wait: patience, ports: 16})
	if err != nil {
		return err
	}
	r.Add(sys, "20000/s: CPU, % of a core", 100*(s.cpu()-cpu).Seconds()/time.Since(begun).Seconds())
	r.Add(sys, "20000/s: p50, ms", t.p50)
	r.Add(sys, figP99, t.p99)
	r.Add(sys, "20000/s: p99.9, ms", t.p999)
	r.Add(sys, "20000/s: longest, ms", t.max)
	r.Add(sys, "20000/s: lost, %", 100*float64(t.lost)/float64(max(t.sent, 1)))
	return nil
}

// xdp is answers from the cache with ours before the socket. The clients' link is alike for
// all.
func (b *bench) xdp() error {
	const key = "xdp: auto"
	if !b.accepts(someone, key) {
		fmt.Printf("\nxdp: not measured: this program's plan has no resolver: {%s}\n", key)
		return nil
	}
	fmt.Print("\nxdp: answers from the cache, ours before the socket; an XDP_PASS at every client's end\n\n")
	systems := append([]string{oursXDP}, b.peers...)
	r := b.Report.Part("xdp")
	err := b.Each("xdp", systems, func(sys string, n int) error {
		return b.cachedTrial(r, sys, options{resolver: key, xdp: true})
	})
	if err != nil {
		return err
	}
	r.Print(os.Stdout, systems)
	b.Report.AtLeast("dns-xdp-rate-to-best-peer", r.Median(oursXDP, figRate)/r.Best(b.peers, figRate, false), 1.4)
	b.Report.AtMost("dns-xdp-machine-cpu-to-best-peer", r.Median(oursXDP, figMachine)/r.Best(b.peers, figMachine, true), 0.5)
	v := r.Median(oursXDP, figAverage) / r.Best(b.peers, figAverage, true)
	b.Report.Bar("dns-xdp-latency-to-best-peer", v, "<0.33", v < 0.33)
	return nil
}

// miss is names that nobody has asked before, each once: ours before an unbound, as dnsdist
// is, and with one of its own where the program knows that.
func (b *bench) miss() error {
	fmt.Printf("\nmiss: %d names once, nothing in the cache\n\n", rig.Misses)
	systems, best := append([]string{ours}, b.peers...), ours
	if b.accepts("unbound", "") {
		systems, best = append([]string{oursChild}, systems...), oursChild
	} else {
		fmt.Printf("%s is not measured: this program's plan has no recursion: unbound\n\n", oursChild)
	}
	r := b.Report.Part("miss")
	err := b.Each("miss", systems, func(sys string, n int) error {
		s, err := b.start(sys, options{resolver: b.sockets()})
		if err != nil {
			return err
		}
		defer s.close()
		before := b.auth.CPU()
		p, err := s.dnsperf("miss.txt", "-q", "200", "-n", "1")
		if err != nil {
			return err
		}
		r.Add(sys, "misses, /s", p.rate)
		r.Add(sys, "lost, %", p.lost)
		r.Add(sys, "CPU an answer, us", p.cpu)
		r.Add(sys, "authority's CPU an answer, us", float64((b.auth.CPU()-before).Microseconds())/p.answers)
		r.Add(sys, "latency average, ms", p.average)
		r.Add(sys, "latency longest, ms", p.longest)
		return nil
	})
	if err != nil {
		return err
	}
	r.Print(os.Stdout, systems)
	if to := r.Median(dnsdist, "misses, /s"); to > 0 {
		b.Report.AtLeast("dns-miss-rate-to-dnsdist", r.Median(best, "misses, /s")/to, 0.95)
	}
	return nil
}

// fillQueries is how many names fill the cache: more than 64 MiB hold.
const fillQueries = 400_000

// memory is what our process takes with its cache full.
func (b *bench) memory() error {
	fmt.Printf("\nmemory: a cache of 64 MiB, full: %d names asked once\n\n", fillQueries)
	r := b.Report.Part("memory")
	err := b.Each("memory", []string{ours}, func(sys string, n int) error {
		s, err := b.start(sys, options{resolver: b.sockets()})
		if err != nil {
			return err
		}
		defer s.close()
		node := s.procs[len(s.procs)-1]
		r.Add(sys, "at the start: MiB", node.Resident()/(1<<20))
		if _, err := s.dnsperf("fill.txt", "-q", "200", "-n", "1"); err != nil {
			return err
		}
		time.Sleep(6 * time.Second) // the gauges are set every five
		entries, err := s.hotstage.Metric("srv1", "hotstage_resolver_cache_answers")
		if err != nil {
			return err
		}
		bytes, err := s.hotstage.Metric("srv1", "hotstage_resolver_cache_bytes")
		if err != nil {
			return err
		}
		r.Add(sys, "full: MiB", node.Resident()/(1<<20))
		r.Add(sys, "full: answers kept", entries)
		r.Add(sys, "full: MiB by the cache's own count", bytes/(1<<20))
		r.Add(sys, "full: bytes an answer, of the process", node.Resident()/entries)
		r.Add(sys, "full: bytes an answer, counted", bytes/entries)
		return nil
	})
	if err != nil {
		return err
	}
	r.Print(os.Stdout, []string{ours})
	b.Report.AtMost("dns-cache-counted-MiB", r.Median(ours, "full: MiB by the cache's own count"), 64)
	return nil
}
