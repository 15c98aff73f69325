//go:build linux

package napt

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/plan"
	"github.com/hotstage/hotstage/internal/testnet"
)

func TestConfigureExamples(t *testing.T) {
	testnet.Examples(t, "", Configure)
	if _, err := Configure(&plan.Plan{}, "gw9"); err == nil || !strings.Contains(err.Error(), `"gw9"`) {
		t.Errorf("error %v does not name the node", err)
	}
}

func TestRanges(t *testing.T) {
	var all []netip.Addr
	for _, s := range []string{"198.51.100.3", "198.51.100.1", "198.51.100.2", "203.0.113.9", "198.51.100.2", "198.51.100.5"} {
		all = append(all, netip.MustParseAddr(s))
	}
	var got []string
	for _, r := range ranges(all) {
		got = append(got, r.From.String()+"-"+r.To.String())
	}
	want := []string{"198.51.100.1-198.51.100.3", "198.51.100.5-198.51.100.5", "203.0.113.9-203.0.113.9"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("ranges (-want +got):\n%s", diff)
	}
}

func TestLevels(t *testing.T) {
	var l levels
	var got []string
	for _, percent := range []int{0, 49, 50, 51, 46, 51, 44, 50, 90, 84, 86, 79, 86, 0, 100} {
		if e, ok := l.passed(percent*10, 1000); ok {
			got = append(got, e.Kind+" "+string(e.Severity))
		} else {
			got = append(got, "")
		}
	}
	over50, over85 := "table-over-50 "+string(fact.Info), "table-over-85 "+string(fact.Alarm)
	want := []string{"", "", over50, "", "", "", "", over50, over85, "", "", "", over85, "", over85}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
	if _, ok := l.passed(1, 0); ok {
		t.Error("a table of unknown size is told of")
	}
}
