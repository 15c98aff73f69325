package resolver

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/quic-go/quic-go"
)

// TestSlowHandshake: whoever does not finish is gone after the handshake's time, silent or
// drop by drop.
func TestSlowHandshake(t *testing.T) {
	for _, drip := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			ours, theirs := net.Pipe()
			var client sync.WaitGroup
			defer client.Wait()
			defer theirs.Close()
			if drip {
				client.Go(func() {
					for _, b := range append([]byte{22, 3, 1, 1, 0, 1, 0, 0, 252, 3, 3}, make([]byte, 300)...) {
						if _, err := theirs.Write([]byte{b}); err != nil {
							return
						}
						time.Sleep(time.Second)
					}
				})
			}
			begun := time.Now()
			if shake(t.Context(), tls.Server(ours, &tls.Config{Certificates: []tls.Certificate{{}}})) {
				t.Error("a handshake without an end succeeded")
			}
			if d := time.Since(begun); d != handshakeTime {
				t.Errorf("drip %v: waited %v", drip, d)
			}
		})
	}
}

// TestSlowStream: an idle connection, a message that does not end, one that is too long, and
// a client that reads nothing.
func TestSlowStream(t *testing.T) {
	a := newAuthority(t)
	file := t.TempDir() + "/dns.pem"
	a.write(t, file, time.Hour*24*3650, []string{dnsName})
	good := lengthed(question(t, "gw1.yapc.example", dns.TypeA, padded))
	for _, c := range []struct {
		name string
		act  func(c io.ReadWriter)
		want time.Duration
	}{
		{"idle", func(io.ReadWriter) {}, secureIdle},
		{"idle after a question", func(c io.ReadWriter) {
			time.Sleep(10 * time.Second)
			c.Write(good)
			io.ReadFull(c, make([]byte, 2+paddingBlock))
		}, secureIdle + 10*time.Second},
		{"drop by drop", func(c io.ReadWriter) {
			for i := range good {
				if _, err := c.Write(good[i : i+1]); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		}, secureIdle},
		{"64 KB", func(c io.ReadWriter) { c.Write([]byte{0xff, 0xff, 0, 0}) }, 0},
		{"no query", func(c io.ReadWriter) { c.Write(append([]byte{0, 12}, make([]byte, 12)...)) }, secureIdle}, // FORMERR
		{"an answer", func(c io.ReadWriter) { c.Write(append([]byte{0, 12, 0, 0, 0x80}, make([]byte, 9)...)) }, 0},
		{"reads nothing", func(c io.ReadWriter) {
			for range 3 * pipelined {
				if _, err := c.Write(good); err != nil {
					return
				}
			}
		}, writeTime},
	} {
		synctest.Test(t, func(t *testing.T) {
			cfg := hall()
			cfg.Encrypted = &Encrypted{Name: dnsName, Chain: file, Key: file}
			s := New(cfg, nil, newMetrics(), newEvents().tell)
			if _, err := s.secure.cert.refresh(); err != nil {
				t.Fatal(err)
			}
			ours, theirs := net.Pipe()
			server, client := tls.Server(ours, s.secure.tls("dot")), tls.Client(theirs, &tls.Config{InsecureSkipVerify: true})
			var all sync.WaitGroup
			defer all.Wait()
			defer theirs.Close()
			all.Go(func() {
				if client.Handshake() == nil {
					c.act(client)
				}
				if c.name != "reads nothing" {
					io.Copy(io.Discard, client)
				}
			})
			if !shake(t.Context(), server) {
				t.Fatal("no handshake")
			}
			begun := time.Now()
			s.converse(t.Context(), server, addr("10.1.0.50"), s.secure.dot)
			if d := time.Since(begun); d < c.want || d > c.want+writeTime { // Close says goodbye, for at most as long
				t.Errorf("%s: ended after %v, want %v", c.name, d, c.want)
			}
		})
	}
}

// TestConnectionFlood: a client that opens all the connections it can, each way, has its share
// of them, and another one is served as if nothing were.
func TestConnectionFlood(t *testing.T) {
	b := newBooth(t, func(_ *booth, cfg *Config) { cfg.Rate = 100_000 })
	const greedy, modest = "127.0.0.2", "127.0.0.1"
	open := 0
	for range 2 * secureShare {
		if c, err := b.overTLS(t, greedy); err == nil {
			defer c.Close()
			open++
		}
	}
	if open != secureShare {
		t.Errorf("one client has %d connections, want %d", open, secureShare)
	}
	for range 10 { // neither has it any of the other kinds
		silent := dialFrom(t, greedy, b.web)
		silent.SetDeadline(time.Now().Add(5 * time.Second))
		if n, err := silent.Read(make([]byte, 1)); err == nil || n > 0 || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a connection over the share: %v", err)
		}
		_, err := b.overQUIC(t, greedy)
		var refused *quic.TransportError
		if !errors.As(err, &refused) || refused.ErrorCode != quic.ConnectionRefused {
			t.Errorf("over QUIC: %v", err)
		}
	}
	if got := testutil.ToFloat64(b.server.m.handshakes.WithLabelValues("dot", "refused")); got != secureShare {
		t.Errorf("counted %v refused", got)
	}
	query := question(t, "gw1.yapc.example", dns.TypeA, zeroID)
	private, err := b.overTLS(t, modest)
	if err != nil {
		t.Fatal(err)
	}
	quick, err := b.overQUIC(t, modest)
	if err != nil {
		t.Fatal(err)
	}
	web := b.browser(t, modest)
	for range 100 {
		if _, err := askStream(private, query); err != nil {
			t.Fatal(err)
		}
		if _, err := askQUIC(quick, lengthed(query)); err != nil {
			t.Fatal(err)
		}
		if _, _, err := askWeb(web, http.MethodGet, query); err != nil {
			t.Fatal(err)
		}
	}
}

