package resolver

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/hotstage/hotstage/internal/wire"
)

const (
	mostOpen    = 512 // questions on one connection at once
	perResolver = 2   // connections: a packet lost on one holds up its own questions alone
	redialFirst = 100 * time.Millisecond
	redialLast  = 5 * time.Second
	dialTime    = 1500 * time.Millisecond // with the handshake; within attemptTime
	sendTime    = time.Second
	padding     = 128              // octets that queries by TLS are a multiple of (RFC 8467 section 4.1)
	quietTime   = 30 * time.Second // a connection is closed when it has been idle for so long (RFC 7766 section 6.2.3)
)

var errFull = errors.New("too many questions on one connection")

// streams are the connections to one resolver that are kept, each with many questions at
// once (RFC 7766 section 6.2.1.1). One that breaks is made anew by the next question, with
// back-off when that fails. Safe for concurrent use.
type streams struct {
	dial  func(context.Context) (net.Conn, error)
	lanes [perResolver]lane
	all   sync.WaitGroup

	mu     sync.Mutex
	turn   int
	closed bool
}

// lane is the place of one connection.
type lane struct {
	turn  chan struct{} // held by who dials
	mu    sync.Mutex
	pipe  *pipe
	fails int
	until time.Time // no dialling before
	err   error     // of the last dialling
}

func newStreams(dial func(context.Context) (net.Conn, error)) *streams {
	s := &streams{dial: dial}
	for i := range s.lanes {
		s.lanes[i].turn = make(chan struct{}, 1)
	}
	return s
}

// secured makes the TLS of a resolver whose certificate must be for the name (RFC 8310
// section 8.1: strict, by the name). roots nil trusts whom the system trusts.
func secured(name string, roots func() *x509.CertPool) func(context.Context, net.Conn) (net.Conn, error) {
	cfg := &tls.Config{ServerName: name, MinVersion: tls.VersionTLS12, NextProtos: []string{"dot"}, ClientSessionCache: tls.NewLRUClientSessionCache(perResolver)}
	return func(ctx context.Context, c net.Conn) (net.Conn, error) {
		cfg := cfg.Clone()
		cfg.RootCAs = roots()
		t := tls.Client(c, cfg)
		if err := t.HandshakeContext(ctx); err != nil {
			c.Close()
			return nil, fmt.Errorf("tls with %s: %w", name, err)
		}
		return t, nil
	}
}

// ask asks over one of the connections. With pad the question's length tells nothing of the
// name. A question on a connection that the resolver had closed meanwhile is asked once more
// over a new one (RFC 7766 section 6.2.4).
func (s *streams) ask(ctx context.Context, q ask, pad bool) ([]byte, error) {
	s.mu.Lock()
	s.turn++
	lane := &s.lanes[s.turn%perResolver]
	s.mu.Unlock()
	for again := false; ; again = true {
		p, fresh, err := s.get(ctx, lane)
		if err != nil {
			return nil, err
		}
		msg, err := p.ask(ctx, q, pad)
		if err == nil || fresh || again || ctx.Err() != nil || errors.Is(err, errFull) {
			return msg, err
		}
	}
}

// get is the lane's connection, made when there is none; fresh says that it was made now.
func (s *streams) get(ctx context.Context, lane *lane) (p *pipe, fresh bool, err error) {
	if p := lane.live(); p != nil {
		return p, false, nil
	}
	select {
	case lane.turn <- struct{}{}:
		defer func() { <-lane.turn }()
	case <-ctx.Done():
		return nil, false, ctx.Err()
	}
	if p := lane.live(); p != nil { // another has dialled meanwhile
		return p, false, nil
	}
	if err := lane.held(time.Now()); err != nil {
		return nil, false, err
	}
	// Whoever asks next wants the connection too: who asked first may not need it any more.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), dialTime)
	defer cancel()
	c, err := s.dial(ctx)
	if err != nil {
		lane.missed(err, time.Now())
		return nil, false, err
	}
	p = &pipe{c: c, waiting: map[uint16]*waiter{}}
	s.mu.Lock()
	closed := s.closed
	if !closed {
		s.all.Go(p.read)
	}
	s.mu.Unlock()
	if closed {
		c.Close()
		return nil, false, net.ErrClosed
	}
	lane.mu.Lock()
	lane.pipe, lane.fails = p, 0
	lane.mu.Unlock()
	return p, true, nil
}

