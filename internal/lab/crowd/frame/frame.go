// Package frame is the codec of the simulated devices: Ethernet, ARP, IPv4, IPv6, ICMP,
// UDP, TCP, neighbour discovery, DHCPv4 and DNS, as far as an attendee's device speaks
// them. It is separate from the codecs of our servers on purpose: a fault in one of the two
// must not hide behind the same fault in the other.
package frame

import (
	"encoding/binary"
	"errors"
	"net/netip"
)

// MAC is an Ethernet address.
type MAC = [6]byte

// Broadcast is the address of all stations.
var Broadcast = MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// EtherTypes of IEEE 802 Numbers.
const (
	TypeIPv4 = 0x0800
	TypeARP  = 0x0806
	TypeIPv6 = 0x86dd
)

// Protocol numbers of IP.
const (
	ICMP   = 1
	TCP    = 6
	UDP    = 17
	ICMPv6 = 58
)

// Flags of TCP (RFC 9293 section 3.1).
const (
	FIN = 1 << 0
	SYN = 1 << 1
	RST = 1 << 2
	PSH = 1 << 3
	ACK = 1 << 4
)

// Faults of a frame. The parser returns them bare, for it meets them in floods.
var (
	ErrTruncated = errors.New("frame ends before its header says")
	ErrUnknown   = errors.New("frame of a kind that a device ignores")
	ErrMalformed = errors.New("frame contradicts itself")
	ErrFragment  = errors.New("frame is an IP fragment")
)

// Packet is a frame taken apart. Which fields are set follows from Type and Protocol.
// Payload refers to the parsed bytes.
type Packet struct {
	Dst, Src MAC
	Type     uint16

	From, To netip.Addr // of IP and, as sender and target, of ARP
	Protocol uint8      // of IP
	HopLimit uint8

	ARPReply           bool
	SenderMAC, Queried MAC // of ARP: sender's and target's hardware address

	SrcPort, DstPort uint16 // of UDP and TCP
	Seq, Ack         uint32 // of TCP
	Flags            uint8  // of TCP

	ICMPType, ICMPCode uint8
	ID, Number         uint16 // of ICMP echo, both versions

	Payload []byte // of UDP, TCP, ICMP echo; of other ICMP all after the checksum
}

// Parse takes a frame apart into p. Checksums are not looked at: between two ends on one
// machine the kernel leaves them unfinished.
func (p *Packet) Parse(b []byte) error {
	if len(b) < 14 {
		return ErrTruncated
	}
	p.Dst, p.Src = MAC(b[0:6]), MAC(b[6:12])
	p.Type = binary.BigEndian.Uint16(b[12:14])
	p.Protocol, p.Payload = 0, nil
	switch p.Type {
	case TypeARP:
		return p.parseARP(b[14:])
	case TypeIPv4:
		return p.parseIPv4(b[14:])
	case TypeIPv6:
		return p.parseIPv6(b[14:])
	}
	return ErrUnknown
}

// parseARP reads a packet of RFC 826 for Ethernet and IPv4.
func (p *Packet) parseARP(b []byte) error {
	if len(b) < 28 {
		return ErrTruncated
	}
	if binary.BigEndian.Uint64(b)>>16 != 0x0001_0800_0604 {
		return ErrUnknown
	}
	switch binary.BigEndian.Uint16(b[6:8]) {
	case 1:
		p.ARPReply = false
	case 2:
		p.ARPReply = true
	default:
		return ErrUnknown
	}
	p.SenderMAC, p.From = MAC(b[8:14]), netip.AddrFrom4([4]byte(b[14:18]))
	p.Queried, p.To = MAC(b[18:24]), netip.AddrFrom4([4]byte(b[24:28]))
	return nil
}

func (p *Packet) parseIPv4(b []byte) error {
	if len(b) < 20 {
		return ErrTruncated
	}
	header, total := int(b[0]&0xf)*4, int(binary.BigEndian.Uint16(b[2:4]))
	if b[0]>>4 != 4 || header < 20 || total < header {
		return ErrMalformed
	}
	if total > len(b) {
		return ErrTruncated
	}
	if binary.BigEndian.Uint16(b[6:8])&0x3fff != 0 { // more fragments, or not the first
		return ErrFragment
	}
	p.HopLimit, p.Protocol = b[8], b[9]
	p.From, p.To = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
	return p.parseTransport(b[header:total])
}

// parseIPv6 reads a packet without extension headers: none of a device's correspondents
// has a reason to send any.
func (p *Packet) parseIPv6(b []byte) error {
	if len(b) < 40 {
		return ErrTruncated
	}
	if b[0]>>4 != 6 {
		return ErrMalformed
	}
	length := int(binary.BigEndian.Uint16(b[4:6]))
	if 40+length > len(b) {
		return ErrTruncated
	}
	p.Protocol, p.HopLimit = b[6], b[7]
	p.From, p.To = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	return p.parseTransport(b[40 : 40+length])
}

func (p *Packet) parseTransport(b []byte) error {
	switch p.Protocol {
	case UDP:
		if len(b) < 8 {
			return ErrTruncated
		}
		length := int(binary.BigEndian.Uint16(b[4:6]))
		if length < 8 || length > len(b) {
			return ErrMalformed
		}
		p.ports(b)
		p.Payload = b[8:length]
		return nil
	case TCP:
		if len(b) < 20 {
			return ErrTruncated
		}
		header := int(b[12]>>4) * 4
		if header < 20 || header > len(b) {
			return ErrMalformed
		}
		p.ports(b)
		p.Seq, p.Ack = binary.BigEndian.Uint32(b[4:8]), binary.BigEndian.Uint32(b[8:12])
		p.Flags = b[13]
		p.Payload = b[header:]
		return nil
	case ICMP, ICMPv6:
		return p.parseICMP(b)
	}
	return ErrUnknown
}

func (p *Packet) ports(b []byte) {
	p.SrcPort, p.DstPort = binary.BigEndian.Uint16(b[0:2]), binary.BigEndian.Uint16(b[2:4])
}

func (p *Packet) parseICMP(b []byte) error {
	if len(b) < 4 {
		return ErrTruncated
	}
	p.ICMPType, p.ICMPCode, p.Payload = b[0], b[1], b[4:]
	if p.IsEcho() || p.IsEchoReply() {
		if len(b) < 8 {
			return ErrTruncated
		}
		p.ID, p.Number = binary.BigEndian.Uint16(b[4:6]), binary.BigEndian.Uint16(b[6:8])
		p.Payload = b[8:]
	}
	return nil
}

// IsEcho tells whether p asks for an echo (RFC 792, RFC 4443 section 4.1).
func (p *Packet) IsEcho() bool {
	return p.Protocol == ICMP && p.ICMPType == 8 || p.Protocol == ICMPv6 && p.ICMPType == 128
}

// IsEchoReply tells whether p answers one (RFC 792, RFC 4443 section 4.2).
func (p *Packet) IsEchoReply() bool {
	return p.Protocol == ICMP && p.ICMPType == 0 || p.Protocol == ICMPv6 && p.ICMPType == 129
}
