package plan

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
)

// rawOptions is what the plan says of the options that DHCP gives beside the usual.
type rawOptions struct {
	ipv6Only   time.Duration
	nat64      netip.Prefix
	portal     string
	search     []string
	searchAt   []*value
	routes     []rawRoute
	mtu        int
	encrypted  []EncryptedDNS
	encryptAt  []*value
	ipv6OnlyAt *value
}

type rawRoute struct {
	at *value
	Route
}

// override is o with everything that one says; a list replaces a list.
func (o rawOptions) override(one rawOptions) rawOptions {
	if one.ipv6Only != 0 {
		o.ipv6Only, o.ipv6OnlyAt = one.ipv6Only, one.ipv6OnlyAt
	}
	set(&o.nat64, one.nat64)
	set(&o.portal, one.portal)
	set(&o.mtu, one.mtu)
	if one.search != nil {
		o.search, o.searchAt = one.search, one.searchAt
	}
	if one.routes != nil {
		o.routes = one.routes
	}
	if one.encrypted != nil {
		o.encrypted, o.encryptAt = one.encrypted, one.encryptAt
	}
	return o
}

const (
	// leastIPv6Only is MIN_V6ONLY_WAIT, RFC 8925 section 3.4: a client takes less for this.
	leastIPv6Only = 300 * time.Second
	// segmentMTU is what the links of our nodes have; a device with more is not understood.
	segmentMTU = 1500
	// mostSearch and mostRoutes keep the options within what a message of 576 bytes holds
	// (RFC 2131 section 2), which is all that a client without option 57 takes.
	mostSearch, mostRoutes = 6, 16
	// mostPortal is what the option of router advertisements holds, RFC 8910 section 2.3,
	// with room for the library that writes it.
	mostPortal = 240
	// mostResolvers of one kind: devices ask no more.
	mostResolvers = 3
)

func (r *reader) optionKeys(o *rawOptions) map[string]func(*value) {
	return map[string]func(*value){
		"ipv6_only":      func(v *value) { o.ipv6OnlyAt = v; r.duration(&o.ipv6Only, leastIPv6Only, 7*24*time.Hour)(v) },
		"nat64":          func(v *value) { r.nat64(v, &o.nat64) },
		"captive_portal": func(v *value) { r.portal(v, &o.portal) },
		"search": r.list(func(v *value) {
			if r.want(v, scalar, "a domain name") {
				o.search, o.searchAt = append(o.search, strings.TrimSuffix(strings.ToLower(v.text), ".")), append(o.searchAt, v)
			}
		}),
		"routes": func(v *value) { r.routes(v, o) },
		"mtu":    r.integer(&o.mtu, 1280, segmentMTU), // 1280: RFC 8200 section 5
		"encrypted_dns": r.list(func(v *value) {
			o.encrypted, o.encryptAt = append(o.encrypted, r.encryptedDNS(v)), append(o.encryptAt, v)
		}),
	}
}

// nat64 reads a prefix that IPv4 addresses are embedded in: RFC 6052 section 2.2 knows six
// lengths.
func (r *reader) nat64(v *value, dst *netip.Prefix) {
	const allowed = "an IPv6 prefix of /32, /40, /48, /56, /64 or /96, such as 64:ff9b::/96"
	if !r.want(v, scalar, allowed) {
		return
	}
	p, err := netip.ParsePrefix(v.text)
	if err != nil || !p.Addr().Is6() || p != p.Masked() || !slices.Contains([]int{32, 40, 48, 56, 64, 96}, p.Bits()) {
		r.at(v, "not the prefix of a NAT64", allowed, "")
		return
	}
	*dst = p
}

