package vrrp

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/hotstage/hotstage/internal/plan"
)

// moment is a time on a clock that goes on while the process is stopped and while the
// machine sleeps, and that no step of the wall clock moves.
type moment = time.Duration

const never moment = 1<<63 - 1

// state is where a node stands with one service address: RFC 9568 section 6.4, where a
// master is called active.
//
//	         link there                no master heard for 3 intervals and a skew,
//	initial ───────────► backup ─────► or it says that it stops: after the skew
//	   ▲                  ▲  │ ▲         │
//	   │ link gone, stop  │  └─┘ hears   ▼
//	   │                  │  a master   taking ── the node has the address ──► master
//	   │                  │              │                                      │
//	   │                  └──────────────┴─ hears a better one; was paused ─────┤
//	   └────────────────────────────────────────────────────────────────────────┘
//
// Only a master advertises and answers. RFC 9568 does not know taking: it is the time that the
// kernel needs, during which a master that is to be replaced goes on.
type state uint8

const (
	initial state = iota
	backup
	taking
	master
)

func (s state) String() string { return [...]string{"initial", "backup", "taking", "master"}[s] }

// deed is what a machine wants done, in the order in which it says so.
type deed uint8

const (
	hold      deed = iota // have the address
	drop                  // have it no more
	advertise             // say to the other nodes who is master
	resign                // say to them that nobody is
	announce              // say to all of the link who has the address
	alarm                 // say to people that another node is master too
)

// announcements after the first follow at these distances, and then each announceEvery: the
// first may be lost while a switch learns, and a device that was away hears a later one.
var announcements = [...]time.Duration{50 * time.Millisecond, 200 * time.Millisecond, 750 * time.Millisecond, time.Second, 2 * time.Second}

const (
	announceEvery = 5 * time.Second
	// rivalLeast is how long another master may be heard before people are told, at short
	// intervals: a node that has just learnt of a better one is no fault.
	rivalLeast = 300 * time.Millisecond
	// rivalMemory is how long the last word of another master counts.
	rivalMemory = 10 * time.Second
	// rivalTold is how often people are told again while it lasts.
	rivalTold = time.Minute
	// mostUnwell is the highest priority of a node that cannot resolve.
	mostUnwell = 200 - plan.PriorityUnwell
)

// machine is the state of one service address on this node. It is pure: the time is passed
// in. Not safe for concurrent use.
type machine struct {
	own      netip.Addr // what its advertisements come from
	priority int
	interval time.Duration
	preempt  bool

	state      state
	since      moment
	why        string        // of the state
	learned    time.Duration // interval of the master that was heard last
	downAt     moment        // of a backup: when no master is left
	sent       moment        // of a master: the last advertisement
	sendAt     moment
	said       moment // of a master: the last announcement
	announceAt moment
	announced  int
	heard      word  // the last advertisement that was obeyed
	rival      rival // another master
}

// word is an advertisement, as far as the machine needs it.
type word struct {
	from     netip.Addr
	priority int
	interval time.Duration
	at       moment
}

// rival is another master, by the name of its address.
type rival struct {
	who         string
	first, last moment
	told        moment
}

// start begins as a backup, whatever the priority: RFC 9568 section 6.4.1 makes only the
// owner of the address begin as master.
func (m *machine) start(now moment, why string) {
	m.learned = m.interval
	m.become(backup, now, why)
	m.downAt = now + m.down(m.learned)
}

func (m *machine) become(s state, now moment, why string) { m.state, m.since, m.why = s, now, why }

// skew is Skew_Time and down Active_Down_Interval of RFC 9568 section 6.1, at an interval: that
// of the master that was heard last for a backup, its own for how long a master may say nothing
// before a node of less priority takes over.
func (m *machine) skew(interval time.Duration) time.Duration {
	return time.Duration(256-m.priority) * interval / 256
}

func (m *machine) down(interval time.Duration) time.Duration { return 3*interval + m.skew(interval) }

// tick does what is due. It comes before everything else that happens at now: a master that
// has said nothing for so long that another may be master is none any more.
func (m *machine) tick(now moment) (deeds []deed) {
	switch {
	case m.state == master && now-m.sent > m.down(m.interval):
		why := fmt.Sprintf("said nothing for %v: was paused, or the machine was too busy", (now - m.sent).Round(time.Millisecond))
		m.start(now, why)
		// Who has become master meanwhile is heard within one of these.
		m.downAt = now + 2*m.interval
		return []deed{drop}
	case m.state == backup && now >= m.downAt:
		m.become(taking, now, m.reason())
		return []deed{hold}
	}
	if m.state != master {
		return deeds
	}
	if now >= m.sendAt {
		deeds = append(deeds, m.advertised(now))
	}
	if now >= m.announceAt {
		deeds = append(deeds, m.announce(now))
	}
	return deeds
}

