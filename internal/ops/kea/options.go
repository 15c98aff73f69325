package kea

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/hotstage/hotstage/internal/plan"
)

// The options that a plan can say or derive, by their codes (RFC 2132; 119: RFC 3397).
const (
	optMask      = 1
	optRouters   = 3
	optDNS       = 6
	optDomain    = 15
	optBroadcast = 28
	optNTP       = 42
	optSearch    = 119
)

// codeOf are Kea's names of these options.
var codeOf = map[string]int{
	"subnet-mask": optMask, "routers": optRouters, "domain-name-servers": optDNS, "domain-name": optDomain,
	"broadcast-address": optBroadcast, "ntp-servers": optNTP, "domain-search": optSearch,
}

// instead says what to do about well-known options that a plan can't say.
var instead = map[string]string{
	"time-servers":      "devices of today ask NTP: ntp-servers becomes ntp",
	"tftp-server-name":  "Hotstage has no network boot: boot such machines in a segment whose DHCP is another server",
	"boot-file-name":    "Hotstage has no network boot: boot such machines in a segment whose DHCP is another server",
	"interface-mtu":     "write it under mtu: of the segment by hand, if it is 1280 to 1500",
	"v6-only-preferred": "write it under ipv6_only: of the segment by hand",
	"v4-captive-portal": "write it under captive_portal: of the segment by hand",
}

// option is one option-data entry that a plan can carry.
type option struct {
	at    *value
	code  int
	addrs []netip.Addr
	names []string
}

// option reads an entry of option-data; nil when it can't be carried, which is noted.
func (c *config) option(v *value) *option {
	name, _ := c.wantText(v, "name")
	code, codeAt := c.wantNumber(v, "code")
	space, _ := c.wantText(v, "space")
	data, _ := c.wantText(v, "data")
	csv := v.take("csv-format")
	if csv != nil && csv.kind != boolean {
		c.drop(v, "its csv-format is neither true nor false, which Kea wants here: correct it")
		return nil
	}
	title := name
	if name == "" {
		title = fmt.Sprint(code)
	}
	known, ok := codeOf[name]
	switch {
	case ok && codeAt == nil:
		code = int64(known)
	case slices.Contains([]int64{optMask, optRouters, optDNS, optDomain, optBroadcast, optNTP, optSearch}, code):
		ok = name == "" || int64(known) == code
	default:
		ok = false
	}
	if space != "" && space != "dhcp4" || !ok {
		words := "the plan has no setting for it, so devices go without"
		if w := instead[name]; w != "" {
			words = w
		}
		c.drop(v, "option %s: %s", title, words)
		return nil
	}
	o := &option{at: v, code: int(code)}
	if why := o.read(data, csv != nil && csv.is("false")); why != "" {
		c.drop(v, "option %s: %s", title, why)
		return nil
	}
	return o
}

