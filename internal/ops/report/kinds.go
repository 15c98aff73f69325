package report

import (
	"cmp"
	"math"
	"slices"
	"strings"

	"github.com/hotstage/hotstage/internal/fact"
)

// kind of plot: which series belong together, with their names for people.
type kind struct {
	title, unit string
	limit       string // what the limit of its series is called
	ratio       bool   // drawn on a logarithmic axis when values are far apart
	lines       []curve
}

// curve is a series and its name in the legend.
type curve struct{ series, name string }

// kinds lists the plots in the order of the page: people, addresses, names, the uplink, our
// machines, the simulation itself. What has no samples is left out.
func kinds() []kind {
	return []kind{
		{title: "Devices in the venue", unit: "devices", lines: []curve{{"here", "here"}, {"bound", "with an address"}}},
		{title: "Arrivals and addresses given", unit: "per second", lines: []curve{{"arrivals", "devices arriving"}, {"dora_rate", "addresses given"}}},
		{title: "Time from DISCOVER to ACK", unit: "ms", limit: "goal for p99", ratio: true, lines: []curve{{"dora_p50_ms", "p50"}, {"dora_p99_ms", "p99"}}},
		{title: "Questions to the resolvers", unit: "per second", lines: []curve{{"dns_rate", "questions"}}},
		{title: "Time from question to answer", unit: "ms", limit: "goal for p99", ratio: true, lines: []curve{{"dns_p50_ms", "p50"}, {"dns_p99_ms", "p99"}}},
		{title: "NAPT table", unit: "entries", limit: "the plan's budget", lines: []curve{{"napt_sessions", "in the table"}}},
		{title: "Flows to the internet, open", unit: "flows", lines: []curve{{"flows", "open"}}},
		{title: "Flows to the internet, opened", unit: "per second", lines: []curve{{"flow_rate", "opened"}}},
		{title: "Errors that devices saw", unit: "per second", lines: []curve{{"errors", "errors"}}},
	}
}

// after are the plots below those of kinds.
func after() []kind {
	return []kind{{title: "Frames of the simulated devices", unit: "per second", lines: []curve{{"frames_out", "sent"}, {"frames_in", "received"}}}}
}

// memoryPrefix is followed by a node's name in the series of its resident memory in MB.
const memoryPrefix = "rss_mb_"

// maxLines is how many lines of one plot can be told apart.
const maxLines = 6

// memory puts all nodes into one plot, or those that took most where they are many.
func memory(series map[string][]point) kind {
	k := kind{title: "Memory of the nodes", unit: "MB", limit: "goal"}
	for name := range series {
		if node, ok := strings.CutPrefix(name, memoryPrefix); ok {
			k.lines = append(k.lines, curve{name, node})
		}
	}
	slices.SortFunc(k.lines, func(a, b curve) int {
		return cmp.Or(cmp.Compare(highest(series[b.series]), highest(series[a.series])), cmp.Compare(a.name, b.name))
	})
	if len(k.lines) > maxLines {
		k.title, k.lines = "Memory of the largest nodes", k.lines[:maxLines]
	}
	return k
}

// here adds the devices in the venue: all that arrived until then without those that left.
func here(series map[string][]point) {
	left := series["left"]
	sum := 0.0
	var all []point
	for i, p := range series["arrivals"] {
		sum += p.value
		gone := 0.0
		if i < len(left) {
			gone = left[i].value
		}
		all = append(all, point{p.at, sum - gone})
	}
	if all != nil {
		series["here"] = all
	}
}

// others are series that no plot has, each on its own, sorted.
func others(samples []fact.Sample) []kind {
	known := map[string]bool{"left": true} // it is in here
	for _, k := range slices.Concat(kinds(), after()) {
		for _, l := range k.lines {
			known[l.series] = true
		}
	}
	var all []kind
	for _, s := range samples {
		if !known[s.Series] && !strings.HasPrefix(s.Series, memoryPrefix) {
			known[s.Series] = true
			all = append(all, kind{title: readable(s.Series), lines: []curve{{s.Series, readable(s.Series)}}})
		}
	}
	slices.SortFunc(all, func(a, b kind) int { return strings.Compare(a.title, b.title) })
	return all
}

func highest(points []point) float64 {
	most := 0.0
	for _, p := range points {
		most = math.Max(most, p.value)
	}
	return most
}

// total is a number that was counted, with its name for people.
type total struct{ Name, Value string }

// totals names the counts and puts them in the order of the plots; unknown ones come last.
func totals(counts map[string]int64) (all []total) {
	left := map[string]int64{}
	for key, n := range counts {
		left[key] = n
	}
	for _, known := range [][2]string{
		{"dhcp_discovers", "DHCPDISCOVERs sent"}, {"dhcp_acks", "DHCPACKs received"}, {"dhcp_naks", "DHCPNAKs received"}, {"dhcp_retries", "DHCP messages sent again"},
		{"dns_asked", "questions to the resolvers"}, {"dns_retries", "questions asked again"}, {"dns_failed", "questions without a good answer"},
		{"internet_queries", "questions that reached the internet"}, {"internet_datagrams", "UDP datagrams that reached the internet"}, {"internet_connections", "TCP connections that reached the internet"},
		{"frames_sent", "frames that devices sent"}, {"frames_received", "frames that devices received"}, {"frames_dropped_by_generator", "frames that the simulation lost"},
	} {
		if n, ok := left[known[0]]; ok {
			all = append(all, total{known[1], count(n)})
			delete(left, known[0])
		}
	}
	var rest []total
	for key, n := range left {
		rest = append(rest, total{readable(key), count(n)})
	}
	slices.SortFunc(rest, func(a, b total) int { return strings.Compare(a.Name, b.Name) })
	return append(all, rest...)
}
