package wire

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"time"
)

const (
	// VRRPProtocol is the IP protocol of VRRP, RFC 9568 section 5.1.1.4.
	VRRPProtocol = 112
	// VRRPMostAddrs is how many addresses an advertisement that is read may have: no virtual
	// router of an event has more, and the bound keeps a hostile one small.
	VRRPMostAddrs = 16
	// VRRPUnit is what the interval is counted in, and VRRPMostInterval the longest that 12
	// bits hold: RFC 9568 section 5.2.7.
	VRRPUnit         = 10 * time.Millisecond
	VRRPMostInterval = 4095 * VRRPUnit

	vrrpHeader = 8
	ether      = 14
)

// Groups of VRRP routers: RFC 9568 sections 5.1.1.2 and 5.1.2.2. The hardware addresses are
// those of RFC 1112 section 6.4 and RFC 2464 section 7.
var (
	vrrpGroup4 = netip.AddrFrom4([4]byte{224, 0, 0, 18})
	vrrpGroup6 = netip.AddrFrom16([16]byte{0: 0xff, 1: 0x02, 15: 0x12})
)

// What is wrong with an advertisement; each is a value of the metric's label "why".
var (
	ErrVRRPShape    = errors.New("malformed") // too short, or lengths that contradict each other
	ErrVRRPVersion  = errors.New("version")   // not version 3, or another type than advertisement
	ErrVRRPHops     = errors.New("hop-limit") // not 255: it came from beyond the link
	ErrVRRPChecksum = errors.New("checksum")
	ErrVRRPSource   = errors.New("source") // an address that no router has on the link
	ErrVRRPGroup    = errors.New("group")  // not to the group of VRRP routers
)

// VRRP is an advertisement of RFC 9568 section 5, with what of its frame matters.
type VRRP struct {
	MAC      [6]byte    // of the sender
	Source   netip.Addr // IPv4, or link-local IPv6; says of which family the rest is
	ID       uint8      // 1 to 255
	Priority uint8      // 0: the sender stops
	Interval time.Duration
	Addrs    []netip.Addr
}

// IsVRRP tells whether the frame holds VRRP for ParseVRRP to judge.
func IsVRRP(b []byte) bool {
	if len(b) < ether+20 {
		return false
	}
	switch binary.BigEndian.Uint16(b[12:]) {
	case 0x0800:
		return b[ether+9] == VRRPProtocol
	case 0x86dd:
		return b[ether+6] == VRRPProtocol
	}
	return false
}

// AppendVRRP appends the frame of the advertisement, from v.MAC to the group. Addrs must be
// of Source's family and the interval within 10 ms and VRRPMostInterval.
func AppendVRRP(b []byte, v VRRP) []byte {
	message := make([]byte, vrrpHeader, vrrpHeader+16*len(v.Addrs))
	message[0] = 3<<4 | 1 // version 3, ADVERTISEMENT: RFC 9568 sections 5.2.1 and 5.2.2
	message[1], message[2], message[3] = v.ID, v.Priority, byte(len(v.Addrs))
	binary.BigEndian.PutUint16(message[4:], uint16(v.Interval/VRRPUnit)&0xfff)
	for _, a := range v.Addrs {
		message = append(message, a.AsSlice()...)
	}
	group := vrrpGroup4
	if v.Source.Is6() {
		group = vrrpGroup6
	}
	binary.BigEndian.PutUint16(message[6:], ^checksum(pseudo(v.Source, group, VRRPProtocol, len(message)), message))
	if v.Source.Is6() {
		b = appendEthernet(b, [6]byte{0x33, 0x33, 5: 0x12}, v.MAC, 0x86dd)
		b = appendIPv6(b, v.Source, group, VRRPProtocol, len(message))
		return append(b, message...)
	}
	b = appendEthernet(b, [6]byte{0x01, 0x00, 0x5e, 0, 0, 0x12}, v.MAC, 0x0800)
	var h [20]byte
	h[0], h[1], h[6] = 0x45, 0xc0, 0x40 // internetwork control, not to be fragmented
	binary.BigEndian.PutUint16(h[2:], uint16(20+len(message)))
	h[8], h[9] = 255, VRRPProtocol // RFC 9568 section 5.1.1.3
	s, g := v.Source.As4(), group.As4()
	copy(h[12:], s[:])
	copy(h[16:], g[:])
	binary.BigEndian.PutUint16(h[10:], ^checksum(0, h[:]))
	return append(append(b, h[:]...), message...)
}

