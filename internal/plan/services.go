package plan

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// services says who answers whom, and under which names.
func (d *deriver) services() {
	var lacking []*draft
	encrypted := d.encryptedService()
	for _, s := range d.drafts {
		s.DNS4, s.DNS6 = d.resolversFor(s)
		d.reachable(s, s.raw.of("dns"), "dns", s.raw.dns)
		d.reachable(s, s.raw.of("ntp"), "ntp", s.raw.ntp)
		d.options(s)
		d.tellEncrypted(s, encrypted)
		if s.raw.dns != nil {
			s.DNS4, s.DNS6 = nil, nil
			for _, a := range s.raw.dns {
				if a.Is4() {
					s.DNS4 = append(s.DNS4, a)
				} else {
					s.DNS6 = append(s.DNS6, a)
				}
			}
		}
		for _, a := range s.raw.ntp {
			if a.Is4() {
				s.NTP4 = append(s.NTP4, a)
			}
		}
		if len(s.DNS4)+len(s.DNS6) == 0 && !s.raw.gives("dns") {
			lacking = append(lacking, s)
		}
		d.plan.Segments = append(d.plan.Segments, s.Segment)
	}
	d.lack(lacking, "no resolver", "a node of its site with role resolver and an interface in it or in a server segment, or dns: [addresses]")
	d.shared()
	d.plan.Resolver = d.resolver()
	d.plan.Resolver.Encrypted = encrypted
	d.plan.Resolver.VRRP = d.raw.resolver.vrrp.plan(d.drafts)
	d.plan.NTP.Sources = d.raw.ntp
	d.names()
	d.blocks()
}

// reachable finds services that devices of the segment would ask in vain.
func (d *deriver) reachable(s *draft, at *value, key string, given []netip.Addr) {
	four := 0
	for i, a := range given {
		here := at
		if at.kind == list && i < len(at.items) && len(at.items) == len(given) {
			here = at.items[i]
		}
		if a.Is4() {
			four++
		}
		if four > 3 || i+1-four > 3 {
			d.at(here, fmt.Sprintf("segment %s has more than three addresses for %s", s.Name, key), "up to 3 of each family: devices ask no more", "")
			return
		}
		switch in := d.segmentOf(a); {
		case slices.Contains(given[:i], a):
			d.at(here, fmt.Sprintf("%s stands twice for segment %s", a, s.Name), "each address once", "")
		case a.Is6() && !s.IPv6.IsValid():
			d.at(here, fmt.Sprintf("segment %s has no IPv6 to reach %s", s.Name, a), "an IPv4 address, or ipv6 for the uplink or the segment", "")
		case in == nil && a.IsPrivate():
			d.warn(here, fmt.Sprintf("%s is a private address in no segment of the plan", a), "well, if the uplink leads there")
		case in == nil:
		case a.Is4() && !in.host(a):
			d.at(here, fmt.Sprintf("%s is not a host of %s", a, in.IPv4), "the address of a machine", "")
		case in.Pool.Contains(a) && !slices.ContainsFunc(in.Reservations, func(r Reservation) bool { return r.Addr == a }):
			d.at(here, fmt.Sprintf("%s lies in the pool of segment %s: a device may get it", a, in.Name), "an address outside the pool, or a reservation", "")
		case s.Class == Attendee && in.Name != s.Name && in.Class != Server:
			d.at(here, fmt.Sprintf("%s is in segment %s, where devices of segment %s do not get", a, in.Name, s.Name), "an address in this segment, in a server segment or on the internet", "")
		}
	}
}

// segmentOf is the segment that holds the address, or nil.
func (d *deriver) segmentOf(a netip.Addr) *draft {
	for _, s := range d.drafts {
		if s.IPv4.IsValid() && s.IPv4.Contains(a) || s.IPv6.IsValid() && s.IPv6.Contains(a) {
			return s
		}
	}
	return nil
}

