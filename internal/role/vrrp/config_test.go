package vrrp

import (
	"strings"
	"testing"

	"github.com/hotstage/hotstage/internal/plan"
	"github.com/hotstage/hotstage/internal/testnet"
	"golang.org/x/net/bpf"
)

func TestConfigureExamples(t *testing.T) {
	testnet.Examples(t, "", Configure)
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
