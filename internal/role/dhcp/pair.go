package dhcp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
)

// mode is how a pair stands, as one of its servers sees it; see Pair.
type mode uint8

const (
	unpaired mode = iota
	waiting
	normal
	alone
	sole
)

var modeWords = [...]string{unpaired: "unpaired", waiting: "waiting", normal: "normal", alone: "alone", sole: "sole"}

const (
	// partnerFor is how long a partner that is silent counts as there. A client whose server
	// died repeats itself after 3 to 5 s (RFC 2131 section 4.1) and must find the other one
	// ready to answer.
	partnerFor = 2 * time.Second
	// beatEvery is how often the partner hears from us when there is nothing to tell.
	beatEvery = 100 * time.Millisecond
	// newsEvery is how long changes gather.
	newsEvery = 25 * time.Millisecond
	// redialEvery is how long to wait after a failure.
	redialEvery = 200 * time.Millisecond
	// messageRows bounds a message, and exchangeFor the time that it may take.
	messageRows = 500
	exchangeFor = 1500 * time.Millisecond
)

// line carries a message to the partner and brings its reply. It gives up when ctx ends.
type line interface {
	Exchange(ctx context.Context, message []byte) (reply []byte, err error)
}

// memo keeps one word on this node's disk.
type memo interface {
	Read() (string, error)
	Write(word string) error
}

// Pair keeps two servers of the same segments in agreement. Each gives new addresses from its
// own part of the pool alone and tells the other of every change, so that each knows every
// lease. Neither needs the other's word to answer, and no state below is needed for safety
// but for what is said of it there.
//
//	                         both know all that the other knows
//	 start ──► WAITING ───────────────────────────────────────────────► NORMAL ◄─────────┐
//	   │          │ the crew: alone                  2 s without a word │    ▲           │ both know all
//	   │          └──────────────────────────────────────────────────┐  ▼    │ both ...  │
//	   └─────────────────────────────────────────────────────────► ALONE ────┘           │
//	    it was more than WAITING in this boot of the machine         │ the crew: sole,   │
//	                                                                 ▼ a lease later     │
//	                                                               SOLE ─────────────────┘
//
//	NORMAL   A client is answered by the server whose part its address is of, one that is new
//	         by its hash (RFC 3074); one that repeats itself by either.
//	ALONE    Every client is answered. One with a lease of the partner's part that we know of has
//	         it extended; one that is new gets an address of our own part.
//	SOLE     The partner's addresses are ours too: the crew has said that its machine is off, and
//	         since then every lease that it may have given has ended.
//	WAITING  We were away for nobody knows how long, and the partner may have been SOLE. What our
//	         file says is not relied on; new clients get addresses of our part that nobody ever
//	         had, of its first half alone. One whose file is empty says nothing.
//
// Why no address is ever held twice:
//
//   - A server extends an address of the partner's part only for the client that it knows to
//     have it, and only as long as it has not confirmed, on its own disk, that the lease ended.
//   - A server gives an address of its own part that somebody had to another client only after
//     the partner has confirmed the end of that lease (pool.keeps, binding.cleared). A partner
//     that has extended it meanwhile denies the end, and the lease goes on until that one's end.
//     So it does not matter whether the two hear each other, nor who of them believes what.
//   - SOLE begins one whole lease after the crew's word, when the partner's last grant has ended,
//     and takes of the addresses that nobody ever had the second half alone; a partner that comes
//     back is WAITING, keeps to the first half, and believes us before its own file.
//
// Time is told as what is left, so the clocks of the two may differ as they like.
type Pair struct {
	server  *Server
	line    line
	memo    memo // the boot in which we were more than waiting
	partner string
	epoch   uint64 // of this process, at random: a message of another life is told by it
	m       *Metrics

	hearing sync.Mutex // one of the partner's messages at a time

	mu     sync.Mutex // of the rest
	mode   mode
	out    outgoing
	in     incoming
	soleAt time.Duration // boot clock; 0: the crew has not said so
	cause  error
}

