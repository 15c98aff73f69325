package kea

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/hotstage/hotstage/internal/plan"
)

// config is a Kea configuration on its way to a plan.
type config struct {
	root, dhcp4 *value
	list        []Note
	told        map[string]bool
	nets        []*subnet
	names       map[string]bool // of segments
	hostNames   map[string]bool // of reservations and nodes, which are names in one domain
	people      int
	peopleWords string
}

// subnet is one segment to be.
type subnet struct {
	at       *value
	name     string
	remark   string // of the team, for a comment
	id       int64
	class    plan.Class
	prefix   netip.Prefix
	pool     plan.Range
	gateway  netip.Addr
	lease    time.Duration
	leaseAt  *value // nil: Kea's default
	domain   string
	dns, ntp []netip.Addr
	dnsAt    *value
	ntpAt    *value
	hosts    []host
	iface    *value
	vlan     int
	parent   string // of the VLAN, or the interface itself without one
	devices  int    // 0: the plan's default
}

// host is one reservation.
type host struct {
	at     *value
	name   string
	mac    net.HardwareAddr
	id     []byte // client identifier, where there is no mac
	addr   netip.Addr
	remark string
}

// scope is one level of settings: the server's, a shared network's, a subnet's, a pool's.
type scope struct {
	at       *value
	lifetime *value
	iface    *value
	options  map[int]*option
}

// chain is the scopes of something, the nearest first.
type chain []*scope

func (c chain) option(code int) *option {
	for _, s := range c {
		if o := s.options[code]; o != nil {
			return o
		}
	}
	return nil
}

// wantText and wantNumber take a setting of that type; one of another type is noted.
func (c *config) wantText(v *value, key string) (string, *value) {
	m := v.take(key)
	s, ok := m.str()
	if m != nil && !ok {
		c.drop(m, "not a text, which Kea wants here: correct it")
		return "", nil
	}
	return s, m
}

func (c *config) wantNumber(v *value, key string) (int64, *value) {
	m := v.take(key)
	n, ok := m.integer()
	if m != nil && !ok {
		c.drop(m, "not a whole number, which Kea wants here: correct it")
		return 0, nil
	}
	return n, m
}

// wantList takes the items of a list of objects; what is none is noted.
func (c *config) wantList(v *value, key string) []*value {
	m := v.take(key)
	if m != nil && m.kind != array {
		c.drop(m, "not a list, which Kea wants here: correct it")
		return nil
	}
	return slices.DeleteFunc(slices.Clone(m.list()), func(i *value) bool {
		if i.kind != object {
			c.drop(i, "not an object, which Kea wants here: correct it")
		}
		return i.kind != object
	})
}

// scope reads what every level may set.
func (c *config) scope(v *value) *scope {
	s := &scope{at: v, options: map[int]*option{}}
	_, s.lifetime = c.wantNumber(v, "valid-lifetime")
	for _, o := range c.wantList(v, "option-data") {
		opt := c.option(o)
		if opt != nil && s.options[opt.code] != nil {
			c.drop(o, "the option stands twice at this level: the first counts")
		} else if opt != nil {
			s.options[opt.code] = opt
		}
	}
	return s
}

// convert makes the subnets; what is wrong with one is noted.
func (c *config) convert() {
	c.hostNames["gw1"] = true // the plan's node
	global := c.scope(c.dhcp4)
	c.interfaces()
	for _, v := range c.wantList(c.dhcp4, "shared-networks") {
		c.sharedNetwork(v, global)
	}
	for _, v := range c.wantList(c.dhcp4, "subnet4") {
		c.subnet(v, chain{global}, "")
	}
	for _, v := range c.wantList(c.dhcp4, "reservations") {
		c.globalReservation(v)
	}
	for _, n := range c.nets {
		c.settleGateway(n)
		c.poolless(n)
	}
	c.reachable()
	c.numberVLANs()
}

func (c *config) sharedNetwork(v *value, global *scope) {
	name, _ := c.wantText(v, "name")
	c.remark(v)
	s := c.scope(v)
	_, s.iface = c.wantText(v, "interface")
	before := len(c.nets)
	for _, sub := range c.wantList(v, "subnet4") {
		c.subnet(sub, chain{s, global}, name)
	}
	if n := len(c.nets) - before; n > 1 {
		c.note(v, Changed, "a segment of the plan has one prefix, so the %d subnets of %s are %d segments, each with a VLAN of its own; or keep one of them and give it a shorter prefix", n, quoted(name, "this network"), n)
	}
}

func quoted(name, without string) string {
	if name == "" {
		return without
	}
	return fmt.Sprintf("%q", name)
}

// remark takes what people wrote to a level.
func (c *config) remark(v *value) string {
	s, _ := c.wantText(v, "comment")
	if u := v.find("user-context"); u != nil && u.kind == object {
		u.taken = true
		if inner, _ := c.wantText(u, "comment"); s == "" {
			s = inner
		}
	}
	return oneLine(s)
}

// oneLine is s as it can stand in a comment.
func oneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == 0x85 || r == 0x2028 || r == 0x2029 || r == 0xfeff || r == 0xfffd {
			return ' '
		}
		return r
	}, s)
	return strings.Join(strings.Fields(s), " ")
}

