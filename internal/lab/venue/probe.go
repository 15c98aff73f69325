//go:build linux

package venue

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/hotstage/hotstage/internal/plan"
)

// Gap is a part of the venue that this machine or this version cannot rehearse.
type Gap struct {
	Key   string `json:"key"`            // stable, for example "tags"
	Words string `json:"words"`          // what is not rehearsed, or not as it will be
	Todo  string `json:"todo,omitempty"` // what to do about it, where anything can be done
}

// Limits is what the host must allow for the whole venue on one machine. The neighbour
// tables of all namespaces share one limit; each connection table is counted alone.
func Limits(p *plan.Plan) plan.Limits {
	l := plan.Limits{Conntrack: p.Limits.Conntrack}
	for i := range p.Nodes {
		if len(p.Nodes[i].Attachments) > 0 {
			l.Neighbours += p.Limits.Neighbours
		}
	}
	return l
}

// Probe says what of the plan cannot be rehearsed here: what the kernel lacks, limits of the
// host that are too low, and roles of nodes that are not among those this version has. It
// must run where Build would, so after Enter. An empty list is the good news.
func Probe(p *plan.Plan, roles []plan.Role) ([]Gap, error) {
	var gaps []Gap
	tags, err := kernel.Has8021Q()
	if err != nil {
		return nil, fmt.Errorf("probe this machine: %w", err)
	}
	if trunks := trunksOf(p); !tags && len(trunks) > 0 {
		gaps = append(gaps, Gap{
			Key: "tags",
			Words: fmt.Sprintf("802.1Q tags: this kernel has none, so each segment of a trunk is a link of its own (%s)",
				strings.Join(trunks, ", ")),
			Todo: "as root: modprobe 8021q; or rehearse on a kernel with CONFIG_VLAN_8021Q, such as Debian's",
		})
	}
	gaps = append(gaps, missingRoles(p, roles)...)
	gaps = append(gaps, sharedLeases(p)...)
	if p.Resolver.Unbound {
		gaps = append(gaps, Gap{Key: "dnssec", Words: "DNSSEC: the internet of a rehearsal is not signed, so Unbound validates nothing in it",
			Todo: "ask the real Unbound once at the venue: dig +dnssec . SOA has the flag ad"})
	}
	return append(gaps, lowLimits(Limits(p))...), nil
}

// trunksOf lists the plan's trunks as "gw1 eth1".
func trunksOf(p *plan.Plan) []string {
	var all []string
	for _, n := range p.Nodes {
		for _, f := range n.Interfaces {
			if len(f.Trunk) > 0 {
				all = append(all, n.Name+" "+f.Name)
			}
		}
	}
	return all
}

func missingRoles(p *plan.Plan, have []plan.Role) []Gap {
	var order []plan.Role
	nodes := map[plan.Role][]string{}
	for _, n := range p.Nodes {
		for _, r := range n.Roles {
			if slices.Contains(have, r) {
				continue
			}
			if nodes[r] == nil {
				order = append(order, r)
			}
			nodes[r] = append(nodes[r], n.Name)
		}
	}
	var gaps []Gap
	for _, r := range order {
		gaps = append(gaps, Gap{
			Key:   "role-" + string(r),
			Words: fmt.Sprintf("role %s of %s: this version does not have it", r, strings.Join(nodes[r], ", ")),
		})
	}
	return gaps
}

// sharedLeases is the gap of a database that the venue has not: its nodes are told to keep
// their leases to themselves, so that none waits for it.
func sharedLeases(p *plan.Plan) []Gap {
	s := p.DHCP.Shared
	if s == nil {
		return nil
	}
	return []Gap{{
		Key: "shared-leases",
		Words: fmt.Sprintf("the shared lease database (%s): the venue has none, so each node keeps its leases in its own file alone, as it does while the database is down",
			strings.Join(s.Servers, ", ")),
		Todo: "try the database on the nodes themselves: with hotstage run, hotstage status must say that leases-copied is ok",
	}}
}

func lowLimits(need plan.Limits) []Gap {
	var gaps []Gap
	have := hostNeighbours()
	if Inside() {
		have, _ = strconv.Atoi(os.Getenv(mark))
	}
	if have < need.Neighbours {
		is := fmt.Sprintf("is %d", have)
		if have == 0 { // the host is a namespace too, or it is no Linux that we know
			is = "cannot be read here"
		}
		gaps = append(gaps, Gap{
			Key: "neighbours",
			Words: fmt.Sprintf("neighbour tables: the host's limit %s, the venue's nodes together need %d; devices may lose their network when it is full",
				is, need.Neighbours),
			Todo: fmt.Sprintf("as root, on the host: sysctl -w net.ipv4.neigh.default.gc_thresh3=%d net.ipv6.neigh.default.gc_thresh3=%[1]d", need.Neighbours),
		})
	}
	if have := readNumber("/proc/sys/net/netfilter/nf_conntrack_max"); have >= 0 && have < need.Conntrack {
		gaps = append(gaps, Gap{
			Key:   "conntrack",
			Words: fmt.Sprintf("connection table: the host's limit is %d, the plan's sessions need %d; new connections fail when it is full", have, need.Conntrack),
			Todo:  fmt.Sprintf("as root, on the host: sysctl -w net.netfilter.nf_conntrack_max=%d", need.Conntrack),
		})
	}
	return gaps
}
