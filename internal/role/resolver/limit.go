package resolver

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"
)

// What one client and all clients together may have.
const (
	burstTime    = 10.0 / 3 // seconds of a client's rate that it may ask at once
	slipRate     = 20.0     // truncated answers per second to a client over its rate
	maxClients   = 1 << 16
	clientShards = 16
	maxWaiting   = 1 << 15     // questions waiting for an upstream, all clients together
	maxTCP       = 1024        // connections, all clients together
	mostDelay    = time.Second // of a question by a stream, for its client's rate
)

// pass is what a client's query gets.
type pass int

const (
	allowed   pass = iota
	truncated      // over the rate: told to come by TCP, which a forged address cannot
	dropped        // far over the rate
)

// client is what is known of one address.
type client struct {
	tokens, slips float64
	last          time.Time
	waiting, tcp  int
	flights       int
	secure        int // encrypted connections
}

func (c *client) idle() bool {
	return c.waiting == 0 && c.tcp == 0 && c.flights == 0 && c.secure == 0
}

// clients gives every client its share. Safe for concurrent use; bounded.
type clients struct {
	rate   float64 // queries per second of one
	seed   maphash.Seed
	shards [clientShards]struct {
		mu sync.Mutex
		of map[netip.Addr]*client
	}
	total struct {
		sync.Mutex
		waiting, tcp, flights, secure int
	}
}

// newClients gives each client rate queries per second.
func newClients(rate int) *clients {
	c := &clients{rate: float64(rate), seed: maphash.MakeSeed()}
	for i := range c.shards {
		c.shards[i].of = map[netip.Addr]*client{}
	}
	return c
}

// with calls f with the client's state, under its lock. It is false when there are too many
// clients at work to remember another.
func (c *clients) with(addr netip.Addr, now time.Time, f func(*client)) bool {
	s := &c.shards[maphash.Comparable(c.seed, addr)%clientShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.of[addr]
	if x == nil {
		if len(s.of) >= maxClients/clientShards && !forget(s.of, now) {
			return false
		}
		x = &client{tokens: c.rate * burstTime, slips: slipRate, last: now}
		s.of[addr] = x
	}
	f(x)
	return true
}

// forget makes room: of a few clients at hand (a map's order is random) the one that was
// silent longest.
func forget(of map[netip.Addr]*client, now time.Time) bool {
	var oldest netip.Addr
	silent, seen := time.Duration(-1), 0
	for a, x := range of {
		if d := now.Sub(x.last); x.idle() && d > silent {
			oldest, silent = a, d
		}
		if seen++; seen == 16 {
			break
		}
	}
	delete(of, oldest)
	return silent >= 0
}

// query takes one query from the client's rate.
func (c *clients) query(addr netip.Addr, now time.Time) (p pass) {
	p = dropped
	c.with(addr, now, func(x *client) {
		x.refill(now, c.rate)
		switch {
		case x.tokens >= 1:
			x.tokens--
			p = allowed
		case x.slips >= 1:
			x.slips--
			p = truncated
		}
	})
	return p
}

// delay takes one query of a TCP client, which may be told to wait: the time after which
// the query may be worked on.
func (c *clients) delay(addr netip.Addr, now time.Time) (wait time.Duration) {
	c.with(addr, now, func(x *client) {
		x.refill(now, c.rate)
		x.tokens--
		if x.tokens < 0 {
			wait = min(time.Duration(-x.tokens/c.rate*float64(time.Second)), mostDelay)
			x.tokens = max(x.tokens, -c.rate)
		}
	})
	return wait
}

func (x *client) refill(now time.Time, rate float64) {
	if d := now.Sub(x.last).Seconds(); d > 0 {
		x.tokens = min(x.tokens+d*rate, rate*burstTime)
		x.slips = min(x.slips+d*slipRate, slipRate)
		x.last = now
	}
}

// share is how many of most places one client may have when used are taken: an eighth of
// what is free, so that nobody can take the last places and all get some (dynamic
// thresholds, Choudhury and Hahne 1998).
func share(used, most int) int { return max((most-used)/8, 2) }

// enter takes a waiting place for the client, or is false when it has had its share.
func (c *clients) enter(addr netip.Addr, now time.Time) bool {
	return c.take(addr, now, &c.total.waiting, maxWaiting, func(x *client) *int { return &x.waiting })
}

// leave gives a waiting place back.
func (c *clients) leave(addr netip.Addr, now time.Time) {
	c.give(addr, now, &c.total.waiting, func(x *client) *int { return &x.waiting })
}

// launch takes a place for a flight that the client starts, or is false when it has had its
// share.
func (c *clients) launch(addr netip.Addr, now time.Time) bool {
	return c.take(addr, now, &c.total.flights, maxFlights, func(x *client) *int { return &x.flights })
}

// landed gives a flight's place back.
func (c *clients) landed(addr netip.Addr, now time.Time) {
	c.give(addr, now, &c.total.flights, func(x *client) *int { return &x.flights })
}

// connect takes a place for a TCP connection, or is false when the client has had its share.
func (c *clients) connect(addr netip.Addr, now time.Time) bool {
	return c.take(addr, now, &c.total.tcp, maxTCP, func(x *client) *int { return &x.tcp })
}

// disconnect gives a connection's place back.
func (c *clients) disconnect(addr netip.Addr, now time.Time) {
	c.give(addr, now, &c.total.tcp, func(x *client) *int { return &x.tcp })
}

func (c *clients) take(addr netip.Addr, now time.Time, total *int, most int, place func(*client) *int) (ok bool) {
	c.with(addr, now, func(x *client) {
		c.total.Lock()
		defer c.total.Unlock()
		if ok = *total < most && *place(x) < share(*total, most); ok {
			*total++
			*place(x)++
		}
	})
	return ok
}

func (c *clients) give(addr netip.Addr, now time.Time, total *int, place func(*client) *int) {
	c.with(addr, now, func(x *client) {
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
