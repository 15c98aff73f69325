package dhcp

import (
	"container/heap"
	"encoding/binary"
	"math"
	"net/netip"
	"time"

	"github.com/hotstage/hotstage/internal/plan"
)

// state is what an address is at the moment.
//
//	          offer                 grant
//	fresh ───────────► (offered) ───────────► bound ──┐ renew
//	  ▲   ◄───────────              ▲           │ ▲───┘
//	  │      lapse                  │           ├── RELEASE ──► released ─┐
//	  │                             │           ├── time ─────► expired ──┤ "past"
//	  │ only before the first grant │           └── DECLINE ──► declined  │
//	                                │                 │ rest over         │
//	                                │                 └──► expired ───────┤
//	                                └───────────── offer ─────────────────┘
//
// An offer is not a state: it is kept beside the record of the address's last client, who
// gets it back when the offer lapses.
type state uint8

const (
	fresh state = iota // never given to anybody
	bound
	released
	expired
	declined
)

// record is what is known of an address and the last client that had it. Its ends is on
// the boot clock: of the lease when bound, of the rest when declined, else when it ended.
type record struct {
	state   state
	client  string // see clientKey
	mac     [6]byte
	host    string // label, safe for DNS
	start   time.Time
	until   time.Time // ends on the wall clock, for people
	granted time.Duration
	first   time.Duration // the first grant of a row, on the boot clock; 0 after a restart
	ends    time.Duration
	trial   bool // a stranger's first lease in a surge
	squat   bool // declined: mac answers for it and has no lease of it

	lately bool          // it is of this run or the partner's word, not of a file alone
	lent   time.Duration // of the partner's part: the end of the lease that we gave or cannot deny; 0: the partner's word alone
}

// binding is one address of the pool.
type binding struct {
	addr netip.Addr
	record
	// durable is what the store says while a grant is on its way there; nil when record is it.
	durable *record
	gen     uint32  // counts changes, so that a commit knows whether it is still the last word
	owner   bool    // reserved for one client: never in a list
	title   []byte  // the reservation's name
	dirty   bool    // its end is not in the store yet
	name    string  // FQDN that the lease has in names
	holder  *holder // see fact; nil before the first
	xid     uint32  // of the grant that is on its way to the store

	offeredTo string // client key, "" when not offered
	offerEnds time.Duration
	forgoes   bool // the offer is to a client that will most likely do without (RFC 8925)

	theirs  bool // of the partner's part
	upper   bool // of the second half of its part; see pool.keeps
	cleared bool // ended, and the partner knows
	queued  bool // in news

	probed  time.Duration // when it was last probed; 0: never
	unheard int           // probes since somebody answered

	in         *list // fresh, past, offers, resting, held or away; nil when bound
	prev, next *binding
	heapAt     int
}

// pool is the addresses of one segment that this node may give. Not safe for concurrent
// use. Every operation takes constant time, or logarithmic for the expiry of leases.
type pool struct {
	first   uint32
	slots   []*binding // by address - first; nil: never given (a gateway, a server)
	outside map[netip.Addr]*binding
	owners  map[string]*binding  // reservations, by client key
	byMAC   map[[6]byte]*binding // those of hardware addresses again
	clients map[string]*binding  // the last address of each client, live or not
	offered map[string]*binding

	fresh, past, offers, resting list
	held, away                   list // kept from strangers: of our part, of the partner's; see keeps
	afar                         int  // bound ones of the partner's part
	mode                         mode
	news                         []*binding // what the partner does not know yet
	live                         expiries
	dirty                        []*binding
	lapsed                       uint64 // offers that nobody took
	surge                        surge
}

func newPool(c Segment) *pool {
	p := &pool{
		outside: map[netip.Addr]*binding{}, owners: map[string]*binding{}, byMAC: map[[6]byte]*binding{},
		clients: map[string]*binding{}, offered: map[string]*binding{},
	}
	p.room(c)
	for _, a := range c.Never {
		if p.at(a) != nil {
			p.slots[number(a)-p.first] = nil
		}
	}
	for _, res := range c.Reservations {
		b := p.at(res.Addr)
		if b == nil {
			b = &binding{addr: res.Addr, heapAt: -1}
			p.outside[res.Addr] = b
		}
		b.owner, b.title = true, []byte(res.Name)
		if len(res.ClientID) > 0 {
			p.owners["i"+string(res.ClientID)] = b
			continue
		}
		p.owners["m"+string(res.MAC)] = b
		p.byMAC[[6]byte(res.MAC)] = b
	}
	for _, b := range p.slots {
		if b != nil && !b.owner {
			p.shelve(b)
		}
	}
	p.surge = newSurge(p.fresh.n)
	return p
}

