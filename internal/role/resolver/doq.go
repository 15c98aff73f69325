package resolver

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hotstage/hotstage/internal/wire"
	"github.com/quic-go/quic-go"
)

// Error codes of DNS over QUIC, RFC 9250 section 8.4.
const (
	doqNoError       = 0x0
	doqProtocolError = 0x2
	doqExcessiveLoad = 0x4
)

// doqWindow is what a client may send on a stream before we have read it: a query and its
// length.
const doqWindow = 2 + maxQuery

// serveQUIC is DNS over QUIC (RFC 9250) on one socket, until that is closed.
//
// A client proves that its address is its own (RFC 9000 section 8.1.2, Retry) before anything
// is kept of it: else forged packets could take a neighbour's share. In a venue that costs a
// round trip of a millisecond. Early data is refused: it could be a copy (RFC 9250 section 4.5).
func (n *secureSockets) serveQUIC(ctx context.Context, u *net.UDPConn) error {
	cfg := n.x.tls("doq")
	cfg.MinVersion = tls.VersionTLS13
	t := &quic.Transport{Conn: u, VerifySourceAddress: func(net.Addr) bool { return true }, ConnContext: n.admitQUIC}
	defer t.Close()
	l, err := t.Listen(cfg, &quic.Config{
		HandshakeIdleTimeout: handshakeTime, MaxIdleTimeout: secureIdle + writeTime, MaxIncomingStreams: secureStreams, MaxIncomingUniStreams: -1,
		InitialStreamReceiveWindow: doqWindow, MaxStreamReceiveWindow: doqWindow,
		InitialConnectionReceiveWindow: secureStreams * doqWindow, MaxConnectionReceiveWindow: secureStreams * doqWindow,
		DisablePathMTUDiscovery: true, // answers are short
	})
	if err != nil {
		return err
	}
	defer l.Close()
	for {
		c, err := l.Accept(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		n.x.s.m.handshakes.WithLabelValues("doq", "ok").Inc()
		n.conns.Go(func() { n.x.serveConnection(ctx, c) })
	}
}

// errRefused is told to no one: the connection is refused.
var errRefused = errors.New("refused")

// admitQUIC gives a client that has proved its address a place, until its connection or its
// handshake ends.
func (n *secureSockets) admitQUIC(ctx context.Context, who *quic.ClientInfo) (context.Context, error) {
	client, ok := clientOf(who.RemoteAddr)
	if !ok || !n.x.s.handler.serves(client) {
		n.x.s.m.foreign.Inc()
		return nil, errRefused
	}
	clients := n.x.s.handler.clients
	if !clients.connectSecure(client, time.Now()) {
		n.x.s.m.handshakes.WithLabelValues("doq", "refused").Inc()
		n.x.s.m.busy.Inc()
		return nil, errRefused
	}
	context.AfterFunc(ctx, func() { clients.disconnectSecure(client) })
	return ctx, nil
}

func clientOf(a net.Addr) (netip.Addr, bool) {
	u, ok := a.(*net.UDPAddr)
	if !ok {
		return netip.Addr{}, false
	}
	return u.AddrPort().Addr().Unmap().WithZone(""), true
}

// serveConnection answers one client: a question a stream.
func (x *secure) serveConnection(ctx context.Context, c *quic.Conn) {
	client, _ := clientOf(c.RemoteAddr())
	var streams sync.WaitGroup
	var open atomic.Int32
	defer streams.Wait()
	defer c.CloseWithError(doqNoError, "")
	for {
		idle, cancel := context.WithTimeout(ctx, x.doq.idle())
		s, err := c.AcceptStream(idle)
		silent := errors.Is(idle.Err(), context.DeadlineExceeded) && c.Context().Err() == nil
		cancel()
		if err != nil && silent && open.Load() > 0 {
			continue // it waits for us
		}
		if err != nil {
			return
		}
		open.Add(1)
		streams.Go(func() {
			defer open.Add(-1)
			x.serveStream(c, s, client)
		})
	}
}

// serveStream answers one question (RFC 9250 section 4.2). What the text calls a protocol
// error ends the connection (section 4.3.3).
func (x *secure) serveStream(c *quic.Conn, s *quic.Stream, client netip.Addr) {
	s.SetReadDeadline(time.Now().Add(handshakeTime))
	query, err := readDoQ(s)
	if err != nil && !errors.Is(err, errNoQuery) { // cancelled by the client, or slow
		s.CancelRead(doqNoError)
		s.CancelWrite(doqNoError)
		return
	}
	var reply []byte
	if err == nil {
		reply, err = x.s.exchange(s.Context(), x.doq, query, client)
	}
	switch {
	case errors.Is(err, errNoQuery):
		x.s.m.malformed.Inc()
		c.CloseWithError(doqProtocolError, "")
	case errors.Is(err, errShare):
		c.CloseWithError(doqExcessiveLoad, "")
	case err != nil:
		s.CancelWrite(doqNoError)
	default:
		s.SetWriteDeadline(time.Now().Add(writeTime))
		if _, err := s.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...)); err != nil {
			s.CancelWrite(doqNoError)
			return
		}
		s.Close()
	}
}

// readDoQ reads the one message of a stream to the stream's end. The error is errNoQuery for
// what RFC 9250 section 4.3.3 calls a protocol error: a message cut short or followed by more,
// an id that is not 0, a TCP keepalive option; and for a message longer than anybody's query.
func readDoQ(s io.Reader) ([]byte, error) {
	var length [2]byte
	if _, err := io.ReadFull(s, length[:]); err != nil {
		return nil, short(err)
	}
	n := int(binary.BigEndian.Uint16(length[:]))
	if n < wire.DNSHeader || n > maxQuery {
		return nil, errNoQuery
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(s, b); err != nil {
		return nil, short(err)
	}
	switch n, err := s.Read(length[:1]); {
	case n > 0:
		return nil, errNoQuery
	case err != io.EOF:
		return nil, err
	}
	if b[0] != 0 || b[1] != 0 {
		return nil, errNoQuery
	}
	if q, err := wire.ParseDNSQuery(b); err == nil && wire.HasDNSOption(b, q.End, wire.DNSOptionKeepalive) {
		return nil, errNoQuery
	}
	return b, nil
}

// short is errNoQuery for a stream that ends too early.
func short(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errNoQuery
	}
	return err
}
