package resolver

import (
	"net/netip"
	"testing"
	"time"
)

// number is the n-th of many clients.
func number(n int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)})
}

// TestNobodyTakesTheLastPlaces: whatever a few greedy clients take, one who comes later gets
// its place; when all have left, all is free.
func TestNobodyTakesTheLastPlaces(t *testing.T) {
	c := newClients(clientRate)
	for what, x := range map[string]struct {
		take func(netip.Addr) bool
		give func(netip.Addr)
		most int
	}{
		"waiting": {c.enter, c.leave, maxWaiting}, "flights": {c.launch, c.landed, maxFlights}, "connections": {c.connect, c.disconnect, maxTCP},
	} {
		taken := map[int]int{}
		for n := range 20 {
			for x.take(number(n)) {
				taken[n]++
			}
		}
		if got := taken[0]; got < x.most/9-1 || got > x.most/8 {
			t.Errorf("%s: one client alone gets %d of %d", what, got, x.most)
		}
		for range 2 {
			if !x.take(number(100)) {
				t.Errorf("%s: the last one gets no place", what)
			}
			taken[100]++
		}
		for n, k := range taken {
			for range k {
				x.give(number(n))
			}
		}
	}
	if c.total.waiting != 0 || c.total.tcp != 0 || c.total.flights != 0 {
		t.Errorf("left over: %d waiting, %d connections, %d flights", c.total.waiting, c.total.tcp, c.total.flights)
	}
	for i := range c.shards {
		if left := c.shards[i].of; len(left) > 0 {
			t.Errorf("remembered, though they have nothing: %v", left)
		}
	}
}

// TestTableOfClientsIsFull: three times as many addresses as fit are all answered, and those
// who have a place are not forgotten.
func TestTableOfClientsIsFull(t *testing.T) {
	c := newClients(clientRate)
	for n := range 100 {
		c.enter(number(n))
	}
	for n := range 3 * maxClients {
		if p := c.query(number(1000+n), false, noon.Add(time.Duration(n)*time.Microsecond)); p != allowed {
			t.Fatalf("client %d: %v", n, p)
		}
	}
	for n := range 100 {
		c.leave(number(n))
	}
	if c.total.waiting != 0 {
		t.Errorf("%d waiting", c.total.waiting)
	}
}

// TestTCPClientIsSlowedDown: over the rate it waits, for a second at most.
func TestTCPClientIsSlowedDown(t *testing.T) {
	c := newClients(clientRate)
	for n := range int(clientBurst) {
		if d := c.delay(number(1), noon); d != 0 {
			t.Fatalf("query %d waits %v", n, d)
		}
	}
	last := time.Duration(0)
	for range 1000 {
		d := c.delay(number(1), noon)
		if d < last || d > time.Second {
			t.Fatalf("waits %v after %v", d, last)
		}
		last = d
	}
	if last != time.Second {
		t.Errorf("waits %v in the end", last)
	}
	if d := c.delay(number(2), noon); d != 0 {
		t.Errorf("another waits %v", d)
	}
}
