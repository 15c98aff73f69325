package resolver

import (
	"cmp"
	"container/heap"
	"slices"
)

// sketch finds the heaviest of a stream of things in a fixed number of counters, by
// Space-Saving (Metwally, Agrawal and El Abbadi, ICDT 2005): what has no counter takes over
// the lightest one with its weight. A thing's weight is never too small and at most
// total/most too large, and whatever weighs more than total/most is in it. Not safe for
// concurrent use.
type sketch[K comparable] struct {
	most  int
	total float64
	of    map[K]*counter[K]
	heap  counters[K] // the lightest first
}

type counter[K comparable] struct {
	thing  K
	weight float64
	at     int // in the heap
}

func newSketch[K comparable](most int) *sketch[K] {
	return &sketch[K]{most: most, of: make(map[K]*counter[K], most)}
}

// add gives the thing more weight.
func (s *sketch[K]) add(thing K, weight float64) {
	s.total += weight
	c := s.of[thing]
	switch {
	case c != nil:
		c.weight += weight
	case len(s.heap) < s.most:
		c = &counter[K]{thing: thing, weight: weight}
		s.of[thing] = c
		heap.Push(&s.heap, c)
		return
	default:
		c = s.heap[0]
		delete(s.of, c.thing)
		c.thing = thing
		c.weight += weight
		s.of[thing] = c
	}
	heap.Fix(&s.heap, c.at)
}

// fade multiplies every weight, and forgets what has less than least left. The order stays,
// and so do the bounds, of what is left of the total.
func (s *sketch[K]) fade(factor, least float64) {
	s.total *= factor
	for _, c := range s.heap {
		c.weight *= factor
	}
	for len(s.heap) > 0 && s.heap[0].weight < least {
		c := heap.Pop(&s.heap).(*counter[K])
		delete(s.of, c.thing)
	}
}

// heaviest are up to n things, the heaviest first.
func (s *sketch[K]) heaviest(n int) []counter[K] {
	all := make([]counter[K], 0, len(s.heap))
	for _, c := range s.heap {
		all = append(all, *c)
	}
	slices.SortFunc(all, func(a, b counter[K]) int { return cmp.Compare(b.weight, a.weight) })
	return all[:min(max(n, 0), len(all))]
}

// counters is the heap of a sketch.
type counters[K comparable] []*counter[K]

func (h counters[K]) Len() int           { return len(h) }
func (h counters[K]) Less(i, j int) bool { return h[i].weight < h[j].weight }
func (h counters[K]) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].at, h[j].at = i, j
}

// Push appends for package heap.
func (h *counters[K]) Push(x any) {
	c := x.(*counter[K])
	c.at = len(*h)
	*h = append(*h, c)
}

// Pop takes the last off for package heap.
func (h *counters[K]) Pop() any {
	last := len(*h) - 1
	c := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return c
}