// heldAt is called after hold, after tick, once the node has the address: now it is master.
func (m *machine) heldAt(now moment) []deed {
	if m.state != taking {
		return []deed{drop} // it has come too late
	}
	m.become(master, now, m.why)
	m.announced = 0
	m.rival = rival{told: m.rival.told}
	return []deed{m.advertised(now), m.announce(now)}
}

// reason says why a backup becomes master now.
func (m *machine) reason() string {
	switch h := m.heard; {
	case !h.from.IsValid():
		return "no other master was there"
	case h.priority == 0:
		return h.from.String() + " stopped"
	case h.priority < m.priority && m.downAt-h.at < m.down(m.learned):
		return fmt.Sprintf("%s has priority %d only", h.from, h.priority)
	default:
		return fmt.Sprintf("nothing was heard of %s any more", h.from)
	}
}

func (m *machine) advertised(now moment) deed {
	m.sent, m.sendAt = now, now+m.interval
	return advertise
}

func (m *machine) announce(now moment) deed {
	next := announceEvery
	if m.announced < len(announcements) {
		next = announcements[m.announced]
	}
	m.announced++
	m.said, m.announceAt = now, now+next
	return announce
}

// hear takes an advertisement of another node of the plan, after tick: RFC 9568 sections
// 6.4.2 and 6.4.3.
func (m *machine) hear(now moment, w word) []deed {
	switch m.state {
	case backup, taking:
		return m.follow(now, w)
	case master:
	default:
		return nil
	}
	switch {
	case w.priority == 0:
		return []deed{m.advertised(now)}
	case w.priority > m.priority || w.priority == m.priority && m.own.Less(w.from):
		m.become(backup, now, fmt.Sprintf("%s has priority %d", w.from, w.priority))
		m.obey(now, w)
		return []deed{drop}
	}
	deeds := []deed{m.advertised(now)} // so that it learns of us
	if m.contend(now, w.from.String(), max(3*m.interval, rivalLeast)) {
		deeds = append(deeds, alarm)
	}
	return deeds
}

// follow is hear of a backup. Without preempt a worse master is obeyed too, unless it says by
// its priority that it cannot resolve and this node can.
func (m *machine) follow(now moment, w word) (deeds []deed) {
	unwell := w.priority <= mostUnwell && m.priority > mostUnwell
	switch {
	case w.priority == 0:
		m.heard = w
		m.downAt = now + m.skew(m.learned)
	case w.priority >= m.priority || !m.preempt && !unwell:
		if m.state == taking {
			deeds = []deed{drop}
			m.become(backup, now, fmt.Sprintf("%s has priority %d", w.from, w.priority))
		}
		m.obey(now, w)
	default: // its time runs
		m.heard = w
	}
	return deeds
}

func (m *machine) obey(now moment, w word) {
	m.heard, m.learned = w, w.interval
	m.downAt = now + m.down(m.learned)
}

// claim notes, after tick, that somebody else says on the link that he has the address. It
// answers by saying so too.
func (m *machine) claim(now moment, who string) (deeds []deed) {
	if m.state != master || now-m.since < max(2*m.interval, rivalLeast) {
		return nil // the last word of the master before us
	}
	if now-m.said >= m.interval {
		m.announced = min(m.announced, len(announcements)-1)
		deeds = append(deeds, m.announce(now))
	}
	if m.contend(now, who, 0) {
		deeds = append(deeds, alarm)
	}
	return deeds
}

// contend notes another master, and tells whether people must hear of it now: when it has
// been there for so long.
func (m *machine) contend(now moment, who string, since time.Duration) bool {
	r := &m.rival
	if r.who != who || now-r.last > rivalMemory {
		r.who, r.first = who, now
	}
	r.last = now
	if now-r.first < since || r.told != 0 && now-r.told < rivalTold {
		return false
	}
	r.told = now
	return true
}

// contended tells whether another master has been there lately for longer than it should.
func (m *machine) contended(now moment) bool {
	return m.rival.who != "" && m.rival.told >= m.rival.first && m.rival.told != 0 && now-m.rival.last < rivalMemory
}

// weigh sets the priority; a master tells it at once.
func (m *machine) weigh(now moment, priority int) []deed {
	if m.priority == priority {
		return nil
	}
	m.priority = priority
	if m.state != master {
		return nil
	}
	return []deed{m.advertised(now)}
}

// stop ends it, because the node stops or its link is gone. Who can still be heard says that
// he stops (RFC 9568 section 6.4.3, Shutdown).
func (m *machine) stop(now moment, why string) (deeds []deed) {
	switch m.state {
	case master:
		deeds = []deed{drop, resign}
	case taking:
		deeds = []deed{drop}
	}
	m.become(initial, now, why)
	return deeds
}

// wake is when tick must be called next.
func (m *machine) wake() moment {
	switch m.state {
	case backup:
		return m.downAt
	case master:
		return min(m.sendAt, m.announceAt)
	}
	return never
}
