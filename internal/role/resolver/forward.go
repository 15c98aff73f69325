package resolver

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"hash/maphash"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/plan"
	"github.com/hotstage/hotstage/internal/wire"
)

const (
	hedgeMost   = 400 * time.Millisecond // the second resolver is asked when the first has not answered
	hedgeLeast  = 50 * time.Millisecond
	attemptTime = 2 * time.Second // an answer later than that is not waited for
	maxSockets  = 4096            // questions to upstreams, at once
)

// dialer connects to a resolver; network is "udp" or "tcp". Each UDP connection has a source
// port of its own, chosen at random by the kernel (RFC 5452 section 9.2).
type dialer func(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error)

// forwarder asks other resolvers. See errand for the way of a question, order for whom it
// goes to, watch for how they are known to be well.
type forwarder struct {
	upstreams []*upstream // in order of their tiers
	dial      dialer
	roots     *x509.CertPool // whom certificates must come from; nil: whom the system trusts
	sockets   chan struct{}
	health    *health
	hedges    budget
	seed      maphash.Seed
	m         *Metrics
	event     func(severity fact.Severity, kind, words string)
}

func newForwarder(ask []plan.Asked, dial dialer, m *Metrics, event func(fact.Severity, string, string)) *forwarder {
	f := &forwarder{dial: dial, sockets: make(chan struct{}, maxSockets), health: newHealth(nil), hedges: budget{have: hedgeBurst},
		seed: maphash.MakeSeed(), m: m, event: event}
	for _, a := range ask {
		f.upstreams = append(f.upstreams, f.given(a))
	}
	return f
}

// given is a resolver of the plan.
func (f *forwarder) given(a plan.Asked) *upstream {
	u := &upstream{name: a.String(), addr: func() netip.AddrPort { return a.Addr }, by: a.By}
	switch a.By {
	case plan.TCP:
		u.keep = newStreams(func(ctx context.Context) (net.Conn, error) { return f.dial(ctx, "tcp", a.Addr) })
	case plan.TLS:
		secure := secured(a.Name, func() *x509.CertPool { return f.roots })
		u.keep = newStreams(func(ctx context.Context) (net.Conn, error) {
			c, err := f.dial(ctx, "tcp", a.Addr)
			if err != nil {
				return nil, err
			}
			return secure(ctx, c)
		})
	}
	return u
}

// children puts two resolvers of this machine in front of the others, which are then asked
// when neither is well. Call it before anything is asked.
func (f *forwarder) children(names []string, at func(i int) netip.AddrPort) {
	for _, u := range f.upstreams {
		u.tier = 1
	}
	var own []*upstream
	for i, name := range names {
		own = append(own, &upstream{name: name, addr: func() netip.AddrPort { return at(i) }, by: plan.UDP, half: uint64(i) + 1})
	}
	f.upstreams = append(own, f.upstreams...)
}

// close ends the connections that were kept, and waits for their readers.
func (f *forwarder) close() {
	for _, u := range f.upstreams {
		if u.keep != nil {
			u.keep.close()
		}
	}
}

var (
	errSockets = errors.New("too many questions to other resolvers at once")
	errSilent  = errors.New("no resolver answered")
)

// absent tells whether a resolver was not there: that is known at once and may be over at
// once. A time that ran out, or an answer that was none, is no such thing.
func absent(err error) bool {
	return err != nil && !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, context.DeadlineExceeded) &&
		!errors.Is(err, errOther) && !errors.Is(err, errCut) && !errors.Is(err, errSockets) && !errors.Is(err, wire.ErrDNSMessage)
}

// resolve is the forwarder's part as a backend.
func (f *forwarder) resolve(ctx context.Context, q ask) ([]byte, error) {
	f.hedges.earn()
	e := errand{f: f, q: q, begun: time.Now(), results: make(chan result), hope: f.hopes()}
	return e.run(ctx)
}

