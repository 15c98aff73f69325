package plan

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/publicsuffix"
)

// Parse reads a plan, finds every fault and derives what it leaves unsaid. The plan is nil
// when any fault is an error. lock may be nil; the returned one is what should stand in the
// lock file from now on. Pure: the same input gives the same output.
func Parse(src []byte, lock *Lock) (*Plan, *Lock, Faults) {
	r := &reader{}
	root := tree(src, r.tell)
	if root == nil {
		return nil, lock, r.faults
	}
	if lock == nil {
		lock = &Lock{}
	}
	raw := r.read(root)
	d := &deriver{reader: r, raw: raw, lock: lock}
	d.plan.Hash = fmt.Sprintf("%x", sha256.Sum256(src))
	d.event()
	d.sites()
	d.audience()
	d.segments()
	d.nodes()
	d.services()
	d.napt()
	d.rest()
	r.faults.sort()
	if r.faults.Errors() {
		return nil, lock, r.faults
	}
	return &d.plan, d.newLock(), r.faults
}

type deriver struct {
	*reader
	raw  rawPlan
	lock *Lock
	plan Plan
	// drafts are the segments, in the order of the plan.
	drafts []*draft
	groups map[string][]string // names of the segments of each group
	// lost tells that a node's name for a segment or an uplink leads nowhere: what then
	// lacks, lacks because of that, and is not told too.
	lost      bool
	noGateway []*draft
	hosts     map[string]map[string]netip.Addr // by segment, then by node or reservation
}

func (d *deriver) event() {
	e, raw := &d.plan.Event, d.raw.event
	e.Name, e.Attendees, e.DevicesPerAttendee, e.SessionsPerAttendee = raw.name, raw.attendees, raw.devices, raw.sessions
	if name := raw.at.field("name"); raw.name == "" && (name == raw.at || name.kind == scalar) {
		d.at(name, "the event has no name", "event: {name: …}", "")
	}
	if raw.attendees == 0 && !raw.at.has("attendees") {
		d.at(raw.at, "the event has no attendees", "event: {attendees: 1000}", "every size in the plan follows from it")
	}
	e.Slug = slug(raw.name)
	e.Domain = strings.TrimSuffix(strings.ToLower(raw.domain), ".")
	if e.Domain == "" {
		e.Domain = e.Slug + ".home.arpa" // RFC 8375: for networks without a domain of their own
	} else {
		d.domain(raw.domainAt, e.Domain)
	}
	e.Location = time.UTC
	if raw.timezone != "" {
		loc, err := time.LoadLocation(raw.timezone)
		if err != nil || raw.timezone == "Local" { // Local is another one on each machine
			d.at(raw.timezoneAt, "not a time zone", "a name of the IANA time zone database, such as Asia/Tokyo", "")
		} else {
			e.Location = loc
		}
	}
	d.days(e, raw)
}

// domain finds domains whose names are not ours to answer: who answers for co.jp takes all
// of it away from the attendees.
func (d *deriver) domain(at *value, name string) {
	if !isDomain(name) {
		d.at(at, "not a domain name", "up to 160 bytes: labels of a-z, 0-9 and - with dots between", "")
		return
	}
	suffix, icann := publicsuffix.PublicSuffix(name)
	switch {
	case name == "local" || strings.HasSuffix(name, ".local"):
		d.at(at, "names in local belong to multicast DNS (RFC 6762): devices do not ask a resolver for them", "your own domain, or one in home.arpa", "leave domain out and it is <name>.home.arpa")
	case name == suffix && name != "home.arpa" && (icann || strings.Contains(suffix, ".")):
		d.at(at, "this is a public suffix: attendees would reach no other name below it", "a domain of your own below it", "")
	}
}

// toldUnder tells whether something below the path could not be read, nor guessed.
func (d *deriver) toldUnder(path string) bool {
	return slices.ContainsFunc(d.faults, func(f Fault) bool {
		return strings.HasPrefix(f.Path, path) && f.Severity == Error && !strings.HasPrefix(f.Hint, "did you mean")
	})
}

