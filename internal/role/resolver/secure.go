package resolver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
)

// Encrypted service: the same questions, by ways that nobody can look into.
//
//	853/tcp ─► share ─► handshake ─► converse, as TCP ─────────────┐
//	443/tcp ─► share ─► handshake ─► HTTP/2 ─► a request ─► exchange ─┼─► handler
//	853/udp ─► Retry ─► share ─► handshake ─► a stream ─► exchange ───┘
//
// It comes and goes beside plain service, and never takes that down.
const (
	securePort    = 853  // TLS: RFC 7858 section 3.1; QUIC: RFC 9250 section 4.1.1
	httpsPort     = 443  // RFC 8484 section 5: as any https
	maxSecure     = 8192 // connections, all clients together: 24 to 44 KB each when idle, measured
	secureShare   = 32   // of one client: a device has a few, one each for its system and its browsers
	secureStreams = 32   // questions of one connection at once
	handshakeCost = 10   // questions that a handshake counts as: it takes the CPU of more, and a device needs few
	handshakeTime = 5 * time.Second
	secureIdle    = 30 * time.Second // a handshake is dearer than a connection kept for the next page
	retryTime     = 10 * time.Second // to look for another certificate, or for a port that is taken
	soon          = 7 * 24 * time.Hour
)

// secure keeps encrypted service up while there is a certificate for it.
type secure struct {
	s             *Server
	cfg           *Encrypted
	cert          certificate
	on            *atomic.Bool // served
	dot, doh, doq *way

	mu   sync.Mutex
	told error // the last problem
}

// newSecure starts nothing. It gives s's handler what devices are told of encrypted service.
func newSecure(s *Server) *secure {
	x := &secure{s: s, cfg: s.cfg.Encrypted, on: new(atomic.Bool), cert: certificate{chain: s.cfg.Encrypted.Chain, key: s.cfg.Encrypted.Key}}
	s.handler.ddr = newDDR(s.cfg, s.handler.local, x.on)
	x.dot, x.doh, x.doq = &way{idle: x.idle, private: true}, &way{idle: x.idle, private: true}, &way{idle: x.idle, private: true}
	x.handlers()
	return x
}

// handlers takes the server's handler as it is now, for each way with a counter of its own.
func (x *secure) handlers() {
	x.dot.handler, x.doh.handler, x.doq.handler = x.s.handler.over(x.s.m.dot), x.s.handler.over(x.s.m.doh), x.s.handler.over(x.s.m.doq)
}

// idle is how long a connection may be silent.
func (x *secure) idle() time.Duration {
	if x.crowded() {
		return crowdTime
	}
	return secureIdle
}

func (x *secure) crowded() bool { return x.s.handler.clients.secureConnections() > maxSecure*3/4 }

// run tries again and again until ctx ends.
func (x *secure) run(ctx context.Context, all *sync.WaitGroup) {
	tick := time.NewTicker(retryTime)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			x.try(ctx, all)
		}
	}
}

// try takes what certificate there is now, and begins to serve when it can; all waits for
// what it starts.
func (x *secure) try(ctx context.Context, all *sync.WaitGroup) {
	if x.cfg.Chain == "" {
		return
	}
	fresh, err := x.cert.refresh()
	if fresh {
		x.s.m.expiry.Set(float64(x.cert.ends().Unix()))
		x.s.event(fact.Info, "certificate", fmt.Sprintf("encrypted DNS has the certificate in %s, good until %s", x.cfg.Chain, day(x.cert.ends())))
	}
	if err == nil && !x.on.Load() {
		err = x.begin(ctx, all)
	}
	x.problem(err)
}

// begin opens all sockets or none, and serves.
func (x *secure) begin(ctx context.Context, all *sync.WaitGroup) error {
	n, err := x.open()
	if err != nil {
		return err
	}
	x.handlers() // the query log has come since
	x.on.Store(true)
	all.Go(func() {
		err := n.run(ctx)
		x.on.Store(false)
		x.problem(err)
	})
	return nil
}

