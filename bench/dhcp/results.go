//go:build linux

package main

import "github.com/hotstage/hotstage/bench/rig"

// diskBars compare ours with Kea.
func (b *bench) diskBars(r rig.Results) {
	ratio := func(f string) float64 { return r.Median("hotstage", f) / r.Median("kea", f) }
	cpu := ratio("3000/s: CPU an exchange, us")
	b.Report.Bar("dhcp-cpu-per-exchange-to-kea", cpu, "0.7", cpu <= 0.7)
	high := ratio("highest by perfdhcp, under 1 % lost, /s")
	b.Report.Bar("dhcp-rate-by-perfdhcp-to-kea", high, "1.3", high >= 1.3)
	sat := ratio("saturated, /s")
	b.Report.Bar("dhcp-rate-saturated-to-kea", sat, "2", sat >= 2)
	p99 := ratio("3000/s: p99, ms")
	b.Report.Bar("dhcp-p99-at-3000-to-kea", p99, "1", p99 <= 1)
	last := r.Median("hotstage", "6,000 at once: until the last ACK, s")
	b.Report.Bar("dhcp-6000-at-once-seconds", last, "2", last <= 2 && r.Median("hotstage", "6,000 at once: without an address") == 0)
	tries := r.Median("hotstage", "6,000 at once: most tries of a client")
	b.Report.Bar("dhcp-6000-at-once-tries", tries, "2", tries <= 2)
}

// mysqlBars compare ours, with and without sync, with the better of Kea's two.
func (b *bench) mysqlBars(r rig.Results) {
	best := func(f string, better func(a, b float64) float64) float64 {
		return better(r.Median("kea mysql", f), r.Median("kea mysql 8 threads", f))
	}
	larger, smaller := func(a, b float64) float64 { return max(a, b) }, func(a, b float64) float64 { return min(a, b) }
	for _, s := range []string{"mysql", "sync"} {
		for _, f := range []string{"saturated", "highest by perfdhcp, under 1 % lost"} {
			v := r.Median("hotstage "+s, f+", /s") / best(f+", /s", larger)
			b.Report.Bar("dhcp-"+s+"-rate-"+map[bool]string{true: "saturated", false: "by-perfdhcp"}[f == "saturated"]+"-to-kea", v, "5", v >= 5)
		}
		for _, f := range []string{"saturated", "300/s"} {
			v := r.Median("hotstage "+s, f+": CPU an exchange, us") / best(f+": CPU an exchange, us", smaller)
			b.Report.Bar("dhcp-"+s+"-cpu-"+map[bool]string{true: "saturated", false: "at-300"}[f == "saturated"]+"-to-kea", v, "0.2", v <= 0.2)
		}
	}
}