func (d *deriver) days(e *Event, raw rawEvent) {
	if raw.to != "" && raw.from == "" && !raw.daysAt.has("from") {
		d.at(raw.daysAt, "the event has a last day and no first", "days: {from: 2013-09-19, to: 2013-09-21}", "")
		return
	}
	for _, day := range []struct {
		dst  *time.Time
		key  string
		text string
	}{{&e.From, "from", raw.from}, {&e.To, "to", raw.to}} {
		if day.text == "" {
			continue
		}
		t, err := time.ParseInLocation("2006-01-02", day.text, e.Location)
		if err != nil {
			d.at(raw.daysAt.field(day.key), "not a date", "a day such as 2013-09-19", "")
			return
		}
		*day.dst = t
	}
	if e.To.IsZero() {
		e.To = e.From
	}
	if e.To.Before(e.From) {
		d.at(raw.daysAt.field("to"), "the event ends before it begins", "from on or before to", "")
	}
}

// slug is name in a-z, 0-9 and single dashes; names without any such letter get one by hash.
func slug(name string) string {
	parts := strings.FieldsFunc(strings.ToLower(name), func(c rune) bool {
		return !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9')
	})
	s := strings.Join(parts, "-")
	if len(s) > 30 {
		s = strings.Trim(s[:30], "-")
	}
	if s == "" {
		s = fmt.Sprintf("event-%x", hash(name)&0xffff)
	}
	return s
}

func (d *deriver) sites() {
	uplinks := 0
	for i, raw := range d.raw.sites {
		s := Site{Name: raw.name, RTT: raw.rtt}
		if i == 0 && raw.rtt != 0 {
			d.at(raw.at.field("rtt"), "the first site has an rtt", "rtt on the other sites: it is counted from the first", "")
		}
		for _, u := range raw.uplinks {
			uplinks++
			s.Uplinks = append(s.Uplinks, d.uplink(raw.name, u))
		}
		d.plan.Sites = append(d.plan.Sites, s)
	}
	if uplinks == 0 {
		if !d.toldUnder("$.sites") {
			d.at(d.raw.at.field("sites"), "the plan has no uplink", "sites: {venue: {uplinks: {isp: {}}}}", "an empty uplink gets its address by DHCP")
		}
		d.lost = true
	}
	if len(d.plan.Sites) == 0 {
		d.plan.Sites = []Site{{Name: "venue"}} // told already; read on with one
	}
	d.ownAddresses()
}

// ownAddresses finds addresses and prefixes that two uplinks have.
func (d *deriver) ownAddresses() {
	type owned struct {
		prefix netip.Prefix
		name   string
	}
	var all []owned
	claim := func(at *value, p netip.Prefix, name string) {
		for _, o := range all {
			if o.prefix.Overlaps(p) {
				d.at(at, fmt.Sprintf("uplink %s: %s is given already, as %s of uplink %s", name, p, o.prefix, o.name), "each address and prefix once", "")
				return
			}
		}
		all = append(all, owned{p, name})
	}
	for _, s := range d.raw.sites {
		for _, u := range s.uplinks {
			for _, a := range u.ipv4 {
				p := a.prefix
				if a.host {
					p = netip.PrefixFrom(p.Addr(), 32)
				}
				claim(a.at, p, u.name)
			}
			if u.ipv6.IsValid() {
				claim(u.at.field("ipv6"), u.ipv6, u.name)
			}
		}
	}
}

