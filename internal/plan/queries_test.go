package plan

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestBlock(t *testing.T) {
	for _, c := range []struct {
		name, list string
		want       []string
		says       string // a fault's words; with want, a warning's
	}{
		{"names", "[ads.example, Tracker.Test., _sip._tcp.example]", []string{"ads.example", "tracker.test", "_sip._tcp.example"}, ""},
		{"one", "ads.example", []string{"ads.example"}, ""},
		{"a top-level domain", "[zip]", []string{"zip"}, ""},
		{"below the event's own", "[wpad.t.home.arpa]", []string{"wpad.t.home.arpa"}, ""},
		{"none", "[]", nil, ""},
		{"below another", "[ads.example, example]", []string{"ads.example", "example"}, "ads.example is blocked already: it is below example"},
		{"a star", "[\"*.ads.example\"]", nil, "a block has no star"},
		{"no name", "[\"a b\"]", nil, "not a name to block"},
		{"the root", "[\".\"]", nil, "not a name to block"},
		{"twice", "[ads.example, ADS.example]", nil, "blocked twice"},
		{"the event's own", "[t.home.arpa]", nil, "would take the event's own names away"},
		{"above the event's own", "[arpa]", nil, "would take the event's own names away"},
		{"a mapping", "{ads.example: true}", nil, ""},
	} {
		p, _, faults := Parse([]byte(base+"resolver: {block: "+c.list+"}\n"), nil)
		if p == nil && (c.want != nil || c.says == "" && c.name != "a mapping" && c.name != "none") {
			t.Errorf("%s: %v", c.name, faults)
			continue
		}
		if p != nil {
			if d := cmp.Diff(c.want, p.Resolver.Block); d != "" {
				t.Errorf("%s (-want +got):\n%s", c.name, d)
			}
		}
		if c.name == "a mapping" && p != nil {
			t.Error("a mapping is taken for names")
		}
		said := false
		for _, f := range faults {
			said = said || c.says != "" && strings.Contains(f.Words, c.says)
		}
		if said != (c.says != "") {
			t.Errorf("%s: want %q, got %v", c.name, c.says, faults)
		}
	}
}

func TestQueryLog(t *testing.T) {
	for _, c := range []struct {
		text string
		want float64
		says string
	}{
		{"off", 0, ""}, {"10%", .1, ""}, {"0.1%", .001, ""}, {"100%", 1, ""},
		{"on", 0, "not a share of the queries"}, {"0%", 0, "not a share of the queries"}, {"10", 0, "not a share of the queries"}, {"[10%]", 0, "not a share of the queries"},
	} {
		p, _, faults := Parse([]byte(base+"resolver: {log: "+c.text+"}\n"), nil)
		switch {
		case c.says == "" && (p == nil || p.Resolver.Log != c.want):
			t.Errorf("%s: %v", c.text, faults)
		case c.says != "" && (p != nil || len(faults) != 1 || faults[0].Words != c.says || !strings.HasPrefix(faults[0].Allowed, "off, or")):
			t.Errorf("%s: %v", c.text, faults)
		}
	}
}
