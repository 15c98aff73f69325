package resolver

import "sync"

// shard is a part of the cache with a lock of its own. It evicts by S3-FIFO (Yang et al.,
// SOSP 2023): new answers wait in a small queue, and only those asked for again there get
// into the main queue, so that a flood of names asked for once cannot push out what all
// others use.
//
//	new ──► small (a tenth) ──asked again──► main ──not asked since──► out
//	            │ not asked                    ▲ └── asked: once more round
//	            └──► out, remembered ──────────┘ when it comes again
type shard struct {
	mu          sync.Mutex // of who changes it; to find an answer needs no lock
	entries     table
	small, main queue
	ghosts      map[uint64]struct{} // hashes of those put out of small
	ghostOrder  []uint64            // ring, oldest at ghostNext when full
	ghostNext   int
	limit       int // bytes
}

// queue is a doubly linked list: in at tail, out at head.
type queue struct {
	head, tail *entry
	bytes      int
}

func (q *queue) push(e *entry) {
	e.queue, e.prev, e.next = q, q.tail, nil
	if q.tail != nil {
		q.tail.next = e
	} else {
		q.head = e
	}
	q.tail = e
	q.bytes += e.size()
}

func (q *queue) remove(e *entry) {
	if e.prev != nil {
		e.prev.next = e.next
	} else {
		q.head = e.next
	}
	if e.next != nil {
		e.next.prev = e.prev
	} else {
		q.tail = e.prev
	}
	e.queue, e.prev, e.next = nil, nil, nil
	q.bytes -= e.size()
}

// put stores e; the caller holds the lock.
func (s *shard) put(e *entry) {
	if e.size() > s.limit/4 {
		return // it would push out too many others
	}
	to := &s.small
	old := s.entries.find(e.hash, []byte(e.key))
	if old != nil {
		to = old.queue
		e.uses.Store(old.uses.Load())
		old.queue.remove(old)
	} else if _, ok := s.ghosts[e.hash]; ok {
		delete(s.ghosts, e.hash)
		to = &s.main
	}
	s.entries.put(e, old)
	to.push(e)
	for s.small.bytes+s.main.bytes > s.limit {
		s.evict()
	}
}

// evict puts one entry out, or moves one on.
func (s *shard) evict() {
	if e := s.small.head; e != nil && (s.small.bytes > s.limit/10 || s.main.head == nil) {
		s.small.remove(e)
		if e.uses.Load() > 0 {
			e.uses.Store(0)
			s.main.push(e)
			return
		}
		s.entries.remove(e)
		s.remember(e)
		return
	}
	e := s.main.head
	s.main.remove(e)
	if n := e.uses.Load(); n > 0 {
		e.uses.Store(n - 1)
		s.main.push(e)
		return
	}
	s.entries.remove(e)
}

// remember notes an entry put out of the small queue, for as long as about as many others
// are put out as the shard holds.
func (s *shard) remember(e *entry) {
	most := s.limit / (4 * overhead)
	if most == 0 {
		return
	}
	s.ghosts[e.hash] = struct{}{}
	if len(s.ghostOrder) < most {
		s.ghostOrder = append(s.ghostOrder, e.hash)
		return
	}
	delete(s.ghosts, s.ghostOrder[s.ghostNext])
	s.ghostOrder[s.ghostNext] = e.hash
	s.ghostNext = (s.ghostNext + 1) % len(s.ghostOrder)
}
