package plan

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// The types in this file are the plan as written: names are not looked up and nothing is
// derived. Each keeps the value it came from, so that later faults can show their line.

type rawPlan struct {
	at        *value
	event     rawEvent
	sites     []rawSite
	areas     []rawArea
	ssids     []rawSSID
	groups    []rawGroup
	nodes     []rawNode
	dhcp      rawDHCP
	resolver  rawResolver
	local     []Name // of the resolver, in full
	ntp       []string
	napt      rawNAPT
	tunnel    rawTunnel
	rehearsal rawRehearsal
	secrets   map[string]Secret
}

type rawEvent struct {
	at                     *value
	name, domain, timezone string
	from, to               string
	attendees, sessions    int
	devices                float64
	domainAt, timezoneAt   *value
	daysAt                 *value
}

type rawSite struct {
	at      *value
	name    string
	rtt     time.Duration
	uplinks []rawUplink
}

type rawUplink struct {
	at                 *value
	name, mode         string
	ipv4               []rawAddress
	gateway4, gateway6 netip.Addr
	ipv6               netip.Prefix
	address6           netip.Prefix
	bandwidth          int64
	mtu                int
}

// rawAddress is an address ("203.0.113.10"), an address with its length
// ("203.0.113.10/24") or a network ("198.51.100.8/29").
type rawAddress struct {
	at     *value
	prefix netip.Prefix
	host   bool // an address, not a network
}

type rawArea struct {
	at    *value
	name  string
	rooms []string
	share float64
}

type rawSSID struct {
	at         *value
	name, band string
	onAir      string
	share      float64
}

// rawSegment is what the plan says of one segment, or of all segments of a group.
type rawSegment struct {
	at           *value // what each says of it, else what the group says
	group        *value
	class, site  string
	isolate      bool
	isolateSet   bool
	vlan         int
	ipv4, ipv6   netip.Prefix
	gateway4     netip.Addr
	pool         string
	lease        time.Duration
	domain       string
	dns          []netip.Addr
	ntp          []netip.Addr
	devices      int
	reservations []rawReservation
	relays       []netip.Addr
	service      []netip.Addr
	dhcp         []string // names of nodes
	options      rawOptions
}

// of is the place of a key: in each, else in the group.
func (s rawSegment) of(key string) *value {
	if s.group != nil && !s.at.has(key) {
		return s.group.field(key)
	}
	return s.at.field(key)
}

// gives tells whether the plan has the key for the segment, be it right or wrong.
func (s rawSegment) gives(key string) bool {
	return s.at.has(key) || s.group != nil && s.group.has(key)
}

type rawGroup struct {
	rawSegment
	name string
	per  []string
	each map[string]*rawSegment
}

type rawReservation struct {
	at   *value
	name string
	mac  net.HardwareAddr
	id   []byte
	addr netip.Addr
}

type rawNode struct {
	at         *value
	name, site string
	siteAt     *value
	roles      []string
	rolesAt    []*value
	interfaces []rawInterface
}

type rawInterface struct {
	at              *value
	name            string
	uplink, segment string
	trunk           []string
	trunkAt         []*value
}

type rawDHCP struct {
	at       *value
	leases   string
	shared   *Shared
	password string
	sync     bool
}

type rawResolver struct {
	ask        []Asked
	unbound    bool
	health     []string
	cache      int64
	clientRate int
	xdp        string
	vrrp       rawVRRP
	local      []rawLocal
	encrypted  rawEncrypted
	block      []rawBlock
	log        float64
}

type rawLocal struct {
	at    *value
	name  string
	addrs []netip.Addr
}

type rawNAPT struct {
	at            *value
	exit, standby string
	timeouts      Timeouts
	use           float64
}

type rawTunnel struct {
	at             *value
	route, stretch []string
}

type rawRehearsal struct {
	people      int
	doors, stay time.Duration
	seed        int
	faults      []RehearsalFault
	faultsAt    []*value
}

