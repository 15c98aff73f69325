package resolver

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// secureSockets are the sockets of encrypted service, and what works on them.
type secureSockets struct {
	x       *secure
	streams []net.Listener // DNS over TLS
	web     []net.Listener
	packets []*net.UDPConn
	servers [2]*http.Server // for quiet times and for a crowd
	feeds   [2]*feed
	conns   sync.WaitGroup
}

// open opens all sockets or none.
func (x *secure) open() (*secureSockets, error) {
	n := &secureSockets{x: x}
	for _, a := range x.s.cfg.Listen {
		for _, c := range []struct {
			by   *[]net.Listener
			port uint16
		}{{&n.streams, securePort}, {&n.web, httpsPort}} {
			l, err := x.s.net.stream(netip.AddrPortFrom(a, c.port))
			if err != nil {
				n.close()
				return nil, fmt.Errorf("listen on %s port %d by TCP: %w; see who has it: ss -ltnp; or say resolver: {encrypted: off}", a, c.port, err)
			}
			*c.by = append(*c.by, l)
		}
		u, err := x.s.net.packet(netip.AddrPortFrom(a, securePort), false)
		if err != nil {
			n.close()
			return nil, fmt.Errorf("listen on %s port %d by UDP: %w; see who has it: ss -lunp; or say resolver: {encrypted: off}", a, securePort, err)
		}
		n.packets = append(n.packets, u)
	}
	return n, nil
}

func (n *secureSockets) close() {
	for _, l := range append(n.streams, n.web...) {
		l.Close()
	}
	for _, u := range n.packets {
		u.Close()
	}
}

// run serves until ctx ends or a socket is of no use any more, and returns when every
// connection is closed.
func (n *secureSockets) run(ctx context.Context) (err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	work := func(f func() error) {
		n.conns.Go(func() {
			if err := f(); err != nil {
				cancel(err)
			}
		})
	}
	for i, idle := range []time.Duration{secureIdle, crowdTime} {
		n.servers[i], n.feeds[i] = n.x.webServer(idle), newFeed()
		work(func() error { n.servers[i].Serve(n.feeds[i]); return nil })
	}
	for _, l := range n.streams {
		work(func() error { return n.accept(ctx, l, "dot", n.x.tls("dot"), n.converse) })
	}
	for _, l := range n.web {
		work(func() error { return n.accept(ctx, l, "doh", n.x.tls("h2"), n.browse) })
	}
	for _, u := range n.packets {
		work(func() error { return n.serveQUIC(ctx, u) })
	}
	<-ctx.Done()
	n.close()
	for i := range n.servers {
		n.servers[i].Close()
		n.feeds[i].Close()
	}
	n.conns.Wait()
	if cause := context.Cause(ctx); cause != context.Canceled && cause != context.DeadlineExceeded {
		return cause
	}
	return nil
}

// tls is the configuration for a protocol. A client that names protocols must name this one;
// one that names none is content.
func (x *secure) tls(alpn string) *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12, // RFC 9325 section 3.1.1
		GetCertificate: x.cert.pick, NextProtos: []string{alpn},
	}
}

// accept shakes hands with those who have a place and gives what comes of it to serve, which
// calls leave when the connection is closed.
func (n *secureSockets) accept(ctx context.Context, l net.Listener, by string, cfg *tls.Config, serve func(ctx context.Context, c *tls.Conn, client netip.Addr)) error {
	clients, shakes := n.x.s.handler.clients, n.x.s.m.handshakes
	admit := func(client netip.Addr) bool {
		ok := clients.connectSecure(client, time.Now())
		if !ok {
			shakes.WithLabelValues(by, "refused").Inc()
		}
		return ok
	}
	return n.x.s.accept(ctx, l, admit, func(c net.Conn, client netip.Addr) {
		n.conns.Add(1) // until it is closed
		ctx, cancel := context.WithCancel(ctx)
		placed := &placedConn{Conn: c, leave: sync.OnceFunc(func() {
			cancel()
			clients.disconnectSecure(client)
			n.conns.Done()
		})}
		context.AfterFunc(ctx, func() { placed.Close() }) // below TLS, which would wait for a client that reads nothing
		n.conns.Go(func() {
			t := tls.Server(placed, cfg)
			if !shake(ctx, t) {
				shakes.WithLabelValues(by, "failed").Inc()
				placed.Close()
				return
			}
			shakes.WithLabelValues(by, "ok").Inc()
			serve(ctx, t, client)
		})
	})
}

// shake is false when the client does not finish its handshake in time, or in a way of ours.
func shake(ctx context.Context, t *tls.Conn) bool {
	ctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	return t.HandshakeContext(ctx) == nil
}

// placedConn gives its place back when it is closed.
type placedConn struct {
	net.Conn
	leave func()
}

// Close closes the connection.
func (c *placedConn) Close() error {
	defer c.leave()
	return c.Conn.Close()
}

// converse is DNS over TLS: RFC 7858 section 3.3 has the framing of TCP.
func (n *secureSockets) converse(ctx context.Context, c *tls.Conn, client netip.Addr) {
	n.x.s.converse(ctx, c, client, n.x.dot)
}

// browse hands the connection to HTTP/2.
func (n *secureSockets) browse(ctx context.Context, c *tls.Conn, _ netip.Addr) {
	if c.ConnectionState().NegotiatedProtocol != "h2" {
		c.Close() // RFC 8484 section 5.2: HTTP/2 is the least
		return
	}
	f := n.feeds[0]
	if n.x.crowded() {
		f = n.feeds[1]
	}
	if !f.give(ctx, c) {
		c.Close()
	}
}

// feed is a listener whose connections come from somewhere else.
type feed struct {
	conns chan net.Conn
	done  chan struct{}
	once  func()
}

func newFeed() *feed {
	f := &feed{conns: make(chan net.Conn), done: make(chan struct{})}
	f.once = sync.OnceFunc(func() { close(f.done) })
	return f
}

// give is false when nobody takes the connection any more.
func (f *feed) give(ctx context.Context, c net.Conn) bool {
	select {
	case f.conns <- c:
		return true
	case <-f.done:
	case <-ctx.Done():
	}
	return false
}

// Accept waits for the next connection.
func (f *feed) Accept() (net.Conn, error) {
	select {
	case c := <-f.conns:
		return c, nil
	case <-f.done:
		return nil, net.ErrClosed
	}
}

// Close ends Accept.
func (f *feed) Close() error {
	f.once()
	return nil
}

// Addr is nobody's.
func (f *feed) Addr() net.Addr { return &net.TCPAddr{} }
