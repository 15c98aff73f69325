package report

import (
	"math"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hotstage/hotstage/internal/fact"
)

func at(second int, series string, v float64) fact.Sample {
	return fact.Sample{Time: start.Add(time.Duration(second) * time.Second), Series: series, Value: v}
}

// TestHere: who arrived by then without who left; arrivals are counts of a second each.
func TestHere(t *testing.T) {
	series := map[string][]point{
		"arrivals": {{1, 100}, {2, 50}, {3, 0}, {4, 0}},
		"left":     {{1, 0}, {2, 0}, {3, 20}, {4, 150}},
	}
	here(series)
	if diff := cmp.Diff([]point{{1, 100}, {2, 150}, {3, 130}, {4, 0}}, series["here"], cmp.AllowUnexported(point{})); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

// TestGrouping: series that belong together share a plot with names for people; memory is in
// one plot with the largest node first; what is unknown comes last; zeros are only named.
func TestGrouping(t *testing.T) {
	r := &Rehearsal{Start: start, Limits: map[string]float64{"napt_sessions": 500}}
	for i := 1; i <= 10; i++ {
		r.Series = append(r.Series, at(i, "zebra_count", 4), at(i, "arrivals", 10), at(i, "bound", float64(10*i)), at(i, "left", 0), at(i, "dora_rate", 9),
			at(i, "napt_sessions", float64(30*i)), at(i, "rss_mb_gw1", 20), at(i, "rss_mb_srv1", 30), at(i, "frames_in", 7), at(i, "frames_out", 8), at(i, "errors", 0))
	}
	all, quiet := plots(r)
	var got []string
	for _, p := range all {
		names := p.Title
		for _, l := range p.Lines {
			names += " | " + l.Name + " " + l.Most
		}
		got = append(got, names+unless(p.Limit == "", " | "+p.LimitName+" "+p.Limit))
	}
	want := []string{
		"Devices in the venue | here 100 | with an address 100",
		"Arrivals and addresses given | devices arriving 10 | addresses given 9",
		"NAPT table | in the table 300 | the plan's budget 500",
		"Memory of the nodes | srv1 30 | gw1 20",
		"Frames of the simulated devices | sent 8 | received 7",
		"zebra count | zebra count 4",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if diff := cmp.Diff([]string{"Errors that devices saw"}, quiet); diff != "" {
		t.Errorf("quiet: -want +got\n%s", diff)
	}
}

func unless(not bool, s string) string {
	if not {
		return ""
	}
	return s
}

// TestMemoryOfMany: more nodes than colours are the largest of them.
func TestMemoryOfMany(t *testing.T) {
	series := map[string][]point{}
	for i := range 9 {
		series[memoryPrefix+string(rune('a'+i))] = []point{{1, float64(10 + i)}}
	}
	k := memory(series)
	var got []string
	for _, l := range k.lines {
		got = append(got, l.name)
	}
	if diff := cmp.Diff(strings.Split("ihgfed", ""), got); diff != "" || k.title != "Memory of the largest nodes" {
		t.Errorf("%q -want +got\n%s", k.title, diff)
	}
}

// TestZeroIsWhenTheDoorsOpen: a sample closes a second, so the axis starts one before.
func TestZeroIsWhenTheDoorsOpen(t *testing.T) {
	r := &Rehearsal{Start: start, Series: []fact.Sample{at(12, "bound", 3), at(11, "bound", 2), at(10, "bound", 1), at(11, "errors", 0)}}
	if got := r.zero().Sub(start); got != 9*time.Second {
		t.Errorf("zero at %v, want 9s", got)
	}
	if got := (&Rehearsal{Start: start}).zero(); !got.Equal(start) {
		t.Errorf("without samples zero is %v", got)
	}
}

func TestScale(t *testing.T) {
	near, far := [][]point{{{1, 2}, {2, 40}}}, [][]point{{{1, 1.5}, {2, 0}, {3, 4952}}}
	for name, c := range map[string]struct {
		got   scale
		want  scale
		marks []float64
	}{
		"near":       {newScale(40, near, true), scale{0, 40, 10}, []float64{0, 10, 20, 30, 40}},
		"far":        {newScale(4952, far, true), scale{1, 10000, 0}, []float64{1, 10, 100, 1000, 10000}},
		"far counts": {newScale(4952, far, false), scale{0, 5000, 1000}, []float64{0, 1000, 2000, 3000, 4000, 5000}},
		"nothing":    {newScale(0, nil, true), scale{0, 1, 1}, []float64{0, 1}},
	} {
		if diff := cmp.Diff(c.want, c.got, cmp.AllowUnexported(scale{})); diff != "" {
			t.Errorf("%s: -want +got\n%s", name, diff)
		}
		if diff := cmp.Diff(c.marks, c.got.marks()); diff != "" {
			t.Errorf("%s: -want +got\n%s", name, diff)
		}
		if top, bottom := c.got.y(c.got.top), c.got.y(c.got.bottom); math.Abs(top-plotTop) > 1e-9 || math.Abs(bottom-plotTop-innerHeight) > 1e-9 || c.got.y(-1) != bottom {
			t.Errorf("%s: from %g to %g", name, top, bottom)
		}
	}
}

func TestTotals(t *testing.T) {
	got := totals(map[string]int64{"other_things": 3, "dns_asked": 22305, "dhcp_acks": 7, "a_thing": 1})
	want := []total{{"DHCPACKs received", "7"}, {"questions to the resolvers", "22,305"}, {"a thing", "1"}, {"other things", "3"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

// TestDocument: doc/report.md has every key of report.json, and every series and count that
// the page has words for.
func TestDocument(t *testing.T) {
	src, err := os.ReadFile("../../../doc/report.md")
	if err != nil {
		t.Fatal(err)
	}
	words := regexp.MustCompile("`([a-zA-Z0-9_-]+)`").FindAllStringSubmatch(string(src), -1)
	known := map[string]bool{}
	for _, w := range words {
		known[w[1]] = true
	}
	keys := []string{"format", "pass", "left"}
	for _, v := range []any{Rehearsal{}, Host{}, Gap{}, Node{}, Fault{}, fact.Check{}, fact.Sample{}, fact.Event{}} {
		for _, f := range reflect.VisibleFields(reflect.TypeOf(v)) {
			key, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			keys = append(keys, key)
		}
	}
	for _, k := range append(kinds(), after()...) {
		for _, l := range k.lines {
			if l.series != "here" { // it is made from arrivals and left
				keys = append(keys, l.series)
			}
		}
	}
	for _, key := range slices.Compact(slices.Sorted(slices.Values(keys))) {
		if !known[key] {
			t.Errorf("doc/report.md doesn't explain `%s`", key)
		}
	}
}
