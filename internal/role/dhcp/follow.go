package dhcp

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
)

const (
	// copySize bounds what is copied at once, so that the first in it does not wait for too
	// many others.
	copySize = 500
	// copyFor is how long a copy may take before it counts as failed.
	copyFor = 5 * time.Second
	// copyAgain and copyLast are the first and the longest wait after a failure.
	copyAgain = 100 * time.Millisecond
	copyLast  = 3 * time.Second
	// markEvery is how often the position is written down; what came after it is only sent again.
	markEvery = time.Second
)

// Follower copies what a feed's book has to the shared one: always the last state of an
// address, in the order of the changes, so that it may stop anywhere, also between a copy
// and its mark, and be started again. It is a task.Task and a task.Reporter.
type Follower struct {
	*Feed
	ready chan struct{}
	at    int64 // where it is in the book, for measure
}

// NewFollower makes the follower of the feed. It starts nothing; Run does, once.
func NewFollower(f *Feed) *Follower { return &Follower{Feed: f, ready: make(chan struct{})} }

// String is the task's name.
func (w *Follower) String() string { return "leases" }

// Ready is closed once Run runs: nobody waits for the shared book.
func (w *Follower) Ready() <-chan struct{} { return w.ready }

// Run follows until ctx ends and then returns nil. It never gives up.
func (w *Follower) Run(ctx context.Context) error {
	close(w.ready)
	wait := copyAgain
	for ctx.Err() == nil {
		book, _, moved := w.current()
		if book == nil {
			select {
			case <-moved:
			case <-ctx.Done():
			}
			continue
		}
		went, err := w.follow(ctx, book)
		if now, _, _ := w.current(); ctx.Err() != nil || now != book {
			wait = copyAgain
			continue
		}
		if went {
			wait = copyAgain
		}
		w.m.failures.Inc()
		w.note(err)
		w.measure(ctx, book)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
		wait = min(2*wait, copyLast)
	}
	return nil
}

// position is where the follower stands in a book.
type position struct {
	name   string // of the shared book
	at     int64
	marked int64
	wrote  time.Time     // when it was marked
	took   time.Duration // of the last copy
}

// follow meets the shared book and copies until something fails, the book is another one or
// ctx ends. It tells whether anything went well.
func (w *Follower) follow(ctx context.Context, book ownBook) (went bool, err error) {
	p, err := w.meet(ctx, book)
	if err != nil {
		return false, err
	}
	for {
		now, commit, _ := w.current()
		if now != book {
			return went, nil
		}
		n, err := w.copy(ctx, book, p)
		if err != nil {
			return went, err
		}
		if !went {
			went = true
			w.note(nil)
		}
		if n == 0 && w.lonely() { // nothing to copy that would tell whether it is in time again
			was := p.at
			if p, err = w.probe(ctx, book, p); err != nil {
				return went, err
			}
			if p.at < was {
				continue
			}
		}
		if n == copySize {
			continue
		}
		if time.Since(p.wrote) >= markEvery {
			if err := w.mark(ctx, book, p); err != nil {
				return went, err
			}
		}
		w.caughtUp(commit, p.took)
		w.m.rows.Set(0)
		w.m.seconds.Set(0)
		if err := w.rest(ctx, book, p); err != nil || ctx.Err() != nil {
			return went, err
		}
	}
}

// meet finds where to go on. The shared book may have lost its end since the mark was made
// (it was put back from a copy): then its own word counts.
func (w *Follower) meet(ctx context.Context, book ownBook) (*position, error) {
	cctx, cancel := context.WithTimeout(ctx, copyFor)
	defer cancel()
	id, highest, own, err := w.shared.Position(cctx, w.node)
	if err != nil {
		return nil, err
	}
	mark, err := book.Marked(ctx, id)
	if err != nil {
		return nil, err
	}
	if err := book.Lift(ctx, mark, highest); err != nil {
		return nil, err
	}
	w.at = min(mark, own)
	return &position{name: id, at: w.at, marked: mark, wrote: time.Now()}, nil
}

// probe meets the shared book once more and says how long that took.
func (w *Follower) probe(ctx context.Context, book ownBook, p *position) (*position, error) {
	if err := w.mark(ctx, book, p); err != nil {
		return p, err
	}
	begun := time.Now()
	met, err := w.meet(ctx, book)
	if err != nil {
		return p, err
	}
	met.took = time.Since(begun)
	return met, nil
}

// copy copies the next changes and returns how many there were.
func (w *Follower) copy(ctx context.Context, book ownBook, p *position) (int, error) {
	rows, err := book.Changes(ctx, p.at, copySize)
	if err != nil || len(rows) == 0 {
		return 0, err
	}
	last := rows[len(rows)-1].Seq
	read := len(rows)
	rows = slices.DeleteFunc(rows, func(l fact.Lease) bool { return w.partners(l.Segment, l.Addr) }) // a partner's: it tells itself
	for i := range rows {
		rows[i].Node = w.node
	}
	begun := time.Now()
	cctx, cancel := context.WithTimeout(ctx, copyFor)
	if len(rows) > 0 {
		err = w.shared.Commit(cctx, rows)
	}
	cancel()
	p.took = time.Since(begun)
	if err != nil {
		return 0, err
	}
	p.at = last
	w.at = p.at
	w.m.copied.Add(float64(len(rows)))
	w.m.took.Observe(p.took.Seconds())
	return read, nil
}

// rest waits for the next commit, and writes the position down once a while.
func (w *Follower) rest(ctx context.Context, book ownBook, p *position) error {
	tick := time.NewTicker(markEvery)
	defer tick.Stop()
	for {
		now, _, moved := w.current()
		if now != book {
			return nil
		}
		select {
		case <-w.wake:
			return nil
		case <-moved:
		case <-ctx.Done():
			return w.mark(context.WithoutCancel(ctx), book, p)
		case <-tick.C:
			if err := w.mark(ctx, book, p); err != nil || w.lonely() {
				return err // who is alone looks whether that is over
			}
		}
	}
}

func (w *Follower) mark(ctx context.Context, book ownBook, p *position) error {
	if p.at <= p.marked {
		return nil
	}
	if err := book.Mark(ctx, p.name, p.at); err != nil {
		return fmt.Errorf("keep how far the copy is: %w", err)
	}
	p.marked, p.wrote = p.at, time.Now()
	return nil
}

// measure says how far behind the shared book is.
func (w *Follower) measure(ctx context.Context, book ownBook) {
	w.mu.Lock()
	behind := w.behind
	w.mu.Unlock()
	if behind.IsZero() {
		return
	}
	w.m.seconds.Set(time.Since(behind).Seconds())
	if n, err := book.Behind(ctx, w.at); err == nil { // else the follower meets the error itself
		w.m.rows.Set(float64(n))
	}
}

// partners tells whether the address is of the partner's part.
func (f *Feed) partners(segment string, a netip.Addr) bool {
	return slices.ContainsFunc(f.cfg.Segments, func(s Segment) bool {
		return s.Name == segment && s.Partner != nil && s.Partner.Pool.Contains(a)
	})
}
