package resolver

import (
	"time"

	"github.com/hotstage/hotstage/internal/wire"
)

const (
	renewUses = 3           // askings that make an answer worth having anew: as many as get counts
	renewMost = 256         // at once
	renewPart = 10          // the last tenth of its time
	renewRest = time.Second // less time than that is no time to renew in
)

// due tells whether the answer runs out soon and has been asked for often; true once for
// each answer.
func (e *entry) due(now time.Time) bool {
	return e.ttl-now.Sub(e.stored) <= e.ttl/renewPart && e.ttl >= renewPart*renewRest && e.uses.Load() >= renewUses &&
		e.good() && e.renewing.CompareAndSwap(false, true)
}

// renew asks anew for an answer that is still good, beside everything else: nobody waits for
// it. When too much is asked already it is left to run out.
func (f *flights) renew(k *key) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ctx == nil || f.ctx.Err() != nil || f.of[string(k.bytes())] != nil || f.renewals >= renewMost || len(f.of) >= maxFlights/2 {
		return
	}
	x := &flight{key: *k, renewal: true}
	f.of[string(k.bytes())] = x
	f.renewals++
	f.m.waiting.Inc()
	f.m.renewed.Inc()
	f.all.Go(func() {
		f.fly(f.ctx, x)
		f.mu.Lock()
		f.renewals--
		f.mu.Unlock()
	})
}

// landed frees the place of a client's flight.
func (f *flights) landed(x *flight) {
	if !x.renewal {
		f.clients.landed(x.by)
	}
}

// fallback is the answer that those who ask get when asking fails or takes long: the expired
// one, or, for who comes to a renewal, the one that was still good when it began.
func (f *flights) fallback(x *flight) *entry {
	old := f.cache.get(&x.key)
	if old != nil && (old.stale(time.Now()) || x.renewal && old.good()) {
		return old
	}
	return nil
}

// reply is appendTo with the reason, for those who know EDNS, when the answer is not what it
// should be (RFC 8914): it is stale, or there was none.
func (e *entry) reply(out []byte, q *wire.DNSQuery, now time.Time, size int) []byte {
	start := len(out)
	out = e.appendTo(out, q, now, size)
	switch {
	case e.why != 0:
		return wire.AddDNSError(out, start, e.why, "", size)
	case e.ttl == 0 || e.fresh(now):
		return out
	case e.msg[3]&0xf == wire.DNSNXDomain:
		return wire.AddDNSError(out, start, wire.DNSEDEStaleNXDomain, "", size)
	}
	return wire.AddDNSError(out, start, wire.DNSEDEStaleAnswer, "", size)
}

// unable is an answer for who cannot even wait.
func unable(q *wire.DNSQuery, size int) []byte {
	return wire.AddDNSError(refuse(nil, q, 0, wire.DNSServFail), 0, wire.DNSEDENetworkError, "too many questions wait", size)
}