// portal reads the address of a captive portal's API. That is asked by HTTPS only (RFC 8908
// section 4), and a certificate is for a name: RFC 8910 section 2 advises against literals.
func (r *reader) portal(v *value, dst *string) {
	allowed := fmt.Sprintf("https://NAME/PATH of the portal's API, up to %d bytes, or none: there is no portal, and devices need not look for one", mostPortal)
	if !r.want(v, scalar, allowed) {
		return
	}
	if v.text == "none" || v.text == NoPortal {
		*dst = NoPortal
		return
	}
	u, err := url.Parse(v.text)
	switch {
	case err != nil || u.Scheme != "https" || u.Hostname() == "" || len(v.text) > mostPortal || strings.ContainsFunc(v.text, func(c rune) bool { return c <= ' ' || c > '~' }):
		hint := ""
		if err == nil && u.Scheme == "http" {
			hint = "devices ask the API by HTTPS alone (RFC 8908); a page by HTTP is no API"
		}
		r.at(v, "not the address of a captive portal's API", allowed, hint)
		return
	case isAddress(u.Hostname()):
		r.warn(v, "the captive portal is given by an address: devices check its certificate against a name (RFC 8910)", "a name, which resolver: {local: …} can have")
	}
	*dst = v.text
}

func isAddress(s string) bool {
	_, err := netip.ParseAddr(s)
	return err == nil
}

// routes reads a mapping from network to next hop.
func (r *reader) routes(v *value, o *rawOptions) {
	if v.kind == nothing || !r.want(v, mapping, "a mapping from network to router, such as {10.20.0.0/16: 10.1.0.5}") {
		return
	}
	o.routes = []rawRoute{}
	seen := map[netip.Prefix]bool{}
	for _, e := range v.entries {
		p, err := netip.ParsePrefix(e.key)
		route := rawRoute{at: e.val, Route: Route{To: p}}
		bad := func(words, allowed, hint string) {
			r.tell(Fault{Line: e.line, Column: e.col, Path: v.path, Words: words, Given: e.key, Allowed: allowed, Hint: hint})
		}
		switch {
		case err != nil || !p.Addr().Is4() || p != p.Masked() || p.Addr().IsMulticast() || p.Addr().IsLoopback():
			bad("not a network to route to", "an IPv4 prefix without host bits, such as 10.20.0.0/16", "")
			continue
		case p.Bits() == 0:
			bad("the default route is not given here", "networks beside it", "gateway: is the default route, and stands in the option too")
			continue
		case seen[p]:
			bad("the network stands twice", "each network once", "")
			continue
		case len(seen) == mostRoutes:
			bad(fmt.Sprintf("more than %d routes", mostRoutes), fmt.Sprintf("up to %d: more do not fit every device's message", mostRoutes), "one route that covers several of them, or routes on the gateway")
			return
		}
		seen[p] = true
		if r.address(&route.Via, "IPv4")(e.val); route.Via.IsValid() {
			o.routes = append(o.routes, route)
		}
	}
}

// encryptedDNS reads one resolver.
func (r *reader) encryptedDNS(v *value) EncryptedDNS {
	var e EncryptedDNS
	r.fields(v, map[string]func(*value){
		"name": r.str(&e.Name),
		"addresses": r.list(func(v *value) {
			var a netip.Addr
			if r.address(&a, "IPv4")(v); a.IsValid() {
				e.Addresses = append(e.Addresses, a)
			}
		}),
		"alpn": r.list(func(v *value) {
			var s string
			r.oneOf(&s, "dot", "doq", "h2", "h3")(v)
			if s != "" && !slices.Contains(e.ALPN, s) {
				e.ALPN = append(e.ALPN, s)
			}
		}),
		"port": r.integer(&e.Port, 1, 65535),
		"path": r.str(&e.Path),
	})
	return e
}

