//go:build linux

package kernel

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/hotstage/hotstage/internal/task"
)

// Keeper keeps part of the network as the plan has it.
type Keeper struct {
	// Diff lists what is not as it shall be, in the order in which it must be put right. It
	// runs in the namespace in which Keep was called.
	Diff func(ctx context.Context) ([]task.Change, error)
	// Done hears of every round that found anything: the words of what was put right, and
	// what could not be.
	Done func(put []string, err error)
	// Right hears, after every round, whether all is as it shall be.
	Right func(bool)
	// Wake, unless nil, leads to a round at once.
	Wake <-chan struct{}
	// Every is the longest time between rounds; changes that the kernel tells of lead to one
	// within a second.
	Every time.Duration
}

const (
	// settle is how long Keep waits for the changes to end that somebody is making.
	settle = 200 * time.Millisecond
	// pause is the least time between two rounds, should another program fight over the same.
	pause = time.Second
	// steps is how many rounds follow each other at once: links that have just been made
	// have parameters that could not be seen before.
	steps = 4
)

// Keep makes everything right, and again whenever it is not, until ctx ends; then it leaves
// the network as it is and returns nil. The error is of listening for changes.
func (k Keeper) Keep(ctx context.Context) error {
	ns, err := CurrentNamespace()
	if err != nil {
		return err
	}
	defer ns.Close()
	listening, cancel := context.WithCancel(ctx)
	changed, err := Watch(listening)
	if err != nil {
		cancel()
		return err
	}
	defer func() {
		cancel()
		for range changed { // until its goroutines are gone
		}
	}()
	tick := time.NewTicker(k.Every)
	defer tick.Stop()
	for {
		k.Right(k.round(ctx, ns))
		select {
		case <-ctx.Done():
			return nil
		case <-k.Wake:
			continue
		case <-time.After(pause):
		}
		select {
		case <-ctx.Done():
			return nil
		case <-k.Wake:
		case <-tick.C:
		case <-changed:
			if !wait(ctx, settle) {
				return nil
			}
			select {
			case <-changed:
			default:
			}
		}
	}
}

// wait is false when ctx ends first.
func wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// round puts right what it can, and tells whether all is right.
func (k Keeper) round(ctx context.Context, ns *Namespace) bool {
	var put []string
	var failed error
	right := false
	for range steps {
		changes, err := k.step(ctx, ns, &put)
		if err == nil && changes == 0 {
			right = true
			break
		}
		if ctx.Err() != nil {
			return false
		}
		if failed = err; err != nil {
			break
		}
	}
	if len(put) > 0 || failed != nil {
		k.Done(put, failed)
	}
	return right
}

// step does one list of changes; each is tried, whether or not others failed.
func (k Keeper) step(ctx context.Context, ns *Namespace, put *[]string) (changes int, err error) {
	err = ns.Do(func() error {
		list, err := k.Diff(ctx)
		if err != nil {
			return err
		}
		changes = len(list)
		var errs []error
		for _, c := range list {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err := c.Do(ctx); err != nil {
				errs = append(errs, err)
				continue
			}
			if !slices.Contains(*put, c.Words) {
				*put = append(*put, c.Words)
			}
		}
		return errors.Join(errs...)
	})
	return changes, err
}