// read reads the whole file.
func (r *reader) read(v *value) rawPlan {
	p := rawPlan{at: v, secrets: map[string]Secret{}}
	p.event = rawEvent{at: v.field("event"), devices: 2, sessions: 25}
	p.napt = rawNAPT{at: v, use: 0.5}
	p.resolver.cache = 64 << 20
	p.resolver.clientRate = 300 // a page full of links asks some dozens
	p.resolver.xdp = "auto"
	p.resolver.vrrp = rawVRRP{interval: vrrpInterval, preempt: true}
	p.dhcp = rawDHCP{at: v.field("dhcp"), leases: "sqlite"}
	p.rehearsal = rawRehearsal{doors: time.Minute, stay: 20 * time.Second, seed: 1}
	r.fields(v, map[string]func(*value){
		"event": func(v *value) { r.event(v, &p.event) },
		"sites": func(v *value) {
			r.each(v, "a site", func(n string, e entry) { p.sites = append(p.sites, r.site(n, e.val)) })
		},
		"areas": func(v *value) {
			r.each(v, "an area", func(n string, e entry) { p.areas = append(p.areas, r.area(n, e.val)) })
		},
		"ssids": func(v *value) {
			r.each(v, "an SSID", func(n string, e entry) { p.ssids = append(p.ssids, r.ssid(n, e.val)) })
		},
		"segments": func(v *value) {
			r.each(v, "a segment", func(n string, e entry) { p.groups = append(p.groups, r.group(n, e.val)) })
		},
		"nodes": func(v *value) {
			r.each(v, "a node", func(n string, e entry) { p.nodes = append(p.nodes, r.node(n, e.val)) })
		},
		"dhcp":      func(v *value) { r.dhcp(v, &p.dhcp) },
		"resolver":  func(v *value) { r.resolver(v, &p.resolver) },
		"ntp":       func(v *value) { r.fields(v, map[string]func(*value){"sources": r.strings(&p.ntp)}) },
		"napt":      func(v *value) { r.napt(v, &p.napt) },
		"tunnel":    func(v *value) { r.tunnel(v, &p.tunnel) },
		"rehearsal": func(v *value) { r.rehearsal(v, &p.rehearsal) },
		"secrets":   func(v *value) { r.each(v, "a secret", func(n string, e entry) { p.secrets[n] = r.secret(e.val) }) },
	})
	return p
}

func (r *reader) event(v *value, e *rawEvent) {
	e.at = v
	r.fields(v, map[string]func(*value){
		"name":     r.str(&e.name),
		"domain":   func(v *value) { e.domainAt = v; r.str(&e.domain)(v) },
		"timezone": func(v *value) { e.timezoneAt = v; r.str(&e.timezone)(v) },
		"days": func(v *value) {
			e.daysAt = v
			r.fields(v, map[string]func(*value){"from": r.str(&e.from), "to": r.str(&e.to)})
		},
		"attendees":             r.integer(&e.attendees, 1, 100_000),
		"devices_per_attendee":  r.decimal(&e.devices, 0.1, 10),
		"sessions_per_attendee": r.integer(&e.sessions, 1, 1000),
	})
}

func (r *reader) site(name string, v *value) rawSite {
	s := rawSite{at: v, name: name}
	r.fields(v, map[string]func(*value){
		"rtt": r.duration(&s.rtt, 0, 2*time.Second),
		"uplinks": func(v *value) {
			r.each(v, "an uplink", func(n string, e entry) { s.uplinks = append(s.uplinks, r.uplink(n, e.val)) })
		},
	})
	return s
}

func (r *reader) uplink(name string, v *value) rawUplink {
	u := rawUplink{at: v, name: name, mtu: 1500}
	r.fields(v, map[string]func(*value){
		"mode":      r.oneOf(&u.mode, string(UplinkStatic), string(UplinkDHCP), string(UplinkSystem)),
		"ipv4":      r.list(func(v *value) { r.uplinkAddress(v, &u.ipv4) }),
		"gateway":   r.address(&u.gateway4, "IPv4"),
		"ipv6":      r.prefix(&u.ipv6, "IPv6", 32, 64),
		"address6":  func(v *value) { r.hostPrefix6(v, &u.address6) },
		"gateway6":  r.address(&u.gateway6, "IPv6"),
		"bandwidth": r.quantity(&u.bandwidth, map[string]float64{"kbps": 1e3, "Mbps": 1e6, "Gbps": 1e9}, "1Gbps"),
		"mtu":       r.integer(&u.mtu, 1280, 9216), // 1280: RFC 8200 section 5
	})
	return u
}

