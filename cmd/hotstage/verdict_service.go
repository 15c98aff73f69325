package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/ops/report"
	"github.com/hotstage/hotstage/internal/plan"
)

// tenure is the time in which a node had a service address.
type tenure struct {
	node     string
	from, to time.Time // to is zero: to the end
}

// tenures reads from the nodes' events who had which service address when, in the order of
// time. Those of a process that was killed are gone with it.
func tenures(events []fact.Event) map[string][]tenure {
	all := map[string][]tenure{}
	for _, e := range events {
		_, rest, ok := strings.Cut(e.Words, "service address ")
		address, _, _ := strings.Cut(rest, " ")
		if !ok || e.Task != "vrrp" {
			continue
		}
		switch e.Kind {
		case "vrrp-master":
			all[address] = append(all[address], tenure{node: e.Node, from: e.Time})
		case "vrrp-backup":
			for i := range all[address] {
				if x := &all[address][i]; x.node == e.Node && x.to.IsZero() {
					x.to = e.Time
				}
			}
		}
	}
	return all
}

// serviceChecks says whether each service address was one node's at a time, and how long
// after the kill of a node another had it. It is nil for a plan without.
func (r *rehearsal) serviceChecks(rep *report.Rehearsal) []fact.Check {
	v := r.plan.Resolver.VRRP
	if v == nil {
		return nil
	}
	var bad []string
	for _, e := range rep.Events {
		if e.Kind == "two-masters" {
			bad = append(bad, e.Node+": "+e.Words)
		}
	}
	var longest time.Duration
	for address, all := range tenures(rep.Events) {
		for i, x := range all {
			for _, y := range all[i+1:] {
				if x.node != y.node && (x.to.IsZero() || x.to.Sub(y.from) > v.Interval) {
					bad = append(bad, fmt.Sprintf("%s and %s both had %s from %s on", x.node, y.node, address, y.from.Format("15:04:05.000")))
				}
			}
		}
		longest = max(longest, moved(all, rep.Faults))
	}
	slices.Sort(bad)
	measured := "it was"
	if len(bad) > 0 {
		measured = fmt.Sprintf("%d times it was not", len(bad))
	}
	if slices.ContainsFunc(r.plan.Rehearsal.Faults, func(f plan.RehearsalFault) bool { return f.Kill != "" }) && longest > 0 {
		measured += fmt.Sprintf("; another node had it %v after a kill", longest.Round(time.Millisecond))
	}
	return []fact.Check{{Name: "service-address", Words: "the resolvers' address is one node's at a time", Goal: fmt.Sprintf("two for %v at most", v.Interval),
		Measured: measured, OK: len(bad) == 0, Hint: strings.Join(head(bad, 2), "; ")}}
}

// moved is how long after a node was killed another had the address, at most; 0 when no
// killed node had it.
func moved(all []tenure, faults []report.Fault) (longest time.Duration) {
	for _, f := range faults {
		node, ok := strings.CutPrefix(f.Words, "kill -9 ")
		if !ok {
			continue
		}
		for _, x := range all {
			if after := x.from.Sub(f.Start); x.node != node && after > 0 && (f.End.IsZero() || x.from.Before(f.End)) {
				longest = max(longest, after)
				break
			}
		}
	}
	return longest
}
