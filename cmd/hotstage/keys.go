package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/hotstage/hotstage/internal/control"
	"github.com/hotstage/hotstage/internal/plan"
	"github.com/hotstage/hotstage/internal/role/resolver"
)

type keysVerb struct {
	Plan string `arg:"" help:"The plan file." type:"path"`
	Dir  string `name:"keys" type:"path" placeholder:"DIR" help:"Directory of the keys; default: beside the plan, under its name."`
}

// Help is shown by hotstage keys --help.
func (*keysVerb) Help() string {
	return `Makes the event's certificate authority, if there is none, and a file of keys for each node that has
none: by them the nodes tell each other from strangers. Copy NODE.pem to its node, and keep ca.key to yourself:
a node that comes later gets its file by the same command. Nothing of that is replaced. Git is told to leave them out.
A resolver gets NODE.dns.pem too, for DNS over TLS, HTTPS and QUIC, unless the plan gives it a certificate. That is
made anew when the plan gives the node another address or its resolver another name, and before it ends.

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
	fmt.Fprintf(s.out, "copy the plan, NODE.pem and NODE.dns.pem to each node, side by side: PLAN and %s/NODE.pem\n", filepath.Base(dir))
	return nil
}

// keysDir is where the keys of a plan are, unless a directory is given.
func keysDir(given, file string) string {
	if given != "" {
		return given
	}
	return strings.TrimSuffix(file, filepath.Ext(file)) + ".keys"
}

// makeKeys makes the keys that the plan's nodes have not yet, and those of their resolvers.
func makeKeys(dir string, p *plan.Plan) ([]string, error) {
	names, now := nodeNames(p), time.Now()
	made, err := control.MakeKeys(dir, p.Event.Name, names, now)
	for _, name := range names {
		if err != nil {
			break
		}
		if n := p.Node(name); !n.Has(plan.RoleResolver) || len(n.Attachments) == 0 {
			continue
		}
		var cfg resolver.Config
		if cfg, err = resolver.Configure(p, name); err != nil || cfg.Encrypted == nil || cfg.Encrypted.Chain != "" {
			continue
		}
		var anew bool
		if anew, err = control.MakeDNSKey(dir, name, []string{cfg.Encrypted.Name, cfg.Name}, cfg.Listen, now); anew {
			made = append(made, filepath.Base(control.DNSKey(dir, name)))
		}
	}
	return made, err
}

// ownCertificate has the resolver take what hotstage keys has made for the node, where the
// plan gives it no certificate. That it is not there is for the resolver to find.
func (n *node) ownCertificate(cfg *resolver.Config) {
	if e := cfg.Encrypted; e != nil && e.Chain == "" {
		e.Chain, e.Own = control.DNSKey(n.keys, n.name), true
		e.Key = e.Chain
	}
}
