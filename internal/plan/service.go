package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// ServiceAddress is the address that the resolvers of a segment share: one of them has it at a time.
type ServiceAddress struct {
	FQDN  string // without a trailing dot
	VRID  int    // of the virtual router (RFC 9568), 1 to 255; the same for both families
	IPv4  netip.Addr
	IPv6  netip.Addr // invalid without IPv6
	Nodes []Sharer   // in the order in which they have it
}

// Sharer is a node that may have a service address.
type Sharer struct {
	Node     string
	Priority int
	IPv4     netip.Addr // its advertisements come from there, or
	IPv6     netip.Addr // from there: link-local, valid where the segment has IPv6
}

// VRRP is how service addresses move.
type VRRP struct {
	Interval time.Duration // between advertisements, a multiple of 10 ms
	Preempt  bool          // a better node takes the address from one that is well too
}

const (
	// vrrpInterval lets an address move within a fifth of a second.
	vrrpInterval = 50 * time.Millisecond
	// First priority of a node, and how much less each further one has, down to the least.
	// RFC 9568 section 5.2.4 keeps 255 for who owns the address.
	firstPriority, priorityStep, leastPriority = 200, 10, 110
)

// PriorityUnwell is how much less the priority of a node is that cannot resolve: less than
// that of any that can.
const PriorityUnwell = 100

func (s *ServiceAddress) addr4() netip.Addr {
	if s == nil {
		return netip.Addr{}
	}
	return s.IPv4
}

// rawVRRP is what the plan says of it.
type rawVRRP struct {
	off      bool
	interval time.Duration
	preempt  bool
}

// vrrp reads the word off, or a mapping.
func (r *reader) vrrp(v *value, x *rawVRRP) {
	if v.kind == scalar {
		if v.text != "off" {
			r.at(v, "not a way to share an address", "off, or a mapping of interval and preempt", "left out, resolvers in one segment share an address")
		}
		x.off = v.text == "off"
		return
	}
	r.fields(v, map[string]func(*value){
		"interval": func(v *value) {
			r.duration(&x.interval, 10*time.Millisecond, 4095*10*time.Millisecond)(v) // RFC 9568 section 5.2.7: 12 bits
			if x.interval%(10*time.Millisecond) != 0 {
				r.at(v, "VRRP counts in hundredths of a second", "a multiple of 10ms from 10ms to 40.95s", "")
			}
		},
		"preempt": r.boolean(&x.preempt),
	})
}

// plan is nil when no segment has a service address.
func (x rawVRRP) plan(ds []*draft) *VRRP {
	if !slices.ContainsFunc(ds, func(s *draft) bool { return s.Service != nil }) {
		return nil
	}
	return &VRRP{Interval: x.interval, Preempt: x.preempt}
}

// sharers are the names of the nodes that may have a service address in the segment.
func (d *deriver) sharers(segment string) (names []string) {
	for i := range d.plan.Nodes {
		if n := &d.plan.Nodes[i]; n.Has(RoleResolver) && n.Attachment(segment) != nil {
			names = append(names, n.Name)
		}
	}
	return names
}

// keepService takes the segment's service address as the plan gives it or as it was, before
// nodes that have no address yet may get it.
func (d *deriver) keepService(s *draft, locked map[string]netip.Addr, taken map[netip.Addr]string) {
	names := d.sharers(s.Name)
	switch at := s.raw.of("service"); {
	case len(s.raw.service) == 0:
	case d.raw.resolver.vrrp.off:
		d.at(at, "segment "+s.Name+" has a service address, and vrrp is off", "one of both", "")
		return
	case len(names) < 2 && !d.lost:
		d.at(at, fmt.Sprintf("segment %s has a service address and %d resolver nodes", s.Name, len(names)), "two or more nodes with role resolver and an interface in it", "one that moves nowhere is the node's own address")
		return
	}
	if len(names) < 2 || d.raw.resolver.vrrp.off {
		return
	}
	s.Service = &ServiceAddress{FQDN: "dns." + s.Name + "." + d.plan.Event.Domain, VRID: 1 + int(hash(s.Name+"/resolver")%255)}
	for _, a := range s.raw.service {
		d.giveService(s, a, taken)
	}
	was := d.lock.Segments[s.Name].Service
	kept := func(a netip.Addr) bool { // by a node
		for _, x := range locked {
			if x == a {
				return true
			}
		}
		return false
	}
	if !s.Service.IPv4.IsValid() && s.host(was) && !s.Pool.Contains(was) && taken[was] == "" && !kept(was) {
		s.Service.IPv4 = was
	}
	if s.Service.IPv4.IsValid() {
		taken[s.Service.IPv4] = "the service address"
	}
}

