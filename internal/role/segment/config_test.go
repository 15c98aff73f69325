//go:build linux

package segment

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hotstage/hotstage/internal/golden"
	"github.com/hotstage/hotstage/internal/plan"
)

// load parses a plan that must be without faults.
func load(t testing.TB, src []byte) *plan.Plan {
	t.Helper()
	p, _, faults := plan.Parse(src, nil)
	if p == nil {
		t.Fatalf("the plan has faults: %v", faults)
	}
	return p
}

func TestConfigureExamples(t *testing.T) {
	files, err := filepath.Glob("../../../examples/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("examples: %v, %v", files, err)
	}
	for _, file := range files {
		src, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		p := load(t, src)
		for _, n := range p.Nodes {
			t.Run(filepath.Base(file)+"/"+n.Name, func(t *testing.T) {
				c, err := Configure(p, n.Name)
				if err != nil {
					t.Fatal(err)
				}
				got, err := json.MarshalIndent(c, "", "  ")
				if err != nil {
					t.Fatal(err)
				}
				name := strings.TrimSuffix(filepath.Base(file), ".yaml") + "_" + n.Name + ".json"
				golden.Compare(t, name, append(got, '\n'))
			})
		}
	}
}

func TestConfigureUnknownNode(t *testing.T) {
	if _, err := Configure(&plan.Plan{}, "gw9"); err == nil || !strings.Contains(err.Error(), `"gw9"`) {
		t.Errorf("error %v does not name the node", err)
	}
}
