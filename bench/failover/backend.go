//go:build linux

package main

import (
	"fmt"
	"net/netip"
	"os"
	"syscall"
	"time"

	"github.com/hotstage/hotstage/bench/rig"
	"github.com/hotstage/hotstage/internal/kernel"
)

// What is measured behind.
const (
	ours    = "hotstage"
	dnsdist = "dnsdist"
)

const (
	backendRate = 1000
	backendTime = 8 * time.Second
	backendWarm = 2 * time.Second // from the first query to the kill
)

// backend is one of two unbounds killed under load: how many queries are lost. No name is
// asked twice, so that no cache helps.
func (b *bench) backend() error {
	fmt.Printf("\nbackend: one of two unbounds killed with -9 under %d queries/s, each of a name of its own\n\n", backendRate)
	systems := []string{ours, dnsdist}
	r := b.report.Part("backend")
	for n := range b.trials {
		for _, sys := range systems {
			b.say("backend, trial %d: %s", n+1, sys)
			if err := b.backendTrial(r, sys); err != nil {
				return fmt.Errorf("%s: %w", sys, err)
			}
		}
	}
	r.Print(os.Stdout, systems)
	b.report.AtMost("failover-backend-lost", r.Median(ours, "lost"), 0)
	return nil
}

func (b *bench) backendTrial(r rig.Results, sys string) error {
	if err := b.ctx.Err(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(b.dir, "run")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	all, err := rig.Namespaces(2)
	if err != nil {
		return err
	}
	defer rig.Close(all)
	addr := netip.MustParseAddr("10.56.0.1")
	var own []string
	if sys == dnsdist {
		own = []string{addr.String() + "/24"}
	}
	if err := rig.Join(rig.End{In: all[0], Name: "e0", Addrs: own}, rig.End{In: all[1], Name: "c0", Addrs: []string{"10.56.0.250/24"}}); err != nil {
		return err
	}
	var backends []*rig.Process
	for _, at := range []string{"127.0.0.1@5301", "127.0.0.1@5302"} {
		p, err := rig.Unbound{Listen: []string{at}, Lines: siteZones(), Threads: 1}.Start(all[0], dir)
		if err != nil {
			return err
		}
		defer p.Stop()
		backends = append(backends, p)
	}
	front, addr, err := b.front(sys, all[0], dir, addr)
	if err != nil {
		return err
	}
	defer front.Stop()
	if err := rig.Await(b.ctx, all[1], addr, "first.site.tld", front); err != nil {
		return err
	}
	time.Sleep(time.Second) // both have had their first check
	began := time.Now()
	kill := time.AfterFunc(backendWarm, func() { backends[0].Signal(syscall.SIGKILL) })
	defer kill.Stop()
	queries, err := client{ns: all[1], server: addr, rate: backendRate, most: backendTime, name: func(i int) string { return fmt.Sprintf("q%d.site.tld", i) }}.ask(b.ctx)
	if err != nil {
		return err
	}
	if !backends[0].Ended() {
		return fmt.Errorf("the killed unbound lives")
	}
	r.Add(sys, "lost", float64(lost(queries)))
	r.Add(sys, "sent", float64(len(queries)))
	r.Add(sys, "longest gap from the kill on, ms", outage(queries, began.Add(backendWarm), began.Add(time.Hour)).Seconds()*1e3)
	return nil
}

// front starts what stands before the two unbounds and tells where it answers.
func (b *bench) front(sys string, ns *kernel.Namespace, dir string, addr netip.Addr) (*rig.Process, netip.Addr, error) {
	if sys == dnsdist {
		p, err := rig.Dnsdist{Listen: addr.String() + ":53", Backends: []string{`address="127.0.0.1:5301"`, `address="127.0.0.1:5302"`}}.Start(ns, dir)
		return p, addr, err
	}
	h := &rig.Hotstage{Program: b.hotstage, Dir: dir}
	err := h.Plan(`event: {name: Bench, attendees: 50}
sites: {venue: {uplinks: {isp: {}}}}
segments: {attendee: {ipv4: 10.56.0.0/24}}
resolver: {recursion: ['127.0.0.1:5301', '127.0.0.1:5302'], client_rate: 100000}
nodes:
  gw1: {roles: [router, dhcp], interfaces: {eth0: {uplink: isp}, eth1: {segment: attendee}}}
  srv1: {roles: [resolver], interfaces: {e0: {segment: attendee}}}
`)
	if err != nil {
		return nil, addr, err
	}
	a, err := h.Addr("srv1", "e0")
	if err != nil {
		return nil, addr, err
	}
	p, err := h.Start(ns, "srv1")
	return p, a.Addr(), err
}
