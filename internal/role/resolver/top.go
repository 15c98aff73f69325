package resolver

import (
	"context"
	"math"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

const (
	topCounters = 1024             // of names, and as many of clients: an error of 0.1 % of all queries
	topRate     = 1000             // samples per second that are worth their cost
	topEvery    = time.Second / 10 // samples are counted so often: the path of an answer wakes nobody
	topWaiting  = 2048             // samples between two counts: twenty times topRate
	topHalf     = time.Minute      // a query weighs half as much after this time
	topFade     = 5 * time.Second  // weights are made less so often
	topLeast    = 0.01             // of a query: what is left of one after some minutes
)

// top knows which questions and which clients are asked and ask most in the last minutes.
//
//	answers ─► one in every ─► samples ─► run, ten times a second ─► two sketches ─► names, busiest
//	              ▲                            │
//	              └── as many as needed ◄──────┘
//
// Safe for concurrent use. A nil top notes nothing.
type top struct {
	every   atomic.Uint32 // one query in so many is noted, with that weight
	samples chan sample
	lost    atomic.Uint64 // samples for which there was no room

	mu      sync.Mutex
	begun   time.Time
	faded   time.Time
	of      *sketch[string] // key.bytes()
	clients *sketch[netip.Addr]
}

// sample is one query, for as many as its weight says.
type sample struct {
	key    key // n is 0 when the question was not read
	client netip.Addr
	weight uint32
}

// hot is a question that is asked often. Its weight is in queries, those of a minute ago
// counting half.
type hot struct {
	key    key
	weight uint64
}

// busy is a client that asks often, weighed in the same way.
type busy struct {
	client netip.Addr
	weight uint64
}

func newTop() *top {
	t := &top{samples: make(chan sample, topWaiting), of: newSketch[string](topCounters), clients: newSketch[netip.Addr](topCounters)}
	t.every.Store(1)
	return t
}

// note takes note of a query; k is nil when only the client counts. It blocks for nothing,
// allocates nothing and wakes nobody.
func (t *top) note(k *key, client netip.Addr) {
	if t == nil {
		return
	}
	every := t.every.Load()
	if every > 1 && rand.Uint32N(every) != 0 {
		return
	}
	t.sample(k, client, every)
}

func (t *top) sample(k *key, client netip.Addr, weight uint32) {
	s := sample{client: client, weight: weight}
	if k != nil {
		s.key.n = copy(s.key.buf[:], k.bytes())
	}
	select {
	case t.samples <- s:
	default:
		t.lost.Add(1)
	}
}

// add counts queries that were answered elsewhere.
func (t *top) add(k *key, weight uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.of.add(string(k.bytes()), float64(weight))
}

// names are up to n questions, the heaviest first.
func (t *top) names(n int) []hot {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []hot
	for _, c := range t.of.heaviest(n) {
		h := hot{weight: uint64(math.Round(c.weight))}
		h.key.n = copy(h.key.buf[:], c.thing)
		all = append(all, h)
	}
	return all
}

// busiest are up to n clients, the heaviest first.
func (t *top) busiest(n int) []busy {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []busy
	for _, c := range t.clients.heaviest(n) {
		all = append(all, busy{c.thing, uint64(math.Round(c.weight))})
	}
	return all
}

// window is the time over which weights are to be divided for queries per second, and all is
// the weight of all questions.
func (t *top) window(now time.Time) (span time.Duration, all float64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	// The integral of 2^(-age/half) over the ages that there have been.
	age := now.Sub(t.begun).Seconds() / topHalf.Seconds()
	return max(time.Duration(float64(topHalf)/math.Ln2*(1-math.Exp2(-age))), time.Second), t.of.total
}

// run counts samples until ctx ends.
func (t *top) run(ctx context.Context) {
	t.begin(time.Now())
	tick := time.NewTicker(topEvery)
	defer tick.Stop()
	var rate float64
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			rate = t.adapt(rate, t.count(now))
		}
	}
}

func (t *top) begin(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.begun, t.faded = now, now
}

// count puts the waiting samples into the sketches and returns how many queries they and
// the lost ones stand for.
func (t *top) count(now time.Time) (queries float64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for range len(t.samples) { // those that come meanwhile wait for the next time
		s := <-t.samples
		w := float64(s.weight)
		queries += w
		if s.key.n > 0 {
			t.of.add(string(s.key.bytes()), w)
		}
		t.clients.add(s.client, w)
	}
	queries += float64(t.lost.Swap(0)) * float64(t.every.Load())
	if d := now.Sub(t.faded); d >= topFade {
		factor := math.Exp2(-d.Seconds() / topHalf.Seconds())
		t.of.fade(factor, topLeast)
		t.clients.fade(factor, topLeast)
		t.faded = now
	}
	return queries
}

// adapt chooses how many queries one sample stands for: up at once when they get many, down
// slowly, so that a burst does not fill the samples again and again. It returns the rate to
// give it the next time.
func (t *top) adapt(rate, queries float64) float64 {
	now := queries / topEvery.Seconds()
	rate = max(now, rate+(now-rate)/8)
	t.every.Store(uint32(min(max(1, math.Ceil(rate/topRate)), 1<<20)))
	return rate
}