// read reads the option's data, in Kea's text or in hexadecimal; it says why it can't.
func (o *option) read(data string, binary bool) string {
	if binary {
		raw, err := unhex(data)
		switch {
		case err != nil:
			return "its data is not hexadecimal"
		case o.code == optSearch:
			return "its data is in hexadecimal: write the domains as text"
		case o.code == optDomain:
			data = strings.TrimRight(string(raw), "\x00")
		case len(raw)%4 != 0:
			return "its data is not IPv4 addresses of 4 bytes"
		default:
			var parts []string
			for ; len(raw) > 0; raw = raw[4:] {
				parts = append(parts, netip.AddrFrom4([4]byte(raw[:4])).String())
			}
			data = strings.Join(parts, ",")
		}
	}
	parts := strings.FieldsFunc(data, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' })
	if len(parts) == 0 {
		return "it has no data"
	}
	if o.code == optDomain || o.code == optSearch {
		for _, p := range parts {
			name := strings.TrimSuffix(strings.ToLower(p), ".")
			if !isDomain(name) {
				return fmt.Sprintf("%q is not a domain of labels in a-z, 0-9 and -, up to 160 bytes", p)
			}
			o.names = append(o.names, name)
		}
		return ""
	}
	for _, p := range parts {
		a, err := netip.ParseAddr(p)
		if err != nil || !a.Is4() {
			return fmt.Sprintf("%q is not an IPv4 address; a plan has no names here", p)
		}
		o.addrs = append(o.addrs, a)
	}
	return ""
}

// unhex reads hexadecimal with or without colons, spaces and 0x, as Kea does.
func unhex(s string) ([]byte, error) {
	s = strings.TrimPrefix(strings.TrimSpace(s), "0x")
	return hex.DecodeString(strings.NewReplacer(":", "", " ", "").Replace(s))
}

// isDomain tells whether s can be a domain of a plan.
func isDomain(s string) bool {
	return len(s) <= 160 && !slices.ContainsFunc(strings.Split(s, "."), func(l string) bool {
		return l == "" || len(l) > 63 || l[0] == '-' || l[len(l)-1] == '-' ||
			strings.ContainsFunc(l, func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' })
	})
}

// optionsOf sets what the subnet has of the options of its scopes.
func (c *config) optionsOf(n *subnet, all chain) {
	if o := all.option(optRouters); o != nil {
		c.router(n, o)
	}
	if o := all.option(optDNS); o != nil {
		n.dns, n.dnsAt = slices.Clone(o.addrs), o.at
	}
	if o := all.option(optNTP); o != nil {
		n.ntp, n.ntpAt = slices.Clone(o.addrs), o.at
	}
	mask := ^uint32(0) << (32 - n.prefix.Bits())
	c.derived(n, all.option(optMask), netip.AddrFrom4([4]byte{byte(mask >> 24), byte(mask >> 16), byte(mask >> 8), byte(mask)}))
	c.derived(n, all.option(optBroadcast), plan.LastAddr(n.prefix))
	c.domainOf(n, all.option(optDomain), all.option(optSearch))
}

func (c *config) router(n *subnet, o *option) {
	for _, a := range o.addrs {
		switch {
		case !n.host(a):
			c.note(o.at, NotCarried, "router %s is not a host of %s, segment %s", a, n.prefix, n.name)
		case n.gateway.IsValid():
			c.note(o.at, NotCarried, "segment %s has one gateway, %s: router %s is left out", n.name, n.gateway, a)
		default:
			n.gateway = a
		}
	}
}

// derived holds an option against what the prefix says.
func (c *config) derived(n *subnet, o *option, want netip.Addr) {
	if o != nil && !slices.Equal(o.addrs, []netip.Addr{want}) {
		c.note(o.at, NotCarried, "Hotstage derives it from the prefix: %s in segment %s", want, n.name)
	}
}

// domainOf sets the one domain that a segment has, as its name and its search list.
func (c *config) domainOf(n *subnet, name, search *option) {
	if name != nil {
		n.domain = name.names[0]
		if len(name.names) > 1 {
			c.note(name.at, NotCarried, "a segment has one domain: %s stays", n.domain)
		}
	}
	if search == nil {
		return
	}
	if n.domain == "" {
		n.domain = search.names[0]
	}
	for _, d := range search.names {
		if d != n.domain {
			c.note(search.at, NotCarried, "segment %s has the domain %s, which is its search list too: %s is left out; write the whole list under search: by hand", n.name, n.domain, d)
		}
	}
}

// reachable leaves out addresses of resolvers and time servers that a plan's devices would
// ask in vain, once all segments are known.
func (c *config) reachable() {
	for _, n := range c.nets {
		n.dns = c.asked(n, n.dns, n.dnsAt, "resolver", "Hotstage's own resolver answers in the segment")
		n.ntp = c.asked(n, n.ntp, n.ntpAt, "time server", "devices of the segment get no time server")
	}
}

func (c *config) asked(n *subnet, given []netip.Addr, at *value, what, otherwise string) (all []netip.Addr) {
	for _, a := range given {
		why := c.vain(n, a)
		switch {
		case slices.Contains(all, a):
			why = "it stands twice"
		case why == "" && len(all) == 3:
			why = "devices ask no more than three"
		}
		if why != "" {
			c.note(at, NotCarried, "segment %s: %s %s is left out: %s", n.name, what, a, why)
			continue
		}
		all = append(all, a)
	}
	if len(given) > 0 && len(all) == 0 {
		c.note(at, Changed, "segment %s: no %s is left, so %s", n.name, what, otherwise)
	}
	return all
}

// vain says why devices of n would ask a in vain, "" when they would not.
func (c *config) vain(n *subnet, a netip.Addr) string {
	if !usable(a) {
		return "no machine has such an address"
	}
	i := slices.IndexFunc(c.nets, func(o *subnet) bool { return o.prefix.Contains(a) })
	if i < 0 {
		return ""
	}
	switch in := c.nets[i]; {
	case !in.host(a):
		return fmt.Sprintf("it is not a host of %s", in.prefix)
	case in.pool.Contains(a) && !in.reserved(a):
		return fmt.Sprintf("it lies in the pool of segment %s, so a device may get it: reserve it or shorten the pool", in.name)
	case n.class == plan.Attendee && in != n && in.class != plan.Server:
		return fmt.Sprintf("attendees do not get to segment %s: give that class: server in the plan if it has servers only, then dns or ntp here", in.name)
	}
	return ""
}

// interfaces notes which interfaces Kea listens on.
func (c *config) interfaces() {
	v := c.dhcp4.find("interfaces-config")
	if v == nil || v.kind != object {
		return
	}
	v.taken = true
	list := v.take("interfaces")
	var names []string
	for _, i := range list.list() {
		s, _ := i.str()
		names = append(names, strconv.Quote(s))
	}
	if list != nil {
		list.takeAll()
		c.note(list, Changed, "Kea listens on %s; Hotstage serves where the plan has the node: set nodes.gw1.interfaces to the machine's own", strings.Join(names, ", "))
	}
}
