package dhcp

import "container/heap"

// list is a queue of bindings, linked through the bindings themselves: a binding is in at
// most one list, and every operation takes constant time and no memory.
type list struct {
	front, back *binding
	n           int
}

func (l *list) pushBack(b *binding) {
	b.in, b.prev, b.next = l, l.back, nil
	if l.back != nil {
		l.back.next = b
	} else {
		l.front = b
	}
	l.back = b
	l.n++
}

func (l *list) pushFront(b *binding) {
	b.in, b.prev, b.next = l, nil, l.front
	if l.front != nil {
		l.front.prev = b
	} else {
		l.back = b
	}
	l.front = b
	l.n++
}

func (l *list) remove(b *binding) {
	if b.prev != nil {
		b.prev.next = b.next
	} else {
		l.front = b.next
	}
	if b.next != nil {
		b.next.prev = b.prev
	} else {
		l.back = b.prev
	}
	b.in, b.prev, b.next = nil, nil, nil
	l.n--
}

// expiries orders bound bindings by the end of their lease, the earliest first.
type expiries []*binding

var _ heap.Interface = (*expiries)(nil)

func (h expiries) Len() int           { return len(h) }
func (h expiries) Less(i, j int) bool { return h[i].ends < h[j].ends }
func (h expiries) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].heapAt, h[j].heapAt = i, j
}

// Push is for container/heap only.
func (h *expiries) Push(x any) {
	b := x.(*binding)
	b.heapAt = len(*h)
	*h = append(*h, b)
}

// Pop is for container/heap only.
func (h *expiries) Pop() any {
	last := len(*h) - 1
	b := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	b.heapAt = -1
	return b
}
