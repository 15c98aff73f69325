package resolver

import (
	"strings"
	"testing"

	"github.com/hotstage/hotstage/internal/plan"
	"github.com/hotstage/hotstage/internal/testnet"
)

func TestConfigureExamples(t *testing.T) {
	testnet.Examples(t, plan.RoleResolver, Configure)
}

func TestConfigureFaults(t *testing.T) {
	good := func() *plan.Plan {
		return &plan.Plan{
			Event:    plan.Event{Domain: "yapc.example"},
			Resolver: plan.Resolver{Ask: byUDP(upstreamAddr(1)), Cache: minCache},
			Nodes:    []plan.Node{{Name: "gw1", FQDN: "gw1.yapc.example"}},
		}
	}
	for _, c := range []struct {
		what, node string
		change     func(*plan.Plan)
		want       string
	}{
		{"nothing wrong", "gw1", func(*plan.Plan) {}, ""},
		{"no such node", "gw9", func(*plan.Plan) {}, `no node "gw9"`},
		{"nobody to ask", "gw1", func(p *plan.Plan) { p.Resolver.Ask = nil }, "recursion: unbound}, or [ADDRESS"},
		{"small cache", "gw1", func(p *plan.Plan) { p.Resolver.Cache = 1000 }, "1000 bytes is too small; give it 1048576"},
		{"no name", "gw1", func(p *plan.Plan) { p.Resolver.Names = []plan.Name{{FQDN: "a..b"}} }, `"a..b" is not a DNS name`},
	} {
		p := good()
		c.change(p)
		_, err := Configure(p, c.node)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.what, err, c.want)
		}
	}
}
