package resolver

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/hotstage/hotstage/internal/wire"
	"github.com/prometheus/client_golang/prometheus"
)

// paddingBlock is what the length of a padded answer is a multiple of, RFC 8467 section 4.1.
const paddingBlock = 468

var (
	errNoQuery = errors.New("not a DNS query")
	errShare   = errors.New("the client asks more than its share")
)

// way is how questions come by streams: where they are counted, how long a client may be
// silent, and whether answers are padded.
type way struct {
	handler handler
	idle    func() time.Duration
	private bool
}

// plain is TCP without encryption.
func (s *Server) plain() *way {
	return &way{handler: s.handler, idle: func() time.Duration {
		if s.handler.clients.connections() > maxTCP*3/4 {
			return crowdTime
		}
		return idleTime
	}}
}

// over is the handler with its queries by streams counted by c.
func (h handler) over(c prometheus.Counter) handler {
	m := *h.m
	m.tcp = c
	h.m = &m
	return h
}

// finish pads the answer, which is reply from start on, when the query has asked for it (RFC
// 8467 section 4: an unpadded query gets an unpadded answer) and nobody can see within.
func (w *way) finish(packet []byte, q *wire.DNSQuery, reply []byte, start int) []byte {
	if !w.private || !q.EDNS || !wire.HasDNSOption(packet, q.End, wire.DNSOptionPadding) {
		return reply
	}
	return wire.PadDNS(reply, start, paddingBlock)
}

// exchange works on one question and waits for its answer, at most as long as a flight takes.
// It keeps packet. Errors: errNoQuery, errShare, and ctx's.
func (s *Server) exchange(ctx context.Context, w *way, packet []byte, client netip.Addr) ([]byte, error) {
	now := time.Now()
	switch d := s.handler.clients.delay(client, now); {
	case d >= mostDelay: // many streams could wait for it side by side
		s.m.dropped.Inc()
		return nil, errShare
	case d > 0:
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(d):
		}
	}
	var q wire.DNSQuery
	var k key
	reply, v := w.handler.handle(make([]byte, 0, 512), packet, client, false, now, &q, &k)
	switch v {
	case answer:
		return w.finish(packet, &q, reply, 0), nil
	case wait:
		b, err := s.await(ctx, &k, q, client, now)
		if err != nil {
			return nil, err
		}
		return w.finish(packet, &q, b, 0), nil
	}
	return nil, errNoQuery
}

// await boards a flight and waits until it lands, as every flight does within seconds, or ctx
// ends.
func (s *Server) await(ctx context.Context, k *key, q wire.DNSQuery, from netip.Addr, now time.Time) ([]byte, error) {
	landed := make(chan []byte, 1)
	s.flights.board(k, passenger{q: q, size: 0xffff, from: from, since: now, answer: func(b []byte) { landed <- slices.Clone(b) }})
	select {
	case b := <-landed:
		return b, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
