package resolver

import "sync/atomic"

// table finds entries by their key's hash. Readers take no lock: they follow chains of
// entries that never change but for their links, while one writer at a time, under its
// shard's lock, puts in and takes out. A reader on an entry that is being taken out goes on
// along its old link.
type table struct {
	buckets []atomic.Pointer[entry]
	count   int // guarded by the shard's lock
}

// meanEntry is what an answer of about 200 octets takes in all; there are about as many
// buckets as such answers fit.
const meanEntry = 512

// newTable is a table for entries of so many bytes in all.
func newTable(bytes int) table {
	n := 16
	for n < bytes/meanEntry {
		n *= 2
	}
	return table{buckets: make([]atomic.Pointer[entry], n)}
}

// bytes is what the table itself takes.
func (t *table) bytes() int { return 8 * len(t.buckets) }

func (t *table) bucket(hash uint64) *atomic.Pointer[entry] {
	return &t.buckets[hash/shardCount%uint64(len(t.buckets))]
}

// find is the entry of the key, or nil.
func (t *table) find(hash uint64, key []byte) *entry {
	for e := t.bucket(hash).Load(); e != nil; e = e.chain.Load() {
		if e.hash == hash && e.key == string(key) {
			return e
		}
	}
	return nil
}

// put puts e in place of old, which may be nil.
func (t *table) put(e, old *entry) {
	b := t.bucket(e.hash)
	e.chain.Store(b.Load())
	b.Store(e)
	t.count++
	if old != nil {
		t.remove(old)
	}
}

// remove takes out e, which is in the table.
func (t *table) remove(e *entry) {
	link := t.bucket(e.hash)
	for link.Load() != e {
		link = &link.Load().chain
	}
	link.Store(e.chain.Load())
	t.count--
}
