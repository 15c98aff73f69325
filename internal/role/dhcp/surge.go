package dhcp

import "time"

const (
	// trialFor is the first lease of a stranger in a surge. Its device renews after half of
	// it and has the whole lease then; an address that was taken for a made-up device is free
	// again when it ends.
	trialFor = 10 * time.Minute
	// trialAfter is how long a device must have been there for the whole lease: less than
	// the earliest T1 of a trial (see renewal), so that an honest one is never held up, and
	// more than the time in which somebody repeats his REQUEST to lengthen what he took.
	trialAfter = trialFor / 4
	// surgeWindow is the time over which strangers are counted.
	surgeWindow = time.Minute
	// leastSurge is the least number of strangers that is a surge, however small the pool.
	leastSurge = 64
)

// surge tells when more strangers come than a venue brings: clients that the pool has no
// record of and that get an address. Whoever makes hardware addresses up and takes the
// offers up can exhaust any pool; nothing in a message tells him from a guest. So strangers
// are never delayed, refused or counted out one by one: the opening rush of 6,000 devices in
// 60 s looks just like him, and must be served at once. What a surge does change is what
// others lose by it:
//
//   - A lease in force is never taken. It is no matter of a surge.
//   - A stranger's first lease is a trial of 10 minutes. A guest's device renews it after 5
//     and has the whole lease from then on, so that it costs him nothing; a made-up device
//     does not come back, and the pool has its addresses again after 10 minutes instead of
//     a whole lease. What had been bound before the surge was noticed, a quarter of the
//     pool, stays bound for a whole lease.
//   - The addresses whose leases ended last are kept for their devices, up to an eighth of
//     the pool: a stranger does not get them while the surge lasts. An address that was
//     on trial when its lease ended goes to the head of the queue, where the next stranger
//     gets it: who takes addresses and gives them back turns his own over, and does not push
//     the guests' out.
//
// A surge is a quarter of the pool within a minute or two. A pool that the plan sized has a
// third more addresses than devices, so a rush of all devices still finds 7/8 of the
// addresses: nobody is refused who would not have been.
type surge struct {
	from  int // more strangers than that
	began time.Duration
	count [2]int // of the window before and of this one
}

func newSurge(addresses int) surge { return surge{from: max(leastSurge, addresses/4)} }

// stranger counts one that was given an address.
func (s *surge) stranger(at time.Duration) {
	s.roll(at)
	s.count[1]++
}

// on says whether there is a surge.
func (s *surge) on(at time.Duration) bool {
	s.roll(at)
	return s.count[0]+s.count[1] > s.from
}

func (s *surge) roll(at time.Duration) {
	switch gone := at - s.began; {
	case gone < surgeWindow:
	case gone < 2*surgeWindow:
		s.count, s.began = [2]int{s.count[1], 0}, s.began+surgeWindow
	default:
		s.count, s.began = [2]int{}, at
	}
}

// kept is how many addresses of the past are not for strangers now.
func (p *pool) kept(at time.Duration) int {
	if !p.surge.on(at) {
		return 0
	}
	return p.size() / 8
}

// term is the lease that the client gets of the address, and whether it is a trial. again
// says that the client has it.
func (g *segment) term(at moment, b *binding, key []byte, again bool) (time.Duration, bool) {
	switch {
	case b.owner || g.cfg.Lease <= trialFor:
	case again && b.trial && at.boot-b.first < trialAfter:
		return trialFor, true
	case !again && g.pool.clients[string(key)] == nil && g.pool.surge.on(at.boot):
		return trialFor, true
	}
	return g.cfg.Lease, false
}
