//go:build linux

package main

import (
	"fmt"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/hotstage/hotstage/bench/rig"
	"golang.org/x/sys/unix"
)

// Keepalived at its default and at the tenth of it that people set.
const (
	keepalived      = "keepalived 1 s"
	keepalivedTenth = "keepalived 0.1 s"
)

// act is something that happens to the master's node.
type act struct {
	name string
	do   func(*pair) error
}

// event is what happens in one trial, five seconds apart.
type event struct {
	name string
	acts []act
}

// events are a process that dies, a node that cannot be reached, one that hangs, and one that
// is stopped in order. Of ours, which is one process, that one alone is hit; of keepalived all
// its processes are, and its unbound is left in peace as it has no part in them.
func events() []event {
	signal := func(s syscall.Signal) func(*pair) error {
		return func(p *pair) error {
			n := p.nodes[p.master]
			if p.sys == ours {
				return unix.Kill(n.router.Pid, s)
			}
			n.router.Signal(s)
			return nil
		}
	}
	return []event{
		{"kill", []act{{"kill -9", signal(syscall.SIGKILL)}}},
		{"cut", []act{{"link cut", func(p *pair) error { return p.link(false) }}, {"link back", func(p *pair) error { return p.link(true) }}}},
		{"pause", []act{{"pause", signal(syscall.SIGSTOP)}, {"let go", signal(syscall.SIGCONT)}}},
		{"stop", []act{{"clean stop", func(p *pair) error { return unix.Kill(p.nodes[p.master].router.Pid, unix.SIGTERM) }}}},
	}
}

const (
	addressRate = 500
	actEvery    = 5 * time.Second
	firstAct    = time.Second
)

// address is two nodes with one service address, and what happens to the one that has it.
func (b *bench) address() error {
	fmt.Printf("\naddress: two nodes with a service address on a bridge, %d queries/s\n\n", addressRate)
	systems := []string{ours, keepalived, keepalivedTenth}
	if why := b.noService(); why != nil {
		fmt.Printf("%s is not measured: %v\n\n", ours, why)
		systems = systems[1:]
	}
	all := events()
	if b.only != "" {
		all = slices.DeleteFunc(all, func(e event) bool { return e.name != b.only })
		if len(all) == 0 {
			return fmt.Errorf("no event %q; allowed: kill, cut, pause, stop", b.only)
		}
	}
	r := b.Report.Part("address")
	for n := range b.Trials {
		for _, e := range all {
			for _, sys := range systems {
				b.Say("address, trial %d: %s, %s", n+1, e.name, sys)
				if err := b.addressTrial(r, sys, e); err != nil {
					return fmt.Errorf("%s: %s: %w", sys, e.name, err)
				}
			}
		}
	}
	r.Print(os.Stdout, systems)
	if systems[0] == ours {
		b.addressBars(r, all)
	}
	return nil
}

// addressBars hold each event to an outage below 300 ms, and to one advertisement's interval
// (50 ms by default) in which both may have the address.
func (b *bench) addressBars(r rig.Results, all []event) {
	names := map[string]string{"kill -9": "kill", "link cut": "cut", "link back": "back", "pause": "pause", "let go": "let-go", "clean stop": "stop"}
	for _, e := range all {
		for _, a := range e.acts {
			v := r.Median(ours, a.name+": outage, ms")
			b.Report.Bar("failover-"+names[a.name]+"-outage-ms", v, "<300", v < 300)
			b.Report.AtMost("failover-"+names[a.name]+"-both-ms", r.Median(ours, a.name+": both had it, ms"), 50)
		}
	}
}

// addressTrial measures one event once.
func (b *bench) addressTrial(r rig.Results, sys string, e event) error {
	if err := b.Ctx.Err(); err != nil {
		return err
	}
	p, err := b.newPair(sys)
	if err != nil {
		return err
	}
	defer p.close()
	o, err := observe(p.observer, "e0", p.addr)
	if err != nil {
		return err
	}
	defer o.stop()
	if err := p.settle(b.Ctx, o); err != nil {
		return err
	}
	most := firstAct + time.Duration(len(e.acts))*actEvery
	began := time.Now()
	times, acted := make([]time.Time, len(e.acts)), make(chan error, 1)
	go func() { acted <- p.act(b.Ctx, e.acts, began, times) }()
	queries, err := client{ns: p.client, server: p.addr, rate: addressRate, most: most, name: func(int) string { return "www.site.tld" }}.ask(b.Ctx)
	if err2 := <-acted; err == nil {
		err = err2
	}
	if err == nil {
		err = b.Ctx.Err()
	}
	if err != nil {
		return err
	}
	for i, a := range e.acts {
		until := time.Now()
		if i+1 < len(e.acts) {
			until = times[i+1]
		}
		r.Add(sys, a.name+": outage, ms", outage(queries, times[i], until).Seconds()*1e3)
		r.Add(sys, a.name+": lost", float64(lost(slices.DeleteFunc(slices.Clone(queries), func(q asked) bool {
			return q.sent.Before(times[i].Add(-patience)) || !q.sent.Before(until)
		}))))
		r.Add(sys, a.name+": slowest answer, ms", slowest(queries, times[i], until).Seconds()*1e3)
		r.Add(sys, a.name+": both had it, ms", o.twice(times[i], until).Seconds()*1e3)
	}
	return nil
}
