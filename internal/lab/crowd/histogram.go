package crowd

import (
	"math/bits"
	"time"
)

const (
	fine    = 64 // buckets per doubling: a percentile is at most 1/64 too high
	octaves = 30 // from 1 us to 2^30 us, 18 minutes
)

// histogram counts durations in buckets of equal relative width, of a microsecond at least.
// Its zero value is empty.
type histogram struct {
	n       int
	most    time.Duration
	buckets [fine * octaves]uint32
}

func (h *histogram) add(d time.Duration) {
	h.n++
	h.most = max(h.most, d)
	h.buckets[bucket(d)]++
}

// bucket of d: linear up to fine microseconds, then fine buckets per doubling.
func bucket(d time.Duration) int {
	us := uint64(max(0, d.Microseconds()))
	shift := max(0, bits.Len64(us)-bits.Len64(fine))
	return min(shift*fine+int(us>>shift), fine*octaves-1)
}

// top is the highest duration of a bucket.
func top(i int) time.Duration {
	shift := max(0, i/fine-1)
	return time.Duration((i-shift*fine+1)<<shift)*time.Microsecond - 1
}

// quantile is the duration that a share q of all does not exceed; 0 when empty.
func (h *histogram) quantile(q float64) time.Duration {
	rank := int(q*float64(h.n) + 0.999999)
	for i, n := range h.buckets {
		if rank -= int(n); n > 0 && rank <= 0 {
			return min(top(i), h.most)
		}
	}
	return h.most
}

func (h *histogram) reset() { *h = histogram{} }

// latency sums h up for the result.
func (h *histogram) latency() Latency {
	return Latency{Count: h.n, P50: ms(h.quantile(0.5)), P99: ms(h.quantile(0.99)), Max: ms(h.most)}
}

// ms is d in milliseconds.
func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