func (d *deriver) uplink(site string, raw rawUplink) Uplink {
	u := Uplink{Name: raw.name, Site: site, Mode: UplinkMode(raw.mode), IPv6: raw.ipv6, Address6: raw.address6,
		Gateway4: raw.gateway4, Gateway6: raw.gateway6, Bandwidth: raw.bandwidth, MTU: raw.mtu}
	if u.Mode == "" {
		switch {
		case raw.gateway4.IsValid():
			u.Mode = UplinkStatic
		case len(raw.ipv4) == 0:
			u.Mode = UplinkDHCP
		default:
			u.Mode = UplinkSystem
		}
	}
	for _, a := range raw.ipv4 {
		switch {
		case a.host:
			u.IPv4 = append(u.IPv4, netip.PrefixFrom(a.prefix.Addr(), 32))
		default:
			u.IPv4 = append(u.IPv4, a.prefix)
		}
	}
	if u.Mode != UplinkStatic {
		for _, key := range []string{"gateway", "address6", "gateway6"} {
			if raw.at.has(key) {
				d.at(raw.at.field(key), fmt.Sprintf("uplink %s has %s, which mode %s does not use", raw.name, key, u.Mode), "mode: static, or no "+key, "")
			}
		}
		return u
	}
	if len(raw.ipv4) == 0 || !raw.gateway4.IsValid() {
		if (raw.at.has("ipv4") || raw.at.has("gateway")) && raw.mode == "" {
			return u // told already: ipv4 or gateway can't be read
		}
		d.at(raw.at.field("mode"), "uplink "+raw.name+" is static but lacks ipv4 or gateway", "both, or mode: dhcp or system", "")
		return u
	}
	first := raw.ipv4[0]
	u.Address4 = first.prefix
	if all := u.Addresses4(); !first.host && len(all) > 0 {
		u.Address4 = netip.PrefixFrom(all[0], first.prefix.Bits())
	}
	if u.Address4.Bits() == 32 {
		d.at(first.at, fmt.Sprintf("uplink %s: an address without a length has no way to the gateway %s", raw.name, u.Gateway4), "the address with its network's length, such as 203.0.113.10/24", "or leave gateway out, if the system sets the interface up")
	} else if !u.Address4.Masked().Contains(u.Gateway4) {
		d.at(raw.at.field("gateway"), fmt.Sprintf("uplink %s: the gateway %s is not in %s", raw.name, u.Gateway4, u.Address4.Masked()), "a gateway in the uplink's prefix", "")
	}
	if u.Address4.Addr() == u.Gateway4 {
		d.at(raw.at.field("gateway"), fmt.Sprintf("uplink %s: %s is both ours and the gateway", raw.name, u.Gateway4), "two addresses", "")
	}
	return u
}

// audience derives areas and SSIDs.
func (d *deriver) audience() {
	for _, a := range d.raw.areas {
		d.plan.Areas = append(d.plan.Areas, Area{a.name, a.rooms, a.share})
	}
	if len(d.plan.Areas) == 0 {
		d.plan.Areas = []Area{{Name: "venue", Share: 1}}
	}
	for _, s := range d.raw.ssids {
		d.plan.SSIDs = append(d.plan.SSIDs, SSID{Name: s.name, OnAir: s.onAir, Band: s.band, Share: s.share})
	}
	if len(d.plan.SSIDs) == 0 {
		d.plan.SSIDs = []SSID{{Name: d.plan.Event.Slug, OnAir: d.plan.Event.Slug, Share: 1}}
	}
	shares := make([]*float64, 0, 8)
	for i := range d.plan.Areas {
		shares = append(shares, &d.plan.Areas[i].Share)
	}
	d.fill(shares, "areas")
	shares = shares[:0]
	for i := range d.plan.SSIDs {
		shares = append(shares, &d.plan.SSIDs[i].Share)
	}
	d.fill(shares, "ssids")
}

// fill gives those without a share an equal part of what is left.
func (d *deriver) fill(shares []*float64, what string) {
	sum, open := 0.0, 0
	for _, s := range shares {
		sum += *s
		if *s == 0 {
			open++
		}
	}
	if math.Abs(sum-1) < 0.005 && open == 0 {
		return
	}
	if open == 0 || sum >= 1 {
		f := d.raw.at.field(what)
		hint := "leave one share out and it gets the rest"
		if open > 0 {
			hint = "nothing is left for the one without a share"
		}
		d.at(f, fmt.Sprintf("the shares of the %s add up to %.0f%%", what, sum*100), "100%", hint)
		return
	}
	for _, s := range shares {
		if *s == 0 {
			*s = (1 - sum) / float64(open)
		}
	}
}

