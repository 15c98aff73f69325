package main

import (
	"errors"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/lab/crowd"
	"github.com/hotstage/hotstage/internal/lab/venue"
	"github.com/hotstage/hotstage/internal/ops/report"
	"github.com/hotstage/hotstage/internal/plan"
)

// evening is a rehearsal in which all went well, for a test to spoil.
type evening struct {
	r   rehearsal
	rep report.Rehearsal
	res crowd.Result
}

func goodEvening(t *testing.T) *evening {
	t.Helper()
	src, err := os.ReadFile("../../examples/smallest.yaml")
	if err != nil {
		t.Fatal(err)
	}
	p, _, faults := plan.Parse(src, nil)
	if p == nil {
		t.Fatal(faults)
	}
	p.Rehearsal.Faults = []plan.RehearsalFault{{At: time.Second, Kill: "gw1", For: time.Second}, {At: 9 * time.Second, Outage: true, For: 5 * time.Second},
		{At: 20 * time.Second, Silence: netip.MustParseAddr("9.9.9.9"), For: 5 * time.Second}}
	begun := time.Unix(1e9, 0)
	e := &evening{r: rehearsal{plan: p, played: 3, faults: []report.Fault{{Words: "kill -9 gw1", End: begun}, {Words: "outage", End: begun.Add(14 * time.Second)},
		{Words: faultWords(p.Rehearsal.Faults[2]), Start: begun.Add(30 * time.Second), End: begun.Add(35 * time.Second)}}}}
	e.r.samples = []fact.Sample{{Series: "napt_sessions", Value: 700}}
	e.rep = report.Rehearsal{People: 50, Nodes: []report.Node{{Name: "gw1", PeakRSS: 30 << 20}}}
	e.res = crowd.Result{Devices: 100, Addressed: 100, Roamed: 3, DORA: crowd.Latency{Count: 100, P50: 1, P99: 3, Max: 4},
		Renewals: crowd.Renewals{Tried: 20, Acks: 20},
		Rechecks: []crowd.Recheck{{Asked: 80, Kept: 79, Left: 1}},
		Outages:  []crowd.Outage{{Devices: 100, Bound: 100, Took: 6 * time.Second}},
		Series: []fact.Sample{{Time: begun.Add(2 * time.Second), Series: "errors", Value: 7}, {Time: begun.Add(3 * time.Second), Series: "errors"},
			{Time: begun.Add(16 * time.Second), Series: "errors"}, {Time: begun.Add(32 * time.Second), Series: "errors"}, {Time: begun.Add(36 * time.Second), Series: "errors"}},
		IPv6:  crowd.IPv6{Devices: 100, Addressed: 98, Solicitations: 103, Configured: 101},
		DNS:   crowd.DNS{Asked: 2000, OK: 1999, Timeout: 1},
		Flows: crowd.FlowCounts{"udp": {Tried: 1000, OK: 999, Failed: 1}, "tcp-long": {Tried: 50, OK: 10}},
		Probes: []crowd.ProbeCount{{Name: "attendee-direct-v4", Tried: 20}, {Name: "management-v4", Tried: 20},
			{Name: "gateway-v4", Allowed: true, Tried: 20, Through: 20}}}
	return e
}

