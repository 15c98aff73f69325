package dhcp

import (
	"net/netip"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/wire"
)

// pairing is what a segment knows of its pair.
type pairing struct {
	joined      bool // there is a partner to talk to
	first       bool // we have the buckets below 128
	partnerFull bool // the partner has no address for a client that nobody knows
	blank       bool // we began with no lease at all
}

// impatient is from how many seconds on a client is answered by either server: it has
// repeated itself, so the one that should have answered did not ("secs", RFC 2131 section 2).
// Clients that write it in the wrong byte order are answered by both.
const impatient = 3

// row is what one server of a pair tells the other about an address.
type row struct {
	Segment string        `json:"s"`
	Addr    netip.Addr    `json:"a"`
	Client  string        `json:"c,omitempty"` // as in fact.Lease
	MAC     []byte        `json:"m,omitempty"`
	Host    string        `json:"h,omitempty"`
	State   state         `json:"t"`
	Left    time.Duration `json:"l,omitempty"` // of a lease or a rest; no clock is compared
	Start   time.Time     `json:"b"`           // for people
	Trial   bool          `json:"r,omitempty"`
	Lent    time.Duration `json:"n,omitempty"` // what is left of the teller's own grant of the hearer's address
}

// refer says why a message is not answered by this server though it could be: the partner
// answers, or may know better.
func (g *segment) refer(m *wire.DHCP, key []byte, broadcast bool) silence {
	if m.Type != wire.DHCPDiscover && m.Type != wire.DHCPRequest || m.ServerID.IsValid() && m.ServerID != g.cfg.Server {
		return replied
	}
	p := g.pool
	switch p.mode {
	case waiting:
		if g.pair.blank || m.Type == wire.DHCPRequest && g.stale(m, key) {
			return unheard
		}
	case normal:
		switch {
		case m.Secs >= impatient || m.ServerID.IsValid() || p.offered[string(key)] != nil:
		case m.Type == wire.DHCPRequest && !broadcast:
		case m.Type == wire.DHCPRequest:
			if b := p.at(asked(m)); b != nil && b.theirs {
				return byPartner
			}
		case g.leaves(key):
			return byPartner
		}
	}
	return replied
}

// asked is the address that a REQUEST is about.
func asked(m *wire.DHCP) netip.Addr {
	if m.Requested.IsValid() {
		return m.Requested
	}
	return m.CIAddr
}

// stale says that what is known of the client or of what it asks for is of a file alone.
func (g *segment) stale(m *wire.DHCP, key []byte) bool {
	if own := g.pool.clients[string(key)]; own != nil && !own.lately {
		return true
	}
	b := g.pool.at(asked(m))
	return b != nil && !b.lately && b.state != fresh && b.offeredTo != string(key)
}

// leaves says that the partner answers the client's DISCOVER: who has its address, and for
// one that nobody knows the hash decides (RFC 3074).
func (g *segment) leaves(key []byte) bool {
	if own := g.pool.clients[string(key)]; own != nil && !own.owner {
		return own.theirs
	}
	if g.pair.partnerFull && g.pool.owners[string(key)] == nil {
		return false
	}
	return (hashOf(key[1:]) < 128) != g.pair.first
}

// unknown says that the address is the partner's and we know of no lease of it that the
// client has: only the partner can tell.
func (b *binding) unknown(key []byte) bool {
	return b.theirs && b.offeredTo != string(key) && !(b.state == bound && b.client == string(key))
}

// enter changes how the pair stands.
func (g *segment) enter(m mode) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.pool.mode == m {
		return
	}
	g.pool.mode = m
	for _, b := range g.pool.slots {
		if b == nil || b.owner || b.state == bound || b.in == nil {
			continue
		}
		if b.offeredTo != "" {
			if g.pool.keeps(b) && b.offeredTo != b.client {
				g.pool.heed(b)
			}
			continue
		}
		// One that is kept already stays where it is: its part decides that, not the mode.
		if kept := b.in == &g.pool.held || b.in == &g.pool.away; kept != g.pool.keeps(b) {
			b.in.remove(b)
			g.pool.shelve(b)
		}
	}
}

// free is how many addresses a client could have that nobody knows.
func (g *segment) free() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.pool.fresh.n + g.pool.past.n
}

// sent is a change on its way to the partner.
type sent struct {
	b     *binding
	gen   uint32
	ended bool
}

// news takes up to n changes that the partner does not know of yet.
func (g *segment) news(at moment, n int, rows []row, from []sent) ([]row, []sent) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for ; n > 0 && len(g.pool.news) > 0; n-- {
		last := len(g.pool.news) - 1
		b := g.pool.news[last]
		g.pool.news[last] = nil
		g.pool.news = g.pool.news[:last]
		b.queued = false
		rows, from = g.tell(at, b, rows, from)
	}
	return rows, from
}

// all takes what is known of the addresses from the place i on, up to n of them; next is
// where to go on, 0 at the end.
func (g *segment) all(at moment, i, n int, rows []row, from []sent) (_ []row, _ []sent, next int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if i == 0 {
		for _, b := range g.pool.outside {
			rows, from = g.tell(at, b, rows, from)
		}
	}
	for ; i < len(g.pool.slots) && n > 0; i, n = i+1, n-1 {
		if b := g.pool.slots[i]; b != nil {
			rows, from = g.tell(at, b, rows, from)
		}
	}
	if i < len(g.pool.slots) {
		next = i
	}
	return rows, from, next
}

// tell adds one address, unless nobody ever had it.
func (g *segment) tell(at moment, b *binding, rows []row, from []sent) ([]row, []sent) {
	if b.state == fresh {
		return rows, from
	}
	r := row{
		Segment: g.cfg.Name, Addr: b.addr, Client: clientWords(b.client), MAC: append([]byte(nil), b.mac[:]...), Host: b.host,
		State: b.state, Left: max(0, b.ends-at.boot), Start: b.start, Trial: b.trial, Lent: max(0, b.lent-at.boot),
	}
	return append(rows, r), append(from, sent{b, b.gen, b.state != bound})
}