// ParseVRRP reads a frame with an advertisement and checks it by RFC 9568 section 7.1, but
// for what depends on the virtual router. Over IPv4 the checksum may be of the message alone,
// as RFC 9568 section 5.2.8 has it, or with the pseudo-header, as keepalived and we send it.
func ParseVRRP(b []byte) (v VRRP, err error) {
	if !IsVRRP(b) {
		return v, ErrVRRPShape
	}
	v.MAC = [6]byte(b[6:12])
	var to netip.Addr
	var hops byte
	packet := b[ether:]
	var message []byte
	switch binary.BigEndian.Uint16(b[12:]) {
	case 0x0800:
		header, size := int(packet[0]&0xf)*4, int(binary.BigEndian.Uint16(packet[2:]))
		if packet[0]>>4 != 4 || header < 20 || size < header || size > len(packet) || binary.BigEndian.Uint16(packet[6:])&0x3fff != 0 || checksum(0, packet[:header]) != 0xffff {
			return v, ErrVRRPShape
		}
		v.Source, to, hops = netip.AddrFrom4([4]byte(packet[12:])), netip.AddrFrom4([4]byte(packet[16:])), packet[8]
		message = packet[header:size]
	case 0x86dd:
		if len(packet) < 40 || packet[0]>>4 != 6 || int(binary.BigEndian.Uint16(packet[4:])) > len(packet)-40 {
			return v, ErrVRRPShape
		}
		v.Source, to, hops = netip.AddrFrom16([16]byte(packet[8:])), netip.AddrFrom16([16]byte(packet[24:])), packet[7]
		message = packet[40 : 40+int(binary.BigEndian.Uint16(packet[4:]))]
	default:
		return v, ErrVRRPShape
	}
	switch {
	case hops != 255:
		return v, ErrVRRPHops
	case to != vrrpGroup4 && to != vrrpGroup6:
		return v, ErrVRRPGroup
	case v.Source.Is6() && !v.Source.IsLinkLocalUnicast(), v.Source.IsUnspecified(), v.Source.IsMulticast(), v.Source.IsLoopback(), v.Source.Is4In6():
		return v, ErrVRRPSource
	}
	return v, v.read(message, to)
}

// read takes the message itself, after its IP header.
func (v *VRRP) read(message []byte, to netip.Addr) error {
	size := v.Source.BitLen() / 8
	switch {
	case len(message) < vrrpHeader:
		return ErrVRRPShape
	case message[0] != 3<<4|1:
		return ErrVRRPVersion
	case len(message) != vrrpHeader+size*int(message[3]) || message[3] == 0 || message[3] > VRRPMostAddrs || message[1] == 0:
		return ErrVRRPShape
	}
	whole := checksum(pseudo(v.Source, to, VRRPProtocol, len(message)), message) == 0xffff
	if !whole && (v.Source.Is6() || checksum(0, message) != 0xffff) {
		return ErrVRRPChecksum
	}
	v.ID, v.Priority = message[1], message[2]
	v.Interval = time.Duration(binary.BigEndian.Uint16(message[4:])&0xfff) * VRRPUnit
	if v.Interval == 0 {
		return ErrVRRPShape
	}
	for b := message[vrrpHeader:]; len(b) > 0; b = b[size:] {
		a, _ := netip.AddrFromSlice(b[:size])
		v.Addrs = append(v.Addrs, a)
	}
	return nil
}

// appendEthernet appends the header of an untagged frame.
func appendEthernet(b []byte, to, from [6]byte, protocol uint16) []byte {
	b = append(append(b, to[:]...), from[:]...)
	return binary.BigEndian.AppendUint16(b, protocol)
}

// appendIPv6 appends a header with hop limit 255, for what must not have crossed a router.
func appendIPv6(b []byte, from, to netip.Addr, next byte, size int) []byte {
	h := [40]byte{0: 0x60, 6: next, 7: 255}
	binary.BigEndian.PutUint16(h[4:], uint16(size))
	s, t := from.As16(), to.As16()
	copy(h[8:], s[:])
	copy(h[24:], t[:])
	return append(b, h[:]...)
}
