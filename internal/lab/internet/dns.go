//go:build linux

package internet

import (
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// payload is the largest UDP answer, whatever the client offers
// (https://www.dnsflagday.net/2020/: larger ones are lost to fragmentation).
const payload = 1232

// maxAliases bounds a chain of CNAMEs that a public resolver follows.
const maxAliases = 8

// answer is the reply of whoever has the address at; nil for what deserves none. It is safe
// for concurrent use. Over UDP the reply fits what the client offered, or is truncated.
func (w *world) answer(at netip.Addr, query []byte, udp bool) ([]byte, error) {
	var q dns.Msg
	if err := q.Unpack(query); err != nil {
		return nil, err
	}
	if q.Response {
		return nil, nil // an answer to an answer would go on for ever
	}
	var r dns.Msg
	r.SetReply(&q)
	size := dns.MinMsgSize
	if opt := q.IsEdns0(); opt != nil {
		size = min(max(int(opt.UDPSize()), dns.MinMsgSize), payload)
		r.SetEdns0(payload, false)
		if opt.Version() != 0 {
			r.Rcode = dns.RcodeBadVers // RFC 6891 section 6.1.3
			return r.Pack()
		}
	}
	switch {
	case q.Opcode != dns.OpcodeQuery:
		r.Rcode = dns.RcodeNotImplemented
	case len(q.Question) != 1:
		r.Rcode = dns.RcodeFormatError
	case q.Question[0].Qclass != dns.ClassINET:
		r.Rcode = dns.RcodeRefused
	case w.resolve[at]:
		r.RecursionAvailable = true
		w.recurse(&r, q.Question[0])
	default:
		w.authority(&r, at, q.Question[0])
	}
	r.Compress = true
	if !udp {
		size = dns.MaxMsgSize
	}
	r.Truncate(size)
	return r.Pack()
}

// authority answers as the name server at the address: only from its own zones.
func (w *world) authority(r *dns.Msg, at netip.Addr, q dns.Question) {
	name := strings.ToLower(q.Name)
	var z *zone
	for _, own := range w.servers[at] {
		if dns.IsSubDomain(own.origin, name) && (z == nil || len(own.origin) > len(z.origin)) {
			z = own
		}
	}
	if z == nil {
		r.Rcode = dns.RcodeRefused
		return
	}
	z.answer(r, name, q.Qtype)
}

// recurse answers as a public resolver, from the same data.
func (w *world) recurse(r *dns.Msg, q dns.Question) {
	name := strings.ToLower(q.Name)
	for range maxAliases {
		part := &dns.Msg{}
		w.zoneOf(name).answer(part, name, q.Qtype)
		r.Answer = append(r.Answer, part.Answer...)
		r.Rcode = part.Rcode
		last := len(part.Answer) - 1
		if last < 0 {
			r.Ns = part.Ns
			return
		}
		alias, ok := part.Answer[last].(*dns.CNAME)
		if !ok || q.Qtype == dns.TypeCNAME || q.Qtype == dns.TypeANY {
			return
		}
		name = alias.Target
	}
}

// zoneOf is the deepest zone that has the name.
func (w *world) zoneOf(name string) *zone {
	for {
		if z := w.zones[name]; z != nil {
			return z
		}
		name = parent(name)
	}
}

// answer fills in what the zone says of name, which lies in it and is in lower case:
// a referral, records, an alias, "no such type" or "no such name" (RFC 1034 section 4.3.2).
func (z *zone) answer(r *dns.Msg, name string, kind uint16) {
	if c := z.cutAbove(name, kind); c != nil {
		r.Ns, r.Extra = append(r.Ns, c.ns...), append(r.Extra, c.glue...)
		return
	}
	r.Authoritative = true
	for range maxAliases {
		sets := z.records[name]
		if alias := sets[dns.TypeCNAME]; alias != nil && kind != dns.TypeCNAME {
			r.Answer = append(r.Answer, alias...)
			name = alias[0].(*dns.CNAME).Target
			if !dns.IsSubDomain(z.origin, name) || z.cutAbove(name, kind) != nil {
				return // the client asks on
			}
			continue
		}
		switch {
		case kind == dns.TypeANY && sets != nil:
			r.Answer = append(r.Answer, &dns.HINFO{Hdr: head(name, dns.TypeHINFO, 3600), Cpu: "RFC8482"}) // section 4.2
		case sets[kind] != nil:
			r.Answer = append(r.Answer, sets[kind]...)
		default:
			if !z.exists[name] {
				r.Rcode = dns.RcodeNameError
			}
			z.deny(r)
		}
		return
	}
}

// deny puts the SOA that says how long "no" may be kept (RFC 2308 section 3).
func (z *zone) deny(r *dns.Msg) {
	soa := *z.soa
	soa.Hdr.Ttl = min(soa.Hdr.Ttl, soa.Minttl)
	r.Ns = append(r.Ns, &soa)
}

// cutAbove is the delegation that name lies in or below, the nearest to the origin; a
// question for DS at the cut itself belongs to the parent (RFC 4035 section 3.1.4.1).
func (z *zone) cutAbove(name string, kind uint16) *cut {
	var found *cut
	for n := name; n != z.origin; n = parent(n) {
		if c := z.cuts[n]; c != nil && (n != name || kind != dns.TypeDS) {
			found = c
		}
		if n == "." {
			break
		}
	}
	return found
}
