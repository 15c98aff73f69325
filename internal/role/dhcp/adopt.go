package dhcp

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
)

const (
	// adoptFor is how long a node that knows no lease waits for the shared book: devices that
	// ask meanwhile repeat themselves (RFC 2131 section 4.1).
	adoptFor = 3 * time.Second
	// adoptAgain is how long one waits that knows its own.
	adoptAgain = 500 * time.Millisecond
)

// adopt takes over what the shared book knows better of this node's addresses: all of it on
// a machine that is new, on others what another machine wrote in this one's absence.
//
// Which of two copies is newer is told by Seq, never by a clock. A node's changes are
// numbered upwards, and a node that meets the shared book lifts its numbers above the
// highest one there before it adds any. So of what this node has copied, a higher number in
// the shared book means that somebody who knew this copy has written since: theirs is newer.
// What this node has not copied yet is unknown to everybody else: ours is newer.
func (f *Feed) adopt(ctx context.Context, own ownBook) error {
	have, err := own.Changes(ctx, 0, math.MaxInt32)
	if err != nil {
		return err
	}
	most := adoptAgain
	if len(have) == 0 {
		most = adoptFor
	}
	asking, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	id, highest, _, err := f.shared.Position(asking, f.node)
	var there []fact.Lease
	if err == nil {
		there, err = f.shared.Load(asking)
	}
	if err != nil {
		severity, what := fact.Info, "this node's own file says what it knows"
		if len(have) == 0 {
			severity, what = fact.Warning, "this node knows no lease; if it takes another machine's place, devices that renew keep their addresses and others may get one that is in use: check before the doors open"
		}
		f.tell.say(read(f.clock), severity, "leases-not-adopted", "", "the shared database did not say which leases it has (%v), and %s", err, what)
		return nil
	}
	mark, err := own.Marked(ctx, id)
	if err != nil {
		return err
	}
	take := f.better(there, have, mark)
	if len(take) == 0 {
		return nil
	}
	if err := own.Lift(ctx, mark, highest); err != nil {
		return err
	}
	if err := own.Commit(ctx, take); err != nil {
		return fmt.Errorf("adopt leases: %w", err)
	}
	f.tell.say(read(f.clock), fact.Info, "leases-adopted", "", "%d leases are known from the shared database, which this node's own file did not have", len(take))
	return nil
}

// better picks what is newer there, in the order in which it happened.
func (f *Feed) better(there, have []fact.Lease, mark int64) (take []fact.Lease) {
	type key struct {
		segment string
		addr    netip.Addr
	}
	type client struct{ segment, key string }
	known, bound := map[key]int64{}, map[client]netip.Addr{}
	for _, l := range have {
		known[key{l.Segment, l.Addr}] = l.Seq
		if l.State == fact.LeaseBound {
			bound[client{l.Segment, l.Client}] = l.Addr
		}
	}
	at := read(f.clock)
	for _, l := range there {
		s := f.mine(l.Segment, l.Addr)
		ours, knows := known[key{l.Segment, l.Addr}]
		if s == nil || knows && (ours > mark || ours >= l.Seq) {
			continue
		}
		if a, has := bound[client{l.Segment, l.Client}]; has && a != l.Addr && l.State == fact.LeaseBound {
			l.State = fact.LeaseReleased // it has another one of us
		}
		take = append(take, anew(at, f.clock.Boot(), s.Lease, l))
	}
	slices.SortFunc(take, func(a, b fact.Lease) int { return cmp.Or(cmp.Compare(a.Seq, b.Seq), a.Addr.Compare(b.Addr)) })
	return take
}

// anew says when another machine's lease ends on this one's boot clock. What its client was
// granted began before now, so it has ended one whole lease from now, whatever the clocks
// say; it ends later only as in restore.
func anew(at moment, boot string, whole time.Duration, l fact.Lease) fact.Lease {
	if l.Boot == boot && boot != "" || l.State != fact.LeaseBound && l.State != fact.LeaseDeclined {
		return l
	}
	if l.State == fact.LeaseDeclined {
		whole = restFor
	}
	left := l.Expires.Sub(at.wall)
	if most := l.Expires.Sub(l.Start); most > 0 {
		left = min(left, most)
	}
	if l.ExpiresBoot > 0 {
		left = min(left, l.ExpiresBoot)
	}
	l.Boot, l.ExpiresBoot = boot, at.boot+max(left, whole)
	return l
}
