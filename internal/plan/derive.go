package plan

import (
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

func didYouMean(word string, candidates []string) string {
	if near := nearest(word, candidates); near != "" {
		return fmt.Sprintf("did you mean %q?", near)
	}
	return ""
}

// maxSegments is how many VLAN ids there are (IEEE 802.1Q).
const maxSegments = 4094

func (d *deriver) siteNames() (names []string) {
	for _, s := range d.plan.Sites {
		names = append(names, s.Name)
	}
	return names
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
