package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/hotstage/hotstage/internal/control"
	"github.com/hotstage/hotstage/internal/plan"
)

type keysVerb struct {
	Plan string `arg:"" help:"The plan file." type:"path"`
	Dir  string `name:"keys" type:"path" placeholder:"DIR" help:"Directory of the keys; default: beside the plan, under its name."`
}

// Help is shown by hotstage keys --help.
func (*keysVerb) Help() string {
	return `Makes the event's certificate authority, if there is none, and a file of keys for each node that has
none: by them the nodes tell each other from strangers. Copy NODE.pem to its node, and keep ca.key to yourself:
a node that comes later gets its file by the same command. Nothing is replaced. Git is told to leave them out.

Example: hotstage keys conf.yaml`
}

// Run makes what is missing.
func (v *keysVerb) Run(s *screen) error {
	p, _, _, err := load(v.Plan, s)
	if err != nil {
		return err
	}
	dir := keysDir(v.Dir, v.Plan)
	made, err := makeKeys(dir, p)
	if err != nil {
		return fmt.Errorf("keys: %w", err)
	}
	if len(made) == 0 {
		fmt.Fprintf(s.out, "%s: every node has its keys\n", filepath.Base(dir))
		return nil
	}
	fmt.Fprintf(s.out, "%s: made %s\n", filepath.Base(dir), strings.Join(made, ", "))
	fmt.Fprintf(s.out, "copy the plan and NODE.pem to each node, side by side: PLAN and %s/NODE.pem\n", filepath.Base(dir))
	return nil
}

// keysDir is where the keys of a plan are, unless a directory is given.
func keysDir(given, file string) string {
	if given != "" {
		return given
	}
	return strings.TrimSuffix(file, filepath.Ext(file)) + ".keys"
}

// makeKeys makes the keys that the plan's nodes have not yet.
func makeKeys(dir string, p *plan.Plan) ([]string, error) {
	names := nodeNames(p)
	return control.MakeKeys(dir, p.Event.Name, names, time.Now())
}
