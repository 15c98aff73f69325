package wire

import (
	"encoding/binary"
	"net/netip"
)

// ARPFrame is how many bytes a frame with ARP for IPv4 over Ethernet has, without padding.
const ARPFrame = 14 + 28

// ARP is a packet of RFC 826 for IPv4 over Ethernet.
type ARP struct {
	Reply                bool // else a request
	SenderMAC, TargetMAC [6]byte
	Sender, Target       netip.Addr
}

// AppendARPProbe appends the frame that asks all of a link whether somebody has the address,
// on behalf of nobody: RFC 5227 section 2.1.1 has the sender's address and the target's
// hardware address zero, so that no cache learns anything from it.
func AppendARPProbe(b []byte, mac [6]byte, a netip.Addr) []byte {
	return appendARP(b, broadcastMAC, mac, 1, netip.IPv4Unspecified(), [6]byte{}, a)
}

// AppendARPAnnouncement appends the frame that tells all of a link who has the address: RFC
// 5227 section 2.3.
func AppendARPAnnouncement(b []byte, mac [6]byte, a netip.Addr) []byte {
	return appendARP(b, broadcastMAC, mac, 1, a, [6]byte{}, a)
}

// AppendARPReply appends the frame in which mac says that it has asked.Target, to who asked.
func AppendARPReply(b []byte, mac [6]byte, asked ARP) []byte {
	return appendARP(b, asked.SenderMAC, mac, 2, asked.Target, asked.SenderMAC, asked.Sender)
}

var broadcastMAC = [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

func appendARP(b []byte, to, mac [6]byte, operation uint16, sender netip.Addr, targetMAC [6]byte, target netip.Addr) []byte {
	var f [ARPFrame]byte
	copy(f[:], to[:])
	copy(f[6:], mac[:])
	binary.BigEndian.PutUint16(f[12:], 0x0806)
	binary.BigEndian.PutUint16(f[14:], 1)      // Ethernet
	binary.BigEndian.PutUint16(f[16:], 0x0800) // IPv4
	f[18], f[19] = 6, 4
	binary.BigEndian.PutUint16(f[20:], operation)
	copy(f[22:], mac[:])
	s, t := sender.As4(), target.As4()
	copy(f[28:], s[:])
	copy(f[32:], targetMAC[:])
	copy(f[38:], t[:])
	return append(b, f[:]...)
}

// ParseARP reads a frame with ARP for IPv4 over Ethernet; not ok for anything else. Padding
// behind it is passed over.
func ParseARP(b []byte) (a ARP, ok bool) {
	if len(b) < ARPFrame || binary.BigEndian.Uint16(b[12:]) != 0x0806 || binary.BigEndian.Uint32(b[14:]) != 0x00010800 || b[18] != 6 || b[19] != 4 {
		return a, false
	}
	op := binary.BigEndian.Uint16(b[20:])
	if op != 1 && op != 2 {
		return a, false
	}
	return ARP{
		Reply: op == 2, SenderMAC: [6]byte(b[22:28]), TargetMAC: [6]byte(b[32:38]),
		Sender: netip.AddrFrom4([4]byte(b[28:32])), Target: netip.AddrFrom4([4]byte(b[38:42])),
	}, true
}
