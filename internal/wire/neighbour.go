package wire

import (
	"encoding/binary"
	"net/netip"
)

// Neighbour is a neighbour solicitation or advertisement of RFC 4861 sections 4.3 and 4.4.
type Neighbour struct {
	Advertisement bool    // else a solicitation
	MAC           [6]byte // of the link-layer address option, else the frame's sender
	Source        netip.Addr
	Target        netip.Addr
}

const (
	solicitation, advertisement = 135, 136
	neighbourSize               = 24
)

var allNodes = netip.AddrFrom16([16]byte{0: 0xff, 1: 0x02, 15: 1})

// SolicitedNode is the group that is asked who has the address: RFC 4291 section 2.7.1.
func SolicitedNode(a netip.Addr) netip.Addr {
	b := a.As16()
	return netip.AddrFrom16([16]byte{0: 0xff, 1: 0x02, 11: 1, 12: 0xff, 13: b[13], 14: b[14], 15: b[15]})
}

// ParseNeighbour reads a frame and checks it by RFC 4861 sections 7.1.1 and 7.1.2; not ok for
// anything else.
func ParseNeighbour(b []byte) (n Neighbour, ok bool) {
	if len(b) < ether+40+neighbourSize || binary.BigEndian.Uint16(b[12:]) != 0x86dd {
		return n, false
	}
	p := b[ether:]
	size := int(binary.BigEndian.Uint16(p[4:]))
	if p[0]>>4 != 6 || p[6] != 58 || p[7] != 255 || size < neighbourSize || size > len(p)-40 {
		return n, false
	}
	m := p[40 : 40+size]
	n = Neighbour{Advertisement: m[0] == advertisement, MAC: [6]byte(b[6:12]), Source: netip.AddrFrom16([16]byte(p[8:])), Target: netip.AddrFrom16([16]byte(m[8:]))}
	to := netip.AddrFrom16([16]byte(p[24:]))
	switch {
	case m[0] != solicitation && m[0] != advertisement || m[1] != 0 || n.Target.IsMulticast():
		return n, false
	case n.Source.IsMulticast() || n.Advertisement && n.Source.IsUnspecified() || n.Advertisement && to.IsMulticast() && m[4]&0x40 != 0:
		return n, false
	case n.Source.IsUnspecified() && to != SolicitedNode(n.Target):
		return n, false
	case checksum(pseudo(n.Source, to, 58, size), m) != 0xffff:
		return n, false
	}
	return n, n.options(m[neighbourSize:])
}

// options finds the link-layer address among the options; false when they are malformed.
func (n *Neighbour) options(o []byte) bool {
	want := byte(1) // source link-layer address, RFC 4861 section 4.6.1
	if n.Advertisement {
		want = 2
	}
	for ; len(o) > 0; o = o[int(o[1])*8:] {
		if len(o) < 8 || o[1] == 0 || int(o[1])*8 > len(o) {
			return false
		}
		if o[0] != want || o[1] != 1 {
			continue
		}
		if n.Source.IsUnspecified() {
			return false // RFC 4861 section 7.1.1
		}
		n.MAC = [6]byte(o[2:8])
	}
	return true
}

// AppendAdvertisement appends the frame in which mac says that it has target. It answers
// asked, or tells all of the link when asked is nil (RFC 4861 sections 7.2.4 and 7.2.6); it
// overrides what caches hold.
func AppendAdvertisement(b []byte, mac [6]byte, target netip.Addr, asked *Neighbour) []byte {
	to, toMAC, flags := allNodes, [6]byte{0x33, 0x33, 5: 1}, byte(0x20)
	if asked != nil && !asked.Source.IsUnspecified() {
		to, toMAC, flags = asked.Source, asked.MAC, 0x60
	}
	m := make([]byte, neighbourSize+8)
	m[0], m[4] = advertisement, flags
	t := target.As16()
	copy(m[8:], t[:])
	m[24], m[25] = 2, 1 // target link-layer address, RFC 4861 section 4.6.1
	copy(m[26:], mac[:])
	binary.BigEndian.PutUint16(m[2:], ^checksum(pseudo(target, to, 58, len(m)), m))
	b = appendEthernet(b, toMAC, mac, 0x86dd)
	return append(appendIPv6(b, target, to, 58, len(m)), m...)
}
