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
	limitBuckets = 8192 // shared by hash: 6,000 devices at once collide without harm
)

// limiter gives every hardware address its share, in a table of fixed size. Not safe for
// concurrent use.
type limiter struct {
	seed    maphash.Seed
	buckets [limitBuckets]struct {
		left uint32
		at   uint32 // boot clock in units of limitEvery
	}
}

func newLimiter() *limiter { return &limiter{seed: maphash.MakeSeed()} }

// allow takes one message of the client at the moment now of the boot clock.
func (l *limiter) allow(mac [6]byte, now time.Duration) bool {
	b := &l.buckets[maphash.Bytes(l.seed, mac[:])%limitBuckets]
	tick := uint32(now/limitEvery) + limitBurst // so that an unused bucket, at 0, is full
	b.left = min(limitBurst, b.left+min(limitBurst, tick-b.at))
	b.at = tick
	if b.left == 0 {
		return false
	}
	b.left--
	return true
}
