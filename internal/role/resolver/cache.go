package resolver

import (
	"encoding/binary"
	"hash/maphash"
	"slices"
	"sync/atomic"
	"time"

	"github.com/hotstage/hotstage/internal/wire"
	"github.com/miekg/dns"
)

// Limits of what the cache keeps.
const (
	maxTTL         = 24 * time.Hour   // RFC 8767 section 4 allows up to 7 days; an event lasts a few
	maxNegativeTTL = time.Hour        // RFC 2308 section 5: one to three hours work well
	failureTTL     = time.Second      // RFC 9520 section 3.2: failures are kept for at least a second
	staleTTL       = 30 * time.Second // RFC 8767 section 4: TTL of a stale answer
	maxStale       = 24 * time.Hour   // RFC 8767 section 5: one to three days
	staleHold      = 30 * time.Second // RFC 8767 section 5: failure recheck timer
	overhead       = 216              // bytes that an entry needs beside its message and key, measured
	shardCount     = 32
)

// key is a question as the cache knows it: the name in lower case, type, and the bits that
// change an answer. All cached answers are of class IN.
type key struct {
	n   int
	buf [wire.DNSMaxName + 3]byte
}

func (k *key) set(q *wire.DNSQuery) {
	b := wire.LowerDNS(k.buf[:0], q.Name)
	var bits byte
	if q.DO {
		bits |= 1
	}
	if q.Flags&wire.DNSFlagCD != 0 {
		bits |= 2
	}
	b = append(b, byte(q.Type>>8), byte(q.Type), bits)
	k.n = len(b)
}

func (k *key) bytes() []byte { return k.buf[:k.n] }

func (k *key) typ() uint16 { return binary.BigEndian.Uint16(k.buf[k.n-3:]) }

// name is the question's name in lower case, on the wire.
func (k *key) name() []byte { return k.buf[:k.n-3] }

// entry is one cached answer. But for the atomics it never changes, so that it can be
// copied from without a lock.
type entry struct {
	key      string
	msg      []byte   // without OPT, with TTLs as received (capped)
	ttls     []uint16 // offsets of the TTLs in msg
	ttl      time.Duration
	stored   time.Time
	hold     atomic.Int64 // nanoseconds after stored until which it is served stale without asking
	uses     atomic.Uint32
	renewing atomic.Bool           // see due
	why      uint16                // extended error that goes with it, 0 for none
	hash     uint64                // of key, set by put
	chain    atomic.Pointer[entry] // the next in its bucket of the table
	queue    *queue                // guarded by the shard's lock, as are the links
	prev     *entry
	next     *entry
}

func (e *entry) size() int { return len(e.msg) + len(e.key) + 2*len(e.ttls) + overhead }

// fresh, and stale: an expired answer that may still be served when asking fails.
func (e *entry) fresh(now time.Time) bool { return now.Sub(e.stored) < e.ttl }
func (e *entry) stale(now time.Time) bool {
	age := now.Sub(e.stored)
	return age >= e.ttl && age < e.ttl+maxStale && e.good()
}

// held tells whether asking failed a moment ago, so that stale is served at once.
func (e *entry) held(now time.Time) bool { return int64(now.Sub(e.stored)) < e.hold.Load() }

func (e *entry) rcode() int { return int(e.msg[3] & 0xf) }

func (e *entry) good() bool {
	rcode := e.rcode()
	return rcode == wire.DNSNoError || rcode == wire.DNSNXDomain
}

// newEntry makes an entry of a response as received. It is false when the response cannot
// be read. An entry with ttl 0 is for those who asked, not for the cache.
func newEntry(k *key, msg []byte, now time.Time) (*entry, bool) {
	msg, ok := withoutOPT(msg)
	if !ok || len(msg) > 0xffff {
		return nil, false
	}
	e := &entry{key: string(k.bytes()), stored: now, ttl: maxTTL}
	rcode := int(msg[3] & 0xf)
	answers, found, soa := 0, false, false
	_, err := wire.WalkDNS(msg, func(r wire.DNSRecord) {
		ttl := time.Duration(r.TTL) * time.Second
		if r.TTL > 1<<31-1 {
			ttl = 0 // RFC 2181 section 8
		}
		if r.Section == 1 {
			answers++
			found = found || r.Type == k.typ()
		}
		if r.Section == 2 && r.Type == wire.DNSTypeSOA && r.End-r.Data >= 22 {
			soa = true
			minimum := time.Duration(binary.BigEndian.Uint32(msg[r.End-4:])) * time.Second
			if !found || rcode == wire.DNSNXDomain { // also at the end of a chain of CNAMEs
				ttl = min(ttl, minimum, maxNegativeTTL) // RFC 2308 section 5
			}
		}
		e.ttl = min(e.ttl, ttl)
		e.ttls = append(e.ttls, uint16(r.TTLAt))
		unmix(msg[r.Start:r.TTLAt], k.name())
		binary.BigEndian.PutUint32(msg[r.TTLAt:], uint32(min(ttl, maxTTL)/time.Second))
	})
	if err != nil {
		return nil, false
	}
	e.msg = msg
	switch {
	case !e.good():
		e.ttl = failureTTL
	case (answers == 0 || rcode == wire.DNSNXDomain) && !soa:
		e.ttl = 0 // RFC 2308 section 5: not to be cached
	}
	e.ttls = slices.Clip(e.ttls)
	return e, true
}