// outgoing is how far the partner knows us.
type outgoing struct {
	session     uint64 // 0: none is open
	segment, at int    // where the telling of everything is
	whole       bool   // everything was told
	last        time.Duration
	sent        time.Duration
	failed      time.Duration
}

// incoming is how far we know the partner.
type incoming struct {
	epoch, session uint64
	whole          bool
	last           time.Duration
}

// letter is what one server tells the other, in order.
type letter struct {
	From    string         `json:"from"`
	Epoch   uint64         `json:"epoch"`
	Session uint64         `json:"session"` // each begins with everything that is known
	First   bool           `json:"first,omitempty"`
	Last    bool           `json:"last,omitempty"` // everything has been told with this one
	Bye     bool           `json:"bye,omitempty"`
	Sure    bool           `json:"sure,omitempty"` // the teller is not WAITING
	Parts   string         `json:"parts,omitempty"`
	Free    map[string]int `json:"free,omitempty"` // by segment
	Rows    []row          `json:"rows,omitempty"`
}

// receipt is the answer to a message.
type receipt struct {
	Again   bool   `json:"again,omitempty"`   // the session is not known: begin with everything
	Refused string `json:"refused,omitempty"` // the reason
	Deny    []row  `json:"deny,omitempty"`
	Sure    bool   `json:"sure,omitempty"`
}

// Join pairs the server with the partner of its Config, over l. It comes before Run. A Config
// with a partner needs it; see Config.Alone.
func (s *Server) Join(l line, m memo) {
	p := &Pair{server: s, line: l, memo: m, partner: s.partner, epoch: rand.Uint64() | 1, m: s.metrics}
	for _, g := range s.segments {
		if g.cfg.Partner != nil {
			g.pair.joined, g.pair.first = true, s.node < s.partner
		}
	}
	s.pair = p
}

// paired are the segments that both serve.
func (p *Pair) paired() (all []*segment) {
	for _, g := range p.server.segments {
		if g.pair.joined {
			all = append(all, g)
		}
	}
	return all
}

// begin says how the pair stands at the start, by what the store had.
func (p *Pair) begin(leases []fact.Lease) {
	boot, mine := p.server.clock.Boot(), false
	for _, g := range p.paired() {
		mine = mine || slices.ContainsFunc(leases, func(l fact.Lease) bool { return l.Segment == g.cfg.Name })
	}
	for _, g := range p.paired() {
		g.pair.blank = !mine
	}
	to := waiting
	if was, err := p.memo.Read(); err == nil && was == boot && boot != "" { // else the safe way
		to = alone
	}
	p.mu.Lock()
	p.turn(read(p.server.clock), to)
	p.mu.Unlock()
}

// run keeps in touch until ctx ends.
func (p *Pair) run(ctx context.Context) {
	tick := time.NewTicker(newsEvery)
	defer tick.Stop()
	for {
		p.beat(ctx)
		p.judge(read(p.server.clock))
		select {
		case <-ctx.Done():
			p.bye()
			return
		case <-tick.C:
		}
	}
}

// beat tells the partner what it does not know yet, if there is something or it is time. For
// one goroutine.
func (p *Pair) beat(ctx context.Context) {
	for n := 0; n < 64 && ctx.Err() == nil && p.one(ctx); n++ {
	}
}

