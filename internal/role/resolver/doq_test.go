package resolver

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"testing"
	"testing/iotest"
	"time"

	"github.com/miekg/dns"
	"github.com/quic-go/quic-go"
)

// TestQUICErrors: what RFC 9250 section 4.3.3 calls fatal ends the connection with its code.
func TestQUICErrors(t *testing.T) {
	b := newBooth(t, nil)
	good := question(t, "gw1.yapc.example", dns.TypeA, zeroID)
	response := bytes.Clone(good)
	response[2] |= 0x80
	keepalive := question(t, "gw1.yapc.example", dns.TypeA, zeroID, func(m *dns.Msg) {
		m.SetEdns0(1232, false)
		m.IsEdns0().Option = append(m.IsEdns0().Option, &dns.EDNS0_TCP_KEEPALIVE{Code: dns.EDNS0TCPKEEPALIVE})
	})
	for _, c := range []struct {
		name   string
		stream []byte
		want   int64 // -1: an answer
	}{
		{"well", lengthed(good), -1},
		{"an id", lengthed(question(t, "gw1.yapc.example", dns.TypeA)), doqProtocolError},
		{"cut", lengthed(good)[:20], doqProtocolError},
		{"nothing", nil, doqProtocolError},
		{"half a length", []byte{0}, doqProtocolError},
		{"two questions", append(lengthed(good), lengthed(good)...), doqProtocolError},
		{"too long", lengthed(append(bytes.Clone(good), make([]byte, maxQuery)...)), doqProtocolError},
		{"too short", lengthed(good[:11]), doqProtocolError},
		{"an answer", lengthed(response), doqProtocolError},
		{"TCP keepalive", lengthed(keepalive), doqProtocolError},
	} {
		q, err := b.overQUIC(t, "127.0.0.1")
		if err != nil {
			t.Fatal(err)
		}
		reply, err := askQUIC(q, c.stream)
		var closed *quic.ApplicationError
		switch {
		case c.want < 0 && err == nil && len(unpacked(t, reply).Answer) == 1:
		case c.want >= 0 && errors.As(err, &closed) && closed.Remote && int64(closed.ErrorCode) == c.want:
		default:
			t.Errorf("%s: %x, %v", c.name, reply, err)
		}
		q.CloseWithError(doqNoError, "")
	}
}

// TestQUICCancelled: a client that takes its question back keeps its connection.
func TestQUICCancelled(t *testing.T) {
	b := newBooth(t, nil)
	q, err := b.overQUIC(t, "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	good := lengthed(question(t, "gw1.yapc.example", dns.TypeA, zeroID))
	for range 3 * secureStreams { // each place is given back
		s, err := q.OpenStreamSync(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		s.Write(good[:5])
		s.CancelWrite(3) // DOQ_REQUEST_CANCELLED
		s.CancelRead(3)
	}
	if _, err := askQUIC(q, good); err != nil {
		t.Errorf("after it: %v", err)
	}
}

// TestQUICProvesAddress: no place is taken before a client has shown that it gets what is sent
// to its address.
func TestQUICProvesAddress(t *testing.T) {
	b := newBooth(t, nil)
	u, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(b.quic))
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	tap := &tapped{PacketConn: discard{}, sent: make(chan []byte, 8)}
	tr := &quic.Transport{Conn: tap}
	defer tr.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	tr.Dial(ctx, net.UDPAddrFromAddrPort(b.quic), b.trust("doq"), nil)
	first := <-tap.sent
	for range 200 { // as from a forged address: whatever comes back is not read
		u.Write(first)
	}
	u.SetReadDeadline(time.Now().Add(5 * time.Second))
	reply := make([]byte, 1500)
	n, err := u.Read(reply)
	if err != nil {
		t.Fatal(err)
	}
	if reply[0]&0xb0 != 0xb0 || n > len(first) { // RFC 9000 section 17.2.5: Retry
		t.Errorf("the first answer is %d octets: %x", n, reply[:20])
	}
	if got := b.server.handler.clients.secureConnections(); got != 0 {
		t.Errorf("%d places taken", got)
	}
}

// tapped keeps what would have been sent.
type tapped struct {
	net.PacketConn
	sent chan []byte
}

func (c *tapped) WriteTo(b []byte, _ net.Addr) (int, error) {
	select {
	case c.sent <- slices.Clone(b):
	default:
	}
	return len(b), nil
}

// discard is a socket that gets nothing.
type discard struct{ net.PacketConn }

func (discard) ReadFrom([]byte) (int, net.Addr, error) {
	time.Sleep(time.Second)
	return 0, nil, net.ErrClosed
}
func (discard) LocalAddr() net.Addr             { return &net.UDPAddr{} }
func (discard) SetReadDeadline(time.Time) error { return nil }
func (discard) Close() error                    { return nil }

// FuzzReadDoQ: a message is whole, of id 0, and no longer than a query may be, in whatever
// pieces it comes.
func FuzzReadDoQ(f *testing.F) {
	good := question(f, "gw1.yapc.example", dns.TypeA, zeroID, padded)
	f.Add(lengthed(good))
	f.Add(lengthed(good)[:30])
	f.Add([]byte{0xff, 0xff, 0})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := readDoQ(iotest.OneByteReader(bytes.NewReader(b)))
		if err != nil && !errors.Is(err, errNoQuery) {
			t.Fatal(err)
		}
		if err == nil && (!bytes.Equal(lengthed(got), b) || len(got) > maxQuery || got[0]|got[1] != 0) {
			t.Fatalf("%x of %x", got, b)
		}
	})
	if _, err := readDoQ(iotest.ErrReader(io.ErrClosedPipe)); err != io.ErrClosedPipe {
		f.Errorf("a stream that was cut: %v", err)
	}
}