// Each check of the verdict must be able to fail, alone, and must say then what to do.
func TestEveryCheckCanFail(t *testing.T) {
	spoil := []struct {
		check, how string
		spoil      func(*evening)
	}{
		{"addresses", "a device without", func(e *evening) { e.res.Addressed--; e.res.Unaddressed = []string{"02:00:00:00:00:01"} }},
		{"duplicates", "one address twice", func(e *evening) { e.res.DuplicateCount, e.res.Duplicates = 1, make([]crowd.Duplicate, 1) }},
		{"dora", "too slow", func(e *evening) { e.res.DORA.P99 = 50; e.r.faults, e.r.plan.Rehearsal.Faults = nil, nil }},
		{"dora", "none, with a fault", func(e *evening) { e.res.DORA = crowd.Latency{} }},
		{"renewals", "refused", func(e *evening) { e.res.Renewals.Naks = 1 }},
		{"renewals", "nobody answered", func(e *evening) { e.res.Expired = 1 }},
		{"script", "not begun", func(e *evening) { e.r.faults, e.r.played = nil, 0 }},
		{"script", "not ended", func(e *evening) { e.r.played, e.r.failures = 0, []string{"kill gw1: it is not running"} }},
		{"leases-kept", "lost", func(e *evening) {
			e.res.Rechecks[0].Kept--
			e.res.Rechecks[0].Lost, e.res.Rechecks[0].Losses = 1, make([]crowd.Loss, 1)
		}},
		{"leases-kept", "silent", func(e *evening) { e.res.Rechecks[0].Kept--; e.res.Rechecks[0].Silent = 1 }},
		{"leases-kept", "nobody to ask", func(e *evening) { e.res.Rechecks[0] = crowd.Recheck{} }},
		{"outage", "one stays away", func(e *evening) { e.res.Outages[0].Bound-- }},
		{"outage", "too slow", func(e *evening) { e.res.Outages[0].Took = 7 * time.Second }},
		{"recovery", "errors for too long", func(e *evening) { e.res.Series[1].Value = 1 }},
		{"recovery", "errors to the end", func(e *evening) { e.res.Series[2].Value = 1 }},
		{"names-went-on", "somebody noticed a resolver's silence", func(e *evening) { e.res.Series[3].Value = 1 }},
		{"ipv6", "a device without, while others roamed", func(e *evening) { e.res.IPv6.Addressed = 96 }},
		{"ipv6", "none at all", func(e *evening) { e.res.IPv6 = crowd.IPv6{Devices: 100} }},
		{"names", "over one in a thousand", func(e *evening) { e.res.DNS.OK, e.res.DNS.ServFail = 1997, 2 }},
		{"names", "none asked", func(e *evening) { e.res.DNS = crowd.DNS{} }},
		{"flows", "over one in a thousand", func(e *evening) { e.res.Flows["tcp"] = crowd.FlowCount{Tried: 100, OK: 99, Failed: 1} }},
		{"flows", "none came back", func(e *evening) { e.res.Flows = crowd.FlowCounts{"udp-long": {Tried: 10}} }},
		{"isolation-attendees", "one got through", func(e *evening) { e.res.Probes[0].Through = 1 }},
		{"isolation-attendees", "never tried", func(e *evening) { e.res.Probes[0].Tried = 0 }},
		{"isolation-crew", "one got through", func(e *evening) { e.res.Probes[1].Through = 1 }},
		{"isolation-control", "one was stopped", func(e *evening) { e.res.Probes[2].Through-- }},
		{"napt", "over the budget", func(e *evening) { e.r.samples[0].Value = 1e6 }},
		{"napt", "never seen", func(e *evening) { e.r.samples = nil }},
		{"memory", "a large node", func(e *evening) { e.rep.Nodes[0].PeakRSS = 150 << 20 }},
		{"memory", "never seen", func(e *evening) { e.rep.Nodes = nil }},
		{"steady", "a node ended", func(e *evening) { e.r.deaths = []venue.Death{{Node: "gw1", Err: errors.New("killed")}} }},
		{"steady", "a task was started again", func(e *evening) { e.rep.Nodes[0].Restarts = 1 }},
		{"steady", "a node does not answer", func(e *evening) { e.r.mute = []string{"gw1"} }},
		{"generator", "full sockets", func(e *evening) { e.res.Own.Drops = 1 }},
		{"generator", "refused frames", func(e *evening) { e.res.Own.Unsent = 1 }},
	}
	failing := map[string]bool{}
	for _, c := range spoil {
		failing[c.check] = true
		e := goodEvening(t)
		c.spoil(e)
		var failed []string
		for _, got := range e.r.checks(&e.rep, e.res) {
			if !got.OK {
				failed = append(failed, got.Name)
				if strings.Trim(got.Hint, "[] ") == "" {
					t.Errorf("%s, %s: no hint", c.check, c.how)
				}
			}
		}
		if d := cmp.Diff([]string{c.check}, failed); d != "" {
			t.Errorf("%s: failed checks (-want +got):\n%s", c.how, d)
		}
	}
	e := goodEvening(t)
	for _, got := range e.r.checks(&e.rep, e.res) {
		if !got.OK || got.Hint != "" {
			t.Errorf("nothing is spoilt: %+v", got)
		}
		if !failing[got.Name] {
			t.Errorf("no case makes check %s fail", got.Name)
		}
	}
}

// Where there is no segment but the attendees', nobody can be kept out of one.
func TestNoCrewNoCheck(t *testing.T) {
	e := goodEvening(t)
	e.r.plan.Segments = slices.DeleteFunc(e.r.plan.Segments, func(s plan.Segment) bool { return s.Class != plan.Attendee })
	e.res.Probes[1].Tried = 0
	for _, c := range e.r.checks(&e.rep, e.res) {
		if c.Name == "isolation-crew" || !c.OK {
			t.Errorf("%+v", c)
		}
	}
}

func TestRehearseFlags(t *testing.T) {
	for _, c := range []struct {
		flags rehearseVerb
		want  string
	}{
		{rehearseVerb{People: -1}, "can't be negative"},
		{rehearseVerb{Kill: []string{"gw1"}}, "want NODE@TIME such as gw1@30s"},
		{rehearseVerb{Kill: []string{"gw2@3s"}}, "there are: gw1"},
		{rehearseVerb{Kill: []string{"gw1@-3s"}}, "want NODE@TIME"},
		{rehearseVerb{Cut: []string{"ips@3s"}}, "want UPLINK@TIME such as isp@30s"},
		{rehearseVerb{Doors: 10 * time.Second, Stay: 5 * time.Second, Kill: []string{"gw1@13s"}}, "people begin to leave at 15s"},
	} {
		e := goodEvening(t)
		e.r.plan.Rehearsal.Faults = nil
		if err := c.flags.adapt(e.r.plan); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: got %v, want %q", c.flags, err, c.want)
		}
	}
	e := goodEvening(t)
	e.r.plan.Rehearsal.Faults = e.r.plan.Rehearsal.Faults[:1]
	flags := rehearseVerb{People: 7, Doors: 20 * time.Second, Stay: time.Minute, Seed: 5, Kill: []string{"gw1@9s", "gw1@500ms"}}
	if err := flags.adapt(e.r.plan); err != nil {
		t.Fatal(err)
	}
	want := plan.Rehearsal{People: 7, Doors: 20 * time.Second, Stay: time.Minute, Seed: 5, Faults: []plan.RehearsalFault{
		{At: 500 * time.Millisecond, Kill: "gw1", For: 2 * time.Second}, {At: time.Second, Kill: "gw1", For: time.Second}, {At: 9 * time.Second, Kill: "gw1", For: 2 * time.Second}}}
	if d := cmp.Diff(want, e.r.plan.Rehearsal, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
		t.Errorf("scenario (-want +got):\n%s", d)
	}
}