// one sends one message; true when there is more.
func (p *Pair) one(ctx context.Context) bool {
	at := read(p.server.clock)
	p.mu.Lock()
	if p.out.session == 0 {
		if p.out.failed != 0 && at.boot-p.out.failed < redialEvery {
			p.mu.Unlock()
			return false
		}
		p.out = outgoing{session: rand.Uint64() | 1, last: p.out.last}
	}
	o, sure := p.out, p.mode != waiting
	p.mu.Unlock()
	m := letter{Sure: sure, From: p.server.node, Epoch: p.epoch, Session: o.session, First: o.segment == 0 && o.at == 0 && !o.whole, Free: map[string]int{}}
	from, next := p.gather(at, &o, &m)
	if o.whole && !m.Last && len(m.Rows) == 0 && at.boot-o.sent < beatEvery {
		return false
	}
	r, err := p.send(ctx, m)
	if err != nil {
		for _, f := range from {
			f.g.untold(f.sent)
		}
		p.failed(err)
		return false
	}
	p.settle(from, r)
	now := read(p.server.clock).boot
	p.mu.Lock()
	p.out.segment, p.out.at, p.out.whole, p.out.last, p.out.sent, p.cause = o.segment, o.at, o.whole, now, now, nil
	p.mu.Unlock()
	p.m.told(len(m.Rows))
	return next
}

// telling is what of one segment is on its way.
type telling struct {
	g    *segment
	sent []sent
}

// gather fills the message: at first everything, segment by segment, then what has changed.
func (p *Pair) gather(at moment, o *outgoing, m *letter) (from []telling, more bool) {
	all := p.paired()
	if m.First {
		m.Parts = p.server.parts()
	}
	for _, g := range all {
		m.Free[g.cfg.Name] = g.free()
	}
	if !o.whole {
		if o.segment < len(all) {
			g, next := all[o.segment], 0
			t := telling{g: g}
			m.Rows, t.sent, next = g.all(at, o.at, messageRows, nil, nil)
			from = append(from, t)
			if o.at = next; next == 0 {
				o.segment++
			}
		}
		o.whole = o.segment >= len(all)
		m.Last = o.whole
		return from, true
	}
	for _, g := range all {
		t := telling{g: g}
		m.Rows, t.sent = g.news(at, messageRows-len(m.Rows), m.Rows, nil)
		from = append(from, t)
	}
	return from, len(m.Rows) == messageRows
}

func (p *Pair) send(ctx context.Context, m letter) (r receipt, err error) {
	text, err := json.Marshal(m)
	if err != nil {
		return r, err
	}
	ctx, cancel := context.WithTimeout(ctx, exchangeFor)
	defer cancel()
	answer, err := p.line.Exchange(ctx, text)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(answer, &r); err != nil {
		return r, fmt.Errorf("read the partner's reply: %w", err)
	}
	switch {
	case r.Refused != "":
		return r, errRefused{r.Refused}
	case r.Again:
		return r, errAgain
	}
	return r, nil
}

var errAgain = errors.New("the partner has begun again")

type errRefused struct{ why string }

func (e errRefused) Error() string { return e.why }

// settle takes the partner's answer to what was told.
func (p *Pair) settle(from []telling, r receipt) {
	at := read(p.server.clock)
	for _, f := range from {
		var denied []row
		for _, d := range r.Deny {
			if d.Segment == f.g.cfg.Name {
				denied = append(denied, d)
			}
		}
		var h outcome
		for _, d := range denied {
			f.g.hear(at, d, r.Sure, &h)
		}
		p.contrary(at, h.contrary)
		f.g.known(f.sent, denied)
	}
}

// failed closes the session: the next one begins with everything.
func (p *Pair) failed(err error) {
	p.mu.Lock()
	p.out = outgoing{failed: read(p.server.clock).boot, last: p.out.last}
	if errors.Is(err, errAgain) {
		p.out.failed = 0
	}
	p.cause = err
	p.mu.Unlock()
}

// bye tells the partner that we stop, so that it need not find out.
func (p *Pair) bye() {
	p.mu.Lock()
	o := p.out
	p.mu.Unlock()
	if !o.whole {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), beatEvery)
	defer cancel()
	_, _ = p.send(ctx, letter{From: p.server.node, Epoch: p.epoch, Session: o.session, Bye: true}) // it finds out by itself
}

