package wire

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// DHCPOption is one option with its value as it goes on the wire. A value of more than 255
// bytes goes in pieces (RFC 3396 section 6).
type DHCPOption struct {
	Code byte
	Data []byte // at most 1024 bytes
}

// DHCPTemplate is what every reply of one segment has in common: the options that the plan
// gives its clients, encoded once. It is read-only and safe for concurrent use.
type DHCPTemplate struct {
	opts  [][]byte // code, length, data, and so again; in order of preference for a client that asks for nothing
	place [256]uint8
}

// NewDHCPTemplate encodes the options in the given order, which is used for clients that
// send no parameter request list. At most 32 options, each once, each of at most 1024 bytes;
// the ones that the reply itself fills (51, 53, 54, 56, 58, 59, 61) are not allowed.
func NewDHCPTemplate(opts []DHCPOption) (*DHCPTemplate, error) {
	t := &DHCPTemplate{}
	if len(opts) > 32 {
		return nil, fmt.Errorf("DHCP template: %d options, at most 32 are allowed", len(opts))
	}
	for _, o := range opts {
		switch {
		case len(o.Data) > dhcpMostOption:
			return nil, fmt.Errorf("DHCP template: option %d has %d bytes, at most %d are allowed", o.Code, len(o.Data), dhcpMostOption)
		case t.place[o.Code] != 0:
			return nil, fmt.Errorf("DHCP template: option %d is given twice", o.Code)
		}
		switch o.Code {
		case DHCPOptPad, DHCPOptEnd, DHCPOptLeaseTime, DHCPOptType, DHCPOptServerID, DHCPOptMessage,
			DHCPOptRenewalTime, DHCPOptRebindingTime, DHCPOptClientID, DHCPOptOverload:
			return nil, fmt.Errorf("DHCP template: option %d is filled by the reply itself", o.Code)
		}
		t.opts = append(t.opts, appendPieces(nil, o))
		t.place[o.Code] = uint8(len(t.opts))
	}
	return t, nil
}

// appendPieces encodes an option, in pieces of up to 255 bytes that follow each other.
func appendPieces(b []byte, o DHCPOption) []byte {
	for rest := o.Data; ; {
		n := min(len(rest), 255)
		b = append(append(b, o.Code, byte(n)), rest[:n]...)
		if rest = rest[n:]; len(rest) == 0 {
			return b
		}
	}
}

// DHCPReply is what differs from reply to reply.
type DHCPReply struct {
	Type     DHCPType
	YIAddr   netip.Addr // the client's address; invalid for NAK and for the ACK of an INFORM, 0.0.0.0 for an OFFER of none
	Server   netip.Addr // our server identifier
	Lease    uint32     // seconds; with 0 there are no options 51, 58, 59 (RFC 2131 section 4.3.5)
	Renew    uint32     // T1, seconds
	Rebind   uint32     // T2, seconds
	Hostname []byte     // option 12 for a client that asks for it, instead of the template's; at most 255 bytes
	Message  string     // option 56 of a NAK; at most 255 bytes
}

// The sizes of a reply. RFC 2132 section 9.10: 576 is the smallest IP datagram that a
// client may name and the one it must take unasked (RFC 2131 section 2); 28 of it are the
// IPv4 and UDP headers. RFC 1542 section 2.1: a BOOTP message has at least 300 bytes, and
// relays and clients that drop shorter ones exist. 1472 fills an Ethernet frame.
const (
	dhcpLeastDatagram = 576
	dhcpHeaders       = 28
	dhcpLeastMessage  = 300
	dhcpMostOption    = 1024
	// DHCPMaxMessage is the longest message that AppendDHCPReply makes.
	DHCPMaxMessage = 1472
)

// AppendDHCPReply appends the reply to m and returns the longer slice; with room for
// DHCPMaxMessage bytes in b it allocates nothing. A NAK carries no configuration (RFC 2131
// section 4.3.2, table 3). The template's options come in the order of the client's list,
// but the mask before the router (RFC 2132 section 3.3); without a list, all of them. What
// does not fit into the size that the client takes is left out, the last first. The client
// identifier is repeated (RFC 6842).
//
// Option 108 goes to clients alone that list it, and with an address alone (RFC 8925 section
// 3.3): not to those without a list, and not with the ACK of an INFORM.
func AppendDHCPReply(b []byte, m *DHCP, t *DHCPTemplate, r *DHCPReply) []byte {
	start := len(b)
	limit := start + min(max(int(m.MaxSize), dhcpLeastDatagram)-dhcpHeaders, DHCPMaxMessage)
	b = appendDHCPHead(b, m, r)
	b = append(b, DHCPOptType, 1, byte(r.Type), DHCPOptServerID, 4)
	b = appendAddr(b, r.Server)
	if r.Lease != 0 {
		b = binary.BigEndian.AppendUint32(append(b, DHCPOptLeaseTime, 4), r.Lease)
		b = binary.BigEndian.AppendUint32(append(b, DHCPOptRenewalTime, 4), r.Renew)
		b = binary.BigEndian.AppendUint32(append(b, DHCPOptRebindingTime, 4), r.Rebind)
	}
	limit-- // the end option
	// RFC 3046 section 2.2: what the relay wrote goes back to it, as it was and as the last
	// option; one that does not fit is not sent in part.
	relay := m.RelayAgent
	if n := len(relay); n == 0 || n > 255 || !m.GIAddr.Is4() || m.GIAddr.IsUnspecified() || len(b)+2+n > limit {
		relay = nil
	} else {
		limit -= 2 + n
	}
	if n := len(m.ClientID); n > 0 && n <= 255 && len(b)+2+n <= limit {
		b = append(append(b, DHCPOptClientID, byte(n)), m.ClientID...)
	}
	if r.Type == DHCPNak {
		if n := len(r.Message); n > 0 && n <= 255 && len(b)+2+n <= limit {
			b = append(append(b, DHCPOptMessage, byte(n)), r.Message...)
		}
	} else {
		b = t.appendAsked(b, limit, m.Parameters, r)
	}
	if relay != nil {
		b = append(append(b, DHCPOptRelayAgent, byte(len(relay))), relay...)
	}
	b = append(b, DHCPOptEnd)
	for len(b) < start+dhcpLeastMessage {
		b = append(b, DHCPOptPad)
	}
	return b
}

