package resolver

import (
	"bytes"
	"net/netip"
	"slices"
	"strings"

	"github.com/hotstage/hotstage/internal/wire"
)

// TTLs of our own answers, in seconds.
const (
	ownTTL      = 300   // of the plan's names
	leaseTTL    = 60    // of names that come and go with leases
	negativeTTL = 30    // of names that we do not have: a lease may bring them
	emptyTTL    = 10800 // of the zones of RFC 6303 section 3
	anyTTL      = 3600  // of HINFO, RFC 8482 section 4.2
)

// leaseNames knows the names of those who hold a lease. Both are safe for concurrent use
// and answer at once; names are without a trailing dot.
type leaseNames interface {
	NameOf(netip.Addr) (string, bool)
	AddrOf(string) (netip.Addr, bool)
}

// zone is a part of the name space that is answered here and never asked for outside.
type zone struct {
	apex []byte // on the wire, lower case
	own  bool   // the event's: leases have names here
	ttl  uint32 // of negative answers
	loop bool   // localhost: every name is the loopback
	full bool   // every name is there, without records
}

// local answers what belongs to the event or to no one outside. It is read-only once made.
type local struct {
	hosts    map[string][]netip.Addr // by wire name in lower case
	inner    map[string]bool         // names with a host below them
	names    map[netip.Addr][]byte   // for PTR, wire names
	zones    map[string]*zone        // by apex
	segments []netip.Prefix
	leases   leaseNames
	blocks   map[string][]byte // names that are not to resolve
	server   []byte            // SOA's MNAME and NS: this node
	mailbox  []byte            // SOA's RNAME
}

// special lists names that are not for the world's servers: RFC 6761 (invalid, test), RFC
// 6762 section 22.1 (local), RFC 7686 (onion), RFC 8375 (home.arpa), RFC 9462 (resolver.arpa),
// RFC 9476 (alt), RFC 9665 (service.arpa), and ICANN's internal.
var special = [...]string{
	"invalid", "test", "local", "onion", "alt", "internal", "home.arpa", "resolver.arpa", "service.arpa",
}

// private lists the reverse zones of RFC 6303 section 4 and RFC 7793 that are a whole prefix
// each; 172.16/12 and 100.64/10 are added by number.
var private = [...]string{
	"0.0.0.0/8", "10.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "192.0.2.0/24", "192.168.0.0/16",
	"172.16.0.0/12", "100.64.0.0/10", "198.51.100.0/24", "203.0.113.0/24", "255.255.255.255/32",
	"::/128", "::1/128", "fd00::/8", "fe80::/10", "2001:db8::/32",
}

func newLocal(cfg Config, leases leaseNames) *local {
	l := &local{
		hosts: map[string][]netip.Addr{}, inner: map[string]bool{}, names: map[netip.Addr][]byte{},
		zones: map[string]*zone{}, blocks: map[string][]byte{}, segments: cfg.Clients, leases: leases,
		server: pack(cfg.Name), mailbox: pack("hostmaster." + cfg.Domain),
	}
	for _, name := range special {
		l.zone(pack(name), zone{ttl: emptyTTL, full: name == "resolver.arpa"}) // RFC 9462 section 6.4
	}
	for _, p := range cfg.Clients { // before the private ones: a name that a lease may bring is not denied for hours
		l.reverse(p, negativeTTL)
	}
	for _, text := range private {
		l.reverse(netip.MustParsePrefix(text), emptyTTL)
	}
	l.zone(pack("localhost"), zone{ttl: emptyTTL, loop: true})
	l.names[netip.MustParseAddr("127.0.0.1")] = pack("localhost")
	l.names[netip.IPv6Loopback()] = pack("localhost")
	l.zone(pack(cfg.Domain), zone{own: true, ttl: negativeTTL})
	for _, name := range cfg.Block {
		l.block(name)
	}
	for _, n := range cfg.Names {
		w := pack(strings.ToLower(n.FQDN))
		if !slices.Contains(l.hosts[string(w)], n.Addr) {
			l.hosts[string(w)] = append(l.hosts[string(w)], n.Addr)
		}
		if _, ok := l.names[n.Addr]; !ok {
			l.names[n.Addr] = w
		}
		for up := parent(w); len(up) > 1; up = parent(up) {
			l.inner[string(up)] = true
		}
	}
	return l
}