// Hear answers a message of the partner; the caller has made sure that it is the partner's.
// It returns an error when the message cannot be read or what it tells cannot be stored.
func (s *Server) Hear(ctx context.Context, text []byte) ([]byte, error) {
	if s.pair == nil {
		return nil, errors.New("this server has no partner")
	}
	var m letter
	if err := json.Unmarshal(text, &m); err != nil {
		return nil, fmt.Errorf("read the partner's message: %w", err)
	}
	r, err := s.pair.hear(ctx, m)
	if err != nil {
		return nil, err
	}
	return json.Marshal(r)
}

func (p *Pair) hear(ctx context.Context, m letter) (r receipt, err error) {
	p.hearing.Lock()
	defer p.hearing.Unlock()
	select {
	case <-p.server.loaded:
	case <-ctx.Done():
		return r, ctx.Err()
	}
	at := read(p.server.clock)
	if m.From != p.partner {
		return receipt{Refused: fmt.Sprintf("this node's partner is %s, not %s: do both have the same plan?", p.partner, m.From)}, nil
	}
	if ours := p.server.parts(); m.First && m.Parts != ours {
		return receipt{Refused: fmt.Sprintf("the two nodes have different plans: %s here, %s there; give both the same plan and start them again", ours, m.Parts)}, nil
	}
	if !p.follows(at, m) {
		return receipt{Again: true}, nil
	}
	var h outcome
	for _, x := range m.Rows {
		if g := p.server.segment(x.Segment); g != nil && g.pair.joined {
			g.hear(at, x, m.Sure, &h)
		}
	}
	p.contrary(at, h.contrary)
	if len(h.keep) > 0 {
		if err := p.server.ledger.book.Commit(ctx, h.keep); err != nil {
			return r, fmt.Errorf("store the partner's leases: %w", err)
		}
	}
	for name, n := range m.Free {
		if g := p.server.segment(name); g != nil {
			g.mu.Lock()
			g.pair.partnerFull = n == 0
			g.mu.Unlock()
		}
	}
	p.mu.Lock()
	p.in.last = read(p.server.clock).boot
	p.in.whole = (p.in.whole || m.Last) && !m.Bye
	sure := p.mode != waiting
	p.mu.Unlock()
	p.m.learnt(len(m.Rows))
	return receipt{Deny: h.deny, Sure: sure}, nil
}

// follows tells whether the message goes on with what was heard. A partner that begins is no
// longer off: its addresses are its own again before it is told anything.
func (p *Pair) follows(at moment, m letter) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if m.First {
		p.in = incoming{epoch: m.Epoch, session: m.Session}
		if p.soleAt = 0; p.mode == sole {
			p.turn(at, alone)
		}
		return true
	}
	return p.in.epoch == m.Epoch && p.in.session == m.Session && m.Session != 0
}

// contrary tells of addresses that two clients have: somebody gave them who must not.
func (p *Pair) contrary(at moment, rows []row) {
	for _, r := range rows {
		p.m.contradicted()
		p.server.tell.say(at, fact.Alarm, "pair-contrary", r.Segment,
			"%s and %s have both given %s in segment %s: was one of them told to be sole while the other served? Find the devices with hotstage leases; the older lease ends by itself", p.server.node, p.partner, r.Addr, r.Segment)
	}
}

// judge says how the pair stands now.
func (p *Pair) judge(at moment) {
	p.mu.Lock()
	defer p.mu.Unlock()
	there := p.out.whole && p.in.whole && at.boot-p.out.last < partnerFor && at.boot-p.in.last < partnerFor
	switch {
	case there && p.mode != normal:
		p.soleAt = 0
		p.turn(at, normal)
	case !there && p.mode == normal:
		p.turn(at, alone)
	case p.mode == alone && p.soleAt != 0 && at.boot >= p.soleAt:
		p.turn(at, sole)
	}
}