func (d *deriver) segments() {
	if len(d.raw.groups) == 0 {
		for _, c := range []Class{Attendee, Server, Management} {
			d.raw.groups = append(d.raw.groups, rawGroup{rawSegment: rawSegment{at: d.raw.event.at}, name: string(c)})
		}
	}
	d.groups = map[string][]string{}
	for i := range d.raw.groups {
		d.expand(&d.raw.groups[i])
	}
	attendees := 0
	for _, s := range d.drafts {
		if s.Class == Attendee {
			attendees++
		}
		if names := d.groups[s.Name]; s.Name != s.Group && len(names) > 0 {
			d.lost = true
			d.at(s.raw.at, fmt.Sprintf("%s is a segment of group %s and a group too", s.Name, s.Group), "different names", "")
		}
	}
	for _, s := range d.drafts {
		d.size(s, attendees)
	}
	var uplinks []netip.Prefix
	for _, s := range d.plan.Sites {
		for _, u := range s.Uplinks {
			uplinks = append(uplinks, u.IPv4...)
			if u.Address4.IsValid() {
				uplinks = append(uplinks, u.Address4.Masked())
			}
		}
	}
	d.numberVLANs(d.drafts, d.lock)
	d.numberIPv4(d.drafts, d.lock, uplinks)
	for _, s := range d.plan.Sites {
		var from Uplink
		for _, u := range s.Uplinks {
			if u.IPv6.IsValid() && !from.IPv6.IsValid() {
				from = u
			}
		}
		d.numberIPv6(d.drafts, s.Name, from, d.raw.at.field("sites").field(s.Name).field("uplinks").field(from.Name).field("ipv6"), d.lock)
	}
	for _, s := range d.drafts {
		d.address(s)
	}
}

// expand makes the segments of a group.
func (d *deriver) expand(g *rawGroup) {
	areas, ssids := []Area{{Share: 1}}, []SSID{{Share: 1}}
	if slices.Contains(g.per, "area") {
		areas = d.plan.Areas
	}
	if slices.Contains(g.per, "ssid") {
		ssids = d.plan.SSIDs
	}
	if n := len(d.drafts) + len(areas)*len(ssids); n > maxSegments {
		d.at(g.at, fmt.Sprintf("with group %s the plan has %s segments", g.name, number(n)), "up to "+number(maxSegments)+", so that each has a VLAN id", "")
		return
	}
	used := map[string]bool{}
	for _, a := range areas {
		for _, s := range ssids {
			var parts []string
			for _, p := range []string{a.Name, s.Name} {
				if p != "" {
					parts = append(parts, p)
				}
			}
			name := strings.Join(parts, "-")
			if name == "" {
				name = g.name
			}
			raw := g.rawSegment
			class := Class(raw.class)
			if class == "" {
				class = classOf(g.name)
			}
			if name != g.name && class != Attendee {
				name = g.name + "-" + name // staff-hall beside the attendees' hall
			}
			if one := g.each[name]; one != nil {
				raw = override(raw, *one)
				used[name] = true
			}
			seg := &draft{raw: raw}
			seg.Name, seg.Group, seg.Area, seg.SSID, seg.OnAir = name, g.name, a.Name, s.Name, s.OnAir
			seg.Class = Class(raw.class)
			if seg.Class == "" {
				seg.Class = classOf(g.name)
			}
			seg.Devices = int(math.Ceil(float64(d.plan.Event.Devices()) * a.Share * s.Share))
			d.groups[g.name] = append(d.groups[g.name], name)
			if other := d.draftNamed(name); other != nil {
				if d.lost {
					continue
				}
				d.lost = true
				d.at(g.at, fmt.Sprintf("groups %s and %s both have a segment named %s", other.Group, g.name, name), "names that differ", "one group of attendees per area or SSID is enough; a group of class staff gets names of its own")
				continue
			}
			if len(name) > 63 {
				d.at(g.at, fmt.Sprintf("segment %s has a name of %d bytes", name, len(name)), "up to 63, as in a DNS name", "shorter names of the area and the SSID")
			}
			d.drafts = append(d.drafts, seg)
		}
	}
	names := d.groups[g.name]
	for _, key := range []string{"vlan", "ipv4", "ipv6", "gateway", "pool", "routes", "reservations", "relays", "service"} {
		if len(names) > 1 && g.at.has(key) {
			d.at(g.at.field(key), fmt.Sprintf("%d segments can't share one %s", len(names), strings.TrimSuffix(key, "s")), "each: {"+names[0]+": {"+key+": …}}", "")
			for _, s := range d.drafts {
				if s.Group == g.name {
					s.raw.forget(key, g.each[s.Name])
				}
			}
		}
	}
	for _, name := range sortedKeys(g.each) {
		if !used[name] {
			d.at(g.each[name].at, "group "+g.name+" has no segment "+name, choices(names), didYouMean(name, names))
		}
	}
}

