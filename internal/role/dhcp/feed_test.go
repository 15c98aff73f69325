package dhcp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/plan"
	"github.com/prometheus/client_golang/prometheus"

	gocmp "github.com/google/go-cmp/cmp"
)

// numbered is a book in memory whose changes have numbers, as store/sqlite has them; with
// guard it is a shared one, as store/mysql.
type numbered struct {
	mu     sync.Mutex
	guard  bool
	id     string
	last   int64
	rows   map[string]fact.Lease
	marks  map[string]int64
	before func(ctx context.Context) error // before a call has its effect
	after  func() error                    // after it: the answer is lost
}

func newNumbered(guard bool) *numbered {
	return &numbered{guard: guard, id: "book-1", rows: map[string]fact.Lease{}, marks: map[string]int64{}}
}

func (b *numbered) Commit(ctx context.Context, leases []fact.Lease) error {
	if err := b.begin(ctx); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, l := range leases {
		key := l.Segment + " " + l.Addr.String()
		if was, ok := b.rows[key]; b.guard && ok && was.Seq > l.Seq {
			continue
		}
		for k, had := range b.rows {
			if k != key && l.State == fact.LeaseBound && had.State == fact.LeaseBound && had.Client == l.Client && had.Segment == l.Segment && (!b.guard || had.Node == l.Node && had.Seq <= l.Seq) {
				had.State = fact.LeaseReleased
				if !b.guard {
					b.last++
					had.Seq = b.last
				}
				b.rows[k] = had
			}
		}
		if !b.guard {
			b.last++
			l.Seq = b.last
		}
		b.rows[key] = l
	}
	if b.after != nil {
		return b.after()
	}
	return nil
}

func (b *numbered) begin(ctx context.Context) error {
	b.mu.Lock()
	f := b.before
	b.mu.Unlock()
	if f != nil {
		return f(ctx)
	}
	return nil
}

func (b *numbered) be(before func(context.Context) error, after func() error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.before, b.after = before, after
}

func (b *numbered) Load(ctx context.Context) ([]fact.Lease, error) {
	if err := b.begin(ctx); err != nil {
		return nil, err
	}
	return b.Changes(ctx, -1, 1<<30)
}

func (b *numbered) Changes(_ context.Context, after int64, limit int) (all []fact.Lease, _ error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, l := range b.rows {
		if l.Seq > after {
			all = append(all, l)
		}
	}
	slices.SortFunc(all, func(x, y fact.Lease) int { return cmp.Or(cmp.Compare(x.Seq, y.Seq), x.Addr.Compare(y.Addr)) })
	return all[:min(limit, len(all))], nil
}

func (b *numbered) Behind(ctx context.Context, after int64) (int, error) {
	all, err := b.Changes(ctx, after, 1<<30)
	return len(all), err
}

func (b *numbered) Lift(_ context.Context, after, above int64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if above <= after {
		return nil
	}
	for k, l := range b.rows {
		if l.Seq > after {
			l.Seq += above - after
			b.rows[k] = l
		}
	}
	b.last = max(b.last+above-after, above)
	return nil
}

func (b *numbered) Marked(_ context.Context, follower string) (int64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.marks[follower], nil
}

func (b *numbered) Mark(_ context.Context, follower string, seq int64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.marks[follower] = seq
	return nil
}

func (b *numbered) Position(ctx context.Context, node string) (id string, highest, own int64, err error) {
	if err := b.begin(ctx); err != nil {
		return "", 0, 0, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, l := range b.rows {
		if highest = max(highest, l.Seq); l.Node == node {
			own = max(own, l.Seq)
		}
	}
	return b.id, highest, own, nil
}

func (b *numbered) copy() map[string]fact.Lease {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.rows)
}

// plain is the leases of a book without their numbers, by address.
func plain(b *numbered) map[string]fact.Lease {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := map[string]fact.Lease{}
	for k, l := range b.rows {
		l.Seq, l.Node = 0, ""
		all[k] = l
	}
	return all
}

func lease(a, client string, state fact.LeaseState) fact.Lease {
	return fact.Lease{Segment: "hall", Addr: addr(a), Client: client, State: state, Start: time.Unix(1e9, 0).UTC(), Expires: time.Unix(2e9, 0).UTC(), Boot: "boot-1", ExpiresBoot: time.Hour}
}

