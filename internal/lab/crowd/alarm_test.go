package crowd

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// TestAlarmsAgainstList plays random operations on the heap and on a plain list.
func TestAlarmsAgainstList(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var heap alarms
	all := make([]alarm, 50)
	list := map[*alarm]moment{}
	for range 10_000 {
		a := &all[r.IntN(len(all))]
		switch r.IntN(3) {
		case 0:
			at := moment(r.IntN(1000))
			heap.set(a, at)
			list[a] = at
		case 1:
			heap.stop(a)
			delete(list, a)
		case 2:
			now := moment(r.IntN(1000))
			got := heap.due(now)
			first := moment(1 << 62)
			for _, at := range list {
				first = min(first, at)
			}
			if (got != nil) != (first <= now) || got != nil && got.at != first {
				t.Fatalf("due(%d) = %v, earliest in the list is %d", now, got, first)
			}
			delete(list, got)
		}
		if len(heap) != len(list) {
			t.Fatalf("%d in the heap, %d in the list", len(heap), len(list))
		}
	}
}

// TestHistogramAgainstSort compares percentiles with those of the sorted durations.
func TestHistogramAgainstSort(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	var h histogram
	if h.quantile(0.99) != 0 {
		t.Errorf("p99 of nothing: %v", h.quantile(0.99))
	}
	var all []time.Duration
	for range 10_000 {
		d := time.Duration(r.ExpFloat64() * float64(20*time.Millisecond))
		h.add(d)
		all = append(all, d)
	}
	slices.Sort(all)
	for _, q := range []float64{0.01, 0.5, 0.9, 0.99, 0.999, 1} {
		want := all[int(q*float64(len(all)))-1]
		if got := h.quantile(q); got < want || got > want+want/64+time.Microsecond {
			t.Errorf("quantile %v: %v, want %v to 1/64 above", q, got, want)
		}
	}
	h.add(time.Hour)
	if h.quantile(1) < 15*time.Minute || h.most != time.Hour {
		t.Errorf("an hour counts as %v", h.quantile(1))
	}
}
