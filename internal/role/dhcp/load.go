package dhcp

import (
	"cmp"
	"slices"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
)

// restore fills the pool with what the store knows. It returns how many live leases are of
// addresses that this node may not give any more: the plan was changed. They stay in the
// store and their clients will get another address.
//
// When a lease ends is decided on the boot clock alone while the machine runs: after a
// restart in the same boot (fact.Lease.Boot) it ends at ExpiresBoot, and the wall clock is
// not looked at. After a reboot nobody can say how long the machine was off, and the wall
// clock may be wrong (no battery, no NTP yet). The rule then is:
//
//   - A lease that the store has as bound ends no earlier than one whole lease time of the
//     plan after this boot began. What the client was granted had begun before, so it has
//     ended by then, whatever the wall clock says.
//   - It ends later when the wall clock says so (a lease time that the plan has since
//     shortened), but by no more than the whole time the lease can have had left: from its
//     start to its end, and what the old boot clock showed at its end. A wall clock that
//     went back to 1970 therefore holds no address for years.
//   - A lease that the store has as ended has ended.
//
// Counting begins at the boot, not at the load: the boot clock has counted since.
func (g *segment) restore(at moment, leases []fact.Lease) (outside int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	mine := make([]*fact.Lease, 0, len(leases)) // pointers: a lease is large, and a start sorts 100,000 of them
	for i := range leases {
		l := &leases[i]
		switch {
		case l.Segment != g.cfg.Name:
		case g.pool.at(l.Addr) == nil:
			if l.State == fact.LeaseBound && g.endOf(at, *l) > at.boot {
				outside++
			}
		default:
			mine = append(mine, l)
		}
	}
	// The longest ended first, as in the pool's order; the bound last, so that they are
	// their clients' last addresses.
	slices.SortStableFunc(mine, func(a, b *fact.Lease) int {
		return cmp.Or(
			cmp.Compare(btoi(a.State == fact.LeaseBound), btoi(b.State == fact.LeaseBound)),
			a.Expires.Compare(b.Expires),
			a.Addr.Compare(b.Addr),
		)
	})
	for _, l := range mine {
		g.take(at, *l)
	}
	return outside
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// take puts one lease of the store into the pool.
func (g *segment) take(at moment, l fact.Lease) {
	b := g.pool.at(l.Addr)
	r := record{client: clientFromWords(l.Client), host: label([]byte(l.Hostname)), start: l.Start, until: l.Expires}
	copy(r.mac[:], l.MAC)
	if g.pool.byMAC[r.mac] == b { // the plan reserved what the device already had
		r.client = "m" + string(r.mac[:])
	}
	r.ends = g.endOf(at, l)
	r.granted = r.ends - g.cfg.Lease
	r.trial = !b.owner && g.cfg.Lease > trialFor && (l.State == fact.LeaseBound || l.State == fact.LeaseExpired) && l.Expires.Sub(l.Start) <= trialFor
	switch l.State {
	case fact.LeaseBound:
		r.state = bound
	case fact.LeaseDeclined:
		r.state = declined
		if r.ends <= at.boot || b.owner {
			r.state, r.client = expired, ""
		}
	case fact.LeaseReleased:
		r.state = released
	default:
		r.state = expired
	}
	if b.theirs && r.state == bound { // who gave it last is not known: as if it had been us
		r.lent = r.ends
	}
	if r.state != bound {
		r.ends = min(r.ends, at.boot+restFor)
	}
	g.pool.put(b, r)
	if r.state == bound && r.ends+graceFor <= at.boot {
		g.pool.end(b, expired, at, 0)
		return
	}
	if r.state == bound && !b.owner && r.host != "" {
		b.name = g.names.claim(b.addr, r.host, g.cfg.Domain)
	}
}

// endOf is when a lease of the store ends on this boot's clock; see restore for the rule.
func (g *segment) endOf(at moment, l fact.Lease) time.Duration {
	if l.Boot == g.boot && l.Boot != "" {
		return l.ExpiresBoot
	}
	whole := g.cfg.Lease
	if l.State == fact.LeaseDeclined {
		whole = restFor
	}
	left := l.Expires.Sub(at.wall.Add(-at.boot))
	if most := l.Expires.Sub(l.Start); most > 0 {
		left = min(left, most)
	}
	if l.ExpiresBoot > 0 {
		left = min(left, l.ExpiresBoot)
	}
	return max(left, whole)
}
