package wire

import "encoding/binary"

// Codes of EDNS options.
const (
	dnsOptionCookie    uint16 = 10 // RFC 7873 section 8
	DNSOptionKeepalive uint16 = 11 // edns-tcp-keepalive, RFC 7828 section 3.1
	DNSOptionPadding   uint16 = 12 // RFC 7830 section 3
	DNSOptionEDE       uint16 = 15 // RFC 8914 section 2
)

// Extended errors (RFC 8914 section 4). They say why; the response code alone says what.
const (
	DNSEDEStaleAnswer   uint16 = 3
	DNSEDEBlocked       uint16 = 15 // by whoever runs the resolver
	DNSEDEStaleNXDomain uint16 = 19
	DNSEDENoAuthority   uint16 = 22 // none could be reached
	DNSEDENetworkError  uint16 = 23
)

// nextDNSOption takes the first of the options of an OPT record (RFC 6891 section 6.1.2). It
// is not ok when there is none, or when what there is is cut short: then rest is as it was.
func nextDNSOption(options []byte) (code uint16, data, rest []byte, ok bool) {
	if len(options) < 4 {
		return 0, nil, options, false
	}
	end := 4 + int(binary.BigEndian.Uint16(options[2:]))
	if end > len(options) {
		return 0, nil, options, false
	}
	return binary.BigEndian.Uint16(options), options[4:end:end], options[end:], true
}

// cookie finds the COOKIE option among the options of an OPT record; nil without one. It is
// not ok when the options cannot be told apart, or the cookie is not as RFC 7873 section 4
// has it: then the query gets FORMERR (section 5.2.2). Of several cookies the first counts.
func cookie(options []byte) (found []byte, ok bool) {
	for len(options) > 0 {
		var code uint16
		var data []byte
		if code, data, options, ok = nextDNSOption(options); !ok {
			return nil, false
		}
		if code != dnsOptionCookie || found != nil {
			continue
		}
		if n := len(data); n != 8 && (n < 16 || n > 40) {
			return nil, false
		}
		found = data
	}
	return found, true
}

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
		options := query[r.Data:r.End]
		for {
			has, _, rest, ok := nextDNSOption(options)
			if !ok {
				break
			}
			if has == code {
				return true
			}
			options = rest
		}
	}
	return false
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
	b = binary.BigEndian.AppendUint16(b, code)
	b = binary.BigEndian.AppendUint16(b, uint16(len(data)))
	return append(b, data...)
}

// PadDNS fills the message that is b[start:] with the padding option, so that its length is a
// multiple of block octets, 65,535 at most. A message whose last record is no OPT, or that has
// no room, stays as it is.
func PadDNS(b []byte, start, block int) []byte {
	with := len(b) - start + 4 // the option's code and length
	n := min((with+block-1)/block*block, 0xffff) - with
	if n < 0 {
		return b
	}
	return AddDNSOption(b, start, DNSOptionPadding, make([]byte, n), 0xffff) // RFC 7830 section 3: zeros
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
		for options := msg[r.Data:r.End]; code == 0; {
			has, data, rest, ok := nextDNSOption(options)
			if !ok {
				return
			}
			if has == DNSOptionEDE && len(data) >= 2 {
				code = binary.BigEndian.Uint16(data)
			}
			options = rest
		}
	})
	return code
}
