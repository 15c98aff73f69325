package frame

import (
	"encoding/binary"
	"net/netip"
	"time"
)

// Types of ICMPv6 for neighbour discovery (RFC 4861 section 4).
const (
	RouterSolicitation    = 133
	RouterAdvertisement   = 134
	NeighbourSolicitation = 135
	NeighbourAdvert       = 136
)

// Advertisement is what a router announces (RFC 4861 section 4.2).
type Advertisement struct {
	Lifetime time.Duration // as a default router; 0: it is none
	Source   MAC           // its link-layer address, zero when not told
	Prefixes []Prefix
	DNS      []netip.Addr // RFC 8106
}

// Prefix is a prefix information option (RFC 4861 section 4.6.2).
type Prefix struct {
	Prefix           netip.Prefix
	OnLink, Auto     bool
	Valid, Preferred time.Duration
}

// Neighbour is a neighbour solicitation or advertisement.
type Neighbour struct {
	Target netip.Addr
	MAC    MAC  // of the option that goes with it, zero when not told
	Router bool // the next two of an advertisement
	Asked  bool
}

// AllNodes and AllRouters are multicast addresses of RFC 4291 section 2.7.1.
var (
	AllNodes   = netip.AddrFrom16([16]byte{0: 0xff, 1: 2, 15: 1})
	AllRouters = netip.AddrFrom16([16]byte{0: 0xff, 1: 2, 15: 2})
)

// SolicitedNode is the multicast address of RFC 4291 section 2.7.1 for a.
func SolicitedNode(a netip.Addr) netip.Addr {
	b := a.As16()
	return netip.AddrFrom16([16]byte{0: 0xff, 1: 2, 11: 1, 12: 0xff, 13: b[13], 14: b[14], 15: b[15]})
}

// Multicast is the Ethernet address of an IPv6 multicast group (RFC 2464 section 7).
func Multicast(a netip.Addr) MAC {
	b := a.As16()
	return MAC{0x33, 0x33, b[12], b[13], b[14], b[15]}
}

// AppendRouterSolicitation appends a whole frame from a link-local address.
func AppendRouterSolicitation(b []byte, src MAC, from netip.Addr) []byte {
	h := Header{Dst: Multicast(AllRouters), Src: src, From: from, To: AllRouters, HopLimit: 255}
	return AppendICMP(b, h, RouterSolicitation, make([]byte, 4), option(1, src))
}

// AppendSolicitation appends a whole frame that asks who has target; from is unspecified
// for duplicate address detection (RFC 4862 section 5.4.2).
func AppendSolicitation(b []byte, src MAC, from, target netip.Addr) []byte {
	to := SolicitedNode(target)
	h := Header{Dst: Multicast(to), Src: src, From: from, To: to, HopLimit: 255}
	t := target.As16()
	var mine []byte
	if !from.IsUnspecified() { // RFC 4861 section 4.3
		mine = option(1, src)
	}
	return AppendICMP(b, h, NeighbourSolicitation, append(make([]byte, 4, 20), t[:]...), mine)
}

// AppendAdvertisement appends a whole frame that says: target is at src. Asked is set when
// it answers a solicitation.
func AppendAdvertisement(b []byte, h Header, target netip.Addr, asked bool) []byte {
	flags := byte(0x20) // override
	if asked {
		flags |= 0x40
	}
	h.HopLimit = 255
	t := target.As16()
	return AppendICMP(b, h, NeighbourAdvert, append([]byte{flags, 0, 0, 0}, t[:]...), option(2, h.Src))
}

// option is a source (1) or target (2) link-layer address option.
func option(kind byte, mac MAC) []byte { return append([]byte{kind, 1}, mac[:]...) }

// ParseNeighbour reads p, which is a neighbour solicitation or advertisement.
func ParseNeighbour(p *Packet) (Neighbour, error) {
	var n Neighbour
	if p.HopLimit != 255 || p.ICMPCode != 0 { // RFC 4861 section 7.1
		return n, ErrMalformed
	}
	b := p.Payload
	if len(b) < 20 {
		return n, ErrTruncated
	}
	n.Target = netip.AddrFrom16([16]byte(b[4:20]))
	n.Router, n.Asked = b[0]&0x80 != 0, b[0]&0x40 != 0
	err := options(b[20:], func(kind byte, o []byte) {
		if (kind == 1 || kind == 2) && len(o) == 8 {
			n.MAC = MAC(o[2:8])
		}
	})
	return n, err
}

// ParseAdvertisement reads p, which is a router advertisement.
func ParseAdvertisement(p *Packet) (Advertisement, error) {
	var a Advertisement
	if p.HopLimit != 255 || p.ICMPCode != 0 || !p.From.IsLinkLocalUnicast() { // RFC 4861 section 6.1.2
		return a, ErrMalformed
	}
	b := p.Payload
	if len(b) < 12 {
		return a, ErrTruncated
	}
	a.Lifetime = time.Duration(binary.BigEndian.Uint16(b[2:4])) * time.Second
	err := options(b[12:], func(kind byte, o []byte) {
		switch {
		case kind == 1 && len(o) == 8:
			a.Source = MAC(o[2:8])
		case kind == 3 && len(o) == 32 && o[2] <= 128:
			a.Prefixes = append(a.Prefixes, Prefix{
				Prefix: netip.PrefixFrom(netip.AddrFrom16([16]byte(o[16:32])), int(o[2])).Masked(),
				OnLink: o[3]&0x80 != 0, Auto: o[3]&0x40 != 0,
				Valid: seconds(o[4:8]), Preferred: seconds(o[8:12]),
			})
		case kind == 25 && len(o) >= 24 && seconds(o[4:8]) > 0: // RFC 8106 section 5.1
			for o = o[8:]; len(o) >= 16; o = o[16:] {
				a.DNS = append(a.DNS, netip.AddrFrom16([16]byte(o[:16])))
			}
		}
	})
	return a, err
}

// options walks the options of neighbour discovery (RFC 4861 section 4.6).
func options(b []byte, each func(kind byte, option []byte)) error {
	for len(b) > 0 {
		if len(b) < 2 || b[1] == 0 || int(b[1])*8 > len(b) {
			return ErrMalformed
		}
		each(b[0], b[:int(b[1])*8])
		b = b[int(b[1])*8:]
	}
	return nil
}

func seconds(b []byte) time.Duration {
	return time.Duration(binary.BigEndian.Uint32(b)) * time.Second
}