// options holds what DHCP shall give beside the usual against the segment.
func (d *deriver) options(s *draft) {
	o := s.raw.options
	s.IPv6Only, s.NAT64, s.CaptivePortal, s.MTU = o.ipv6Only, o.nat64, o.portal, o.mtu
	switch {
	case o.ipv6Only == 0:
	case !s.IPv6.IsValid():
		d.warn(o.ipv6OnlyAt, fmt.Sprintf("segment %s asks devices to do without IPv4 and has no IPv6: they would be without any network", s.Name), "ipv6 for the uplink or the segment, or no ipv6_only")
	case !o.nat64.IsValid():
		d.warn(o.ipv6OnlyAt, fmt.Sprintf("segment %s asks devices to do without IPv4 and names no NAT64: they would reach no IPv4 host", s.Name), "nat64: PREFIX of the NAT64 that its devices reach; this version has none of its own")
	}
	d.search(s)
	for _, route := range o.routes {
		switch {
		case !s.host(route.Via):
			d.at(route.at, fmt.Sprintf("segment %s: the router %s is not a host of %s", s.Name, route.Via, s.IPv4), "a host address of the segment: devices have no other way to it", "")
		case s.Pool.Contains(route.Via) && !slices.ContainsFunc(s.Reservations, func(r Reservation) bool { return r.Addr == route.Via }):
			d.at(route.at, fmt.Sprintf("segment %s: the router %s lies in the pool: a device may get it", s.Name, route.Via), "an address outside the pool, or a reservation", "")
		case s.IPv4.Overlaps(route.To) && route.To.Bits() >= s.IPv4.Bits():
			d.at(route.at, fmt.Sprintf("segment %s: %s is a part of the segment itself", s.Name, route.To), "another network", "")
		default:
			s.Routes = append(s.Routes, route.Route)
		}
	}
	for i := range o.encrypted {
		d.encrypted(s, o.encrypted[i], o.encryptAt[i])
	}
}

// search is the segment's search list: its domain unless given.
func (d *deriver) search(s *draft) {
	o := s.raw.options
	for i, name := range o.search {
		switch {
		case !isDomain(name):
			d.at(o.searchAt[i], "not a domain name", "labels of a-z, 0-9 and - with dots between", "")
		case slices.Contains(o.search[:i], name):
			d.at(o.searchAt[i], "the domain stands twice", "each domain once", "")
		case len(s.Search) == mostSearch:
			d.at(o.searchAt[i], fmt.Sprintf("segment %s searches more than %d domains", s.Name, mostSearch), fmt.Sprintf("up to %d", mostSearch), "each one is a question more for every short name")
			return
		default:
			s.Search = append(s.Search, name)
		}
	}
	if len(s.Search) == 0 {
		s.Search = []string{s.Domain}
	}
}

// encrypted checks one resolver and fills in what follows from the rest.
func (d *deriver) encrypted(s *draft, e EncryptedDNS, at *value) {
	e.Name = strings.TrimSuffix(strings.ToLower(e.Name), ".")
	http := slices.Contains(e.ALPN, "h2") || slices.Contains(e.ALPN, "h3")
	switch {
	case e.Name == "" && at.has("name") && at.field("name").kind != scalar || len(e.Addresses) == 0 && at.has("addresses"):
		return // told already
	case !isDomain(e.Name):
		d.at(at.field("name"), "encrypted_dns: not a name of a resolver", "the domain name that its certificate is for", "")
		return
	case len(e.Addresses) == 0:
		d.at(at, "encrypted_dns: "+e.Name+" has no address", "addresses: [IPv4 addresses]", "devices would have to ask another resolver for it first")
		return
	case e.Path != "" && !http:
		d.at(at.field("path"), "encrypted_dns: "+e.Name+" has a path and is not asked by HTTP", "a path with h2 or h3 in alpn", "")
		return
	case len(s.EncryptedDNS) == mostResolvers:
		d.at(at, fmt.Sprintf("segment %s has more than %d encrypted resolvers", s.Name, mostResolvers), fmt.Sprintf("up to %d: devices ask no more", mostResolvers), "")
		return
	}
	if len(e.ALPN) == 0 {
		e.ALPN = []string{"dot"}
	}
	if http && e.Path == "" {
		e.Path = DoHPath
	}
	// RFC 9461 section 5: relative to the server, with the variable "dns".
	if http && (!strings.HasPrefix(e.Path, "/") || !strings.Contains(e.Path, "{?dns}") || len(e.Path) > 100) {
		d.at(at.field("path"), "encrypted_dns: not a path of DNS over HTTPS", "a URI template of up to 100 bytes that begins with / and has {?dns}, such as /dns-query{?dns}", "")
		return
	}
	d.reachable(s, at.field("addresses"), "encrypted_dns", e.Addresses)
	s.EncryptedDNS = append(s.EncryptedDNS, e)
}
