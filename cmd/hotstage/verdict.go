package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/hotstage/hotstage/internal/control"
	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/lab/crowd"
	"github.com/hotstage/hotstage/internal/ops/report"
	"github.com/hotstage/hotstage/internal/plan"
	"golang.org/x/sys/unix"
)

// What a rehearsal must hold.
const (
	doraGoal   = 50 * time.Millisecond
	memoryGoal = 150 << 20
	// lostGoal is the share of names and flows that may fail: what a retry by the
	// application hides from a person.
	lostGoal = 0.001
)

func host() report.Host {
	h := report.Host{CPUs: runtime.NumCPU(), Root: hostRoot()}
	h.Name, _ = os.Hostname()
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		h.Kernel = unix.ByteSliceToString(u.Sysname[:]) + " " + unix.ByteSliceToString(u.Release[:])
	}
	var m unix.Sysinfo_t
	if unix.Sysinfo(&m) == nil {
		h.Memory = int64(m.Totalram) * int64(m.Unit)
	}
	return h
}

// hostRoot tells whether this is the host's root rather than that of a user namespace,
// whose map of user ids is shorter than all of them.
func hostRoot() bool {
	ids, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && strings.Contains(string(ids), "4294967295") && os.Geteuid() == 0
}

// gather turns what the crowd, the nodes and the internet saw into the report.
func (r *rehearsal) gather(ctx context.Context, rep *report.Rehearsal, res crowd.Result) {
	rep.Devices = res.Devices
	for i := range r.plan.Nodes {
		n := &r.plan.Nodes[i]
		u, err := r.venue.Usage(n.Name)
		if err != nil {
			continue
		}
		node := report.Node{Name: n.Name, RSS: u.RSS, PeakRSS: u.PeakRSS, CPU: report.Seconds(u.CPU)}
		var st status
		if control.Fetch(ctx, filepath.Join(r.dir, n.Name, "state"), "status", &st) != nil {
			r.mute = append(r.mute, n.Name)
		}
		rep.Events = append(rep.Events, st.Events...)
		for _, t := range st.Tasks {
			node.Restarts += t.Restarts
		}
		rep.Nodes = append(rep.Nodes, node)
	}
	slices.SortStableFunc(rep.Events, func(a, b fact.Event) int { return a.Time.Compare(b.Time) })
	r.mu.Lock()
	defer r.mu.Unlock()
	rep.Series = append(slices.Clone(res.Series), r.samples...)
	rep.Faults = r.faults
	rep.Limits = map[string]float64{"napt_sessions": r.naptBudget(rep), "dora_p99_ms": float64(doraGoal.Milliseconds())}
	far := r.internet.Counts()
	rep.Counts = map[string]int64{
		"dhcp_discovers": int64(res.DHCP.Discovers), "dhcp_acks": int64(res.DHCP.Acks), "dhcp_naks": int64(res.DHCP.Naks), "dhcp_retries": int64(res.DHCP.Retries),
		"dns_asked": int64(res.DNS.Asked), "dns_failed": int64(res.DNS.Failed()), "dns_retries": int64(res.DNS.Retries),
		"internet_queries": far.Queries, "internet_datagrams": far.Datagrams, "internet_connections": far.Connections,
		"frames_received": int64(res.Own.Received), "frames_sent": int64(res.Own.Sent), "frames_dropped_by_generator": int64(res.Own.Drops),
	}
	rep.Checks = r.checks(rep, res)
}

func ms(v float64) string { return fmt.Sprintf("%.1f ms", v) }