func (c *config) subnet(v *value, outer chain, network string) {
	written, at := c.wantText(v, "subnet")
	if at == nil {
		c.drop(v, "a subnet without its prefix: give it one, \"subnet\": \"10.0.0.0/24\"")
		return
	}
	p, err := netip.ParsePrefix(written)
	if why := c.unfit(p, err); why != "" {
		c.drop(v, "subnet %s: %s", written, why)
		return
	}
	own := c.scope(v)
	_, own.iface = c.wantText(v, "interface")
	n := &subnet{at: v, prefix: p.Masked(), remark: c.remark(v)}
	n.id, _ = c.wantNumber(v, "id")
	if p != n.prefix {
		c.note(at, Changed, "host bits are cut off: %s", n.prefix)
	}
	all := append(chain{own}, outer...)
	for _, s := range all {
		if name, _ := s.iface.str(); n.iface == nil && name != "" {
			n.iface = s.iface
		}
	}
	n.name = c.segmentName(n, network)
	n.class = classOf(n.name)
	if pool := c.pools(n, v); pool != nil {
		all = append(chain{pool}, all...)
	}
	c.lifetime(n, all)
	c.optionsOf(n, all)
	for _, r := range c.wantList(v, "reservations") {
		c.reserve(n, r)
	}
	c.nets = append(c.nets, n)
}

// unfit says why a plan can't have the prefix, "" when it can.
func (c *config) unfit(p netip.Prefix, err error) string {
	switch {
	case err != nil || !p.Addr().Is4():
		return "not an IPv4 prefix such as 10.0.0.0/24"
	case p.Bits() < 8 || p.Bits() > 29:
		return "a plan has prefixes from /8 to /29; a link between two routers is set up outside the plan"
	case !usable(p.Masked().Addr()) || p.Addr().IsLinkLocalUnicast():
		return "not addresses that machines of a network can have"
	}
	for _, n := range c.nets {
		if n.prefix.Overlaps(p) {
			return fmt.Sprintf("it overlaps %s of segment %s; give each segment a prefix of its own", n.prefix, n.name)
		}
	}
	if len(c.nets) >= maxSegments {
		return fmt.Sprintf("a plan has up to %d segments, one a VLAN id", maxSegments)
	}
	return ""
}

// maxSegments is how many VLAN ids there are (IEEE 802.1Q).
const maxSegments = 4094

// usable tells whether a machine can have the address on a network.
func usable(a netip.Addr) bool {
	return a.Is4() && !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// host tells whether a is an address for a machine of the subnet.
func (n *subnet) host(a netip.Addr) bool {
	return n.prefix.Contains(a) && a != n.prefix.Addr() && a != plan.LastAddr(n.prefix)
}

func (n *subnet) reserved(a netip.Addr) bool {
	return slices.ContainsFunc(n.hosts, func(h host) bool { return h.addr == a })
}

// segmentName is what the team calls the subnet, as a name of a plan.
func (c *config) segmentName(n *subnet, network string) string {
	named := ""
	if u := n.at.find("user-context"); u != nil && u.kind == object {
		named, _ = c.wantText(u, "name")
	}
	for _, s := range []string{named, n.remark, network} {
		if name := slug(s); name != "" && len(strings.Fields(s)) <= 4 {
			return unique(c.names, name)
		}
	}
	if n.id > 0 {
		return unique(c.names, fmt.Sprintf("subnet-%d", n.id))
	}
	return unique(c.names, "subnet-"+strings.ReplaceAll(n.prefix.Addr().String(), ".", "-"))
}

// unique is the name, or the name with a number where it is taken; names of a plan have at
// most 40 bytes.
func unique(taken map[string]bool, name string) string {
	for i, try := 2, name; ; i++ {
		if !taken[try] {
			taken[try] = true
			return try
		}
		tail := fmt.Sprintf("-%d", i)
		try = name[:min(len(name), maxName-len(tail))] + tail
	}
}

const maxName = 40

// slug is s in a-z, 0-9 and single hyphens; "" when nothing is left or it is too long.
func slug(s string) string {
	parts := strings.FieldsFunc(strings.ToLower(s), func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') })
	name := strings.Join(parts, "-")
	if len(name) > maxName {
		return ""
	}
	return name
}

// classOf reads from the name what the segment is for. Attendees are who may least.
func classOf(name string) plan.Class {
	for word := range strings.SplitSeq(name, "-") {
		switch word {
		case "server", "servers", "srv":
			return plan.Server
		case "management", "mgmt":
			return plan.Management
		case "staff":
			return plan.Staff
		}
	}
	return plan.Attendee
}

// Kea's lifetime unless given, and the plan's least and longest.
const (
	keaLifetime   = 2 * time.Hour // the default of valid-lifetime in Kea 2.2: 7200 s
	shortestLease = 2 * time.Minute
	longestLease  = 7 * 24 * time.Hour
)

func (c *config) lifetime(n *subnet, all chain) {
	n.lease = keaLifetime
	for _, s := range all {
		if s.lifetime == nil {
			continue
		}
		secs, _ := s.lifetime.integer()
		n.leaseAt = s.lifetime
		n.lease = time.Duration(max(0, min(secs, 1<<32))) * time.Second
		if fit := min(max(n.lease, shortestLease), longestLease); fit != n.lease {
			c.note(s.lifetime, Changed, "a plan's leases last from 2 minutes to 7 days: %s", span(fit))
			n.lease = fit
		}
		return
	}
}

// span is d without zero parts: "1h" and not "1h0m0s".
func span(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
