package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/hotstage/hotstage/internal/control"
	"github.com/hotstage/hotstage/internal/plan"
	"github.com/hotstage/hotstage/internal/store/journal"
	"github.com/hotstage/hotstage/internal/store/sqlite"
)

type runVerb struct {
	Plan  string `arg:"" help:"The plan file." type:"path"`
	Node  string `required:"" placeholder:"NAME" help:"Which of the plan's nodes this machine is."`
	State string `default:"/var/lib/hotstage" type:"path" help:"Directory of leases, control socket and lock."`
	Keys  string `type:"path" placeholder:"DIR" help:"Directory of the event's keys; default: beside the plan, under its name."`
	Local bool   `name:"local-leases" help:"Keep leases on this node alone, also where the plan has a shared database: for a rehearsal, or without it."`
}

// Help is shown by hotstage run --help.
func (*runVerb) Help() string {
	return `Runs the node's roles until SIGTERM or SIGINT. Each is restarted alone when it fails. Links,
addresses and firewall stay as they are when it stops, so that a restart cuts nobody off.

Example: hotstage run plan.yaml --node gw1`
}

// patience is how long each role gets to stop.
const patience = 5 * time.Second

// Run configures every role before it starts any: a fault never starts half a node.
func (v *runVerb) Run(s *screen) error {
	p, err := v.load(s)
	if err != nil {
		return err
	}
	if p.Node(v.Node) == nil {
		return fmt.Errorf("run: the plan has no node %q; allowed: %s", v.Node, strings.Join(nodeNames(p), ", "))
	}
	n, err := newNode(p, v.Node, v.State, keysDir(v.Keys, v.Plan), v.Local, s.errs)
	if err != nil {
		return fmt.Errorf("run: %w", err)
	}
	if err := os.MkdirAll(v.State, 0o700); err != nil {
		return fmt.Errorf("run: make the state directory: %w; choose another with --state", err)
	}
	server, release, err := control.Listen(v.State, n.handler())
	if errors.Is(err, control.ErrRunning) {
		return fmt.Errorf("run: a node runs with this state directory already; see: hotstage status --state %s", v.State)
	}
	if err != nil {
		return fmt.Errorf("run: %w; choose another state directory with --state, or set this one right", err)
	}
	defer release()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	return n.run(ctx, server)
}

// load reads the plan. Of mere warnings it says only that there are some: a node's log is not
// the place to read them again at each start.
func (v *runVerb) load(s *screen) (*plan.Plan, error) {
	var faults strings.Builder
	p, _, _, err := load(v.Plan, &screen{s.out, &faults})
	switch {
	case err != nil:
		io.WriteString(s.errs, faults.String())
	case faults.Len() > 0:
		fmt.Fprintf(s.errs, "%s: there are warnings; hotstage check lists them\n", filepath.Base(v.Plan))
	}
	return p, err
}

func nodeNames(p *plan.Plan) (names []string) {
	for _, n := range p.Nodes {
		names = append(names, n.Name)
	}
	slices.Sort(names)
	return names
}

// leasesFile is where a node keeps its leases.
func leasesFile(state string) string { return filepath.Join(state, "leases.db") }

// queriesFile is where a node keeps the sample of queries, when the plan wants one.
func queriesFile(state string) string { return filepath.Join(state, "queries.db") }

// mostQueries is how many bytes that file may have: about a million queries.
const mostQueries = 128 << 20

// journalFile is where leases are until they are in that file, a moment later.
func journalFile(state string) string { return filepath.Join(state, "leases.journal") }

// openLeases opens a state directory's leases: the journal before the file. The caller closes
// the store, which closes both.
func openLeases(state string) (*journal.Store, error) {
	file, err := sqlite.Open(leasesFile(state))
	if err != nil {
		return nil, err
	}
	book, err := journal.Open(journalFile(state), file)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return book, nil
}