// TestHandshakeFlood: handshakes are paid for from the client's rate, so that nobody has the
// processor by opening and closing.
func TestHandshakeFlood(t *testing.T) {
	c := newClients(clientRate)
	now := noon
	greedy, modest := addr("10.1.0.66"), addr("10.1.0.50")
	count := func(a string) (n int) {
		for range 1000 {
			if c.connectSecure(addr(a), now) {
				n++
				c.disconnectSecure(addr(a))
			}
		}
		return n
	}
	if n := count(greedy.String()); n != clientBurst/handshakeCost {
		t.Errorf("%d handshakes in a burst", n)
	}
	now = now.Add(time.Second)
	if n := count(greedy.String()); n != clientRate/handshakeCost {
		t.Errorf("%d handshakes in a second", n)
	}
	if !c.connectSecure(modest, now) {
		t.Error("another client is refused")
	}
}

// TestQuestionFlood: one client asks by many streams at once. Its burst is answered, what comes
// a second beyond it waits, the rest is refused; another client is answered at once.
func TestQuestionFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := hall()
		cfg.Encrypted = &Encrypted{Name: dnsName}
		s := New(cfg, nil, newMetrics(), newEvents().tell)
		query := question(t, "gw1.yapc.example", dns.TypeA, zeroID)
		var answered, refused atomic.Int32
		var all sync.WaitGroup
		begun := time.Now()
		for range 3 * clientBurst {
			all.Go(func() {
				switch _, err := s.exchange(t.Context(), s.secure.doh, query, addr("10.1.0.66")); {
				case err == nil:
					answered.Add(1)
				case errors.Is(err, errShare):
					refused.Add(1)
				}
			})
		}
		synctest.Wait()
		if _, err := s.exchange(t.Context(), s.secure.doh, query, addr("10.1.0.50")); err != nil || time.Since(begun) > 0 {
			t.Errorf("another client: %v after %v", err, time.Since(begun))
		}
		all.Wait()
		if n := answered.Load(); n < clientBurst || n > clientBurst+clientRate+1 || n+refused.Load() != 3*clientBurst {
			t.Errorf("%d answered and %d refused", n, refused.Load())
		}
		if d := time.Since(begun); d > mostDelay {
			t.Errorf("the last waited %v", d)
		}
	})
}

// TestQUICIdle: pings keep no connection open that asks nothing.
func TestQUICIdle(t *testing.T) {
	b := newBooth(t, func(b *booth, _ *Config) {
		b.before = func(s *Server) { s.secure.doq.idle = func() time.Duration { return 300 * time.Millisecond } }
	})
	u, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	tr := &quic.Transport{Conn: u}
	defer func() { tr.Close(); u.Close() }()
	c, err := tr.Dial(t.Context(), net.UDPAddrFromAddrPort(b.quic), b.trust("doq"), &quic.Config{KeepAlivePeriod: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := askQUIC(c, lengthed(question(t, "gw1.yapc.example", dns.TypeA, zeroID))); err != nil {
		t.Fatal(err)
	}
	select {
	case <-c.Context().Done():
		var closed *quic.ApplicationError
		if err := context.Cause(c.Context()); !errors.As(err, &closed) || closed.ErrorCode != doqNoError {
			t.Errorf("closed: %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Error("the connection is open still")
	}
	for end := time.Now().Add(5 * time.Second); b.server.handler.clients.secureConnections() > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("its place is not given back")
		}
	}
}
