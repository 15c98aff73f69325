package dhcp

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
)

const (
	// queueSize is how many ACKs may wait for the store: at 2,000 commits of one row a
	// second, the slowest that was measured, about as long as a client waits before it
	// repeats its REQUEST (4 s, RFC 2131 section 4.1); in batches far less.
	queueSize = 8192
	// batchSize bounds one transaction, so that the first in it does not wait for too many others.
	batchSize = 256
	// commitFor is how long a commit may take before it counts as failed.
	commitFor = 5 * time.Second
	// probeEvery is how often an offer is made while the store does not work: its REQUEST
	// finds out whether it works again.
	probeEvery = time.Second
)

// leaseBook keeps leases. Commit returns nil only when all of them are on disk, in the
// given order; after an error any of them may or may not be.
type leaseBook interface {
	Load(ctx context.Context) ([]fact.Lease, error)
	Commit(ctx context.Context, leases []fact.Lease) error
}

// entry is a grant on its way to the store, and the ACK that waits for it.
type entry struct {
	seg   *segment
	b     *binding
	gen   uint32
	rec   record
	lease fact.Lease
	since time.Time
	reply answer // its frame is the entry's own
	to    *link
}

// ledger writes grants to the book in groups: whatever has gathered while one commit was
// under way goes into the next, so that a quiet store answers at once and a busy one in
// batches (group commit).
type ledger struct {
	book     leaseBook
	clock    Clock
	metrics  *Metrics
	tell     *teller
	segments []*segment
	queue    chan *entry
	waiting  atomic.Int64 // entries in the queue or promised a place
	wake     chan struct{}

	told      bool // of the writer alone: the failure was told, its end not yet
	failing   atomic.Bool
	mu        sync.Mutex // of the rest
	cause     error
	nextProbe time.Duration
}

func newLedger(book leaseBook, clock Clock, segments []*segment, m *Metrics, tell *teller) *ledger {
	return &ledger{
		book: book, clock: clock, segments: segments, metrics: m, tell: tell,
		queue: make(chan *entry, queueSize), wake: make(chan struct{}, 1),
	}
}

// reserve keeps a place in the queue; false when it is full. Each place is used by put or
// given back by cancel.
func (l *ledger) reserve() bool {
	if l.waiting.Add(1) > queueSize {
		l.waiting.Add(-1)
		return false
	}
	return true
}

func (l *ledger) cancel() { l.waiting.Add(-1) }

func (l *ledger) put(e *entry) { l.queue <- e } // has room: see reserve

// mayOffer says whether to offer: always while the store works, else now and then.
func (l *ledger) mayOffer(at moment) bool {
	if !l.failing.Load() {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if at.boot < l.nextProbe {
		return false
	}
	l.nextProbe = at.boot + probeEvery
	return true
}

// stir has ended leases saved soon.
func (l *ledger) stir() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// run writes until the queue is closed and empty.
func (l *ledger) run(ctx context.Context) {
	batch := make([]*entry, 0, batchSize)
	for {
		batch = batch[:0]
		select {
		case e, ok := <-l.queue:
			if !ok {
				l.write(ctx, nil)
				return
			}
			batch = append(batch, e)
		case <-l.wake:
		}
		for len(batch) < batchSize {
			select {
			case e, ok := <-l.queue:
				if ok {
					batch = append(batch, e)
					continue
				}
			default:
			}
			break
		}
		l.write(ctx, batch)
	}
}

// write commits the batch, and after it what ended, in one transaction.
func (l *ledger) write(ctx context.Context, batch []*entry) {
	leases := make([]fact.Lease, 0, len(batch)+8)
	for _, e := range batch {
		leases = append(leases, e.lease)
	}
	// After the grants: the ends are read now, and so are newer than a grant of the same
	// address that was queued before.
	var ended [][]*binding
	for _, g := range l.segments {
		var bs []*binding
		leases, bs = g.unsaved(batchSize, leases, nil)
		ended = append(ended, bs)
	}
	if len(leases) == 0 {
		return
	}
	start := time.Now()
	cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitFor)
	err := l.book.Commit(cctx, leases)
	cancel()
	l.metrics.commit(time.Since(start), len(leases), err)
	l.note(err)
	for _, e := range batch {
		l.settle(e, err)
	}
	if err != nil {
		for i, g := range l.segments {
			g.resoil(ended[i])
		}
	}
}

// settle sends the ACK, or takes the grant back.
func (l *ledger) settle(e *entry, err error) {
	l.waiting.Add(-1)
	if err != nil {
		e.seg.notStored(e.b, e.gen)
		l.metrics.silent(storeDown)
		return
	}
	may, took := e.seg.stored(e.b, e.gen, &e.rec), time.Since(e.since)
	switch {
	case !may:
	case took > ackWithin:
		l.metrics.silent(tooLate)
	default:
		e.to.send(&e.reply)
		l.metrics.granted(time.Since(e.since))
	}
}

// note keeps and tells whether the store works.
func (l *ledger) note(err error) {
	was := l.failing.Load()
	if err == nil && !was {
		return
	}
	at := read(l.clock)
	l.mu.Lock()
	l.cause = err
	if err != nil && !was {
		l.nextProbe = at.boot + probeEvery
	}
	l.mu.Unlock()
	l.failing.Store(err != nil)
	if err != nil {
		l.told = l.tell.say(at, fact.Alarm, "lease-store-failed", "",
			"no lease can be stored, so no client gets an address: %v; make room or make the state directory writable, it goes on by itself", err) || l.told
		return
	}
	if l.told { // once for each time that the failure was told, so that the last word is true
		l.told = false
		l.tell.forget("lease-store-works", "")
		l.tell.say(at, fact.Info, "lease-store-works", "", "leases can be stored again")
	}
}

func (l *ledger) check() fact.Check {
	c := fact.Check{Name: "dhcp-store", Words: "leases can be stored", Goal: "every commit", OK: !l.failing.Load()}
	c.Measured = fmt.Sprintf("%d waiting", l.waiting.Load())
	if !c.OK {
		l.mu.Lock()
		c.Measured = fmt.Sprintf("%v", l.cause)
		l.mu.Unlock()
		c.Hint = "df -h and ls -ld of the state directory; no ACK leaves until a commit succeeds, clients ask again by themselves"
	}
	return c
}
