//go:build linux

package dhcp

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hotstage/hotstage/internal/plan"
	"github.com/hotstage/hotstage/internal/testnet"
)

// TestSquatterOnTheSegment: a machine has an address of the pool by hand. It is named, and
// every other address is given, but not that one.
func TestSquatterOnTheSegment(t *testing.T) {
	node, squatter, client := testnet.Namespace(t), testnet.Namespace(t), testnet.Namespace(t)
	switched(t, []string{"10.1.0.2/16", "10.1.1.3/16", ""}, node, squatter, client)
	var mac string
	testnet.Do(t, squatter, func() error {
		dev, err := net.InterfaceByName("eth0")
		if err == nil {
			mac = dev.HardwareAddr.String()
		}
		return err
	})
	cfg := wideHall(time.Hour)
	cfg.Pool = plan.Range{From: addr("10.1.1.0"), To: addr("10.1.1.9")}
	var events log
	runTelling(t, node, cfg, newMemory(), events.tell)
	eventually(t, "the squatter is told of", func() bool { return events.words("address-in-use") != "" })
	if got := events.words("address-in-use"); !strings.Contains(got, mac) || !strings.Contains(got, "10.1.1.3") {
		t.Errorf("%q does not name 10.1.1.3 and %s", got, mac)
	}
	h := openHallway(t, client)
	given := map[string]bool{}
	for n := range 9 {
		given[h.lease(n)] = true
	}
	if given["10.1.1.3"] || given[""] || len(given) != 9 {
		t.Errorf("given: %v", given)
	}
}