// resolversFor lists the resolvers of a segment: those in it first, then those of the same
// site's server segments, the address that several share before their own; at most 3 of each
// family.
func (d *deriver) resolversFor(s *draft) (v4, v6 []netip.Addr) {
	addr := func(a4, a6 netip.Addr) {
		if a4.IsValid() && len(v4) < 3 && !slices.Contains(v4, a4) {
			v4 = append(v4, a4)
		}
		if a6.IsValid() && s.IPv6.IsValid() && len(v6) < 3 && !slices.Contains(v6, a6) {
			v6 = append(v6, a6)
		}
	}
	add := func(a *Attachment) { addr(a.IPv4.Addr(), a.IPv6.Addr()) }
	for _, own := range []bool{true, false} {
		for _, o := range d.drafts {
			if o.Service != nil && (own && o == s || !own && o != s && o.Class == Server && o.Site == s.Site) {
				addr(o.Service.IPv4, o.Service.IPv6)
			}
		}
		for i := range d.plan.Nodes {
			n := &d.plan.Nodes[i]
			if !n.Has(RoleResolver) || n.Site != s.Site || !own && n.Attachment(s.Name) != nil {
				continue
			}
			for k := range n.Attachments {
				a := &n.Attachments[k]
				if own && a.Segment == s.Name || !own && d.class(a.Segment) == Server {
					add(a)
				}
			}
		}
	}
	return v4, v6
}

func (d *deriver) class(segment string) Class {
	for _, s := range d.drafts {
		if s.Name == segment {
			return s.Class
		}
	}
	return ""
}

// names are the event's own: nodes, gateways, reservations and what the plan adds.
func (d *deriver) names() {
	domain := d.plan.Event.Domain
	owner := map[string]string{}
	for _, n := range d.plan.Nodes {
		owner[n.FQDN] = "node " + n.Name
	}
	for _, s := range d.drafts {
		owner["gw."+s.Name+"."+domain] = "the gateway of segment " + s.Name
		if s.Service != nil {
			owner[s.Service.FQDN] = "the service address of segment " + s.Name
		}
	}
	for _, s := range d.drafts {
		for _, r := range s.raw.reservations {
			name, whose := r.name+"."+domain, "reservation "+r.name+" of "+r.reservation().Device()
			// One device may have a reservation in each segment it visits.
			if o := owner[name]; o != "" && o != whose {
				d.at(r.at, fmt.Sprintf("reservation %s: %s is already the name of %s", r.name, name, o), "a name of its own", "")
			}
			owner[name] = whose
		}
	}
	for _, l := range d.raw.resolver.local {
		name := l.name
		if !strings.Contains(name, ".") {
			name += "." + domain
		}
		if o := owner[name]; o != "" {
			d.at(l.at, fmt.Sprintf("resolver: %s is already the name of %s", name, o), "another name", "")
		}
		for _, a := range l.addrs {
			d.raw.local = append(d.raw.local, Name{name, a})
		}
	}
	add := func(name string, p netip.Addr) {
		if p.IsValid() {
			d.plan.Resolver.Names = append(d.plan.Resolver.Names, Name{name, p})
		}
	}
	for _, n := range d.plan.Nodes {
		if a := d.home(&n); a != nil {
			add(n.FQDN, a.IPv4.Addr())
			if a.IPv6.IsValid() {
				add(n.FQDN, a.IPv6.Addr())
			}
		}
	}
	for _, s := range d.plan.Segments {
		add("gw."+s.Name+"."+domain, s.Gateway4)
		add("gw."+s.Name+"."+domain, s.Gateway6)
		if s.Service != nil {
			add(s.Service.FQDN, s.Service.IPv4)
			add(s.Service.FQDN, s.Service.IPv6)
		}
		for _, r := range s.Reservations {
			add(r.Name+"."+domain, r.Addr)
		}
	}
	d.plan.Resolver.Names = append(d.plan.Resolver.Names, d.raw.local...)
}

// home is the attachment whose addresses a node's name stands for: the server segment's
// first, then management, then any.
func (d *deriver) home(n *Node) *Attachment {
	for _, c := range []Class{Server, Management} {
		for i := range n.Attachments {
			if d.class(n.Attachments[i].Segment) == c {
				return &n.Attachments[i]
			}
		}
	}
	if len(n.Attachments) > 0 {
		return &n.Attachments[0]
	}
	return nil
}

// Least timers of the RFCs: shorter ones break what the texts name.
const (
	leastTCPEstablished = 2*time.Hour + 4*time.Minute // RFC 5382 section 5, REQ-5
	leastTCPTransitory  = 4 * time.Minute             // RFC 5382 section 5, REQ-5
	leastICMP           = 60 * time.Second            // RFC 5508 section 3.2, REQ-2
)

