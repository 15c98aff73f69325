package resolver

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"
)

// What one client and all clients together may have.
const (
	clientShards = 16
	maxWaiting   = 1 << 15     // questions waiting for an upstream, all clients together
	maxTCP       = 1024        // connections, all clients together
	mostDelay    = time.Second // of a question by a stream, for its client's rate
)

// client is what one address has.
type client struct{ waiting, tcp, flights, secure int }

// clients gives every client its share. Safe for concurrent use; bounded, because who has
// nothing is not remembered here.
type clients struct {
	*rates
	seed   maphash.Seed
	shards [clientShards]struct {
		mu sync.Mutex
		of map[netip.Addr]client
	}
	total struct {
		sync.Mutex
		waiting, tcp, flights, secure int
	}
}

// newClients gives each client rate queries per second.
func newClients(rate int) *clients {
	c := &clients{rates: newRates(rate), seed: maphash.MakeSeed()}
	for i := range c.shards {
		c.shards[i].of = map[netip.Addr]client{}
	}
	return c
}

// with calls f with what the client has, under its lock.
func (c *clients) with(addr netip.Addr, f func(*client)) {
	s := &c.shards[maphash.Comparable(c.seed, addr)%clientShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.of[addr]
	if f(&x); x == (client{}) {
		delete(s.of, addr)
	} else {
		s.of[addr] = x
	}
}

// share is how many of most places one client may have when used are taken: an eighth of
// what is free, so that nobody can take the last places and all get some (dynamic
// thresholds, Choudhury and Hahne 1998).
func share(used, most int) int { return max((most-used)/8, 2) }

// enter takes a waiting place for the client, or is false when it has had its share.
func (c *clients) enter(addr netip.Addr) bool {
	return c.take(addr, &c.total.waiting, maxWaiting, func(x *client) *int { return &x.waiting })
}

// leave gives a waiting place back.
func (c *clients) leave(addr netip.Addr) {
	c.give(addr, &c.total.waiting, func(x *client) *int { return &x.waiting })
}

// launch takes a place for a flight that the client starts, or is false when it has had its
// share.
func (c *clients) launch(addr netip.Addr) bool {
	return c.take(addr, &c.total.flights, maxFlights, func(x *client) *int { return &x.flights })
}

// landed gives a flight's place back.
func (c *clients) landed(addr netip.Addr) {
	c.give(addr, &c.total.flights, func(x *client) *int { return &x.flights })
}

// connect takes a place for a TCP connection, or is false when the client has had its share.
func (c *clients) connect(addr netip.Addr) bool {
	return c.take(addr, &c.total.tcp, maxTCP, func(x *client) *int { return &x.tcp })
}

// disconnect gives a connection's place back.
func (c *clients) disconnect(addr netip.Addr) {
	c.give(addr, &c.total.tcp, func(x *client) *int { return &x.tcp })
}

func (c *clients) take(addr netip.Addr, total *int, most int, place func(*client) *int) (ok bool) {
	c.with(addr, func(x *client) {
		c.total.Lock()
		defer c.total.Unlock()
		if ok = *total < most && *place(x) < share(*total, most); ok {
			*total++
			*place(x)++
		}
	})
	return ok
}

func (c *clients) give(addr netip.Addr, total *int, place func(*client) *int) {
	c.with(addr, func(x *client) {
		c.total.Lock()
		defer c.total.Unlock()
		*total--
		*place(x)--
	})
}

// connections is how many TCP connections there are.
func (c *clients) connections() int {
	c.total.Lock()
	defer c.total.Unlock()
	return c.total.tcp
}
