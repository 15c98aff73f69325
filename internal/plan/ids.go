package plan

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"math/bits"
	"net/netip"
	"slices"
	"strconv"
)

// Ids come from names: each name has a preferred number by its hash, and only where two
// want the same does the later one (explicit before locked before sorted by name) take the
// next free. So adding, removing or reordering names renumbers nothing else, and the lock
// keeps even those that met.

func hash(name string) uint32 {
	h := fnv.New32a()
	h.Write([]byte(name))
	return h.Sum32()
}

// draft is a segment on its way to being derived.
type draft struct {
	Segment
	raw  rawSegment
	need int // addresses
}

// byName is the drafts' order in which collisions are settled.
func byName(ds []*draft) []*draft {
	sorted := slices.Clone(ds)
	slices.SortFunc(sorted, func(a, b *draft) int {
		switch {
		case a.Name < b.Name:
			return -1
		case a.Name > b.Name:
			return 1
		}
		return 0
	})
	return sorted
}

func (r *reader) numberVLANs(ds []*draft, lock *Lock) {
	taken := map[int]string{}
	for _, d := range ds {
		if d.raw.vlan == 0 {
			continue
		}
		if other, twice := taken[d.raw.vlan]; twice {
			r.at(d.raw.of("vlan"), fmt.Sprintf("segments %s and %s both have VLAN id %d", other, d.Name, d.raw.vlan), "an id of its own", "")
			continue
		}
		d.VLAN, taken[d.raw.vlan] = d.raw.vlan, d.Name
	}
	for _, d := range byName(ds) {
		if v := lock.Segments[d.Name].VLAN; d.VLAN == 0 && v != 0 && taken[v] == "" {
			d.VLAN, taken[v] = v, d.Name
		}
	}
	for _, d := range byName(ds) {
		if d.VLAN != 0 || d.raw.vlan != 0 {
			continue
		}
		want := map[Class]int{Server: 10, Management: 20, Staff: 30}[d.Class]
		if want == 0 || d.Name != string(d.Class) {
			want = 100 + int(hash(d.Name)%900)
		}
		for taken[want] != "" {
			want = want%4094 + 1
		}
		d.VLAN, taken[want] = want, d.Name
	}
}

// derived is where prefixes that the plan leaves unsaid are taken from (RFC 1918).
var derived = netip.MustParsePrefix("10.0.0.0/8")

// prefixBits is the length of the smallest IPv4 prefix with need addresses, at most max.
func prefixBits(need, max int) int { return min(32-bits.Len(uint(need-1)), max) }

func (r *reader) numberIPv4(ds []*draft, lock *Lock, reserved []netip.Prefix) {
	taken := slices.Clone(reserved)
	free := func(p netip.Prefix) bool { return !slices.ContainsFunc(taken, p.Overlaps) }
	for _, d := range ds {
		p := d.raw.ipv4
		if !p.IsValid() {
			continue
		}
		for _, o := range ds {
			if o.IPv4.IsValid() && o.IPv4.Overlaps(p) {
				r.at(d.raw.of("ipv4"), fmt.Sprintf("segment %s: prefix %s overlaps %s of segment %s", d.Name, p, o.IPv4, o.Name), "a prefix of its own", "")
			}
		}
		if i := slices.IndexFunc(reserved, p.Overlaps); i >= 0 {
			r.at(d.raw.of("ipv4"), fmt.Sprintf("segment %s: prefix %s overlaps the uplink's %s", d.Name, p, reserved[i]), "a prefix of its own", "")
		}
		d.IPv4 = p
		taken = append(taken, p)
	}
	for _, d := range byName(ds) {
		p := lock.Segments[d.Name].IPv4
		if d.IPv4.IsValid() || !p.IsValid() {
			continue
		}
		if grown := netip.PrefixFrom(p.Addr(), min(p.Bits(), prefixBits(d.need, 24))).Masked(); free(grown) {
			if grown != p {
				hint := "devices keep their addresses; their netmask changes at the next renewal"
				if grown.Addr() != p.Addr() {
					hint = "its gateway and nodes move to the start of it: change it when nobody is there, or give ipv4: yourself"
				}
				r.warn(d.raw.at, fmt.Sprintf("segment %s grew: its prefix is now %s instead of %s", d.Name, grown, p), hint)
			}
			d.IPv4 = grown
			taken = append(taken, grown)
			continue
		}
		r.warn(d.raw.at, fmt.Sprintf("segment %s grew and does not fit at %s: it is renumbered", d.Name, p), "give it ipv4: yourself if you would rather choose")
	}
	for _, d := range byName(ds) {
		if d.IPv4.IsValid() {
			continue
		}
		size := prefixBits(d.need, 24)
		slots := uint32(1) << max(0, size-derived.Bits())
		for i := range slots {
			p := netip.PrefixFrom(fromU32(u32(derived.Addr())+(hash(d.Name)+i)%slots<<(32-size)), size)
			if size >= derived.Bits() && free(p) {
				d.IPv4 = p
				taken = append(taken, p)
				break
			}
		}
		if !d.IPv4.IsValid() {
			r.at(d.raw.at, fmt.Sprintf("segment %s: no free /%d is left in %s", d.Name, size, derived), "fewer or smaller segments, or prefixes given as ipv4:", "")
		}
	}
}

