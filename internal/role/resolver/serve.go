package resolver

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/hotstage/hotstage/internal/wire"
	"golang.org/x/sys/unix"
)

const (
	port       = 53
	maxQuery   = 2048 // octets; a longer query is nobody's
	pipelined  = 16   // questions of one TCP connection at once
	idleTime   = 10 * time.Second
	crowdTime  = time.Second // idle time when three of four connections are taken
	writeTime  = 5 * time.Second
	receiveBuf = 1 << 20
	maxSpread  = 8 // UDP sockets of one address
)

// network opens the sockets; a test opens them in a namespace.
type network struct {
	packet func(a netip.AddrPort, shared bool) (*net.UDPConn, error) // shared: several sockets, the kernel spreads the clients over them
	stream func(netip.AddrPort) (net.Listener, error)
	dial   dialer
	in     func(func() error) error // calls it where the interfaces are
}

// freebind opens sockets with IP_FREEBIND: an address that the node gets later, or that is
// still being checked for duplicates, can be served from the start. shared: several sockets
// may have one address.
func freebind(shared bool) *net.ListenConfig {
	return &net.ListenConfig{Control: func(network, _ string, c syscall.RawConn) error {
		var err, err2 error
		e := c.Control(func(fd uintptr) {
			if network[len(network)-1] == '6' {
				err = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_FREEBIND, 1)
			} else {
				err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_FREEBIND, 1)
			}
			if shared {
				err2 = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
			}
		})
		return errors.Join(e, err, err2)
	}}
}

// family is the network with the address's family.
func family(network string, a netip.Addr) string {
	if a.Is4() {
		return network + "4"
	}
	return network + "6"
}

func system() network {
	var d net.Dialer
	return network{
		in: func(f func() error) error { return f() },
		packet: func(a netip.AddrPort, shared bool) (*net.UDPConn, error) {
			c, err := freebind(shared).ListenPacket(context.Background(), family("udp", a.Addr()), a.String())
			if err != nil {
				return nil, err
			}
			return c.(*net.UDPConn), nil
		},
		stream: func(a netip.AddrPort) (net.Listener, error) {
			return freebind(false).Listen(context.Background(), family("tcp", a.Addr()), a.String())
		},
		dial: func(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
			return d.DialContext(ctx, network, to.String())
		},
	}
}

type listeners struct {
	packets []*net.UDPConn
	streams []net.Listener
}

func (l *listeners) close() {
	for _, c := range l.packets {
		c.Close()
	}
	for _, c := range l.streams {
		c.Close()
	}
}

// listen opens all sockets or none.
func (s *Server) listen() (*listeners, error) {
	var l listeners
	for _, a := range s.cfg.Listen {
		u, err := s.spread(a)
		l.packets = append(l.packets, u...)
		if err != nil {
			l.close()
			return nil, fmt.Errorf("listen on %s port %d by UDP: %w; see who has it: ss -lunp", a, port, err)
		}
		t, err := s.net.stream(netip.AddrPortFrom(a, port))
		if err != nil {
			l.close()
			return nil, fmt.Errorf("listen on %s port %d by TCP: %w; see who has it: ss -ltnp", a, port, err)
		}
		l.streams = append(l.streams, t)
	}
	return &l, nil
}

// spread opens a UDP socket for each processor, among which the kernel spreads the clients.
// A first one alone finds out whether another program has the address.
func (s *Server) spread(a netip.Addr) ([]*net.UDPConn, error) {
	at := netip.AddrPortFrom(a, port)
	alone, err := s.net.packet(at, false)
	if err != nil {
		return nil, err
	}
	alone.Close()
	var all []*net.UDPConn
	for range min(runtime.GOMAXPROCS(0), maxSpread) {
		u, err := s.net.packet(at, true)
		if err != nil {
			return all, err
		}
		all = append(all, u)
		if err := u.SetReadBuffer(receiveBuf); err != nil {
			return all, err
		}
	}
	return all, nil
}

// serveUDP answers on one socket until it is closed.
func (s *Server) serveUDP(c *net.UDPConn) error {
	d, err := kernel.NewDatagrams(c, maxQuery, ourSize)
	if err != nil {
		return err
	}
	h := s.handler
	h.hot = new(tally)
	var k key
	var q wire.DNSQuery
	for {
		n, err := d.Receive()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			if n = 0; fatal(err) {
				return fmt.Errorf("receive on %s: %w", c.LocalAddr(), err)
			}
		}
		now := time.Now()
		for i := range n {
			s.packet(&h, c, d, i, now, &q, &k)
		}
		h.hot.count(s.m)
		if d.Flush() != nil {
			return nil
		}
	}
}