// AppendDHCPDiscover appends a DISCOVER of the client to b: to be answered by broadcast, with
// its identifier (2 to 255 bytes) and a list of what a device commonly wants.
func AppendDHCPDiscover(b []byte, xid uint32, mac [6]byte, clientID string) []byte {
	start := len(b)
	var head [dhcpFixed + 4]byte
	head[0], head[1], head[2] = dhcpBootRequest, dhcpEthernet, 6
	binary.BigEndian.PutUint32(head[4:], xid)
	binary.BigEndian.PutUint16(head[10:], dhcpBroadcast)
	copy(head[28:], mac[:])
	binary.BigEndian.PutUint32(head[dhcpFixed:], dhcpMagic)
	b = append(b, head[:]...)
	b = append(b, DHCPOptType, 1, byte(DHCPDiscover), DHCPOptClientID, byte(len(clientID)))
	b = append(b, clientID...)
	b = append(b, DHCPOptParameters, 3, DHCPOptSubnetMask, DHCPOptRouter, DHCPOptDNS, DHCPOptEnd)
	for len(b) < start+dhcpLeastMessage {
		b = append(b, DHCPOptPad)
	}
	return b
}

func appendDHCPHead(b []byte, m *DHCP, r *DHCPReply) []byte {
	var head [dhcpFixed + 4]byte
	head[0], head[1], head[2] = dhcpBootReply, dhcpEthernet, 6
	binary.BigEndian.PutUint32(head[4:], m.XID)
	if m.Broadcast || r.Type == DHCPNak && m.GIAddr.Is4() && !m.GIAddr.IsUnspecified() {
		binary.BigEndian.PutUint16(head[10:], dhcpBroadcast)
	}
	if r.Type == DHCPAck && m.CIAddr.Is4() { // RFC 2131 table 3: only an ACK repeats ciaddr
		a := m.CIAddr.As4()
		copy(head[12:], a[:])
	}
	if r.YIAddr.Is4() {
		a := r.YIAddr.As4()
		copy(head[16:], a[:])
	}
	if m.GIAddr.Is4() {
		a := m.GIAddr.As4()
		copy(head[24:], a[:])
	}
	copy(head[28:], m.CHAddr[:])
	binary.BigEndian.PutUint32(head[dhcpFixed:], dhcpMagic)
	return append(b, head[:]...)
}

// appendAsked appends the template's options that the client asks for, each once.
func (t *DHCPTemplate) appendAsked(b []byte, limit int, asked []byte, r *DHCPReply) []byte {
	if len(asked) == 0 {
		for _, o := range t.opts {
			if o[0] != DHCPOptIPv6Only {
				b = appendFitting(b, limit, o)
			}
		}
		return b
	}
	hostname := r.Hostname
	var done uint64 // bit n: option at place n is in
	put := func(code byte) {
		if at := t.place[code]; at != 0 && done&(1<<at) == 0 {
			done |= 1 << at
			b = appendFitting(b, limit, t.opts[at-1])
		}
	}
	named := false
	for _, code := range asked {
		switch {
		case code == DHCPOptRouter:
			put(DHCPOptSubnetMask)
			put(DHCPOptRouter)
		case code == DHCPOptIPv6Only && !r.YIAddr.IsValid():
		case code == DHCPOptHostname && len(hostname) > 0:
			if n := len(hostname); !named && n <= 255 && len(b)+2+n <= limit {
				b = append(append(b, DHCPOptHostname, byte(n)), hostname...)
				named = true
			}
		default:
			put(code)
		}
	}
	return b
}

func appendFitting(b []byte, limit int, opt []byte) []byte {
	if len(b)+len(opt) > limit {
		return b
	}
	return append(b, opt...)
}

func appendAddr(b []byte, a netip.Addr) []byte {
	var v [4]byte
	if a.Is4() {
		v = a.As4()
	}
	return append(b, v[:]...)
}
