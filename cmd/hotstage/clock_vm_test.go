package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/hotstage/hotstage/internal/testnet"
)

// TestClockJumps moves the wall clock of a machine by a day, forward and back, again and again
// while devices come and stay, and across the kill and the start of its node: nobody loses an
// address and no address has two devices, since leases end by the boot clock.
func TestClockJumps(t *testing.T) {
	testnet.Root(t)
	t.Parallel()
	vm := testnet.VM{Limit: 4 * time.Minute, Files: map[string]string{"bin/hotstage": static(t, "build", "-ldflags=-s -w", "."), "plan.yaml": "../../examples/smallest.yaml"}}
	vm.Commands = []string{`hotstage rehearse plan.yaml --people 10 --doors 8s --stay 25s --kill gw1@18s -o json >/tmp/said 2>/tmp/log &
day=86400; jumps=0
while kill -0 $! 2>/dev/null; do sleep 2; date -s @$(( $(date +%s) + day )) >/dev/null && jumps=$((jumps+1)); day=$((-day)); done
cat /tmp/said; echo; echo "jumps $jumps"; cat /tmp/log`}
	text := vm.Run(t)[0].Text
	var f finding
	if err := json.NewDecoder(strings.NewReader(text[max(0, strings.Index(text, "{")):])).Decode(&f); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	if strings.Contains(text, "jumps 0\n") || !strings.Contains(text, "jumps ") {
		t.Errorf("the clock did not move:\n%s", text)
	}
	for _, name := range []string{"addresses", "duplicates", "steady"} {
		if c := f.check(t, name); !c.OK {
			t.Errorf("with a clock that jumps: %+v", c)
		}
	}
	t.Log(text[strings.LastIndex(text, "jumps "):])
}