func fromU32(n uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], n)
	return netip.AddrFrom4(b)
}

// numberIPv6 gives each segment of a site a /64 of the site's prefix. The VLAN id's decimal
// digits, read as hexadecimal, are the subnet where they fit (VLAN 463 is ...:463::/64);
// otherwise the name's hash decides.
func (r *reader) numberIPv6(ds []*draft, site string, uplink Uplink, at *value, lock *Lock) {
	taken, from := map[netip.Prefix]string{}, uplink.IPv6
	if uplink.Address6.IsValid() {
		taken[netip.PrefixFrom(uplink.Address6.Addr(), 64).Masked()] = "uplink " + uplink.Name
	}
	for _, d := range ds {
		if p := d.raw.ipv6; d.Site == site && p.IsValid() {
			if from.IsValid() && !from.Overlaps(p) && !p.Addr().IsPrivate() {
				r.warn(d.raw.of("ipv6"), fmt.Sprintf("segment %s: %s is not in the uplink's %s", d.Name, p, from), "leave ipv6 out and it gets a /64 of the uplink's prefix")
			}
			if taken[p] != "" {
				r.at(d.raw.of("ipv6"), fmt.Sprintf("segments %s and %s both have %s", taken[p], d.Name, p), "a prefix of its own", "")
			}
			d.IPv6, taken[p] = p, d.Name
		}
	}
	if !from.IsValid() {
		return
	}
	subnets := uint64(1) << (64 - from.Bits())
	var left []*draft
	for _, d := range byName(ds) {
		if p := lock.Segments[d.Name].IPv6; d.Site == site && !d.IPv6.IsValid() && p.IsValid() && from.Overlaps(p) && taken[p] == "" {
			d.IPv6, taken[p] = p, d.Name
		}
	}
	for _, d := range byName(ds) {
		if d.Site != site || d.IPv6.IsValid() {
			continue
		}
		want, err := strconv.ParseUint(strconv.Itoa(d.VLAN), 16, 64)
		if err != nil || want >= subnets {
			want = uint64(hash(d.Name)) % subnets
		}
		for i := range min(subnets, 8192) {
			if p := subnet64(from, (want+i)%subnets); taken[p] == "" {
				d.IPv6, taken[p] = p, d.Name
				break
			}
		}
		if !d.IPv6.IsValid() {
			left = append(left, d)
		}
	}
	if len(left) > 0 {
		r.at(at, fmt.Sprintf("%s has a /64 for %s segments of site %s; %d more have none, %s first", from, number(int(subnets)), site, len(left), left[0].Name),
			"a shorter prefix, such as a /56 or a /48", "ask the provider for one; or leave ipv6 out of the uplink and give it to some segments")
	}
}

func subnet64(from netip.Prefix, n uint64) netip.Prefix {
	b := from.Masked().Addr().As16()
	binary.BigEndian.PutUint64(b[:8], binary.BigEndian.Uint64(b[:8])|n)
	return netip.PrefixFrom(netip.AddrFrom16(b), 64)
}

// host6 is the address of a /64 with the same host number as the IPv4 one has.
func host6(p netip.Prefix, n uint32) netip.Addr {
	b := p.Addr().As16()
	binary.BigEndian.PutUint32(b[12:], n)
	return netip.AddrFrom16(b)
}

// reservedHosts is how many addresses at the start of a prefix are kept for the gateway and
// for nodes: 64, or a quarter of a small prefix and at least 4.
func reservedHosts(p netip.Prefix) uint32 { return min(64, max(4, uint32(1)<<(32-p.Bits())/4)) }
