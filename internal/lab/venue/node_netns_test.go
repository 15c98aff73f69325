//go:build linux

package venue

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hotstage/hotstage/internal/kernel"
	"golang.org/x/sys/unix"
)

func TestStartKillStop(t *testing.T) {
	v := built(t, twoSites())
	ctx := t.Context()
	if err := v.StartAll(ctx); err != nil {
		t.Fatal(err)
	}
	if err := v.Start(ctx, "gw1"); err == nil || !strings.Contains(err.Error(), "running already") {
		t.Errorf("started twice: %v", err)
	}
	before, err := v.Usage("gw1")
	if err != nil {
		t.Fatal(err)
	}
	if before.RSS < 1<<20 || before.PeakRSS < before.RSS || before.RSS > 1<<30 {
		t.Errorf("usage %+v: a running Go program has 1 MB to 1 GB", before)
	}
	if err := v.Kill("gw1"); err != nil {
		t.Fatal(err)
	}
	if err := v.Kill("gw1"); err == nil {
		t.Error("a dead node was killed again")
	}
	after, err := v.Usage("gw1")
	if err != nil {
		t.Fatal(err)
	}
	if after.RSS != 0 || after.PeakRSS < before.PeakRSS || after.CPU < before.CPU {
		t.Errorf("usage after the death %+v, before %+v", after, before)
	}
	if err := os.Remove(filepath.Join(v.nodes["gw1"].state(), "ready")); err != nil { // of the first life
		t.Fatal(err)
	}
	if err := v.Start(ctx, "gw1"); err != nil {
		t.Fatal(err)
	}
	if err := v.Stop("gw1"); err != nil {
		t.Fatal(err)
	}
	if err := v.Stop("gw1"); err != nil {
		t.Errorf("stop a stopped node: %v", err)
	}
	log, err := os.ReadFile(v.Log("gw1"))
	if d := cmp.Diff("this is gw1\nthis is gw1\nstopped in order\n", string(log)); err != nil || d != "" {
		t.Errorf("log: %v (-want +got):\n%s", err, d)
	}
	if err := v.Start(ctx, "nobody"); err == nil {
		t.Error("a node that the plan has not was started")
	}
	select {
	case d := <-v.Down():
		t.Errorf("%s is said to have ended by itself: %v", d.Node, d.Err)
	default:
	}
}

func TestNodeThatDiesEarly(t *testing.T) {
	v := built(t, twoSites())
	mood(t, v, "srv1", "die")
	err := v.StartAll(t.Context())
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"start node srv1", "exit status 3", "no memory of the past"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error lacks %q: %v", want, err)
		}
	}
	if strings.Contains(err.Error(), "gw1") {
		t.Errorf("the error names a node that is well: %v", err)
	}
}

func TestNodeThatEndsByItself(t *testing.T) {
	v := built(t, twoSites())
	mood(t, v, "cloud1", "faint")
	if err := v.StartAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(v.nodes["cloud1"].state(), "now"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	select {
	case d := <-v.Down():
		if d.Node != "cloud1" || !strings.Contains(d.Err.Error(), "exit status 4") || !strings.Contains(d.Err.Error(), "I faint") {
			t.Errorf("got %s: %v", d.Node, d.Err)
		}
	case <-time.After(10 * time.Second):
		t.Error("nobody tells")
	}
}

func TestNodeThatDoesNotGetReady(t *testing.T) {
	v := built(t, twoSites())
	v.options.Ready = func(ctx context.Context, node, state string) error {
		<-ctx.Done()
		return ctx.Err()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := v.Start(ctx, "gw1"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the deadline", err)
	}
}

func mood(t *testing.T, v *Venue, node, is string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(v.nodes[node].state(), "mood"), []byte(is), 0o600); err != nil {
		t.Fatal(err)
	}
}

// namespacesInUse are the network namespaces that any process is in or has open.
func namespacesInUse(t *testing.T) map[string]bool {
	t.Helper()
	all := map[string]bool{}
	for _, pattern := range []string{"/proc/[0-9]*/task/*/ns/net", "/proc/[0-9]*/fd/*"} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range paths {
			if to, err := os.Readlink(p); err == nil && strings.HasPrefix(to, "net:[") {
				all[to] = true
			}
		}
	}
	return all
}

// idOf is how /proc names the namespace.
func idOf(ns *kernel.Namespace) string {
	return fmt.Sprintf("net:[%d]", inode(ns.FD()))
}

func TestCloseLeavesNothing(t *testing.T) {
	p := twoSites()
	v := built(t, p)
	if err := v.StartAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, s := range []*kernel.Namespace{v.aps, v.path, v.internet, v.fabrics["venue"], v.fabrics["cloud"], v.nodes["gw1"].Namespace, v.nodes["srv1"].Namespace, v.nodes["cloud1"].Namespace} {
		ids = append(ids, idOf(s))
	}
	if used := namespacesInUse(t); !used[ids[0]] || !used[ids[5]] {
		t.Fatal("the test does not see namespaces that are in use")
	}
	process := v.nodes["gw1"].process.cmd.Process.Pid
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(process, 0); !errors.Is(err, unix.ESRCH) {
		t.Errorf("the process of gw1 is still there: %v", err)
	}
	// Threads that were in a namespace may take a moment to end.
	left := ids
	for deadline := time.Now().Add(5 * time.Second); len(left) > 0 && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		used := namespacesInUse(t)
		left = nil
		for _, id := range ids {
			if used[id] {
				left = append(left, id)
			}
		}
	}
	if len(left) > 0 {
		t.Errorf("namespaces still in use: %v of %v", left, ids)
	}
}
