package dhcp

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"time"

	"github.com/hotstage/hotstage/internal/plan"
	"github.com/hotstage/hotstage/internal/wire"
)

// options are what the segment's clients may have, in the order of their importance for
// those that do not say what they want. doc/dhcp-options.md lists them.
func options(s *plan.Segment) []wire.DHCPOption {
	bits := ^uint32(0) << (32 - s.IPv4.Bits())
	opts := []wire.DHCPOption{{Code: wire.DHCPOptSubnetMask, Data: binary.BigEndian.AppendUint32(nil, bits)}}
	add := func(code byte, data []byte) {
		if len(data) > 0 {
			opts = append(opts, wire.DHCPOption{Code: code, Data: data})
		}
	}
	if s.Gateway4.Is4() {
		add(wire.DHCPOptRouter, addresses(s.Gateway4))
	}
	add(wire.DHCPOptDNS, addresses(s.DNS4...))
	if s.MTU > 0 {
		add(wire.DHCPOptMTU, binary.BigEndian.AppendUint16(nil, uint16(s.MTU)))
	}
	add(wire.DHCPOptRoutes, routes(s))
	add(wire.DHCPOptDomain, []byte(s.Domain))
	add(wire.DHCPOptNTP, addresses(s.NTP4...))
	add(wire.DHCPOptBroadcast, addresses(plan.LastAddr(s.IPv4)))
	add(wire.DHCPOptDomainSearch, searchList(s.Search...))
	add(wire.DHCPOptCaptivePortal, []byte(s.CaptivePortal))
	add(wire.DHCPOptEncryptedDNS, resolvers(s.EncryptedDNS))
	if s.IPv6Only > 0 {
		add(wire.DHCPOptIPv6Only, binary.BigEndian.AppendUint32(nil, uint32(s.IPv6Only/time.Second)))
	}
	return opts
}

func addresses(as ...netip.Addr) []byte {
	var b []byte
	for _, a := range as {
		v := a.As4()
		b = append(b, v[:]...)
	}
	return b
}

// searchList encodes domains as RFC 3397 section 2 wants them: DNS labels, here without the
// compression that it allows, because clients exist that do not read it. A domain that is
// none is left out.
func searchList(domains ...string) []byte {
	var b []byte
	for _, d := range domains {
		b = append(b, labels(d)...)
	}
	return b
}

// labels is a domain name on the wire, RFC 1035 section 3.1; nil when it is none.
func labels(domain string) []byte {
	var b []byte
	for l := range strings.SplitSeq(strings.TrimSuffix(domain, "."), ".") {
		if l == "" || len(l) > 63 {
			return nil
		}
		b = append(append(b, byte(len(l))), l...)
	}
	if len(b) > 254 {
		return nil
	}
	return append(b, 0)
}

// routes encodes the segment's routes, RFC 3442: the length, the network's bytes that count,
// the router. A client that gets them ignores option 3, so that the default route stands
// among them; nil when there is no other.
func routes(s *plan.Segment) []byte {
	if len(s.Routes) == 0 {
		return nil
	}
	var b []byte
	for _, r := range s.Routes {
		to := r.To.Addr().As4()
		b = append(append(b, byte(r.To.Bits())), to[:(r.To.Bits()+7)/8]...)
		b = append(b, addresses(r.Via)...)
	}
	if s.Gateway4.Is4() {
		b = append(append(b, 0), addresses(s.Gateway4)...)
	}
	return b
}

// Keys of service parameters: RFC 9460 section 14.3.2 and RFC 9461 section 8.
const (
	svcALPN = 1
	svcPort = 3
	svcPath = 7 // dohpath
)

// resolvers encodes encrypted resolvers, RFC 9463 section 5.1: for each the length of what
// follows, its priority (1 is the best), its name, its addresses and its service parameters
// in the order of their keys (RFC 9460 section 2.2).
func resolvers(all []plan.EncryptedDNS) []byte {
	var b []byte
	for i, e := range all {
		name := labels(e.Name)
		one := binary.BigEndian.AppendUint16(nil, uint16(i+1))
		one = append(append(one, byte(len(name))), name...)
		one = append(append(one, byte(4*len(e.Addresses))), addresses(e.Addresses...)...)
		var alpn []byte
		for _, p := range e.ALPN {
			alpn = append(append(alpn, byte(len(p))), p...)
		}
		one = appendParameter(one, svcALPN, alpn)
		if e.Port > 0 {
			one = appendParameter(one, svcPort, binary.BigEndian.AppendUint16(nil, uint16(e.Port)))
		}
		if e.Path != "" {
			one = appendParameter(one, svcPath, []byte(e.Path))
		}
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(one))), one...)
	}
	return b
}

func appendParameter(b []byte, key uint16, val []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, key)
	return append(binary.BigEndian.AppendUint16(b, uint16(len(val))), val...)
}
