package plan

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// defaultNodes is the one machine of a plan that names none: everything on a gateway with
// one interface to the first uplink and a trunk of all segments.
func (d *deriver) defaultNodes() []rawNode {
	site := d.plan.Sites[0]
	n := rawNode{at: d.raw.event.at, name: "gw1", site: site.Name, roles: []string{string(RoleRouter), string(RoleDHCP), string(RoleResolver)}}
	n.rolesAt = make([]*value, len(n.roles))
	if len(site.Uplinks) > 0 {
		n.interfaces = append(n.interfaces, rawInterface{at: n.at, name: "eth0", uplink: site.Uplinks[0].Name})
	}
	trunk := rawInterface{at: n.at, name: "eth1"}
	for _, g := range d.raw.groups {
		trunk.trunk, trunk.trunkAt = append(trunk.trunk, g.name), append(trunk.trunkAt, n.at)
	}
	n.interfaces = append(n.interfaces, trunk)
	return []rawNode{n}
}

func (d *deriver) nodes() {
	if len(d.raw.nodes) == 0 {
		d.raw.nodes = d.defaultNodes()
	}
	d.lost = d.lost || d.toldUnder("$.nodes")
	used := map[string]bool{}
	for _, raw := range d.raw.nodes {
		n := Node{Name: raw.name, FQDN: raw.name + "." + d.plan.Event.Domain, Site: raw.site}
		if n.Site == "" {
			n.Site = d.plan.Sites[0].Name
		}
		if d.plan.Site(n.Site) == nil {
			d.at(raw.siteAt, "the plan has no such site", choices(d.siteNames()), didYouMean(n.Site, d.siteNames()))
			n.Site, d.lost = cmp.Or(nearest(n.Site, d.siteNames()), d.plan.Sites[0].Name), true
		}
		for i, role := range raw.roles {
			if n.Has(Role(role)) {
				d.at(raw.rolesAt[i], "the role stands twice", "each role once", "")
				continue
			}
			n.Roles = append(n.Roles, Role(role))
		}
		for _, i := range raw.interfaces {
			n.Interfaces = append(n.Interfaces, d.connect(&n, i, used))
		}
		d.attach(&n, raw)
		d.plan.Nodes = append(d.plan.Nodes, n)
	}
	d.hosts = map[string]map[string]netip.Addr{}
	for _, s := range d.drafts {
		if s.IPv4.IsValid() {
			d.numberHosts(s)
		}
	}
	d.lack(d.noGateway, "no gateway", "a node with role router and an interface in it")
	d.splitPools()
	d.checkPairs()
	for i, n := range d.plan.Nodes {
		d.checkRoles(n, d.raw.nodes[i])
	}
	d.checkRouters()
	for _, s := range d.raw.sites {
		for _, u := range s.uplinks {
			if !used[s.name+"/"+u.name] && !d.lost {
				d.at(u.at, "no node has the uplink "+u.name, fmt.Sprintf("a node at %s with interfaces: {eth0: {uplink: %s}}", s.name, u.name), "")
			}
		}
	}
}

// connect looks up the names of an interface.
func (d *deriver) connect(n *Node, raw rawInterface, used map[string]bool) Interface {
	i := Interface{Name: raw.name, Uplink: raw.uplink}
	kinds := 0
	for _, set := range []bool{raw.uplink != "", raw.segment != "", len(raw.trunk) > 0} {
		if set {
			kinds++
		}
	}
	if kinds != 1 {
		if kinds > 0 || len(raw.at.entries) == 0 {
			d.at(raw.at, fmt.Sprintf("interface %s of %s has %d uses", raw.name, n.Name, kinds), "exactly one of uplink, segment and trunk", "")
		}
		d.lost = true
		return Interface{Name: raw.name}
	}
	if raw.uplink != "" {
		if d.plan.Uplink(n.Site, raw.uplink) == nil {
			var names []string
			for _, u := range d.plan.Site(n.Site).Uplinks {
				names = append(names, u.Name)
			}
			d.at(raw.at.field("uplink"), fmt.Sprintf("site %s has no uplink %s", n.Site, raw.uplink), choices(names), didYouMean(raw.uplink, names))
			i.Uplink, d.lost = "", true
		} else if used[n.Site+"/"+raw.uplink] {
			d.at(raw.at.field("uplink"), "two interfaces have the uplink "+raw.uplink, "one", "")
		}
		used[n.Site+"/"+raw.uplink] = true
	}
	if raw.segment != "" {
		found := d.named(raw.segment)
		switch {
		case len(found) == 0:
			d.noSegment(raw.at.field("segment"), raw.segment)
		case len(found) > 1:
			d.lost = true
			d.at(raw.at.field("segment"), fmt.Sprintf("%s is %d segments", raw.segment, len(found)), "one segment: "+choices(found), "several go over trunk:")
		default:
			i.Segment = found[0]
			d.sameSite(raw.at.field("segment"), n, found[0])
		}
	}
	for k, name := range raw.trunk {
		found := d.named(name)
		if len(found) == 0 {
			d.noSegment(raw.trunkAt[k], name)
		}
		if len(found) > 0 {
			d.sameSite(raw.trunkAt[k], n, found[0])
		}
		for _, f := range found {
			if slices.Contains(i.Trunk, f) {
				if !d.lost {
					d.at(raw.trunkAt[k], "segment "+f+" is on this trunk twice", "each once", "")
				}
				continue
			}
			i.Trunk = append(i.Trunk, f)
		}
	}
	return i
}

