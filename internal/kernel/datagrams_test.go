//go:build linux

package kernel

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"
)

// echo answers on a socket of the loopback with what comes, until the socket is closed.
func echo(t *testing.T, at string) (*net.UDPConn, <-chan error) {
	t.Helper()
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(at)))
	if err != nil {
		t.Skipf("no socket on %s: %v", at, err)
	}
	d, err := NewDatagrams(c, 64, 64)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		for {
			n, err := d.Receive()
			if err != nil {
				ended <- err
				return
			}
			for i := range n {
				d.Reply(i, fmt.Appendf(d.Room(), "%s %v", d.Packet(i)[:1], d.Whole(i)))
			}
			if err := d.Flush(); err != nil {
				ended <- err
				return
			}
		}
	}()
	return c, ended
}

// TestDatagrams: each client gets the reply to its own datagram, one that was cut is told
// from a whole one, and closing the socket ends who waits.
func TestDatagrams(t *testing.T) {
	for _, at := range []string{"127.0.0.1:0", "[::1]:0"} {
		server, ended := echo(t, at)
		var clients [10]*net.UDPConn
		for i := range clients {
			c, err := net.DialUDP("udp", nil, server.LocalAddr().(*net.UDPAddr))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			c.Write(append([]byte{byte('a' + i)}, make([]byte, i*9)...))
			clients[i] = c
		}
		for i, c := range clients {
			var b [64]byte
			c.SetReadDeadline(time.Now().Add(10 * time.Second))
			n, err := c.Read(b[:])
			if want := fmt.Sprintf("%c %v", 'a'+i, 1+i*9 <= 64); err != nil || string(b[:n]) != want {
				t.Errorf("%s: client %d got %q, %v; want %q", at, i, b[:n], err, want)
			}
		}
		server.Close()
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: ended with %v", at, err)
		}
	}
}

// TestDatagramsAllocateNothing holds for receiving, answering and sending.
func TestDatagramsAllocateNothing(t *testing.T) {
	server, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	d, err := NewDatagrams(server, 64, 64)
	if err != nil {
		t.Fatal(err)
	}
	client, err := net.DialUDP("udp", nil, server.LocalAddr().(*net.UDPAddr))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	b := make([]byte, 64)
	n := testing.AllocsPerRun(100, func() {
		client.Write(b[:5])
		n, err := d.Receive()
		if err != nil || n != 1 || d.From(0).Port() == 0 {
			t.Fatal(n, err)
		}
		d.Reply(0, append(d.Room(), d.Packet(0)...))
		d.Flush()
		client.Read(b)
	})
	if n != 0 {
		t.Errorf("%v allocations a datagram", n)
	}
}