func (r *reader) uplinkAddress(v *value, dst *[]rawAddress) {
	const allowed = "an IPv4 address (203.0.113.10), one with its length (203.0.113.10/24) or a network (198.51.100.8/29)"
	if !r.want(v, scalar, allowed) {
		return
	}
	if a, err := netip.ParseAddr(v.text); err == nil && a.Is4() && usable(a) {
		*dst = append(*dst, rawAddress{v, netip.PrefixFrom(a, 32), true})
		return
	}
	p, err := netip.ParsePrefix(v.text)
	// /20: more addresses than any event's NAPT has had.
	if err != nil || !p.Addr().Is4() || p.Bits() < 20 || !usable(p.Addr()) {
		r.at(v, "not an IPv4 address or a network of /20 to /32", allowed, "")
		return
	}
	if p != p.Masked() && p.Bits() < 31 && p.Addr() == LastAddr(p) {
		r.at(v, "this is the broadcast address of its network", allowed, "")
		return
	}
	*dst = append(*dst, rawAddress{v, p, p != p.Masked()})
}

func (r *reader) hostPrefix6(v *value, dst *netip.Prefix) {
	const allowed = "an IPv6 address with its length, such as 2001:db8::2/64"
	if !r.want(v, scalar, allowed) {
		return
	}
	p, err := netip.ParsePrefix(v.text)
	if err != nil || !p.Addr().Is6() {
		r.at(v, "not an IPv6 address with its length", allowed, "")
		return
	}
	*dst = p
}

func (r *reader) area(name string, v *value) rawArea {
	a := rawArea{at: v, name: name}
	r.fields(v, map[string]func(*value){"rooms": r.strings(&a.rooms), "share": r.share(&a.share)})
	return a
}

func (r *reader) ssid(name string, v *value) rawSSID {
	s := rawSSID{at: v, name: name, onAir: name}
	r.fields(v, map[string]func(*value){"name": func(v *value) { r.onAir(v, &s.onAir) }, "band": r.oneOf(&s.band, "2.4GHz", "5GHz", "6GHz"), "share": r.share(&s.share)})
	return s
}

// onAir reads an SSID as it is sent: up to 32 octets (IEEE 802.11-2020 section 9.4.2.2),
// in UTF-8 and without control characters, because people have to choose it from a list.
func (r *reader) onAir(v *value, dst *string) {
	const allowed = "1 to 32 bytes of UTF-8 without control characters"
	if !r.want(v, scalar, allowed) {
		return
	}
	if s := v.text; s == "" || len(s) > 32 || !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
		r.at(v, fmt.Sprintf("not an SSID: %d bytes", len(s)), allowed, "")
		return
	}
	*dst = v.text
}

func (r *reader) group(name string, v *value) rawGroup {
	g := rawGroup{name: name, each: map[string]*rawSegment{}}
	known := r.segmentKeys(&g.rawSegment)
	known["per"] = r.list(func(v *value) {
		var s string
		r.oneOf(&s, "area", "ssid")(v)
		if slices.Contains(g.per, s) {
			r.at(v, "stands twice in per", "area and ssid, each once", "")
			return
		}
		if s != "" {
			g.per = append(g.per, s)
		}
	})
	known["each"] = func(v *value) {
		r.each(v, "a segment of this group", func(n string, e entry) {
			s := &rawSegment{at: e.val}
			r.fields(e.val, r.segmentKeys(s))
			g.each[n] = s
		})
	}
	g.at = v
	r.fields(v, known)
	return g
}

func (r *reader) segmentKeys(s *rawSegment) map[string]func(*value) {
	known := map[string]func(*value){
		"class":   r.oneOf(&s.class, string(Attendee), string(Server), string(Management), string(Staff)),
		"site":    r.str(&s.site),
		"isolate": func(v *value) { s.isolateSet = true; r.boolean(&s.isolate)(v) },
		"vlan":    r.integer(&s.vlan, 1, 4094), // IEEE 802.1Q: 0 and 4095 are reserved
		"ipv4":    r.prefix(&s.ipv4, "IPv4", 8, 29),
		"ipv6":    r.prefix(&s.ipv6, "IPv6", 64, 64), // RFC 4862: SLAAC needs a /64
		"gateway": r.address(&s.gateway4, "IPv4"),
		"pool":    r.str(&s.pool),
		"lease":   r.duration(&s.lease, 2*time.Minute, 7*24*time.Hour),
		"domain":  r.str(&s.domain),
		"dns":     r.list(func(v *value) { r.anyAddress(v, &s.dns) }),
		"ntp": r.list(func(v *value) {
			// DHCP's option 42 holds IPv4 addresses (RFC 2132 section 8.3).
			var a netip.Addr
			if r.address(&a, "IPv4")(v); a.IsValid() {
				s.ntp = append(s.ntp, a)
			}
		}),
		"service": r.list(func(v *value) { r.anyAddress(v, &s.service) }),
		"dhcp":    r.strings(&s.dhcp),
		"relays": r.list(func(v *value) {
			var a netip.Addr
			if r.address(&a, "IPv4")(v); a.IsValid() {
				s.relays = append(s.relays, a)
			}
		}),
		"devices": r.integer(&s.devices, 1, 1_000_000),
		"reservations": func(v *value) {
			r.each(v, "a reservation", func(n string, e entry) {
				res := rawReservation{at: e.val, name: n}
				r.fields(e.val, map[string]func(*value){
					"mac": r.mac(&res.mac), "client_id": r.clientID(&res.id), "address": r.address(&res.addr, "IPv4"),
				})
				s.reservations = append(s.reservations, res)
			})
		},
	}
	maps.Copy(known, r.optionKeys(&s.options))
	return known
}

