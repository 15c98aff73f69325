package resolver

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/plan"
)

// A resolver is down when it has answered nothing at all for downAfter while it was asked
// downQueries times or more. That one name gets no answer says nothing of the resolver.
const (
	downAfter   = time.Second
	downQueries = 3
	// It is asked after the others already when it has been silent for twice as long as it
	// usually takes, and for at least this.
	doubtAfter = 100 * time.Millisecond
	// It is asked after the others when it had nothing but failures for that many different
	// names one after another: a resolver that has lost its own uplink answers so.
	doubtNames = 5
	// A resolver that has answered this many questions and kept the case of letters in none
	// cannot do it: it is asked in lower case from then on.
	caseTries = 10
)

// standing is how much a resolver is to be trusted with a question.
type standing int

const (
	well   standing = iota
	doubt           // something is odd: the others first
	downed          // known to be of no use: the last resort
)

// upstream is one resolver and how it is. Safe for concurrent use.
//
//	well ──refused, silent, failures only──► doubt ──silent for 1 s, probes fail──► down
//	  ▲                                        │                                     │
//	  └───────────────an answer────────────────┴─────────────────────────────────────┘
type upstream struct {
	name string                // as people are told of it, and as metrics have it
	addr func() netip.AddrPort // where it is now
	by   plan.Transport
	tier int      // asked when none of a lower tier is well
	half uint64   // of names: 1 or 2 when it shares them with another by their hash, else 0
	keep *streams // its connections, nil for UDP

	mu          sync.Mutex
	srtt, dev   time.Duration // smoothed as in RFC 6298 section 2
	outstanding int
	unanswered  int       // questions since the last answer
	since       time.Time // of the first of them
	last        time.Time // of the last answer
	refused     bool      // nobody listened when it was asked last
	failing     []string  // different names that it could not resolve since the last good answer
	down        bool
	why         string
	kept, lost  int // answers in the question's case, and in another
	probing     bool
	tried       time.Time // of the last probe
}

func (u *upstream) isDown() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.down
}

// patience is how long to wait before another resolver is asked too.
func (u *upstream) patience() time.Duration {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.usual()
}

func (u *upstream) usual() time.Duration {
	if u.srtt == 0 {
		return hedgeMost
	}
	return min(max(u.srtt+4*u.dev, hedgeLeast), hedgeMost)
}

// stands says how the resolver is now, and what a question to it costs: its usual round trip
// for each question that it has to answer.
func (u *upstream) stands(now time.Time) (standing, time.Duration) {
	u.mu.Lock()
	defer u.mu.Unlock()
	cost := u.srtt * time.Duration(u.outstanding+1)
	switch {
	case u.down:
		return downed, cost
	case u.refused, len(u.failing) >= doubtNames, u.unanswered >= downQueries && now.Sub(u.since) > max(2*u.usual(), doubtAfter):
		return doubt, cost
	}
	return well, cost
}

// mixes tells whether to mix the case of letters (draft-vixie-dnsext-dns0x20).
func (u *upstream) mixes() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.kept > 0 || u.lost < caseTries
}

// caseSeen notes whether an answer was in the case of its question.
func (u *upstream) caseSeen(q ask, kept bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case !kept:
		u.lost++
	case len(q.name) > 8 && u.lost < caseTries: // long enough to have been mixed
		u.kept++
	}
}

func (u *upstream) asked(now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.unanswered == 0 {
		u.since = now
	}
	u.unanswered++
	u.outstanding++
}

// done ends what asked began, however it ended.
func (u *upstream) done() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.outstanding--
}

// silentSince tells whether nothing has come from it since then.
func (u *upstream) silentSince(then time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.last.Before(then)
}

// answered notes an answer. It is true when the resolver was down and is well again, which
// needs one that is no failure.
func (u *upstream) answered(q ask, rtt time.Duration, good bool) (back bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.unanswered, u.refused = 0, false
	u.last = time.Now()
	if u.srtt == 0 {
		u.srtt, u.dev = rtt, rtt/2
	} else {
		u.dev += ((u.srtt - rtt).Abs() - u.dev) / 4
		u.srtt += (rtt - u.srtt) / 8
	}
	if !good {
		if len(u.failing) < doubtNames && !slices.Contains(u.failing, string(q.name)) {
			u.failing = append(u.failing, string(q.name))
		}
		return false
	}
	u.failing = nil
	back, u.down = u.down, false
	return back
}

// failed notes a question without an answer; refused says that nobody listens there. It is
// true when the resolver is down from now on.
func (u *upstream) failed(now time.Time, refused bool) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.refused = u.refused || refused
	if u.down || u.unanswered < downQueries || now.Sub(u.since) < downAfter {
		return false
	}
	u.down, u.why = true, "does not answer"
	return true
}

// cannot notes that the resolver answers but cannot resolve; true when that is new.
func (u *upstream) cannot() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.down {
		return false
	}
	u.down, u.why = true, "answers but cannot resolve"
	return true
}

// begun notes that what answers there has been started anew: what was known of the one
// before counts no more, but for whether it was down.
func (u *upstream) begun() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.refused, u.failing, u.unanswered = false, nil, 0
}

// wantsProbe tells whether to probe now, and takes the probe when so: at each chance while
// questions are unanswered or nothing but failures come or the resolver is down, and now and
// then in any case, because one that answers may still fail to resolve.
func (u *upstream) wantsProbe(now time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.probing || !u.down && u.unanswered == 0 && len(u.failing) < doubtNames && now.Sub(u.tried) < probeIdle {
		return false
	}
	u.probing, u.tried = true, now
	return true
}

func (u *upstream) probed() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.probing = false
}

func (u *upstream) check() fact.Check {
	u.mu.Lock()
	defer u.mu.Unlock()
	at := u.addr()
	c := fact.Check{Name: "upstream-" + u.name, Words: "the resolver " + u.name + " resolves", OK: !u.down, Measured: "not asked yet"}
	if u.down {
		c.Measured = u.why
		c.Hint = fmt.Sprintf("dig @%s -p %d . NS", at.Addr(), at.Port())
		if u.by == plan.TLS {
			c.Hint = fmt.Sprintf("kdig +tls-ca @%s -p %d . NS, and the clock: certificates need it right", at.Addr(), at.Port())
		}
	} else if u.srtt > 0 {
		c.Measured = "round trip " + u.srtt.Round(100*time.Microsecond).String()
	}
	return c
}
