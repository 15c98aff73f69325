package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hotstage/hotstage/internal/control"
	"github.com/hotstage/hotstage/internal/ops/kea"
	"github.com/hotstage/hotstage/internal/plan"
	"github.com/hotstage/hotstage/internal/store/journal"
)

type importVerb struct {
	Kea importKeaVerb `cmd:"" help:"Make a plan of a Kea DHCPv4 configuration, and carry Kea's leases over."`
}

type importKeaVerb struct {
	Config string   `arg:"" optional:"" help:"Kea's configuration, mostly /etc/kea/kea-dhcp4.conf."`
	Output string   `short:"o" placeholder:"PLAN" help:"The plan to write; it must not exist. Without it the plan goes to standard output."`
	Name   string   `help:"The event's name, which Kea does not know."`
	People int      `help:"Attendees expected, 1 to 100000; without it as many as the pools are good for."`
	Leases []string `placeholder:"FILE" sep:"none" help:"Kea's lease file, kea-leases4.csv; repeat it for those that the clean-up left beside it (.1, .2, .completed)."`
	State  string   `placeholder:"DIR" help:"The node's state directory, which gets the leases; without it they are only counted."`
	Plan   string   `placeholder:"PLAN" help:"Carry the leases into this plan, made before and edited since; no plan is written."`
}

// Help is shown by hotstage import kea --help.
func (*importKeaVerb) Help() string {
	return `Each setting that a plan can't have is named, on standard error and at the end of the plan.

Weeks before: hotstage import kea kea-dhcp4.conf -o plan.yaml --name 'My Conf'
At the move, with Kea stopped: hotstage import kea --plan plan.yaml --leases kea-leases4.csv --state /var/lib/hotstage`
}

// Run writes nothing unless all of it can be written: the leases are read before the plan is.
func (v *importKeaVerb) Run(s *screen) error {
	if err := v.sound(); err != nil {
		return fmt.Errorf("import: %w", err)
	}
	src, p, err := v.convert(s)
	if err != nil {
		return err
	}
	carried, err := v.readLeases(s, p)
	if err != nil {
		return fmt.Errorf("import: %w", err)
	}
	if v.State != "" {
		store, release, err := emptyStore(v.State)
		if err != nil {
			return fmt.Errorf("import: %w", err)
		}
		defer release()
		err = v.writePlan(s, src)
		if err == nil && len(carried.Leases) > 0 {
			err = store.Commit(context.Background(), carried.Leases)
		}
		if err = errors.Join(err, store.Close()); err != nil {
			return fmt.Errorf("import: %w", err)
		}
	} else if err := v.writePlan(s, src); err != nil {
		return fmt.Errorf("import: %w", err)
	}
	v.next(s, p, src != nil)
	return nil
}

// sound finds flags that do not go together.
func (v *importKeaVerb) sound() error {
	switch {
	case v.Config == "" && v.Plan == "":
		return errors.New("say which configuration: hotstage import kea /etc/kea/kea-dhcp4.conf")
	case v.Config != "" && v.Plan != "":
		return errors.New("with --plan no configuration is read: leave out " + v.Config + ", or --plan")
	case v.People < 0 || v.People > 100_000:
		return fmt.Errorf("--people %d; allowed: 1 to 100000", v.People)
	case v.State != "" && len(v.Leases) == 0:
		return errors.New("--state is where the leases go: say which with --leases kea-leases4.csv")
	case v.Plan != "" && len(v.Leases) == 0:
		return errors.New("--plan is what the leases are carried into: say which with --leases kea-leases4.csv")
	case v.Plan != "" && (v.Output != "" || v.Name != "" || v.People != 0):
		return errors.New("with --plan no plan is written: leave out --output, --name and --people, or --plan")
	}
	return nil
}

// convert makes the plan and prints the notes; with --plan it reads that one, and src is nil.
func (v *importKeaVerb) convert(s *screen) (src []byte, p *plan.Plan, err error) {
	if v.Plan != "" {
		p, _, _, err = load(v.Plan, s)
		return nil, p, err
	}
	text, err := os.ReadFile(v.Config)
	if err != nil {
		return nil, nil, fmt.Errorf("import: read Kea's configuration: %w", err)
	}
	in, err := kea.Import(v.Config, text, includeBeside(v.Config), kea.Answers{Name: v.Name, People: v.People})
	if in != nil {
		for _, n := range in.Notes {
			fmt.Fprintf(s.errs, "%s: %s\n", n.At, n)
		}
	}
	if err != nil {
		return nil, nil, fmt.Errorf("import: %w", err)
	}
	p, _, faults := plan.Parse(in.Plan, nil)
	fmt.Fprintf(s.errs, "%s: %d segments and %d reservations carried; %s\n", filepath.Base(v.Config), in.Segments, in.Reservations, countNotes(in.Notes))
	if len(faults) > 0 {
		fmt.Fprintln(s.errs, "the plan has warnings; hotstage check lists them")
	}
	return in.Plan, p, nil
}

