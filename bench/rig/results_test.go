//go:build linux

package rig

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestResults(t *testing.T) {
	r := Results{}
	for _, v := range []float64{9, 100, 11} {
		r.Add("ours", "answers, /s", 1000*v)
		r.Add("theirs", "answers, /s", v)
	}
	r.Add("other", "answers, /s", 12)
	r.Add("other", "answers, /s", 13)
	got := []float64{r.Median("ours", "answers, /s"), r.Median("other", "answers, /s"), r.Median("nobody", "answers, /s"),
		r.Best([]string{"theirs", "other", "nobody"}, "answers, /s", false), r.Best([]string{"nobody", "other", "theirs"}, "answers, /s", true), r.Best([]string{"nobody"}, "answers, /s", true)}
	if diff := cmp.Diff([]float64{11000, 12.5, 0, 12.5, 11, 0}, got); diff != "" {
		t.Errorf("medians and best (-want +got):\n%s", diff)
	}
	var b strings.Builder
	r.Print(&b, []string{"ours", "nobody", "theirs"})
	want := []string{"answers, /s", "11000 (9000-100000)", "-", "11 (9-100)"}
	lines := strings.Split(b.String(), "\n")
	var cells []string
	for _, c := range strings.Split(lines[1], "  ") {
		if c = strings.TrimSpace(c); c != "" {
			cells = append(cells, c)
		}
	}
	if diff := cmp.Diff(want, cells); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
}

// TestReport: a file has every trial and every goal.
func TestReport(t *testing.T) {
	var r Report
	r.Part("cached").Add("ours", "answers, /s", 3)
	r.Part("cached").Add("ours", "answers, /s", 4)
	r.AtLeast("rate", 0.95, 0.95)
	r.AtMost("cpu", 1.16, 1.15)
	file := filepath.Join(t.TempDir(), "report.json")
	if err := r.Write(file); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var got Report
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	want := Report{
		Parts: map[string]Results{"cached": {"answers, /s": {"ours": {3, 4}}}},
		Goals: []Goal{{"rate", 0.95, ">=0.95", true}, {"cpu", 1.16, "<=1.15", false}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