// checks is the verdict, in the order in which a person asks.
func (r *rehearsal) checks(rep *report.Rehearsal, res crowd.Result) (all []fact.Check) {
	add := func(name, words, goal, measured string, ok bool, hint string) {
		all = append(all, fact.Check{Name: name, Words: words, Goal: goal, Measured: measured, OK: ok, Hint: hint})
	}
	add("addresses", "devices with an address", fmt.Sprintf("all %d", res.Devices), fmt.Sprint(res.Addressed), res.Addressed == res.Devices && res.Devices > 0,
		"look at events pool-full and at the nodes' logs (--keep DIR); first without: "+strings.Join(head(res.Unaddressed, 3), ", "))
	add("duplicates", "addresses that two devices had at once", "none", fmt.Sprint(res.DuplicateCount), res.DuplicateCount == 0, duplicateHint(res.Duplicates))
	goal := fmt.Sprintf("p99 under %v", doraGoal)
	measured := fmt.Sprintf("p50 %s, p99 %s, max %s", ms(res.DORA.P50), ms(res.DORA.P99), ms(res.DORA.Max))
	doraOK := res.DORA.Count > 0 && res.DORA.P99 < float64(doraGoal.Milliseconds())
	if len(r.faults) > 0 { // who comes while the server is dead waits for its retry
		goal, doraOK = "none: a fault was played", res.DORA.Count > 0
	}
	add("dora", "from DISCOVER to ACK", goal, measured, doraOK, "see dora_p99_ms in the report: at which second, and what else happened then")
	add("renewals", "leases renewed", "none refused, none run out", fmt.Sprintf("%d of %d, %d refused, %d ran out", res.Renewals.Acks, res.Renewals.Tried, res.Renewals.Naks, res.Expired),
		res.Renewals.Naks+res.Expired == 0, "refused: a server forgot or gave away leases, its events say why; ran out: no server answered for a whole lease")
	all = append(all, r.scriptChecks(res)...)
	if v6 := res.IPv6; v6.Devices > 0 {
		// Who has just roamed asks anew, which takes two seconds: at the end of the stay at
		// most those who roamed may be without.
		add("ipv6", "devices with an IPv6 address", fmt.Sprintf("all %d", v6.Devices),
			fmt.Sprintf("%d in the end, %d had roamed; RA after p99 %s", v6.Addressed, res.Roamed, ms(v6.RA.P99)),
			v6.Configured >= v6.Devices && v6.Addressed+res.Roamed >= v6.Devices, "look at task ra in the events and logs of the gateway (--keep DIR)")
	}
	d := res.DNS
	add("names", "names resolve", r.lossGoal(), fmt.Sprintf("%d of %d, p99 %s", d.OK, d.Asked, ms(d.Latency.P99)),
		d.OK > 0 && (r.wasCut() || float64(d.Failed()) <= lostGoal*float64(d.Asked)),
		fmt.Sprintf("%d timeouts, %d SERVFAIL, %d NXDOMAIN, %d REFUSED", d.Timeout, d.ServFail, d.NXDomain, d.Refused))
	all = append(all, r.serviceChecks(rep)...)
	all = append(all, r.flowCheck(res))
	all = append(all, r.probeChecks(res)...)
	all = append(all, r.nodeChecks(rep, res)...)
	for i := range all {
		if all[i].OK {
			all[i].Hint = ""
		}
	}
	return all
}

func duplicateHint(all []crowd.Duplicate) string {
	var words []string
	for _, d := range head(all, 2) {
		words = append(words, fmt.Sprintf("%v: %s, then %s (%s)", d.Addr, d.First, d.Second, d.How))
	}
	return strings.Join(words, "; ")
}

func leaseHint(c crowd.Recheck) string {
	switch {
	case c.Asked == 0:
		return "nobody had a lease yet when the node was back: kill it later"
	case c.Lost == 0:
		return "the server did not answer: its events and log say why (--keep DIR)"
	}
	var all []string
	for _, l := range head(c.Losses, 2) {
		now := "was refused"
		if l.Now.IsValid() {
			now = "was given " + l.Now.String()
		}
		all = append(all, fmt.Sprintf("%s had %v and %s", l.MAC, l.Had, now))
	}
	return strings.Join(all, "; ")
}

// unplayed says which faults of the script were not played to their end, and why.
func (r *rehearsal) unplayed() string {
	why := slices.Clone(r.failures)
	if len(r.faults) < len(r.plan.Rehearsal.Faults) {
		why = append(why, "the people left before the last one was played: a longer --stay")
	}
	return strings.Join(why, "; ")
}

// lossGoal is what names and flows must hold.
func (r *rehearsal) lossGoal() string {
	if r.wasCut() {
		return "some: an uplink was cut"
	}
	return fmt.Sprintf("all but %.1f%%", lostGoal*100)
}

func (r *rehearsal) flowCheck(res crowd.Result) fact.Check {
	tried, ok, failed := 0, 0, 0
	var words []string
	for _, k := range []string{"udp", "tcp", "ping", "udp-long", "tcp-long"} {
		f := res.Flows[k]
		tried, ok, failed = tried+f.Tried, ok+f.OK, failed+f.Failed
		if f.Failed > 0 {
			words = append(words, fmt.Sprintf("%s: %d failed of %d", k, f.Failed, f.Tried))
		}
	}
	switch {
	case tried == 0:
		words = append(words, "none was begun: it takes a name that resolves")
	case ok == 0:
		words = append(words, "none came back: look at tasks uplink and napt of the exit")
	}
	return fact.Check{Name: "flows", Words: "flows reach the internet and come back", Goal: r.lossGoal(),
		Measured: fmt.Sprintf("%d did, %d failed, %d still open", ok, failed, tried-ok-failed), OK: ok > 0 && (r.wasCut() || float64(failed) <= lostGoal*float64(tried)), Hint: strings.Join(words, ", ")}
}