// countNotes sums the notes up by what a person has to do.
func countNotes(notes []kea.Note) string {
	count := map[kea.Kind]int{}
	for _, n := range notes {
		count[n.Kind] += 1 + len(n.Also)
	}
	return fmt.Sprintf("settings not carried: %d, changed: %d, not needed: %d", count[kea.NotCarried], count[kea.Changed], count[kea.NotNeeded])
}

// includeBeside reads included files as Kea does, by the working directory, and where there
// is none, beside the configuration: a copy of /etc/kea is mostly read elsewhere.
func includeBeside(config string) kea.Include {
	return func(name string) ([]byte, error) {
		src, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			if filepath.IsAbs(name) {
				name = filepath.Base(name)
			}
			if near, e := os.ReadFile(filepath.Join(filepath.Dir(config), name)); e == nil {
				return near, nil
			}
		}
		return src, err
	}
}

// readLeases reads the lease files and says what becomes of them.
func (v *importKeaVerb) readLeases(s *screen, p *plan.Plan) (c kea.Carried, err error) {
	if len(v.Leases) == 0 {
		return c, nil
	}
	var files []kea.File
	for _, name := range v.Leases {
		src, err := os.ReadFile(name)
		if err != nil {
			return c, fmt.Errorf("read Kea's leases: %w", err)
		}
		files = append(files, kea.File{Name: name, Src: src})
	}
	rows, faults := kea.ReadLeases(files)
	for i := range faults {
		fmt.Fprintf(s.errs, "%v: the line is left out\n", &faults[i])
	}
	if len(rows) == 0 && len(faults) > 0 {
		return c, fmt.Errorf("no lease could be read from %s", strings.Join(v.Leases, ", "))
	}
	c = kea.Carry(rows, p, time.Now())
	tellRows(s.errs, c.Outside, "in no segment of the plan: not carried")
	tellRows(s.errs, c.Beside, "outside the pool of its segment: the device keeps it until the lease ends, then gets another; widen pool: in the plan to keep it")
	tellRows(s.errs, c.Doubled, "its client has a later lease in the segment: ended")
	verb := "carried"
	if v.State == "" {
		verb = "would be carried (nothing is written without --state DIR)"
	}
	fmt.Fprintf(s.errs, "leases: %d %s, %d ended, %d declined, %d outside every segment, %d lines unreadable\n",
		c.Bound, verb, c.Ended, c.Declined, len(c.Outside), len(faults))
	return c, nil
}

// named is how many leases of a kind are named one by one; the summary counts them all.
const named = 50

// tellRows names the first leases and where they stand.
func tellRows(w io.Writer, rows []kea.Row, words string) {
	for i, r := range rows {
		if i == named {
			fmt.Fprintf(w, "and %d more such leases\n", len(rows)-named)
			return
		}
		fmt.Fprintf(w, "%s: lease of %s: %s\n", r.At, r.Addr, words)
	}
}

// emptyStore opens the lease file of a state directory that no node uses and that has no
// leases yet. The caller closes the store, then releases the directory.
func emptyStore(state string) (*journal.Store, func() error, error) {
	if err := os.MkdirAll(state, 0o700); err != nil {
		return nil, nil, fmt.Errorf("make the state directory: %w; choose another with --state", err)
	}
	release, err := control.Hold(state)
	if errors.Is(err, control.ErrRunning) {
		return nil, nil, fmt.Errorf("a node runs with state directory %s: stop it first, or choose another with --state", state)
	}
	if err != nil {
		return nil, nil, err
	}
	store, err := openLeases(state)
	if err != nil {
		return nil, nil, errors.Join(err, release())
	}
	has, err := store.Load(context.Background())
	if err == nil && len(has) > 0 {
		err = fmt.Errorf("%s has %d leases already, which would be mixed with Kea's; move it away with its -wal and -shm and leases.journal, or choose another directory with --state", leasesFile(state), len(has))
	}
	if err != nil {
		return nil, nil, errors.Join(err, store.Close(), release())
	}
	return store, release, nil
}

// writePlan writes the plan, unless there is none to write.
func (v *importKeaVerb) writePlan(s *screen, src []byte) error {
	if src == nil {
		return nil
	}
	if v.Output == "" {
		_, err := s.out.Write(src)
		return err
	}
	f, err := os.OpenFile(v.Output, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s exists already; choose another name, or carry the leases into it with --plan %s", v.Output, v.Output)
	}
	if err != nil {
		return err
	}
	_, err = f.Write(src)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", v.Output, err)
	}
	return nil
}

// next says what was written and what to type next.
func (v *importKeaVerb) next(s *screen, p *plan.Plan, wrote bool) {
	if v.Output != "" && wrote {
		fmt.Fprintf(s.errs, "%s: written; read its end, then: hotstage check %s\n", filepath.Base(v.Output), v.Output)
	}
	if v.State != "" {
		node := "NAME"
		for i := range p.Nodes {
			if p.Nodes[i].Has(plan.RoleDHCP) {
				node = p.Nodes[i].Name
				break
			}
		}
		fmt.Fprintf(s.errs, "%s: written; next: hotstage run %s --node %s --state %s\n", leasesFile(v.State), cmp.Or(v.Plan, v.Output, "PLAN"), node, v.State)
	}
}
