package wire

import (
	"encoding/binary"
	"net/netip"
)

// DNSTypeSVCB is a service binding (RFC 9460 section 2).
const DNSTypeSVCB uint16 = 64

// Keys of a service binding's parameters (RFC 9460 section 14.3.2, RFC 9461 section 5).
const (
	svcALPN    = 1
	svcPort    = 3
	svcIPv4    = 4
	svcIPv6    = 6
	svcDoHPath = 7
)

// DNSService is one way to a service, as a service binding tells it.
type DNSService struct {
	Priority uint16
	Target   []byte // on the wire, in lower case
	ALPN     []string
	Port     uint16 // 0: the protocol's own
	Hints    []netip.Addr
	DoHPath  string // URI template, "" when not asked by HTTPS
}

// Service adds an SVCB record of the question's name to the answer section; ttl is in seconds.
func (a *DNSAnswer) Service(s DNSService, ttl uint32) {
	data := binary.BigEndian.AppendUint16(nil, s.Priority)
	data = append(data, s.Target...)
	param := func(key uint16, value []byte) {
		if len(value) > 0 { // in the order of their keys, RFC 9460 section 2.2
			data = binary.BigEndian.AppendUint16(data, key)
			data = binary.BigEndian.AppendUint16(data, uint16(len(value)))
			data = append(data, value...)
		}
	}
	var alpn, four, six, port []byte
	for _, p := range s.ALPN {
		alpn = append(append(alpn, byte(len(p))), p...)
	}
	for _, h := range s.Hints {
		if h.Is4() {
			four = append(four, h.AsSlice()...)
		} else {
			six = append(six, h.AsSlice()...)
		}
	}
	if s.Port != 0 {
		port = binary.BigEndian.AppendUint16(nil, s.Port)
	}
	param(svcALPN, alpn)
	param(svcPort, port)
	param(svcIPv4, four)
	param(svcIPv6, six)
	param(svcDoHPath, []byte(s.DoHPath))
	a.header(1, nil, DNSTypeSVCB, ttl, len(data))
	a.b = append(a.b, data...)
}
