//go:build linux

package segment

import (
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/hotstage/hotstage/internal/plan"
	"golang.org/x/sys/unix"
)

// tableName is the nftables table that is ours, whole.
const tableName = "hotstage_segment"

// Named counters of dropped packets, by reason.
const (
	toAttendee     = "attendee_to_attendee"
	toManagement   = "attendee_to_management"
	toInside       = "attendee_to_inside"
	toElsewhere    = "attendee_to_elsewhere"
	toNode         = "attendee_to_node"
	spoofed        = "attendee_spoofed"
	forgotten      = "attendee_icmp_error"
	invalid        = "invalid"
	internetInside = "internet_to_inside"
	internetNode   = "internet_to_node"
)

// reasons says what each counter counts, for people.
var reasons = [...]struct{ name, words string }{
	{toAttendee, "attendee to attendee"},
	{toManagement, "attendee to management"},
	{toInside, "attendee to a server's or crew's address that is no service for attendees"},
	{toElsewhere, "attendee to a link that is neither a segment nor an uplink"},
	{toNode, "attendee to this node, but to no service for attendees"},
	{spoofed, "attendee under an address that is not of the segment"},
	{forgotten, "ICMP error of an attendee about an answer that he did not wait for"},
	{invalid, "packet of no flow"},
	{internetInside, "internet to inside, without being asked"},
	{internetNode, "internet to a service of this node that is for inside only"},
}

// closed are the ports that are never served to the internet: DNS, DHCP, NTP, syslog, and
// DHCPv6, encrypted DNS, and what nodes tell each other (control.PeerPort). Others, such as ssh, are the system's to filter.
var closed = [...]uint16{53, 67, 123, 514, 547, 853, 4767, 6514}

// encrypted are the ways to ask a resolver privately: TLS (RFC 7858 section 3.1), QUIC (RFC
// 9250 section 4.1.1) and HTTPS.
var encrypted = [...]struct {
	words    string
	protocol byte
	port     uint16
}{{"DNS over TLS", unix.IPPROTO_TCP, 853}, {"DNS over QUIC", unix.IPPROTO_UDP, 853}, {"DNS over HTTPS", unix.IPPROTO_TCP, httpsPort}}

// httpsPort may be served to the internet by somebody else, under other addresses of the node.
const httpsPort = 443

// stateless are the ports of services whose UDP is not tracked: DNS, DHCP and NTP.
var stateless = [...]uint16{53, 67, 123}

// linkLocal is all such addresses, RFC 4291 section 2.5.6.
var linkLocal = netip.MustParsePrefix("fe80::/10")

// Types of ICMPv6 that a neighbour must be able to send: RFC 4890 section 4.4.1. A router
// advertisement of an attendee changes nothing here (accept_ra is off), but role ra must
// see it in order to tell.
var (
	neighbourTypes = [...]uint8{130, 131, 132, 133, 134, 135, 136, 143}
	echoTypes      = [...]uint8{128}
	errorTypes     = [...]uint8{1, 2, 3, 4} // RFC 4443 section 2.1
)

// vrrp is the IP protocol by which service addresses move, RFC 9568 section 5.1.1.4.
const vrrp = 112

// Types of ICMP, RFC 792.
const unreachable4, echo4 = 3, 8

