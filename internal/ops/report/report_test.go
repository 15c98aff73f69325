package report

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/golden"
)

var start = time.Date(2026, 11, 24, 3, 0, 0, 0, time.UTC)

// sample is a rehearsal as janog53 gives it: a rush, a killed node, one failed check.
func sample() *Rehearsal {
	rng := rand.New(rand.NewPCG(1, 2))
	r := &Rehearsal{
		Event: "JANOG53 Meeting 博多", Plan: "examples/janog53.yaml", Hash: strings.Repeat("5e3f", 16), Version: "v0.1.0",
		Start: start, Duration: Seconds(132 * time.Second), Seed: 1, People: 3000, Devices: 6000,
		Host: Host{Name: "rehearsal", Kernel: "Linux 6.18.0", CPUs: 2, Memory: 16 << 30, Root: true},
		Checks: []fact.Check{
			{Name: "all-bound", Words: "every device has an address", Goal: "6,000", Measured: "6,000", OK: true},
			{Name: "no-duplicate", Words: "no two devices have the same address", Goal: "0", Measured: "0", OK: true},
			{Name: "dora-p99", Words: "99 of 100 devices get their address quickly", Goal: "under 50 ms", Measured: "61.2 ms", Hint: "look at the disk of srv1: an ACK waits for it (hotstage status srv1)"},
			{Name: "names", Words: "names resolve", Goal: "over 99.9 %", Measured: "99.98 %", OK: true},
			{Name: "isolation", Words: "attendee cannot reach attendee or management", Goal: "0 of 600 got through", Measured: "0", OK: true},
			{Name: "napt", Words: "NAPT sessions stay within the budget", Goal: "under 75,000", Measured: "31,204", OK: true},
		},
		Gaps:   []Gap{{Words: "802.1Q tags: this kernel has none, so each segment had a link of its own", Hint: "rehearse on a Debian kernel"}},
		Nodes:  []Node{{"gw1", 61 << 20, 74 << 20, Seconds(21 * time.Second), 0}, {"srv1", 48 << 20, 52 << 20, Seconds(9400 * time.Millisecond), 1}, {"srv2", 47 << 20, 51 << 20, Seconds(9100 * time.Millisecond), 0}},
		Counts: map[string]int64{"dhcp_acks": 6312, "dns_queries": 118422, "flows": 41880, "bytes_in": 88123456},
		Limits: map[string]float64{"dora_p99_ms": 50, "napt_sessions": 75000},
		Faults: []Fault{{start.Add(42 * time.Second), start.Add(47 * time.Second), "kill -9 srv1, start it again"}, {start.Add(80 * time.Second), time.Time{}, "resolver 9.9.9.9 silent"}},
	}
	arrived := 0.0
	for i := range 120 {
		at := start.Add(time.Duration(i+10) * time.Second)
		add := func(series string, v float64) {
			r.Series = append(r.Series, fact.Sample{Time: at, Series: series, Value: v})
		}
		come := 0.0
		if i < 60 {
			come = 100 * (1.6 - float64(i)/60*1.2)
		}
		arrived += come
		late := 0.0
		if i >= 32 && i < 38 {
			late = 300
		}
		add("arrivals", come)
		add("bound", math.Max(math.Min(arrived, 6000)-late-20, 0))
		if i < 70 {
			add("dora_p50_ms", 2+rng.Float64())
			add("dora_p99_ms", 8+10*rng.Float64()+late/6)
		}
		add("dns_rate", 1800*math.Min(arrived/6000, 1)+200*rng.Float64())
		add("dns_p99_ms", 3+4*rng.Float64())
		add("napt_sessions", 31000*math.Min(arrived/6000, 1)+500*rng.Float64())
		add("flows", 300+100*rng.Float64())
		add("errors", late/50)
		add("arp_replies", float64(i%7))
	}
	for i := range 5 {
		r.Events = append(r.Events, fact.Event{Time: start.Add(time.Duration(4+20*i) * time.Second), Node: "srv1", Task: "dhcp", Kind: "started", Severity: []fact.Severity{fact.Info, fact.Warning, fact.Alarm}[i%3], Words: "serves 8,126 addresses of attendee"})
	}
	return r
}

