package kea

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/hotstage/hotstage/internal/plan"
)

// maxPool is the largest pool that a segment of a plan may have, a /14.
const maxPool = 1 << 18

func number32(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

func address(n uint32) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
}

// pools sets the subnet's one pool: what is next to each other is one, and the largest
// stays. It returns the settings of the pool where there is just one, else nil.
func (c *config) pools(n *subnet, v *value) *scope {
	type piece struct {
		plan.Range
		at *value
	}
	var all []piece
	entries := c.wantList(v, "pools")
	for _, e := range entries {
		written, _ := c.wantText(e, "pool")
		r, ok := n.parsePool(written)
		if !ok {
			c.drop(e, "pool %q: give addresses of %s, as \"10.0.0.10 - 10.0.0.99\" or \"10.0.0.64/26\"", written, n.prefix)
			continue
		}
		all = append(all, piece{r, e})
	}
	slices.SortStableFunc(all, func(a, b piece) int { return a.From.Compare(b.From) })
	var joined []piece
	for _, p := range all {
		if i := len(joined) - 1; i >= 0 && !joined[i].To.Next().Less(p.From) {
			if joined[i].To.Less(p.To) {
				joined[i].To = p.To
			}
			continue
		}
		joined = append(joined, p)
	}
	largest := piece{}
	for _, p := range joined {
		if p.Size() > largest.Size() {
			largest = p
		}
	}
	for _, p := range joined {
		if p.at != largest.at {
			c.note(p.at, NotCarried, "segment %s has one pool, the largest, %s-%s: %s-%s with %d addresses is left out; widen the pool in the plan if nothing else has the addresses between", n.name, largest.From, largest.To, p.From, p.To, p.Size())
		}
	}
	if n.pool = largest.Range; n.pool.Size() > maxPool {
		n.pool.To = address(number32(n.pool.From) + maxPool - 1)
		c.note(largest.at, Changed, "a plan's pool has up to %d addresses: %s-%s", maxPool, n.pool.From, n.pool.To)
	}
	if len(entries) == 1 && len(all) == 1 {
		return c.scope(entries[0])
	}
	for _, p := range all {
		if o := p.at.find("option-data"); o != nil && len(o.items) > 0 {
			c.drop(o, "a segment has one pool, so its options are those of the subnet")
		}
	}
	return nil
}

// parsePool reads "a - b" or a prefix, without the subnet's first and last address.
func (n *subnet) parsePool(s string) (plan.Range, bool) {
	var r plan.Range
	if from, to, ok := strings.Cut(s, "-"); ok {
		a, err1 := netip.ParseAddr(strings.TrimSpace(from))
		b, err2 := netip.ParseAddr(strings.TrimSpace(to))
		if err1 != nil || err2 != nil {
			return r, false
		}
		r = plan.Range{From: a, To: b}
	} else {
		p, err := netip.ParsePrefix(strings.ReplaceAll(s, " ", ""))
		if err != nil || !p.Addr().Is4() {
			return r, false
		}
		r = plan.Range{From: p.Masked().Addr(), To: plan.LastAddr(p)}
	}
	if !r.From.Is4() || !r.To.Is4() || !n.prefix.Contains(r.From) || !n.prefix.Contains(r.To) {
		return r, false
	}
	if r.From == n.prefix.Addr() {
		r.From = r.From.Next()
	}
	if r.To == plan.LastAddr(n.prefix) {
		r.To = r.To.Prev()
	}
	return r, r.IsValid()
}

// settleGateway gives the subnet a gateway outside its pool and apart from its reservations.
func (c *config) settleGateway(n *subnet) {
	if !n.gateway.IsValid() {
		n.gateway = n.freeGateway()
		c.note(n.at, Changed, "no routers option: devices of segment %s get the gateway %s, which is the plan's node", n.name, n.gateway)
	}
	n.hosts = slices.DeleteFunc(n.hosts, func(h host) bool {
		if h.addr == n.gateway {
			c.note(h.at, NotCarried, "reservation %s: %s is the gateway of segment %s", h.name, h.addr, n.name)
		}
		return h.addr == n.gateway
	})
	if !n.pool.Contains(n.gateway) {
		return
	}
	below, above := plan.Range{From: n.pool.From, To: n.gateway.Prev()}, plan.Range{From: n.gateway.Next(), To: n.pool.To}
	n.pool = below
	if above.Size() > below.Size() {
		n.pool = above
	}
	if n.pool.IsValid() {
		c.note(n.at, Changed, "the gateway %s lies in the pool: the pool of segment %s is %s-%s", n.gateway, n.name, n.pool.From, n.pool.To)
	}
}

// freeGateway is the first host that nothing has, or the last, or any, or the first.
func (n *subnet) freeGateway() netip.Addr {
	first, last := n.prefix.Addr().Next(), plan.LastAddr(n.prefix).Prev()
	free := func(a netip.Addr) bool { return !n.pool.Contains(a) && !n.reserved(a) }
	if free(first) || !n.pool.IsValid() && len(n.hosts) == 0 {
		return first
	}
	if free(last) {
		return last
	}
	for a := first; n.host(a); a = a.Next() {
		if n.pool.Contains(a) {
			a = n.pool.To
			continue
		}
		if free(a) {
			return a
		}
	}
	return first
}

