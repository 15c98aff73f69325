package plan

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Figure is one number of the plan's capacity, with how it came about.
type Figure struct {
	Name       string
	Value      string // with its unit
	Arithmetic string // in words and numbers
	Source     string // where the constants come from
	OK         bool
	Hint       string // what to do; empty when OK
}

// What an event asks of its network. PerPerson figures are those of 3,000 people, divided.
const (
	doorsIn  = 10 * time.Minute // in which everybody comes through the doors
	outageIn = 5 * time.Second  // in which every device asks again after an outage

	queriesMeanLow  = 2000.0 / 3000 // DNS queries a second and person, mean, from
	queriesMeanHigh = 6000.0 / 3000 // to
	queriesBreak    = 20000.0 / 3000

	testedDORA    = 1000   // exchanges a second that the tests hold one node to, with perfdhcp as the judge
	testedQueries = 20_000 // queries a second that one node is built for
	answerBytes   = 512    // of cache an answer: 240 of bookkeeping, its name and a message of about 200

	// A client asks again after 4 s and after 8 s more (RFC 2131 section 4.1); who has no
	// answer by then is a person at the help desk.
	patience = 12 * time.Second

	conntrackBytes = 320 // of kernel memory a session: a 256-byte object (64-bit Linux 6.18) and its place in the hash table, rounded up
)

const (
	designSource = "design figure: 3,000 people bring 6,000 devices"
	dnsSource    = "design figure: 3,000 people ask 2,000 to 6,000 names/s, 20,000 at a break"
)

// Budget holds the plan's numbers against what they must carry: pools, address service,
// NAPT, name service, the kernel's tables and the uplinks, in this order. Pure.
func Budget(p *Plan) []Figure {
	var all []Figure
	all = append(all, budgetPools(p)...)
	all = append(all, budgetDHCP(p)...)
	all = append(all, budgetNAPT(p)...)
	all = append(all, budgetDNS(p)...)
	all = append(all, budgetKernel(p))
	return append(all, budgetUplinks(p)...)
}

// figure is f, with its hint only when it is not OK.
func figure(name, value, arithmetic, source string, ok bool, hint string) Figure {
	if ok {
		hint = ""
	}
	return Figure{name, value, arithmetic, source, ok, hint}
}

func budgetPools(p *Plan) (all []Figure) {
	for _, s := range p.Segments {
		size := s.Pool.Size()
		if size == 0 {
			continue
		}
		devices, source := devicesInWords(p, s)
		all = append(all, figure("pool "+s.Name, number(size)+" addresses",
			fmt.Sprintf("%v to %v is %s; %s: %.0f%% in use when all are there", s.Pool.From, s.Pool.To, number(size), devices, 100*float64(s.Devices)/float64(size)),
			source, size >= addressesFor(s.Devices),
			fmt.Sprintf("the leases of those who left are kept for %s and fill the rest; a third more than devices is %s: a shorter prefix, or a shorter lease", span(s.Lease), number(addressesFor(s.Devices)))))
	}
	return all
}

// addressesFor is the pool that so many devices need: a third more than devices, because the
// lease of a device that left keeps its address until it ends.
func addressesFor(devices int) int { return devices * 13 / 10 }

// devicesInWords says where the number of a segment's devices comes from.
func devicesInWords(p *Plan, s Segment) (arithmetic, source string) {
	e := p.Event
	words, share := fmt.Sprintf("%s people x %s devices", number(e.Attendees), strconv.FormatFloat(e.DevicesPerAttendee, 'g', 4, 64)), 1.0
	for _, a := range p.Areas {
		if a.Name == s.Area {
			share *= a.Share
			words += fmt.Sprintf(" x %.4g%% in %s", a.Share*100, a.Name)
		}
	}
	for _, ssid := range p.SSIDs {
		if ssid.Name == s.SSID {
			share *= ssid.Share
			words += fmt.Sprintf(" x %.4g%% on %s", ssid.Share*100, ssid.Name)
		}
	}
	switch {
	case s.Class == Attendee && int(math.Ceil(float64(e.Devices())*share)) == s.Devices:
		return fmt.Sprintf("%s = %s devices", words, number(s.Devices)), "attendees, devices_per_attendee and shares of the plan; YAPC::Asia 2013 planned 2 devices a person"
	case s.Class != Attendee:
		return fmt.Sprintf("%s devices", number(s.Devices)), "devices of the segment in the plan; 100 for a segment of our own machines unless given"
	}
	return fmt.Sprintf("%s devices", number(s.Devices)), "devices of the segment in the plan, or an equal part of all devices"
}