// attempt asks one resolver once, until ctx ends.
func (f *forwarder) attempt(ctx context.Context, u *upstream, q ask) ([]byte, error) {
	select {
	case f.sockets <- struct{}{}:
		defer func() { <-f.sockets }()
	default:
		return nil, errSockets
	}
	begun := time.Now()
	u.asked(begun)
	defer u.done()
	var msg []byte
	var err error
	if u.keep == nil {
		msg, err = f.byUDP(ctx, u, q, begun)
	} else if msg, err = u.keep.ask(ctx, q, u.by == plan.TLS); err == nil {
		f.answered(u, q, msg, time.Since(begun))
	}
	switch {
	case err == nil:
		f.m.upstream.WithLabelValues(u.name, "answered").Inc()
	case errors.Is(ctx.Err(), context.Canceled): // another was faster, or we stop
		f.m.upstream.WithLabelValues(u.name, "unneeded").Inc()
	default:
		f.m.upstream.WithLabelValues(u.name, "failed").Inc()
		if u.failed(time.Now(), absent(err)) {
			f.down(u, "does not answer")
		}
		err = fmt.Errorf("ask %s: %w", u.name, err)
	}
	return msg, err
}

// byUDP asks again without EDNS when the resolver does not know that, and by TCP when the
// answer is truncated, or not in the question's case and so perhaps forged.
func (f *forwarder) byUDP(ctx context.Context, u *upstream, q ask, begun time.Time) ([]byte, error) {
	tcp := newQuery(q, false)
	msg, kept, err := f.exchange(ctx, "udp", u, newQuery(q, u.mixes()))
	if err == nil && noEDNS(msg) {
		tcp = tcp.plain()
		msg, kept, err = f.exchange(ctx, "udp", u, newQuery(q, u.mixes()).plain())
	}
	if err != nil {
		return nil, err
	}
	// The round trip of UDP alone: a hedge must not wait for TCP's.
	f.answered(u, q, msg, time.Since(begun))
	u.caseSeen(q, kept)
	if !kept {
		f.m.upstream.WithLabelValues(u.name, "case").Inc()
	}
	if msg[2]&byte(wire.DNSFlagTC>>8) != 0 || !kept {
		msg, _, err = f.exchange(ctx, "tcp", u, tcp)
	}
	return msg, err
}

// answered notes an answer and that the resolver is well when it is.
func (f *forwarder) answered(u *upstream, q ask, msg []byte, rtt time.Duration) {
	f.m.rtt.WithLabelValues(u.name).Observe(rtt.Seconds())
	if u.answered(q, rtt, resolved(msg)) {
		f.event(fact.Info, "upstream-up", fmt.Sprintf("The resolver %s answers again.", u.name))
		f.m.up.WithLabelValues(u.name).Set(1)
	}
}

// down says that a resolver is down from now on: an alarm when no other is well.
func (f *forwarder) down(u *upstream, why string) {
	f.m.up.WithLabelValues(u.name).Set(0)
	if f.hopes() {
		f.event(fact.Warning, "upstream-down", fmt.Sprintf("The resolver %s %s; the others are asked first. Look at the uplink, or give the plan another resolver.", u.name, why))
		return
	}
	f.event(fact.Alarm, "no-upstream", fmt.Sprintf("The resolver %s %s, and no other is well: only names in the cache and the event's own resolve. Look at the uplink first.", u.name, why))
}

// hopes tells whether some resolver is not known to be down: who was there a moment ago may be
// on its way back.
func (f *forwarder) hopes() bool {
	return slices.ContainsFunc(f.upstreams, func(u *upstream) bool { return !u.isDown() })
}

// exchange sends the question over a connection of its own and waits for its answer; kept is
// false when the answer had not the case of letters that the question had.
func (f *forwarder) exchange(ctx context.Context, network string, u *upstream, q query) (msg []byte, kept bool, err error) {
	c, err := f.dial(ctx, network, u.addr())
	if err != nil {
		return nil, false, err
	}
	defer c.Close()
	// The connection is closed at once when the answer is not needed any more.
	defer context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })()
	if network == "tcp" {
		return exchangeTCP(c, q)
	}
	return exchangeUDP(c, q)
}
