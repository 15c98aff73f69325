package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hotstage/hotstage/internal/testnet"
)

// static compiles with the arguments of the go command into a program without cgo.
func static(t *testing.T, args ...string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "program")
	cmd := exec.Command("go", append(args[:len(args)-1:len(args)-1], "-o", path, args[len(args)-1])...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
	return path
}

// TestRealKernel goes where there is 802.1Q, which the kernel at hand may lack: trunks carry
// tagged frames, in the tests of the rooms that make them and in a whole rehearsal. Software
// emulation is slow, so what is a matter of time is not judged.
func TestRealKernel(t *testing.T) {
	testnet.Root(t)
	t.Parallel()
	const inside = "../../internal/"
	vm := testnet.VM{Limit: 4 * time.Minute, Files: map[string]string{
		"bin/hotstage": static(t, "build", "-ldflags=-s -w", "."), "plan.yaml": "../../examples/smallest.yaml",
		"bin/kernel.test": static(t, "test", "-c", inside+"kernel"), "bin/segment.test": static(t, "test", "-c", inside+"role/segment"),
		"bin/venue.test": static(t, "test", "-c", inside+"lab/venue"),
	}}
	vm.Commands = []string{
		"HOTSTAGE_MUST=netns kernel.test -test.v -test.run 'Links|VLAN|Addresses|Route'",
		"HOTSTAGE_MUST=netns segment.test -test.v -test.run 'Bridged|WhoReaches|SecondDiff'",
		"HOTSTAGE_MUST=netns venue.test -test.v -test.run 'NodesHaveTheirLinks|TestIsolation'",
		"hotstage rehearse plan.yaml --people 10 --doors 10s --stay 15s -o json 2>/tmp/said || true; cat /tmp/said >&2; true",
	}
	said := vm.Run(t)
	for i, s := range said {
		if s.Code != 0 || strings.Contains(s.Text, "--- SKIP") {
			t.Errorf("%s: exit %d\n%s", vm.Commands[i], s.Code, s.Text)
		}
	}
	text := said[3].Text
	var f finding
	if err := json.NewDecoder(strings.NewReader(text[max(0, strings.Index(text, "{")):])).Decode(&f); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	for _, name := range []string{"addresses", "duplicates", "names", "flows", "isolation-attendees", "isolation-crew", "isolation-control", "steady"} {
		if c := f.check(t, name); !c.OK {
			t.Errorf("rehearsal with tags: %+v", c)
		}
	}
	for _, g := range f.Gaps {
		if strings.Contains(g.Words, "802.1Q") {
			t.Errorf("the kernel has 802.1Q, but: %s", g.Words)
		}
	}
}