// problem remembers what is wrong, and tells it once. That there is no certificate where the
// plan gives none is not wrong.
func (x *secure) problem(err error) {
	x.mu.Lock()
	before := x.told
	x.told = err
	x.mu.Unlock()
	if err == nil || before != nil && before.Error() == err.Error() || !x.cfg.Must && x.cert.absent() {
		return
	}
	x.s.event(fact.Warning, "encrypted-dns", fmt.Sprintf("%v; plain DNS goes on, and this is tried again each %v", err, retryTime))
}

func (x *secure) lastProblem() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.told
}

// checks says how encrypted service stands. x may be nil.
func (x *secure) checks() []fact.Check {
	if x == nil {
		return nil
	}
	c := fact.Check{Name: "resolver-encrypted", Words: "DNS over TLS, HTTPS and QUIC", Goal: "served", OK: true}
	pair := x.cert.have.Load()
	switch err := x.lastProblem(); {
	case x.cfg.Chain == "" || pair == nil && x.cert.absent():
		c.OK, c.Measured = !x.cfg.Must, "off: there is no certificate"
		if c.Hint = "make the event's own: hotstage keys PLAN, and copy NODE.dns.pem to its node; or give resolver: {certificate: …}"; !x.cfg.Own {
			c.Hint = "put the certificate in " + x.cfg.Chain + " and its key in " + x.cfg.Key
		}
		c.Measured += "; " + c.Hint
	case !x.on.Load():
		c.OK, c.Measured, c.Hint = false, "off", fmt.Sprintf("%v", errors.Join(err, x.cert.problem()))
	default:
		c.Measured = x.cfg.Name + ", good until " + day(x.cert.ends())
		if x.cfg.Own {
			c.Measured += "; signed by the event's own authority, so devices that do not know it use it unverified"
		}
		if why := x.unfit(pair, time.Now()); why != "" {
			c.OK, c.Hint = false, why+"; put another one in "+x.cfg.Chain+", no restart is needed"
		}
	}
	return []fact.Check{c}
}

// unfit is what is wrong with the certificate, or "".
func (x *secure) unfit(pair *tls.Certificate, now time.Time) string {
	left := pair.Leaf.NotAfter.Sub(now)
	switch err := pair.Leaf.VerifyHostname(x.cfg.Name); {
	case err != nil:
		return fmt.Sprintf("the certificate is not for %s, and devices refuse it", x.cfg.Name)
	case now.Before(pair.Leaf.NotBefore):
		return "the certificate is not good before " + day(pair.Leaf.NotBefore)
	case left < 0:
		return "the certificate has ended, and devices refuse it"
	case left < soon:
		return "the certificate ends in " + left.Round(time.Hour).String()
	}
	if err := x.cert.problem(); err != nil {
		return fmt.Sprintf("the one that was served before is served still: %v", err)
	}
	return ""
}

func day(t time.Time) string { return t.UTC().Format("2006-01-02") }

// connectSecure takes a place for an encrypted connection and pays for its handshake, or is
// false when the client has had its share of either.
func (c *clients) connectSecure(addr netip.Addr, now time.Time) (ok bool) {
	c.with(addr, func(x *client) {
		c.total.Lock()
		defer c.total.Unlock()
		if c.total.secure >= maxSecure || x.secure >= min(share(c.total.secure, maxSecure), secureShare) || !c.shake(addr, now) {
			return
		}
		x.secure++
		c.total.secure++
		ok = true
	})
	return ok
}

// shake takes a handshake from the client's rate, or is false when that is used up.
func (r *rates) shake(addr netip.Addr, now time.Time) bool {
	at := int64(now.Sub(r.base))
	return take(&r.of(addr, true, at).due, at, handshakeCost*r.step, r.burst) // it can answer, by TCP or a Retry
}

// disconnectSecure gives an encrypted connection's place back.
func (c *clients) disconnectSecure(addr netip.Addr) {
	c.give(addr, &c.total.secure, func(x *client) *int { return &x.secure })
}

// secureConnections is how many encrypted connections there are.
func (c *clients) secureConnections() int {
	c.total.Lock()
	defer c.total.Unlock()
	return c.total.secure
}
