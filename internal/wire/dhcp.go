package wire

import (
	"encoding/binary"
	"errors"
	"net/netip"
)

// DHCPType is a DHCP message type, RFC 2132 section 9.6.
type DHCPType uint8

// The message types of RFC 2132 section 9.6.
const (
	DHCPDiscover DHCPType = 1
	DHCPOffer    DHCPType = 2
	DHCPRequest  DHCPType = 3
	DHCPDecline  DHCPType = 4
	DHCPAck      DHCPType = 5
	DHCPNak      DHCPType = 6
	DHCPRelease  DHCPType = 7
	DHCPInform   DHCPType = 8
)

// The options that the codec or the server knows by number.
const (
	DHCPOptPad                  = 0   // RFC 2132 section 3.1
	DHCPOptSubnetMask           = 1   // RFC 2132 section 3.3
	DHCPOptRouter               = 3   // RFC 2132 section 3.5
	DHCPOptDNS                  = 6   // RFC 2132 section 3.8
	DHCPOptHostname             = 12  // RFC 2132 section 3.14
	DHCPOptDomain               = 15  // RFC 2132 section 3.17
	DHCPOptMTU                  = 26  // RFC 2132 section 5.1
	DHCPOptBroadcast            = 28  // RFC 2132 section 5.3
	DHCPOptNTP                  = 42  // RFC 2132 section 8.3
	DHCPOptRequestedAddr        = 50  // RFC 2132 section 9.1
	DHCPOptLeaseTime            = 51  // RFC 2132 section 9.2
	DHCPOptOverload             = 52  // RFC 2132 section 9.3
	DHCPOptType                 = 53  // RFC 2132 section 9.6
	DHCPOptServerID             = 54  // RFC 2132 section 9.7
	DHCPOptParameters           = 55  // RFC 2132 section 9.8
	DHCPOptMessage              = 56  // RFC 2132 section 9.9
	DHCPOptMaxSize              = 57  // RFC 2132 section 9.10
	DHCPOptRenewalTime          = 58  // RFC 2132 section 9.11
	DHCPOptRebindingTime        = 59  // RFC 2132 section 9.12
	DHCPOptClientID             = 61  // RFC 2132 section 9.14
	DHCPOptRelayAgent           = 82  // RFC 3046 section 2.0
	DHCPOptIPv6Only             = 108 // RFC 8925 section 3.1
	DHCPOptCaptivePortal        = 114 // RFC 8910 section 2.1
	DHCPOptDomainSearch         = 119 // RFC 3397
	DHCPOptRoutes               = 121 // RFC 3442
	DHCPOptEncryptedDNS         = 162 // RFC 9463 section 5.1
	DHCPOptEnd                  = 255 // RFC 2132 section 3.2
	dhcpFixed                   = 236 // bytes before the options, RFC 2131 section 2
	dhcpMagic            uint32 = 0x63825363
	dhcpBroadcast               = 0x8000 // RFC 2131 section 2, figure 2
	dhcpBootRequest             = 1
	dhcpBootReply               = 2
	dhcpEthernet                = 1
)

// What ParseDHCP finds wrong. The errors are values, so that a flood of bad packets
// allocates nothing.
var (
	ErrDHCPShort     = errors.New("DHCP message shorter than its fixed part and magic cookie (240 bytes)")
	ErrDHCPOp        = errors.New("DHCP message of the other direction: no BOOTREQUEST, or no BOOTREPLY where a server's was expected")
	ErrDHCPHardware  = errors.New("DHCP message of a client that is not on Ethernet (htype 1, hlen 6)")
	ErrDHCPMagic     = errors.New("DHCP message without the magic cookie 99.130.83.99")
	ErrDHCPTruncated = errors.New("DHCP option runs past the end of its field")
	ErrDHCPLength    = errors.New("DHCP option of a length that its definition does not allow")
	ErrDHCPPieces    = errors.New("DHCP options in more pieces than a message of 1500 bytes needs")
	ErrDHCPNoType    = errors.New("DHCP message without a message type (option 53)")
)

// DHCP is a DHCPv4 message, a client's or what we need of a server's. Byte slices point into the parsed packet, or into the
// message itself where an option came in pieces (RFC 3396): they are valid until the
// packet's buffer or the message is used again. An absent option is an invalid address, a
// nil slice or 0.
type DHCP struct {
	Type      DHCPType
	Hops      uint8
	XID       uint32
	Secs      uint16
	Broadcast bool // the client cannot receive unicast before it has an address
	CIAddr    netip.Addr
	YIAddr    netip.Addr // a server's: the client's address
	GIAddr    netip.Addr
	CHAddr    [6]byte

	Requested  netip.Addr // option 50
	ServerID   netip.Addr // option 54
	Parameters []byte     // option 55: option codes in the order that the client likes
	MaxSize    uint16     // option 57: the IP datagram that the client can take, 0 when it did not say
	ClientID   []byte     // option 61
	Hostname   []byte     // option 12, as it came
	RelayAgent []byte     // option 82, as the relay wrote it

	opts    [9][]byte
	used    int // bytes of scratch
	scratch [1500]byte
}