// room makes the bindings of our part and of the partner's.
func (p *pool) room(c Segment) {
	parts := []plan.Range{c.Pool}
	if c.Partner != nil {
		parts = append(parts, c.Partner.Pool)
	}
	first, last := uint32(math.MaxUint32), uint32(0)
	for _, r := range parts {
		if r.IsValid() {
			first, last = min(first, number(r.From)), max(last, number(r.To))
		}
	}
	if last < first {
		return
	}
	p.first, p.slots = first, make([]*binding, last-first+1)
	for i, r := range parts {
		if !r.IsValid() {
			continue
		}
		all := make([]binding, r.Size())
		for n := range all {
			b := &all[n]
			b.addr, b.heapAt, b.theirs, b.upper = address(number(r.From)+uint32(n)), -1, i > 0, n >= len(all)/2
			p.slots[number(b.addr)-first] = b
		}
	}
}

func number(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

func address(n uint32) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
}

// at is the binding of an address that this node may give, or nil.
func (p *pool) at(a netip.Addr) *binding {
	if !a.Is4() {
		return nil
	}
	if i := number(a) - p.first; number(a) >= p.first && int64(i) < int64(len(p.slots)) {
		return p.slots[i]
	}
	return p.outside[a]
}

// size is how many addresses can be given to clients without a reservation.
func (p *pool) size() int {
	return p.fresh.n + p.past.n + p.offers.n + p.resting.n + p.held.n + p.leased()
}

// leased is how many of them are bound.
func (p *pool) leased() int {
	n := len(p.live)
	if p.mode != sole {
		n -= p.afar
	}
	for _, b := range p.owners {
		if b.state == bound {
			n--
		}
	}
	return n
}

// reserved is the address that is kept for the client, or nil: there is none, or somebody
// else still has a lease of it from before the plan reserved it.
func (p *pool) reserved(client []byte) *binding {
	b := p.owners[string(client)]
	if b == nil || b.state == bound && b.client != string(client) {
		return nil
	}
	return b
}

// free says that nobody has the address and nobody was promised it.
func (b *binding) free() bool {
	return b.state != bound && b.state != declined && b.offeredTo == ""
}

// shelve puts a binding where its record belongs.
func (p *pool) shelve(b *binding) {
	switch {
	case b.state == bound:
		heap.Push(&p.live, b)
		if b.theirs {
			p.afar++
		}
	case b.owner:
	case p.keeps(b) && b.theirs:
		p.away.pushBack(b)
	case p.keeps(b):
		p.held.pushBack(b)
	case b.state == fresh:
		p.fresh.pushBack(b)
	case b.state == declined:
		p.resting.pushBack(b)
	case b.trial:
		p.past.pushFront(b)
	default:
		p.past.pushBack(b)
	}
}

// lift takes a binding from where it is; an offer of it ends.
func (p *pool) lift(b *binding) {
	if b.heapAt >= 0 {
		heap.Remove(&p.live, b.heapAt)
		if b.theirs {
			p.afar--
		}
	}
	if b.in != nil {
		b.in.remove(b)
	}
	if b.offeredTo != "" {
		delete(p.offered, b.offeredTo)
		b.offeredTo = ""
	}
}

// put gives a binding a new record.
func (p *pool) put(b *binding, r record) {
	p.lift(b)
	if p.clients[b.client] == b && (r.client != b.client || r.state == declined) {
		delete(p.clients, b.client)
	}
	b.record = r
	b.gen++
	b.cleared = false
	if r.client != "" && r.state != declined { // nobody wants back what it declined
		had := p.clients[r.client]
		switch {
		case had == nil || had == b:
			p.clients[r.client] = b
		case b.theirs && (r.state != bound || had.state == bound && !had.theirs): // our own part goes before
		case had.state != bound || r.state == bound:
			p.clients[r.client] = b
		}
	}
	p.shelve(b)
}

// grant binds the address; the store knows nothing of it yet.
func (p *pool) grant(b *binding, r record) {
	if b.durable == nil {
		was := b.record
		b.durable = &was
	}
	if o := p.offered[r.client]; o != nil && o != b { // it has another address now: one lease per client
		p.heed(o)
	}
	if !b.owner && p.clients[r.client] == nil {
		p.surge.stranger(r.granted)
	}
	p.put(b, r)
	p.report(b)
}

// committed tells that the store has r, which grant made when gen was b.gen.
func (p *pool) committed(b *binding, gen uint32, r *record) {
	switch {
	case b.gen == gen:
		b.durable = nil
	case b.durable != nil:
		*b.durable = *r
	}
}

// refused takes a grant back that the store could not keep: what the store says counts.
func (p *pool) refused(b *binding, gen uint32) {
	if b.gen != gen || b.durable == nil {
		return
	}
	was := *b.durable
	b.durable = nil
	p.put(b, was)
	if was.state == released || was.state == expired || was.state == declined {
		p.soil(b) // its end may have been left to the grant to overwrite
	}
	p.report(b)
}

// end closes a binding. That is true at once, and saved when the store works: until then a
// restart finds the lease still bound, which gives the address to nobody else.
func (p *pool) end(b *binding, s state, at moment, rest time.Duration) {
	r := b.record
	if b.state == declined || s == declined && b.state != bound {
		r = record{} // nobody's after its rest; only offered: the last client is not the one that declines
	}
	if s != expired || r.ends > at.boot || b.state == declined {
		r.ends, r.until = at.boot+rest, at.wall.Add(rest)
	} // else it ended when it was to end, whenever that is noticed
	r.state = s
	r.lent = 0
	b.durable = nil
	p.put(b, r)
	p.soil(b)
	if !b.theirs || s != expired { // the partner says itself when its own end
		p.report(b)
	}
}

