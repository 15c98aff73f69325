package dhcp

import (
	"context"
	"fmt"
	"slices"
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
	// quickCommit is how long a commit takes at most whose receiver may wait for it: 4 ms are
	// the slow tail of a local disk, and one message more in its socket at 6,000 devices a minute.
	quickCommit = 4 * time.Millisecond
	// probeEvery is how often an offer is made while the store does not work: its REQUEST
	// finds out whether it works again.
	probeEvery = time.Second
)

// leaseBook keeps leases. Commit returns nil only when all of them are on disk, in the
// given order; after an error any of them may or may not be. It does not keep the slice.
type leaseBook interface {
	Load(ctx context.Context) ([]fact.Lease, error)
	Commit(ctx context.Context, leases []fact.Lease) error
}

// entry is a message's reply on its way: at once, or after the store has what it grants.
type entry struct {
	to    *link // whose segment it is of
	since time.Time
	reply answer
}

// own is a copy that lasts: an entry is its receiver's until that receives again.
func (e *entry) own() *entry {
	c := *e
	c.reply.frame = slices.Clone(c.reply.frame)
	return &c
}

// ledger writes grants to the book in groups, one group after the other.
//
//	receiver ── all grants of one receive ──► book.Commit ──► their ACKs      while commits are quick
//	    └────── queue ──► run: all that gathered ──► book.Commit ──► ACKs     when one is under way or not quick
//
// So the receiver waits for a quick book itself, and messages gather in its socket meanwhile
// (group commit), without a hand-over that costs more than the commit; and a slow book, or one
// that fails, holds no receiver up. Which way a grant goes does not matter for what the book
// has in the end: what is not an address's last word any more is not written.
type ledger struct {
	book     leaseBook
	clock    Clock
	metrics  *Metrics
	tell     *teller
	segments []*segment
	queue    chan *entry
	waiting  atomic.Int64 // entries in the queue or promised a place
	wake     chan struct{}

	writing chan struct{} // has one while a commit is under way; whose it is has
	leases  []fact.Lease
	ended   [][]*binding

	slow      atomic.Bool // the last commit was not quick
	failing   atomic.Bool
	mu        sync.Mutex    // of the rest
	begun     time.Duration // boot clock at the start of the commit that is under way; 0: none is
	told      bool          // the failure was told, its end not yet
	cause     error
	nextProbe time.Duration
}

func newLedger(book leaseBook, clock Clock, segments []*segment, m *Metrics, tell *teller) *ledger {
	return &ledger{
		book: book, clock: clock, segments: segments, metrics: m, tell: tell, ended: make([][]*binding, len(segments)),
		queue: make(chan *entry, queueSize), wake: make(chan struct{}, 1), writing: make(chan struct{}, 1),
	}
}

// reserve keeps a place in the queue; false when it is full. Each place is used by take or
// given back by cancel.
func (l *ledger) reserve() bool {
	if l.waiting.Add(1) > queueSize {
		l.waiting.Add(-1)
		return false
	}
	return true
}

func (l *ledger) cancel() { l.waiting.Add(-1) }

// take has the grants stored and their ACKs sent: when it returns, or later where the book is
// busy or slow. The entries are the caller's again when it returns.
func (l *ledger) take(ctx context.Context, grants []*entry) {
	if len(grants) == 0 {
		return
	}
	if !l.slow.Load() && !l.failing.Load() {
		select {
		case l.writing <- struct{}{}:
			l.write(ctx, grants)
			return
		default:
		}
	}
	for _, e := range grants {
		l.queue <- e.own() // has room: see reserve
	}
}

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
	for open := true; open; {
		batch = batch[:0]
		select {
		case e, ok := <-l.queue:
			if open = ok; ok {
				batch = append(batch, e)
			}
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
		l.writing <- struct{}{}
		l.write(ctx, batch)
	}
}

// write commits the batch, and after it what ended, in one transaction, and sends the ACKs.
// writing is the caller's; it is given up before they are sent. The batch's order is changed.
func (l *ledger) write(ctx context.Context, batch []*entry) {
	defer l.waiting.Add(-int64(len(batch)))
	l.leases = l.leases[:0]
	batch = slices.DeleteFunc(batch, func(e *entry) bool {
		f, last := e.to.seg.lastWord(&e.reply)
		if last {
			l.leases = append(l.leases, f)
		}
		return !last
	})
	// After the grants: the ends are read now, and so are newer than a grant of the same address.
	for i, g := range l.segments {
		l.leases, l.ended[i] = g.unsaved(batchSize, l.leases, l.ended[i][:0])
	}
	if len(l.leases) == 0 {
		<-l.writing
		return
	}
	err := l.commit(ctx)
	acks := slices.DeleteFunc(batch, func(e *entry) bool { return !l.settle(e, err) })
	if err != nil {
		for i, g := range l.segments {
			g.resoil(l.ended[i])
		}
	}
	clear(l.leases)
	<-l.writing
	send(acks)
	for _, e := range acks {
		l.metrics.granted(time.Since(e.since))
	}
}

// commit has the book write what is in leases, and takes note of how that went.
func (l *ledger) commit(ctx context.Context) error {
	at := read(l.clock)
	l.mu.Lock()
	l.begun = at.boot
	l.mu.Unlock()
	start := time.Now()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitFor)
	err := l.book.Commit(ctx, l.leases)
	cancel()
	took := time.Since(start)
	l.slow.Store(took > quickCommit)
	l.metrics.commit(took, len(l.leases), err)
	l.note(err)
	return err
}

// settle tells the segment whether the grant is stored; true when its ACK may leave.
func (l *ledger) settle(e *entry, err error) bool {
	a := &e.reply
	switch {
	case err != nil:
		e.to.seg.notStored(a.grant, a.gen)
		l.metrics.silent(storeDown)
		return false
	case !e.to.seg.stored(a.grant, a.gen, &a.rec):
		return false
	case time.Since(e.since) > ackWithin:
		l.metrics.silent(tooLate)
		return false
	}
	return true
}

// note ends a commit: it keeps and tells whether the store works.
func (l *ledger) note(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.begun = 0
	l.works(err)
}

// overdue counts a commit as failed that has not ended in twice its time: a disk that is stuck
// does not even say so.
func (l *ledger) overdue(at moment) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.begun != 0 && at.boot-l.begun > 2*commitFor {
		l.works(fmt.Errorf("the disk has not answered for %v", (at.boot - l.begun).Round(time.Second)))
	}
}

// works keeps and tells whether the store works; mu is held.
func (l *ledger) works(err error) {
	was := l.failing.Load()
	if err == nil && !was {
		return
	}
	at := read(l.clock)
	l.cause = err
	if err != nil && !was {
		l.nextProbe = at.boot + probeEvery
	}
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
