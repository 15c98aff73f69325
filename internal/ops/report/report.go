// Package report tells a person what a rehearsal found: as a table on the terminal, as a
// page with plots that needs nothing else, and as JSON with keys that stay.
package report

import (
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
)

// Format is the version of report.json. Keys are added without a new number; a key that
// changes its meaning or goes away gets one.
const Format = 1

// Rehearsal is everything a rehearsal found. The zero value of what was not measured is
// left out of the pages. doc/report.md explains each key.
type Rehearsal struct {
	Event    string    `json:"event"`      // the event's name in the plan
	Plan     string    `json:"plan"`       // the plan file as it was given
	Hash     string    `json:"plan_hash"`  // SHA-256 of the plan's source, hex
	Version  string    `json:"version"`    // of the program
	Start    time.Time `json:"start"`      // when building the venue began
	Duration Seconds   `json:"duration_s"` // from Start to the verdict
	Seed     int64     `json:"seed"`       // the same seed plays the same arrivals
	People   int       `json:"people"`
	Devices  int       `json:"devices"`
	Host     Host      `json:"host"`

	Checks []fact.Check       `json:"checks"` // the verdict: every one must be OK
	Gaps   []Gap              `json:"gaps"`   // what this machine could not rehearse
	Nodes  []Node             `json:"nodes"`
	Counts map[string]int64   `json:"counts"` // totals by stable names, for example "dhcp_acks"
	Limits map[string]float64 `json:"limits"` // by series: a value to compare it with, a line in its plot
	Faults []Fault            `json:"faults"` // what the script broke, marked in the plots
	Series []fact.Sample      `json:"series"` // values over time
	Events []fact.Event       `json:"events"` // what the nodes told, oldest first
}

// Host is the machine that the rehearsal ran on.
type Host struct {
	Name   string `json:"name,omitempty"`
	Kernel string `json:"kernel"`       // for example "Linux 6.18.0"
	CPUs   int    `json:"cpus"`         // usable by the rehearsal
	Memory int64  `json:"memory_bytes"` // of the machine
	Root   bool   `json:"root"`         // false: in an unprivileged user namespace
}

// Gap is something that this machine could not rehearse.
type Gap struct {
	Words string `json:"words"`          // what was left out and why
	Hint  string `json:"hint,omitempty"` // what to do to rehearse it
}

// Node is what one node's process took.
type Node struct {
	Name     string  `json:"name"`
	RSS      int64   `json:"rss_bytes"`      // resident at the end
	PeakRSS  int64   `json:"peak_rss_bytes"` // resident at most
	CPU      Seconds `json:"cpu_s"`          // user and system time
	Restarts int     `json:"restarts"`       // tasks and processes started again
}

// Fault is a stretch of time in which the script had something broken.
type Fault struct {
	Start time.Time `json:"start"`
	End   time.Time `json:"end,omitzero"` // zero: until the end
	Words string    `json:"words"`        // for example "kill srv1"
}

// Seconds is a duration that JSON shows in seconds.
type Seconds time.Duration

// MarshalJSON gives seconds with milliseconds.
func (s Seconds) MarshalJSON() ([]byte, error) {
	return fmt.Appendf(nil, "%.3f", time.Duration(s).Seconds()), nil
}

// UnmarshalJSON reads seconds.
func (s *Seconds) UnmarshalJSON(b []byte) error {
	var f float64
	if err := json.Unmarshal(b, &f); err != nil {
		return err
	}
	*s = Seconds(f * float64(time.Second))
	return nil
}

// Pass is the verdict: something was checked and all of it is so.
func (r *Rehearsal) Pass() bool { return len(r.Checks) > 0 && r.failed() == 0 }

func (r *Rehearsal) failed() (n int) {
	for _, c := range r.Checks {
		if !c.OK {
			n++
		}
	}
	return n
}

// verdict is the outcome in one sentence.
func (r *Rehearsal) verdict() string {
	switch bad := r.failed(); {
	case len(r.Checks) == 0:
		return "Nothing was checked."
	case bad > 0:
		return fmt.Sprintf("%d of %d checks failed.", bad, len(r.Checks))
	case len(r.Checks) == 1:
		return "The one check passed."
	default:
		return fmt.Sprintf("All %d checks passed.", len(r.Checks))
	}
}

// WriteJSON writes the rehearsal with its verdict, indented. Lists that are empty are [],
// never null.
func WriteJSON(w io.Writer, r *Rehearsal) error {
	full := *r
	full.Checks, full.Gaps, full.Nodes = orEmpty(r.Checks), orEmpty(r.Gaps), orEmpty(r.Nodes)
	full.Faults, full.Series, full.Events = orEmpty(r.Faults), orEmpty(r.Series), orEmpty(r.Events)
	if full.Counts == nil {
		full.Counts = map[string]int64{}
	}
	if full.Limits == nil {
		full.Limits = map[string]float64{}
	}
	out := json.NewEncoder(w)
	out.SetIndent("", "  ")
	out.SetEscapeHTML(false)
	err := out.Encode(struct {
		Format int  `json:"format"`
		Pass   bool `json:"pass"`
		*Rehearsal
	}{Format, r.Pass(), &full})
	if err != nil {
		return fmt.Errorf("write report as JSON: %w", err)
	}
	return nil
}

func orEmpty[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}