func (r *reader) anyAddress(v *value, dst *[]netip.Addr) {
	if !r.want(v, scalar, "an IP address") {
		return
	}
	a, err := netip.ParseAddr(v.text)
	if err != nil || a.Zone() != "" || !usable(a) {
		r.at(v, "not an IP address of a machine", "an IPv4 or IPv6 address", "")
		return
	}
	*dst = append(*dst, a)
}

func (r *reader) node(name string, v *value) rawNode {
	n := rawNode{at: v, name: name}
	roles := []string{string(RoleRouter), string(RoleDHCP), string(RoleResolver), string(RoleNTP), string(RoleSyslog), string(RoleMonitor)}
	r.fields(v, map[string]func(*value){
		"site": func(v *value) { n.siteAt = v; r.str(&n.site)(v) },
		"roles": r.list(func(v *value) {
			var s string
			if r.oneOf(&s, roles...)(v); s != "" {
				n.roles, n.rolesAt = append(n.roles, s), append(n.rolesAt, v)
			}
		}),
		"interfaces": func(v *value) { r.interfaces(v, &n) },
	})
	return n
}

func (r *reader) interfaces(v *value, n *rawNode) {
	if v.kind == nothing || !r.want(v, mapping, "a mapping from the name of an interface") {
		return
	}
	seen := map[string]bool{}
	for _, e := range v.entries {
		// 15 bytes: IFNAMSIZ of Linux less its NUL.
		bad := e.key == "" || len(e.key) > 15 || strings.ContainsAny(e.key, "/: \t\n\r\x00") || e.key == "." || e.key == ".." || e.key == "lo"
		if bad {
			r.tell(Fault{Line: e.line, Column: e.col, Path: v.path, Words: "not a name for an interface", Given: e.key, Allowed: "1 to 15 bytes without /, : and space, and not lo", Hint: "ip link lists the names"})
			continue
		}
		if seen[e.key] {
			r.tell(Fault{Line: e.line, Column: e.col, Path: v.path, Words: "the interface stands twice", Given: e.key, Allowed: "each interface once"})
			continue
		}
		seen[e.key] = true
		i := rawInterface{at: e.val, name: e.key}
		r.fields(e.val, map[string]func(*value){
			"uplink":  r.str(&i.uplink),
			"segment": r.str(&i.segment),
			"trunk": r.list(func(v *value) {
				if r.want(v, scalar, "the name of a segment") {
					i.trunk, i.trunkAt = append(i.trunk, v.text), append(i.trunkAt, v)
				}
			}),
		})
		n.interfaces = append(n.interfaces, i)
	}
}

