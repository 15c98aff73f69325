//go:build linux

package testnet

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hotstage/hotstage/internal/golden"
	"github.com/hotstage/hotstage/internal/plan"
)

// Examples holds what configure makes of each node of each example plan against the golden file
// PLAN_NODE.json, as JSON. Without a role it is all nodes, else those that have it. The test is
// in a folder three below the repository's, as all roles are.
func Examples[C any](t *testing.T, role plan.Role, configure func(p *plan.Plan, node string) (C, error)) {
	files, err := filepath.Glob("../../../examples/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("examples: %v, %v", files, err)
	}
	for _, file := range files {
		src, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		p, _, faults := plan.Parse(src, nil)
		if p == nil {
			t.Fatalf("%s has faults: %v", file, faults)
		}
		for _, n := range p.Nodes {
			if role != "" && !n.Has(role) {
				continue
			}
			t.Run(filepath.Base(file)+"/"+n.Name, func(t *testing.T) {
				c, err := configure(p, n.Name)
				if err != nil {
					t.Fatal(err)
				}
				got, err := json.MarshalIndent(c, "", "  ")
				if err != nil {
					t.Fatal(err)
				}
				golden.Compare(t, strings.TrimSuffix(filepath.Base(file), ".yaml")+"_"+n.Name+".json", append(got, '\n'))
			})
		}
	}
}
