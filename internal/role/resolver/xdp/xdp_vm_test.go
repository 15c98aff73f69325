//go:build linux

package xdp

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hotstage/hotstage/internal/testnet"
)

// Debian's kernel of today takes the program, and runs it as the kernel at hand does: each
// kernel's verifier has a mind of its own.
func TestDebiansKernelTakesTheProgram(t *testing.T) {
	testnet.Root(t)
	exe := filepath.Join(t.TempDir(), "xdp.test")
	build := exec.Command("go", "test", "-c", "-o", exe, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // the machine has no C library
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	vm := testnet.VM{Limit: 3 * time.Minute, Files: map[string]string{"bin/xdp.test": exe}, Commands: []string{
		"HOTSTAGE_MUST=netns xdp.test -test.v -test.run 'EverythingElse|ComeAndGo|WithoutChecksum|Arrive|Tend|FallsBack'",
	}}
	for _, s := range vm.Run(t) {
		if s.Code != 0 || strings.Contains(s.Text, "--- SKIP") || !strings.Contains(s.Text, "--- PASS: TestAnswersArrive") {
			t.Errorf("exit %d\n%s", s.Code, s.Text)
		}
	}
}
