package plan

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Severity tells a fault that stops everything from one that a person should read.
type Severity string

// The severities of a fault.
const (
	Error   Severity = "error"
	Warning Severity = "warning"
)

// Fault is one thing wrong with a plan, for the person who has to mend it.
type Fault struct {
	Line     int      `json:"line"`   // from 1; 0 when the fault is of the whole plan
	Column   int      `json:"column"` // from 1
	Path     string   `json:"path"`   // "$.segments.attendee.vlan"
	Severity Severity `json:"severity"`
	Words    string   `json:"words"`             // what is wrong
	Given    string   `json:"given,omitempty"`   // the value as written
	Allowed  string   `json:"allowed,omitempty"` // what may stand there
	Hint     string   `json:"hint,omitempty"`    // what to do next
}

// Error is the fault in one line.
func (f Fault) Error() string {
	var b strings.Builder
	b.WriteString(f.Words)
	if f.Given != "" {
		fmt.Fprintf(&b, "; given %q", f.Given)
	}
	if f.Allowed != "" {
		fmt.Fprintf(&b, "; allowed: %s", f.Allowed)
	}
	return b.String()
}

// Faults are all faults of a plan, sorted by line.
type Faults []Fault

// Errors tells whether any fault is an error rather than a warning.
func (fs Faults) Errors() bool {
	return slices.ContainsFunc(fs, func(f Fault) bool { return f.Severity == Error })
}

func (fs Faults) sort() {
	slices.SortStableFunc(fs, func(a, b Fault) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
}

// Format writes the faults for a person. With excerpt, the line of the plan stands below
// each fault with its place marked; with color, in the terminal's colours.
func (fs Faults) Format(w io.Writer, file string, src []byte, excerpt, color bool) error {
	lines := strings.Split(string(src), "\n")
	paint := func(code, s string) string {
		if !color {
			return s
		}
		return "\x1b[" + code + "m" + s + "\x1b[0m"
	}
	for _, f := range fs {
		code := "1;31"
		if f.Severity == Warning {
			code = "1;33"
		}
		place := file
		if f.Line > 0 {
			place = fmt.Sprintf("%s:%d:%d", file, f.Line, f.Column)
		}
		if _, err := fmt.Fprintf(w, "%s: %s: %s\n", place, paint(code, string(f.Severity)), f.Error()); err != nil {
			return err
		}
		if excerpt && f.Line > 0 && f.Line <= len(lines) {
			mark := strings.Repeat(" ", max(0, f.Column-1)) + "^"
			fmt.Fprintf(w, "  %4d | %s\n       | %s\n", f.Line, lines[f.Line-1], paint(code, mark))
		}
		if f.Hint != "" {
			fmt.Fprintf(w, "       hint: %s\n", f.Hint)
		}
	}
	return nil
}

// nearest is the candidate that a person most likely meant by word, or "".
func nearest(word string, candidates []string) string {
	best, bound := "", 1+len(word)/3
	for _, c := range candidates {
		if d := distance(strings.ToLower(word), strings.ToLower(c), bound); d <= bound && (best == "" || d < bound) {
			best, bound = c, d
		}
	}
	return best
}

// distance is the edit distance of a and b, or more than bound when it is more than that.
func distance(a, b string, bound int) int {
	if len(a) > 64 || len(b) > 64 {
		return bound + 1
	}
	prev := make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := range len(a) {
		row := make([]int, len(b)+1)
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(prev[j]+cost, prev[j+1]+1, row[j]+1)
		}
		prev = row
	}
	return prev[len(b)]
}

// choices is a list for a sentence: "a, b or c".
func choices(all []string) string {
	if len(all) < 2 {
		return strings.Join(all, "")
	}
	return strings.Join(all[:len(all)-1], ", ") + " or " + all[len(all)-1]
}
