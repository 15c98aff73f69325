package resolver

import (
	"crypto/rand"
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/dchest/siphash"
	"github.com/hotstage/hotstage/internal/wire"
)

// How old and how far ahead a cookie's time may be (RFC 9018 section 4.3).
const (
	cookieLife  = time.Hour
	cookieAhead = 5 * time.Minute
)

// baker makes and knows our cookies (RFC 7873, RFC 9018): who shows one has got an answer
// from us at his address before, so that he is no forger of it. What forgers ask in a
// client's name is not taken from the share of a client that shows its cookie. The secret is
// made anew at each start; a client with an older cookie gets a new one.
type baker struct{ secret [2]uint64 }

func newBaker() *baker {
	var b [16]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	return &baker{[2]uint64{binary.LittleEndian.Uint64(b[:8]), binary.LittleEndian.Uint64(b[8:])}}
}

// bake puts the cookie of the answer into a query that came with one, and tells whether that
// one was ours, of this address and not too old.
func (k *baker) bake(q *wire.DNSQuery, from netip.Addr, now time.Time) (ours bool) {
	c := q.Cookie
	if c == nil {
		return false
	}
	q.Bakes = true
	copy(q.Baked[:8], c)
	if len(c) == wire.DNSCookieSize && c[8] == 1 {
		made := binary.BigEndian.Uint32(c[12:])
		if age := int32(uint32(now.Unix()) - made); age <= int32(cookieLife/time.Second) && age >= -int32(cookieAhead/time.Second) { // RFC 1982 arithmetic
			k.seal(&q.Baked, from, made)
			ours = string(q.Baked[8:]) == string(c[8:])
		}
	}
	k.seal(&q.Baked, from, uint32(now.Unix()))
	return ours
}

// seal fills in our part of the cookie: version 1, three octets of zero, the time, and the
// hash of all that with the client's part and its address (RFC 9018 section 4).
func (k *baker) seal(c *[wire.DNSCookieSize]byte, from netip.Addr, at uint32) {
	c[8], c[9], c[10], c[11] = 1, 0, 0, 0
	binary.BigEndian.PutUint32(c[12:], at)
	var in [32]byte
	n := copy(in[:], c[:16])
	if from.Is4() {
		a := from.As4()
		n += copy(in[n:], a[:])
	} else {
		a := from.As16()
		n += copy(in[n:], a[:])
	}
	binary.LittleEndian.PutUint64(c[16:], siphash.Hash(k.secret[0], k.secret[1], in[:n]))
}