// sameSite finds a node with an interface in a segment of another site.
func (d *deriver) sameSite(at *value, n *Node, segment string) {
	if s := d.draftNamed(segment); s != nil && s.Site != n.Site {
		d.at(at, fmt.Sprintf("segment %s is at site %s and node %s at %s", segment, s.Site, n.Name, n.Site), "a segment of the node's site",
			"give the segment site: "+n.Site+", or the node site: "+s.Site)
		d.lost = true
	}
}

// named lists the segments of a group, or the one segment of that name.
func (d *deriver) named(name string) []string {
	if d.draftNamed(name) != nil {
		return []string{name}
	}
	return d.groups[name]
}

func (d *deriver) noSegment(at *value, name string) {
	var names []string
	for _, s := range d.drafts {
		names = append(names, s.Name)
		if !slices.Contains(names, s.Group) {
			names = append(names, s.Group)
		}
	}
	d.lost = true
	d.at(at, "the plan has no segment "+name, choices(names), didYouMean(name, names))
}

// attach gathers a node's interfaces by segment.
func (d *deriver) attach(n *Node, raw rawNode) {
	devices := map[string]bool{}
	for _, i := range n.Interfaces {
		devices[i.Name] = true
	}
	for _, s := range d.drafts {
		var ports []Port
		for _, i := range n.Interfaces {
			if i.Segment == s.Name {
				ports = append(ports, Port{Device: i.Name})
			}
			if slices.Contains(i.Trunk, s.Name) {
				p := Port{Device: vlanDevice(i.Name, s.VLAN), Parent: i.Name, VLAN: s.VLAN}
				if devices[p.Device] {
					d.at(raw.at, fmt.Sprintf("node %s would have two interfaces named %s", n.Name, p.Device), "interface names that differ in their first letters", "")
				}
				devices[p.Device] = true
				ports = append(ports, p)
			}
		}
		if len(ports) == 0 {
			continue
		}
		a := Attachment{Segment: s.Name, Device: ports[0].Device, Ports: ports}
		if len(ports) > 1 {
			a.Device = fmt.Sprintf("br%d", s.VLAN)
			if devices[a.Device] {
				d.at(raw.at, fmt.Sprintf("node %s would have two interfaces named %s: one is the bridge of segment %s", n.Name, a.Device, s.Name), "another name than "+a.Device, "")
			}
		}
		n.Attachments = append(n.Attachments, a)
	}
}

// vlanDevice names a VLAN interface "eth1.101"; the parent's part is cut so that all fits
// the 15 bytes of a Linux interface name.
func vlanDevice(parent string, id int) string {
	tail := fmt.Sprintf(".%d", id)
	return parent[:min(len(parent), 15-len(tail))] + tail
}

