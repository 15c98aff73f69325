package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/hotstage/hotstage/internal/plan"
)

type checkVerb struct {
	Plan string `arg:"" help:"The plan file." type:"path"`
}

// Run prints all faults, and writes the lock beside a plan without errors.
func (v *checkVerb) Run(s *screen) error {
	p, lock, old, err := load(v.Plan, s)
	if err != nil {
		return err
	}
	if !lock.Equal(old) {
		if err := writeLock(lockPath(v.Plan), lock); err != nil {
			fmt.Fprintf(s.errs, "warning: %v; ids may move when the plan is edited\n", err)
		} else {
			fmt.Fprintf(s.out, "%s: written; keep it beside the plan, in version control\n", filepath.Base(lockPath(v.Plan)))
		}
	}
	fmt.Fprintf(s.out, "%s: %s: %d people, %d devices, %d segments, %d nodes\n", filepath.Base(v.Plan), p.Event.Name,
		p.Event.Attendees, p.Event.Devices(), len(p.Segments), len(p.Nodes))
	return nil
}

func lockPath(planFile string) string { return planFile + ".lock" }

// load reads a plan and its lock and prints the plan's faults on errs. The old lock is nil
// when there is no lock file.
func load(path string, s *screen) (p *plan.Plan, lock, old *plan.Lock, err error) {
	src, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("read plan: %w", err)
	}
	switch text, err := os.ReadFile(lockPath(path)); {
	case err == nil:
		if old, err = plan.ReadLock(text); err != nil {
			return nil, nil, nil, fmt.Errorf("%s: %w", lockPath(path), err)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, nil, nil, fmt.Errorf("read lock: %w", err)
	}
	p, lock, faults := plan.Parse(src, old)
	if err := faults.Format(s.errs, filepath.Base(path), src, color(s.errs), color(s.errs)); err != nil {
		return nil, nil, nil, err
	}
	if p == nil {
		return nil, nil, nil, errFaults
	}
	return p, lock, old, nil
}

// writeLock replaces the lock file in one step, so that a cut leaves the old or the new one.
func writeLock(path string, l *plan.Lock) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".lock-*")
	if err != nil {
		return fmt.Errorf("write lock: %w", err)
	}
	defer os.Remove(f.Name()) // gone already after the rename
	_, err = f.Write(l.Bytes())
	err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write lock: %w", err)
	}
	return nil
}