// poolless gives a subnet without a pool one that hands out nothing: of one address that is
// reserved, so that devices without a reservation get none, as in Kea.
func (c *config) poolless(n *subnet) {
	if n.pool.IsValid() {
		return
	}
	if len(n.hosts) > 0 {
		a := n.hosts[0].addr
		n.pool = plan.Range{From: a, To: a}
		c.note(n.at, Changed, "no pool: that of segment %s is the one address %s, which is reserved, so that devices without a reservation get none", n.name, a)
		return
	}
	a := plan.LastAddr(n.prefix).Prev()
	if a == n.gateway {
		a = a.Prev()
	}
	n.pool = plan.Range{From: a, To: a}
	c.note(n.at, Changed, "no pool and no reservation: a plan's segment has at least one address to give, so segment %s gives %s; reserve it in the plan for a machine of yours, and it gives none", n.name, a)
}

// globalReservation puts one of the server's reservations into the segment of its address.
func (c *config) globalReservation(v *value) {
	if s, ok := v.find("ip-address").str(); ok {
		if a, err := netip.ParseAddr(s); err == nil {
			for _, n := range c.nets {
				if n.prefix.Contains(a) {
					c.reserve(n, v)
					return
				}
			}
			c.drop(v, "a reservation of %s, which no segment has", a)
			return
		}
	}
	c.drop(v, "a reservation of the plan is for one device and one IPv4 address of a segment: this one has no ip-address")
}

// reserve carries one reservation, or notes why not.
func (c *config) reserve(n *subnet, v *value) {
	given, addrAt := c.wantText(v, "ip-address")
	if addrAt == nil {
		c.drop(v, "a reservation of the plan is for one device and one IPv4 address: this one has no ip-address")
		return
	}
	addr, err := netip.ParseAddr(given)
	if err != nil || !n.host(addr) {
		c.drop(v, "%q is not an address for a machine of %s", given, n.prefix)
		return
	}
	mac, id, why := c.deviceOf(v)
	if why != "" {
		c.drop(v, "%s", why)
		return
	}
	for _, h := range n.hosts {
		if h.addr == addr || slices.Equal(h.mac, mac) && slices.Equal(h.id, id) {
			c.drop(v, "reservation %s has the address or the device already; a plan has one for each: %s is left out", h.name, addr)
			return
		}
	}
	hostname, at := c.wantText(v, "hostname")
	label, domain, _ := strings.Cut(hostname, ".")
	wanted := cmp.Or(slug(label), "host-"+strings.ReplaceAll(addr.String(), ".", "-"))
	h := host{at: v, name: unique(c.hostNames, wanted), mac: mac, id: id, addr: addr, remark: c.remark(v)}
	if at != nil && (h.name != strings.ToLower(label) || domain != "" && domain != n.domain) {
		c.note(at, Changed, "%q is the name %s in the event's domain", hostname, h.name)
	}
	n.hosts = append(n.hosts, h)
}

// deviceOf is whom the reservation is for: a hardware address, given or said by a client
// identifier that is one, as most are (RFC 2132 section 9.14); or another client identifier.
func (c *config) deviceOf(v *value) (mac net.HardwareAddr, id []byte, why string) {
	if s, at := c.wantText(v, "hw-address"); at != nil {
		if mac, ok := parseMAC(s); ok {
			return mac, nil, ""
		}
		return nil, nil, fmt.Sprintf("%q is not the MAC address of a device", s)
	}
	at := v.find("client-id")
	if at == nil {
		return nil, nil, "a plan reserves by MAC address or client identifier: write hw-address, which hotstage leases shows for each device"
	}
	s, _ := at.str()
	raw, err := unhex(s)
	if text, ok := strings.CutPrefix(s, "'"); ok { // Kea's way to write an identifier as text
		raw, err = []byte(strings.TrimSuffix(text, "'")), nil
	}
	if err != nil || len(raw) < 2 || len(raw) > 255 {
		return nil, nil, fmt.Sprintf("%q is not a client identifier of 2 to 255 bytes", s)
	}
	at.taken = true
	if mac := net.HardwareAddr(raw[1:]); raw[0] == 1 && goodMAC(mac) {
		c.note(at, Changed, "the identifier is a MAC address with its type: reserved for that MAC address")
		return mac, nil, ""
	}
	return nil, raw, ""
}

// device is whom a reservation is for, as the plan has it.
func (h *host) device() string {
	if h.mac != nil {
		return fmt.Sprintf("mac: %q", h.mac.String())
	}
	return fmt.Sprintf("client_id: %q", net.HardwareAddr(h.id).String())
}

// parseMAC reads a hardware address as Kea writes and takes it.
func parseMAC(s string) (net.HardwareAddr, bool) {
	mac, err := net.ParseMAC(s)
	if err != nil {
		raw, hexErr := unhex(s)
		if mac = raw; hexErr != nil || strings.Contains(s, ":") {
			return nil, false
		}
	}
	return mac, goodMAC(mac)
}

// goodMAC tells whether a plan takes the address: of Ethernet and of one device.
func goodMAC(m net.HardwareAddr) bool {
	return len(m) == 6 && m[0]&1 == 0 && !slices.Equal(m, make(net.HardwareAddr, 6))
}