// numberHosts gives each node of a segment its address there: the gateway to the first
// router, the others one of the reserved hosts by their names; then the reservations.
func (d *deriver) numberHosts(s *draft) {
	locked := d.lock.Segments[s.Name].Hosts
	given := map[string]netip.Addr{}
	taken := map[netip.Addr]string{s.Gateway4: "the gateway"}
	gateway := false
	var waiting, full []string
	for i := range d.plan.Nodes {
		n := &d.plan.Nodes[i]
		a := n.Attachment(s.Name)
		if a == nil {
			continue
		}
		if n.Has(RoleRouter) && !gateway {
			gateway, a.Gateway = true, true
			d.place(s, a, s.Gateway4)
			continue
		}
		waiting = append(waiting, n.Name)
	}
	for _, res := range s.raw.reservations {
		d.reserve(s, res, given, taken)
	}
	d.relays(s, taken)
	d.keepService(s, locked, taken)
	slices.Sort(waiting)
	for _, lockedFirst := range []bool{true, false} {
		for _, name := range waiting {
			if given[name].IsValid() {
				continue
			}
			addr := locked[name]
			if lockedFirst && (!s.host(addr) || s.Pool.Contains(addr) || taken[addr] != "") {
				continue
			}
			if !lockedFirst {
				if addr = s.freeHost(name, taken); !addr.IsValid() {
					full = append(full, name)
					continue
				}
				if was := locked[name]; was.IsValid() && s.IPv4.Contains(was) && was != addr {
					d.warn(s.raw.at, fmt.Sprintf("node %s moves in segment %s from %s to %s: its address was given away", name, s.Name, was, addr), "")
				}
			}
			given[name], taken[addr] = addr, name
		}
	}
	for i := range d.plan.Nodes {
		if a := d.plan.Nodes[i].Attachment(s.Name); a != nil && !a.Gateway && given[d.plan.Nodes[i].Name].IsValid() {
			d.place(s, a, given[d.plan.Nodes[i].Name])
		}
	}
	if len(full) > 0 {
		key := "ipv4"
		if s.raw.pool != "" {
			key = "pool"
		}
		d.at(s.raw.of(key), fmt.Sprintf("segment %s has no address left outside its pool %s-%s for %s", s.Name, s.Pool.From, s.Pool.To, choices(full)), "a pool that begins later, or a shorter prefix", "")
	}
	if !gateway {
		d.noGateway = append(d.noGateway, s)
	}
	d.hosts[s.Name] = given
	d.addService(s, taken)
}

// host tells whether a is one of the segment's host addresses.
func (s *draft) host(a netip.Addr) bool {
	return a.IsValid() && s.IPv4.Contains(a) && a != s.IPv4.Addr() && a != LastAddr(s.IPv4)
}

// freeHost is the address for a node by its name: among the reserved hosts, else any other
// that is not in the pool, else invalid.
func (s *draft) freeHost(name string, taken map[netip.Addr]string) netip.Addr {
	base, room := u32(s.IPv4.Addr()), reservedHosts(s.IPv4)
	free := func(a netip.Addr) bool { return s.host(a) && taken[a] == "" && !s.Pool.Contains(a) }
	for i := range room - 2 {
		if a := fromU32(base + 2 + (hash(name)+i)%(room-2)); free(a) {
			return a
		}
	}
	// Beside a pool given by hand: before it from its start down, then behind it.
	for a := s.Pool.From; s.IPv4.Contains(a); a = a.Prev() {
		if free(a) {
			return a
		}
	}
	for a := s.Pool.To; s.IPv4.Contains(a); a = a.Next() {
		if free(a) {
			return a
		}
	}
	return netip.Addr{}
}

// relays keeps the addresses of relays for them; what they send is served for this segment.
func (d *deriver) relays(s *draft, taken map[netip.Addr]string) {
	at := s.raw.of("relays")
	for i, a := range s.raw.relays {
		here := at
		if at.kind == list && len(at.items) == len(s.raw.relays) {
			here = at.items[i]
		}
		switch {
		case !s.host(a):
			d.at(here, fmt.Sprintf("relay %s is not a host of segment %s (%s)", a, s.Name, s.IPv4), "the relay's address in this segment, which it writes into giaddr (RFC 1542)", "")
		case s.Pool.Contains(a):
			d.at(here, fmt.Sprintf("relay %s lies in the pool of segment %s: a device may get it", a, s.Name), fmt.Sprintf("an address outside %s-%s", s.Pool.From, s.Pool.To), "")
		case taken[a] != "":
			d.at(here, fmt.Sprintf("relay %s is already that of %s", a, taken[a]), "a relay of its own, such as a layer 3 switch; the plan's nodes need none", "")
		default:
			taken[a] = "a relay"
			s.Relays = append(s.Relays, a)
		}
	}
}

func (d *deriver) place(s *draft, a *Attachment, addr netip.Addr) {
	a.IPv4 = netip.PrefixFrom(addr, s.IPv4.Bits())
	if s.IPv6.IsValid() {
		n := u32(addr) - u32(s.IPv4.Addr())
		if a.Gateway {
			n = 1
		}
		a.IPv6 = netip.PrefixFrom(host6(s.IPv6, n), 64)
	}
}

