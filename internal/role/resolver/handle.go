package resolver

import (
	"net/netip"
	"time"

	"github.com/hotstage/hotstage/internal/wire"
)

// verdict is what becomes of a packet.
type verdict int

const (
	ignore verdict = iota // no answer
	answer                // the answer is there
	wait                  // a backend must be asked
)

// handler turns a packet into an answer. It has no socket and no clock.
type handler struct {
	segments []netip.Prefix
	cache    *cache
	local    *local
	ddr      *ddr // nil without encrypted service
	clients  *clients
	baker    *baker
	renew    func(*key) // asks anew for an answer, without waiting
	top      *top
	log      *queryLog // nil without
	m        *Metrics
	hot      *tally // of one goroutine, which adds it up now and then; nil: counted at once
}

// tally counts what happens to nearly every packet, so that the processors need not share a
// counter for each.
type tally struct{ udp, hits int }

// count adds to m what has been counted since.
func (t *tally) count(m *Metrics) {
	m.udp.Add(float64(t.udp))
	m.hits.Add(float64(t.hits))
	*t = tally{}
}

func (h *handler) countUDP() {
	if h.hot != nil {
		h.hot.udp++
		return
	}
	h.m.udp.Inc()
}

func (h *handler) countHit() {
	if h.hot != nil {
		h.hot.hits++
		return
	}
	h.m.hits.Inc()
}

// handle works on one query of a client and appends the answer to out when there is one at
// once; with verdict wait, q and k say what to ask. out is for one packet: it must not be
// shared before the answer is sent. packet is kept by q.
func (h *handler) handle(out, packet []byte, from netip.Addr, udp bool, now time.Time, q *wire.DNSQuery, k *key) ([]byte, verdict) {
	if !h.serves(from) {
		h.m.foreign.Inc()
		return out, ignore
	}
	var err error
	if *q, err = wire.ParseDNSQuery(packet); err == wire.ErrDNSIgnore {
		h.m.malformed.Inc()
		return out, ignore
	}
	size := 0xffff
	if udp {
		h.countUDP()
		size = min(int(q.Size), ourSize)
		switch h.clients.query(from, h.baker.bake(q, from, now), now) {
		case truncated:
			h.m.limited.Inc()
			h.top.note(nil, from)
			return refuse(out, q, wire.DNSFlagTC, wire.DNSNoError), answer
		case dropped:
			h.m.dropped.Inc()
			h.top.note(nil, from)
			return out, ignore
		}
	} else {
		h.baker.bake(q, from, now)
		h.m.tcp.Inc()
	}
	if q.Opcode() != 0 { // before its form: an UPDATE has other sections (RFC 2136 section 2)
		h.m.refused.Inc()
		return refuse(out, q, 0, wire.DNSNotImp), answer
	}
	if err != nil {
		h.m.malformed.Inc()
		return refuse(out, q, 0, wire.DNSFormErr), answer
	}
	if rcode := unfit(q); rcode != wire.DNSNoError {
		h.m.refused.Inc()
		return refuse(out, q, 0, rcode), answer
	}
	k.set(q)
	h.top.note(k, from)
	if q.Flags&wire.DNSFlagRD == 0 { // the cache would tell what others asked for
		return h.uncached(out, q, k, size, from, now)
	}
	switch e := h.cache.get(k); {
	case e == nil:
	case e.fresh(now):
		h.countHit()
		h.log.note(k, from, FromCache, e.rcode(), 0, now)
		if e.due(now) {
			h.renew(k)
		}
		return e.reply(out, q, now, size), answer
	case e.stale(now) && e.held(now):
		h.m.stale.Inc()
		h.log.note(k, from, FromStale, e.rcode(), 0, now)
		return e.reply(out, q, now, size), answer
	}
	return h.uncached(out, q, k, size, from, now)
}

// uncached answers what needs no asking.
func (h *handler) uncached(out []byte, q *wire.DNSQuery, k *key, size int, from netip.Addr, now time.Time) ([]byte, verdict) {
	start := len(out)
	reply, where := h.here(out, q, k.name(), size, from)
	switch {
	case where == "":
		return out, wait
	case len(reply)-start > size && where == FromBlock:
		reply = refuse(reply[:start], q, wire.DNSFlagTC, wire.DNSNXDomain)
	case len(reply)-start > size:
		reply = refuse(reply[:start], q, wire.DNSFlagTC, wire.DNSNoError)
	}
	h.log.note(k, from, where, int(reply[start+3]&0xf), 0, now)
	return reply, answer
}

// here appends the answer of this node itself, and says whether it is FromBlock or FromOwn;
// "" when somebody else must be asked.
func (h *handler) here(out []byte, q *wire.DNSQuery, name []byte, size int, from netip.Addr) (reply []byte, where string) {
	if apex := h.local.blocked(name); apex != nil {
		h.m.blocked.Inc()
		return h.local.deny(out, q, apex, size), FromBlock
	}
	reply, ours := h.ddr.answer(out, q, name, from)
	if !ours {
		reply, ours = h.local.answer(out, q, name)
	}
	switch {
	case ours:
		h.m.own.Inc()
		return reply, FromOwn
	case q.Type == wire.DNSTypeANY:
		h.m.own.Inc()
		a := wire.BeginDNSAnswer(out, q, 0, wire.DNSNoError)
		a.HINFO("RFC8482", "", anyTTL)
		return a.Finish(q, wire.DNSNoError, ourSize), FromOwn
	case q.Flags&wire.DNSFlagRD == 0:
		h.m.refused.Inc()
		return refuse(out, q, 0, wire.DNSRefused), FromOwn
	}
	return out, ""
}

// serves tells whether the address is a client: of a segment, of the link, or this node.
func (h *handler) serves(a netip.Addr) bool {
	for _, p := range h.segments {
		if p.Contains(a) {
			return true
		}
	}
	return a.IsLinkLocalUnicast() && a.Is6() || a.IsLoopback()
}

// unfit is the response code for a query that this server does not answer, or DNSNoError.
func unfit(q *wire.DNSQuery) int {
	switch {
	case q.EDNS && q.Version != 0:
		return wire.DNSBadVers // RFC 6891 section 6.1.3
	case q.Class != wire.DNSClassIN:
		return wire.DNSRefused
	case q.Type == 0 || q.Type == wire.DNSTypeOPT:
		return wire.DNSFormErr
	case q.Type >= 128 && q.Type < 256 && q.Type != wire.DNSTypeANY:
		return wire.DNSRefused // zone transfers and other meta types (RFC 6895 section 3.1)
	}
	return wire.DNSNoError
}

// refuse appends an answer without records.
func refuse(out []byte, q *wire.DNSQuery, flags uint16, rcode int) []byte {
	a := wire.BeginDNSAnswer(out, q, flags, rcode)
	return a.Finish(q, rcode, ourSize)
}
