package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hotstage/hotstage/internal/control"
	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/plan"
	"github.com/hotstage/hotstage/internal/role/dhcp"
	"github.com/hotstage/hotstage/internal/task"
)

type pairVerb struct {
	Say   string `arg:"" optional:"" help:"What you know of the partner: alone or sole, see below; without it: how the pair stands."`
	State string `default:"/var/lib/hotstage" type:"path" help:"The node's state directory."`
}

// Help is shown by hotstage pair --help.
func (*pairVerb) Help() string {
	return `Tells the node of this machine what only people know of the other DHCP server.

  alone   after a reboot, when the partner is off and stays so for now, and was not sole before: this node
          relies on its own file
  sole    the partner's machine is off: when every lease that it may have given has ended, this node gives
          its addresses too. Keep it off until it can reach this node again; it then gets them back by itself.

Example: hotstage pair sole`
}

// Run asks the node, or tells it.
func (v *pairVerb) Run(s *screen) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if v.Say == "" {
		var c fact.Check
		if err := control.Fetch(ctx, v.State, "pair", &c); err != nil {
			return fmt.Errorf("pair: %w", err)
		}
		fmt.Fprintf(s.out, "%s: %s\n", c.Words, c.Measured)
		if c.Hint != "" {
			fmt.Fprintln(s.out, c.Hint)
		}
		return nil
	}
	if v.Say != "alone" && v.Say != "sole" {
		return fmt.Errorf("pair: %q is nothing that a node can be told; allowed: alone, sole", v.Say)
	}
	var words string
	if err := control.Order(ctx, v.State, "pair/"+v.Say, &words); err != nil {
		return fmt.Errorf("pair: %w", err)
	}
	fmt.Fprintln(s.out, words)
	return nil
}

// pairing is how a node reaches its partner.
type pairing struct {
	keys    *control.Keys
	partner string
	own     []netip.Addr
	theirs  []netip.Addr
}

// pairUp finds out whether the node can talk to its partner. Without keys it cannot, and the
// DHCP server is alone, as the event says.
func (n *node) pairUp(cfg dhcp.Config, dir string) (*pairing, error) {
	if cfg.Partner == "" {
		return nil, nil
	}
	keys, err := control.LoadKeys(dir, n.name)
	if memo := n.memo(); errors.Is(err, fs.ErrNotExist) && memo.exists() {
		return nil, fmt.Errorf("%w; this node was one of a pair, and %s still relies on what the two told each other: put the file there, or, when %s is off for good, remove %s", err, cfg.Partner, cfg.Partner, memo.path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		n.events.tell(fact.Event{Task: "dhcp", Kind: "pair-without-keys", Severity: fact.Warning, Words: fmt.Sprintf(
			"%s serves the same devices, and the two cannot tell each other of leases without keys: when one dies, the other gives its devices new addresses; make keys: hotstage keys PLAN", cfg.Partner)})
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	p := &pairing{keys: keys, partner: cfg.Partner}
	p.own, p.theirs = between(n.plan, n.plan.Node(n.name), n.plan.Node(cfg.Partner))
	if len(p.own) == 0 {
		n.events.tell(fact.Event{Task: "dhcp", Kind: "pair-without-link", Severity: fact.Warning, Words: fmt.Sprintf(
			"%s serves the same devices, and the two share no segment without attendees, over which they could tell each other of leases: when one dies, the other gives its devices new addresses; give both an interface in a server or management segment", cfg.Partner)})
		return nil, nil
	}
	return p, nil
}

// between are the two nodes' addresses in the segments that both are in and attendees are not:
// what nodes tell each other is none of theirs.
func between(p *plan.Plan, a, b *plan.Node) (own, theirs []netip.Addr) {
	for _, at := range a.Attachments {
		s, other := p.Segment(at.Segment), b.Attachment(at.Segment)
		if s != nil && other != nil && s.Class != plan.Attendee && at.IPv4.IsValid() && other.IPv4.IsValid() {
			own, theirs = append(own, at.IPv4.Addr()), append(theirs, other.IPv4.Addr())
		}
	}
	return own, theirs
}

// addPeers adds what hears the partner.
func (n *node) addPeers(p *pairing) error {
	from := map[netip.Addr]string{}
	for _, a := range p.theirs {
		from[a] = p.partner
	}
	return n.group.Add("peers", func() (task.Task, error) {
		return control.NewPeers(p.keys, p.own, from, func(ctx context.Context, _ string, text []byte) ([]byte, error) {
			s := n.dhcp.Load()
			if s == nil {
				return nil, errors.New("the DHCP server does not run yet")
			}
			return s.Hear(ctx, text)
		}), nil
	}, "segment")
}

func (p *pairing) line() *control.Peer { return control.NewPeer(p.keys, p.partner, p.theirs) }

// pairMemo keeps a word in a file of the state directory.
type pairMemo struct{ path string }

func (n *node) memo() pairMemo { return pairMemo{filepath.Join(n.state, "pair")} }

func (m pairMemo) exists() bool {
	_, err := os.Stat(m.path)
	return err == nil
}

// Read returns the word, "" when none was ever written.
func (m pairMemo) Read() (string, error) {
	b, err := os.ReadFile(m.path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return strings.TrimSpace(string(b)), err
}

// Write returns when the word is on disk.
func (m pairMemo) Write(word string) error {
	f, err := os.CreateTemp(filepath.Dir(m.path), ".pair-*")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(f, word)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), m.path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// pairHandlers are the control socket's part of the pair.
func (n *node) pairHandlers(mux *http.ServeMux) {
	mux.HandleFunc("GET /pair", func(w http.ResponseWriter, r *http.Request) {
		s := n.dhcp.Load()
		if s == nil || !s.Paired() {
			http.Error(w, "this node is no part of a pair", http.StatusNotFound)
			return
		}
		control.JSON(func() any { return s.PairCheck() })(w, r)
	})
	mux.HandleFunc("POST /pair/{say}", func(w http.ResponseWriter, r *http.Request) {
		s := n.dhcp.Load()
		if s == nil || !s.Paired() {
			http.Error(w, "this node is no part of a pair", http.StatusNotFound)
			return
		}
		words, err := s.Order(r.PathValue("say"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
			return
		}
		text, _ := json.Marshal(words)
		w.Write(text)
	})
}