// lack tells once what all these segments lack.
func (d *deriver) lack(ds []*draft, what, allowed string) {
	var names []string
	for _, s := range ds {
		names = append(names, s.Name)
	}
	switch {
	case d.lost || len(ds) == 0:
	case len(ds) == 1:
		d.at(ds[0].raw.at, "segment "+ds[0].Name+" has "+what, allowed, "")
	default:
		all := strings.Join(names[:len(names)-1], ", ") + " and " + names[len(names)-1]
		at := d.raw.at.field("nodes")
		d.tell(Fault{Line: at.line, Column: at.col, Path: at.path, Words: "segments " + all + " have " + what, Allowed: allowed})
	}
}

// checkRouters finds uplinks on nodes that do not route, gateways without a way out, and
// second routers.
func (d *deriver) checkRouters() {
	if d.lost {
		return
	}
	first, stray := map[string]string{}, false
	for i := range d.plan.Nodes {
		n, raw := &d.plan.Nodes[i], d.raw.nodes[i]
		for k, f := range n.Interfaces {
			if f.Uplink != "" && !n.Has(RoleRouter) {
				d.at(raw.interfaces[k].at, fmt.Sprintf("node %s has the uplink %s but does not route", n.Name, f.Uplink), "an uplink of a node with role router", "add router to its roles")
				stray = true
			}
		}
	}
	for i := range d.plan.Nodes {
		n, raw := &d.plan.Nodes[i], d.raw.nodes[i]
		if !n.Has(RoleRouter) {
			continue
		}
		uplinks := slices.ContainsFunc(n.Interfaces, func(f Interface) bool { return f.Uplink != "" })
		var without, second []string
		for _, a := range n.Attachments {
			switch {
			case a.Gateway && !uplinks:
				without = append(without, a.Segment)
			case !a.Gateway:
				second = append(second, a.Segment)
			}
			if a.Gateway {
				first[a.Segment] = n.Name
			}
		}
		if len(without) > 0 && !stray {
			d.at(raw.at, fmt.Sprintf("router %s is the gateway of %s and has no uplink", n.Name, strings.Join(without, ", ")), "an interface with an uplink of site "+n.Site, "or put the router with the uplink first: the first router in a segment is its gateway")
		}
		if len(second) > 0 {
			d.warn(raw.at, fmt.Sprintf("router %s is not the gateway of %s: %s is", n.Name, strings.Join(second, ", "), first[second[0]]), "this version does not move a gateway to another node")
		}
	}
}

// checkRoles holds a node's roles against its interfaces.
func (d *deriver) checkRoles(n Node, raw rawNode) {
	if len(n.Roles) == 0 && !raw.at.has("roles") {
		d.warn(raw.at, "node "+n.Name+" has no role: it only has addresses", "roles: [router, dhcp, resolver]")
	}
	hasUplink := slices.ContainsFunc(n.Interfaces, func(i Interface) bool { return i.Uplink != "" })
	for i, role := range n.Roles {
		at := raw.at
		if i < len(raw.rolesAt) && raw.rolesAt[i] != nil {
			at = raw.rolesAt[i]
		}
		switch role {
		case RoleRouter:
			if len(n.Attachments) == 0 && !hasUplink && !d.lost {
				d.at(at, "router "+n.Name+" has no interface to route between", "interfaces with uplink:, segment: or trunk:", "")
			}
		case RoleDHCP:
			switch {
			case d.lost:
			case len(n.Attachments) == 0:
				d.warn(at, "dhcp on "+n.Name+" serves nothing: it has no interface in a segment", "this version has no tunnel to relay to it; it stands by")
			case !slices.ContainsFunc(d.drafts, func(s *draft) bool { return !s.Pool.IsValid() || slices.Contains(s.Servers, n.Name) }):
				d.warn(at, "dhcp on "+n.Name+" serves nothing: no segment has it under dhcp", "it stands by; put it there, or take the role away")
			}
		case RoleResolver:
			if len(n.Attachments) == 0 && !d.lost {
				d.warn(at, "resolver on "+n.Name+" serves nothing: it has no interface in a segment", "this version has no tunnel; it stands by")
			}
		case RoleNTP, RoleSyslog, RoleMonitor:
			instead := map[Role]string{RoleNTP: "chronyd", RoleSyslog: "rsyslog", RoleMonitor: "Prometheus"}[role]
			d.warn(at, fmt.Sprintf("this version does not serve %s: %s goes without", role, n.Name), "run "+instead+" there meanwhile")
		}
	}
}
