//go:build linux

package delay

import (
	"sync"
	"time"
)

// queue is a ring of bytes that holds frames until they are due. One goroutine reserves and
// commits, another fronts and pops.
//
//	buf:  ....[frame][frame][frame]....        or wrapped:  [frame]....[frame][frame]
//	          tail                 head                           head tail
type queue struct {
	delay  time.Duration
	filled chan struct{} // gets a value when the queue stops being empty

	mu           sync.Mutex
	buf          []byte
	frames       []entry // ring of the frames' places
	first, count int
	head         int // where the next frame goes
}

type entry struct {
	from, to int
	due      time.Time
}

func newQueue(bytes, frames int, delay time.Duration) *queue {
	return &queue{
		delay:  delay,
		filled: make(chan struct{}, 1),
		buf:    make([]byte, bytes),
		frames: make([]entry, frames),
	}
}

// reserve is room for the longest frame, or nil when the queue is full. It stays the
// writer's until commit.
func (q *queue) reserve() []byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.count == len(q.frames) {
		return nil
	}
	if q.count == 0 {
		q.head = 0
		return q.buf[:maxFrame]
	}
	tail := q.frames[q.first].from
	if q.head > tail { // not wrapped: the end of the ring, else its start
		if len(q.buf)-q.head >= maxFrame {
			return q.buf[q.head : q.head+maxFrame]
		}
		if tail <= maxFrame {
			return nil
		}
		q.head = 0
	} else if tail-q.head <= maxFrame {
		return nil
	}
	return q.buf[q.head : q.head+maxFrame]
}

// commit makes the first n bytes of what reserve gave a frame that arrived age ago.
func (q *queue) commit(n int, age time.Duration) {
	wait := max(0, q.delay-max(0, age))
	due := time.Now().Add(wait)
	q.mu.Lock()
	q.frames[(q.first+q.count)%len(q.frames)] = entry{from: q.head, to: q.head + n, due: due}
	q.head += n
	q.count++
	q.mu.Unlock()
	select {
	case q.filled <- struct{}{}:
	default:
	}
}

// front is the oldest frame and how long it has to wait yet; nil when there is none. The
// frame is valid until pop.
func (q *queue) front() (frame []byte, wait time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.count == 0 {
		return nil, 0
	}
	e := q.frames[q.first]
	return q.buf[e.from:e.to], time.Until(e.due)
}

// pop removes the oldest frame.
func (q *queue) pop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.first = (q.first + 1) % len(q.frames)
	q.count--
}
