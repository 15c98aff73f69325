//go:build linux

package napt

import (
	"fmt"

	"github.com/hotstage/hotstage/internal/fact"
)

// alarmShare is the fill, in percent, at which there is no time left to lose: a break of
// 3,000 people adds a third of the table within a minute.
const alarmShare = 85

// step is a fill of the table that a person should hear of.
type step struct {
	percent  int
	severity fact.Severity
	advice   string
}

// steps follow YAPC::Asia 2013, which kept its table at about 50% so that a burst fits.
var steps = [...]step{
	{50, fact.Info, "a burst may soon not fit"},
	{70, fact.Warning, "shorten napt.timeout.udp in the plan, or raise the table, before the next break"},
	{alarmShare, fact.Alarm, "when it is full, new connections fail for everybody: raise net.netfilter.nf_conntrack_max now"},
}

// back is how far, in percent, the fill must fall below a step before it is told again.
const back = 5

// levels remembers which steps have been passed. The zero value has seen none.
type levels struct{ passedSteps int }

// passed tells of the highest step that the fill has passed since, if any.
func (l *levels) passed(count, size int) (e fact.Event, ok bool) {
	if size <= 0 {
		return e, false
	}
	percent := count * 100 / size
	for l.passedSteps > 0 && percent < steps[l.passedSteps-1].percent-back {
		l.passedSteps--
	}
	for l.passedSteps < len(steps) && percent >= steps[l.passedSteps].percent {
		x := steps[l.passedSteps]
		l.passedSteps++
		e = fact.Event{Kind: fmt.Sprintf("table-over-%d", x.percent), Severity: x.severity,
			Words: fmt.Sprintf("The translation table is %d%% full (%d of %d flows): %s.", percent, count, size, x.advice)}
		ok = true
	}
	return e, ok
}