// pack is the name on the wire. Configure has checked the names; one that cannot be written
// is the root, which no zone of ours is.
func pack(name string) []byte {
	w, err := wire.PackDNSName(nil, strings.ToLower(name))
	if err != nil {
		return []byte{0}
	}
	return w
}

// parent is the wire name without its first label.
func parent(name []byte) []byte { return name[1+int(name[0]):] }

func (l *local) zone(apex []byte, z zone) {
	if len(apex) <= 1 {
		return
	}
	z.apex = apex
	l.zones[string(apex)] = &z
}

// reverse adds the reverse zones that make up the prefix, at the next cut of an octet or a
// nibble. A prefix that lies in a zone already needs none.
func (l *local) reverse(p netip.Prefix, ttl uint32) {
	step := 4
	if p.Addr().Is4() {
		step = 8
	}
	cut := (p.Bits() + step - 1) / step * step
	first := netip.PrefixFrom(p.Masked().Addr(), cut)
	for z, n := first, 1<<(cut-p.Bits()); n > 0 && z.IsValid(); n-- {
		apex := reverseName(z)
		if l.find(apex) == nil {
			l.zone(apex, zone{ttl: ttl})
		}
		z = nextPrefix(z)
	}
}

// nextPrefix is the prefix of the same length behind p, invalid at the end of the space.
func nextPrefix(p netip.Prefix) netip.Prefix {
	b := p.Addr().AsSlice()
	if p.Bits() == 0 {
		return netip.Prefix{}
	}
	for i, add := (p.Bits()-1)/8, byte(1)<<((8-p.Bits()%8)%8); i >= 0; i-- {
		b[i] += add
		if b[i] >= add && b[i] != 0 {
			a, _ := netip.AddrFromSlice(b)
			return netip.PrefixFrom(a, p.Bits())
		}
		add = 1
	}
	return netip.Prefix{}
}

var (
	arpa4 = []byte("\x07in-addr\x04arpa\x00")
	arpa6 = []byte("\x03ip6\x04arpa\x00")
)

// reverseName is the wire name of a prefix that ends at an octet or a nibble.
func reverseName(p netip.Prefix) []byte {
	const digits = "0123456789abcdef"
	var w []byte
	b := p.Addr().AsSlice()
	if p.Addr().Is4() {
		for i := p.Bits()/8 - 1; i >= 0; i-- {
			s := netip.AddrFrom4([4]byte{0, 0, 0, b[i]}).String()[len("0.0.0."):]
			w = append(append(w, byte(len(s))), s...)
		}
		return append(w, arpa4...)
	}
	for i := p.Bits()/4 - 1; i >= 0; i-- {
		n := b[i/2] >> 4
		if i%2 == 1 {
			n = b[i/2] & 0xf
		}
		w = append(w, 1, digits[n])
	}
	return append(w, arpa6...)
}

// parseReverse is the prefix that a name below in-addr.arpa or ip6.arpa stands for: a whole
// address, or less.
func parseReverse(name []byte) (netip.Prefix, bool) {
	var labels [34][]byte
	n := 0
	for rest := name; rest[0] != 0; rest = parent(rest) {
		switch {
		case bytes.Equal(rest, arpa4) && n <= 4:
			var b [4]byte
			for i := range n {
				v, ok := octet(labels[n-1-i])
				if !ok {
					return netip.Prefix{}, false
				}
				b[i] = v
			}
			return netip.PrefixFrom(netip.AddrFrom4(b), 8*n), true
		case bytes.Equal(rest, arpa6) && n <= 32:
			var b [16]byte
			for i := range n {
				d := labels[n-1-i]
				v := strings.IndexByte("0123456789abcdef", d[0])
				if len(d) != 1 || v < 0 {
					return netip.Prefix{}, false
				}
				b[i/2] |= byte(v) << (4 * (1 - i%2))
			}
			return netip.PrefixFrom(netip.AddrFrom16(b), 4*n), true
		case n == len(labels):
			return netip.Prefix{}, false
		}
		labels[n] = rest[1 : 1+rest[0]]
		n++
	}
	return netip.Prefix{}, false
}

// octet reads 0 to 255 without leading zeros.
func octet(s []byte) (byte, bool) {
	if len(s) == 0 || len(s) > 3 || len(s) > 1 && s[0] == '0' {
		return 0, false
	}
	v := 0
	for _, c := range s {
		if c < '0' || c > '9' {
			return 0, false
		}
		v = 10*v + int(c-'0')
	}
	return byte(v), v <= 255
}

