package resolver

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net"
	"slices"

	"github.com/hotstage/hotstage/internal/wire"
)

// query is a question as it is sent.
type query struct {
	ask
	id     uint16
	packet []byte
}

// newQuery makes the packet of a question with a random id and, with mix, random case of
// the letters, so that a forger must guess both.
func newQuery(q ask, mix bool) query {
	name := slices.Clone(q.name)
	if mix {
		for i, bits := 0, uint64(0); i < len(name); i++ {
			if i%64 == 0 {
				bits = rand.Uint64()
			}
			if 'a' <= name[i] && name[i] <= 'z' && bits>>(i%64)&1 != 0 {
				name[i] -= 'a' - 'A'
			}
		}
	}
	flags := wire.DNSFlagRD | wire.DNSFlagAD
	if q.cd {
		flags |= wire.DNSFlagCD
	}
	id := uint16(rand.Uint32())
	return query{q, id, wire.AppendDNSQuery(make([]byte, 2, 2+wire.DNSHeader+len(name)+4+wire.DNSOPTSize), id, flags, name, q.typ, wire.DNSClassIN, ourSize, q.do)}
}

// plain is the query without EDNS.
func (q query) plain() query {
	q.packet = slices.Clone(q.packet[:len(q.packet)-wire.DNSOPTSize])
	binary.BigEndian.PutUint16(q.packet[2+10:], 0)
	return q
}

// noEDNS tells whether the answer is that of a resolver which does not know EDNS (RFC 6891
// section 7): one without OPT record, and with FORMERR or NOTIMP.
func noEDNS(msg []byte) bool {
	rcode := msg[3] & 0xf
	return (rcode == wire.DNSFormErr || rcode == wire.DNSNotImp) && binary.BigEndian.Uint16(msg[10:]) == 0
}

var (
	errOther = errors.New("it answered something else than was asked")
	errCut   = errors.New("it truncated an answer by TCP")
)

// match tells whether b answers the query, and whether in the same case.
func (q *query) match(b []byte) (ok, sameCase bool) {
	sent := q.packet[2:]
	end := wire.DNSHeader + len(q.name) + 4
	if len(b) < end || binary.BigEndian.Uint16(b) != q.id || b[2]&0xf8 != 0x80 || binary.BigEndian.Uint16(b[4:]) != 1 {
		return false, false
	}
	if string(b[wire.DNSHeader:end]) == string(sent[wire.DNSHeader:end]) {
		return true, true
	}
	var got, want [wire.DNSMaxName + 4]byte
	n := wire.LowerDNS(got[:0], b[wire.DNSHeader:end-4])
	return string(n) == string(wire.LowerDNS(want[:0], q.name)) && string(b[end-4:end]) == string(sent[end-4:end]), false
}

// exchangeUDP waits for a packet that answers; others are passed over, because anyone can
// send them.
func exchangeUDP(c net.Conn, q query) (msg []byte, sameCase bool, err error) {
	if _, err := c.Write(q.packet[2:]); err != nil {
		return nil, false, err
	}
	b := make([]byte, 4096)
	for strangers := 0; strangers < 100; strangers++ {
		n, err := c.Read(b)
		if err != nil {
			return nil, false, err
		}
		ok, same := q.match(b[:n])
		if !ok {
			continue
		}
		if b[2]&byte(wire.DNSFlagTC>>8) == 0 {
			if _, err := wire.WalkDNS(b[:n], func(wire.DNSRecord) {}); err != nil {
				return nil, false, err
			}
		}
		return slices.Clone(b[:n]), same, nil
	}
	return nil, false, errOther
}

// exchangeTCP asks by TCP (RFC 7766).
func exchangeTCP(c net.Conn, q query) (msg []byte, sameCase bool, err error) {
	binary.BigEndian.PutUint16(q.packet, uint16(len(q.packet)-2))
	if _, err := c.Write(q.packet); err != nil {
		return nil, false, err
	}
	b, err := readMessage(c)
	if err != nil {
		return nil, false, err
	}
	same, err := q.checked(b)
	if err != nil {
		return nil, false, err
	}
	return b, same, nil
}

// checked holds an answer that came by a stream against its question: there is no forger to
// wait out, so the first one counts.
func (q *query) checked(b []byte) (sameCase bool, err error) {
	ok, same := q.match(b)
	if !ok {
		return false, errOther
	}
	if b[2]&byte(wire.DNSFlagTC>>8) != 0 {
		return false, errCut
	}
	_, err = wire.WalkDNS(b, func(wire.DNSRecord) {})
	return same, err
}

// pad makes the query's length a multiple of padding's.
func (q *query) pad() {
	q.packet = wire.PadDNS(q.packet, 2, padding)
}
