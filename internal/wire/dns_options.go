package wire

import "encoding/binary"

// EDNS options of encrypted transports.
const (
	DNSOptionKeepalive uint16 = 11 // edns-tcp-keepalive, RFC 7828 section 3.1
	DNSOptionPadding   uint16 = 12 // RFC 7830 section 3
)

// HasDNSOption tells whether the query, which ParseDNSQuery has read and whose question ends
// at end, has the EDNS option. It is false for what cannot be read.
func HasDNSOption(query []byte, end int, code uint16) bool {
	if len(query) < DNSHeader || end < DNSHeader || end > len(query) {
		return false
	}
	records := int(binary.BigEndian.Uint16(query[8:])) + int(binary.BigEndian.Uint16(query[10:]))
	for off := end; records > 0; records-- {
		r, ok := record(query, off)
		if !ok {
			return false
		}
		off = r.End
		if r.Type != DNSTypeOPT {
			continue
		}
		for data := query[r.Data:r.End]; len(data) >= 4; {
			n := 4 + int(binary.BigEndian.Uint16(data[2:]))
			if n > len(data) {
				return false
			}
			if binary.BigEndian.Uint16(data) == code {
				return true
			}
			data = data[n:]
		}
	}
	return false
}

// PadDNS fills the response that is b[start:] with the padding option, so that its length is
// a multiple of block octets, 65,535 at most. A response whose last record is no OPT, or that
// has no room, stays as it is.
func PadDNS(b []byte, start, block int) []byte {
	msg := b[start:]
	var last DNSRecord
	if _, err := WalkDNS(msg, func(r DNSRecord) { last = r }); err != nil || last.Type != DNSTypeOPT || last.Section != 3 {
		return b
	}
	const head = 4 // the option's code and length
	whole := min((len(msg)+head+block-1)/block*block, 0xffff)
	n := whole - len(msg) - head
	size := last.End - last.Data + head + n
	if n < 0 || size > 0xffff {
		return b
	}
	binary.BigEndian.PutUint16(msg[last.Data-2:], uint16(size))
	b = binary.BigEndian.AppendUint16(b, DNSOptionPadding)
	b = binary.BigEndian.AppendUint16(b, uint16(n))
	return append(b, make([]byte, n)...) // RFC 7830 section 3: zeros
}
