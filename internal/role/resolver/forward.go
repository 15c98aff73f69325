package resolver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/wire"
)

const (
	hedgeMost   = 400 * time.Millisecond // the second resolver is asked when the first has not answered
	hedgeLeast  = 50 * time.Millisecond
	attemptTime = 2 * time.Second        // an answer later than that is not waited for
	maxSockets  = 4096                   // to upstreams, at once
	probeEvery  = time.Second            // of a resolver that is down
	probeIdle   = 10 * time.Second       // of one that seems well
	probeTime   = 900 * time.Millisecond // done before the next one
)

// dialer connects to a resolver; network is "udp" or "tcp". Each UDP connection has a source
// port of its own, chosen at random by the kernel (RFC 5452 section 9.2).
type dialer func(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error)

// forwarder asks other resolvers: the first that is well, the next when that one is silent
// or fails, and all when none is well (an upstream thought dead is better than none).
type forwarder struct {
	upstreams []*upstream
	dial      dialer
	sockets   chan struct{}
	m         *Metrics
	event     func(severity fact.Severity, kind, words string)
}

func newForwarder(ask []netip.AddrPort, dial dialer, m *Metrics, event func(fact.Severity, string, string)) *forwarder {
	f := &forwarder{dial: dial, sockets: make(chan struct{}, maxSockets), m: m, event: event}
	for _, a := range ask {
		f.upstreams = append(f.upstreams, &upstream{addr: a})
	}
	return f
}

var (
	errSockets = errors.New("too many questions to other resolvers at once")
	errSilent  = errors.New("no resolver answered")
)

// result is what one attempt brought.
type result struct {
	u   *upstream
	msg []byte
	err error
}

// good tells whether the resolver could say something of the name.
func (r *result) good() bool {
	if r.err != nil {
		return false
	}
	rcode := r.msg[3] & 0xf
	return rcode == wire.DNSNoError || rcode == wire.DNSNXDomain
}

// resolve is the forwarder's part as a backend. Of several failures the first one that was
// an answer is returned.
func (f *forwarder) resolve(ctx context.Context, q ask) ([]byte, error) {
	ctx, cancel := context.WithCancel(ctx)
	results := make(chan result, 2*len(f.upstreams)+2)
	order := f.order()
	rounds := max(3, len(order)) // one resolver alone is asked three times
	running, next := 0, 0
	defer func() {
		cancel()
		for ; running > 0; running-- {
			<-results // no goroutine is left behind
		}
	}()
	launch := func() time.Duration {
		u := order[next%len(order)]
		next++
		running++
		go func() {
			ctx, cancel := context.WithTimeout(ctx, attemptTime)
			defer cancel()
			msg, err := f.attempt(ctx, u, q)
			results <- result{u, msg, err}
		}()
		return u.patience()
	}
	hedge := time.NewTimer(launch())
	defer hedge.Stop()
	var failed []byte
	answered := 0
	for {
		select {
		case <-ctx.Done():
			return failed, orSilent(failed)
		case <-hedge.C:
			if next < rounds {
				hedge.Reset(launch())
			}
		case r := <-results:
			running--
			if r.good() {
				return r.msg, nil
			}
			if r.err == nil {
				failed = r.msg
				answered++
			}
			switch {
			case answered >= len(order), running == 0 && next >= rounds:
				return failed, orSilent(failed)
			case next < len(order), running == 0 && r.err != nil:
				hedge.Reset(launch())
			case running == 0:
				return failed, orSilent(failed)
			}
		}
	}
}

func orSilent(failed []byte) error {
	if failed == nil {
		return errSilent
	}
	return nil
}

// order is those that are well in the plan's order, then the others.
func (f *forwarder) order() []*upstream {
	order := make([]*upstream, 0, len(f.upstreams))
	for _, down := range [2]bool{false, true} {
		for _, u := range f.upstreams {
			if u.isDown() == down {
				order = append(order, u)
			}
		}
	}
	return order
}

// attempt asks one resolver once, until ctx ends. It asks again without EDNS when the resolver
// does not know that, and by TCP when the answer is truncated, or not in the question's case
// and so perhaps forged.
func (f *forwarder) attempt(ctx context.Context, u *upstream, q ask) ([]byte, error) {
	select {
	case f.sockets <- struct{}{}:
		defer func() { <-f.sockets }()
	default:
		return nil, errSockets
	}
	begun := time.Now()
	u.asked(begun)
	tcp := newQuery(q, false)
	msg, kept, err := f.exchange(ctx, "udp", u, newQuery(q, u.mixes()))
	if err == nil && noEDNS(msg) {
		tcp = tcp.plain()
		msg, kept, err = f.exchange(ctx, "udp", u, newQuery(q, u.mixes()).plain())
	}
	if err == nil {
		// The round trip of UDP alone: a hedge must not wait for TCP's.
		f.answered(u, msg, time.Since(begun))
		u.caseSeen(q, kept)
		if !kept {
			f.m.upstream.WithLabelValues(u.addr.String(), "case").Inc()
		}
		if msg[2]&byte(wire.DNSFlagTC>>8) != 0 || !kept {
			msg, _, err = f.exchange(ctx, "tcp", u, tcp)
		}
	}
	switch {
	case err == nil:
		f.m.upstream.WithLabelValues(u.addr.String(), "answered").Inc()
	case errors.Is(ctx.Err(), context.Canceled): // another was faster, or we stop
		f.m.upstream.WithLabelValues(u.addr.String(), "unneeded").Inc()
	default:
		f.m.upstream.WithLabelValues(u.addr.String(), "failed").Inc()
		if u.failed(time.Now()) {
			f.down(u, "does not answer")
		}
	}
	return msg, err
}

