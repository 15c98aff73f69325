//go:build linux

package internet

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/hotstage/hotstage/internal/plan"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// The bounds of the TCP side: each connection has a goroutine and a buffer.
const (
	maxConnections = 8192
	idleEcho       = 2 * time.Minute
	idleDNS        = 10 * time.Second
	tcpBuffer      = 4096
)

// readers is how many goroutines share one UDP socket.
const readers = 2

// reply makes the answer to one datagram that came to the address at; nil for none. buf is
// the caller's: the answer may be in it, or be the query itself.
type reply func(at, from netip.Addr, query, buf []byte) []byte

// listen opens every socket and returns what serves them. Runs in the namespace.
func (in *Internet) listen() ([]func(context.Context) error, error) {
	var tasks []func(context.Context) error
	slots := make(chan struct{}, maxConnections)
	udp := map[int]reply{53: in.dns, 123: in.time, 7: in.echo, 443: in.echo}
	tcp := map[int]func(net.Conn){53: in.dnsStream, 7: in.echoStream, 80: in.echoStream, 443: in.echoStream}
	var open []io.Closer
	fail := func(err error) ([]func(context.Context) error, error) {
		for _, c := range open {
			c.Close()
		}
		return nil, err
	}
	for _, family := range []string{"4", "6"} {
		for port, r := range udp {
			conn, err := listenUDP("udp"+family, port)
			if err != nil {
				return fail(err)
			}
			open = append(open, conn)
			tasks = append(tasks, closing(conn, repeat(readers, func() error { return in.serveUDP(conn, r) })))
		}
		for port, handle := range tcp {
			l, err := net.Listen("tcp"+family, fmt.Sprintf(":%d", port))
			if err != nil {
				return fail(err)
			}
			open = append(open, l)
			tasks = append(tasks, func(ctx context.Context) error { return in.serveTCP(ctx, l, slots, handle) })
		}
	}
	for _, a := range in.access {
		if a.Uplink.Mode == plan.UplinkDHCP {
			conn, err := listenDHCP(a.Device)
			if err != nil {
				return fail(err)
			}
			open = append(open, conn)
			l := newLeases(a, in.cfg.Resolvers)
			tasks = append(tasks, closing(conn, func() error { return in.serveDHCP(conn, l) }))
		}
		if !advertised(a.Uplink) {
			continue
		}
		nd, link, err := listenND(a.Device)
		if err != nil {
			return fail(err)
		}
		open = append(open, nd)
		tasks = append(tasks, func(ctx context.Context) error { return advertise(ctx, nd, link) })
	}
	return tasks, nil
}

