package dhcp

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/hotstage/hotstage/internal/plan"
)

// TestPartnersAreMutual configures every node of plans whose segments pair differently: who
// has a partner is that one's, in the same segments and with each other's parts, and the
// parts of all are disjoint.
func TestPartnersAreMutual(t *testing.T) {
	for _, c := range []struct {
		segments []string // their servers
		pairs    string   // segment:a-b
	}{
		{[]string{"a b", "b c"}, "s0:a-b"},
		{[]string{"b c", "a b"}, "s0:b-c"},
		{[]string{"a b", "a c", "a b"}, "s0:a-b s2:a-b"},
		{[]string{"a b", "b c", "c d"}, "s0:a-b s2:c-d"},
		{[]string{"a b c", "a d", "b c"}, "s1:a-d s2:b-c"},
	} {
		var src strings.Builder
		src.WriteString("event: {name: T, attendees: 5}\nsites: {venue: {uplinks: {isp: {}}}}\nsegments:\n")
		var names []string
		for i, servers := range c.segments {
			fmt.Fprintf(&src, "  s%d: {class: server, ipv4: 10.%d.0.0/24, dhcp: [%s]}\n", i, i+1, strings.ReplaceAll(servers, " ", ", "))
			names = append(names, fmt.Sprintf("s%d", i))
		}
		all := strings.Join(names, ", ")
		fmt.Fprintf(&src, "nodes:\n  gw1: {roles: [router, resolver], interfaces: {eth0: {uplink: isp}, eth1: {trunk: [%s]}}}\n", all)
		nodes := strings.Fields("a b c d")
		for _, n := range nodes {
			fmt.Fprintf(&src, "  %s: {roles: [dhcp], interfaces: {eth0: {trunk: [%s]}}}\n", n, all)
		}
		p, _, faults := plan.Parse([]byte(src.String()), nil)
		if p == nil {
			t.Fatal(faults)
		}
		of := map[string]Config{}
		for _, n := range nodes {
			if cfg, err := Configure(p, n); err == nil {
				of[n] = cfg
			} else if strings.Contains(src.String(), "dhcp: ["+n) {
				t.Fatal(err)
			}
		}
		var pairs []string
		for _, n := range nodes {
			for _, s := range of[n].Segments {
				for _, other := range nodes {
					if i := slices.IndexFunc(of[other].Segments, func(x Segment) bool { return x.Name == s.Name }); i >= 0 && other != n {
						if o := of[other].Segments[i].Pool; s.Pool.Contains(o.From) || s.Pool.Contains(o.To) {
							t.Errorf("%v: %s and %s share addresses of %s", c.segments, n, other, s.Name)
						}
					}
				}
				if s.Partner == nil {
					continue
				}
				x := of[s.Partner.Node]
				i := slices.IndexFunc(x.Segments, func(x Segment) bool { return x.Name == s.Name })
				if of[n].Partner != s.Partner.Node || x.Partner != n || i < 0 || x.Segments[i].Partner == nil || x.Segments[i].Partner.Node != n ||
					x.Segments[i].Partner.Pool != s.Pool || s.Partner.Pool != x.Segments[i].Pool {
					t.Errorf("%v: %s has %+v in %s, and %s has %+v", c.segments, n, s.Partner, s.Name, s.Partner.Node, x)
				}
				if n < s.Partner.Node {
					pairs = append(pairs, s.Name+":"+n+"-"+s.Partner.Node)
				}
			}
		}
		slices.Sort(pairs)
		if got := strings.Join(pairs, " "); got != c.pairs {
			t.Errorf("%v: %s, want %s", c.segments, got, c.pairs)
		}
	}
}
