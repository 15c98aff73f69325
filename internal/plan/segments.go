package plan

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"
)

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
