//go:build linux

package segment

import (
	"strings"
	"testing"

	"github.com/hotstage/hotstage/internal/plan"
	"github.com/hotstage/hotstage/internal/testnet"
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
	testnet.Examples(t, "", Configure)
}

func TestConfigureUnknownNode(t *testing.T) {
	if _, err := Configure(&plan.Plan{}, "gw9"); err == nil || !strings.Contains(err.Error(), `"gw9"`) {
		t.Errorf("error %v does not name the node", err)
	}
}
