package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/hotstage/hotstage/internal/lab/venue"
	"github.com/hotstage/hotstage/internal/plan"
)

type rehearseVerb struct {
	Plan   string        `arg:"" help:"The plan file." type:"path"`
	People int           `placeholder:"N" help:"Attendees who come; default: the plan's."`
	Doors  time.Duration `help:"All of them arrive within; default: the plan's, 60s."`
	Stay   time.Duration `help:"From the last arrival until people leave; default: the plan's, 20s."`
	Seed   int64         `placeholder:"N" help:"The same seed plays the same arrivals."`
	Kill   []string      `placeholder:"NODE@TIME" help:"Kill a node (SIGKILL) so long after the doors opened and start it again 2 s later, such as gw1@30s; repeat it."`
	Cut    []string      `placeholder:"UPLINK@TIME" help:"Take an uplink's carrier away for 5 s, such as isp@40s; repeat it."`
	Outage time.Duration `placeholder:"TIME" help:"All devices lose their link at once and ask anew within 5 s."`
	Report string        `type:"path" placeholder:"DIR" help:"Directory for report.json and report.html."`
	Output string        `short:"o" enum:"text,json" default:"text" help:"text, or json: the report on standard output."`
	Keep   string        `type:"path" placeholder:"DIR" help:"Keep the nodes' logs and state in this new or empty directory."`
}

// Help is shown by hotstage rehearse --help.
func (*rehearseVerb) Help() string {
	return `Builds the plan's whole venue on this machine in network namespaces, runs this same program on
each node, walks the attendees in and prints a verdict. Exit 1 when a check fails. Needs no packages; runs as
root, or in an unprivileged user namespace where the kernel allows it. Nothing is left behind, also by kill -9.

Examples:
  hotstage rehearse plan.yaml
  hotstage rehearse plan.yaml --people 500 --doors 30s --kill gw1@15s --report report`
}

// limitsFile remembers the host's limits from before the first rehearsal raised them.
const limitsFile = "/run/hotstage/limits.json"

// exitCode ends the program with that code; all has been printed.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit %d", int(e)) }

// interrupted is the exit code of a rehearsal that was told to stop: that of a shell for SIGINT.
const interrupted = 130

// Run plays the outer part (the host's limits, the namespaces) and then, as the inner
// process, the rehearsal itself.
func (v *rehearseVerb) Run(s *screen) error {
	quiet := *s
	if venue.Inside() {
		quiet.errs = discard{} // the outer process has printed the faults
	}
	p, _, _, err := load(v.Plan, &quiet)
	if err != nil {
		return err
	}
	if err := v.adapt(p); err != nil {
		return fmt.Errorf("rehearse: %w", err)
	}
	if !venue.Inside() {
		return v.outer(p, s)
	}
	if _, _, err := venue.Enter(); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer stop()
	return v.inner(ctx, p, s)
}

type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }

// adapt puts the flags over the plan's scenario.
func (v *rehearseVerb) adapt(p *plan.Plan) error {
	r := &p.Rehearsal
	if v.People < 0 || v.Doors < 0 || v.Stay < 0 {
		return errors.New("people, doors and stay can't be negative")
	}
	if v.People > 0 {
		r.People = v.People
	}
	if r.People == 0 {
		r.People = p.Event.Attendees
	}
	if v.Doors > 0 {
		r.Doors = v.Doors
	}
	if v.Stay > 0 {
		r.Stay = v.Stay
	}
	if v.Seed != 0 {
		r.Seed = v.Seed
	}
	return v.script(p)
}

// outer raises what only the host can, and runs the inner process in namespaces of its own.
func (v *rehearseVerb) outer(p *plan.Plan, s *screen) error {
	limits, err := kernel.RaiseLimits(venue.Limits(p), limitsFile)
	if err != nil {
		fmt.Fprintf(s.errs, "warning: %v\n", err)
	} else {
		defer func() {
			if err := limits.Restore(); err != nil {
				fmt.Fprintf(s.errs, "warning: %v\n", err)
			}
		}()
		if len(limits.Missing) > 0 {
			command := strings.Join(limits.Missing, " ")
			fmt.Fprintf(s.errs, "warning: limits of this machine are too low; as root: %s\n", "sysctl -w"+strings.ReplaceAll(" "+command, " sysctl -w", ""))
		}
	}
	_, code, err := venue.Enter()
	if err != nil {
		return err
	}
	if code != 0 {
		return exitCode(code)
	}
	return nil
}

// inner rehearses, prints the verdict and writes the report.
func (v *rehearseVerb) inner(ctx context.Context, p *plan.Plan, s *screen) error {
	say := s.out
	if v.Output == "json" {
		say = s.errs
	}
	dir, remove, err := venue.MakeDir(os.TempDir())
	if err != nil {
		return err
	}
	defer remove()
	if v.Keep != "" {
		defer func() {
			if err := keep(dir, v.Keep); err != nil {
				fmt.Fprintf(s.errs, "warning: %v\n", err)
			}
		}()
	}
	if err := v.folders(); err != nil {
		return fmt.Errorf("rehearse: %w", err)
	}
	r := rehearsal{plan: p, file: v.Plan, dir: dir, say: say}
	rep, err := r.play(ctx)
	if ctx.Err() != nil {
		fmt.Fprintln(s.errs, "hotstage: rehearse: interrupted; there is no verdict, and nothing is left behind")
		return exitCode(interrupted)
	}
	if err != nil {
		return fmt.Errorf("rehearse: %w", err)
	}
	return v.publish(rep, s)
}

// folders makes the report's and the logs' folders, so that one that cannot be written to is
// told before the rehearsal and not after it. What is in the logs' folder is never replaced.
func (v *rehearseVerb) folders() error {
	for _, dir := range []string{v.Report, v.Keep} {
		if dir == "" {
			continue
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make a folder for --report or --keep: %w", err)
		}
		probe, err := os.CreateTemp(dir, ".probe-*")
		if err != nil {
			return fmt.Errorf("write to a folder of --report or --keep: %w", err)
		}
		probe.Close()
		os.Remove(probe.Name())
	}
	if v.Keep != "" {
		if there, err := os.ReadDir(v.Keep); err != nil || len(there) > 0 {
			return errors.Join(err, fmt.Errorf("--keep %s: the folder is not empty; name a new one", v.Keep))
		}
	}
	return nil
}

// keep copies the nodes' folders before they are removed.
func keep(from, to string) error {
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		return fmt.Errorf("keep the nodes' folders: %w", err)
	}
	return nil
}
