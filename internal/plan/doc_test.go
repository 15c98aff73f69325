package plan

import (
	"os"
	"strings"
	"testing"
)

// Every fenced plan of the documents parses without an error.
func TestDocumentsHoldPlans(t *testing.T) {
	plans := 0
	for _, file := range []string{"../../README.md", "../../doc/plan.md", "../../doc/dhcp.md"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for i, block := range strings.Split(string(text), "```yaml\n") {
			if i == 0 {
				continue
			}
			src, _, _ := strings.Cut(block, "```")
			if p, _, faults := Parse([]byte(src), nil); p == nil {
				t.Errorf("%s, plan %d: %v", file, i, faults)
			}
			plans++
		}
	}
	if plans < 2 {
		t.Errorf("found %d plans", plans)
	}
}
