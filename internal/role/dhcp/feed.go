package dhcp

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
)

// ownBook is this node's own book, whose changes are numbered; see store/sqlite.
type ownBook interface {
	leaseBook
	changes
	marks
}

// changes reads what changed after a number, in order, each with its Seq. Lift gives what
// changed after the first number, and what is still to come, numbers above the second.
type changes interface {
	Changes(ctx context.Context, after int64, limit int) ([]fact.Lease, error)
	Behind(ctx context.Context, after int64) (int, error)
	Lift(ctx context.Context, after, above int64) error
}

// marks keep how far a follower has come.
type marks interface {
	Marked(ctx context.Context, follower string) (int64, error)
	Mark(ctx context.Context, follower string, seq int64) error
}

// sharedBook is the book that nodes share. It never puts a lower Seq in the place of a
// higher one. Position says which book it is, its highest Seq, and the node's own highest.
type sharedBook interface {
	leaseBook
	Position(ctx context.Context, node string) (id string, highest, own int64, err error)
}

const (
	// syncFor is how long an ACK waits for the shared database before this node goes on alone:
	// a quarter of the time after which a client asks again (4 s, RFC 2131 section 4.1).
	syncFor = time.Second
	// aloneFor is for how long at least it then goes on alone; it doubles up to aloneMost when
	// that happens again, so that a database which limps costs a second now and then.
	aloneFor  = 5 * time.Second
	aloneMost = time.Minute
	// flushFor is how long a server that stops waits for the shared database.
	flushFor = time.Second
)

// Feed joins a node's server, its own book and the follower that copies the book to the
// shared one. It outlives the server and the follower, which are made anew when they fail.
// Safe for concurrent use.
//
//	         ACK waits        woken
//	server ────────────► book ─ ─ ─ ► follower ────► shared
//	   ▲                                  │
//	   └── with sync: waits for it too ◄──┘  at most syncFor, then alone until it has caught up
type Feed struct {
	node   string
	cfg    Config
	shared sharedBook
	sync   bool
	clock  Clock
	m      *FeedMetrics
	tell   *teller
	wake   chan struct{}

	mu      sync.Mutex // of the rest
	book    ownBook    // nil while no server runs
	moved   chan struct{}
	commits uint64 // to the book
	copied  uint64 // of them the shared book has
	behind  time.Time
	alone   bool
	since   time.Time     // of alone
	hold    time.Duration // how long it is kept at least
	failing int           // attempts in a row
	cause   error
}

// NewFeed makes a feed of the node's leases to the shared book. With sync an ACK waits for
// that too. It starts nothing. tell must not block.
func NewFeed(node string, cfg Config, shared sharedBook, sync bool, clock Clock, m *FeedMetrics, tell func(fact.Event)) *Feed {
	return &Feed{
		node: node, cfg: cfg, shared: shared, sync: sync, clock: clock, m: m, tell: newTeller("leases", tell),
		wake: make(chan struct{}, 1), moved: make(chan struct{}), hold: aloneFor,
	}
}

// Attach makes the node's own book the one that is followed, and returns what a server shall
// use in its place, for New. One server is attached at a time.
func (f *Feed) Attach(own ownBook) *Attached {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.book = own
	f.commits++ // what it has already
	f.late(time.Now())
	f.move()
	return &Attached{f, own}
}

// move wakes all who wait for a change of the feed; mu is held.
func (f *Feed) move() {
	close(f.moved)
	f.moved = make(chan struct{})
}

// late notes since when the shared book lacks something; mu is held.
func (f *Feed) late(now time.Time) {
	if f.behind.IsZero() {
		f.behind = now
	}
}

// current is the book to follow, nil when there is none, the number of commits to it, and
// what is closed when that may be otherwise.
func (f *Feed) current() (ownBook, uint64, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.book, f.commits, f.moved
}

// Attached is a node's own book with a follower behind it.
type Attached struct {
	feed *Feed
	own  ownBook
}

