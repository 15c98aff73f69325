package vrrp

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hotstage/hotstage/internal/golden"
	"github.com/hotstage/hotstage/internal/plan"
	"golang.org/x/net/bpf"
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
	if _, err := Configure(&plan.Plan{}, "nobody"); err == nil || !strings.Contains(err.Error(), "nobody") {
		t.Errorf("a node that the plan lacks: %v", err)
	}
}

// The kernel refuses a filter whose jumps lead out of it; one without IPv6 is as well formed.
func TestFilterAssembles(t *testing.T) {
	for _, s := range []Segment{{}, {Addresses: []Address{{Service: node1}}}} {
		if _, err := bpf.NewVM(filter(s)[2:]); err != nil { // a VM knows no VLAN tags
			t.Error(err)
		}
	}
}