func didYouMean(word string, candidates []string) string {
	if near := nearest(word, candidates); near != "" {
		return fmt.Sprintf("did you mean %q?", near)
	}
	return ""
}

// maxSegments is how many VLAN ids there are (IEEE 802.1Q).
const maxSegments = 4094

func (d *deriver) draftNamed(name string) *draft {
	for _, s := range d.drafts {
		if s.Name == name {
			return s
		}
	}
	return nil
}

// forget drops what a group says for all its segments and can't, so that it is told once.
func (s *rawSegment) forget(key string, each *rawSegment) {
	var one rawSegment
	if each != nil {
		one = *each
	}
	switch key {
	case "vlan":
		s.vlan = one.vlan
	case "ipv4":
		s.ipv4 = one.ipv4
	case "ipv6":
		s.ipv6 = one.ipv6
	case "gateway":
		s.gateway4 = one.gateway4
	case "pool":
		s.pool = one.pool
	case "routes":
		s.options.routes = one.options.routes
	case "reservations":
		s.reservations = one.reservations
	case "relays":
		s.relays = one.relays
	case "service":
		s.service = one.service
	}
}

func classOf(group string) Class {
	if c := Class(group); c == Server || c == Management || c == Staff {
		return c
	}
	return Attendee
}

// override is base with everything that one says.
func override(base, one rawSegment) rawSegment {
	base.at, base.group = one.at, base.at
	set(&base.class, one.class)
	set(&base.site, one.site)
	set(&base.vlan, one.vlan)
	set(&base.ipv4, one.ipv4)
	set(&base.ipv6, one.ipv6)
	set(&base.gateway4, one.gateway4)
	set(&base.pool, one.pool)
	set(&base.lease, one.lease)
	set(&base.domain, one.domain)
	set(&base.devices, one.devices)
	if one.isolateSet {
		base.isolate, base.isolateSet = one.isolate, true
	}
	if one.dns != nil {
		base.dns = one.dns
	}
	if one.ntp != nil {
		base.ntp = one.ntp
	}
	if one.relays != nil {
		base.relays = one.relays
	}
	if one.service != nil {
		base.service = one.service
	}
	if one.at.has("dhcp") {
		base.dhcp = one.dhcp
	}
	base.options = base.options.override(one.options)
	base.reservations = append(slices.Clone(base.reservations), one.reservations...)
	return base
}

func set[T comparable](dst *T, v T) {
	var zero T
	if v != zero {
		*dst = v
	}
}

// size sets what follows from class and number of devices.
func (d *deriver) size(s *draft, attendeeSegments int) {
	s.Site = s.raw.site
	if s.Site == "" && len(d.plan.Sites) > 0 {
		s.Site = d.plan.Sites[0].Name
	}
	if d.plan.Site(s.Site) == nil && s.raw.site != "" {
		d.at(s.raw.of("site"), "segment "+s.Name+" is at a site that the plan doesn't have: "+s.Site, choices(d.siteNames()), didYouMean(s.Site, d.siteNames()))
		s.Site = cmp.Or(nearest(s.Site, d.siteNames()), d.plan.Sites[0].Name)
	}
	if s.raw.domain != "" && !isDomain(s.raw.domain) {
		d.at(s.raw.of("domain"), "not a domain name", "labels of a-z, 0-9 and - with dots between", "")
	}
	s.Isolate = s.Class == Attendee
	if s.raw.isolateSet {
		s.Isolate = s.raw.isolate
	}
	switch {
	case s.raw.devices > 0:
		s.Devices = s.raw.devices
	case s.Class != Attendee:
		s.Devices = 100
	case s.Area == "" && s.SSID == "" && attendeeSegments > 1:
		// Several attendee groups without areas or SSIDs: nobody said who is where.
		s.Devices = (d.plan.Event.Devices() + attendeeSegments - 1) / attendeeSegments
	}
	// A third more than expected, so that leases of those who left do not fill the pool.
	s.need = s.Devices*13/10 + 64
	s.Lease = 12 * time.Hour
	if s.Class == Attendee {
		s.Lease = time.Hour // people come and go within a day; a device renews at half of it
	}
	set(&s.Lease, s.raw.lease)
	s.Domain = d.plan.Event.Domain
	set(&s.Domain, s.raw.domain)
}

