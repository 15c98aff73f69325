package main

import (
	"cmp"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/hotstage/hotstage/internal/control"
	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/task"
)

type statusVerb struct {
	State  string `default:"/var/lib/hotstage" type:"path" help:"The node's state directory."`
	Output string `short:"o" enum:"text,json" default:"text" help:"text or json."`
	Events int    `default:"5" help:"How many of the last events to show."`
}

// askTimeout bounds a question to the node of this machine.
const askTimeout = 10 * time.Second

// errBroken gives status its exit code 1.
var errBroken = errors.New("not all is well")

// Help is shown by hotstage status --help.
func (*statusVerb) Help() string {
	return "Exit 1 when something is broken or no node runs here, so that a script can ask: hotstage status || page-someone"
}

// Run shows the node, first broken thing first.
func (v *statusVerb) Run(s *screen) error {
	ctx, stop := context.WithTimeout(context.Background(), askTimeout)
	defer stop()
	var st status
	if err := fetch(ctx, v.State, "status", &st); err != nil {
		return fmt.Errorf("status: %w", err)
	}
	rows := lines(st)
	var err error
	if v.Output == "json" {
		err = encode(s.out, st)
	} else {
		err = printStatus(s.out, st, rows, v.Events)
	}
	if err == nil && broken(rows) {
		return errBroken
	}
	return err
}

// fetch asks the node of this machine, and says what to do when there is none.
func fetch(ctx context.Context, state, what string, dst any) error {
	return reachable(control.Fetch(ctx, state, what, dst), state)
}

func encode(w io.Writer, x any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(x)
}

// broken tells whether something is down or not as it should be. What is starting is not.
func broken(rows []line) bool { return len(rows) > 0 && rows[0].rank < 2 }

// line is one row of status: a task or one of its checks.
type line struct {
	rank             int // 0 down, 1 check failed, 2 not there yet, 3 well
	name, how, words string
}

func lines(st status) (rows []line) {
	for _, t := range st.Tasks {
		since := time.Since(t.Since).Round(time.Second)
		switch t.State {
		case task.Down, task.Stopped:
			rows = append(rows, line{0, t.Name, fmt.Sprintf("%s since %v", t.State, since), "because: " + cmp.Or(t.Because, "it was stopped")})
		case task.Ready:
			rows = append(rows, line{3, t.Name, fmt.Sprintf("ready since %v", since), restarts(t)})
		default:
			rows = append(rows, line{2, t.Name, fmt.Sprintf("%s since %v", t.State, since), restarts(t)})
		}
		for _, c := range t.Checks {
			row := line{3, t.Name + "/" + c.Name, "ok", c.Measured}
			if !c.OK {
				row.rank, row.how = 1, "NOT OK"
				row.words = fmt.Sprintf("%s: %s", c.Words, c.Measured)
				if c.Goal != "" {
					row.words += "; goal: " + c.Goal
				}
				if c.Hint != "" {
					row.words += "; hint: " + c.Hint
				}
			}
			rows = append(rows, row)
		}
	}
	for _, r := range st.Absent {
		name, why, _ := strings.Cut(r, ": ")
		rows = append(rows, line{3, name, "absent", why})
	}
	slices.SortStableFunc(rows, func(a, b line) int { return cmp.Compare(a.rank, b.rank) })
	return rows
}

func restarts(t task.Status) string {
	if t.Restarts == 0 {
		return ""
	}
	return fmt.Sprintf("restarted %d times", t.Restarts)
}

func printStatus(out io.Writer, st status, rows []line, events int) error {
	verdict := "all is well"
	if broken(rows) {
		verdict = "first broken: " + rows[0].name
	} else if len(rows) > 0 && rows[0].rank == 2 {
		verdict = "still starting: " + rows[0].name
	}
	fmt.Fprintf(out, "%s of %s, up %v, plan %.8s: %s\n\n", st.Node, st.Event, time.Since(st.Since).Round(time.Second), st.Plan, verdict)
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	for _, r := range rows {
		fmt.Fprintf(w, "%s\t%s\t%s\n", r.name, r.how, r.words)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if shown := st.Events[max(0, len(st.Events)-max(0, events)):]; len(shown) > 0 {
		fmt.Fprintln(out, "\nlast events")
		for _, e := range shown {
			fmt.Fprintf(out, "  %s  %s %s: %s\n", e.Time.Local().Format("15:04:05"), e.Severity, e.Task, e.Words)
		}
	}
	return nil
}

type leasesVerb struct {
	Find   []string `arg:"" optional:"" help:"Show only leases with this address, MAC, name or segment."`
	State  string   `default:"/var/lib/hotstage" type:"path" help:"The node's state directory."`
	Output string   `short:"o" aliases:"format" enum:"text,json,csv,kea" default:"text" help:"text, json, csv, or kea for a lease file of Kea's."`
	Kea    string   `placeholder:"FILE" help:"With -o kea: Kea's configuration, for the ids of its subnets."`
}

// Help is shown by hotstage leases --help.
func (*leasesVerb) Help() string {
	return "Examples: hotstage leases; hotstage leases 10.53.0.80; hotstage leases hall-conf -o csv; hotstage leases -o kea --kea kea-dhcp4.conf > kea-leases4.csv"
}

// Run lists the leases of the node on this machine by address.
func (v *leasesVerb) Run(s *screen) error {
	ctx, stop := context.WithTimeout(context.Background(), askTimeout)
	defer stop()
	all, err := v.known(ctx, s)
	if err != nil {
		return fmt.Errorf("leases: %w", err)
	}
	all = slices.DeleteFunc(all, func(l fact.Lease) bool { return !v.wanted(l) })
	slices.SortFunc(all, func(a, b fact.Lease) int { return a.Addr.Compare(b.Addr) })
	switch v.Output {
	case "json":
		return encode(s.out, all)
	case "kea":
		return v.writeKea(s, all)
	case "csv":
		w := csv.NewWriter(s.out)
		w.Write([]string{"address", "mac", "segment", "state", "expires", "hostname", "client"})
		for _, l := range all {
			w.Write([]string{l.Addr.String(), l.MAC.String(), l.Segment, string(l.State), l.Expires.Format(time.RFC3339), l.Hostname, l.Client})
		}
		w.Flush()
		return w.Error()
	}
	w := tabwriter.NewWriter(s.out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "ADDRESS\tMAC\tSEGMENT\tSTATE\tEXPIRES\tNAME")
	for _, l := range all {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", l.Addr, l.MAC, l.Segment, l.State, l.Expires.Local().Format("01-02 15:04:05"), l.Hostname)
	}
	return w.Flush()
}

func (v *leasesVerb) wanted(l fact.Lease) bool {
	for _, f := range v.Find {
		if f != l.Addr.String() && !strings.EqualFold(f, l.MAC.String()) && !strings.EqualFold(f, l.Hostname) && f != l.Segment {
			return false
		}
	}
	return true
}
