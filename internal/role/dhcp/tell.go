package dhcp

import (
	"fmt"
	"sync"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
)

// tellEvery is how often one kind of event about one subject is told: what clients can
// provoke must not bury what a person has to read.
const tellEvery = time.Minute

// teller tells events, each kind and subject once a minute, with the number left out since.
// Subjects are segments and devices of the plan, so the map is bounded. Safe for concurrent use.
type teller struct {
	task string
	to   func(fact.Event)
	mu   sync.Mutex
	last map[string]told
}

type told struct {
	at   time.Duration
	held int
}

func newTeller(task string, to func(fact.Event)) *teller {
	return &teller{task: task, to: to, last: map[string]told{}}
}

// say tells the event, and that it did, unless the same was told within the last minute.
func (t *teller) say(at moment, severity fact.Severity, kind, subject, format string, args ...any) bool {
	t.mu.Lock()
	l, before := t.last[kind+" "+subject]
	if before && at.boot-l.at < tellEvery {
		l.held++
		t.last[kind+" "+subject] = l
		t.mu.Unlock()
		return false
	}
	t.last[kind+" "+subject] = told{at: at.boot}
	t.mu.Unlock()
	words := fmt.Sprintf(format, args...)
	if l.held > 0 {
		words += fmt.Sprintf(" (and %d times more since this was last told)", l.held)
	}
	t.to(fact.Event{Time: at.wall, Task: t.task, Kind: kind, Severity: severity, Words: words})
	return true
}

// forget lets the event be told again at once: what it told of is over.
func (t *teller) forget(kind, subject string) {
	t.mu.Lock()
	delete(t.last, kind+" "+subject)
	t.mu.Unlock()
}