// table is the whole packet filter of the node. Servers, management and crew are never
// filtered on the way in, so that nobody locks himself out; attendees get what they need
// and nothing else; what the internet did not ask for stays out.
//
//	untracked, untracked_out         questions to services and their answers
//	forward ─┬─ from_attendee        to services and to the internet
//	         └─ (others)             all but what comes unasked from the internet
//	input   ─┬─ node_from_attendee   DHCP, DNS, NTP, ping
//	         └─ node_from_internet   not DHCP, DNS, NTP, syslog
func (c Config) table() *kernel.Table {
	t := &kernel.Table{Name: tableName, Sets: c.sets()}
	for _, r := range reasons {
		t.Counters = append(t.Counters, r.name)
	}
	t.Chains = []kernel.Chain{
		{Name: "untracked", Hook: nftables.ChainHookPrerouting, Priority: *nftables.ChainPriorityRaw, Rules: untracked(true)},
		{Name: "untracked_out", Hook: nftables.ChainHookOutput, Priority: *nftables.ChainPriorityRaw, Rules: untracked(false)},
		{Name: "clamp", Hook: nftables.ChainHookForward, Priority: *nftables.ChainPriorityMangle, Rules: []kernel.Rule{
			kernel.R("TCP segments that fit the way out", kernel.ToLinks("uplinks", true), kernel.ClampMSS()),
			kernel.R("TCP segments that fit the way back", kernel.FromLinks("uplinks", true), kernel.ClampMSS()),
		}},
		{Name: "forward", Hook: nftables.ChainHookForward, Priority: *nftables.ChainPriorityFilter, Rules: c.forward()},
		{Name: "from_attendee", Rules: c.fromAttendee()},
		{Name: "input", Hook: nftables.ChainHookInput, Priority: *nftables.ChainPriorityFilter, Rules: []kernel.Rule{
			kernel.R("what attendees ask of this node", kernel.FromLinks("attendees", true), kernel.Jump("node_from_attendee")),
			kernel.R("what the internet asks of this node", kernel.FromLinks("uplinks", true), kernel.Jump("node_from_internet")),
		}},
		{Name: "node_from_attendee", Rules: c.nodeFromAttendee()},
		{Name: "node_from_internet", Rules: c.nodeFromInternet()},
	}
	return t
}

// untracked keeps DNS, DHCP and NTP over UDP between segments and our services out of
// connection tracking, of packets that come in or of those that this node sends: two of
// three entries of the table would be theirs, each for the 30 s of its timer, and none is
// translated. The filter decides on each of these packets by its addresses and ports. What
// this node asks in the internet must be tracked, since translated flows have its address
// too: untracked answers could not be told apart from theirs.
func untracked(in bool) (rules []kernel.Rule) {
	r := kernel.R
	if in {
		rules = append(rules,
			r("to services", kernel.FromLinks("segments", true), kernel.To4("service4"), kernel.ToPorts(unix.IPPROTO_UDP, "stateless"), kernel.Untracked()),
			r("to services", kernel.FromLinks("segments", true), kernel.To6("service6"), kernel.ToPorts(unix.IPPROTO_UDP, "stateless"), kernel.Untracked()),
			r("from services elsewhere", kernel.FromLinks("segments", true), kernel.From4("service4"), kernel.To4("near4"), kernel.FromPorts(unix.IPPROTO_UDP, "stateless"), kernel.Untracked()),
			r("from services elsewhere", kernel.FromLinks("segments", true), kernel.From6("service6"), kernel.To6("near6"), kernel.FromPorts(unix.IPPROTO_UDP, "stateless"), kernel.Untracked()))
		return rules
	}
	return append(rules,
		r("from services here", kernel.ToLinks("segments", true), kernel.From4("service4"), kernel.To4("near4"), kernel.FromPorts(unix.IPPROTO_UDP, "stateless"), kernel.Untracked()),
		r("from services here", kernel.ToLinks("segments", true), kernel.From6("service6"), kernel.To6("near6"), kernel.FromPorts(unix.IPPROTO_UDP, "stateless"), kernel.Untracked()))
}