// unmix puts the name into lower case where the record begins with it in full: a client that
// gets it must not see the random case of our question.
func unmix(record, name []byte) {
	if len(record) < len(name) {
		return
	}
	var lower [wire.DNSMaxName]byte
	if string(wire.LowerDNS(lower[:0], record[:len(name)])) == string(name) {
		copy(record, name)
	}
}

// withoutOPT is a copy of the response without its OPT record, which is between the upstream
// and us alone (RFC 6891 section 6.1.1).
func withoutOPT(b []byte) ([]byte, bool) {
	var opt wire.DNSRecord
	last := 0
	_, err := wire.WalkDNS(b, func(r wire.DNSRecord) {
		if r.Type == wire.DNSTypeOPT && r.Section == 3 {
			opt = r
		}
		last = r.End
	})
	if err != nil {
		return nil, false
	}
	if opt.End == 0 {
		return slices.Clone(b), true
	}
	if opt.End == last {
		b = slices.Clone(b[:opt.Start])
		binary.BigEndian.PutUint16(b[10:], binary.BigEndian.Uint16(b[10:])-1)
		return b, true
	}
	// Records behind it may be pointed into: have the library write the message anew.
	var m dns.Msg
	if m.Unpack(b) != nil {
		return nil, false
	}
	m.Extra = slices.DeleteFunc(m.Extra, func(r dns.RR) bool { return r.Header().Rrtype == dns.TypeOPT })
	m.Compress = true
	m.Rcode &= 0xf
	b, err = m.Pack()
	return b, err == nil
}

// appendTo appends the answer to q: its id, its case of the name, its flags, TTLs that have
// run since the answer was stored. An answer longer than size octets is truncated (RFC 2181
// section 9: empty, with TC). Allocates nothing when out has room.
func (e *entry) appendTo(out []byte, q *wire.DNSQuery, now time.Time, size int) []byte {
	flags := binary.BigEndian.Uint16(e.msg[2:])
	keep := uint16(0)
	if q.DO || q.Flags&wire.DNSFlagAD != 0 { // RFC 6840 section 5.7
		keep = flags & wire.DNSFlagAD
	}
	rcode := int(flags & 0xf)
	need := len(e.msg)
	if q.EDNS {
		need += q.OPTSize()
	}
	if need > size {
		a := wire.BeginDNSAnswer(out, q, keep|wire.DNSFlagTC, rcode)
		return a.Finish(q, rcode, ourSize)
	}
	start := len(out)
	out = append(out, e.msg...)
	b := out[start:]
	binary.BigEndian.PutUint16(b, q.ID)
	binary.BigEndian.PutUint16(b[2:], wire.DNSFlagQR|wire.DNSFlagRA|keep|q.Flags&(wire.DNSFlagRD|wire.DNSFlagCD)|uint16(rcode))
	copy(b[wire.DNSHeader:], q.Name)
	fresh := e.fresh(now)
	age := uint32(now.Sub(e.stored) / time.Second)
	for _, at := range e.ttls {
		ttl := binary.BigEndian.Uint32(b[at:])
		switch {
		case e.ttl == 0:
		case !fresh:
			ttl = uint32(staleTTL / time.Second)
		case ttl > age:
			ttl -= age
		default:
			ttl = 0
		}
		binary.BigEndian.PutUint32(b[at:], ttl)
	}
	if q.EDNS {
		binary.BigEndian.PutUint16(b[10:], binary.BigEndian.Uint16(b[10:])+1)
		out = q.AppendOPT(out, ourSize, rcode)
	}
	return out
}

// cache keeps answers up to a number of bytes. Safe for concurrent use.
type cache struct {
	seed   maphash.Seed
	shards [shardCount]shard
}

func newCache(bytes int64) *cache {
	c := &cache{seed: maphash.MakeSeed()}
	for i := range c.shards {
		s := &c.shards[i]
		s.entries = newTable(int(bytes / shardCount))
		s.ghosts = map[uint64]struct{}{}
		s.limit = int(bytes/shardCount) - s.entries.bytes()
	}
	return c
}

// get is the entry of the key, fresh or not, or nil.
func (c *cache) get(k *key) *entry {
	hash := maphash.Bytes(c.seed, k.bytes())
	e := c.shards[hash%shardCount].entries.find(hash, k.bytes())
	if e != nil && e.uses.Load() < 3 {
		e.uses.Add(1)
	}
	return e
}

// put stores the entry in place of an older one.
func (c *cache) put(e *entry) {
	e.hash = maphash.String(c.seed, e.key)
	s := &c.shards[e.hash%shardCount]
	s.mu.Lock()
	s.put(e)
	s.mu.Unlock()
}

// used is how many answers and bytes are kept.
func (c *cache) used() (entries, bytes int) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		entries += s.entries.count
		bytes += s.small.bytes + s.main.bytes + s.entries.bytes()
		s.mu.Unlock()
	}
	return entries, bytes
}