func (s *lane) live() *pipe {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pipe != nil && s.pipe.broken() == nil {
		return s.pipe
	}
	return nil
}

// held is the error of the last dialling while its back-off runs.
func (s *lane) held(now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Before(s.until) {
		return s.err
	}
	return nil
}

func (s *lane) missed(err error, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
	s.until = now.Add(min(redialFirst<<min(s.fails, 10), redialLast))
	s.fails++
}

// close ends all connections and waits for their readers; nothing can be asked afterwards.
func (s *streams) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	for i := range s.lanes {
		if p := s.lanes[i].live(); p != nil {
			p.fail(net.ErrClosed)
		}
	}
	s.all.Wait()
}

// pipe is one connection with many questions on it.
type pipe struct {
	c     net.Conn
	write sync.Mutex

	mu      sync.Mutex
	err     error     // once it is broken
	heard   time.Time // when something came last
	waiting map[uint16]*waiter
}

type waiter struct {
	q   query
	got chan result // has room for one
}

func (p *pipe) broken() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// fail breaks the connection and tells everybody who waits.
func (p *pipe) fail(err error) {
	p.mu.Lock()
	if p.err == nil {
		p.err = err
	}
	waiting := p.waiting
	p.waiting = map[uint16]*waiter{}
	p.mu.Unlock()
	p.c.Close()
	for _, w := range waiting {
		w.got <- result{err: err}
	}
}

// enter gives the question an id that no other on the connection has.
func (p *pipe) enter(w *waiter) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return p.err
	}
	if len(p.waiting) >= mostOpen {
		return errFull
	}
	for p.waiting[w.q.id] != nil {
		w.q.id = uint16(rand.Uint32())
	}
	binary.BigEndian.PutUint16(w.q.packet[2:], w.q.id)
	p.waiting[w.q.id] = w
	return nil
}

func (p *pipe) leave(w *waiter) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waiting[w.q.id] == w {
		delete(p.waiting, w.q.id)
	}
}

func (p *pipe) ask(ctx context.Context, q ask, pad bool) ([]byte, error) {
	w := &waiter{q: newQuery(q, false), got: make(chan result, 1)}
	if pad {
		w.q.pad()
	}
	if err := p.enter(w); err != nil {
		return nil, err
	}
	defer p.leave(w)
	binary.BigEndian.PutUint16(w.q.packet, uint16(len(w.q.packet)-2))
	begun := time.Now()
	p.write.Lock()
	p.c.SetWriteDeadline(begun.Add(sendTime))
	_, err := p.c.Write(w.q.packet)
	p.write.Unlock()
	if err != nil {
		p.fail(err)
		return nil, err
	}
	select {
	case r := <-w.got:
		return r.msg, r.err
	case <-ctx.Done():
		if ctx.Err() == context.DeadlineExceeded && p.silentSince(begun) { // the way may be cut
			p.fail(errSilent)
		}
		return nil, ctx.Err()
	}
}

func (p *pipe) silentSince(then time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.heard.Before(then)
}

// read hands out answers until the connection breaks or nobody has asked for a while. An
// answer that nobody waits for any more is passed over.
func (p *pipe) read() {
	for {
		p.c.SetReadDeadline(time.Now().Add(quietTime))
		b, err := readMessage(p.c)
		if err != nil {
			p.fail(err)
			return
		}
		if len(b) < wire.DNSHeader {
			p.fail(errOther)
			return
		}
		p.mu.Lock()
		p.heard = time.Now()
		w := p.waiting[binary.BigEndian.Uint16(b)]
		p.mu.Unlock()
		if w == nil {
			continue
		}
		if _, err = w.q.checked(b); err != nil {
			b = nil
		}
		p.leave(w)
		select {
		case w.got <- result{msg: b, err: err}:
		default: // fail told it something already
		}
	}
}

// readMessage reads a message with its length in front (RFC 7766 section 8).
func readMessage(c io.Reader) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err := io.ReadFull(c, b)
	return b, err
}
