package frame

import (
	"encoding/binary"
	"net/netip"
)

// Header is the way of a packet: both hardware addresses and both IP addresses, which are
// of one family.
type Header struct {
	Dst, Src MAC
	From, To netip.Addr
	HopLimit uint8 // 64 when 0
}

// Segment is the header of a TCP segment that a device sends.
type Segment struct {
	SrcPort, DstPort uint16
	Seq, Ack         uint32
	Flags            uint8
	MSS              uint16 // as an option when not 0
}

// AppendARP appends an Ethernet frame with an ARP packet (RFC 826): from sender about
// target. dst is the frame's destination; queried is the target hardware address, all zero
// in a request.
func AppendARP(b []byte, dst, src MAC, reply bool, sender netip.Addr, queried MAC, target netip.Addr) []byte {
	b = appendEthernet(b, dst, src, TypeARP)
	op := byte(1)
	if reply {
		op = 2
	}
	b = append(b, 0, 1, 8, 0, 6, 4, 0, op)
	s, t := sender.As4(), target.As4()
	b = append(append(b, src[:]...), s[:]...)
	return append(append(b, queried[:]...), t[:]...)
}

// AppendUDP appends a whole frame with a UDP datagram.
func AppendUDP(b []byte, h Header, srcPort, dstPort uint16, payload []byte) []byte {
	b, start := appendIP(b, h, UDP, 8+len(payload))
	b = binary.BigEndian.AppendUint16(b, srcPort)
	b = binary.BigEndian.AppendUint16(b, dstPort)
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(payload)))
	b = append(append(b, 0, 0), payload...)
	sum := transportSum(b[start:], h, UDP)
	if sum == 0 { // RFC 768: 0 says that there is none
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(b[start+6:], sum)
	return b
}

// AppendTCP appends a whole frame with a TCP segment.
func AppendTCP(b []byte, h Header, s Segment, payload []byte) []byte {
	size := 20
	if s.MSS != 0 {
		size = 24
	}
	b, start := appendIP(b, h, TCP, size+len(payload))
	b = binary.BigEndian.AppendUint16(b, s.SrcPort)
	b = binary.BigEndian.AppendUint16(b, s.DstPort)
	b = binary.BigEndian.AppendUint32(b, s.Seq)
	b = binary.BigEndian.AppendUint32(b, s.Ack)
	b = append(b, byte(size/4)<<4, s.Flags, 0xff, 0xff, 0, 0, 0, 0) // window 65535
	if s.MSS != 0 {
		b = append(b, 2, 4, byte(s.MSS>>8), byte(s.MSS))
	}
	b = append(b, payload...)
	binary.BigEndian.PutUint16(b[start+16:], transportSum(b[start:], h, TCP))
	return b
}

// AppendEcho appends a whole frame with an ICMP echo request or reply of the family of h.
func AppendEcho(b []byte, h Header, reply bool, id, number uint16, payload []byte) []byte {
	kind := [2][2]byte{{8, 0}, {128, 129}}
	family, which := 0, 0
	if h.To.Is6() {
		family = 1
	}
	if reply {
		which = 1
	}
	body := [4]byte{byte(id >> 8), byte(id), byte(number >> 8), byte(number)}
	return AppendICMP(b, h, kind[family][which], body[:], payload)
}

// AppendICMP appends a whole frame with an ICMP message of code 0 and the family of h: body
// and more are what follows the checksum.
func AppendICMP(b []byte, h Header, kind byte, body, more []byte) []byte {
	protocol := byte(ICMP)
	if h.To.Is6() {
		protocol = ICMPv6
	}
	b, start := appendIP(b, h, protocol, 4+len(body)+len(more))
	b = append(b, kind, 0, 0, 0)
	b = append(append(b, body...), more...)
	var sum uint16
	if protocol == ICMP {
		sum = fold(add(0, b[start:]))
	} else {
		sum = transportSum(b[start:], h, protocol)
	}
	binary.BigEndian.PutUint16(b[start+2:], sum)
	return b
}

func appendEthernet(b []byte, dst, src MAC, kind uint16) []byte {
	b = append(append(b, dst[:]...), src[:]...)
	return append(b, byte(kind>>8), byte(kind))
}

// appendIP appends the Ethernet and the IP header for size bytes that follow at start.
func appendIP(b []byte, h Header, protocol byte, size int) (_ []byte, start int) {
	limit := h.HopLimit
	if limit == 0 {
		limit = 64
	}
	if h.To.Is6() {
		b = appendEthernet(b, h.Dst, h.Src, TypeIPv6)
		b = append(b, 0x60, 0, 0, 0, byte(size>>8), byte(size), protocol, limit)
		from, to := h.From.As16(), h.To.As16()
		b = append(append(b, from[:]...), to[:]...)
		return b, len(b)
	}
	b = appendEthernet(b, h.Dst, h.Src, TypeIPv4)
	at, total := len(b), 20+size
	// Don't fragment; the id may then be anything (RFC 6864).
	b = append(b, 0x45, 0, byte(total>>8), byte(total), 0, 0, 0x40, 0, limit, protocol, 0, 0)
	from, to := h.From.As4(), h.To.As4()
	b = append(append(b, from[:]...), to[:]...)
	binary.BigEndian.PutUint16(b[at+10:], fold(add(0, b[at:])))
	return b, len(b)
}

// transportSum is the checksum of b behind the pseudo-header of h (RFC 1071, RFC 8200
// section 8.1); b's checksum field is 0.
func transportSum(b []byte, h Header, protocol byte) uint16 {
	sum := uint32(protocol) + uint32(len(b))
	if h.To.Is6() {
		from, to := h.From.As16(), h.To.As16()
		sum = add(add(sum, from[:]), to[:])
	} else {
		from, to := h.From.As4(), h.To.As4()
		sum = add(add(sum, from[:]), to[:])
	}
	return fold(add(sum, b))
}

// add adds b as 16-bit words; of at most 64 KiB, so that 32 bits hold the sum.
func add(sum uint32, b []byte) uint32 {
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	return sum
}

func fold(sum uint32) uint16 {
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
