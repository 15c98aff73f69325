//go:build linux

package rig

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
)

// Results are the figures of all trials, by figure and system.
type Results map[string]map[string][]float64

// Add notes one trial's figure.
func (r Results) Add(system, figure string, v float64) {
	if r[figure] == nil {
		r[figure] = map[string][]float64{}
	}
	r[figure][system] = append(r[figure][system], v)
}

// Median is the middle of a figure's trials, 0 without any.
func (r Results) Median(system, figure string) float64 { return median(r[figure][system]) }

// Best is the better median of the systems that have the figure: the largest, or with
// smallest the smallest. It is 0 when none has it.
func (r Results) Best(systems []string, figure string, smallest bool) float64 {
	best, found := 0.0, false
	for _, s := range systems {
		if len(r[figure][s]) == 0 {
			continue
		}
		v := r.Median(s, figure)
		if !found || smallest && v < best || !smallest && v > best {
			best, found = v, true
		}
	}
	return best
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	if len(v) == 0 {
		return 0
	}
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// Print writes a table for people: a line per figure, a column per system, each the median
// with the least and the most.
func (r Results) Print(w io.Writer, systems []string) {
	fmt.Fprintf(w, "%-42s", "figure")
	for _, s := range systems {
		fmt.Fprintf(w, "  %-26s", s)
	}
	fmt.Fprintln(w)
	for _, f := range slices.Sorted(maps.Keys(r)) {
		fmt.Fprintf(w, "%-42s", f)
		for _, s := range systems {
			text := "-"
			if v := r[f][s]; len(v) > 0 {
				text = fmt.Sprintf("%s (%s-%s)", short(median(v)), short(slices.Min(v)), short(slices.Max(v)))
			}
			fmt.Fprintf(w, "  %-26s", text)
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintln(w)
}

// short writes a figure with three digits at least, and thousands in full.
func short(v float64) string {
	if v >= 1000 {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}

// Goal is one figure that the system is held to.
type Goal struct {
	Name     string  `json:"name"`
	Measured float64 `json:"measured"`
	Goal     string  `json:"goal"`
	OK       bool    `json:"ok"`
}

// Report collects what a program has measured, part by part.
type Report struct {
	Parts map[string]Results `json:"parts"`
	Goals []Goal             `json:"goals"`
}

// Part is the results of a part, new when there are none.
func (r *Report) Part(name string) Results {
	if r.Parts == nil {
		r.Parts = map[string]Results{}
	}
	if r.Parts[name] == nil {
		r.Parts[name] = Results{}
	}
	return r.Parts[name]
}

// Bar prints and keeps what a goal came to.
func (r *Report) Bar(name string, v float64, goal string, ok bool) {
	r.Goals = append(r.Goals, Goal{name, v, goal, ok})
	fmt.Printf("bar %s measured=%.3g goal=%s %s\n", name, v, goal, map[bool]string{true: "ok", false: "short"}[ok])
}

// AtLeast is a bar that is ok from goal on.
func (r *Report) AtLeast(name string, v, goal float64) {
	r.Bar(name, v, fmt.Sprint(">=", goal), v >= goal)
}

// AtMost is a bar that is ok up to goal.
func (r *Report) AtMost(name string, v, goal float64) {
	r.Bar(name, v, fmt.Sprint("<=", goal), v <= goal)
}

// Write leaves the report as JSON in a file; with no name it does nothing.
func (r *Report) Write(file string) error {
	if file == "" {
		return nil
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o644)
}
