package plan

import (
	"net/netip"
	"slices"
	"strings"
)

// Transport is how a resolver is asked.
type Transport string

// The transports: UDP goes to TCP by itself when an answer is truncated.
const (
	UDP Transport = "udp"
	TCP Transport = "tcp" // RFC 7766
	TLS Transport = "tls" // RFC 7858, the certificate checked (RFC 8310, strict)
)

// Asked is a resolver outside that ours asks.
type Asked struct {
	Addr netip.AddrPort
	By   Transport
	Name string // with TLS: what its certificate must be for
}

// String is the resolver as the plan gives it, and as metrics call it.
func (a Asked) String() string {
	switch {
	case a.By == TLS && a.Addr.Port() == 853:
		return "tls://" + bracketed(a.Addr.Addr()) + "#" + a.Name
	case a.By == TLS:
		return "tls://" + a.Addr.String() + "#" + a.Name
	case a.By == TCP:
		return "tcp://" + a.Addr.String()
	}
	return a.Addr.String()
}

// MarshalText is String: so the resolver stands in what is printed of the plan.
func (a Asked) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

func bracketed(a netip.Addr) string {
	if a.Is6() {
		return "[" + a.String() + "]"
	}
	return a.String()
}

const (
	// mostAsked is more than anybody needs, and few enough to probe.
	mostAsked = 16
	// mostHealth names asked in turn.
	mostHealth     = 8
	allowedAsked   = "unbound, or addresses of resolvers: 9.9.9.9, 9.9.9.9:5353, tcp://9.9.9.9, tls://9.9.9.9#dns.quad9.net"
	unboundAtFirst = "unbound: this node's own, then the addresses given beside it when that is not well"
)

// recursion reads who is asked: unbound, addresses, or both.
func (r *reader) recursion(d *rawResolver) func(*value) {
	return r.list(func(v *value) {
		if !r.want(v, scalar, allowedAsked) {
			return
		}
		if v.text == "unbound" {
			if d.unbound {
				r.at(v, "unbound stands twice", unboundAtFirst, "")
			}
			d.unbound = true
			return
		}
		a, hint := askedOf(v.text)
		switch {
		case !a.Addr.IsValid():
			r.at(v, "not a resolver to ask", allowedAsked, hint)
		case slices.Contains(d.ask, a):
			r.at(v, "the resolver stands twice", "each resolver once", "")
		case len(d.ask) == mostAsked:
			r.at(v, "too many resolvers to ask", "up to 16", "three of different operators are plenty")
		default:
			d.ask = append(d.ask, a)
		}
	})
}

// askedOf reads one resolver; when it is none, its address is invalid and hint says what may
// have been meant.
func askedOf(s string) (a Asked, hint string) {
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		scheme, rest = "udp", s
	}
	rest, name, _ := strings.Cut(rest, "#")
	a = Asked{By: Transport(scheme), Name: strings.TrimSuffix(strings.ToLower(name), ".")}
	port := uint16(53)
	if a.By == TLS {
		port = 853 // RFC 7858 section 3.1
	}
	switch {
	case s == "native":
		return Asked{}, "this version has no recursion of its own; say unbound, or give addresses"
	case !slices.Contains([]Transport{UDP, TCP, TLS}, a.By):
		return Asked{}, "resolvers are asked by UDP (an address alone), tcp:// or tls://"
	case strings.Contains(rest, "@"), strings.Contains(name, "@"):
		return Asked{}, "the name follows the address: tls://9.9.9.9#dns.quad9.net"
	case a.By != TLS && name != "":
		return Asked{}, "a name is for tls:// alone, whose certificate is checked against it: tls://" + rest + "#" + name
	case a.By == TLS && !isDomain(a.Name):
		return Asked{}, "tls:// needs the name that the certificate is for behind the address: tls://9.9.9.9#dns.quad9.net"
	}
	if strings.HasPrefix(rest, "[") && strings.HasSuffix(rest, "]") {
		rest = rest[1 : len(rest)-1]
	}
	at, err := netip.ParseAddrPort(rest)
	if addr, e := netip.ParseAddr(rest); e == nil {
		at, err = netip.AddrPortFrom(addr, port), nil
	}
	if err != nil || at.Addr().Zone() != "" || at.Addr().IsUnspecified() || at.Port() == 0 {
		return Asked{}, "an address is needed: who could resolve the name of a resolver?"
	}
	a.Addr = at
	return a, ""
}

// health reads the names by which resolvers are told well.
func (r *reader) health(dst *[]string) func(*value) {
	const allowed = "a name that a well resolver resolves, such as probe.yapc.example; * in front is a label by chance: *.probe.yapc.example"
	return r.list(func(v *value) {
		if !r.want(v, scalar, allowed) {
			return
		}
		name := strings.TrimSuffix(strings.ToLower(v.text), ".")
		switch {
		case !isDomain(strings.TrimPrefix(name, "*.")):
			r.at(v, "not a name to ask for", allowed, "")
		case slices.Contains(*dst, name):
			r.at(v, "the name stands twice", "each name once", "")
		case len(*dst) == mostHealth:
			r.at(v, "too many names", "up to 8", "")
		default:
			*dst = append(*dst, name)
		}
	})
}

// resolver derives who is asked.
func (d *deriver) resolver() Resolver {
	raw := &d.raw.resolver
	s := Resolver{Ask: raw.ask, Unbound: raw.unbound, Health: raw.health, Cache: raw.cache, ClientRate: raw.clientRate, Log: raw.log, XDP: raw.xdp == "auto"}
	if len(s.Ask) == 0 && !s.Unbound {
		// Quad9, Cloudflare and Google: three operators, so that no one of them is the event's only one.
		for _, a := range []string{"9.9.9.9", "1.1.1.1", "8.8.8.8"} {
			s.Ask = append(s.Ask, Asked{Addr: netip.AddrPortFrom(netip.MustParseAddr(a), 53), By: UDP})
		}
	}
	return s
}

// asks tells whether the address is one of those asked.
func (s *Resolver) asks(a netip.Addr) bool {
	return slices.ContainsFunc(s.Ask, func(x Asked) bool { return x.Addr.Addr() == a })
}
