package dhcp

import (
	"hash/maphash"
	"time"
)

// A client may send 40 messages at once and then 10 a second. A device sends 2 to get an
// address and repeats after 4 s (RFC 2131 section 4.1), so only a broken or hostile one
// comes near.
const (
	limitBurst   = 40
	limitEvery   = 100 * time.Millisecond
	limitBuckets = 8192 // a row
)

// limiter gives every hardware address its share, in two tables of fixed size. A client has a
// bucket in each by a hash of its own there, takes from both, and is heard while either has
// something left. One that never stops asking empties its two; among 6,000 devices about
// one shares the first and one the second, and that one's other bucket is its own. Not safe
// for concurrent use.
type limiter struct {
	seed maphash.Seed
	rows [2][limitBuckets]bucket
}

type bucket struct {
	left uint32
	at   uint32 // boot clock in units of what fills it by one
}

func newLimiter() *limiter { return &limiter{seed: maphash.MakeSeed()} }

// allow takes one message of the client at the moment now of the boot clock.
func (l *limiter) allow(mac [6]byte, now time.Duration) bool {
	h := maphash.Bytes(l.seed, mac[:])
	tick := uint32(now/limitEvery) + limitBurst // so that an unused bucket, at 0, is full
	one := l.rows[0][h%limitBuckets].take(tick, limitBurst)
	two := l.rows[1][h/limitBuckets%limitBuckets].take(tick, limitBurst)
	return one || two
}

func (b *bucket) take(tick, most uint32) bool {
	b.left = min(most, b.left+min(most, tick-b.at))
	b.at = tick
	if b.left == 0 {
		return false
	}
	b.left--
	return true
}
