//go:build linux

package internet

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// The world's addresses are of the ranges set aside for tests of network equipment:
// RFC 2544 appendix C.2.2 (IPv4) and RFC 5180 section 8 (IPv6).
var (
	world4 = netip.MustParsePrefix("198.18.0.0/15")
	world6 = netip.MustParsePrefix("2001:2::/48")
)

// maxNames keeps hosts within the lower half of world4, four addresses each.
const maxNames = 10000

// world is every name and address that exists, and who answers for it. It does not change
// after newWorld.
type world struct {
	zones   map[string]*zone       // by origin, "." and "com." and so on
	servers map[netip.Addr][]*zone // authoritative servers, by address
	resolve map[netip.Addr]bool    // public resolvers
	popular []string               // host names without the last dot, most asked first
	local   []netip.Prefix         // everything reachable
	rng     *rand.Rand
	hosts   uint32 // host addresses given out
	infra   uint32 // name server addresses given out
}

// zone is what one set of servers is authoritative for.
type zone struct {
	origin  string
	soa     *dns.SOA
	records map[string]map[uint16][]dns.RR // by owner in lower case, then type
	exists  map[string]bool                // owners and the empty names between them and the origin
	cuts    map[string]*cut                // delegations, by origin of the child
}

// cut is a delegation: the child's NS set and the addresses that can't be found without it.
type cut struct{ ns, glue []dns.RR }

// top is a name server of a zone: its name and addresses.
type top struct {
	name   string
	v4, v6 netip.Addr
}

// rootServers are the root's own (https://www.iana.org/domains/root/servers), so that any
// resolver's built-in hints work.
var rootServers = []top{
	{"a.root-servers.net.", netip.MustParseAddr("198.41.0.4"), netip.MustParseAddr("2001:503:ba3e::2:30")},
	{"b.root-servers.net.", netip.MustParseAddr("170.247.170.2"), netip.MustParseAddr("2801:1b8:10::b")},
	{"c.root-servers.net.", netip.MustParseAddr("192.33.4.12"), netip.MustParseAddr("2001:500:2::c")},
	{"d.root-servers.net.", netip.MustParseAddr("199.7.91.13"), netip.MustParseAddr("2001:500:2d::d")},
	{"e.root-servers.net.", netip.MustParseAddr("192.203.230.10"), netip.MustParseAddr("2001:500:a8::e")},
	{"f.root-servers.net.", netip.MustParseAddr("192.5.5.241"), netip.MustParseAddr("2001:500:2f::f")},
	{"g.root-servers.net.", netip.MustParseAddr("192.112.36.4"), netip.MustParseAddr("2001:500:12::d0d")},
	{"h.root-servers.net.", netip.MustParseAddr("198.97.190.53"), netip.MustParseAddr("2001:500:1::53")},
	{"i.root-servers.net.", netip.MustParseAddr("192.36.148.17"), netip.MustParseAddr("2001:7fe::53")},
	{"j.root-servers.net.", netip.MustParseAddr("192.58.128.30"), netip.MustParseAddr("2001:503:c27::2:30")},
	{"k.root-servers.net.", netip.MustParseAddr("193.0.14.129"), netip.MustParseAddr("2001:7fd::1")},
	{"l.root-servers.net.", netip.MustParseAddr("199.7.83.42"), netip.MustParseAddr("2001:500:9f::42")},
	{"m.root-servers.net.", netip.MustParseAddr("202.12.27.33"), netip.MustParseAddr("2001:dc3::35")},
}

// formerB is b.root-servers.net before November 2023; hints of older resolvers have it.
var formerB = top{v4: netip.MustParseAddr("199.9.14.201"), v6: netip.MustParseAddr("2001:500:200::b")}

