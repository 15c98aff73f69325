package resolver

import "strings"

// flush drops the answers for the name, on the wire in lower case, and for all names below
// it; the root's are all. It returns how many there were.
func (c *cache) flush(apex []byte) (dropped int) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		dropped += s.flush(string(apex))
		s.mu.Unlock()
	}
	return dropped
}

// flush is cache.flush for one shard; the caller holds the lock.
func (s *shard) flush(apex string) (dropped int) {
	for _, q := range [...]*queue{&s.small, &s.main} {
		for e := q.head; e != nil; {
			next := e.next
			if below(e.key[:len(e.key)-3], apex) {
				q.remove(e)
				s.entries.remove(e)
				dropped++
			}
			e = next
		}
	}
	return dropped
}

// below tells whether the name is the apex or lies below it; both are on the wire in lower
// case.
func below(name, apex string) bool {
	if !strings.HasSuffix(name, apex) {
		return false
	}
	for len(name) > len(apex) { // the suffix must begin where a label does
		name = name[1+int(name[0]):]
	}
	return len(name) == len(apex)
}
