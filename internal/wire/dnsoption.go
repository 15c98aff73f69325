package wire

import "encoding/binary"

// DNSOptionEDE is the code of the extended error's option (RFC 8914 section 2).
const DNSOptionEDE uint16 = 15

// Extended errors (RFC 8914 section 4). They say why; the response code alone says what.
const (
	DNSEDEStaleAnswer   uint16 = 3
	DNSEDEBlocked       uint16 = 15 // by whoever runs the resolver
	DNSEDECensored      uint16 = 16 // by somebody else's order
	DNSEDEFiltered      uint16 = 17 // as the client asked
	DNSEDEProhibited    uint16 = 18 // the client may not ask here
	DNSEDEStaleNXDomain uint16 = 19
	DNSEDENoAuthority   uint16 = 22 // none could be reached
	DNSEDENetworkError  uint16 = 23
)

// AppendDNSOption appends one EDNS option (RFC 6891 section 6.1.2). data is cut at 65,535
// octets, which no message of ours comes near.
func AppendDNSOption(b []byte, code uint16, data []byte) []byte {
	data = data[:min(len(data), 0xffff)]
	b = binary.BigEndian.AppendUint16(b, code)
	b = binary.BigEndian.AppendUint16(b, uint16(len(data)))
	return append(b, data...)
}

// AddDNSOption adds an EDNS option to the response that begins at start of b and ends with
// b. The response is left as it is when its last record is no OPT, which is so when the client
// sent none (RFC 6891 section 6.1.1), and when it would get longer than size octets. data is
// the option's without its code and length. As with append, b is the callee's: use the result.
func AddDNSOption(b []byte, start int, code uint16, data []byte, size int) []byte {
	if len(b)-start+4+len(data) > size {
		return b
	}
	msg := b[start:]
	var last DNSRecord
	if _, err := WalkDNS(msg, func(r DNSRecord) { last = r }); err != nil || last.Type != DNSTypeOPT || last.Section != 3 {
		return b
	}
	length := last.End - last.Data + 4 + len(data)
	if length > 0xffff {
		return b
	}
	binary.BigEndian.PutUint16(msg[last.Data-2:], uint16(length))
	return AppendDNSOption(b, code, data)
}

// AddDNSError adds an extended error to a response as AddDNSOption does an option; text is
// for people, in English, may be empty, and is cut at 64 octets.
func AddDNSError(b []byte, start int, code uint16, text string, size int) []byte {
	var data [2 + 64]byte
	binary.BigEndian.PutUint16(data[:], code)
	n := copy(data[2:], text)
	return AddDNSOption(b, start, DNSOptionEDE, data[:2+n], size)
}

// DNSErrorOf is the first extended error of a response, or 0 (an error of no more than that)
// when it has none that can be read.
func DNSErrorOf(msg []byte) (code uint16) {
	WalkDNS(msg, func(r DNSRecord) {
		if r.Type != DNSTypeOPT || r.Section != 3 {
			return
		}
		for b := msg[r.Data:r.End]; len(b) >= 4 && code == 0; {
			n := int(binary.BigEndian.Uint16(b[2:]))
			if len(b) < 4+n {
				return
			}
			if binary.BigEndian.Uint16(b) == DNSOptionEDE && n >= 2 {
				code = binary.BigEndian.Uint16(b[4:])
			}
			b = b[4+n:]
		}
	})
	return code
}