var (
	topDomains = []string{"com", "net", "org", "jp", "io", "dev", "de", "uk"}
	syllables  = []string{"ka", "mo", "ri", "sa", "no", "hi", "ya", "ta", "ke", "mi", "zu", "ra", "fu", "to", "ne", "shi", "ku", "ma"}
	hostLabels = []string{"www", "", "api", "cdn", "img", "static", "mail", "login", "m", "video", "push", "assets", "update", "tiles", "chat"}
	ttls       = []uint32{20, 30, 60, 60, 300, 300, 300, 3600, 3600, 86400}
)

// newWorld makes the world that cfg describes, always the same for the same cfg.
func newWorld(cfg Config) (*world, error) {
	if cfg.Names < 1 || cfg.Names > maxNames {
		return nil, fmt.Errorf("internet: %d names asked for: 1 to %d are possible", cfg.Names, maxNames)
	}
	w := &world{
		zones: map[string]*zone{}, servers: map[netip.Addr][]*zone{}, resolve: map[netip.Addr]bool{},
		local: []netip.Prefix{world4, world6},
		rng:   rand.New(rand.NewPCG(uint64(cfg.Seed), 0x686f747374616765)),
	}
	w.addRoot()
	for _, t := range topDomains {
		w.addTop(t)
	}
	providers := w.addProviders()
	if err := w.addAlso(cfg.Also, providers); err != nil {
		return nil, err
	}
	for len(w.popular) < cfg.Names {
		w.addSite(providers, cfg.Names)
	}
	w.rng.Shuffle(len(w.popular), func(i, j int) { w.popular[i], w.popular[j] = w.popular[j], w.popular[i] })
	for _, r := range cfg.Resolvers {
		if port := r.Port(); !r.Addr().IsValid() || port != 53 && port != 0 {
			return nil, fmt.Errorf("internet: resolver %s: only port 53 of a valid address can be played", r)
		}
		w.resolve[r.Addr()] = true
		w.reach(r.Addr())
	}
	return w, nil
}

// reach makes an address outside the world's ranges local too.
func (w *world) reach(a netip.Addr) {
	p := netip.PrefixFrom(a, a.BitLen())
	if !world4.Contains(a) && !world6.Contains(a) && !slices.Contains(w.local, p) {
		w.local = append(w.local, p)
	}
}

// addZone makes an empty zone served by the name servers.
func (w *world) addZone(origin string, by []top) *zone {
	z := &zone{
		origin: origin, records: map[string]map[uint16][]dns.RR{}, exists: map[string]bool{origin: true}, cuts: map[string]*cut{},
		// Negative answers are kept for 60 s (RFC 2308 section 4): short, as the rehearsal is.
		soa: &dns.SOA{Hdr: head(origin, dns.TypeSOA, 3600), Ns: by[0].name, Mbox: dns.Fqdn("hostmaster." + strings.TrimPrefix(origin, ".")), Serial: 1, Refresh: 7200, Retry: 900, Expire: 604800, Minttl: 60},
	}
	w.zones[origin] = z
	z.add(z.soa)
	for _, s := range by {
		z.add(&dns.NS{Hdr: head(origin, dns.TypeNS, 86400), Ns: s.name})
		w.servers[s.v4] = append(w.servers[s.v4], z)
		w.servers[s.v6] = append(w.servers[s.v6], z)
	}
	return z
}

// add puts a record into the zone.
func (z *zone) add(rr dns.RR) {
	owner, kind := strings.ToLower(rr.Header().Name), rr.Header().Rrtype
	if z.records[owner] == nil {
		z.records[owner] = map[uint16][]dns.RR{}
	}
	z.records[owner][kind] = append(z.records[owner][kind], rr)
	for name := owner; name != z.origin && name != "."; name = parent(name) {
		z.exists[name] = true
	}
}

// addHost puts a name server's addresses into the zone.
func (z *zone) addHost(s top) {
	z.add(&dns.A{Hdr: head(s.name, dns.TypeA, 86400), A: s.v4.AsSlice()})
	z.add(&dns.AAAA{Hdr: head(s.name, dns.TypeAAAA, 86400), AAAA: s.v6.AsSlice()})
}