// overheard keeps the kinds of events.
type overheard struct {
	mu    sync.Mutex
	kinds []string
}

func (h *overheard) tell(e fact.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.kinds = append(h.kinds, e.Kind)
}

func (h *overheard) want(t *testing.T, kinds ...string) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if d := gocmp.Diff(kinds, h.kinds); d != "" {
		t.Errorf("events (-want +got):\n%s", d)
	}
	h.kinds = nil
}

// evening is a feed with its follower.
type evening struct {
	own, shared *numbered
	feed        *Feed
	book        *Attached
	heard       overheard
	stop        func()
}

func newEvening(sync bool) *evening {
	e := &evening{own: newNumbered(false), shared: newNumbered(true)}
	e.feed = NewFeed("gw1", Config{Segments: []Segment{hall()}}, e.shared, sync, newClock(), NewFeedMetrics(prometheus.NewRegistry()), e.heard.tell)
	e.book = e.feed.Attach(e.own)
	e.follow()
	return e
}

// follow starts a follower; stop kills it.
func (e *evening) follow() {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); NewFollower(e.feed).Run(ctx) }()
	e.stop = func() { cancel(); <-ended }
}

func (e *evening) commit(t *testing.T, leases ...fact.Lease) time.Duration {
	t.Helper()
	begun := time.Now()
	if err := e.book.Commit(t.Context(), leases); err != nil {
		t.Fatal(err)
	}
	return time.Since(begun)
}

func (e *evening) equal(t *testing.T) {
	t.Helper()
	own, shared := plain(e.own), plain(e.shared)
	for k := range shared { // what an earlier machine left and nobody could take over
		if _, ok := own[k]; !ok {
			delete(shared, k)
		}
	}
	if d := gocmp.Diff(own, shared, gocmp.Comparer(func(a, b fact.Lease) bool { return fmt.Sprint(a) == fmt.Sprint(b) })); d != "" {
		t.Errorf("the books differ (-own +shared):\n%s", d)
	}
}

var errAway = errors.New("connection refused")

func away(context.Context) error { return errAway }

// hang is a server that was stopped.
func hang(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// Whatever fails and whenever, in the end both books are equal. Followers die at any point,
// marks go back, the shared book is lost, put back from a copy, slow, or away.
func TestFollowerLosesNothing(t *testing.T) {
	states := []fact.LeaseState{fact.LeaseBound, fact.LeaseBound, fact.LeaseReleased, fact.LeaseExpired, fact.LeaseDeclined}
	for seed := range uint64(30) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 11))
			e := newEvening(seed%2 == 0)
			copyOf := map[string]fact.Lease{}
			for range 400 {
				switch r.IntN(14) {
				case 0:
					e.shared.be(away, nil)
				case 1:
					e.shared.be(hang, nil)
				case 2:
					e.shared.be(nil, func() error { return errAway })
				case 3, 4, 5:
					e.shared.be(nil, nil)
				case 6:
					slow := time.Duration(r.IntN(900)) * time.Millisecond
					e.shared.be(func(ctx context.Context) error {
						select {
						case <-time.After(slow):
							return nil
						case <-ctx.Done():
							return ctx.Err()
						}
					}, nil)
				case 7: // killed
					e.stop()
					if r.IntN(2) == 0 {
						e.own.marks["book-1"] /= 2
					}
					e.follow()
				case 8: // the server is made anew, or another machine takes its place
					e.book.Detach(t.Context())
					if r.IntN(3) == 0 {
						e.own = newNumbered(false)
					}
					e.book = e.feed.Attach(e.own)
					if _, err := e.book.Load(t.Context()); err != nil {
						t.Fatal(err)
					}
				case 9:
					switch r.IntN(8) {
					case 0: // dropped, for which the server is restarted
						e.stop()
						e.shared.id, e.shared.rows = fmt.Sprint("book-", r.Int()), map[string]fact.Lease{}
						copyOf = map[string]fact.Lease{}
						e.follow()
					case 1:
						copyOf = e.shared.copy()
					case 2: // put back from a copy
						e.stop()
						e.shared.rows = maps.Clone(copyOf)
						e.follow()
					}
				default:
					var batch []fact.Lease
					for range 1 + r.IntN(10) {
						batch = append(batch, lease(fmt.Sprintf("10.1.0.%d", 10+r.IntN(200)), fmt.Sprintf("id:%02x", r.IntN(250)), states[r.IntN(len(states))]))
					}
					if took := e.commit(t, batch...); took > syncFor {
						t.Fatalf("seed %d: a commit took %v", seed, took)
					}
				}
				time.Sleep(time.Duration(r.IntN(300)) * time.Millisecond)
			}
			e.shared.be(nil, nil)
			time.Sleep(2 * time.Minute)
			synctest.Wait()
			e.equal(t)
			if c := e.feed.Checks(); !c[0].OK || !c[len(c)-1].OK {
				t.Errorf("seed %d: checks in the end: %+v", seed, c)
			}
			e.stop()
		})
	}
}

