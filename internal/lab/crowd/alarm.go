package crowd

import "time"

// moment is the time since the crowd's start.
type moment = time.Duration

// waker is what an alarm wakes.
type waker interface{ wake() }

// alarm is one pending wake-up. Its zero value is not set. It is not copied while set.
type alarm struct {
	at    moment
	place int // in the heap, counted from 1; 0 when not set
	who   waker
}

// alarms is a heap of pending alarms, the earliest first. Equal moments come in no
// particular order.
type alarms []*alarm

// set moves a to at, whether it was set or not.
func (h *alarms) set(a *alarm, at moment) {
	a.at = at
	if a.place == 0 {
		*h = append(*h, a)
		a.place = len(*h)
	}
	h.settle(a)
}

// stop unsets a, which need not be set.
func (h *alarms) stop(a *alarm) {
	if a.place == 0 {
		return
	}
	last := (*h)[len(*h)-1]
	(*h)[a.place-1], last.place = last, a.place
	(*h)[len(*h)-1] = nil
	*h = (*h)[:len(*h)-1]
	a.place = 0
	if last != a {
		h.settle(last)
	}
}

// due takes the earliest alarm out if it is not later than now, else it returns nil.
func (h *alarms) due(now moment) *alarm {
	if len(*h) == 0 || (*h)[0].at > now {
		return nil
	}
	a := (*h)[0]
	h.stop(a)
	return a
}

// settle puts a, whose moment may have changed, in its place.
func (h alarms) settle(a *alarm) {
	for a.place > 1 && a.at < h[a.place/2-1].at {
		h.swap(a, h[a.place/2-1])
	}
	for {
		child := a.place * 2
		if child > len(h) {
			return
		}
		if child < len(h) && h[child].at < h[child-1].at {
			child++
		}
		if a.at <= h[child-1].at {
			return
		}
		h.swap(a, h[child-1])
	}
}

func (h alarms) swap(a, b *alarm) {
	h[a.place-1], h[b.place-1] = b, a
	a.place, b.place = b.place, a.place
}