func (c Config) sets() []kernel.Set {
	links := func(classes ...plan.Class) (all []string) {
		for _, s := range c.Segments {
			for _, class := range classes {
				if s.Class == class {
					all = append(all, s.Device)
				}
			}
		}
		return all
	}
	sets := []kernel.Set{
		{Name: "attendees", Kind: kernel.SetLinks, Links: links(plan.Attendee)},
		{Name: "management", Kind: kernel.SetLinks, Links: links(plan.Management)},
		{Name: "segments", Kind: kernel.SetLinks, Links: links(plan.Attendee, plan.Server, plan.Management, plan.Staff)},
		{Name: "uplinks", Kind: kernel.SetLinks, Links: c.Uplinks},
		{Name: "closed", Kind: kernel.SetPorts, Ports: closed[:]},
		{Name: "stateless", Kind: kernel.SetPorts, Ports: stateless[:]},
		{Name: "neighbour", Kind: kernel.SetTypes, Types: neighbourTypes[:]},
		{Name: "echo", Kind: kernel.SetTypes, Types: echoTypes[:]},
		{Name: "error", Kind: kernel.SetTypes, Types: errorTypes[:]},
	}
	both := func(name string, all []netip.Prefix) {
		var four, six []netip.Prefix
		for _, p := range all {
			if p.Addr().Is4() {
				four = append(four, p)
			} else {
				six = append(six, p)
			}
		}
		sets = append(sets, kernel.Set{Name: name + "4", Kind: kernel.SetIP4, IP4: four}, kernel.Set{Name: name + "6", Kind: kernel.SetIP6, IP6: six})
	}
	both("attendee_net", c.Attendees)
	both("management_net", c.Management)
	both("inside_net", c.Inside)
	both("resolver", single(c.Resolvers))
	both("clock", single(c.Clocks))
	if all := c.leases(); len(all) > 0 {
		sets = append(sets, kernel.Set{Name: "lease4", Kind: kernel.SetIP4, IP4: single(all)})
	}
	both("node", c.asked())
	if len(c.Advertisers) > 0 {
		both("advertiser", single(c.Advertisers))
	}
	both("service", c.services())
	both("near", append(slices.Clone(c.Near), linkLocal))
	return sets
}

// services are the addresses that questions of our segments go to without leaving the site:
// the resolvers and clocks that the plan names may also be somebody else's in the internet.
func (c Config) services() []netip.Prefix {
	all := slices.DeleteFunc(append(c.asked(), single(c.leases())...), func(p netip.Prefix) bool {
		return p != linkLocal && !slices.ContainsFunc(c.Near, func(n netip.Prefix) bool { return n.Contains(p.Addr()) })
	})
	return append(all, netip.PrefixFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), 32)) // RFC 2131 section 4.1
}

func single(all []netip.Addr) (out []netip.Prefix) {
	for _, a := range all {
		out = append(out, netip.PrefixFrom(a, a.BitLen()))
	}
	return out
}

// asked are the addresses under which attendees may ask this node: its own in their
// segments, and those of the services.
func (c Config) asked() []netip.Prefix {
	all := single(slices.Concat(c.Resolvers, c.Clocks, without(c.Shared, c.Resolvers)))
	for _, s := range c.Segments {
		if s.Class != plan.Attendee {
			continue
		}
		for _, p := range s.Own {
			all = append(all, netip.PrefixFrom(p.Addr(), p.Addr().BitLen()))
		}
	}
	return append(all, linkLocal)
}

// without is all but those that others has.
func without(all, others []netip.Addr) []netip.Addr {
	return slices.DeleteFunc(slices.Clone(all), func(a netip.Addr) bool { return slices.Contains(others, a) })
}

