package resolver

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/hotstage/hotstage/internal/wire"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

const (
	port       = 53
	batch      = 32
	maxQuery   = 2048 // octets; a longer query is nobody's
	pipelined  = 16   // questions of one TCP connection at once
	idleTime   = 10 * time.Second
	crowdTime  = time.Second // idle time when three of four connections are taken
	writeTime  = 5 * time.Second
	receiveBuf = 1 << 20
)

// network opens the sockets; a test opens them in a namespace.
type network struct {
	packet func(netip.Addr) (*net.UDPConn, error)
	stream func(netip.Addr) (net.Listener, error)
	dial   dialer
	secure secureNetwork
}

// freebind opens sockets with IP_FREEBIND: an address that the node gets later, or that is
// still being checked for duplicates, can be served from the start.
func freebind() *net.ListenConfig {
	return &net.ListenConfig{Control: func(network, _ string, c syscall.RawConn) error {
		var err error
		e := c.Control(func(fd uintptr) {
			if network[len(network)-1] == '6' {
				err = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_FREEBIND, 1)
			} else {
				err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_FREEBIND, 1)
			}
		})
		return errors.Join(e, err)
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
	free := freebind()
	var d net.Dialer
	return network{
		packet: func(a netip.Addr) (*net.UDPConn, error) {
			c, err := free.ListenPacket(context.Background(), family("udp", a), netip.AddrPortFrom(a, port).String())
			if err != nil {
				return nil, err
			}
			u := c.(*net.UDPConn)
			return u, u.SetReadBuffer(receiveBuf)
		},
		stream: func(a netip.Addr) (net.Listener, error) {
			return free.Listen(context.Background(), family("tcp", a), netip.AddrPortFrom(a, port).String())
		},
		dial: func(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
			return d.DialContext(ctx, network, to.String())
		},
		secure: secureSystem(),
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
		u, err := s.net.packet(a)
		if err != nil {
			l.close()
			return nil, fmt.Errorf("listen on %s port %d by UDP: %w; see who has it: ss -lunp", a, port, err)
		}
		l.packets = append(l.packets, u)
		t, err := s.net.stream(a)
		if err != nil {
			l.close()
			return nil, fmt.Errorf("listen on %s port %d by TCP: %w; see who has it: ss -ltnp", a, port, err)
		}
		l.streams = append(l.streams, t)
	}
	return &l, nil
}

// batcher reads and writes many packets by one system call; both families' have it.
type batcher interface {
	ReadBatch([]ipv4.Message, int) (int, error)
	WriteBatch([]ipv4.Message, int) (int, error)
}

// serveUDP answers on one address until its socket is closed.
func (s *Server) serveUDP(c *net.UDPConn) error {
	var b batcher = ipv4.NewPacketConn(c)
	if c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Is6() {
		b = ipv6.NewPacketConn(c)
	}
	in, out := make([]ipv4.Message, batch), make([]ipv4.Message, batch)
	for i := range in {
		in[i].Buffers = [][]byte{make([]byte, maxQuery)}
		out[i].Buffers = [][]byte{make([]byte, 0, ourSize)}
	}
	var k key
	for {
		n, err := b.ReadBatch(in, 0)
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			if n = 0; fatal(err) {
				return fmt.Errorf("receive on %s: %w", c.LocalAddr(), err)
			}
		}
		now := time.Now()
		ready := 0
		for i := range in[:n] {
			if s.packet(c, &in[i], &out[ready], now, &k) {
				ready++
			}
		}
		for sent := 0; sent < ready; {
			n, err := b.WriteBatch(out[sent:ready], 0)
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			if err != nil {
				n = max(n, 0) + 1 // that client cannot be reached; the others can
			}
			sent += n
		}
	}
}

// packet works on one received packet; true when its answer is in out.
func (s *Server) packet(c *net.UDPConn, in, out *ipv4.Message, now time.Time, k *key) bool {
	from, ok := in.Addr.(*net.UDPAddr)
	if !ok || from.Port == 0 || in.Flags&unix.MSG_TRUNC != 0 {
		s.m.malformed.Inc()
		return false
	}
	at := from.AddrPort()
	client := at.Addr().Unmap()
	var q wire.DNSQuery
	reply, v := s.handler.handle(out.Buffers[0][:0], in.Buffers[0][:in.N], client, true, now, &q, k)
	switch v {
	case answer:
		out.Buffers[0] = reply
		out.Addr = in.Addr
		return true
	case wait:
		q.Name = slices.Clone(q.Name)
		s.flights.board(k, passenger{q: q, size: min(int(q.Size), ourSize), from: client, since: now, answer: func(b []byte) {
			c.WriteToUDPAddrPort(b, at) // a client that has gone is no fault of ours
		}})
	}
	return false
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
			defer func() { s.handler.clients.disconnect(client, time.Now()) }()
			s.converse(ctx, c, client, s.plain())
		})
	})
}

// accept gives serve the connections of those whom admit has given a place, until the
// listener is closed. serve must not block.
func (s *Server) accept(ctx context.Context, l net.Listener, admit func(netip.Addr, time.Time) bool, serve func(net.Conn, netip.Addr)) error {
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
		case !admit(client, time.Now()):
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