// giveService takes one address that the plan gives.
func (d *deriver) giveService(s *draft, a netip.Addr, taken map[netip.Addr]string) {
	at, x := s.raw.of("service"), s.Service
	if i := slices.Index(s.raw.service, a); at.kind == list && len(at.items) == len(s.raw.service) {
		at = at.items[i]
	}
	switch {
	case a.Is4() && x.IPv4.IsValid() || a.Is6() && x.IPv6.IsValid():
		d.at(at, "segment "+s.Name+" has two service addresses of one family", "one IPv4 and one IPv6 address", "")
	case a.Is4() && !s.host(a) || a.Is6() && !s.IPv6.Contains(a):
		d.at(at, fmt.Sprintf("service address %s is not a host of segment %s", a, s.Name), "an address of the segment", "")
	case a.Is4() && s.Pool.Contains(a):
		d.at(at, fmt.Sprintf("service address %s lies in the pool of segment %s: a device may get it", a, s.Name), fmt.Sprintf("an address outside %s-%s", s.Pool.From, s.Pool.To), "")
	case taken[a] != "" || a == s.Gateway6:
		who := taken[a]
		if who == "" {
			who = "the gateway"
		}
		d.at(at, fmt.Sprintf("service address %s is already that of %s", a, who), "an address of its own", "")
	case a.Is4():
		x.IPv4 = a
	default:
		x.IPv6 = a
	}
}

// addService gives the segment its service address once nodes have theirs, so that it costs
// no node its own, and says who may have it.
func (d *deriver) addService(s *draft, taken map[netip.Addr]string) {
	x := s.Service
	if x == nil {
		return
	}
	if !x.IPv4.IsValid() {
		x.IPv4 = s.freeHost("service/"+s.Name, taken)
	}
	if !x.IPv4.IsValid() {
		s.Service = nil
		d.warn(s.raw.at, fmt.Sprintf("segment %s has no address left outside its pool for its resolvers to share", s.Name), "a pool that begins later, a shorter prefix, or vrrp: off")
		return
	}
	taken[x.IPv4] = "the service address"
	host := u32(x.IPv4) - u32(s.IPv4.Addr())
	if s.IPv6.IsValid() && !x.IPv6.IsValid() {
		x.IPv6 = host6(s.IPv6, host)
	}
	for i, name := range d.sharers(s.Name) {
		a := d.node(name).Attachment(s.Name)
		n := Sharer{Node: name, Priority: max(firstPriority-i*priorityStep, leastPriority), IPv4: a.IPv4.Addr()}
		if a.IPv6.IsValid() && n.IPv4.IsValid() {
			n.IPv6 = advertiser(u32(n.IPv4) - u32(s.IPv4.Addr()))
			if a.IPv6.Addr() == x.IPv6 {
				d.at(s.raw.of("service"), fmt.Sprintf("service address %s is already that of node %s", x.IPv6, name), "an address of its own", "")
			}
		}
		x.Nodes = append(x.Nodes, n)
	}
}

func (d *deriver) node(name string) *Node {
	for i := range d.plan.Nodes {
		if d.plan.Nodes[i].Name == name {
			return &d.plan.Nodes[i]
		}
	}
	return nil
}

// advertiser is the link-local address that a node's advertisements over IPv6 come from, by
// which the others know it: the address that the kernel makes up is not in the plan. The
// interface identifier is "vrrp" and the node's host number.
func advertiser(host uint32) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 8: 'v', 9: 'r', 10: 'r', 11: 'p',
		12: byte(host >> 24), 13: byte(host >> 16), 14: byte(host >> 8), 15: byte(host)})
}

func schemaVRRP() object {
	o := keys("How the address moves that resolvers of one segment share (VRRP, RFC 9568), or off: none is shared.", object{
		"interval": with(pattern("Between advertisements: after three of them that do not come the address moves. From 10ms to 40.95s, in hundredths of a second.", `^([0-9.]+(ms|s))+$`, "50ms", "1s"), "default", "50ms"),
		"preempt":  object{"description": "A node that the plan names earlier takes the address back when it returns.", "type": "boolean", "default": true},
	})
	o["type"], o["pattern"], o["examples"] = []string{"object", "string", "null"}, "^off$", []string{"off"}
	return o
}
