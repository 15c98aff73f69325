package resolver

import (
	"context"
	"errors"
	"time"

	"github.com/hotstage/hotstage/internal/wire"
)

const (
	rounds       = 3                     // questions at least until an errand is in vain
	refusedFirst = 25 * time.Millisecond // back-off when nobody listens anywhere
	refusedLast  = 200 * time.Millisecond
	refusedTime  = 3 * time.Second // a resolver that is started anew is back by then
)

// result is what one attempt brought.
type result struct {
	u   *upstream
	msg []byte
	err error
}

// good tells whether the resolver could say something of the name.
func (r *result) good() bool { return r.err == nil && resolved(r.msg) }

// resolved tells whether a response says something of its name.
func resolved(msg []byte) bool {
	rcode := msg[3] & 0xf
	return rcode == wire.DNSNoError || rcode == wire.DNSNXDomain
}

// errand is one question on its way through the resolvers: the best first, another when that
// one fails (at once) or is slower than usual, and so on.
type errand struct {
	f       *forwarder
	q       ask
	begun   time.Time
	results chan result
	order   []*upstream
	last    *upstream // asked last
	asked   time.Time // and when
	next    int       // how many attempts were begun
	running int
	hope    bool // somebody was not known to be down at the begin
	refused int  // rounds in which nobody listened
	timer   *time.Timer

	failed   []byte // the first answer that was a failure
	answered int    // how many were
}

// run is the whole errand. Of several failures the first one that was an answer is returned.
func (e *errand) run(ctx context.Context) ([]byte, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer func() {
		cancel()
		e.timer.Stop()
		for ; e.running > 0; e.running-- {
			<-e.results // no goroutine is left behind
		}
	}()
	e.timer = time.NewTimer(time.Hour)
	e.launch(ctx)
	for {
		select {
		case <-ctx.Done():
			return e.end()
		case <-e.timer.C:
			e.late(ctx)
		case r := <-e.results:
			e.running--
			if r.good() {
				return r.msg, nil
			}
			if e.over(ctx, r) {
				return e.end()
			}
		}
	}
}

func (e *errand) end() ([]byte, error) {
	if e.failed == nil {
		return nil, errSilent
	}
	return e.failed, nil
}

// launch asks the next resolver; once all have been asked they are ranked anew.
func (e *errand) launch(ctx context.Context) {
	if e.next%len(e.f.upstreams) == 0 {
		e.order = e.f.order(e.q)
	}
	u := e.order[e.next%len(e.order)]
	e.next++
	e.running++
	e.last, e.asked = u, time.Now()
	go func() {
		ctx, cancel := context.WithTimeout(ctx, attemptTime)
		defer cancel()
		msg, err := e.f.attempt(ctx, u, e.q)
		e.results <- result{u, msg, err}
	}()
	e.timer.Reset(u.patience())
}

// late is when the one asked last has taken longer than usual: another is asked too. Who is
// slow but answers others is spared, and so is who has the question already: only as many more
// questions go out as the budget allows, lest slow resolvers get twice the questions.
func (e *errand) late(ctx context.Context) {
	switch {
	case e.running == 0: // nobody listened a moment ago
		e.launch(ctx)
	case e.next >= max(rounds, len(e.order)):
	case e.next < len(e.order) && e.last.silentSince(e.asked), e.f.hedges.take():
		e.launch(ctx)
	default:
		e.f.m.spared.Inc()
		e.timer.Reset(e.last.patience())
	}
}

// over works on an attempt that was no good; true when there is nobody left to ask.
func (e *errand) over(ctx context.Context, r result) bool {
	if r.err == nil {
		if e.failed == nil {
			e.failed = r.msg
		}
		if e.answered++; e.answered >= len(e.order) {
			return true
		}
	}
	switch {
	case e.next < len(e.order): // some have not been asked
		e.launch(ctx)
	case e.running > 0:
	case e.failed != nil:
		return true
	case absent(r.err) && e.next%len(e.order) != 0:
		e.launch(ctx)
	case absent(r.err) && time.Since(e.begun) < refusedTime && e.hope:
		e.timer.Reset(min(refusedFirst<<min(e.refused, 10), refusedLast))
		e.refused++
	case absent(r.err):
		return true
	case e.next < max(rounds, len(e.order)) && !errors.Is(r.err, errSockets):
		e.launch(ctx)
	default:
		return true
	}
	return false
}
