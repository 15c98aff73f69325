package report

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
)

//go:embed report.html.tmpl
var page string

// maxEvents bounds the page: the first and the last of a flood tell what it was.
const maxEvents = 400

// WriteHTML writes the rehearsal as one page that needs no other file and no network: the
// verdict first, then the checks, the plots and what they need to be understood. Names may
// hold anything.
func WriteHTML(w io.Writer, r *Rehearsal) error {
	t, err := template.New("report").Funcs(template.FuncMap{
		"megabytes": megabytes,
	}).Parse(page)
	if err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	if err := t.Execute(w, newView(r)); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

// view is the rehearsal as the page shows it.
type view struct {
	*Rehearsal
	Verdict string
	Facts   []string
	Failed  string // the checks that did, in words
	Plots   []plot
	Quiet   string // what stayed at zero and has no plot
	Marks   []mark
	Usage   []usage
	Totals  []total
	Log     []entry
	Left    int // events left out
	When    string
}

type mark struct {
	Number      int
	When, Words string
}

type usage struct {
	Name, RSS, Peak, CPU string
	Share                float64 // of the largest peak, in percent, for the bar
	Restarts             int
}

type entry struct{ At, Clock, Node, Task, Severity, Words string }

func newView(r *Rehearsal) view {
	v := view{Rehearsal: r, Verdict: r.verdict(), Facts: r.facts(), Totals: totals(r.Counts)}
	var quiet []string
	v.Plots, quiet = plots(r)
	v.Quiet = strings.Join(quiet, "; ")
	var failed []string
	for _, c := range r.Checks {
		if !c.OK {
			failed = append(failed, c.Words+": "+c.Measured)
		}
	}
	v.Failed = strings.Join(failed, "; ")
	if !r.Start.IsZero() {
		v.When = r.Start.Format("2 January 2006, 15:04:05 MST")
	}
	zero := r.zero()
	for i, f := range r.Faults {
		m := mark{i + 1, clock(f.Start.Sub(zero).Seconds()), f.Words}
		if !f.End.IsZero() {
			m.When += " – " + clock(f.End.Sub(zero).Seconds())
		}
		v.Marks = append(v.Marks, m)
	}
	v.Usage = usages(r.Nodes)
	v.Log, v.Left = entries(r.Events, zero)
	return v
}

// zero is the start of the plots' time axis and of the lists: when the stretch began that
// the first sample closes.
func (r *Rehearsal) zero() time.Time {
	if len(r.Series) == 0 {
		return r.Start
	}
	first := slices.MinFunc(r.Series, func(a, b fact.Sample) int { return a.Time.Compare(b.Time) })
	stretch := time.Duration(0)
	for _, s := range r.Series {
		if gap := s.Time.Sub(first.Time); s.Series == first.Series && gap > 0 && (stretch == 0 || gap < stretch) {
			stretch = gap
		}
	}
	return first.Time.Add(-stretch)
}

func usages(nodes []Node) (all []usage) {
	var most int64 = 1
	for _, n := range nodes {
		most = max(most, n.PeakRSS)
	}
	for _, n := range nodes {
		all = append(all, usage{
			Name: n.Name, RSS: megabytes(n.RSS), Peak: megabytes(n.PeakRSS), CPU: span(time.Duration(n.CPU)),
			Share: 100 * float64(n.PeakRSS) / float64(most), Restarts: n.Restarts,
		})
	}
	return all
}

func entries(events []fact.Event, zero time.Time) (all []entry, left int) {
	show := events
	if left = len(events) - maxEvents; left > 0 {
		show = slices.Concat(events[:maxEvents/2], events[len(events)-maxEvents/2:])
	} else {
		left = 0
	}
	for _, e := range show {
		at := e.Time.Sub(zero).Seconds()
		if at < 0 {
			all = append(all, entry{"before", e.Time.Format("15:04:05"), e.Node, e.Task, string(e.Severity), e.Words})
			continue
		}
		all = append(all, entry{clock(at), e.Time.Format("15:04:05"), e.Node, e.Task, string(e.Severity), e.Words})
	}
	return all, left
}