// turn changes the mode and says so; mu is held.
func (p *Pair) turn(at moment, to mode) {
	if p.mode == waiting {
		if err := p.memo.Write(p.server.clock.Boot()); err != nil {
			p.server.tell.say(at, fact.Warning, "pair-memo-failed", "", "after its next restart this server waits for %s again: %v", p.partner, err)
		}
	}
	p.mode = to
	for _, g := range p.paired() {
		g.enter(to)
	}
	p.m.stands(to)
	for _, k := range []string{"pair-normal", "pair-alone", "pair-sole", "pair-waiting"} {
		p.server.tell.forget(k, "")
	}
	say := func(severity fact.Severity, kind, format string, args ...any) {
		p.server.tell.say(at, severity, kind, "", format, args...)
	}
	switch to {
	case normal:
		say(fact.Info, "pair-normal", "%s and this node know each other's leases", p.partner)
	case alone:
		say(fact.Warning, "pair-alone", "%s is not heard%s: this node answers its clients too and gives new ones addresses of its own part; if its machine is off for good: hotstage pair sole", p.partner, because(p.cause))
	case sole:
		say(fact.Warning, "pair-sole", "this node gives the addresses of %s too, until that is heard again", p.partner)
	case waiting:
		say(fact.Warning, "pair-waiting", "%s is not heard yet, and may know of leases that this node's file does not: only addresses that nobody had are given; if %s is off: hotstage pair alone", p.partner, p.partner)
	}
}

func because(err error) string {
	if err == nil {
		return ""
	}
	return fmt.Sprintf(" (%v)", err)
}

// Order does what the crew says of the partner: "alone", that this node's file is what is so,
// or "sole", that the partner's machine is off. It returns what will be, in words.
func (s *Server) Order(what string) (string, error) {
	p := s.pair
	if p == nil {
		return "", errors.New("this node is no part of a pair")
	}
	at := read(s.clock)
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.mode == normal:
		return "", fmt.Errorf("%s is heard: there is nothing to do; switch its machine off first", p.partner)
	case what == "alone" && p.mode == waiting:
		p.turn(at, alone)
		return "this node relies on its file from now on", nil
	case what == "sole" && p.mode == waiting:
		return "", errors.New("this node does not know what its partner knew; say first: hotstage pair alone")
	case what == "sole" && p.mode == alone && p.soleAt == 0:
		wait := s.longest() + graceFor
		p.soleAt = at.boot + wait
		return fmt.Sprintf("the addresses of %s are given too from %s on, in %v, when every lease that it may have given has ended; keep its machine off until it can reach this one",
			p.partner, at.wall.Add(wait).Format(time.TimeOnly), wait.Round(time.Second)), nil
	}
	return "nothing to change: " + modeWords[p.mode], nil
}

// Paired tells whether the server has been joined.
func (s *Server) Paired() bool { return s.pair != nil }

// PairCheck says how the pair stands; the server is paired.
func (s *Server) PairCheck() fact.Check { return s.pair.check() }

// longest is the longest lease of the paired segments.
func (s *Server) longest() (most time.Duration) {
	for _, g := range s.pair.paired() {
		most = max(most, g.cfg.Lease)
	}
	return most
}

// parts says which addresses each of the two has, the same on both.
func (s *Server) parts() (words string) {
	for _, g := range s.pair.paired() {
		a, b := g.cfg.Pool, g.cfg.Partner.Pool
		if !g.pair.first {
			a, b = b, a
		}
		words += fmt.Sprintf("%s %v-%v %v-%v %v;", g.cfg.Name, a.From, a.To, b.From, b.To, g.cfg.Lease)
	}
	return words
}

func (s *Server) segment(name string) *segment {
	for _, g := range s.segments {
		if g.cfg.Name == name {
			return g
		}
	}
	return nil
}

// check says how the pair stands.
func (p *Pair) check() fact.Check {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := fact.Check{Name: "dhcp-pair", Words: "the DHCP servers know each other's leases", Goal: "normal", Measured: modeWords[p.mode] + because(p.cause), OK: p.mode == normal}
	switch {
	case p.mode == waiting:
		c.Hint = "hotstage status on " + p.partner + "; if it is off: hotstage pair alone"
	case !c.OK:
		c.Hint = "hotstage status on " + p.partner + "; devices are served all the same"
	}
	return c
}
