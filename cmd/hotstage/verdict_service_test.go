package main

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/ops/report"
	"github.com/hotstage/hotstage/internal/plan"
)

func TestServiceAddressVerdict(t *testing.T) {
	src, err := os.ReadFile("../../examples/janog53.yaml")
	if err != nil {
		t.Fatal(err)
	}
	p, _, faults := plan.Parse(src, nil)
	if p == nil {
		t.Fatal(faults)
	}
	begun := time.Unix(1e9, 0)
	at := func(d time.Duration) time.Time { return begun.Add(d) }
	word := func(d time.Duration, node, kind, tail string) fact.Event {
		return fact.Event{Time: at(d), Node: node, Task: "vrrp", Kind: kind, Words: "This node has the service address 10.53.0.61 of segment attendee" + tail}
	}
	p.Rehearsal.Faults = []plan.RehearsalFault{{Kill: "srv1"}}
	kill := []report.Fault{{Words: "kill -9 srv1", Start: at(10 * time.Second), End: at(12 * time.Second)}}
	good := []fact.Event{
		word(10168*time.Millisecond, "srv2", "vrrp-master", ": nothing was heard."),
		word(13000*time.Millisecond, "srv1", "vrrp-master", ": better."),
		word(13003*time.Millisecond, "srv2", "vrrp-backup", " no more: better."),
	}
	for _, c := range []struct {
		name     string
		events   []fact.Event
		ok       bool
		measured string
	}{
		{"good", good, true, "168ms after a kill"},
		{"both to the end", good[:2], false, "1 times it was not"},
		{"both for a second", append(good[:2:2], word(14*time.Second, "srv2", "vrrp-backup", " no more: better.")), false, "1 times it was not"},
		{"told of", append(good[:3:3], fact.Event{Task: "vrrp", Kind: "two-masters", Words: "both"}), false, "1 times it was not"},
	} {
		r := rehearsal{plan: p}
		all := r.serviceChecks(&report.Rehearsal{Events: c.events, Faults: kill})
		if len(all) != 1 || all[0].OK != c.ok || !strings.Contains(all[0].Measured, c.measured) || !c.ok && all[0].Hint == "" {
			t.Errorf("%s: %+v", c.name, all)
		}
	}
	p.Resolver.VRRP = nil
	if all := (&rehearsal{plan: p}).serviceChecks(&report.Rehearsal{}); all != nil {
		t.Errorf("a plan without: %+v", all)
	}
}
