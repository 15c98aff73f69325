package wire

import (
	"encoding/binary"
	"net/netip"
)

// DNSAnswer builds a small response in a caller's buffer. Begin it with BeginDNSAnswer, add
// records section by section, end it with Finish.
type DNSAnswer struct {
	b     []byte
	start int
}

// BeginDNSAnswer appends to dst the header and the question of a response to q. The flags
// RD, CD and opcode are the query's; RA is set; rcode is one of the codes below 16.
func BeginDNSAnswer(dst []byte, q *DNSQuery, flags uint16, rcode int) DNSAnswer {
	a := DNSAnswer{b: dst, start: len(dst)}
	flags |= DNSFlagQR | DNSFlagRA | q.Flags&(DNSFlagRD|DNSFlagCD|0x7800) | uint16(rcode&0xf)
	a.b = binary.BigEndian.AppendUint16(a.b, q.ID)
	a.b = binary.BigEndian.AppendUint16(a.b, flags)
	questions := uint16(0)
	if q.Name != nil {
		questions = 1
	}
	a.b = binary.BigEndian.AppendUint16(a.b, questions)
	a.b = append(a.b, 0, 0, 0, 0, 0, 0)
	if questions == 1 {
		a.b = append(a.b, q.Name...)
		a.b = binary.BigEndian.AppendUint16(a.b, q.Type)
		a.b = binary.BigEndian.AppendUint16(a.b, q.Class)
	}
	return a
}

// count adds one to a section's counter.
func (a *DNSAnswer) count(section int) {
	at := a.b[a.start+4+2*section:]
	binary.BigEndian.PutUint16(at, binary.BigEndian.Uint16(at)+1)
}

// header appends a record up to its data's length, which is n.
func (a *DNSAnswer) header(section int, owner []byte, typ uint16, ttl uint32, n int) {
	a.count(section)
	if owner == nil {
		a.b = append(a.b, 0xc0, DNSHeader) // the question's name
	} else {
		a.b = append(a.b, owner...)
	}
	a.b = binary.BigEndian.AppendUint16(a.b, typ)
	a.b = binary.BigEndian.AppendUint16(a.b, DNSClassIN)
	a.b = binary.BigEndian.AppendUint32(a.b, ttl)
	a.b = binary.BigEndian.AppendUint16(a.b, uint16(n))
}

// Addr adds an A or AAAA record of the question's name to the answer section; ttl is in
// seconds.
func (a *DNSAnswer) Addr(addr netip.Addr, ttl uint32) {
	if addr.Is4() {
		v4 := addr.As4()
		a.header(1, nil, DNSTypeA, ttl, 4)
		a.b = append(a.b, v4[:]...)
		return
	}
	v6 := addr.As16()
	a.header(1, nil, DNSTypeAAAA, ttl, 16)
	a.b = append(a.b, v6[:]...)
}

// Name adds a record of the question's name whose data is one name on the wire (PTR, NS,
// CNAME) to the answer section.
func (a *DNSAnswer) Name(typ uint16, name []byte, ttl uint32) {
	a.header(1, nil, typ, ttl, len(name))
	a.b = append(a.b, name...)
}

// HINFO adds the record that a minimal answer to ANY has (RFC 8482 section 4.2).
func (a *DNSAnswer) HINFO(cpu, os string, ttl uint32) {
	a.header(1, nil, DNSTypeHINFO, ttl, 2+len(cpu)+len(os))
	a.b = append(append(a.b, byte(len(cpu))), cpu...)
	a.b = append(append(a.b, byte(len(os))), os...)
}

// SOA adds the start of authority of zone to section 1 (asked for) or 2 (a negative answer,
// RFC 2308 section 3). server and mailbox are names on the wire.
func (a *DNSAnswer) SOA(section int, zone, server, mailbox []byte, serial, ttl uint32) {
	a.header(section, zone, DNSTypeSOA, ttl, len(server)+len(mailbox)+20)
	a.b = append(append(a.b, server...), mailbox...)
	for _, v := range [...]uint32{serial, 3600, 600, 86400, ttl} {
		a.b = binary.BigEndian.AppendUint32(a.b, v)
	}
}

// Finish appends the OPT record when q had one and returns the whole: dst with the
// response. rcode is the full response code, 0..4095; size is the UDP payload we take.
func (a *DNSAnswer) Finish(q *DNSQuery, rcode int, size uint16) []byte {
	if q.EDNS {
		a.count(3)
		a.b = q.AppendOPT(a.b, size, rcode)
	}
	return a.b
}

// AppendOPT appends the OPT record of a response to q, which has one: with a cookie when q
// bakes one.
func (q *DNSQuery) AppendOPT(b []byte, size uint16, rcode int) []byte {
	b = AppendDNSOPT(b, size, rcode, q.DO)
	if q.Bakes {
		b[len(b)-1] = 4 + DNSCookieSize
		b = append(append(b, 0, byte(dnsOptionCookie), 0, DNSCookieSize), q.Baked[:]...)
	}
	return b
}

// OPTSize is how many octets AppendOPT appends.
func (q *DNSQuery) OPTSize() int {
	if q.Bakes {
		return DNSOPTSize + 4 + DNSCookieSize
	}
	return DNSOPTSize
}

// DNSOPTSize is how many octets AppendDNSOPT appends.
const DNSOPTSize = 11

// AppendDNSOPT appends an OPT record without options (RFC 6891 section 6.1.2).
func AppendDNSOPT(b []byte, size uint16, rcode int, do bool) []byte {
	b = append(b, 0, 0, byte(DNSTypeOPT))
	b = binary.BigEndian.AppendUint16(b, size)
	var flags byte
	if do {
		flags = 0x80
	}
	return append(b, byte(rcode>>4), 0, flags, 0, 0, 0)
}

// AppendDNSQuery appends a query for the question with EDNS; name is on the wire.
func AppendDNSQuery(b []byte, id, flags uint16, name []byte, typ, class, size uint16, do bool) []byte {
	b = binary.BigEndian.AppendUint16(b, id)
	b = binary.BigEndian.AppendUint16(b, flags)
	b = append(b, 0, 1, 0, 0, 0, 0, 0, 1)
	b = append(b, name...)
	b = binary.BigEndian.AppendUint16(b, typ)
	b = binary.BigEndian.AppendUint16(b, class)
	return AppendDNSOPT(b, size, 0, do)
}
