//go:build linux

package venue

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hotstage/hotstage/internal/plan"
)

// Every example's venue stands, and each node has what its attachments name.
func TestExamplesAreBuilt(t *testing.T) {
	files, err := filepath.Glob("../../../examples/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			src, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			p, _, faults := plan.Parse(src, nil)
			if p == nil {
				t.Fatal(faults)
			}
			start := time.Now()
			v := built(t, p)
			t.Logf("built in %s", time.Since(start).Round(time.Millisecond))
			for _, n := range p.Nodes {
				links := devices(t, v.Namespace(n.Name))
				for _, f := range n.Interfaces {
					if links[f.Name] == "" {
						t.Errorf("node %s has no %s: %v", n.Name, f.Name, links)
					}
				}
				for _, a := range n.Attachments {
					for _, port := range a.Ports {
						if links[port.Device] == "" && (port.Parent == "" || !v.tags) {
							t.Errorf("node %s has no %s: %v", n.Name, port.Device, links)
						}
					}
				}
			}
			for _, s := range p.Segments {
				if len(v.Ports(s.Name)) == 0 {
					t.Errorf("segment %s has no port for devices", s.Name)
				}
			}
			if err := v.StartAll(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}
