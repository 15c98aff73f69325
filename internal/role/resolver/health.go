package resolver

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/wire"
)

const (
	probeEvery = time.Second            // of a resolver that is down or doubtful
	probeIdle  = 10 * time.Second       // of one that seems well
	probeTime  = 900 * time.Millisecond // done before the next one
	// probeNames that a resolver must fail for, one after another, to be down: no single name
	// says anything of it.
	probeNames = 3
)

// health is what a resolver is asked to see whether it can resolve. Safe for concurrent use.
type health struct {
	mu    sync.Mutex
	names []probeName
	turn  int
}

type probeName struct {
	name   string // "" is the root
	typ    uint16
	chance bool // a label by chance stands in front
}

// newHealth takes the plan's names, whose addresses are asked for; without any it takes the
// root and top-level domains of several operators, asked for by SOA: those must be asked anew
// every few minutes to hours, and no one of them is the internet.
func newHealth(given []string) *health {
	h := &health{}
	for _, name := range given {
		rest, chance := strings.CutPrefix(name, "*.")
		h.names = append(h.names, probeName{rest, wire.DNSTypeA, chance})
	}
	if len(given) > 0 && len(given) < probeNames { // one name that fails marks nobody
		h.names = append(h.names, probeName{"", wire.DNSTypeNS, false})
	}
	if len(given) == 0 {
		h.names = append(h.names, probeName{"", wire.DNSTypeNS, false})
		for _, tld := range []string{"com", "org", "jp", "de", "net", "nl", "uk", "fr", "io", "info", "eu", "br"} {
			h.names = append(h.names, probeName{tld, wire.DNSTypeSOA, false})
		}
	}
	return h
}

// next is the next question of a probe.
func (h *health) next() ask {
	h.mu.Lock()
	p := h.names[h.turn%len(h.names)]
	h.turn++
	h.mu.Unlock()
	name := p.name
	if p.chance {
		name = fmt.Sprintf("h%012x.%s", rand.Uint64()>>16, name)
	}
	w, err := wire.PackDNSName(nil, name)
	if err != nil { // Configure has read it before
		w = []byte{0}
	}
	return ask{name: w, typ: p.typ}
}

// watch asks resolvers that are down, doubtful or idle, so that they come back into use, or
// are known to be gone before an attendee waits for them.
func (f *forwarder) watch(ctx context.Context) {
	defer f.close()
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
		f.m.up.WithLabelValues(u.name).Set(1)
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

// probe asks for names in turn until one is resolved; a resolver that fails for several is
// down. One that says nothing is found out by attempt.
func (f *forwarder) probe(ctx context.Context, u *upstream) {
	defer u.probed()
	limited, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	for range probeNames {
		msg, err := f.attempt(limited, u, f.health.next())
		if err != nil || resolved(msg) {
			return
		}
	}
	if ctx.Err() == nil && u.cannot() {
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
		all.Hint = bad[0].Hint + "; then the uplink"
		return append(append([]fact.Check{all}, bad...), good...)
	}
	return append(append(bad, all), good...)
}