// A commit does not wait for the shared book and the shared book does not wait for a tick.
func TestFollowerFollowsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEvening(false)
		defer e.stop()
		synctest.Wait()
		for i := range 20 {
			if took := e.commit(t, lease("10.1.0.10", fmt.Sprint("id:", i), fact.LeaseBound)); took != 0 {
				t.Errorf("the commit took %v", took)
			}
			synctest.Wait() // no time passes
			e.equal(t)
		}
	})
}

func TestFailureIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEvening(false)
		defer e.stop()
		synctest.Wait()
		e.shared.be(away, nil)
		e.commit(t, lease("10.1.0.10", "id:01", fact.LeaseBound))
		time.Sleep(20 * time.Second)
		if c := e.feed.Checks()[0]; c.OK || c.Hint == "" {
			t.Errorf("check while the database is away: %+v", c)
		}
		e.heard.want(t, "lease-copy-failed")
		e.shared.be(nil, nil)
		time.Sleep(copyLast)
		synctest.Wait()
		e.heard.want(t, "lease-copy-works")
		e.equal(t)
	})
}

// With sync an ACK's commit is in both books, or the node says that it goes on alone.
func TestSync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEvening(true)
		defer e.stop()
		for i := range 10 {
			e.commit(t, lease("10.1.0.10", fmt.Sprint("id:", i), fact.LeaseBound))
			e.equal(t)
		}
		e.heard.want(t)
		e.shared.be(hang, nil)
		if took := e.commit(t, lease("10.1.0.11", "id:01", fact.LeaseBound)); took != syncFor {
			t.Errorf("the first commit that nobody answers took %v, want %v", took, syncFor)
		}
		e.heard.want(t, "leases-alone")
		for i := range 50 {
			if took := e.commit(t, lease("10.1.0.12", fmt.Sprint("id:", i), fact.LeaseBound)); took != 0 {
				t.Errorf("alone, a commit took %v", took)
			}
		}
		if c := e.feed.Checks(); c[0].OK {
			t.Errorf("checks while alone: %+v", c)
		}
		e.shared.be(nil, nil)
		time.Sleep(20 * time.Second)
		e.heard.want(t, "leases-synchronous")
		e.commit(t, lease("10.1.0.13", "id:09", fact.LeaseBound))
		e.equal(t)
	})
}

// A database that answers, but later than an ACK can wait, costs a second now and then.
func TestSyncWithASlowDatabase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEvening(true)
		defer e.stop()
		e.shared.be(func(ctx context.Context) error { time.Sleep(1500 * time.Millisecond); return nil }, nil)
		waits := 0
		for i := range 600 {
			if e.commit(t, lease("10.1.0.10", fmt.Sprint("id:", i), fact.LeaseBound)) > 0 {
				waits++
			}
			time.Sleep(100 * time.Millisecond)
		}
		if waits != 1 {
			t.Errorf("%d commits of a minute waited; want 1", waits)
		}
		e.heard.want(t, "leases-alone")
	})
}

// A node that is stopped in order leaves nothing behind.
func TestDetachFlushes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEvening(false)
		defer e.stop()
		synctest.Wait()
		e.shared.be(func(context.Context) error { time.Sleep(300 * time.Millisecond); return nil }, nil)
		e.commit(t, lease("10.1.0.10", "id:01", fact.LeaseBound))
		e.book.Detach(t.Context())
		e.equal(t)
	})
}