func (d *deriver) napt() {
	raw, n := d.raw.napt, &d.plan.NAPT
	n.Exit, n.Standby, n.Use = raw.exit, raw.standby, raw.use
	if n.Exit == "" && len(d.plan.Sites) > 0 {
		n.Exit = d.plan.Sites[0].Name
	}
	for _, c := range []struct{ key, site string }{{"exit", n.Exit}, {"standby", n.Standby}} {
		at := raw.at.field(c.key)
		switch s := d.plan.Site(c.site); {
		case c.site == "":
		case s == nil:
			d.at(at, "napt: the plan has no site "+c.site, choices(d.siteNames()), didYouMean(c.site, d.siteNames()))
		case len(s.Uplinks) == 0 && !d.lost:
			d.at(at, fmt.Sprintf("napt: %s %s has no uplink", c.key, c.site), "a site with an uplink", "")
		}
	}
	if n.Exit != "" && d.plan.Site(n.Exit) != nil && n.Exit != d.plan.Sites[0].Name && slices.ContainsFunc(d.drafts, func(s *draft) bool { return s.Site != n.Exit }) {
		d.at(raw.at.field("exit"), "napt: the segments are not at the exit "+n.Exit, "the site of the segments", "this version has no tunnel that would take them to another site")
	}
	if n.Standby != "" && n.Standby == n.Exit {
		d.at(raw.at.field("standby"), "napt: exit and standby are the same site", "two sites, or no standby", "")
	}
	n.Timeouts = Timeouts{
		// 30 s: YAPC::Asia 2013 ran 10,000 to 25,000 sessions with it. A question and its
		// answer stay on the timer of the unreplied, so both have it.
		UDP: 30 * time.Second, UDPStream: 30 * time.Second,
		TCPEstablished: leastTCPEstablished, TCPTransitory: leastTCPTransitory, ICMP: leastICMP,
		// As short as UDP's, where RFC 5382 would keep the 4 minutes of the transitory states:
		// nothing more comes on it but a late segment, and most entries of a table are these.
		TCPClosed: 30 * time.Second,
	}
	t, r := &n.Timeouts, raw.timeouts
	set(&t.UDP, r.UDP)
	set(&t.UDPStream, r.UDP)
	set(&t.UDPStream, r.UDPStream)
	set(&t.TCPEstablished, r.TCPEstablished)
	set(&t.TCPTransitory, r.TCPTransitory)
	set(&t.TCPClosed, r.TCPClosed)
	set(&t.ICMP, r.ICMP)
	for _, c := range []struct {
		name         string
		given, least time.Duration
		rfc          string
	}{
		{"tcp", r.TCPEstablished, leastTCPEstablished, "RFC 5382 REQ-5; idle ssh and push connections break"},
		{"tcp_transitory", r.TCPTransitory, leastTCPTransitory, "RFC 5382 REQ-5; slow handshakes break"},
		{"icmp", r.ICMP, leastICMP, "RFC 5508 REQ-2; slow pings look lost"},
	} {
		if c.given != 0 && c.given < c.least {
			d.warn(raw.at.field("timeout").field(c.name), fmt.Sprintf("napt timeout %s of %s is shorter than %s (%s)", c.name, span(c.given), span(c.least), c.rfc), "leave it out: "+span(c.least)+" is the default")
		}
	}
	n.Sessions = int(float64(d.plan.Event.Attendees*d.plan.Event.SessionsPerAttendee) * t.UDP.Seconds() / 30)
	n.Table = int(float64(n.Sessions) / n.Use)
	if s := d.plan.Site(n.Exit); s != nil {
		for _, u := range s.Uplinks {
			n.Addresses = append(n.Addresses, u.Addresses4()...)
		}
	}
	d.checkNAPT()
}

// PortsPerAddress is how many sessions one address can have to one destination and
// protocol: ports 1024 to 65535.
const PortsPerAddress = 65536 - 1024

// BusiestShare is the share of all sessions that we assume goes to one destination address
// and port (a large CDN's); only those compete for the ports of an address.
const BusiestShare = 0.25

// mostConntrack is the largest table that a plan may ask for: 3 GB of kernel memory, more
// than a borrowed machine can spare.
const mostConntrack = 10_000_000

// portsNeeded is how many ports the busiest destination takes.
func (n NAPT) portsNeeded() float64 { return float64(n.Sessions) * BusiestShare }

