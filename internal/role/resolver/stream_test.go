package resolver

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hotstage/hotstage/internal/plan"
	"github.com/hotstage/hotstage/internal/wire"
	"github.com/miekg/dns"
)

// upstreamCertificate is one for the name, and the pool that trusts it.
func upstreamCertificate(t *testing.T, name string) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// streamServer is a resolver by TCP or TLS on the loopback that answers out of order.
type streamServer struct {
	addr     netip.AddrPort
	accepted atomic.Int32
	lengths  sync.Map     // of questions
	quits    atomic.Int32 // the connection is closed after that many answers; 0: never
	dumb     atomic.Bool

	mu    sync.Mutex
	conns []net.Conn
}

func newStreamServer(t *testing.T, cert *tls.Certificate) *streamServer {
	t.Helper()
	s := &streamServer{}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = netip.MustParseAddrPort(l.Addr().String())
	if cert != nil {
		l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{*cert}, NextProtos: []string{"dot"}})
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.accepted.Add(1)
			s.mu.Lock()
			s.conns = append(s.conns, c)
			s.mu.Unlock()
			all.Go(func() { s.serve(c) })
		}
	})
	t.Cleanup(func() { l.Close(); s.cut(); all.Wait() })
	return s
}

// cut closes all connections.
func (s *streamServer) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		c.Close()
	}
	s.conns = nil
}

func (s *streamServer) serve(c net.Conn) {
	defer c.Close()
	var write sync.Mutex
	var all sync.WaitGroup
	defer all.Wait()
	for n := int32(1); ; n++ {
		b, err := readMessage(c)
		if err != nil {
			return
		}
		s.lengths.Store(len(b), true)
		m := new(dns.Msg)
		if m.Unpack(b) != nil || s.dumb.Load() {
			continue
		}
		all.Go(func() {
			time.Sleep(time.Duration(m.Id%8) * time.Millisecond)
			r := new(dns.Msg)
			r.SetReply(m)
			a, _ := dns.NewRR(m.Question[0].Name + " 60 IN A 192.0.2.80")
			r.Answer = append(r.Answer, a)
			out, _ := r.Pack()
			write.Lock()
			defer write.Unlock()
			c.Write(append([]byte{byte(len(out) >> 8), byte(len(out))}, out...))
		})
		if q := s.quits.Load(); q > 0 && n == q {
			all.Wait()
			return
		}
	}
}

// asking is a forwarder of these resolvers, by real sockets.
func asking(t *testing.T, ask ...plan.Asked) *forwarder {
	t.Helper()
	e := newEvents()
	f := newForwarder(ask, system().dial, newMetrics(), (&Server{tell: e.tell}).event)
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		f.close()
		for end := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Errorf("%d goroutines, %d before", runtime.NumGoroutine(), before)
				return
			}
		}
	})
	return f
}

// TestKeptConnections: hundreds of questions at once go over two connections, and every one
// gets its own answer; a connection that the resolver closes costs no question.
func TestKeptConnections(t *testing.T) {
	cert, pool := upstreamCertificate(t, "dns.example")
	for _, by := range []plan.Transport{plan.TCP, plan.TLS} {
		t.Run(string(by), func(t *testing.T) {
			s := newStreamServer(t, nil)
			if by == plan.TLS {
				s = newStreamServer(t, &cert)
			}
			f := asking(t, plan.Asked{Addr: s.addr, By: by, Name: "dns.example"})
			f.roots = pool
			flood := func(tag string, n int) {
				t.Helper()
				var all sync.WaitGroup
				for i := range n {
					all.Go(func() {
						name := fmt.Sprintf("%s%d.example.net", tag, i)
						w, _ := wire.PackDNSName(nil, name)
						msg, err := f.resolve(context.Background(), ask{name: w, typ: wire.DNSTypeA})
						if err != nil {
							t.Errorf("%s: %v", name, err)
						} else if got := unpacked(t, msg).Answer[0].Header().Name; got != name+"." {
							t.Errorf("%s: got the answer of %s", name, got)
						}
					})
				}
				all.Wait()
			}
			flood("a", 300)
			if n := s.accepted.Load(); n != perResolver {
				t.Errorf("%d connections for 300 questions, want %d", n, perResolver)
			}
			s.cut()
			time.Sleep(20 * time.Millisecond)
			flood("b", 100)
			s.quits.Store(7)
			s.cut()
			for i := range 30 {
				flood(fmt.Sprintf("c%d-", i), 1)
			}
			s.lengths.Range(func(n, _ any) bool {
				if by == plan.TLS && n.(int)%padding != 0 {
					t.Errorf("a question by TLS has %d octets", n)
				}
				return true
			})
		})
	}
}

// TestCertificateIsChecked: a resolver whose certificate is for another name, or of nobody
// trusted, is asked nothing; the next one is.
func TestCertificateIsChecked(t *testing.T) {
	cert, pool := upstreamCertificate(t, "dns.example")
	s := newStreamServer(t, &cert)
	for _, c := range []struct {
		what, name string
		roots      *x509.CertPool
		want       string
	}{
		{"the right one", "dns.example", pool, ""},
		{"another name", "dns.other", pool, "certificate is valid for dns.example, not dns.other"},
		{"nobody trusts it", "dns.example", x509.NewCertPool(), "certificate signed by unknown authority"},
	} {
		t.Run(c.what, func(t *testing.T) {
			plain := newStreamServer(t, nil)
			f := asking(t, plan.Asked{Addr: s.addr, By: plan.TLS, Name: c.name}, plan.Asked{Addr: plain.addr, By: plan.TCP})
			f.roots = c.roots
			name, _ := wire.PackDNSName(nil, "www.example.net")
			q := ask{name: name, typ: wire.DNSTypeA}
			_, err := f.attempt(context.Background(), f.upstreams[0], q)
			if c.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
			if _, err := f.resolve(context.Background(), q); err != nil {
				t.Errorf("the second was not asked: %v", err)
			}
			// While the back-off runs the resolver is not dialled again.
			before := s.accepted.Load()
			for range 100 {
				f.attempt(context.Background(), f.upstreams[0], q)
			}
			if n := s.accepted.Load() - before; n > perResolver {
				t.Errorf("%d connections during the back-off", n)
			}
		})
	}
}

// TestSilentConnection: a connection on which nothing comes any more is given up when a
// question has waited for its answer in vain, so that the next question gets a new one.
func TestSilentConnection(t *testing.T) {
	s := newStreamServer(t, nil)
	f := asking(t, plan.Asked{Addr: s.addr, By: plan.TCP})
	name, _ := wire.PackDNSName(nil, "www.example.net")
	s.dumb.Store(true)
	for range perResolver {
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		if _, err := f.attempt(ctx, f.upstreams[0], ask{name: name, typ: wire.DNSTypeA}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
		cancel()
	}
	s.dumb.Store(false)
	for range perResolver {
		if _, err := f.attempt(context.Background(), f.upstreams[0], ask{name: name, typ: wire.DNSTypeA}); err != nil {
			t.Error(err)
		}
	}
	if n := s.accepted.Load(); n != 2*perResolver {
		t.Errorf("%d connections, want %d", n, 2*perResolver)
	}
}
