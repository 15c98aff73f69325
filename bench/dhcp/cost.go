//go:build linux

package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/hotstage/hotstage/bench/rig"
)

// perSegment is how many leases one segment of the cost's plan has at most; a node's part of
// a pool is at most 262,144 addresses.
const perSegment = 250_000

// cost is what ours takes by the number of leases: to give them, to renew them, to hold them,
// and to start with them.
func (b *bench) cost() error {
	fmt.Print("\ncost by the number of leases, 512 clients at once\n\n")
	sizes, all := []int{1_000, 10_000, 100_000, 1_000_000}, b.Report.Part("cost")
	var names []string
	for _, n := range sizes {
		names = append(names, fmt.Sprint(n))
	}
	for _, n := range sizes {
		for range b.Trials {
			if err := b.costOf(n, all); err != nil {
				return fmt.Errorf("%d leases: %w", n, err)
			}
			if n > 100_000 {
				break // it takes minutes
			}
		}
	}
	all.Print(os.Stdout, names)
	start := all.Median("100000", "start: until the first ACK, s")
	b.Report.Bar("dhcp-start-with-100000-leases-seconds", start, "1", start < 1)
	growth := func(f string) float64 { return all.Median("1000000", f) / all.Median("10000", f) }
	fmt.Printf("CPU an exchange at 1,000,000 leases to that at 10,000: new %.2f, renewed %.2f\n", growth("new: CPU an exchange, us"), growth("renewed: CPU an exchange, us"))
	return nil
}

// costOf measures a server that gets n leases, once.
func (b *bench) costOf(n int, all rig.Results) error {
	dir, err := os.MkdirTemp(b.Dir, "cost")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	segments, name := (n+perSegment-1)/perSegment, fmt.Sprint(n)
	s := &server{}
	defer s.stop()
	if err := s.namespaces(segments, false); err != nil {
		return err
	}
	if err := b.prepareHotstage(s, dir, costPlan(segments, n/segments)); err != nil {
		return err
	}
	if err := s.run(100 * time.Millisecond); err != nil {
		return err
	}
	empty, given := s.resident(), make([]map[uint32][4]byte, segments)
	var fresh, again sum
	for i := range segments {
		given[i] = map[uint32][4]byte{}
		r, err := s.saturate(load{segment: i, prefix: 0x10, most: 5 * time.Minute, clients: n / segments, keep: given[i]})
		if err != nil {
			return err
		}
		fresh.add(r)
	}
	for i := range segments {
		r, err := s.saturate(load{segment: i, prefix: 0x10, most: 5 * time.Minute, has: given[i]})
		if err != nil {
			return err
		}
		again.add(r)
	}
	all.Add(name, "new: CPU an exchange, us", fresh.mean())
	all.Add(name, "renewed: CPU an exchange, us", again.mean())
	all.Add(name, "memory without leases, MB", empty/1e6)
	all.Add(name, "memory with all, MB", s.resident()/1e6)
	all.Add(name, "memory a lease beside the pool's, bytes", (s.resident()-empty)/float64(n))
	s.kill()
	cmd := exec.Command(s.cmd.Path, s.cmd.Args[1:]...)
	cmd.Env, s.cmd = s.cmd.Env, cmd
	begun := time.Now()
	if err := s.run(100 * time.Millisecond); err != nil {
		return err
	}
	all.Add(name, "start: until the first ACK, s", time.Since(begun).Seconds())
	all.Add(name, "start: CPU, s", s.cpu().Seconds())
	all.Add(name, "start: memory then, MB", s.resident()/1e6)
	return nil
}

// sum is the CPU time of several loads.
type sum struct{ acks, cpu float64 }

func (s *sum) add(r rates)   { s.acks, s.cpu = s.acks+r.acks, s.cpu+r.cpu*r.acks }
func (s *sum) mean() float64 { return s.cpu / s.acks }

// costPlan has a pool with some more addresses than leases in each of the segments.
func costPlan(segments, leases int) string {
	var plan, router, server strings.Builder
	plan.WriteString("event: {name: Bench, attendees: 100, devices_per_attendee: 1, sessions_per_attendee: 1}\nsites: {venue: {uplinks: {isp: {}}}}\nnapt: {use: 100%}\nsegments:\n")
	for i := range segments {
		last := 10<<24 | (64+4*i)<<16 | 1<<8 + min(leases+leases/50+1000, 261_800)
		name := "attendee"
		if i > 0 {
			name = fmt.Sprint("hall", i)
		}
		fmt.Fprintf(&plan, "  %s: {ipv4: 10.%d.0.0/14, pool: 10.%[2]d.1.0-%d.%d.%d.%d, relays: [%v]}\n", name, 64+4*i, last>>24, last>>16&255, last>>8&255, last&255, relayAddr(i))
		fmt.Fprintf(&router, "eth%d: {segment: %s}, ", i, name)
		fmt.Fprintf(&server, "v%d: {segment: %s}, ", i, name)
	}
	fmt.Fprintf(&plan, "nodes:\n  gw1: {roles: [router, resolver], interfaces: {%swan: {uplink: isp}}}\n  srv1: {roles: [dhcp], interfaces: {%s}}\n",
		router.String(), strings.TrimSuffix(server.String(), ", "))
	return plan.String()
}
