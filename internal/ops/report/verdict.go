package report

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/mattn/go-runewidth"
)

// WriteVerdict writes the outcome as a table for a terminal or, without color, for a pipe:
// checks in their order with goal and measured value, hints below those that failed, then
// what could not be rehearsed. Columns line up with Japanese too.
func WriteVerdict(w io.Writer, r *Rehearsal, color bool) error {
	p := paint(color)
	var b strings.Builder
	b.WriteString("\n" + p.verdict(r.Pass()) + "  " + p.bold(clean(r.Event)) + "\n")
	fmt.Fprintf(&b, "      %s\n\n", p.faint(strings.Join(r.facts(), " · ")))

	rows := [][]string{{"", "check", "goal", "measured"}}
	for _, c := range r.Checks {
		mark := "ok"
		if !c.OK {
			mark = "FAIL"
		}
		rows = append(rows, []string{mark, clean(c.Words), clean(c.Goal), clean(c.Measured)})
	}
	widths := columns(rows)
	for i, row := range rows {
		line := "  " + line(row, widths)
		switch {
		case i == 0:
			line = p.faint(line)
		case row[0] == "FAIL":
			line = p.bad(line)
		}
		b.WriteString(line + "\n")
		if i > 0 && row[0] == "FAIL" && r.Checks[i-1].Hint != "" {
			fmt.Fprintf(&b, "        %s\n", p.faint("hint: "+clean(r.Checks[i-1].Hint)))
		}
	}
	if len(r.Gaps) > 0 {
		b.WriteString("\n" + p.bold("Not rehearsed on this machine") + "\n")
		for _, g := range r.Gaps {
			fmt.Fprintf(&b, "  - %s\n", clean(g.Words))
			if g.Hint != "" {
				fmt.Fprintf(&b, "    %s\n", p.faint(clean(g.Hint)))
			}
		}
	}
	fmt.Fprintf(&b, "\n%s %s\n", p.verdict(r.Pass()), r.verdict())
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("write verdict: %w", err)
	}
	return nil
}

// facts are what one wants to know of a rehearsal beside its name.
func (r *Rehearsal) facts() []string {
	all := []string{plural(r.People, "person"), plural(r.Devices, "device"), fmt.Sprintf("seed %d", r.Seed)}
	if r.Duration > 0 {
		all = append(all, span(time.Duration(r.Duration)))
	}
	if r.Plan != "" {
		all = append(all, clean(r.Plan))
	}
	return all
}

// cells measures text as a terminal shows it, whatever the locale says.
func cells(s string) int {
	c := runewidth.Condition{}
	return c.StringWidth(s)
}

func columns(rows [][]string) []int {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], cells(cell))
		}
	}
	return widths
}

func line(row []string, widths []int) string {
	var b strings.Builder
	for i, cell := range row {
		b.WriteString(cell + strings.Repeat(" ", widths[i]-cells(cell)+2))
	}
	return strings.TrimRight(b.String(), " ")
}

// clean keeps a name from a plan or a node from moving the cursor or colouring the screen.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r >= 0x7f && r < 0xa0 {
			return ' '
		}
		return r
	}, s)
}

// paint writes ANSI colours when true.
type paint bool

func (p paint) with(code, s string) string {
	if !p {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

func (p paint) bold(s string) string  { return p.with("1", s) }
func (p paint) faint(s string) string { return p.with("2", s) }
func (p paint) bad(s string) string   { return p.with("31", s) }

func (p paint) verdict(pass bool) string {
	if pass {
		return p.with("1;32", "PASS")
	}
	return p.with("1;31", "FAIL")
}
