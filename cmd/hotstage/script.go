package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/lab/crowd"
	"github.com/hotstage/hotstage/internal/ops/report"
	"github.com/hotstage/hotstage/internal/plan"
)

// What a script must hold.
const (
	// outageGoal: after an outage all devices ask within 5 s, and two more are given to the
	// last of them.
	outageGoal = 2 * time.Second
	// recoveryGoal is how long after the end of a fault a person may still notice it.
	recoveryGoal = 10 * time.Second
)

// script adds the faults of the flags to the plan's, in the order of their times.
func (v *rehearseVerb) script(p *plan.Plan) error {
	r := &p.Rehearsal
	for _, k := range v.Kill {
		name, at, err := when("kill", "NODE", k, nodeNames(p))
		if err != nil {
			return err
		}
		r.Faults = append(r.Faults, plan.RehearsalFault{At: at, Kill: name, For: 2 * time.Second})
	}
	for _, k := range v.Cut {
		name, at, err := when("cut", "UPLINK", k, uplinkNames(p))
		if err != nil {
			return err
		}
		r.Faults = append(r.Faults, plan.RehearsalFault{At: at, Cut: name, For: 5 * time.Second})
	}
	if v.Outage > 0 {
		r.Faults = append(r.Faults, plan.RehearsalFault{At: v.Outage, Outage: true, For: 5 * time.Second})
	}
	slices.SortStableFunc(r.Faults, func(a, b plan.RehearsalFault) int { return int(a.At - b.At) })
	for _, f := range r.Faults {
		if end := r.Doors + r.Stay; f.At+f.For >= end {
			return fmt.Errorf("%s at %v is over at %v, but people begin to leave at %v (doors %v + stay %v); do it earlier, or give a longer --stay",
				faultWords(f), f.At, f.At+f.For, end, r.Doors, r.Stay)
		}
	}
	return nil
}

// when reads NAME@TIME; what the name is of stands in the error.
func when(flag, what, given string, names []string) (name string, at time.Duration, err error) {
	name, text, _ := strings.Cut(given, "@")
	at, err = time.ParseDuration(text)
	if err != nil || at < 0 || !slices.Contains(names, name) {
		return "", 0, fmt.Errorf("--%s %s: want %s@TIME such as %s@30s; there are: %s", flag, given, what, names[0], strings.Join(names, ", "))
	}
	return name, at, nil
}

func uplinkNames(p *plan.Plan) (names []string) {
	for _, s := range p.Sites {
		for _, u := range s.Uplinks {
			names = append(names, u.Name)
		}
	}
	return names
}

// silenceWords begin those of a resolver's silence.
const silenceWords = "silence of resolver "

func faultWords(f plan.RehearsalFault) string {
	switch {
	case f.Kill != "":
		return "kill -9 " + f.Kill
	case f.Cut != "":
		return "cut of uplink " + f.Cut
	case f.Silence.IsValid():
		return silenceWords + f.Silence.String()
	}
	return "outage of all devices"
}

// breakThings plays the script, one fault after the other. The people stay until the last
// is over.
func (r *rehearsal) breakThings(ctx context.Context) {
	begun := time.Now()
	for _, f := range r.plan.Rehearsal.Faults {
		if !sleep(ctx, time.Until(begun.Add(f.At))) {
			return
		}
		fmt.Fprintf(r.say, "%4.0fs  %s\n", time.Since(begun).Seconds(), faultWords(f))
		fault := report.Fault{Start: time.Now(), Words: faultWords(f)}
		err := r.breakOne(ctx, f)
		fault.End = time.Now()
		if err == nil && f.Kill != "" {
			err = within(ctx, func(ctx context.Context) error { _, err := r.crowd.Recheck(ctx); return err })
		}
		r.mu.Lock()
		r.faults = append(r.faults, fault)
		if err == nil {
			r.played++
		} else {
			r.failures = append(r.failures, fmt.Sprintf("%s: %v", fault.Words, err))
		}
		r.mu.Unlock()
	}
}

