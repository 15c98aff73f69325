// Package kea moves a venue between Kea's DHCPv4 server and Hotstage: it makes a plan of a
// Kea configuration, facts of Kea's lease files, and a lease file for Kea of our leases.
//
// Nothing of a configuration is dropped in silence: each of its settings is either carried
// into the plan or named in a Note, with what to do instead. It is pure; files are read by
// who calls.
package kea

import (
	"bytes"
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/hotstage/hotstage/internal/plan"
)

// Answers are what a plan needs and Kea does not know.
type Answers struct {
	Name   string // of the event; "" is a name to replace
	People int    // attendees; 0 is as many as the pools are good for
}

// Include reads the file that an <?include "name"?> names.
type Include func(name string) ([]byte, error)

// Imported is what became of a configuration.
type Imported struct {
	Plan         []byte // YAML that plan.Parse accepts; nil when there was nothing to carry
	Notes        []Note // what was not carried or was changed, in the order of the file
	Segments     int
	Reservations int
}

// Import makes a plan of a Kea configuration; file is its name in errors and notes. An error
// names file, line and column. With one, Imported is not nil when it has notes to read.
func Import(file string, src []byte, include Include, a Answers) (*Imported, error) {
	c, err := open(file, src, include)
	if err != nil {
		return nil, err
	}
	c.convert()
	in := &Imported{Segments: len(c.nets)}
	for _, n := range c.nets {
		in.Reservations += len(n.hosts)
	}
	if len(c.nets) == 0 {
		in.Notes = c.allNotes()
		return in, &Fault{c.dhcp4.at, "there is no subnet that a plan could have: nothing to move"}
	}
	c.share(a)
	var b bytes.Buffer
	w := planWriter{w: &b, cfg: c, answers: a}
	w.plan()
	in.Notes = c.allNotes()
	w.notes(in.Notes)
	if p, _, faults := plan.Parse(b.Bytes(), nil); p == nil {
		var text strings.Builder
		if err := faults.Format(&text, "the plan", b.Bytes(), true, false); err != nil {
			return in, err
		}
		return in, fmt.Errorf("%s: the plan that would come of it has faults; change the Kea configuration so that they go, or write the plan by hand:\n%s", file, text.String())
	}
	in.Plan = b.Bytes()
	return in, nil
}

// Subnet is one subnet of a Kea configuration.
type Subnet struct {
	Prefix netip.Prefix
	ID     int // 0 when the configuration leaves it to Kea
}

// Subnets lists the subnets of a Kea configuration, for the ids that a lease file needs.
func Subnets(file string, src []byte, include Include) ([]Subnet, error) {
	c, err := open(file, src, include)
	if err != nil {
		return nil, err
	}
	var all []Subnet
	add := func(list []*value) {
		for _, v := range list {
			text, _ := v.take("subnet").str()
			if p, err := netip.ParsePrefix(text); err == nil {
				id, _ := v.take("id").integer()
				all = append(all, Subnet{p.Masked(), int(id)})
			}
		}
	}
	for _, n := range c.dhcp4.take("shared-networks").list() {
		add(n.take("subnet4").list())
	}
	add(c.dhcp4.take("subnet4").list())
	return all, nil
}

// open reads the text and finds the DHCPv4 server's part.
func open(file string, src []byte, include Include) (*config, error) {
	root, err := parse(file, src, include)
	if err != nil {
		return nil, err
	}
	if root.kind != object {
		return nil, &Fault{root.at, "a Kea configuration is an object, { \"Dhcp4\": { … } }"}
	}
	d := root.take("Dhcp4")
	switch {
	case d == nil && root.has("Dhcp6"):
		return nil, &Fault{root.at, "this is the configuration of Kea's DHCPv6 server; Hotstage announces IPv6 by router advertisements, from the uplink's prefix in the plan: give kea-dhcp4.conf"}
	case d == nil:
		return nil, &Fault{root.at, "there is no Dhcp4 in it; give the configuration of Kea's DHCPv4 server, mostly /etc/kea/kea-dhcp4.conf"}
	case d.kind != object:
		return nil, &Fault{d.at, "Dhcp4 is not an object"}
	}
	return &config{root: root, dhcp4: d, told: map[string]bool{}, names: map[string]bool{}, hostNames: map[string]bool{}}, nil
}

// Kind says what a person has to do about a note.
type Kind string

// The kinds of a note.
const (
	NotCarried Kind = "not carried" // devices or the crew may miss it
	Changed    Kind = "changed"     // carried, but otherwise than it stood
	NotNeeded  Kind = "not needed"  // Hotstage does it by itself, or it is Kea's own affair
)

// Note is one setting that the plan does not have as it stood.
type Note struct {
	At    Place
	Path  string // "$.Dhcp4.subnet4[0].relay"
	Kind  Kind
	Words string  // what to do instead, or why it is not needed
	Also  []Place // where the same setting stands too, in other subnets and so on
}

// String is the note in one line, without its place.
func (n Note) String() string {
	s := fmt.Sprintf("%s: %s: %s", n.Kind, n.Path, n.Words)
	if len(n.Also) > 0 {
		lines := make([]string, 0, len(n.Also))
		for _, p := range n.Also {
			lines = append(lines, p.short(n.At.File))
		}
		s += fmt.Sprintf(" (also in line %s)", strings.Join(lines, ", "))
	}
	return s
}

// note tells something of v once.
func (c *config) note(v *value, k Kind, format string, args ...any) {
	words := fmt.Sprintf(format, args...)
	if key := v.path + "\x00" + words; !c.told[key] {
		c.told[key] = true
		c.list = append(c.list, Note{At: v.at, Path: v.path, Kind: k, Words: words})
	}
}

// drop tells that v is not carried, with all in it.
func (c *config) drop(v *value, format string, args ...any) {
	v.takeAll()
	c.note(v, NotCarried, format, args...)
}

// allNotes are the notes of the conversion and one for each setting that nothing has taken.
func (c *config) allNotes() []Note {
	c.left(c.root)
	slices.SortStableFunc(c.list, func(a, b Note) int { return a.At.compare(b.At) })
	var all []Note
	same := map[string]int{}
	for _, n := range c.list {
		key := string(n.Kind) + generic(n.Path[strings.LastIndexByte(n.Path, '.')+1:]) + "\x00" + n.Words
		if i, ok := same[key]; ok {
			all[i].Also = append(all[i].Also, n.At)
			continue
		}
		same[key] = len(all)
		all = append(all, n)
	}
	slices.SortStableFunc(all, func(a, b Note) int { return cmp.Compare(rank(a.Kind), rank(b.Kind)) })
	return all
}

func rank(k Kind) int { return slices.Index([]Kind{NotCarried, Changed, NotNeeded}, k) }

// left notes what is not taken, the outermost of it only.
func (c *config) left(v *value) {
	for _, m := range v.members {
		c.leftOne(m.val)
	}
	for _, i := range v.items {
		c.leftOne(i)
	}
}

func (c *config) leftOne(v *value) {
	if v.taken {
		c.left(v)
		return
	}
	v.takeAll()
	a := adviceFor(v)
	c.note(v, a.kind, "%s", a.words)
}
