package wire

import (
	"encoding/binary"
	"net/netip"
)

// sum adds b's 16-bit words to s, RFC 1071.
func sum(s uint64, b []byte) uint64 {
	for len(b) >= 4 {
		s += uint64(binary.BigEndian.Uint32(b))
		b = b[4:]
	}
	if len(b) >= 2 {
		s += uint64(binary.BigEndian.Uint16(b))
		b = b[2:]
	}
	if len(b) == 1 {
		s += uint64(b[0]) << 8
	}
	return s
}

// fold is the 16 bits that a sum comes to.
func fold(s uint64) uint16 {
	for s>>16 != 0 {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

// pseudo is the sum of the pseudo-header of RFC 8200 section 8.1, or of IPv4's.
func pseudo(from, to netip.Addr, protocol byte, size int) uint64 {
	return sum(sum(uint64(protocol)+uint64(size), from.AsSlice()), to.AsSlice())
}

// checksum adds b to s; all ones of a packet with a right checksum in it.
func checksum(s uint64, b []byte) uint16 { return fold(sum(s, b)) }
