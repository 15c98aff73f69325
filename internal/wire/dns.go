package wire

import (
	"encoding/binary"
	"errors"
)

// Sizes and offsets of DNS messages (RFC 1035 section 4.1).
const (
	DNSHeader    = 12  // octets before the question
	DNSMaxName   = 255 // octets of a name on the wire (RFC 1035 section 2.3.4)
	DNSNoEDNS    = 512 // octets of a UDP answer to a client without EDNS (RFC 1035 section 2.3.4)
	dnsMaxLabels = 127 // of a name: one octet each, and its length
)

// Bits of the header's flags (RFC 1035 section 4.1.1, RFC 4035 section 3).
const (
	DNSFlagQR uint16 = 1 << 15 // a response
	DNSFlagAA uint16 = 1 << 10 // from the zone's own server
	DNSFlagTC uint16 = 1 << 9  // truncated: ask by TCP
	DNSFlagRD uint16 = 1 << 8  // recursion desired
	DNSFlagRA uint16 = 1 << 7  // recursion available
	DNSFlagAD uint16 = 1 << 5  // data authenticated by DNSSEC
	DNSFlagCD uint16 = 1 << 4  // checking disabled
)

// Types of records that this package writes or reads (RFC 1035 section 3.2.2, RFC 3596,
// RFC 6891, RFC 8482).
const (
	DNSTypeA     uint16 = 1
	DNSTypeNS    uint16 = 2
	DNSTypeCNAME uint16 = 5
	DNSTypeSOA   uint16 = 6
	DNSTypePTR   uint16 = 12
	DNSTypeHINFO uint16 = 13
	DNSTypeAAAA  uint16 = 28
	DNSTypeOPT   uint16 = 41
	DNSTypeDS    uint16 = 43
	DNSTypeANY   uint16 = 255
	DNSClassIN   uint16 = 1
)

// Response codes (RFC 1035 section 4.1.1, RFC 6891 section 9).
const (
	DNSNoError  = 0
	DNSFormErr  = 1
	DNSServFail = 2
	DNSNXDomain = 3
	DNSNotImp   = 4
	DNSRefused  = 5
	DNSBadVers  = 16
)

var (
	// ErrDNSIgnore marks a packet that gets no answer: too short for a header, or itself a
	// response (answering one could loop between two servers).
	ErrDNSIgnore = errors.New("not a DNS query")
	// ErrDNSForm marks a query that is answered with FORMERR.
	ErrDNSForm = errors.New("malformed DNS query")
	// ErrDNSMessage marks a response that cannot be read.
	ErrDNSMessage = errors.New("malformed DNS message")
)

// DNSQuery is a question with what its header and OPT record say.
type DNSQuery struct {
	ID      uint16
	Flags   uint16 // the header's, as sent
	Name    []byte // on the wire, as sent with its case; part of the packet
	Type    uint16
	Class   uint16
	End     int    // offset behind the question
	EDNS    bool   // has an OPT record (RFC 6891)
	Version uint8  // of EDNS; we know 0 alone
	Size    uint16 // UDP payload that the client takes; DNSNoEDNS without EDNS, at least that with it
	DO      bool   // wants DNSSEC records (RFC 3225)
	Cookie  []byte // of the COOKIE option, nil without: the client's 8 octets and perhaps a server's 8 to 32 (RFC 7873 section 4); part of the packet
	// Baked is what the answer's COOKIE option has, when Bakes: the client's 8 octets and ours.
	Baked [DNSCookieSize]byte
	Bakes bool
}

// DNSCookieSize is the octets of a cookie with the server's part of RFC 9018 section 4.
const DNSCookieSize = 24

// Opcode of the query; 0 is QUERY.
func (q *DNSQuery) Opcode() int { return int(q.Flags >> 11 & 0xf) }

// ParseDNSQuery reads a query of one question. The result refers to b. With ErrDNSForm the
// ID and Flags are set, so that the sender can be told.
func ParseDNSQuery(b []byte) (q DNSQuery, err error) {
	if len(b) < DNSHeader {
		return q, ErrDNSIgnore
	}
	q.ID = binary.BigEndian.Uint16(b)
	q.Flags = binary.BigEndian.Uint16(b[2:])
	q.Size = DNSNoEDNS
	if q.Flags&DNSFlagQR != 0 {
		return q, ErrDNSIgnore
	}
	if binary.BigEndian.Uint16(b[4:]) != 1 || binary.BigEndian.Uint16(b[6:]) != 0 {
		return q, ErrDNSForm
	}
	end, ok := plainName(b, DNSHeader)
	if !ok || len(b) < end+4 {
		return q, ErrDNSForm
	}
	q.Name = b[DNSHeader:end]
	q.Type = binary.BigEndian.Uint16(b[end:])
	q.Class = binary.BigEndian.Uint16(b[end+2:])
	q.End = end + 4
	authority := int(binary.BigEndian.Uint16(b[8:]))
	rest := authority + int(binary.BigEndian.Uint16(b[10:]))
	for i, off := 0, q.End; i < rest; i++ {
		r, ok := record(b, off)
		if !ok {
			return q, ErrDNSForm
		}
		if r.Type == DNSTypeOPT {
			// RFC 6891 section 6.1.1: one OPT, of the root's name, in the additional section.
			if q.EDNS || b[off] != 0 || i < authority {
				return q, ErrDNSForm
			}
			q.EDNS = true
			q.Size = max(r.Class, DNSNoEDNS)
			q.Version = b[r.TTLAt+1]
			q.DO = b[r.TTLAt+2]&0x80 != 0
			if q.Cookie, ok = cookie(b[r.Data:r.End]); !ok {
				return q, ErrDNSForm
			}
		}
		off = r.End
	}
	return q, nil
}

