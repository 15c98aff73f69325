package kea

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/hotstage/hotstage/internal/plan"
)

// numberVLANs reads VLAN ids from the names of interfaces, eth1.100, as Linux has them.
func (c *config) numberVLANs() {
	taken := map[int]bool{}
	for _, n := range c.nets {
		name, _ := n.iface.str()
		if !interfaceName(name) {
			if n.iface != nil {
				c.note(n.iface, NotCarried, "not a name for an interface in a plan: segment %s is on the trunk of gw1", n.name)
			}
			continue
		}
		n.parent = name
		parent, id, ok := strings.Cut(name, ".")
		if v, err := strconv.Atoi(id); ok && err == nil && v >= 1 && v <= 4094 && parent != "" && len(parent) <= 10 {
			n.parent = parent
			if !taken[v] {
				n.vlan, taken[v] = v, true
			}
		}
	}
}

// interfaceName tells whether a plan takes the name of an interface.
func interfaceName(s string) bool {
	return s != "" && len(s) <= 15 && s != "lo" && s != "." && s != ".." && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`/:"\`, r) })
}

// port is one interface of the plan's node.
type port struct {
	name     string
	segments []string
	trunk    bool
}

// ports are the interfaces in the segments, and a free name for the uplink's. Segments
// whose interface Kea does not know, or shares with another, come over a trunk.
func (c *config) ports() (uplink string, all []port) {
	users, used := map[string]int{}, map[string]bool{}
	for _, n := range c.nets {
		if users[n.parent]++; n.parent != "" {
			used[n.parent] = true
		}
	}
	fresh := func() string {
		for i := 0; ; i++ {
			if name := fmt.Sprintf("eth%d", i); !used[name] {
				used[name] = true
				return name
			}
		}
	}
	uplink = fresh()
	spare := ""
	for _, n := range c.nets {
		tagged := n.vlan != 0 || users[n.parent] > 1
		name := n.parent
		if name == "" {
			spare = cmp.Or(spare, fresh())
			name, tagged = spare, true
		}
		i := slices.IndexFunc(all, func(p port) bool { return p.name == name })
		if i < 0 {
			i, all = len(all), append(all, port{name: name, trunk: tagged})
		}
		all[i].segments = append(all[i].segments, n.name)
	}
	return uplink, all
}

// share says how many devices each attendee segment is for. The check of a plan refuses a
// segment with more devices than addresses, so those are cut to fit, with a note.
func (c *config) share(a Answers) {
	var rooms []*subnet
	addresses, comfortable := 0, 0
	for _, n := range c.nets {
		if n.class == plan.Attendee {
			rooms = append(rooms, n)
			n.devices = max(1, n.pool.Size()*10/13) // a third more than devices: who left keeps an address until the lease ends
			addresses += n.pool.Size()
			comfortable += n.devices
		}
	}
	c.people = min(max(1, comfortable/2), mostPeople)
	c.peopleWords = "as many as the pools are good for; Kea does not know it"
	if len(rooms) == 0 {
		c.peopleWords = "no segment is for attendees: put yours here"
	}
	if a.People == 0 {
		return
	}
	c.people, c.peopleWords = a.People, ""
	for _, n := range rooms {
		wanted := (2*a.People*n.pool.Size() + addresses - 1) / addresses
		if wanted > n.devices {
			c.note(n.at, Changed, "%d people bring about %d devices to segment %s, whose pool has %d addresses and is good for %d with those that left: a shorter prefix in the plan (a /23 has twice a /24), or a shorter lease", a.People, wanted, n.name, n.pool.Size(), n.devices)
		}
		n.devices = max(1, min(wanted, n.pool.Size()))
	}
}

// sessions is what one address at the uplink, half of its ports kept for a burst, carries of
// NAPT sessions a person: the plan's check refuses more. 0 when the plan's 25 fit.
func (c *config) sessions() int {
	const usual, use = 25, 0.5 // the plan's sessions_per_attendee and napt.use
	fit := int(plan.PortsPerAddress * use / plan.BusiestShare / float64(c.people))
	if fit >= usual {
		return 0
	}
	return max(1, fit)
}

// mostPeople is the largest event that a plan takes.
const mostPeople = 100_000
