package plan

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestPairs: whoever serves with whom in which segments, a partner is always mutual, and each
// segment whose two servers are none is warned about.
func TestPairs(t *testing.T) {
	for _, c := range []struct {
		name     string
		segments []string // the servers of each, in the plan's order
		want     map[string]string
		warned   []string // segments and who was taken
	}{
		{"two everywhere", []string{"a b", "a b"}, map[string]string{"a": "b", "b": "a"}, nil},
		{"the other way round", []string{"a b", "b a"}, map[string]string{"a": "b", "b": "a"}, nil},
		{"a chain of three", []string{"a b", "b c"}, map[string]string{"a": "b", "b": "a"}, []string{"s1: b is one with a"}},
		{"the first of b is c", []string{"b c", "a b"}, map[string]string{"b": "c", "c": "b"}, []string{"s1: b is one with c"}},
		{"a ring of three", []string{"a b", "b c", "c a"}, map[string]string{"a": "b", "b": "a"}, []string{"s1: b is one with a", "s2: a is one with b"}},
		{"two pairs", []string{"a b", "c d"}, map[string]string{"a": "b", "b": "a", "c": "d", "d": "c"}, nil},
		{"a chain of four", []string{"a b", "b c", "c d"}, map[string]string{"a": "b", "b": "a", "c": "d", "d": "c"}, []string{"s1: b is one with a"}},
		{"two pairs crossed", []string{"a b", "c d", "a c", "b d"}, map[string]string{"a": "b", "b": "a", "c": "d", "d": "c"}, []string{"s2: a is one with b", "s3: b is one with a"}},
		{"three in one are none", []string{"a b c", "b c"}, map[string]string{"b": "c", "c": "b"}, nil},
		{"alone", []string{"a", "b"}, map[string]string{}, nil},
	} {
		src := base + "segments:\n"
		for i, servers := range c.segments {
			src += fmt.Sprintf("  s%d: {class: server, ipv4: 10.%d.0.0/24, dhcp: [%s]}\n", i, i+1, strings.ReplaceAll(servers, " ", ", "))
		}
		names := []string{}
		for i := range c.segments {
			names = append(names, fmt.Sprintf("s%d", i))
		}
		all := strings.Join(names, ", ")
		src += fmt.Sprintf("nodes:\n  gw1: {roles: [router, resolver], interfaces: {eth0: {uplink: isp}, eth1: {trunk: [%s]}}}\n", all)
		for _, n := range []string{"a", "b", "c", "d"} {
			src += fmt.Sprintf("  %s: {roles: [dhcp], interfaces: {eth0: {trunk: [%s]}}}\n", n, all)
		}
		p, _, faults := Parse([]byte(src), nil)
		if p == nil {
			t.Fatalf("%s: %v", c.name, faults)
		}
		got := Pairs(p)
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, d)
		}
		for n := range maps.Keys(got) {
			if got[got[n]] != n {
				t.Errorf("%s: %s chose %s, which chose %s", c.name, n, got[n], got[got[n]])
			}
		}
		var warned []string
		for _, f := range faults {
			if _, rest, ok := strings.Cut(f.Words, "which are no pair: "); ok {
				warned = append(warned, strings.Fields(f.Words)[1]+": "+strings.TrimSuffix(strings.SplitN(rest, ";", 2)[0], " already"))
			}
		}
		if d := cmp.Diff(c.warned, warned); d != "" {
			t.Errorf("%s: warnings (-want +got):\n%s", c.name, d)
		}
	}
}
