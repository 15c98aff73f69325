//go:build linux

// Package segment makes this node's part of each segment as the plan has it, and keeps it
// so: links, bridges, VLAN interfaces, addresses, routes, forwarding, and the packet filter
// that keeps attendees apart and management to the crew. What drifts is put back and told.
// It touches only what is its own: addresses and routes that carry its mark, its nftables
// table, and the parameters of its links. When it ends it leaves all as it is, so that a
// restart cuts nobody off.
package segment

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/kernel"
)

// every is the longest that drift stays unseen, when the kernel does not tell of it.
const every = 5 * time.Second

// Server keeps one node's part of the segments.
type Server struct {
	config  Config
	metrics *Metrics
	tell    func(fact.Event)
	ready   chan struct{}

	mu     sync.Mutex
	right  bool
	faulty error               // what could not be put right, nil when all could
	counts map[string]uint64   // dropped packets by reason
	told   map[string]struct{} // failures that stand, each told once
}

// New makes the task; it changes nothing before Run. tell must be safe for concurrent use.
func New(c Config, m *Metrics, tell func(fact.Event)) *Server {
	return &Server{config: c, metrics: m, tell: tell, ready: make(chan struct{}), counts: map[string]uint64{}, told: map[string]struct{}{}}
}

// String is the task's name.
func (s *Server) String() string { return "segment" }

// Ready is closed once everything is as planned for the first time.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Run makes everything as planned in the calling thread's namespace and keeps it so until
// ctx ends.
func (s *Server) Run(ctx context.Context) error {
	var once sync.Once
	err := kernel.Keeper{
		Diff:  s.Diff,
		Done:  s.done,
		Every: every,
		Right: func(right bool) {
			s.look(right)
			if right {
				once.Do(func() { close(s.ready) })
			}
		},
	}.Keep(ctx)
	if err != nil {
		return fmt.Errorf("segment: %w", err)
	}
	return nil
}

// done tells of what was put right, and of what could not be.
func (s *Server) done(put []string, err error) {
	s.mu.Lock()
	s.faulty = err
	s.mu.Unlock()
	first := !isClosed(s.ready)
	switch {
	case len(put) > 0 && first:
		s.event("set-up", fact.Info, fmt.Sprintf("This node's segments were set up in %d steps: %s.", len(put), list(put)))
	case len(put) > 0:
		s.metrics.repairs.Inc()
		s.event("drift", fact.Warning, fmt.Sprintf("Somebody changed the network of this node; put back: %s. Find out who: another program that manages interfaces or filters must leave these alone.", list(put)))
	}
	s.failures(err)
}

// failures tells of each failure once, until a round passes without any.
func (s *Server) failures(err error) {
	s.mu.Lock()
	if err == nil {
		clear(s.told)
	}
	var news []string
	for _, line := range lines(err) {
		if _, known := s.told[line]; !known && len(s.told) < 100 {
			s.told[line] = struct{}{}
			news = append(news, line)
		}
	}
	s.mu.Unlock()
	if len(news) == 0 {
		return
	}
	kind := "cannot-set-up"
	if errors.Is(err, kernel.ErrNoVLAN) {
		kind = "no-8021q"
	}
	s.event(kind, fact.Alarm, fmt.Sprintf("A part of the segments cannot be set up and is tried again every %s: %s.", every, list(news)))
}

// lines are the texts of joined errors.
func lines(err error) []string {
	if err == nil {
		return nil
	}
	return strings.Split(err.Error(), "\n")
}

// list is at most 5 of all, in words.
func list(all []string) string {
	const most = 5
	if len(all) <= most {
		return strings.Join(all, "; ")
	}
	return fmt.Sprintf("%s; and %d more", strings.Join(all[:most], "; "), len(all)-most)
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func (s *Server) event(kind string, severity fact.Severity, words string) {
	s.tell(fact.Event{Time: time.Now(), Task: s.String(), Kind: kind, Severity: severity, Words: words})
}

// look remembers whether all is right, and reads the counters.
func (s *Server) look(right bool) {
	counts, err := kernel.Counts(tableName)
	if err == nil {
		s.metrics.count(counts)
	}
	s.metrics.right.Set(0)
	if right {
		s.metrics.right.Set(1)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.right = right
	if right {
		s.faulty = nil
	}
	for name, c := range counts {
		s.counts[name] = c.Packets
	}
}

// Checks says whether this node's part of the segments is as planned.
func (s *Server) Checks() []fact.Check {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := fact.Check{Name: "segments", Words: "links, addresses, routes and the filter of this node are as planned", Goal: "no difference", Measured: "no difference", OK: s.right}
	if !s.right {
		c.Measured = "not set up yet"
		c.Hint = "hotstage diff lists what differs"
		if s.faulty != nil {
			c.Measured = list(lines(s.faulty))
		}
	}
	return []fact.Check{c}
}