// delegate tells the parent who serves the child; the servers within the child need glue
// (RFC 1034 section 4.2.1).
func (w *world) delegate(parentZone *zone, child string, to []top) {
	c := &cut{}
	for _, s := range to {
		c.ns = append(c.ns, &dns.NS{Hdr: head(child, dns.TypeNS, 86400), Ns: s.name})
		if dns.IsSubDomain(child, s.name) {
			c.glue = append(c.glue, &dns.A{Hdr: head(s.name, dns.TypeA, 86400), A: s.v4.AsSlice()},
				&dns.AAAA{Hdr: head(s.name, dns.TypeAAAA, 86400), AAAA: s.v6.AsSlice()})
		}
	}
	parentZone.cuts[child] = c
	for name := child; name != parentZone.origin && name != "."; name = parent(name) {
		parentZone.exists[name] = true
	}
}

func (w *world) addRoot() {
	root := w.addZone(".", rootServers)
	for _, s := range append(slices.Clone(rootServers), formerB) {
		w.servers[s.v4], w.servers[s.v6] = []*zone{root}, []*zone{root}
		w.reach(s.v4)
		w.reach(s.v6)
	}
}

// addTop makes a top-level domain with two servers of its own.
func (w *world) addTop(label string) *zone {
	origin := label + "."
	by := []top{w.server("a.nic." + origin), w.server("b.nic." + origin)}
	z := w.addZone(origin, by)
	for _, s := range by {
		z.addHost(s)
	}
	w.delegate(w.zones["."], origin, by)
	if origin == "net." {
		w.addRootNames()
	}
	return z
}

// addRootNames lets the root servers' own names resolve.
func (w *world) addRootNames() {
	z := w.addZone("root-servers.net.", rootServers)
	for _, s := range rootServers {
		z.addHost(s)
	}
	w.delegate(w.zones["net."], z.origin, rootServers)
}

// server is a new name server with the next addresses of its own.
func (w *world) server(name string) top {
	w.infra++
	return top{name, address4(w.infra), address6(1, w.infra)}
}

// provider hosts other people's zones, as most zones are hosted.
type provider struct {
	servers []top
	edge    *zone // its content network, the target of CNAMEs
}

func (w *world) addProviders() []provider {
	var all []provider
	for i, name := range []string{"hinadns.net.", "kumodns.com.", "yamadns.org.", "soradns.net.", "umidns.jp.", "hoshidns.io."} {
		by := []top{w.server("ns1." + name), w.server("ns2." + name)}
		z := w.addZone(name, by)
		for _, s := range by {
			z.addHost(s)
		}
		w.delegate(w.zones[parent(name)], name, by)
		edge := w.addZone(fmt.Sprintf("edge%d.%s", i+1, name), by)
		w.delegate(z, edge.origin, by)
		all = append(all, provider{by, edge})
	}
	return all
}

// addSite makes one zone with its hosts: four of five at a provider, so that a resolver has
// to find the provider first, the others with servers of their own.
func (w *world) addSite(providers []provider, names int) {
	origin := w.word() + "." + topDomains[w.rng.IntN(len(topDomains))] + "."
	if strings.HasSuffix(origin, ".jp.") && w.rng.IntN(2) == 0 {
		origin = strings.TrimSuffix(origin, "jp.") + "co.jp."
	}
	if w.zones[origin] != nil {
		return // taken: the next one will be another
	}
	p := providers[w.rng.IntN(len(providers))]
	z := w.addDomain(origin, p, w.rng.IntN(5) == 0)
	for _, label := range hostLabels[:1+w.rng.IntN(len(hostLabels))] {
		if len(w.popular) == names {
			return
		}
		name := origin
		if label != "" {
			name = label + "." + origin
		}
		w.addName(z, name, p, label != "" && w.rng.IntN(6) == 0)
	}
}

