//go:build linux

package testnet

import (
	"encoding/binary"
	"net/netip"
)

// UDPFrame is an Ethernet frame with a UDP datagram over IPv4 or IPv6, with right checksums.
func UDPFrame(dst, src [6]byte, from, to netip.AddrPort, payload []byte) []byte {
	b := append(dst[:], src[:]...)
	a, z := from.Addr().AsSlice(), to.Addr().AsSlice()
	n := 8 + len(payload)
	if from.Addr().Is4() {
		b = append(b, 8, 0, 0x45, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(20+n))
		b = append(b, 0, 0, 0x40, 0, 64, 17, 0, 0)
		b = append(append(b, a...), z...)
		binary.BigEndian.PutUint16(b[24:], ^Sum(b[14:]))
	} else {
		b = append(b, 0x86, 0xdd, 0x60, 0, 0, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(n))
		b = append(append(append(b, 17, 64), a...), z...)
	}
	at := len(b)
	b = binary.BigEndian.AppendUint16(b, from.Port())
	b = binary.BigEndian.AppendUint16(b, to.Port())
	b = binary.BigEndian.AppendUint16(b, uint16(n))
	b = append(append(b, 0, 0), payload...)
	check := ^Sum(PseudoHeader(from.Addr(), to.Addr(), n), b[at:])
	if check == 0 {
		check = 0xffff // 0 says that there is none (RFC 768)
	}
	binary.BigEndian.PutUint16(b[at+6:], check)
	return b
}

// PseudoHeader is what the checksum of UDP covers beside its n octets (RFC 768, RFC 8200
// section 8.1).
func PseudoHeader(from, to netip.Addr, n int) []byte {
	return append(append(from.AsSlice(), to.AsSlice()...), 0, 17, byte(n>>8), byte(n))
}

// Sum is the internet checksum's sum of all parts, each of which begins at an even place (RFC
// 1071); over a sound header it is 0xffff.
func Sum(parts ...[]byte) uint16 {
	s := uint32(0)
	for _, b := range parts {
		for i, c := range b {
			s += uint32(c) << (8 * (1 - i%2))
		}
	}
	for s > 0xffff {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}