// plainName finds the end of a name without compression, which is all that a question
// has.
func plainName(b []byte, off int) (end int, ok bool) {
	for start := off; ; {
		if off >= len(b) {
			return 0, false
		}
		n := int(b[off])
		off++
		if n == 0 {
			return off, off-start <= DNSMaxName
		}
		if n > 63 {
			return 0, false
		}
		off += n
	}
}

// skipName finds the end of a name, which may end in a compression pointer (RFC 1035
// section 4.1.4). It follows the pointers, each to an earlier place and at most one for each
// label that a name can have, so that a name in a loop, longer than 255 octets, or made to
// take long is not ok.
func skipName(b []byte, off int) (end int, ok bool) {
	length, pointers := 0, 0
	for limit := off; ; {
		if off >= len(b) {
			return 0, false
		}
		switch n := int(b[off]); {
		case n == 0:
			if end == 0 {
				end = off + 1
			}
			return end, length+1 <= DNSMaxName
		case n < 64:
			length += n + 1
			off += n + 1
			if length >= DNSMaxName {
				return 0, false
			}
		case n >= 0xc0:
			if off+1 >= len(b) {
				return 0, false
			}
			if end == 0 {
				end = off + 2
			}
			to := (n&0x3f)<<8 | int(b[off+1])
			if pointers++; to >= limit || to < DNSHeader || pointers > dnsMaxLabels {
				return 0, false
			}
			off, limit = to, to
		default: // 01 and 10 are not in use (RFC 6891 section 5)
			return 0, false
		}
	}
}

// DNSRecord is where one record of a message lies.
type DNSRecord struct {
	Section int // 1 answer, 2 authority, 3 additional
	Start   int // offset of its name
	Type    uint16
	Class   uint16
	TTL     uint32 // seconds
	TTLAt   int    // offset of the TTL's four octets
	Data    int    // offset of the data
	End     int    // offset behind the record
}

// record reads the record at off.
func record(b []byte, off int) (r DNSRecord, ok bool) {
	end, ok := skipName(b, off)
	if !ok || len(b) < end+10 {
		return r, false
	}
	r.Start = off
	r.Type = binary.BigEndian.Uint16(b[end:])
	r.Class = binary.BigEndian.Uint16(b[end+2:])
	r.TTL = binary.BigEndian.Uint32(b[end+4:])
	r.TTLAt = end + 4
	r.Data = end + 10
	r.End = r.Data + int(binary.BigEndian.Uint16(b[end+8:]))
	return r, r.End <= len(b)
}

// WalkDNS calls f for each record of a response with one question, in order; question is
// the offset behind the question. It allocates nothing. Bytes behind the last record are
// not allowed.
func WalkDNS(b []byte, f func(DNSRecord)) (question int, err error) {
	if len(b) < DNSHeader || binary.BigEndian.Uint16(b[4:]) != 1 {
		return 0, ErrDNSMessage
	}
	end, ok := plainName(b, DNSHeader)
	if !ok || len(b) < end+4 {
		return 0, ErrDNSMessage
	}
	question = end + 4
	off := question
	for section := 1; section <= 3; section++ {
		for n := binary.BigEndian.Uint16(b[4+2*section:]); n > 0; n-- {
			r, ok := record(b, off)
			if !ok {
				return 0, ErrDNSMessage
			}
			r.Section = section
			f(r)
			off = r.End
		}
	}
	if off != len(b) {
		return 0, ErrDNSMessage
	}
	return question, nil
}

// LowerDNS appends name, on the wire, with its letters in lower case. Label lengths are
// below 64 and so never taken for letters.
func LowerDNS(dst, name []byte) []byte {
	for _, c := range name {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		dst = append(dst, c)
	}
	return dst
}

// PackDNSName appends the name, written with dots and without escapes, as it stands on the
// wire. A trailing dot may be there or not.
func PackDNSName(dst []byte, name string) ([]byte, error) {
	start := len(dst)
	for len(name) > 0 && name != "." {
		label, rest := name, ""
		for i := range len(name) {
			if name[i] == '.' {
				label, rest = name[:i], name[i+1:]
				break
			}
		}
		if len(label) == 0 || len(label) > 63 {
			return dst[:start], errors.New("DNS name " + name + ": a label has 1 to 63 octets")
		}
		dst = append(append(dst, byte(len(label))), label...)
		name = rest
	}
	dst = append(dst, 0)
	if len(dst)-start > DNSMaxName {
		return dst[:start], errors.New("DNS name is longer than 255 octets")
	}
	return dst, nil
}

// DNSNameString is the wire name with dots and without a trailing one; other octets than
// printable ASCII, and dots within labels, become backslash and three digits (RFC 1035
// section 5.1). The root is ".".
func DNSNameString(name []byte) string {
	if len(name) <= 1 {
		return "."
	}
	s := make([]byte, 0, len(name))
	for off := 0; off < len(name) && name[off] != 0; {
		n := int(name[off])
		off++
		if len(s) > 0 {
			s = append(s, '.')
		}
		for _, c := range name[off:min(off+n, len(name))] {
			if c > ' ' && c < 0x7f && c != '.' && c != '\\' {
				s = append(s, c)
			} else {
				s = append(s, '\\', '0'+c/100, '0'+c/10%10, '0'+c%10)
			}
		}
		off += n
	}
	return string(s)
}
