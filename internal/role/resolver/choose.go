package resolver

import (
	"cmp"
	"hash/maphash"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// candidate is a resolver as it stood at one moment.
type candidate struct {
	u     *upstream
	class int           // lower is better
	cost  time.Duration // of one question more
}

// order is whom to ask, best first. Those that are well come before doubtful ones and these
// before those that are down, who are asked all the same when nobody better answers: one
// thought dead is better than none. Among the best it is power of two choices: two by
// chance, the one first whose round trip times open questions is less, so that nobody gets
// everything at once and a slow one gets little.
func (f *forwarder) order(q ask) []*upstream {
	now := time.Now()
	all := make([]candidate, len(f.upstreams))
	tiers := f.upstreams[len(f.upstreams)-1].tier + 1
	for i, u := range f.upstreams {
		s, cost := u.stands(now)
		all[i] = candidate{u, int(s)*tiers + u.tier, cost}
		if u.half != 0 { // two children: each has its names, and so its cache
			all[i].cost = time.Duration((maphash.Bytes(f.seed, q.name) + u.half) % 2)
		}
	}
	slices.SortStableFunc(all, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.class, b.class), cmp.Compare(a.cost, b.cost))
	})
	best := 1
	for best < len(all) && all[best].class == all[0].class {
		best++
	}
	if best > 2 {
		one, other := rand.IntN(best), rand.IntN(best-1)
		if other >= one {
			other++
		}
		first := min(one, other)
		c := all[first]
		copy(all[1:first+1], all[:first])
		all[0] = c
	}
	order := make([]*upstream, len(all))
	for i := range all {
		order[i] = all[i].u
	}
	return order
}

const (
	hedgeShare = 0.1 // of all questions may be asked a second time though somebody is at work
	hedgeBurst = 50
)

// budget is how many second questions may go out. Safe for concurrent use.
type budget struct {
	mu   sync.Mutex
	have float64
}

// earn notes a question.
func (b *budget) earn() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.have = min(b.have+hedgeShare, hedgeBurst)
}

// take takes a second question out of the budget, if there is one.
func (b *budget) take() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.have < 1 {
		return false
	}
	b.have--
	return true
}
