package resolver

import (
	"bytes"
	"net/netip"
	"sync/atomic"

	"github.com/hotstage/hotstage/internal/plan"
	"github.com/hotstage/hotstage/internal/wire"
)

// mostHints is how many addresses of each family a device is told: it needs one that answers.
const mostHints = 4

// ddr tells devices by DNS how this resolver is asked privately (RFC 9462): under
// _dns.resolver.arpa for those that know its address, under _dns.NAME for those that know its
// name. It is read-only once made.
type ddr struct {
	on         *atomic.Bool // encrypted service is there
	designated []byte       // wire names, in lower case
	named      []byte
	name       []byte
	hints      []netip.Addr
	segments   []netip.Prefix
	local      *local // knows zones, and addresses that the plan gives the name
}

func newDDR(cfg Config, l *local, on *atomic.Bool) *ddr {
	return &ddr{
		on: on, designated: pack("_dns.resolver.arpa"), named: pack("_dns." + cfg.Encrypted.Name), name: pack(cfg.Encrypted.Name),
		hints: cfg.Encrypted.Hints, segments: cfg.Clients, local: l,
	}
}

// answer appends the answer to q when it is of discovery; name is the question's in lower
// case. Otherwise ours is false and out as it was. d may be nil.
func (d *ddr) answer(out []byte, q *wire.DNSQuery, name []byte, from netip.Addr) (reply []byte, ours bool) {
	if d == nil || !d.on.Load() {
		return out, false
	}
	switch {
	case bytes.Equal(name, d.designated), bytes.Equal(name, d.named):
		return d.services(out, q, name, from), true
	case bytes.Equal(name, d.name) && d.local.hosts[string(name)] == nil:
		return d.addresses(out, q, name, from), true
	}
	return out, false
}

// services answers with the ways to ask. QUIC and TLS come first: they cost both sides less
// than HTTPS.
func (d *ddr) services(out []byte, q *wire.DNSQuery, name []byte, from netip.Addr) []byte {
	a := wire.BeginDNSAnswer(out, q, wire.DNSFlagAA, wire.DNSNoError)
	if q.Type == wire.DNSTypeANY {
		a.HINFO("RFC8482", "", anyTTL)
		return a.Finish(q, wire.DNSNoError, ourSize)
	}
	if q.Type != wire.DNSTypeSVCB {
		d.nothing(&a, name)
		return a.Finish(q, wire.DNSNoError, ourSize)
	}
	hints := d.near(from)
	a.Service(wire.DNSService{Priority: 1, Target: d.name, ALPN: []string{"doq", "dot"}, Hints: hints}, ownTTL)
	a.Service(wire.DNSService{Priority: 2, Target: d.name, ALPN: []string{"h2"}, Hints: hints, DoHPath: plan.DoHPath}, ownTTL)
	return a.Finish(q, wire.DNSNoError, ourSize)
}

// addresses answers for the name itself with the addresses of this node: whoever asks here
// reaches them.
func (d *ddr) addresses(out []byte, q *wire.DNSQuery, name []byte, from netip.Addr) []byte {
	a := wire.BeginDNSAnswer(out, q, wire.DNSFlagAA, wire.DNSNoError)
	some := false
	for _, h := range d.near(from) {
		if q.Type == wire.DNSTypeA && h.Is4() || q.Type == wire.DNSTypeAAAA && h.Is6() {
			a.Addr(h, ownTTL)
			some = true
		}
	}
	switch {
	case some:
	case q.Type == wire.DNSTypeANY:
		a.HINFO("RFC8482", "", anyTTL)
	default:
		d.nothing(&a, name)
	}
	return a.Finish(q, wire.DNSNoError, ourSize)
}

// nothing adds the SOA that says: there is the name, but not of the type.
func (d *ddr) nothing(a *wire.DNSAnswer, name []byte) {
	apex, ttl := d.name, uint32(negativeTTL)
	if z := d.local.find(name); z != nil {
		apex, ttl = z.apex, z.ttl
	}
	a.SOA(2, apex, d.local.server, d.local.mailbox, 1, ttl)
}

// near are our addresses for a client: those of its own segment, else all that clients of
// every segment reach.
func (d *ddr) near(from netip.Addr) []netip.Addr {
	var four, six []netip.Addr
	add := func(a netip.Addr) {
		if a.Is4() && len(four) < mostHints {
			four = append(four, a)
		} else if a.Is6() && len(six) < mostHints {
			six = append(six, a)
		}
	}
	for _, a := range d.hints {
		if d.together(a, from) {
			add(a)
		}
	}
	// A client asks by one family; its segment has our address of the other one too, which the
	// prefixes do not tell. All of that family are given then.
	needFour, needSix := len(four) == 0, len(six) == 0
	for _, a := range d.hints {
		if a.Is4() && needFour || a.Is6() && needSix {
			add(a)
		}
	}
	return append(four, six...)
}

// together tells whether both addresses are of one segment.
func (d *ddr) together(a, b netip.Addr) bool {
	for _, p := range d.segments {
		if p.Contains(a) && p.Contains(b) {
			return true
		}
	}
	return false
}