func TestAdopt(t *testing.T) {
	old := func(seq int64, l fact.Lease) fact.Lease {
		l.Node, l.Seq, l.Boot, l.ExpiresBoot = "gw1", seq, "another machine's", 50*time.Hour
		return l
	}
	for _, c := range []struct {
		name  string
		mark  int64
		own   []fact.Lease
		there []fact.Lease
		want  string
	}{
		{"a new machine", 0, nil, []fact.Lease{
			old(5, lease("10.1.0.10", "id:01", fact.LeaseBound)), old(6, lease("10.1.0.11", "id:02", fact.LeaseReleased)),
			old(7, lease("10.1.0.20", "id:03", fact.LeaseBound)), // another server's part of the pool
		}, "10.1.0.10 id:01 bound, 10.1.0.11 id:02 released"},
		{"what was copied and not changed since", 1, []fact.Lease{lease("10.1.0.10", "id:01", fact.LeaseBound)},
			[]fact.Lease{old(1, lease("10.1.0.10", "id:01", fact.LeaseBound))}, ""},
		{"what was copied, and changed by the machine that stood in", 1, []fact.Lease{lease("10.1.0.10", "id:01", fact.LeaseBound)},
			[]fact.Lease{old(2, lease("10.1.0.10", "id:02", fact.LeaseBound))}, "10.1.0.10 id:02 bound"},
		{"what was not copied yet is newer", 0, []fact.Lease{lease("10.1.0.10", "id:01", fact.LeaseBound)},
			[]fact.Lease{old(900, lease("10.1.0.10", "id:02", fact.LeaseBound))}, ""},
		{"a client that we gave another address", 0, []fact.Lease{lease("10.1.0.10", "id:01", fact.LeaseBound)},
			[]fact.Lease{old(900, lease("10.1.0.11", "id:01", fact.LeaseBound))}, "10.1.0.10 id:01 bound, 10.1.0.11 id:01 released"}, // ours was lifted too
		{"one client of two nodes' times", 0, nil, []fact.Lease{
			old(9, lease("10.1.0.10", "id:01", fact.LeaseBound)), old(8, lease("10.1.0.11", "id:01", fact.LeaseBound)),
		}, "10.1.0.11 id:01 released, 10.1.0.10 id:01 bound"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := &evening{own: newNumbered(false), shared: newNumbered(true)}
			e.feed = NewFeed("gw1", Config{Segments: []Segment{hall()}}, e.shared, false, newClock(), NewFeedMetrics(prometheus.NewRegistry()), e.heard.tell)
			if err := e.own.Commit(t.Context(), c.own); err != nil {
				t.Fatal(err)
			}
			e.own.marks["book-1"] = c.mark
			before := e.own.last
			for _, l := range c.there {
				e.shared.rows[l.Segment+" "+l.Addr.String()] = l
			}
			if _, err := e.feed.Attach(e.own).Load(t.Context()); err != nil {
				t.Fatal(err)
			}
			got := ""
			all, _ := e.own.Changes(t.Context(), 0, 100)
			for _, l := range all {
				if l.Seq > before {
					if got != "" {
						got += ", "
					}
					got += fmt.Sprint(l.Addr, " ", l.Client, " ", l.State)
				}
			}
			if got != c.want {
				t.Errorf("adopted %q, want %q", got, c.want)
			}
		})
	}
}

// A machine that has run for long adopts a lease that another one granted just now: it must
// not count from its own boot.
func TestAdoptedLeaseLastsAWholeOneFromNow(t *testing.T) {
	c := newClock()
	for _, wall := range []time.Time{c.wall, {}, c.wall.Add(100 * 365 * 24 * time.Hour)} {
		l := lease("10.1.0.10", "id:01", fact.LeaseBound)
		l.Boot, l.Start, l.Expires = "boot-2", c.wall.Add(-time.Minute), c.wall.Add(59*time.Minute)
		got := anew(moment{c.boot, wall}, c.id, time.Hour, l)
		if left := got.ExpiresBoot - c.boot; left < time.Hour || left > 2*time.Hour || got.Boot != c.id {
			t.Errorf("wall clock %v: %v left of boot %s", wall, left, got.Boot)
		}
	}
	d := newDesk(t, hall())
	l := lease("10.1.0.10", "id:01", fact.LeaseBound)
	l.Boot = "boot-2"
	d.g.restore(read(d.clock), []fact.Lease{anew(read(d.clock), d.clock.Boot(), time.Hour, l)})
	if b := d.g.pool.at(addr("10.1.0.10")); b.state != bound {
		t.Errorf("the pool has it as %v", b.state)
	}
}

func TestAdoptDoesNotWaitForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEvening(false)
		defer func() { e.shared.be(nil, nil); e.stop() }()
		synctest.Wait()
		e.shared.be(hang, nil)
		begun := time.Now()
		if _, err := e.book.Load(t.Context()); err != nil || time.Since(begun) != adoptFor {
			t.Errorf("a new machine waited %v, %v; want %v", time.Since(begun), err, adoptFor)
		}
		e.commit(t, lease("10.1.0.10", "id:01", fact.LeaseBound))
		begun = time.Now()
		if _, err := e.book.Load(t.Context()); err != nil || time.Since(begun) != adoptAgain {
			t.Errorf("one with leases waited %v, %v; want %v", time.Since(begun), err, adoptAgain)
		}
	})
}

// A reservation may lie outside of the pool.
func TestReservationsAreAdopted(t *testing.T) {
	cfg := hall()
	cfg.Reservations = []plan.Reservation{{Name: "camera", MAC: mac(1), Addr: addr("10.1.0.200")}}
	f := NewFeed("gw1", Config{Segments: []Segment{cfg}}, newNumbered(true), false, newClock(), NewFeedMetrics(prometheus.NewRegistry()), func(fact.Event) {})
	for a, want := range map[string]bool{"10.1.0.10": true, "10.1.0.20": false, "10.1.0.200": true} {
		if got := f.mine("hall", addr(a)) != nil; got != want {
			t.Errorf("mine(%s) = %v", a, got)
		}
	}
	if f.mine("server", addr("10.1.0.10")) != nil {
		t.Error("of a segment that the node does not serve")
	}
}

// The database was put back from a copy while this node was down: what it lost comes again.
func TestSharedBookWentBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEvening(false)
		e.commit(t, lease("10.1.0.10", "id:01", fact.LeaseBound))
		time.Sleep(2 * markEvery)
		saved := e.shared.copy()
		e.commit(t, lease("10.1.0.11", "id:02", fact.LeaseBound))
		time.Sleep(2 * markEvery)
		e.stop()
		e.shared.rows = saved
		e.follow()
		defer e.stop()
		synctest.Wait()
		e.equal(t)
	})
}

// A machine that took another one's place while the database was away: what it granted is
// newer than what the old one had left there, although its numbers begin anew.
func TestNewMachineIsNewer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEvening(false)
		defer func() { e.stop() }()
		synctest.Wait()
		e.shared.be(away, nil)
		l := lease("10.1.0.10", "id:01", fact.LeaseBound)
		l.Node, l.Seq = "gw1", 900
		e.shared.mu.Lock()
		e.shared.rows["hall 10.1.0.10"] = l
		e.shared.mu.Unlock()
		e.commit(t, lease("10.1.0.10", "id:02", fact.LeaseBound))
		synctest.Wait()
		e.shared.be(nil, nil)
		time.Sleep(copyLast)
		synctest.Wait()
		e.equal(t)
		e.commit(t, lease("10.1.0.10", "id:03", fact.LeaseBound))
		synctest.Wait()
		e.equal(t)
	})
}

// A node with nothing to copy finds out by itself that the database answers in time again.
func TestIdleNodeComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEvening(true)
		defer e.stop()
		synctest.Wait()
		e.shared.be(func(context.Context) error { time.Sleep(1200 * time.Millisecond); return nil }, nil)
		e.commit(t, lease("10.1.0.10", "id:01", fact.LeaseBound))
		time.Sleep(time.Minute)
		e.heard.want(t, "leases-alone")
		e.shared.be(nil, nil)
		time.Sleep(5 * time.Second)
		e.heard.want(t, "leases-synchronous")
	})
}