// breakOne breaks one thing and mends it. The error says that it was not played to its end.
func (r *rehearsal) breakOne(ctx context.Context, f plan.RehearsalFault) error {
	switch {
	case f.Kill != "":
		if err := r.venue.Kill(f.Kill); err != nil {
			return err
		}
		if !sleep(ctx, f.For) {
			return errors.New("the people left before the node was started again")
		}
		return r.venue.Start(ctx, f.Kill)
	case f.Cut != "":
		_, access := r.venue.Internet()
		for _, a := range access {
			if a.Uplink.Name == f.Cut {
				err := r.internet.Cut(a.Device)
				sleep(ctx, f.For)
				return errors.Join(err, r.internet.Restore(a.Device))
			}
		}
		return fmt.Errorf("no node has the uplink %s", f.Cut)
	case f.Silence.IsValid():
		if err := r.internet.Silence(f.Silence, true); err != nil {
			return err
		}
		sleep(ctx, f.For)
		return r.internet.Silence(f.Silence, false)
	}
	return within(ctx, func(ctx context.Context) error { _, err := r.crowd.Outage(ctx, f.For); return err })
}

// within gives what asks all devices its bound.
func within(ctx context.Context, f func(context.Context) error) error {
	ctx, stop := context.WithTimeout(ctx, recheckTimeout)
	defer stop()
	return f(ctx)
}

// sleep waits, and tells false when ctx ended before.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// wasCut tells whether the script cut an uplink: then some names and flows are lost.
func (r *rehearsal) wasCut() bool {
	return slices.ContainsFunc(r.plan.Rehearsal.Faults, func(f plan.RehearsalFault) bool { return f.Cut != "" })
}

// scriptChecks says whether the faults were played, and what people noticed of them.
func (r *rehearsal) scriptChecks(res crowd.Result) (all []fact.Check) {
	n := len(r.plan.Rehearsal.Faults)
	if n == 0 {
		return nil
	}
	all = append(all, fact.Check{Name: "script", Words: "faults played to their end", Goal: fmt.Sprintf("all %d", n), Measured: fmt.Sprint(r.played), OK: r.played == n, Hint: r.unplayed()})
	for _, c := range res.Rechecks {
		all = append(all, fact.Check{Name: "leases-kept", Words: "leases still their device's after a kill -9", Goal: fmt.Sprintf("all %d", c.Asked-c.Left),
			Measured: fmt.Sprintf("%d kept, %d lost, %d silent", c.Kept, c.Lost, c.Silent), OK: c.Asked > 0 && c.Lost == 0 && c.Silent == 0, Hint: leaseHint(c)})
	}
	for i, o := range res.Outages {
		goal := outageGoal + r.outageFor(i)
		all = append(all, fact.Check{Name: "outage", Words: "devices back after an outage of all", Goal: fmt.Sprintf("all %d within %v", o.Devices-o.Left, goal),
			Measured: fmt.Sprintf("%d after %.1f s, DORA p99 %s", o.Bound, o.Took.Seconds(), ms(o.DORA.P99)),
			OK:       o.Devices > o.Left && o.Bound+o.Left == o.Devices && o.Took < goal, Hint: "see dora_p99_ms in the report"})
	}
	for _, f := range r.faults {
		if strings.HasPrefix(f.Words, silenceWords) {
			n := errorsBetween(res.Series, f.Start, f.End)
			all = append(all, fact.Check{Name: "names-went-on", Words: "errors during " + f.Words, Goal: "none: another resolver answers", Measured: fmt.Sprint(n), OK: n == 0,
				Hint: "give resolver.recursion two resolvers at least, of different operators"})
		}
		took, well := recovered(res.Series, f.End)
		measured := fmt.Sprintf("%.0f s", took.Seconds())
		if !well {
			measured = "never"
		}
		all = append(all, fact.Check{Name: "recovery", Words: "without errors after " + f.Words, Goal: fmt.Sprintf("within %v", recoveryGoal), Measured: measured, OK: well && took < recoveryGoal, Hint: "see errors in the report"})
	}
	return all
}

// outageFor is the time in which the devices of the i-th outage asked.
func (r *rehearsal) outageFor(i int) time.Duration {
	for _, f := range r.plan.Rehearsal.Faults {
		if f.Outage {
			if i == 0 {
				return f.For
			}
			i--
		}
	}
	return 0
}

// recovered is how long after a fault's end the first whole second without an error began;
// false when there was none.
func recovered(series []fact.Sample, end time.Time) (time.Duration, bool) {
	for _, s := range series {
		begun := s.Time.Add(-time.Second)
		if s.Series == "errors" && s.Value == 0 && !begun.Before(end) {
			return begun.Sub(end), true
		}
	}
	return 0, false
}

// errorsBetween adds up what people noticed in the whole seconds between two times.
func errorsBetween(series []fact.Sample, start, end time.Time) (n float64) {
	for _, s := range series {
		if begun := s.Time.Add(-time.Second); s.Series == "errors" && !begun.Before(start) && !s.Time.After(end) {
			n += s.Value
		}
	}
	return n
}