// portsThere is how many ports may be taken towards one destination. An exit whose address
// is only known at run time counts as one address.
func (n NAPT) portsThere() float64 {
	return float64(max(1, len(n.Addresses))*PortsPerAddress) * n.Use
}

// checkNAPT holds the sessions against the table and the ports.
func (d *deriver) checkNAPT() {
	n := &d.plan.NAPT
	if n.Table > mostConntrack {
		d.at(d.raw.napt.at, fmt.Sprintf("NAPT needs a table of %s entries: %s sessions at %.4g%% use", number(n.Table), number(n.Sessions), n.Use*100),
			fmt.Sprintf("up to %s, which take 3 GB of kernel memory", number(mostConntrack)), "a shorter udp timeout, or a larger use")
		return
	}
	if need, have := n.portsNeeded(), n.portsThere(); need > have {
		d.at(d.raw.napt.at, fmt.Sprintf("NAPT has too few ports: %s sessions, a quarter of them to one destination, need %s; the exit has %s: addresses: %d x %s ports x %.4g%% use",
			number(n.Sessions), number(int(need)), number(int(have)), max(1, len(n.Addresses)), number(PortsPerAddress), n.Use*100), "",
			"more addresses at the exit's uplink, or a shorter udp timeout")
	}
}

func (d *deriver) rest() {
	d.plan.Tunnel = Tunnel{Route: d.raw.tunnel.route, Stretch: d.raw.tunnel.stretch}
	for _, name := range slices.Concat(d.plan.Tunnel.Route, d.plan.Tunnel.Stretch) {
		if len(d.named(name)) == 0 {
			d.noSegment(d.raw.tunnel.at.field("route"), name)
		}
	}
	if len(d.plan.Tunnel.Route)+len(d.plan.Tunnel.Stretch) > 0 {
		d.warn(d.raw.tunnel.at, "this version does not build the tunnel", "the sites stand alone meanwhile")
	}
	h := d.raw.rehearsal
	d.plan.Rehearsal = Rehearsal{People: h.people, Doors: h.doors, Stay: h.stay, Seed: int64(h.seed), Faults: h.faults}
	for i, f := range h.faults {
		d.checkFault(f, h.faultsAt[i])
	}
	slices.SortStableFunc(d.plan.Rehearsal.Faults, func(a, b RehearsalFault) int { return cmp.Compare(a.At, b.At) })
	d.plan.Secrets = d.raw.secrets
	devices := 0
	for _, s := range d.plan.Segments {
		devices += s.Devices
	}
	// A device has up to three IPv6 addresses beside its IPv4 one; half as much again for
	// those that left and are not yet forgotten.
	d.plan.Limits = Limits{Neighbours: devices * 4 * 3 / 2, Conntrack: d.plan.NAPT.Table}
}

// checkFault holds a fault of the rehearsal's script against the plan.
func (d *deriver) checkFault(f RehearsalFault, at *value) {
	var nodes, uplinks []string
	for _, n := range d.plan.Nodes {
		nodes = append(nodes, n.Name)
	}
	for _, s := range d.plan.Sites {
		for _, u := range s.Uplinks {
			uplinks = append(uplinks, u.Name)
		}
	}
	kinds := 0
	for _, is := range []bool{f.Kill != "", f.Cut != "", f.Silence.IsValid(), f.Outage} {
		if is {
			kinds++
		}
	}
	switch {
	case kinds != 1:
		d.at(at, fmt.Sprintf("a fault of the rehearsal breaks %d things", kinds), "one of kill: NODE, cut: UPLINK, silence: ADDRESS and outage: true", "")
	case f.Kill != "" && !slices.Contains(nodes, f.Kill):
		d.at(at.field("kill"), fmt.Sprintf("the plan has no node %q to kill", f.Kill), choices(nodes), didYouMean(f.Kill, nodes))
	case f.Silence.IsValid() && !d.plan.Resolver.asks(f.Silence):
		d.at(at.field("silence"), fmt.Sprintf("%s is no resolver that the plan's ask", f.Silence), "one of resolver.recursion", "")
	case f.Cut != "" && !slices.Contains(uplinks, f.Cut):
		d.at(at.field("cut"), fmt.Sprintf("the plan has no uplink %q to cut", f.Cut), choices(uplinks), didYouMean(f.Cut, uplinks))
	}
}