// budgetDHCP is about the node with most to do: every server of a segment hears every
// device, so several in one segment share the addresses but not the questions.
func budgetDHCP(p *Plan) []Figure {
	devices, renewals, worst, sum := 0, 0.0, "", ""
	for i := range p.Nodes {
		n := &p.Nodes[i]
		if !n.Has(RoleDHCP) {
			continue
		}
		there, rate := 0, 0.0
		var parts []string
		for _, a := range n.Attachments {
			s := p.Segment(a.Segment)
			if s == nil || !a.Pool.IsValid() {
				continue
			}
			there += s.Devices
			rate += float64(s.Devices) / (s.Lease.Seconds() / 2)
			parts = append(parts, fmt.Sprintf("%s / %s", number(s.Devices), span(s.Lease/2)))
		}
		if there > devices {
			devices, renewals, worst, sum = there, rate, n.Name, strings.Join(parts, " + ")
		}
	}
	if worst == "" {
		return nil
	}
	rate := func(in time.Duration) float64 { return float64(devices) / in.Seconds() }
	last := time.Duration(float64(devices) / testedDORA * float64(time.Second))
	return []Figure{
		figure("dhcp at the doors", perSecond(rate(doorsIn))+" exchanges",
			fmt.Sprintf("%s devices of %s's segments / %s", number(devices), worst, span(doorsIn)),
			designSource+" through the doors in 10 minutes", rate(doorsIn) <= testedDORA,
			"more than one node with role dhcp, each with segments of its own"),
		figure("dhcp after an outage", perSecond(rate(outageIn))+" exchanges",
			fmt.Sprintf("%s devices / %s; at %s/s, which the tests hold a node to, the last one waits %s", number(devices), span(outageIn), number(testedDORA), span(max(last, outageIn).Round(time.Second))),
			designSource+" and all ask within 5 s; a client asks again after 4 s and 8 s more (RFC 2131 section 4.1)", last <= patience,
			"more than one node with role dhcp, each with segments of its own; then rehearse it: hotstage rehearse PLAN --doors 5s"),
		figure("dhcp renewals", perSecond(renewals),
			sum+": devices / half their lease", "a client renews at half of its lease (T1: RFC 2131 section 4.4.5)", renewals <= testedDORA/10,
			"a longer lease: renewals take more than a tenth of what a node is tested with"),
	}
}

func budgetNAPT(p *Plan) []Figure {
	n, e := p.NAPT, p.Event
	addresses, whence := len(n.Addresses), "of the exit "+n.Exit
	if addresses == 0 {
		addresses, whence = 1, "which the uplink gets at run time"
	}
	need, have := n.portsNeeded(), n.portsThere()
	return []Figure{
		figure("napt sessions", number(n.Sessions),
			fmt.Sprintf("%s people x %d sessions x UDP timer %s / 30s", number(e.Attendees), e.SessionsPerAttendee, span(n.Timeouts.UDP)),
			"YAPC::Asia 2013: 10,000 to 25,000 sessions of 1,000 people at a timer of 30 s", true, ""),
		figure("napt table", number(n.Table)+" entries",
			fmt.Sprintf("%s sessions / %.4g%% use = %s; x %d bytes = %s of kernel memory", number(n.Sessions), n.Use*100, number(n.Table), conntrackBytes, bytesInWords(int64(n.Table)*conntrackBytes)),
			"YAPC::Asia 2013 kept its table at about 50% so that a burst fits; nf_conntrack's object size", n.Table <= mostConntrack,
			fmt.Sprintf("at most %s entries: a shorter udp timeout", number(mostConntrack))),
		figure("napt ports", fmt.Sprintf("%s of %s", number(int(need)), number(int(have))),
			fmt.Sprintf("%s sessions x %.0f%% to the busiest destination; addresses: %d %s x %s ports x %.4g%% use", number(n.Sessions), BusiestShare*100, addresses, whence, number(PortsPerAddress), n.Use*100),
			"ports 1,024 to 65,535 for each protocol and destination; the busiest destination's share is assumed", need <= have,
			"more addresses at the exit's uplink, or a shorter udp timeout"),
	}
}