// probeChecks sums the isolation up: what is forbidden, what is allowed, and the proof that
// the probes would have been seen.
func (r *rehearsal) probeChecks(res crowd.Result) (all []fact.Check) {
	sum := func(name, words, goal string, wanted func(crowd.ProbeCount) bool) {
		tried, through, ok := 0, 0, true
		var bad []string
		for _, p := range res.Probes {
			if !wanted(p) {
				continue
			}
			tried, through = tried+p.Tried, through+p.Through
			if !p.OK() {
				ok = false
				bad = append(bad, fmt.Sprintf("%s: %d of %d through", p.Words, p.Through, p.Tried))
			}
		}
		if tried == 0 {
			bad = append(bad, "none was tried: a longer --stay, or more --people")
		}
		all = append(all, fact.Check{Name: name, Words: words, Goal: goal, Measured: fmt.Sprintf("%d of %d through", through, tried), OK: ok && tried > 0, Hint: strings.Join(bad, "; ")})
	}
	attendee := func(p crowd.ProbeCount) bool { return strings.HasPrefix(p.Name, "attendee-") }
	sum("isolation-attendees", "attendee to attendee", "none through", func(p crowd.ProbeCount) bool { return !p.Allowed && attendee(p) })
	if slices.ContainsFunc(r.plan.Segments, func(s plan.Segment) bool { return s.Class != plan.Attendee }) {
		sum("isolation-crew", "attendee to management and servers", "none through", func(p crowd.ProbeCount) bool { return !p.Allowed && !attendee(p) })
	}
	sum("isolation-control", "probes that must get through do", "all through", func(p crowd.ProbeCount) bool { return p.Allowed })
	return all
}

// naptBudget is the table that the plan sizes for its people, for those who came.
func (r *rehearsal) naptBudget(rep *report.Rehearsal) float64 {
	return float64(r.plan.NAPT.Table) * float64(rep.People) / float64(r.plan.Event.Attendees)
}

func (r *rehearsal) nodeChecks(rep *report.Rehearsal, res crowd.Result) (all []fact.Check) {
	peak := 0.0
	for _, s := range r.samples {
		if s.Series == "napt_sessions" {
			peak = max(peak, s.Value)
		}
	}
	budget := r.naptBudget(rep)
	all = append(all, fact.Check{Name: "napt", Words: "NAPT table at its fullest", Goal: fmt.Sprintf("under %.0f entries", budget), Measured: fmt.Sprintf("%.0f", peak),
		OK: peak > 0 && peak < budget, Hint: "a shorter timer or a larger table: napt in the plan"})
	var most report.Node
	var restarts int
	for _, n := range rep.Nodes {
		if n.PeakRSS > most.PeakRSS {
			most = n
		}
		restarts += n.Restarts
	}
	all = append(all, fact.Check{Name: "memory", Words: "memory of the largest node", Goal: fmt.Sprintf("under %d MB", memoryGoal>>20), Measured: fmt.Sprintf("%d MB (%s)", most.PeakRSS>>20, most.Name),
		OK: most.PeakRSS > 0 && most.PeakRSS < memoryGoal, Hint: "the report has its curve"})
	unsteady := len(r.deaths) + restarts + len(r.mute)
	all = append(all, fact.Check{Name: "steady", Words: "nodes and tasks that ended by themselves", Goal: "none", Measured: fmt.Sprint(unsteady),
		OK: unsteady == 0, Hint: fmt.Sprintf("%d nodes ended, %d tasks were started again, %d nodes did not answer; keep their logs with --keep DIR", len(r.deaths), restarts, len(r.mute))})
	return append(all, fact.Check{Name: "generator", Words: "frames that the simulation itself lost", Goal: "none", Measured: fmt.Sprint(res.Own.Drops + res.Own.Unsent),
		OK: res.Own.Drops+res.Own.Unsent == 0, Hint: "this machine is too slow or too busy for the scenario: fewer --people or longer --doors"})
}

func head[T any](s []T, n int) []T { return s[:min(n, len(s))] }

// publish prints the verdict and writes the report's files.
func (v *rehearseVerb) publish(rep *report.Rehearsal, s *screen) error {
	if v.Report != "" {
		if err := writeReport(v.Report, rep); err != nil {
			return err
		}
	}
	if v.Output == "json" {
		if err := report.WriteJSON(s.out, rep); err != nil {
			return err
		}
	} else {
		if err := report.WriteVerdict(s.out, rep, color(s.out)); err != nil {
			return err
		}
		if v.Report != "" {
			fmt.Fprintf(s.out, "report: %s\n", filepath.Join(v.Report, "report.html"))
		}
	}
	if !rep.Pass() {
		return exitCode(1)
	}
	return nil
}

func writeReport(dir string, rep *report.Rehearsal) error {
	var text, page bytes.Buffer
	if err := report.WriteJSON(&text, rep); err != nil {
		return err
	}
	if err := report.WriteHTML(&page, rep); err != nil {
		return err
	}
	for name, b := range map[string][]byte{"report.json": text.Bytes(), "report.html": page.Bytes()} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			return fmt.Errorf("write the report: %w", err)
		}
	}
	return nil
}
