//go:build linux

package uplink

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hotstage/hotstage/internal/golden"
	"github.com/hotstage/hotstage/internal/plan"
)

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
		p, _, faults := plan.Parse(src, nil)
		if p == nil {
			t.Fatalf("%s has faults: %v", file, faults)
		}
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
				golden.Compare(t, strings.TrimSuffix(filepath.Base(file), ".yaml")+"_"+n.Name+".json", append(got, '\n'))
			})
		}
	}
	if _, err := Configure(&plan.Plan{}, "gw9"); err == nil || !strings.Contains(err.Error(), `"gw9"`) {
		t.Errorf("error %v does not name the node", err)
	}
}
