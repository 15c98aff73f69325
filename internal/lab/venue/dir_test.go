//go:build linux

package venue

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMakeDirRemovesWhatTheDeadLeft(t *testing.T) {
	base := t.TempDir()
	dead := filepath.Join(base, "hotstage-rehearsal-1")
	foreign := filepath.Join(base, "hotstage-notes")
	for _, d := range []string{filepath.Join(dead, "gw1/state"), foreign} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	// A link to somebody's folder is not a folder of ours.
	if err := os.Symlink(foreign, filepath.Join(base, "hotstage-rehearsal-2")); err != nil {
		t.Fatal(err)
	}
	alive, removeAlive, err := MakeDir(base)
	if err != nil {
		t.Fatal(err)
	}
	dir, remove, err := MakeDir(base)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"hotstage-notes", "hotstage-rehearsal-2", filepath.Base(alive), filepath.Base(dir)}
	if d := cmp.Diff(set(want), set(names(t, base))); d != "" {
		t.Errorf("folders (-want +got):\n%s", d)
	}
	for _, f := range []func() error{remove, removeAlive} {
		if err := f(); err != nil {
			t.Error(err)
		}
	}
	if d := cmp.Diff(set(want[:2]), set(names(t, base))); d != "" {
		t.Errorf("folders after removal (-want +got):\n%s", d)
	}
}

// Rehearsals that start at the same moment do not take each other's folder for a dead one's.
func TestMakeDirAtTheSameTime(t *testing.T) {
	base := t.TempDir()
	var work sync.WaitGroup
	dirs := make([]string, 20)
	for i := range dirs {
		work.Go(func() {
			dir, remove, err := MakeDir(base)
			if err != nil {
				t.Error(err)
				return
			}
			dirs[i] = dir
			t.Cleanup(func() { remove() })
			if err := os.WriteFile(filepath.Join(dir, "mine"), nil, 0o600); err != nil {
				t.Error(err)
			}
		})
	}
	work.Wait()
	for _, d := range dirs {
		if _, err := os.Stat(filepath.Join(d, "mine")); err != nil {
			t.Errorf("a running rehearsal lost its folder: %v", err)
		}
	}
	if len(set(dirs)) != len(dirs) {
		t.Errorf("two rehearsals share a folder: %v", dirs)
	}
}

func TestMakeDirWithoutBase(t *testing.T) {
	if _, _, err := MakeDir(filepath.Join(t.TempDir(), "nowhere")); err == nil {
		t.Error("no error")
	}
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

func set(all []string) map[string]bool {
	m := map[string]bool{}
	for _, a := range all {
		m[a] = true
	}
	return m
}