func (d *deriver) siteNames() (names []string) {
	for _, s := range d.plan.Sites {
		names = append(names, s.Name)
	}
	return names
}

// address sets gateway, pool and reservations, once the prefix is known.
func (d *deriver) address(s *draft) {
	if !s.IPv4.IsValid() {
		return
	}
	base, last := u32(s.IPv4.Addr()), LastAddr(s.IPv4)
	s.Gateway4 = fromU32(base + 1)
	if g := s.raw.gateway4; g.IsValid() {
		if !s.IPv4.Contains(g) || g == s.IPv4.Addr() || g == last {
			d.at(s.raw.of("gateway"), fmt.Sprintf("segment %s: the gateway %s is not a host of %s", s.Name, g, s.IPv4), "a host address of the segment", "")
		}
		s.Gateway4 = g
	}
	end := u32(last) - 1
	if u32(s.Gateway4) == end {
		end-- // a gateway at the end of the prefix, as many like it
	}
	if s.IPv6.IsValid() {
		s.Gateway6 = host6(s.IPv6, 1)
	}
	s.Pool = Range{fromU32(base + reservedHosts(s.IPv4)), fromU32(end)}
	if s.raw.pool != "" {
		from, to, _ := strings.Cut(s.raw.pool, "-")
		a, err1 := netip.ParseAddr(strings.TrimSpace(from))
		b, err2 := netip.ParseAddr(strings.TrimSpace(to))
		p := Range{a, b}
		if err1 != nil || err2 != nil || !a.Is4() || !b.Is4() || !p.IsValid() || !s.IPv4.Contains(a) || !s.IPv4.Contains(b) || a == s.IPv4.Addr() || b == last || p.Contains(s.Gateway4) {
			d.at(s.raw.of("pool"), fmt.Sprintf("segment %s: the pool %q can't be used", s.Name, s.raw.pool), fmt.Sprintf("FIRST-LAST within %s, without its first and last address and the gateway %s", s.IPv4, s.Gateway4), "")
			return
		}
		s.Pool = p
	}
	if s.Pool.Contains(s.Gateway4) {
		d.at(s.raw.of("gateway"), fmt.Sprintf("segment %s: the gateway %s lies in the pool %s-%s", s.Name, s.Gateway4, s.Pool.From, s.Pool.To), "a gateway before the pool or at the end of the prefix, or pool: FIRST-LAST without it", "")
	}
	if s.Pool.Size() > maxPool {
		d.at(s.raw.of("ipv4"), fmt.Sprintf("segment %s: the pool %s-%s has %s addresses", s.Name, s.Pool.From, s.Pool.To, number(s.Pool.Size())),
			"up to "+number(maxPool)+" (a /14)", "pool: FIRST-LAST, or several segments: per: [area]")
	}
	if s.raw.devices == 0 && s.Class != Attendee {
		s.Devices = min(s.Devices, s.Pool.Size()) // a small prefix or pool says how many there are
	}
	if s.Pool.Size() < s.Devices {
		key := "ipv4"
		if s.raw.pool != "" {
			key = "pool"
		}
		d.at(s.raw.of(key), fmt.Sprintf("segment %s: the pool %s-%s has %d addresses for %d devices", s.Name, s.Pool.From, s.Pool.To, s.Pool.Size(), s.Devices),
			fmt.Sprintf("a prefix of /%d or shorter", prefixBits(s.need, 29)), "leave ipv4 out and it is sized from the attendees")
	}
}

// maxPool is the largest pool of one segment, a /14: a server keeps a note of each address.
const maxPool = 1 << 18

// newLock is what the next run shall find.
func (d *deriver) newLock() *Lock {
	l := &Lock{Segments: map[string]LockedSegment{}}
	for _, s := range d.plan.Segments {
		l.Segments[s.Name] = LockedSegment{VLAN: s.VLAN, IPv4: s.IPv4, IPv6: s.IPv6, Hosts: d.hosts[s.Name], Service: s.Service.addr4()}
	}
	return l
}