func (r *reader) resolver(v *value, d *rawResolver) {
	r.fields(v, map[string]func(*value){
		"recursion":   r.recursion(d),
		"health":      r.health(&d.health),
		"cache":       r.cache(&d.cache),
		"client_rate": r.integer(&d.clientRate, 10, 10_000_000),
		"encrypted": func(v *value) {
			d.encrypted.modeAt = v
			r.oneOf(&d.encrypted.mode, EncryptedOn, EncryptedOff)(v)
		},
		"certificate": func(v *value) { r.certificate(v, &d.encrypted) },
		"xdp":         r.oneOf(&d.xdp, "auto", "off"),
		"block":       r.block(&d.block),
		"log":         r.queryLog(&d.log),
		"vrrp":        func(v *value) { r.vrrp(v, &d.vrrp) },
		"local": func(v *value) {
			if v.kind == nothing || !r.want(v, mapping, "a mapping from name to addresses") {
				return
			}
			seen := map[string]bool{}
			for _, e := range v.entries {
				name := strings.TrimSuffix(strings.ToLower(e.key), ".")
				if !isDomain(name) || seen[name] {
					r.tell(Fault{Line: e.line, Column: e.col, Path: e.val.path, Words: "not a new name", Given: e.key, Allowed: "labels of a-z, 0-9 and - with dots between, each name once"})
					continue
				}
				seen[name] = true
				l := rawLocal{at: e.val, name: name}
				before := len(r.faults)
				r.list(func(v *value) { r.anyAddress(v, &l.addrs) })(e.val)
				if len(l.addrs) == 0 && len(r.faults) == before {
					r.at(e.val, "the name "+e.key+" has no address", "one address or a list of them", "")
				}
				d.local = append(d.local, l)
			}
		},
	})
}

func (r *reader) cache(dst *int64) func(*value) {
	read := r.quantity(dst, map[string]float64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}, "64MiB")
	return func(v *value) {
		if read(v); *dst < 1<<20 || *dst > 64<<30 {
			r.at(v, "not a size for the cache", "from 1MiB to 64GiB", "")
			*dst = 64 << 20
		}
	}
}

func (r *reader) napt(v *value, n *rawNAPT) {
	n.at = v
	second, day := time.Second, 24*time.Hour
	r.fields(v, map[string]func(*value){
		"exit":    r.str(&n.exit),
		"standby": r.str(&n.standby),
		"use":     r.share(&n.use),
		"timeout": func(v *value) {
			r.fields(v, map[string]func(*value){
				"udp":            r.duration(&n.timeouts.UDP, second, day),
				"udp_stream":     r.duration(&n.timeouts.UDPStream, second, day),
				"tcp":            r.duration(&n.timeouts.TCPEstablished, second, 5*day),
				"tcp_transitory": r.duration(&n.timeouts.TCPTransitory, second, day),
				"tcp_closed":     r.duration(&n.timeouts.TCPClosed, second, day),
				"icmp":           r.duration(&n.timeouts.ICMP, second, day),
			})
		},
	})
}

func (r *reader) tunnel(v *value, t *rawTunnel) {
	t.at = v
	r.fields(v, map[string]func(*value){"route": r.strings(&t.route), "stretch": r.strings(&t.stretch)})
}

func (r *reader) rehearsal(v *value, h *rawRehearsal) {
	r.fields(v, map[string]func(*value){
		"people": r.integer(&h.people, 1, 100_000),
		"doors":  r.duration(&h.doors, time.Second, time.Hour),
		"stay":   r.duration(&h.stay, 0, time.Hour),
		"seed":   r.integer(&h.seed, 0, 1<<31-1),
		"faults": r.list(func(v *value) {
			f := RehearsalFault{For: 2 * time.Second}
			r.fields(v, map[string]func(*value){
				"at":   r.duration(&f.At, 0, time.Hour),
				"kill": r.str(&f.Kill),
				"cut":  r.str(&f.Cut),
				"silence": func(v *value) {
					var addrs []netip.Addr
					if r.anyAddress(v, &addrs); len(addrs) == 1 {
						f.Silence = addrs[0]
					}
				},
				"outage": r.boolean(&f.Outage),
				"for":    r.duration(&f.For, 0, time.Hour),
			})
			h.faults, h.faultsAt = append(h.faults, f), append(h.faultsAt, v)
		}),
	})
}

func (r *reader) secret(v *value) Secret {
	const allowed = "env:NAME of an environment variable or file:/path of a file"
	if !r.want(v, scalar, allowed) {
		return Secret{}
	}
	if name, ok := strings.CutPrefix(v.text, "env:"); ok && name != "" {
		return Secret{Env: name}
	}
	if path, ok := strings.CutPrefix(v.text, "file:/"); ok && path != "" {
		return Secret{File: "/" + path}
	}
	// The value is not shown: it may be the secret itself.
	r.tell(Fault{Line: v.line, Column: v.col, Path: v.path, Words: "a secret is given by reference only", Allowed: allowed, Hint: "take the value out of the plan, and out of its history if it was committed"})
	return Secret{}
}
