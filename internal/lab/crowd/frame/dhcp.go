package frame

import (
	"encoding/binary"
	"net/netip"
	"time"
)

// Ports of DHCP.
const (
	DHCPServerPort = 67
	DHCPClientPort = 68
)

// Types of a DHCP message (RFC 2132 section 9.6).
const (
	Discover = 1
	Offer    = 2
	Request  = 3
	Decline  = 4
	Ack      = 5
	Nak      = 6
	Release  = 7
)

const (
	magic      = 0x63825363 // RFC 2131 section 3
	headerSize = 236        // RFC 2131 section 2, up to the magic
)

// Ask is a DHCP message of a client. What is zero is left out.
type Ask struct {
	Type      byte
	XID       uint32
	Secs      uint16
	Broadcast bool
	MAC       MAC
	Current   netip.Addr // ciaddr
	Requested netip.Addr // option 50
	Server    netip.Addr // option 54
	Client    []byte     // option 61
	Class     string     // option 60
	Host      string     // option 12
	Want      []byte     // option 55
}

// Reply is a DHCP message of a server as far as a client needs it.
type Reply struct {
	Type          byte
	XID           uint32
	MAC           MAC
	Given         netip.Addr // yiaddr
	Server        netip.Addr // option 54
	Mask          netip.Addr // option 1
	Routers, DNS  []netip.Addr
	Lease, T1, T2 time.Duration // T1 and T2: RFC 2131's defaults unless told
}

// AppendAsk appends the UDP payload of a client's message, padded to BOOTP's 300 bytes as
// devices do (RFC 1542 section 2.1).
func AppendAsk(b []byte, a Ask) []byte {
	start := len(b)
	b = append(b, make([]byte, headerSize)...)
	h := b[start:]
	h[0], h[1], h[2] = 1, 1, 6
	binary.BigEndian.PutUint32(h[4:], a.XID)
	binary.BigEndian.PutUint16(h[8:], a.Secs)
	if a.Broadcast {
		h[10] = 0x80
	}
	if a.Current.IsValid() {
		c := a.Current.As4()
		copy(h[12:], c[:])
	}
	copy(h[28:], a.MAC[:])
	b = binary.BigEndian.AppendUint32(b, magic)
	b = append(b, 53, 1, a.Type)
	b = appendOption(b, 61, a.Client)
	for _, o := range [...]struct {
		code byte
		addr netip.Addr
	}{{50, a.Requested}, {54, a.Server}} {
		if o.addr.IsValid() {
			v := o.addr.As4()
			b = appendOption(b, o.code, v[:])
		}
	}
	if len(a.Want) > 0 {
		b = append(b, 57, 2, 1500>>8, 1500&0xff)
	}
	b = appendOption(b, 60, []byte(a.Class))
	b = appendOption(b, 12, []byte(a.Host))
	b = appendOption(b, 55, a.Want)
	b = append(b, 255)
	for len(b)-start < 300 {
		b = append(b, 0)
	}
	return b
}

func appendOption(b []byte, code byte, value []byte) []byte {
	if len(value) == 0 {
		return b
	}
	value = value[:min(len(value), 255)]
	return append(append(b, code, byte(len(value))), value...)
}

// ParseReply reads the UDP payload of a server's message.
func ParseReply(b []byte) (Reply, error) {
	var r Reply
	if len(b) < headerSize+4 {
		return r, ErrTruncated
	}
	if b[0] != 2 || b[1] != 1 || b[2] != 6 || binary.BigEndian.Uint32(b[headerSize:]) != magic {
		return r, ErrMalformed
	}
	r.XID, r.MAC = binary.BigEndian.Uint32(b[4:]), MAC(b[28:34])
	r.Given = netip.AddrFrom4([4]byte(b[16:20]))
	areas := [3][]byte{b[headerSize+4:]}
	over := find(areas, 52)
	if len(over) == 1 && over[0]&1 != 0 { // RFC 2132 section 9.3; RFC 3396 section 5: file first
		areas[1] = b[108:236]
	}
	if len(over) == 1 && over[0]&2 != 0 {
		areas[2] = b[44:108]
	}
	kind := find(areas, 53)
	if len(kind) != 1 {
		return r, ErrMalformed
	}
	r.Type = kind[0]
	if r.Server = first(find(areas, 54)); !r.Server.IsValid() { // RFC 2131 table 3: MUST
		return r, ErrMalformed
	}
	r.Mask = first(find(areas, 1))
	r.Routers, r.DNS = addresses(find(areas, 3)), addresses(find(areas, 6))
	r.Lease = duration(find(areas, 51), 0)
	r.T1 = duration(find(areas, 58), r.Lease/2)
	r.T2 = duration(find(areas, 59), r.Lease/8*7)
	return r, nil
}

// find is the value of an option, joined when it comes in parts (RFC 3396), nil without.
func find(areas [3][]byte, code byte) []byte {
	var value []byte
	for _, b := range areas {
		for len(b) > 0 && b[0] != 255 {
			if b[0] == 0 {
				b = b[1:]
				continue
			}
			if len(b) < 2 || 2+int(b[1]) > len(b) {
				break
			}
			if b[0] == code {
				part := b[2 : 2+b[1] : 2+b[1]] // its capacity ends here: joining copies
				if value = append(value, part...); len(value) == len(part) {
					value = part
				}
			}
			b = b[2+b[1]:]
		}
	}
	return value
}

func first(b []byte) netip.Addr {
	if len(b) < 4 {
		return netip.Addr{}
	}
	return netip.AddrFrom4([4]byte(b[:4]))
}

func addresses(b []byte) []netip.Addr {
	var all []netip.Addr
	for ; len(b) >= 4; b = b[4:] {
		all = append(all, netip.AddrFrom4([4]byte(b[:4])))
	}
	return all
}

// duration of an option in seconds. 0xffffffff is for ever (RFC 2131 section 3.3), which
// 136 years serve for.
func duration(b []byte, otherwise time.Duration) time.Duration {
	if len(b) != 4 {
		return otherwise
	}
	return seconds(b)
}