func (c Config) forward() (rules []kernel.Rule) {
	r := kernel.R
	rules = append(rules, r("not ours", kernel.FromLinks("segments", false), kernel.ToLinks("segments", false), kernel.Accept()))
	for _, s := range c.Segments {
		if s.Class != plan.Attendee {
			continue
		}
		for _, p := range s.Nets {
			rules = append(rules, r("not an address of "+s.Name, kernel.FromLink(s.Device), kernel.NotFrom(p), kernel.Counted(spoofed), kernel.Drop()))
		}
		if !s.Isolate {
			rules = append(rules, r(s.Name+" is not isolated", kernel.FromLink(s.Device), kernel.ToLink(s.Device), kernel.Accept()))
		}
	}
	// Before what is known: no flow between attendees is ever let through.
	rules = append(rules,
		r("attendee to attendee", kernel.FromLinks("attendees", true), kernel.ToLinks("attendees", true), kernel.Counted(toAttendee), kernel.Drop()),
		r("attendee to attendee elsewhere", kernel.FromLinks("attendees", true), kernel.To4("attendee_net4"), kernel.Counted(toAttendee), kernel.Drop()),
		r("attendee to attendee elsewhere", kernel.FromLinks("attendees", true), kernel.To6("attendee_net6"), kernel.Counted(toAttendee), kernel.Drop()))
	for _, s := range c.Segments {
		if s.Class != plan.Attendee && s.Isolate {
			rules = append(rules, r(s.Name+" is isolated", kernel.FromLink(s.Device), kernel.ToLink(s.Device), kernel.Counted(toInside), kernel.Drop()))
		}
	}
	return append(rules,
		r("known flows", kernel.Known(), kernel.Accept()),
		r("of no flow, from attendees", kernel.FromLinks("attendees", true), kernel.Invalid(), kernel.Counted(invalid), kernel.Drop()),
		r("of no flow, from the internet", kernel.FromLinks("uplinks", true), kernel.Invalid(), kernel.Counted(invalid), kernel.Drop()),
		r("of no flow, to the internet: it would leave untranslated", kernel.ToLinks("uplinks", true), kernel.Invalid(), kernel.Counted(invalid), kernel.Drop()),
		r("new from attendees", kernel.FromLinks("attendees", true), kernel.Jump("from_attendee")),
		r("new from the internet", kernel.FromLinks("uplinks", true), kernel.ToLinks("segments", true), kernel.Counted(internetInside), kernel.Drop()))
}

// leases are the DHCP servers that attendees get to beyond this node.
func (c Config) leases() (all []netip.Addr) {
	for _, s := range c.Segments {
		all = union(all, s.Leases)
	}
	return all
}

func (c Config) fromAttendee() (rules []kernel.Rule) {
	r := kernel.R
	for _, s := range c.Segments {
		if len(s.Leases) > 0 {
			rules = append(rules, r("leases of "+s.Name+" are renewed past the relay", kernel.FromLink(s.Device), kernel.To4("lease4"), kernel.ToPort(unix.IPPROTO_UDP, 67), kernel.Accept()))
		}
	}
	rules = append(rules,
		r("attendee to management", kernel.ToLinks("management", true), kernel.Counted(toManagement), kernel.Drop()),
		r("attendee to management", kernel.To4("management_net4"), kernel.Counted(toManagement), kernel.Drop()),
		r("attendee to management", kernel.To6("management_net6"), kernel.Counted(toManagement), kernel.Drop()),
		r("DNS", kernel.To4("resolver4"), kernel.ToPort(unix.IPPROTO_UDP, 53), kernel.Accept()),
		r("DNS", kernel.To4("resolver4"), kernel.ToPort(unix.IPPROTO_TCP, 53), kernel.Accept()),
		r("DNS", kernel.To6("resolver6"), kernel.ToPort(unix.IPPROTO_UDP, 53), kernel.Accept()),
		r("DNS", kernel.To6("resolver6"), kernel.ToPort(unix.IPPROTO_TCP, 53), kernel.Accept()))
	for _, way := range encrypted {
		if c.Encrypted {
			rules = append(rules,
				r(way.words, kernel.To4("resolver4"), kernel.ToPort(way.protocol, way.port), kernel.Accept()),
				r(way.words, kernel.To6("resolver6"), kernel.ToPort(way.protocol, way.port), kernel.Accept()))
		}
	}
	return append(rules,
		r("NTP", kernel.To4("clock4"), kernel.ToPort(unix.IPPROTO_UDP, 123), kernel.Accept()),
		r("NTP", kernel.To6("clock6"), kernel.ToPort(unix.IPPROTO_UDP, 123), kernel.Accept()),
		r("ping of a resolver", kernel.To4("resolver4"), kernel.Type4(echo4), kernel.Accept()),
		r("ping of a resolver", kernel.To6("resolver6"), kernel.Types6("echo"), kernel.Accept()),
		r("attendee to inside", kernel.ToLinks("segments", true), kernel.Counted(toInside), kernel.Drop()),
		r("attendee to inside elsewhere", kernel.To4("inside_net4"), kernel.Counted(toInside), kernel.Drop()),
		r("attendee to inside elsewhere", kernel.To6("inside_net6"), kernel.Counted(toInside), kernel.Drop()),
		r("attendee to the internet", kernel.ToLinks("uplinks", true), kernel.Accept()),
		r("attendee to elsewhere", kernel.Counted(toElsewhere), kernel.Drop()))
}