// Detach ends the following of the book, which may then be closed; it waits a moment for the
// shared book, so that a node which is stopped in order leaves nothing behind.
func (a *Attached) Detach(ctx context.Context) {
	f := a.feed
	f.mu.Lock()
	want, well := f.commits, f.failing == 0 && !f.alone
	f.mu.Unlock()
	if well {
		f.await(ctx, want, flushFor)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.book == a.own {
		f.book = nil
		f.move()
	}
}

// Load takes over what only the shared book knows of this node's addresses, when that
// answers soon, and reads the node's own book.
func (a *Attached) Load(ctx context.Context) ([]fact.Lease, error) {
	if err := a.feed.adopt(ctx, a.own); err != nil {
		return nil, err
	}
	return a.own.Load(ctx)
}

// Commit writes the leases to the node's own book; its result is that book's alone. With
// sync it then waits for the shared one, at most for syncFor.
func (a *Attached) Commit(ctx context.Context, leases []fact.Lease) error {
	if err := a.own.Commit(ctx, leases); err != nil {
		return err
	}
	f := a.feed
	f.mu.Lock()
	f.commits++
	mine, wait := f.commits, f.sync && !f.alone
	f.late(time.Now())
	f.mu.Unlock()
	select {
	case f.wake <- struct{}{}:
	default:
	}
	if wait && !f.await(context.WithoutCancel(ctx), mine, syncFor) { // a slow disk is not the database's fault
		f.goAlone()
	}
	return nil
}

// await waits until the shared book has the commit, or the node is alone; false when that
// took too long.
func (f *Feed) await(ctx context.Context, commit uint64, most time.Duration) bool {
	late := time.NewTimer(most)
	defer late.Stop()
	for {
		f.mu.Lock()
		done, moved := f.copied >= commit || f.alone, f.moved
		f.mu.Unlock()
		if done {
			return true
		}
		select {
		case <-moved:
		case <-late.C:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// goAlone has no ACK wait for the shared book any more.
func (f *Feed) goAlone() {
	f.mu.Lock()
	was, cause := f.alone, f.cause
	if !was {
		f.alone, f.since = true, time.Now()
		f.move()
	}
	f.mu.Unlock()
	if was {
		return
	}
	f.m.synchronous.Set(0)
	why := "it did not answer"
	if cause != nil {
		why = cause.Error()
	}
	f.tell.forget("leases-alone", "")
	f.tell.say(read(f.clock), fact.Alarm, "leases-alone", "",
		"the shared database did not have a lease within %v, so this node goes on alone: its leases are on its own disk and follow later; if its disk dies before that, they are lost; mend the database, it rejoins by itself: %s", syncFor, why)
}

// caughtUp says that the shared book has all commits up to this one, and how long the last
// copy took. A node that is alone may then wait again.
func (f *Feed) caughtUp(commit uint64, took time.Duration) {
	f.mu.Lock()
	f.copied = max(f.copied, commit)
	f.behind = time.Time{}
	if f.commits > f.copied {
		f.behind = time.Now() // about when that commit came
	}
	back := f.alone && took < syncFor/2 && time.Since(f.since) >= f.hold
	if back {
		f.alone, f.hold = false, min(2*f.hold, aloneMost)
	} else if !f.alone && f.hold > aloneFor && time.Since(f.since) > 10*aloneMost {
		f.hold = aloneFor
	}
	f.move()
	alone := f.alone
	f.mu.Unlock()
	if f.sync && !alone {
		f.m.synchronous.Set(1)
	}
	if back {
		f.tell.forget("leases-synchronous", "")
		f.tell.say(read(f.clock), fact.Info, "leases-synchronous", "", "the shared database has every lease again, and each ACK waits for it")
	}
}

// lonely tells whether the node goes on alone.
func (f *Feed) lonely() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.alone
}

// note tells of the first failure that is not over at the next attempt, and of its end.
func (f *Feed) note(err error) {
	f.mu.Lock()
	was := f.failing
	f.cause, f.failing = err, was+1
	if err == nil {
		f.failing = 0
	}
	f.mu.Unlock()
	switch {
	case err != nil && was == 1:
		f.tell.say(read(f.clock), fact.Warning, "lease-copy-failed", "",
			"leases do not reach the shared database; devices are served all the same, and what is missing follows by itself: %v", err)
	case err == nil && was > 1:
		f.tell.forget("lease-copy-works", "")
		f.tell.say(read(f.clock), fact.Info, "lease-copy-works", "", "leases reach the shared database again")
	}
}

// Checks says what is so.
func (f *Feed) Checks() []fact.Check {
	f.mu.Lock()
	behind, failing, cause, alone := f.behind, f.failing, f.cause, f.alone
	f.mu.Unlock()
	c := fact.Check{Name: "leases-copied", Words: "the shared database has every lease", Goal: "within a second", Measured: "all", OK: failing < 2}
	if !behind.IsZero() {
		c.Measured = fmt.Sprintf("behind since %v", time.Since(behind).Round(time.Millisecond))
	}
	if !c.OK {
		c.Measured += fmt.Sprintf(": %v", cause)
		c.Hint = "devices are served from this node's own file meanwhile; mend the database, the rest follows by itself"
	}
	checks := []fact.Check{c}
	if f.sync {
		c := fact.Check{Name: "leases-sync", Words: "each ACK waits for the shared database", Measured: "yes", OK: !alone}
		if alone {
			c.Measured = "no, this node goes on alone"
			c.Hint = "see leases-copied; it waits again when the database has caught up and answers in time"
		}
		if alone && failing < 2 {
			return []fact.Check{c, checks[0]}
		}
		checks = append(checks, c)
	}
	return checks
}

// mine finds the segment in which this node may give the address, or nil.
func (f *Feed) mine(segment string, a netip.Addr) *Segment {
	for i := range f.cfg.Segments {
		s := &f.cfg.Segments[i]
		if s.Name != segment {
			continue
		}
		if s.Pool.Contains(a) {
			return s
		}
		for _, r := range s.Reservations {
			if r.Addr == a {
				return s
			}
		}
	}
	return nil
}