// packet works on one received packet.
func (s *Server) packet(h *handler, c *net.UDPConn, d *kernel.Datagrams, i int, now time.Time, q *wire.DNSQuery, k *key) {
	from := d.From(i)
	if from.Port() == 0 || !d.Whole(i) {
		s.m.malformed.Inc()
		return
	}
	reply, v := h.handle(d.Room(), d.Packet(i), from.Addr(), true, now, q, k)
	switch v {
	case answer:
		d.Reply(i, reply)
	case wait:
		at, p := d.Zoned(i), passenger{q: *q, size: min(int(q.Size), ourSize), from: from.Addr(), since: now}
		p.q.Name = slices.Clone(q.Name)
		p.answer = func(b []byte) { c.WriteToUDPAddrPort(b, at) } // a client that has gone is no fault of ours
		s.flights.board(k, p)
	}
}

// fatal tells whether a socket is of no use any more. A network error of one client is not,
// nor a filter's refusal, nor want of descriptors or memory (accept(2), "Error handling").
func fatal(err error) bool {
	for _, passing := range [...]error{
		unix.ECONNREFUSED, unix.ECONNABORTED, unix.ECONNRESET, unix.EHOSTDOWN, unix.EHOSTUNREACH, unix.ENETDOWN, unix.ENETUNREACH,
		unix.ENONET, unix.ENOPROTOOPT, unix.EOPNOTSUPP, unix.EPROTO, unix.EPERM, unix.ETIMEDOUT,
		unix.EAGAIN, unix.EINTR, unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM,
	} {
		if errors.Is(err, passing) {
			return false
		}
	}
	return true
}

// serveTCP accepts connections on one address until its socket is closed.
func (s *Server) serveTCP(ctx context.Context, l net.Listener, all *sync.WaitGroup) error {
	return s.accept(ctx, l, s.handler.clients.connect, func(c net.Conn, client netip.Addr) {
		all.Go(func() {
			defer func() { s.handler.clients.disconnect(client) }()
			s.converse(ctx, c, client, s.plain())
		})
	})
}

// accept gives serve the connections of those whom admit has given a place, until the
// listener is closed. serve must not block.
func (s *Server) accept(ctx context.Context, l net.Listener, admit func(netip.Addr) bool, serve func(net.Conn, netip.Addr)) error {
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			if fatal(err) {
				return fmt.Errorf("accept on %s: %w", l.Addr(), err)
			}
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond): // for a descriptor to become free
			}
			continue
		}
		client := c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap().WithZone("")
		switch {
		case !s.handler.serves(client):
			s.m.foreign.Inc()
			c.Close()
		case !admit(client):
			s.m.busy.Inc()
			c.Close()
		default:
			serve(c, client)
		}
	}
}

// converse serves one TCP connection (RFC 7766): several questions at once, answered in the
// order in which their answers come.
func (s *Server) converse(ctx context.Context, c net.Conn, client netip.Addr, w *way) {
	replies := make(chan []byte, pipelined) // has room for every place given below
	places := make(chan struct{}, pipelined)
	var writer sync.WaitGroup
	writer.Go(func() { write(c, replies, places) })
	stop := context.AfterFunc(ctx, func() { c.Close() }) // a deadline could be moved again by who has not seen the end
	s.questions(ctx, c, client, w, replies, places)
	for range pipelined { // every question has its answer: flights end by themselves
		places <- struct{}{}
	}
	close(replies)
	writer.Wait()
	stop()
	c.Close()
}

// questions reads until the client is silent, gone, or not speaking DNS.
func (s *Server) questions(ctx context.Context, c net.Conn, client netip.Addr, w *way, replies chan<- []byte, places chan struct{}) {
	buf := make([]byte, 2+maxQuery)
	var k key
	for ctx.Err() == nil {
		c.SetReadDeadline(time.Now().Add(w.idle()))
		if _, err := io.ReadFull(c, buf[:2]); err != nil {
			return
		}
		n := int(binary.BigEndian.Uint16(buf))
		if n > maxQuery {
			s.m.malformed.Inc()
			return
		}
		packet := make([]byte, n) // kept by the question
		if _, err := io.ReadFull(c, packet); err != nil {
			return
		}
		places <- struct{}{}
		now := time.Now()
		if d := s.handler.clients.delay(client, now); d > 0 {
			select {
			case <-ctx.Done():
			case <-time.After(d):
			}
		}
		var q wire.DNSQuery
		reply, v := w.handler.handle(make([]byte, 2, 512), packet, client, false, now, &q, &k)
		switch v {
		case answer:
			replies <- w.finish(packet, &q, reply, 2)
		case wait:
			s.flights.board(&k, passenger{q: q, size: 0xffff, from: client, since: now, answer: func(b []byte) {
				replies <- w.finish(packet, &q, append([]byte{0, 0}, b...), 2)
			}})
		default:
			<-places
			return
		}
	}
}

// write sends the replies, each with two octets in front for its length, and frees their
// places. A client that does not take them loses its connection.
func write(c net.Conn, replies <-chan []byte, places <-chan struct{}) {
	broken := false
	for b := range replies {
		if !broken {
			binary.BigEndian.PutUint16(b, uint16(len(b)-2))
			c.SetWriteDeadline(time.Now().Add(writeTime))
			if _, err := c.Write(b); err != nil {
				broken = true
				c.Close()
			}
		}
		<-places
	}
}
