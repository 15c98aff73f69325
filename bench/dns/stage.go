//go:build linux

package main

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/hotstage/hotstage/bench/rig"
	"github.com/hotstage/hotstage/internal/kernel"
)

// The systems that are measured.
const (
	ours      = "hotstage"
	oursXDP   = "hotstage xdp"
	oursChild = "hotstage child" // which has an unbound of its own
	unbound   = "unbound"
	dnsdist   = "dnsdist+unbound"
	pdns      = "pdns-recursor"
	knot      = "kresd"
	echo      = "echo"
	echoRules = "echo filtered" // behind the packet filter that ours sets up
)

func peers() []string { return []string{unbound, dnsdist, pdns, knot} }

// Where the clients are: the one that is measured and the one that floods, if one does.
const (
	clientAddr = "10.64.255.1"
	floodAddr  = "10.64.255.2"
)

// stage is one system at work, in a namespace of its own, with its clients in another:
//
//	client ─ w0 ═══ v0 ─ server ─ up0 ═══ down0 ─ authority
type stage struct {
	b              *bench
	server, client *kernel.Namespace
	dir            string
	addr           netip.Addr     // where it answers
	procs          []*rig.Process // it is made of
	hotstage       *rig.Hotstage  // nil for the others
	closers        []func()
}

// options are how a system is started otherwise than as usual.
type options struct {
	resolver string // more keys of our plan's resolver
	rules    string // of dnsdist
	xdp      bool   // the client's end of the link has an XDP program, so that XDP_TX reaches it
	caches   int    // MiB of the unbound, 0: as usual
}

// start makes a stage for the system and waits until it answers. The caller closes it.
func (b *bench) start(sys string, o options) (s *stage, err error) {
	if err := b.Ctx.Err(); err != nil {
		return nil, err
	}
	s = &stage{b: b, addr: netip.MustParseAddr("10.64.0.1")}
	defer func() {
		if err != nil {
			s.close()
			s = nil
		}
	}()
	if s.dir, err = os.MkdirTemp(b.Dir, "run"); err != nil {
		return s, err
	}
	all, err := rig.Namespaces(2)
	if err != nil {
		return s, err
	}
	s.server, s.client = all[0], all[1]
	if err := s.join(strings.HasPrefix(sys, ours) || sys == echoRules); err != nil {
		return s, err
	}
	if o.xdp {
		if err := s.passXDP(); err != nil {
			return s, err
		}
	}
	if err := s.run(sys, o); err != nil {
		return s, fmt.Errorf("%s: %w", sys, err)
	}
	if isEcho(sys) {
		return s, s.awaitEcho()
	}
	return s, rig.Await(b.Ctx, s.client, s.addr, "www.site.tld", s.procs[len(s.procs)-1])
}

// join makes the links. Ours gives its address to the clients' link itself.
func (s *stage) join(own bool) error {
	var addrs []string
	if !own {
		addrs = []string{s.addr.String() + "/16"}
	}
	err := rig.Join(rig.End{In: s.server, Name: "v0", Addrs: addrs}, rig.End{In: s.client, Name: "w0", Addrs: []string{clientAddr + "/16", floodAddr + "/16"}})
	if err != nil {
		return err
	}
	cut, err := s.b.auth.Uplink(s.server)
	if err != nil {
		return err
	}
	s.closers = append(s.closers, cut)
	return nil
}

// run starts what the system is made of, the one that answers last.
func (s *stage) run(sys string, o options) error {
	add := func(p *rig.Process, err error) error {
		if p != nil {
			s.procs = append(s.procs, p)
		}
		return err
	}
	recursive := func(listen string) error {
		return add(rig.Unbound{Listen: []string{listen}, Hints: s.b.auth.Hints, Threads: 2, Cache: o.caches}.Start(s.server, s.dir))
	}
	at := s.addr.String()
	switch sys {
	case unbound:
		return recursive(at + "@53")
	case dnsdist:
		if err := recursive("127.0.0.1@5301"); err != nil {
			return err
		}
		return add(rig.Dnsdist{Listen: at + ":53", Backends: []string{`address="127.0.0.1:5301", sockets=4`}, Cache: true, Rules: o.rules}.Start(s.server, s.dir))
	case pdns:
		return add(rig.Recursor(s.server, s.dir, at, s.b.auth.Hints))
	case knot:
		all, err := rig.Knot(s.server, s.dir, at, s.b.auth.Hints)
		s.procs = append(s.procs, all...)
		return err
	case echo:
		return add(rig.Start(s.server, s.dir, "/proc/self/exe", "-echo", at+":53"))
	}
	if sys == echoRules {
		return s.behindRules(o)
	}
	s.hotstage = &rig.Hotstage{Program: s.b.Hotstage, Dir: s.dir}
	recursion := "unbound"
	if sys == oursChild {
		if err := s.hotstage.Root("srv1", s.b.auth.Hints); err != nil {
			return err
		}
	} else {
		recursion = "['127.0.0.1:5301']"
		if err := recursive("127.0.0.1@5301"); err != nil {
			return err
		}
	}
	if err := s.hotstage.Plan(plan(recursion, o.resolver)); err != nil {
		return err
	}
	a, err := s.hotstage.Addr("srv1", "v0")
	if err != nil {
		return err
	}
	s.addr = a.Addr()
	return add(s.hotstage.Start(s.server, "srv1"))
}

// plan is ours: one node that resolves names for one segment. A client may ask as much as it
// can unless more keys say otherwise.
func plan(recursion, more string) string {
	keys := []string{"recursion: " + recursion, "cache: 64MiB"}
	if !strings.Contains(more, "client_rate") {
		keys = append(keys, "client_rate: 10000000")
	}
	if more != "" {
		keys = append(keys, more)
	}
	return fmt.Sprintf(`event: {name: Bench, attendees: 3000}
sites: {venue: {uplinks: {isp: {}}}}
segments: {attendee: {ipv4: 10.64.0.0/16}}
resolver: {%s}
nodes:
  gw1: {roles: [router, dhcp], interfaces: {eth0: {uplink: isp}, eth1: {segment: attendee}}}
  srv1: {roles: [resolver], interfaces: {v0: {segment: attendee}}}
`, strings.Join(keys, ", "))
}

// accepts tells whether our program knows what the plan's resolver has here.
func (b *bench) accepts(recursion, more string) bool {
	dir, err := os.MkdirTemp(b.Dir, "plan")
	if err != nil {
		return false
	}
	h := &rig.Hotstage{Program: b.Hotstage, Dir: dir}
	return h.Plan(plan(recursion, more)) == nil
}

// cpu is what the system has spent so far, all its processes.
func (s *stage) cpu() (d time.Duration) {
	for _, p := range s.procs {
		d += p.CPU()
	}
	return d
}

// close ends the system and what belongs to it.
func (s *stage) close() {
	for i := len(s.procs) - 1; i >= 0; i-- {
		s.procs[i].Stop()
	}
	for i := len(s.closers) - 1; i >= 0; i-- {
		s.closers[i]()
	}
	rig.Close([]*kernel.Namespace{s.server, s.client})
	os.RemoveAll(s.dir)
}