// addDomain delegates a second-level zone.
func (w *world) addDomain(origin string, p provider, alone bool) *zone {
	by := p.servers
	if alone {
		by = []top{w.server("ns1." + origin), w.server("ns2." + origin)}
	}
	z := w.addZone(origin, by)
	if alone {
		for _, s := range by {
			z.addHost(s)
		}
	}
	w.delegate(w.zones[lastLabel(origin)], origin, by)
	return z
}

// addName makes a host: addresses, or an alias of a host in the provider's content network.
func (w *world) addName(z *zone, name string, p provider, alias bool) {
	w.popular = append(w.popular, strings.TrimSuffix(name, "."))
	if alias {
		w.hosts++
		target := fmt.Sprintf("e%d.%s", w.hosts, p.edge.origin)
		z.add(&dns.CNAME{Hdr: head(name, dns.TypeCNAME, w.ttl()), Target: target})
		z, name = p.edge, target
	}
	ttl := w.ttl()
	for range 1 + w.rng.IntN(3) {
		w.hosts++
		z.add(&dns.A{Hdr: head(name, dns.TypeA, ttl), A: address4(hostsFrom + w.hosts).AsSlice()})
	}
	if w.rng.IntN(10) < 6 {
		z.add(&dns.AAAA{Hdr: head(name, dns.TypeAAAA, ttl), AAAA: address6(2, w.hosts).AsSlice()})
	}
	if w.rng.IntN(4) == 0 {
		// RFC 9460: the service is at the name itself and speaks HTTP/2 and HTTP/3.
		z.add(&dns.HTTPS{SVCB: dns.SVCB{Hdr: head(name, dns.TypeHTTPS, ttl), Priority: 1, Target: ".", Value: []dns.SVCBKeyValue{&dns.SVCBAlpn{Alpn: []string{"h2", "h3"}}}}})
	}
}

// addAlso makes the names and addresses that the plan counts on.
func (w *world) addAlso(also []string, providers []provider) error {
	for i, s := range also {
		if a, err := netip.ParseAddr(s); err == nil {
			w.reach(a.WithZone(""))
			continue
		}
		name := dns.CanonicalName(s)
		labels := dns.SplitDomainName(name)
		if _, ok := dns.IsDomainName(name); !ok || len(labels) < 2 {
			return fmt.Errorf("internet: %q can't exist: a host name of two labels or more, or an address, is needed", s)
		}
		tld := labels[len(labels)-1] + "."
		if w.zones[tld] == nil {
			w.addTop(strings.TrimSuffix(tld, "."))
		}
		origin := labels[len(labels)-2] + "." + tld
		p := providers[i%len(providers)]
		z := w.zones[origin]
		if z == nil {
			z = w.addDomain(origin, p, false)
		}
		if z.records[name][dns.TypeA] == nil {
			w.addName(z, name, p, false)
		}
	}
	return nil
}

func (w *world) word() string {
	var b strings.Builder
	for range 3 + w.rng.IntN(2) {
		b.WriteString(syllables[w.rng.IntN(len(syllables))])
	}
	return b.String()
}

func (w *world) ttl() uint32 { return ttls[w.rng.IntN(len(ttls))] }

// hostsFrom leaves the first addresses to name servers.
const hostsFrom = 1 << 14

func address4(n uint32) netip.Addr {
	b := world4.Addr().As4()
	n += uint32(b[0])<<24 | uint32(b[1])<<16
	return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
}

func address6(subnet byte, n uint32) netip.Addr {
	b := world6.Addr().As16()
	b[7] = subnet
	b[12], b[13], b[14], b[15] = byte(n>>24), byte(n>>16), byte(n>>8), byte(n)
	return netip.AddrFrom16(b)
}

func head(name string, kind uint16, ttl uint32) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: kind, Class: dns.ClassINET, Ttl: ttl}
}

// parent drops the first label; the parent of "com." is ".".
func parent(name string) string {
	if _, rest, ok := strings.Cut(name, "."); ok && rest != "" {
		return rest
	}
	return "."
}

func lastLabel(name string) string {
	labels := dns.SplitDomainName(name)
	return labels[len(labels)-1] + "."
}