func (c Config) nodeFromInternet() []kernel.Rule {
	r := kernel.R
	rules := []kernel.Rule{
		r("answers", kernel.Known(), kernel.Accept()),
		r("no DNS, DHCP, NTP, syslog for the internet", kernel.ToPorts(unix.IPPROTO_UDP, "closed"), kernel.Counted(internetNode), kernel.Drop()),
		r("no DNS, DHCP, NTP, syslog for the internet", kernel.ToPorts(unix.IPPROTO_TCP, "closed"), kernel.Counted(internetNode), kernel.Drop()),
	}
	if c.DNS && c.Encrypted {
		rules = append(rules,
			r("no DNS over HTTPS for the internet", kernel.To4("inside_net4"), kernel.ToPort(unix.IPPROTO_TCP, httpsPort), kernel.Counted(internetNode), kernel.Drop()),
			r("no DNS over HTTPS for the internet", kernel.To6("inside_net6"), kernel.ToPort(unix.IPPROTO_TCP, httpsPort), kernel.Counted(internetNode), kernel.Drop()))
	}
	return rules
}

func (c Config) nodeFromAttendee() []kernel.Rule {
	r := kernel.R
	rules := []kernel.Rule{r("answers", kernel.Known(), kernel.Accept())}
	if c.DHCP {
		rules = append(rules, r("DHCP", kernel.Family(unix.NFPROTO_IPV4), kernel.ToPort(unix.IPPROTO_UDP, 67), kernel.Accept()))
	}
	if len(c.Advertisers) > 0 { // what others send for one of these is dropped as any of theirs
		rules = append(rules,
			r("VRRP of our nodes", kernel.From4("advertiser4"), kernel.Protocol(vrrp), kernel.Accept()),
			r("VRRP of our nodes", kernel.From6("advertiser6"), kernel.Protocol(vrrp), kernel.Accept()))
	}
	rules = append(rules, r("neighbours", kernel.Types6("neighbour"), kernel.Accept()))
	for _, s := range c.Segments { // IPv6 has no rp_filter, and a question is answered to whom it names
		if s.Class != plan.Attendee {
			continue
		}
		for _, p := range s.Nets {
			rules = append(rules, r("not an address of "+s.Name, kernel.FromLink(s.Device), kernel.NotFrom(p, linkLocal), kernel.Counted(spoofed), kernel.Drop()))
		}
	}
	rules = append(rules,
		r("attendee to management", kernel.To4("management_net4"), kernel.Counted(toManagement), kernel.Drop()),
		r("attendee to management", kernel.To6("management_net6"), kernel.Counted(toManagement), kernel.Drop()))
	service := func(words string, protocol byte, port uint16) {
		rules = append(rules,
			r(words, kernel.To4("node4"), kernel.ToPort(protocol, port), kernel.Accept()),
			r(words, kernel.To6("node6"), kernel.ToPort(protocol, port), kernel.Accept()))
	}
	if c.DNS {
		service("DNS", unix.IPPROTO_UDP, 53)
		service("DNS", unix.IPPROTO_TCP, 53)
		for _, way := range encrypted {
			if c.Encrypted {
				service(way.words, way.protocol, way.port)
			}
		}
	}
	if c.NTP {
		service("NTP", unix.IPPROTO_UDP, 123)
	}
	return append(rules,
		r("ping", kernel.To4("node4"), kernel.Type4(echo4), kernel.Accept()),
		r("ping", kernel.To6("node6"), kernel.Types6("echo"), kernel.Accept()),
		r("about answers, which are of no flow", kernel.Type4(unreachable4), kernel.Counted(forgotten), kernel.Drop()),
		r("about answers, which are of no flow", kernel.Types6("error"), kernel.Counted(forgotten), kernel.Drop()),
		r("attendee to node", kernel.Counted(toNode), kernel.Drop()))
}