// dhcpKnown gives the place in DHCP.opts of an option that we read; the others are skipped.
const (
	atType = iota
	atRequested
	atServerID
	atParameters
	atMaxSize
	atClientID
	atHostname
	atOverload
	atRelayAgent
)

func dhcpPlace(code byte) int {
	switch code {
	case DHCPOptType:
		return atType
	case DHCPOptRequestedAddr:
		return atRequested
	case DHCPOptServerID:
		return atServerID
	case DHCPOptParameters:
		return atParameters
	case DHCPOptMaxSize:
		return atMaxSize
	case DHCPOptClientID:
		return atClientID
	case DHCPOptHostname:
		return atHostname
	case DHCPOptOverload:
		return atOverload
	case DHCPOptRelayAgent:
		return atRelayAgent
	}
	return -1
}

// Parse reads a client's message from b, the payload of a UDP datagram. It allocates
// nothing and keeps b. After an error the message's fields mean nothing. A missing end
// option is forgiven: clients that leave it out exist, and nothing else could follow.
func (m *DHCP) Parse(b []byte) error { return m.parse(b, dhcpBootRequest) }

// ParseReply is Parse for a server's message.
func (m *DHCP) ParseReply(b []byte) error { return m.parse(b, dhcpBootReply) }

func (m *DHCP) parse(b []byte, op byte) error {
	if len(b) < dhcpFixed+4 {
		return ErrDHCPShort
	}
	if b[0] != op {
		return ErrDHCPOp
	}
	if b[1] != dhcpEthernet || b[2] != 6 {
		return ErrDHCPHardware
	}
	if binary.BigEndian.Uint32(b[dhcpFixed:]) != dhcpMagic {
		return ErrDHCPMagic
	}
	m.Hops = b[3]
	m.XID = binary.BigEndian.Uint32(b[4:])
	m.Secs = binary.BigEndian.Uint16(b[8:])
	m.Broadcast = binary.BigEndian.Uint16(b[10:])&dhcpBroadcast != 0
	m.CIAddr = netip.AddrFrom4([4]byte(b[12:16]))
	m.YIAddr = netip.AddrFrom4([4]byte(b[16:20]))
	m.GIAddr = netip.AddrFrom4([4]byte(b[24:28]))
	m.CHAddr = [6]byte(b[28:34])
	m.opts, m.used = [9][]byte{}, 0
	if err := m.collect(b[dhcpFixed+4:]); err != nil {
		return err
	}
	// RFC 2131 section 4.1: the options field first, then file, then sname.
	if o := m.opts[atOverload]; o != nil {
		if len(o) != 1 || o[0] < 1 || o[0] > 3 {
			return ErrDHCPLength
		}
		where := o[0]
		if where&1 != 0 {
			if err := m.collect(b[108:236]); err != nil {
				return err
			}
		}
		if where&2 != 0 {
			if err := m.collect(b[44:108]); err != nil {
				return err
			}
		}
	}
	return m.decode()
}

// collect walks one field of options and joins the pieces of an option that comes more
// than once, RFC 3396 section 7.
func (m *DHCP) collect(b []byte) error {
	for i := 0; i < len(b); {
		code := b[i]
		i++
		if code == DHCPOptPad {
			continue
		}
		if code == DHCPOptEnd {
			return nil
		}
		if i >= len(b) || i+1+int(b[i]) > len(b) {
			return ErrDHCPTruncated
		}
		data := b[i+1 : i+1+int(b[i])]
		i += 1 + len(data)
		at := dhcpPlace(code)
		if at < 0 {
			continue
		}
		if m.opts[at] == nil {
			m.opts[at] = data[:len(data):len(data)]
			continue
		}
		joined := len(m.opts[at]) + len(data)
		if m.used+joined > len(m.scratch) {
			return ErrDHCPPieces
		}
		room := m.scratch[m.used : m.used+joined : m.used+joined]
		copy(room[copy(room, m.opts[at]):], data)
		m.opts[at] = room
		m.used += joined
	}
	return nil
}

func (m *DHCP) decode() error {
	t := m.opts[atType]
	if t == nil {
		return ErrDHCPNoType
	}
	if len(t) != 1 {
		return ErrDHCPLength
	}
	m.Type = DHCPType(t[0])
	m.Requested, m.ServerID, m.MaxSize = netip.Addr{}, netip.Addr{}, 0
	if o := m.opts[atRequested]; o != nil {
		if len(o) != 4 {
			return ErrDHCPLength
		}
		m.Requested = netip.AddrFrom4([4]byte(o))
	}
	if o := m.opts[atServerID]; o != nil {
		if len(o) != 4 {
			return ErrDHCPLength
		}
		m.ServerID = netip.AddrFrom4([4]byte(o))
	}
	if o := m.opts[atMaxSize]; o != nil {
		if len(o) != 2 {
			return ErrDHCPLength
		}
		m.MaxSize = binary.BigEndian.Uint16(o)
	}
	m.Parameters = m.opts[atParameters]
	m.ClientID = m.opts[atClientID]
	m.Hostname = m.opts[atHostname]
	m.RelayAgent = m.opts[atRelayAgent]
	return nil
}
