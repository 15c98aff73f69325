//go:build linux

package uplink

import (
	"strings"
	"testing"

	"github.com/hotstage/hotstage/internal/plan"
	"github.com/hotstage/hotstage/internal/testnet"
)

func TestConfigureExamples(t *testing.T) {
	testnet.Examples(t, "", Configure)
	if _, err := Configure(&plan.Plan{}, "gw9"); err == nil || !strings.Contains(err.Error(), `"gw9"`) {
		t.Errorf("error %v does not name the node", err)
	}
}
