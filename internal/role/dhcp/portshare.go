package dhcp

import (
	"hash/maphash"
	"sync"
	"time"
)

const (
	// shareSeconds: after an outage all devices ask within 5 s, by two messages each.
	shareSeconds = 5
	// shareSlack is how many times that one port may bring: all devices may be behind one, and
	// some repeat. It also is what a port of a small segment gets.
	shareSlack = 2
	leastShare = 200 // messages a second
	shareSlots = 512 // a row
)

// share gives every port that messages come by its part, so that one that floods takes
// nothing from the others: two tables of fixed size, as in limiter. Safe for concurrent use.
type share struct {
	seed maphash.Seed
	rate uint32 // messages a second

	mu   sync.Mutex
	rows [2][shareSlots]bucket
}

// newShare is for the ports of a segment with that many devices.
func newShare(devices int) *share {
	return &share{seed: maphash.MakeSeed(), rate: uint32(max(leastShare, shareSlack*2*devices/shareSeconds))}
}

// allow takes one message of the port at the moment now of the boot clock. Who is what the
// port is of.
func (s *share) allow(who, port []byte, now time.Duration) bool {
	var sum maphash.Hash
	sum.SetSeed(s.seed)
	sum.Write(who)
	sum.Write(port)
	h, most := sum.Sum64(), s.rate*shareSeconds
	tick := uint32(uint64(now/time.Millisecond)*uint64(s.rate)/1000) + most // so that an unused bucket is full
	s.mu.Lock()
	defer s.mu.Unlock()
	one := s.rows[0][h%shareSlots].take(tick, most)
	two := s.rows[1][h/shareSlots%shareSlots].take(tick, most)
	return one || two
}