// answered notes an answer and that the resolver is well when it is.
func (f *forwarder) answered(u *upstream, msg []byte, rtt time.Duration) {
	f.m.rtt.WithLabelValues(u.addr.String()).Observe(rtt.Seconds())
	well := (&result{msg: msg}).good()
	if u.answered(rtt, well) {
		f.event(fact.Info, "upstream-up", fmt.Sprintf("The resolver %s answers again.", u.addr))
		f.m.up.WithLabelValues(u.addr.String()).Set(1)
	}
}

// down says that a resolver is down from now on: an alarm when no other is well.
func (f *forwarder) down(u *upstream, why string) {
	f.m.up.WithLabelValues(u.addr.String()).Set(0)
	for _, other := range f.upstreams {
		if !other.isDown() {
			f.event(fact.Warning, "upstream-down", fmt.Sprintf("The resolver %s %s; the others are asked first. Look at the uplink, or give the plan another resolver.", u.addr, why))
			return
		}
	}
	f.event(fact.Alarm, "no-upstream", fmt.Sprintf("The resolver %s %s, and no other is well: only names in the cache and the event's own resolve. Look at the uplink first.", u.addr, why))
}

// exchange sends the question and waits for its answer; kept is false when the answer had
// not the case of letters that the question had.
func (f *forwarder) exchange(ctx context.Context, network string, u *upstream, q query) (msg []byte, kept bool, err error) {
	c, err := f.dial(ctx, network, u.addr)
	if err != nil {
		return nil, false, fmt.Errorf("ask %s by %s: %w", u.addr, network, err)
	}
	defer c.Close()
	// The connection is closed at once when the answer is not needed any more.
	defer context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })()
	if network == "tcp" {
		msg, kept, err = exchangeTCP(c, q)
	} else {
		msg, kept, err = exchangeUDP(c, q)
	}
	if err != nil {
		return nil, false, fmt.Errorf("ask %s by %s: %w", u.addr, network, err)
	}
	return msg, kept, nil
}

// watch asks resolvers that are down or idle for the root's servers, so that they come back
// into use, or are known to be gone before an attendee waits for them.
func (f *forwarder) watch(ctx context.Context) {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	done := make(chan struct{}, len(f.upstreams))
	running := 0
	defer func() {
		for ; running > 0; running-- {
			<-done
		}
	}()
	for _, u := range f.upstreams {
		f.m.up.WithLabelValues(u.addr.String()).Set(1)
	}
	for {
		for _, u := range f.upstreams {
			if u.wantsProbe(time.Now()) {
				running++
				go func() {
					f.probe(ctx, u)
					done <- struct{}{}
				}()
			}
		}
		for waiting := true; waiting; {
			select {
			case <-ctx.Done():
				return
			case <-done:
				running--
			case <-tick.C:
				waiting = false
			}
		}
	}
}

// probe asks for the root's NS records: any answer that is no failure will do, so that a
// resolver without the root (of a closed network) is well too.
func (f *forwarder) probe(ctx context.Context, u *upstream) {
	defer u.probed()
	root := ask{name: []byte{0}, typ: wire.DNSTypeNS}
	limited, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	msg, err := f.attempt(limited, u, root)
	if ctx.Err() != nil {
		return
	}
	if r := (result{msg: msg, err: err}); err == nil && !r.good() && u.cannot() {
		f.down(u, "answers but cannot resolve")
	}
}

// checks says how each resolver is, and whether any is well.
func (f *forwarder) checks() []fact.Check {
	var bad, good []fact.Check
	well := 0
	for _, u := range f.upstreams {
		c := u.check()
		if c.OK {
			good = append(good, c)
			well++
		} else {
			bad = append(bad, c)
		}
	}
	all := fact.Check{Name: "resolver-can-resolve", Words: "names of the internet can be resolved", Goal: "1 resolver at least",
		Measured: fmt.Sprintf("%d of %d resolvers", well, len(f.upstreams)), OK: well > 0}
	if !all.OK {
		all.Hint = fmt.Sprintf("dig @%s . NS; then the uplink", f.upstreams[0].addr.Addr())
		return append(append([]fact.Check{all}, bad...), good...)
	}
	return append(append(bad, all), good...)
}