func TestJSON(t *testing.T) {
	r := sample()
	r.Series, r.Events = r.Series[:2], r.Events[:1]
	var b bytes.Buffer
	if err := WriteJSON(&b, r); err != nil {
		t.Fatal(err)
	}
	golden.Compare(t, "report.json", b.Bytes())
	var back Rehearsal
	if err := json.Unmarshal(b.Bytes(), &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(r, &back); diff != "" {
		t.Errorf("read back (-want +got)\n%s", diff)
	}
	b.Reset()
	if err := WriteJSON(&b, &Rehearsal{}); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(b.String(), "null") || !strings.Contains(b.String(), `"pass": false`) {
		t.Errorf("an empty rehearsal:\n%s", b.String())
	}
}

func TestVerdict(t *testing.T) {
	r := sample()
	r.Checks = append(r.Checks, fact.Check{Words: "日本語の名前が並ぶ", Goal: "はい", Measured: "はい", OK: true})
	for name, color := range map[string]bool{"verdict.txt": false, "verdict-color.txt": true} {
		var b bytes.Buffer
		if err := WriteVerdict(&b, r, color); err != nil {
			t.Fatal(err)
		}
		golden.Compare(t, name, b.Bytes())
	}
	r.Event, r.Checks = "evil\x1b[2Jname\n", nil
	var b bytes.Buffer
	if err := WriteVerdict(&b, r, false); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(b.String(), "\x1b") || !strings.Contains(b.String(), "FAIL Nothing was checked.") {
		t.Errorf("%q", b.String())
	}
}

func TestPass(t *testing.T) {
	ok, bad := fact.Check{OK: true}, fact.Check{}
	for _, c := range []struct {
		checks []fact.Check
		want   bool
	}{{nil, false}, {[]fact.Check{ok}, true}, {[]fact.Check{ok, ok}, true}, {[]fact.Check{ok, bad}, false}} {
		if got := (&Rehearsal{Checks: c.checks}).Pass(); got != c.want {
			t.Errorf("%v: %v", c.checks, got)
		}
	}
}

// TestPage: the page is whole in itself, its plots are well-formed, and hostile names stay
// text. HOTSTAGE_KEEP=DIR keeps the page for a look.
func TestPage(t *testing.T) {
	r := sample()
	hostile := `</style><script>alert("1")</script>'"&`
	r.Checks[0].Words, r.Faults[0].Words = hostile, hostile
	r.Series = append(r.Series, fact.Sample{Time: start.Add(20 * time.Second), Series: hostile, Value: math.NaN()}, fact.Sample{Time: start.Add(20 * time.Second), Series: hostile, Value: 3})
	page := render(t, r)
	if strings.Contains(page, "<script") {
		t.Error("a name became markup")
	}
	if m := regexp.MustCompile(`(?i)(src|href)="[^#][^"]*"|url\(|@import`).FindString(page); m != "" {
		t.Errorf("the page needs something outside itself: %s", m)
	}
	svgs := regexp.MustCompile(`(?s)<svg.*?</svg>`).FindAllString(page, -1)
	if len(svgs) < 16 {
		t.Errorf("%d drawings", len(svgs))
	}
	for _, svg := range svgs {
		if err := wellFormed(svg); err != nil {
			t.Errorf("%v in %s", err, svg)
		}
		if strings.Contains(svg, "NaN") || strings.Contains(svg, "Inf") {
			t.Errorf("a number got lost: %s", svg)
		}
	}
	if dir := os.Getenv("HOTSTAGE_KEEP"); dir != "" {
		failed := render(t, sample())
		good := sample()
		good.Checks[2].OK, good.Checks[2].Measured = true, "12 ms"
		for name, text := range map[string]string{"failed.html": failed, "passed.html": render(t, good)} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func render(t *testing.T, r *Rehearsal) string {
	t.Helper()
	var b bytes.Buffer
	if err := WriteHTML(&b, r); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func wellFormed(text string) error {
	dec := xml.NewDecoder(strings.NewReader(text))
	for {
		if _, err := dec.Token(); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// TestEmptyPage: nothing was measured, and the page says so.
func TestEmptyPage(t *testing.T) {
	page := render(t, &Rehearsal{Event: "nothing"})
	for _, want := range []string{"✗ FAIL", "Nothing was checked."} {
		if !strings.Contains(page, want) {
			t.Errorf("%q is missing", want)
		}
	}
	for _, heading := range []string{"Over time", "Nodes", "Not rehearsed", "told"} {
		if strings.Contains(page, "<h2>"+heading) {
			t.Errorf("a heading %q above nothing", heading)
		}
	}
}

func TestManyEventsAreBounded(t *testing.T) {
	r := sample()
	for i := range 5000 {
		r.Events = append(r.Events, fact.Event{Time: start.Add(time.Duration(i) * time.Millisecond), Words: fmt.Sprint("event ", i)})
	}
	page := render(t, r)
	if n := strings.Count(page, "event "); n > maxEvents+10 || !strings.Contains(page, "4605 events in the middle") {
		t.Errorf("%d events on the page", n)
	}
}

func TestAxes(t *testing.T) {
	for _, c := range []struct{ most, step, top float64 }{
		{0, 1, 1}, {1, 0.2, 1}, {7, 2, 8}, {50, 10, 50}, {61.2, 20, 80}, {6000, 2000, 6000}, {75000, 20000, 80000}, {0.03, 0.01, 0.03},
	} {
		step, top := niceAxis(c.most)
		if math.Abs(step-c.step) > 1e-9 || math.Abs(top-c.top) > 1e-9 {
			t.Errorf("axis for %g: step %g top %g, want %g %g", c.most, step, top, c.step, c.top)
		}
	}
	for most := 0.001; most < 1e9; most *= 1.37 {
		if step, top := niceAxis(most); top < most*0.999 || top/step > 5.01 || top > most*2.6 {
			t.Errorf("axis for %g: step %g top %g", most, step, top)
		}
	}
}

// TestThinKeepsPeaks: a peak of one sample among many is still drawn.
func TestThinKeepsPeaks(t *testing.T) {
	var points []point
	for i := range 20000 {
		points = append(points, point{float64(i), 1})
	}
	points[12345].value = 99
	kept := thin(points)
	most := 0.0
	for _, p := range kept {
		most = math.Max(most, p.value)
	}
	if len(kept) > maxPoints || most != 99 {
		t.Errorf("%d points, highest %g", len(kept), most)
	}
}

func TestWords(t *testing.T) {
	got := []string{count(0), count(999), count(1000), count(-1234567), value(3), value(3.14159), value(31.4159), value(314159.2), value(math.NaN()), span(3400 * time.Millisecond), span(72 * time.Second), span(3 * time.Minute), plural(1, "person"), plural(3000, "person"), plural(1, "device"), megabytes(74 << 20), megabytes(16 << 30)}
	want := []string{"0", "999", "1,000", "-1,234,567", "3", "3.14", "31.4", "314,159", "–", "3.4 s", "1 min 12 s", "3 min", "1 person", "3,000 people", "1 device", "74 MB", "16 GB"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}