// listenUDP is a socket for the port at every address of the world: it learns which one was
// asked, and may answer from it.
func listenUDP(network string, port int) (*net.UDPConn, error) {
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		ctlErr := raw.Control(func(fd uintptr) {
			if network == "udp4" {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
				return
			}
			// IPV6_FREEBIND: an address of a local route may be the source.
			err = errors.Join(unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1),
				unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1))
		})
		return errors.Join(ctlErr, err)
	}}
	pc, err := lc.ListenPacket(context.Background(), network, fmt.Sprintf(":%d", port))
	if err != nil {
		return nil, err
	}
	conn := pc.(*net.UDPConn)
	if err := conn.SetReadBuffer(4 << 20); err != nil { // the kernel gives what it allows
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// serveUDP answers datagrams until the socket is closed.
func (in *Internet) serveUDP(conn *net.UDPConn, r reply) error {
	buf, out, oob := make([]byte, 65535), make([]byte, 2048), make([]byte, 128)
	for {
		n, on, _, from, err := conn.ReadMsgUDPAddrPort(buf, oob)
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		at, info, ok := asked(oob[:on])
		if !ok {
			continue
		}
		in.counts.saw(from.Addr(), n)
		answer := r(at, from.Addr(), buf[:n], out)
		if answer == nil {
			continue
		}
		// A lost answer is the network's affair: the client asks again.
		if n, _, err := conn.WriteMsgUDPAddrPort(answer, info, from); err == nil {
			in.counts.bytesOut.Add(int64(n))
		}
	}
}

// asked is the address that a datagram was sent to, and the control message that makes the
// answer come from it (ip(7), ipv6(7)); it reuses oob.
func asked(oob []byte) (netip.Addr, []byte, bool) {
	h, data, _, err := unix.ParseOneSocketControlMessage(oob)
	if err != nil {
		return netip.Addr{}, nil, false
	}
	switch {
	case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
		at := netip.AddrFrom4([4]byte(data[8:12]))
		clear(data[:4])             // any interface: routing decides
		copy(data[4:8], data[8:12]) // ipi_spec_dst is the source of the answer
		return at, oob, true
	case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
		at := netip.AddrFrom16([16]byte(data[:16]))
		clear(data[16:20])
		return at, oob, true
	}
	return netip.Addr{}, nil, false
}

func (in *Internet) echo(_, _ netip.Addr, query, _ []byte) []byte {
	in.counts.datagrams.Add(1)
	return query
}

func (in *Internet) dns(at, _ netip.Addr, query, _ []byte) []byte {
	return in.ask(at, query, true)
}

// ask counts and answers one DNS message.
func (in *Internet) ask(at netip.Addr, query []byte, udp bool) []byte {
	in.counts.queries.Add(1)
	if in.world.resolve[at] {
		in.counts.recursive.Add(1)
		if (*in.silent.Load())[at] {
			in.counts.swallowed.Add(1)
			return nil
		}
	}
	answer, err := in.world.answer(at, query, udp)
	if err != nil {
		in.counts.malformed.Add(1)
		return nil
	}
	return answer
}

// serveTCP accepts until ctx ends and then closes what is open; too many connections at once
// are closed at the door.
func (in *Internet) serveTCP(ctx context.Context, l net.Listener, slots chan struct{}, handle func(net.Conn)) error {
	var conns connections
	stop := context.AfterFunc(ctx, func() { l.Close(); conns.close() })
	defer func() { stop(); l.Close(); conns.close(); conns.wait() }()
	for {
		c, err := l.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil
		case errors.Is(err, unix.ECONNABORTED):
			continue
		case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
			in.counts.refused.Add(1)
			select { // the client waits in the kernel's queue
			case <-ctx.Done():
				return nil
			case <-time.After(50 * time.Millisecond):
			}
			continue
		case err != nil:
			return err
		}
		select {
		case slots <- struct{}{}:
		default:
			in.counts.refused.Add(1)
			c.Close()
			continue
		}
		if !conns.goes(c, func() { defer func() { <-slots }(); handle(c) }) {
			<-slots
		}
	}
}

// echoStream sends back what comes until the client ends or is idle.
func (in *Internet) echoStream(c net.Conn) {
	in.counts.connections.Add(1)
	from := remote(c)
	buf := make([]byte, tcpBuffer)
	for {
		if c.SetDeadline(time.Now().Add(idleEcho)) != nil {
			return
		}
		n, err := c.Read(buf)
		in.counts.saw(from, n)
		if n > 0 {
			m, werr := c.Write(buf[:n])
			in.counts.bytesOut.Add(int64(m))
			if werr != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// dnsStream answers the queries of one connection (RFC 7766).
func (in *Internet) dnsStream(c net.Conn) {
	at, from := c.LocalAddr().(*net.TCPAddr).AddrPort().Addr().Unmap(), remote(c)
	var length [2]byte
	for {
		if c.SetDeadline(time.Now().Add(idleDNS)) != nil {
			return
		}
		if _, err := io.ReadFull(c, length[:]); err != nil {
			return
		}
		query := make([]byte, binary.BigEndian.Uint16(length[:]))
		if _, err := io.ReadFull(c, query); err != nil {
			return
		}
		in.counts.saw(from, len(query))
		answer := in.ask(at, query, false)
		if answer == nil {
			return
		}
		n, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...))
		in.counts.bytesOut.Add(int64(n))
		if err != nil {
			return
		}
	}
}

func remote(c net.Conn) netip.Addr {
	return c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr()
}

// listenPing opens the socket that pings the nodes of the links. Answers are not read: the
// neighbour table tells who answered. Runs in the namespace.
func listenPing() (*icmp.PacketConn, error) {
	c, err := icmp.ListenPacket("ip6:ipv6-icmp", "::")
	if err != nil {
		return nil, fmt.Errorf("listen for ICMPv6: %w", err)
	}
	var none ipv6.ICMPFilter
	none.SetAll(true)
	if err := c.IPv6PacketConn().SetICMPFilter(&none); err != nil {
		c.Close()
		return nil, fmt.Errorf("filter ICMPv6: %w", err)
	}
	return c, nil
}