// find is the zone that the name lies in, the innermost, or nil.
func (l *local) find(name []byte) *zone {
	for ; len(name) > 1; name = parent(name) {
		if z := l.zones[string(name)]; z != nil {
			return z
		}
	}
	return nil
}

// answer appends the answer to q when it is one of ours; name is the question's in lower
// case. Otherwise ours is false and out as it was.
func (l *local) answer(out []byte, q *wire.DNSQuery, name []byte) (reply []byte, ours bool) {
	addrs, host := l.hosts[string(name)]
	z := l.find(name)
	if z == nil && !host {
		return out, false
	}
	if z == nil { // a name that the plan has put among the world's
		z = &zone{apex: name, ttl: negativeTTL}
	}
	if q.Type == wire.DNSTypeDS && !z.own && bytes.Equal(name, z.apex) {
		return out, false // RFC 8375 section 4: the parent's, for those who validate
	}
	ttl := uint32(ownTTL)
	var ptr []byte
	exists := host || l.inner[string(name)] || bytes.Equal(name, z.apex) || z.full
	switch {
	case z.loop:
		exists = true
		addrs = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	case host:
	case z.own && l.leases != nil:
		if a, ok := l.leases.AddrOf(wire.DNSNameString(name)); ok {
			addrs, ttl, exists = []netip.Addr{a}, leaseTTL, true
		}
	default:
		var found bool
		if ptr, ttl, found = l.pointer(name); found {
			exists = true
		}
	}
	flags := wire.DNSFlagAA
	if !exists {
		a := wire.BeginDNSAnswer(out, q, flags, wire.DNSNXDomain)
		a.SOA(2, z.apex, l.server, l.mailbox, 1, z.ttl)
		return a.Finish(q, wire.DNSNXDomain, ourSize), true
	}
	return l.records(out, q, z, addrs, ptr, ttl, bytes.Equal(name, z.apex)), true
}

// records appends what exists under a name of ours, or that there is none of the type.
func (l *local) records(out []byte, q *wire.DNSQuery, z *zone, addrs []netip.Addr, ptr []byte, ttl uint32, apex bool) []byte {
	a := wire.BeginDNSAnswer(out, q, wire.DNSFlagAA, wire.DNSNoError)
	some := false
	switch q.Type {
	case wire.DNSTypeA, wire.DNSTypeAAAA:
		for _, addr := range addrs {
			if addr.Is4() == (q.Type == wire.DNSTypeA) {
				a.Addr(addr, ttl)
				some = true
			}
		}
	case wire.DNSTypePTR:
		if ptr != nil {
			a.Name(wire.DNSTypePTR, ptr, ttl)
			some = true
		}
	case wire.DNSTypeSOA:
		if apex {
			a.SOA(1, nil, l.server, l.mailbox, 1, z.ttl)
			some = true
		}
	case wire.DNSTypeNS:
		if apex {
			a.Name(wire.DNSTypeNS, l.server, ownTTL)
			some = true
		}
	case wire.DNSTypeANY:
		a.HINFO("RFC8482", "", anyTTL)
		some = true
	}
	if !some {
		a.SOA(2, z.apex, l.server, l.mailbox, 1, z.ttl)
	}
	return a.Finish(q, wire.DNSNoError, ourSize)
}

// pointer finds the name of a reverse name's address. found without a name: there are
// addresses of ours below it (RFC 8020 section 2: the name then exists).
func (l *local) pointer(name []byte) (ptr []byte, ttl uint32, found bool) {
	p, ok := parseReverse(name)
	if !ok {
		return nil, 0, false
	}
	if p.IsSingleIP() {
		if ptr = l.names[p.Addr()]; ptr != nil {
			return ptr, ownTTL, true
		}
		if l.leases != nil {
			if s, ok := l.leases.NameOf(p.Addr()); ok {
				if ptr = pack(s); len(ptr) > 1 {
					return ptr, leaseTTL, true
				}
			}
		}
		return nil, 0, false
	}
	for _, s := range l.segments {
		if p.Overlaps(s) {
			return nil, ownTTL, true
		}
	}
	for a := range l.names {
		if p.Contains(a) {
			return nil, ownTTL, true
		}
	}
	return nil, 0, false
}
