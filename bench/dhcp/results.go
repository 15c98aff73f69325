//go:build linux

package main

import (
	"fmt"
	"maps"
	"slices"
)

// results are the figures of all trials, by figure and system, in the order of their coming.
type results map[string]map[string][]float64

func (r results) add(sys, figure string, v float64) {
	if r[figure] == nil {
		r[figure] = map[string][]float64{}
	}
	r[figure][sys] = append(r[figure][sys], v)
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	if len(v) == 0 {
		return 0
	}
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

func (r results) print(systems []string) {
	fmt.Printf("%-42s", "figure")
	for _, s := range systems {
		fmt.Printf("  %-26s", s)
	}
	fmt.Println()
	for _, f := range slices.Sorted(maps.Keys(r)) {
		fmt.Printf("%-42s", f)
		for _, s := range systems {
			text := "-"
			if v := r[f][s]; len(v) > 0 {
				text = fmt.Sprintf("%.4g (%.4g-%.4g)", median(v), slices.Min(v), slices.Max(v))
			}
			fmt.Printf("  %-26s", text)
		}
		fmt.Println()
	}
	fmt.Println()
}

// bar says what a goal came to.
func bar(name string, v float64, goal string, ok bool) {
	fmt.Printf("bar %s measured=%.3g goal=%s %s\n", name, v, goal, map[bool]string{true: "ok", false: "short"}[ok])
}

func (r results) diskBars() {
	ratio := func(f string) float64 { return median(r[f]["hotstage"]) / median(r[f]["kea"]) }
	cpu := ratio("3000/s: CPU an exchange, us")
	bar("dhcp-cpu-per-exchange-to-kea", cpu, "0.7", cpu <= 0.7)
	high := ratio("highest by perfdhcp, under 1 % lost, /s")
	bar("dhcp-rate-by-perfdhcp-to-kea", high, "1.3", high >= 1.3)
	sat := ratio("saturated, /s")
	bar("dhcp-rate-saturated-to-kea", sat, "2", sat >= 2)
	p99 := ratio("3000/s: p99, ms")
	bar("dhcp-p99-at-3000-to-kea", p99, "1", p99 <= 1)
	last := median(r["6,000 at once: until the last ACK, s"]["hotstage"])
	bar("dhcp-6000-at-once-seconds", last, "2", last <= 2 && median(r["6,000 at once: without an address"]["hotstage"]) == 0)
	tries := median(r["6,000 at once: most tries of a client"]["hotstage"])
	bar("dhcp-6000-at-once-tries", tries, "2", tries <= 2)
}

// mysqlBars compare ours, with and without sync, with the better of Kea's two.
func (r results) mysqlBars() {
	best := func(f string, better func(a, b float64) float64) float64 {
		return better(median(r[f]["kea mysql"]), median(r[f]["kea mysql 8 threads"]))
	}
	larger, smaller := func(a, b float64) float64 { return max(a, b) }, func(a, b float64) float64 { return min(a, b) }
	for _, s := range []string{"mysql", "sync"} {
		for _, f := range []string{"saturated", "highest by perfdhcp, under 1 % lost"} {
			v := median(r[f+", /s"]["hotstage "+s]) / best(f+", /s", larger)
			bar("dhcp-"+s+"-rate-"+map[bool]string{true: "saturated", false: "by-perfdhcp"}[f == "saturated"]+"-to-kea", v, "5", v >= 5)
		}
		for _, f := range []string{"saturated", "300/s"} {
			v := median(r[f+": CPU an exchange, us"]["hotstage "+s]) / best(f+": CPU an exchange, us", smaller)
			bar("dhcp-"+s+"-cpu-"+map[bool]string{true: "saturated", false: "at-300"}[f == "saturated"]+"-to-kea", v, "0.2", v <= 0.2)
		}
	}
}
