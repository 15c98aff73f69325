package frame

import (
	"encoding/binary"
	"net/netip"
	"strings"
)

// DNSPort is the port of DNS.
const DNSPort = 53

// Types of a DNS question.
const (
	TypeA     = 1
	TypeAAAA  = 28
	TypeHTTPS = 65
)

// Response codes of DNS that a device tells apart.
const (
	NoError  = 0
	ServFail = 2
	NXDomain = 3
	Refused  = 5
)

// Answer is a DNS response.
type Answer struct {
	ID        uint16
	RCode     uint8
	Truncated bool
	Question  []byte       // name, type and class as the message has them
	Addrs     []netip.Addr // of the A and AAAA records of the answer section, at most 16
}

// AppendQuestion appends name, type and class IN to b; name is without a trailing dot.
// Labels that are empty or longer than 63 bytes make it return b unchanged.
func AppendQuestion(b []byte, name string, kind uint16) []byte {
	start := len(b)
	for rest := name; rest != ""; {
		label, more, _ := strings.Cut(rest, ".")
		if label == "" || len(label) > 63 {
			return b[:start]
		}
		b = append(append(b, byte(len(label))), label...)
		rest = more
	}
	return append(b, 0, byte(kind>>8), byte(kind), 0, 1)
}

// AppendQuery appends a DNS query with recursion desired and EDNS of 1232 bytes.
func AppendQuery(b []byte, id uint16, question []byte) []byte {
	b = append(b, byte(id>>8), byte(id), 1, 0, 0, 1, 0, 0, 0, 0, 0, 1)
	b = append(b, question...)
	return append(b, 0, 0, 41, 1232>>8, 1232&0xff, 0, 0, 0, 0, 0, 0)
}

// ParseAnswer reads a DNS response. Question refers to b.
func ParseAnswer(b []byte) (Answer, error) {
	var a Answer
	if len(b) < 12 {
		return a, ErrTruncated
	}
	a.ID, a.RCode, a.Truncated = binary.BigEndian.Uint16(b), b[3]&0xf, b[2]&2 != 0
	if b[2]&0x80 == 0 || binary.BigEndian.Uint16(b[4:]) != 1 {
		return a, ErrMalformed
	}
	at := skipName(b, 12)
	if at < 0 || at+4 > len(b) {
		return a, ErrTruncated
	}
	at += 4
	a.Question = b[12:at]
	for range binary.BigEndian.Uint16(b[6:]) {
		at = skipName(b, at)
		if at < 0 || at+10 > len(b) {
			return a, ErrTruncated
		}
		kind, size := binary.BigEndian.Uint16(b[at:]), int(binary.BigEndian.Uint16(b[at+8:]))
		at += 10
		if at+size > len(b) {
			return a, ErrTruncated
		}
		if (kind == TypeA && size == 4 || kind == TypeAAAA && size == 16) && len(a.Addrs) < 16 {
			addr, _ := netip.AddrFromSlice(b[at : at+size])
			a.Addrs = append(a.Addrs, addr)
		}
		at += size
	}
	return a, nil
}

// skipName is where the name at at ends, or -1. A pointer ends a name, so there is no loop.
func skipName(b []byte, at int) int {
	for at < len(b) {
		switch n := int(b[at]); {
		case n == 0:
			return at + 1
		case n >= 0xc0:
			return at + 2
		case n > 63:
			return -1
		default:
			at += 1 + n
		}
	}
	return -1
}

// SameQuestion tells whether two questions are equal but for the case of ASCII letters.
func SameQuestion(a, b []byte) bool {
	if len(a) != len(b) || len(a) < 4 {
		return false
	}
	for i := range a {
		x, y := a[i], b[i]
		if i < len(a)-4 {
			x, y = lower(x), lower(y)
		}
		if x != y {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}