func budgetDNS(p *Plan) []Figure {
	nodes := 0
	for i := range p.Nodes {
		if p.Nodes[i].Has(RoleResolver) && len(p.Nodes[i].Attachments) > 0 {
			nodes++
		}
	}
	people := float64(p.Event.Attendees)
	peak := people * queriesBreak
	figures := []Figure{
		figure("dns mean", fmt.Sprintf("%s to %s", perSecond(people*queriesMeanLow), perSecond(people*queriesMeanHigh)),
			fmt.Sprintf("%s people x %.2g to %.2g queries/s", number(p.Event.Attendees), queriesMeanLow, queriesMeanHigh), dnsSource, people*queriesMeanHigh <= testedQueries,
			"more nodes with role resolver, and areas to spread the devices over them"),
		figure("dns at a break", perSecond(peak),
			fmt.Sprintf("%s people x %.2f queries/s; one node of %d must carry it when the others are down: built for %s/s", number(p.Event.Attendees), queriesBreak, nodes, number(testedQueries)), dnsSource, peak <= testedQueries*1.001,
			"resolvers in segments of their own, so that each hears only a part"),
	}
	if nodes == 0 {
		return figures[:1]
	}
	return append(figures, figure("dns cache", bytesInWords(p.Resolver.Cache),
		fmt.Sprintf("about %s answers of %d bytes on each of %d nodes", number(int(p.Resolver.Cache/answerBytes)), answerBytes, nodes),
		"resolver: cache of the plan; an answer of about 200 bytes with its name and 240 bytes of bookkeeping", true, ""))
}

func budgetKernel(p *Plan) Figure {
	devices := 0
	for _, s := range p.Segments {
		devices += s.Devices
	}
	return figure("neighbour table", number(p.Limits.Neighbours)+" entries",
		fmt.Sprintf("%s devices x 4 addresses x 1.5", number(devices)),
		"one IPv4 and up to three IPv6 addresses a device (link-local, stable, temporary: RFC 8981), half as much again for those that left; Linux keeps 1,024 unless told otherwise", true, "")
}

func budgetUplinks(p *Plan) (all []Figure) {
	for _, site := range p.Sites {
		for _, u := range site.Uplinks {
			name := site.Name + "/" + u.Name
			if u.Bandwidth > 0 && site.Name == p.NAPT.Exit {
				all = append(all, figure("bandwidth "+name, bandwidth(u.Bandwidth/int64(max(1, p.Event.Attendees)))+" a person",
					fmt.Sprintf("%s / %s people, all at once", bandwidth(u.Bandwidth), number(p.Event.Attendees)), "bandwidth of the plan", true, ""))
			}
			if u.IPv6.IsValid() {
				used := 0
				for _, s := range p.Segments {
					if u.IPv6.Overlaps(s.IPv6) {
						used++
					}
				}
				there := 1 << (64 - u.IPv6.Bits())
				all = append(all, figure("ipv6 "+name, fmt.Sprintf("%d of %s /64", used, number(there)),
					fmt.Sprintf("%s is 2^(64-%d) = %s prefixes; one a segment", u.IPv6, u.IPv6.Bits(), number(there)), "SLAAC needs a /64 (RFC 4862, RFC 7421)", used <= there, "a shorter prefix from the provider"))
			}
		}
	}
	return all
}

// number is n with commas between thousands.
func number(n int) string {
	digits := strconv.Itoa(n)
	var parts []string
	for len(digits) > 3 && digits[len(digits)-4] != '-' {
		parts = append(parts, digits[len(digits)-3:])
		digits = digits[:len(digits)-3]
	}
	slices.Reverse(parts)
	return strings.Join(append([]string{digits}, parts...), ",")
}

// perSecond is a rate with as many digits as one needs to plan with it.
func perSecond(rate float64) string {
	if rate < 10 {
		return fmt.Sprintf("%.2g/s", rate)
	}
	return number(int(math.Round(rate))) + "/s"
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

func bytesInWords(n int64) string {
	for _, unit := range []struct {
		name string
		size int64
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if n >= unit.size {
			return fmt.Sprintf("%.3g %s", float64(n)/float64(unit.size), unit.name)
		}
	}
	return fmt.Sprintf("%d bytes", n)
}

func bandwidth(n int64) string {
	for _, unit := range []struct {
		name string
		size int64
	}{{"Gbps", 1e9}, {"Mbps", 1e6}, {"kbps", 1e3}} {
		if n >= unit.size {
			return fmt.Sprintf("%.3g %s", float64(n)/float64(unit.size), unit.name)
		}
	}
	return fmt.Sprintf("%d bps", n)
}