func (p *pool) soil(b *binding) {
	if !b.dirty {
		b.dirty = true
		p.dirty = append(p.dirty, b)
	}
}

// keeps says that no stranger may have the address now, though nobody has it; see Pair for why
// that is enough.
func (p *pool) keeps(b *binding) bool {
	switch {
	case p.mode == unpaired:
		return b.theirs
	case b.theirs:
		return p.mode != sole || b.state == fresh && !b.upper
	case b.state == fresh:
		return p.mode == waiting && b.upper
	}
	return p.mode != sole && !b.cleared
}

// report has the partner told of a change.
func (p *pool) report(b *binding) {
	if p.mode != unpaired && !b.queued {
		b.queued = true
		p.news = append(p.news, b)
	}
}

// stretch moves the end of a lease later; never earlier.
func (p *pool) stretch(b *binding, ends time.Duration, until time.Time) {
	if b.state == bound && ends > b.ends {
		b.ends, b.until = ends, until
		heap.Fix(&p.live, b.heapAt)
	}
}

// offer promises the address to a client for a while.
func (p *pool) offer(b *binding, client []byte, until time.Duration) {
	if b.offeredTo == "" {
		b.offeredTo = string(client)
		p.offered[b.offeredTo] = b
	}
	b.in.remove(b)
	p.offers.pushBack(b)
	b.offerEnds, b.forgoes = until, false
}

// lapse takes an offer back.
func (p *pool) lapse(b *binding) {
	p.lift(b)
	if !b.forgoes {
		p.lapsed++
	}
	switch {
	case p.keeps(b):
		p.shelve(b)
	case b.state == fresh:
		p.fresh.pushBack(b) // behind the others: its client may still ask for it
	default:
		p.past.pushFront(b) // it has been free the longest
	}
}

// heed takes an offer back whose client was heard, so that it does not count as lapsed.
func (p *pool) heed(b *binding) {
	b.forgoes = true
	p.lapse(b)
}

// leastOffers may stand in any pool, however small.
const leastOffers = 8

// offersAllowed is how many offers may stand at once: half of what is free. A flood of
// random MAC addresses then turns its own offers over, and the other half stays.
func (p *pool) offersAllowed() int {
	return max(leastOffers, (p.fresh.n+p.past.n+p.offers.n)/2)
}

// restingAllowed is how many declined addresses may rest at once: an eighth of the pool, so
// that a client that declines whatever it gets cannot empty it.
func (p *pool) restingAllowed() int { return max(4, len(p.slots)/8) }

// expire does what time does by the moment at, at most work deeds of it; it returns the
// bindings that ended through f.
func (p *pool) expire(at moment, work int, f func(*binding)) {
	for ; work > 0; work-- {
		if b := p.offers.front; b != nil && b.offerEnds <= at.boot {
			p.lapse(b)
			continue
		}
		if b := p.resting.front; b != nil && (b.ends <= at.boot || p.resting.n > p.restingAllowed()) {
			p.end(b, expired, at, 0)
			continue
		}
		if len(p.live) == 0 || p.live[0].ends+graceFor > at.boot {
			return
		}
		b := p.live[0]
		p.end(b, expired, at, 0)
		f(b)
	}
}

// choose finds the address to offer, or nil when there is none: the client's reservation;
// the address it was offered or has; the one it had; the one it asks for; one that nobody
// had; the one whose lease ended the longest ago (RFC 2131 section 4.3.1, which also lets
// us refuse the wish of a client for an address that another one may come back to). Who
// comes back to its address goes before a stranger who was just offered it.
func (p *pool) choose(at time.Duration, client []byte, wish netip.Addr) *binding {
	if b := p.reserved(client); b != nil {
		return b
	}
	if b := p.offered[string(client)]; b != nil {
		return b
	}
	own := p.clients[string(client)]
	if own != nil && (p.mode == waiting && !own.lately || own.theirs && own.state != bound && p.keeps(own)) {
		own = nil // not ours to give back now
	}
	if own != nil && !own.owner && own.state != bound && own.offeredTo != "" && p.clients[own.offeredTo] == nil {
		p.heed(own)
	}
	if own != nil && !own.owner && (own.state == bound || own.free()) {
		return own
	}
	for p.offers.n >= p.offersAllowed() {
		p.lapse(p.offers.front)
	}
	kept := 0
	if own == nil {
		kept = p.kept(at)
	}
	if b := p.at(wish); b != nil && !b.owner && b.free() && !p.keeps(b) && (b.state == fresh || p.fresh.n == 0 && kept == 0) {
		return b
	}
	if p.fresh.front != nil {
		return p.fresh.front
	}
	if p.past.n <= kept {
		return nil
	}
	return p.past.front
}