// known tells that the partner knows these changes, but for what it has denied.
func (g *segment) known(from []sent, denied []row) {
	g.mu.Lock()
	defer g.mu.Unlock()
	no := map[netip.Addr]bool{}
	for _, r := range denied {
		no[r.Addr] = true
	}
	for _, s := range from {
		if !s.ended || s.b.gen != s.gen || no[s.b.addr] {
			continue
		}
		s.b.cleared = true
		if s.b.in == &g.pool.held && !g.pool.keeps(s.b) {
			s.b.in.remove(s.b)
			g.pool.shelve(s.b)
		}
	}
}

// unheard has the changes told once more.
func (g *segment) untold(from []sent) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, s := range from {
		g.pool.report(s.b)
	}
}

// outcome is what became of the partner's rows.
type outcome struct {
	deny     []row        // what we know better
	keep     []fact.Lease // what has to be on disk before the partner may rely on it
	contrary []row        // of an address that two clients seem to have
}

// hear takes the partner's word of one address. sure says that the partner knows what was of
// late: it is not WAITING itself.
func (g *segment) hear(at moment, r row, sure bool, h *outcome) {
	g.mu.Lock()
	defer g.mu.Unlock()
	b := g.pool.at(r.Addr)
	if b == nil {
		return
	}
	n := g.recordOf(at, r)
	n.lately = sure
	if b.theirs {
		g.hearTheirs(at, b, n, r, h)
	} else {
		g.hearOurs(at, b, n, r, h)
	}
}

func (g *segment) recordOf(at moment, r row) record {
	n := record{
		state: r.State, client: clientFromWords(r.Client), host: label([]byte(r.Host)), start: r.Start,
		until: at.wall.Add(r.Left), ends: at.boot + r.Left, granted: at.boot + r.Left - g.cfg.Lease, trial: r.Trial,
	}
	copy(n.mac[:], r.MAC)
	if n.state == fresh || n.state > declined {
		n.state = expired
	}
	return n
}

// hearTheirs takes the partner's word about its own address. It is what is so, but for a lease
// that we gave and that has not ended: that is denied.
func (g *segment) hearTheirs(at moment, b *binding, n record, r row, h *outcome) {
	if b.state == bound && b.lent > at.boot {
		switch {
		case n.state != bound:
			h.deny = append(h.deny, g.denial(at, b))
			return
		case b.client == n.client:
			n.lent = b.lent
			later(&n, b.ends, b.until)
		case b.lately: // ours is the newer one: the partner has been off
			if n.lately {
				h.contrary = append(h.contrary, r)
			}
			h.deny = append(h.deny, g.denial(at, b))
			return
		case !n.lately:
			n.lent = b.lent
			nobody(&n, b.ends, b.until)
		}
	}
	g.learn(b, n)
	h.keep = append(h.keep, g.fact(b, &b.record))
}

// hearOurs takes the partner's word about an address of ours: that it gave a lease of it
// while we were not heard. An end we know ourselves. Who is WAITING takes every lease that the
// partner knows.
func (g *segment) hearOurs(at moment, b *binding, n record, r row, h *outcome) {
	trust := b.state == fresh || g.pool.mode == waiting && !b.lately
	if !trust {
		n.ends, n.until = at.boot+r.Lent, at.wall.Add(r.Lent)
	}
	switch {
	case n.state != bound && b.state == bound: // it stays until its end, and the partner shall know that
		g.pool.report(b)
		return
	case n.state != bound && !trust, n.ends <= at.boot && n.state == bound:
		return
	case b.state != bound:
		if b.offeredTo != "" && b.offeredTo != n.client && b.cleared { // its end was confirmed: the partner's word is older
			return
		}
	case b.client == n.client:
		later(&n, b.ends, b.until)
	case !trust:
		if n.lately {
			h.contrary = append(h.contrary, r)
		}
		return
	case !n.lately:
		nobody(&n, b.ends, b.until)
	}
	g.learn(b, n)
	g.pool.soil(b)
	if n.state != bound { // it is free for others once the partner has confirmed that
		g.pool.report(b)
	}
}

// later has the lease end when the later of two ends.
func later(n *record, ends time.Duration, until time.Time) {
	if n.ends < ends {
		n.ends, n.until = ends, until
	}
}

// nobody keeps an address from everybody until both of two leases have ended: two files name
// different clients, and none knows which is the newer.
func nobody(n *record, ends time.Duration, until time.Time) {
	later(n, ends, until)
	n.client, n.mac, n.host = "", [6]byte{}, ""
}

// denial is what we hold against the partner's word.
func (g *segment) denial(at moment, b *binding) row {
	rows, _ := g.tell(at, b, nil, nil)
	return rows[0]
}

// learn puts what the partner knows in the place of what we knew.
func (g *segment) learn(b *binding, n record) {
	if b.durable != nil && b.client == n.client && n.state == bound { // a grant of ours is on its way to the store: the later end counts
		g.pool.stretch(b, n.ends, n.until)
		return
	}
	if n.state != bound || b.client != n.client {
		g.unname(b)
	}
	b.durable = nil
	g.pool.put(b, n)
	if n.state == bound && !b.owner && n.host != "" {
		b.name = g.names.claim(b.addr, n.host, g.cfg.Domain)
	}
}

// factNode names whose address it is, "" for our own.
func (g *segment) factNode(b *binding) string {
	if b.theirs && g.cfg.Partner != nil {
		return g.cfg.Partner.Node
	}
	return ""
}
