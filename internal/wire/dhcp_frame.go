package wire

import (
	"encoding/binary"
	"net/netip"
)

// UDPFrameHead is how many bytes PutUDPFrame fills before the payload: Ethernet 14, IPv4
// 20, UDP 8.
const UDPFrameHead = 14 + 20 + 8

// UDPFrame says where a frame goes.
type UDPFrame struct {
	SrcMAC, DstMAC   [6]byte
	Src, Dst         netip.Addr // IPv4
	SrcPort, DstPort uint16
}

// PutUDPFrame writes the headers of an Ethernet frame with a UDP datagram into the first
// UDPFrameHead bytes of b, whose rest is the payload, checksums included. It is the way to
// a client that has no address yet and so answers no ARP (RFC 2131 section 4.1). The frame
// must not be longer than 65,549 bytes.
func PutUDPFrame(b []byte, f *UDPFrame) {
	copy(b, f.DstMAC[:])
	copy(b[6:], f.SrcMAC[:])
	binary.BigEndian.PutUint16(b[12:], 0x0800)

	ip := b[14:34]
	src, dst := f.Src.As4(), f.Dst.As4()
	ip[0], ip[1] = 0x45, 0x10 // TOS low delay, as DHCP servers commonly send
	binary.BigEndian.PutUint16(ip[2:], uint16(len(b)-14))
	binary.BigEndian.PutUint32(ip[4:], 0) // id 0 and no fragment: an atomic datagram, RFC 6864
	binary.BigEndian.PutUint16(ip[6:], 0x4000)
	ip[8], ip[9] = 64, 17
	binary.BigEndian.PutUint16(ip[10:], 0)
	copy(ip[12:], src[:])
	copy(ip[16:], dst[:])
	binary.BigEndian.PutUint16(ip[10:], ^checksum(0, ip))

	udp := b[34:]
	binary.BigEndian.PutUint16(udp, f.SrcPort)
	binary.BigEndian.PutUint16(udp[2:], f.DstPort)
	binary.BigEndian.PutUint16(udp[4:], uint16(len(udp)))
	binary.BigEndian.PutUint16(udp[6:], 0)
	check := ^checksum(sum(uint64(17)+uint64(len(udp)), ip[12:20]), udp) // with the pseudo-header
	if check == 0 {                                                      // RFC 768: 0 would say that there is no checksum
		check = 0xffff
	}
	binary.BigEndian.PutUint16(udp[6:], check)
}

// ParseUDPFrame reads an Ethernet frame with an unfragmented UDP datagram over IPv4; not ok
// for anything else. It checks lengths, not checksums: they may be left to the hardware. The
// payload points into b.
func ParseUDPFrame(b []byte) (f UDPFrame, payload []byte, ok bool) {
	if len(b) < UDPFrameHead || binary.BigEndian.Uint16(b[12:]) != 0x0800 {
		return f, nil, false
	}
	ip := b[14:]
	head, total := int(ip[0]&15)*4, int(binary.BigEndian.Uint16(ip[2:]))
	// RFC 791 section 3.1; all but the flags reserved and DF must be 0 in an unfragmented one.
	if ip[0]>>4 != 4 || head < 20 || total < head+8 || total > len(ip) || ip[9] != 17 || binary.BigEndian.Uint16(ip[6:])&0x3fff != 0 {
		return f, nil, false
	}
	udp := ip[head:total]
	length := int(binary.BigEndian.Uint16(udp[4:]))
	if length < 8 || length > len(udp) {
		return f, nil, false
	}
	f = UDPFrame{
		DstMAC: [6]byte(b[0:6]), SrcMAC: [6]byte(b[6:12]), Src: netip.AddrFrom4([4]byte(ip[12:16])), Dst: netip.AddrFrom4([4]byte(ip[16:20])),
		SrcPort: binary.BigEndian.Uint16(udp), DstPort: binary.BigEndian.Uint16(udp[2:]),
	}
	return f, udp[8:length], true
}
