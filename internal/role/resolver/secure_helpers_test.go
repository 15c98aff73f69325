package resolver

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/quic-go/quic-go"
)

// authority signs certificates of a test.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pool *x509.CertPool
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{pool: x509.NewCertPool()}
	a.key, a.cert = signed(t, nil, &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	})
	a.pool.AddCert(a.cert)
	return a
}

func signed(t testing.TB, by *authority, c *x509.Certificate) (*ecdsa.PrivateKey, *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	parent, signer := c, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return key, cert
}

// write puts a certificate for the names and addresses into one file, which is returned.
func (a *authority) write(t testing.TB, path string, until time.Duration, names []string, addrs ...string) {
	t.Helper()
	c := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: names[0]}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(until), DNSNames: names,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, s := range addrs {
		c.IPAddresses = append(c.IPAddresses, net.ParseIP(s))
	}
	key, cert := signed(t, a, c)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
	pem.Encode(&b, &pem.Block{Type: "PRIVATE KEY", Bytes: der})
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

const dnsName = "dns.yapc.example"

// booth is a resolver on the loopback with encrypted service, on ports that were free.
type booth struct {
	*authority
	file           string
	server         *Server
	events         *events
	tls, web, quic netip.AddrPort
	stop           func()
	mu             sync.Mutex
	taken          bool // the ports are somebody else's
	before         func(*Server)
	ctx            context.Context
	plainTCP       netip.AddrPort
}

// open has the sockets opened on ports that are free, and notes which.
func (b *booth) open() network {
	n := system()
	n.packet = func(a netip.AddrPort, _ bool) (*net.UDPConn, error) {
		u, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err == nil && a.Port() == securePort {
			b.mu.Lock()
			b.quic = u.LocalAddr().(*net.UDPAddr).AddrPort()
			b.mu.Unlock()
		}
		return u, err
	}
	n.stream = func(a netip.AddrPort) (net.Listener, error) {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.taken && a.Port() != port {
			return nil, fmt.Errorf("address already in use")
		}
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err == nil {
			switch at := l.Addr().(*net.TCPAddr).AddrPort(); a.Port() {
			case port:
				b.plainTCP = at
			case securePort:
				b.tls = at
			default:
				b.web = at
			}
		}
		return l, err
	}
	return n
}

// newBooth starts one; change may be nil. There is a certificate unless change takes it away.
func newBooth(t testing.TB, change func(*booth, *Config)) *booth {
	t.Helper()
	b := &booth{authority: newAuthority(t), file: filepath.Join(t.TempDir(), "dns.pem"), events: newEvents()}
	b.write(t, b.file, 30*24*time.Hour, []string{dnsName}, "127.0.0.1")
	cfg := hall()
	cfg.Listen = []netip.Addr{addr("127.0.0.1")}
	cfg.Encrypted = &Encrypted{Name: dnsName, Chain: b.file, Key: b.file, Hints: []netip.Addr{addr("10.1.0.1"), addr("2001:db8:1::1")}}
	if change != nil {
		change(b, &cfg)
	}
	b.server = New(cfg, nil, newMetrics(), b.events.tell)
	b.server.net = b.open()
	if b.before != nil {
		b.before(b.server)
	}
	ctx, cancel := context.WithCancel(context.Background())
	b.ctx = ctx
	ended := make(chan error, 1)
	go func() { ended <- b.server.Run(ctx) }()
	b.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(3 * time.Second):
			t.Error("Run did not end within 3 s of its context")
		}
	})
	t.Cleanup(b.stop)
	select {
	case <-b.server.Ready():
	case err := <-ended:
		t.Fatalf("Run: %v", err)
	}
	return b
}

func (b *booth) trust(alpn string) *tls.Config {
	return &tls.Config{RootCAs: b.pool, ServerName: dnsName, NextProtos: []string{alpn}}
}

// dial opens a TCP connection from an address of the loopback.
func dialFrom(t testing.TB, from string, to netip.AddrPort) net.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 5 * time.Second}
	c, err := d.Dial("tcp4", to.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// dot opens DNS over TLS.
func (b *booth) overTLS(t testing.TB, from string) (*tls.Conn, error) {
	t.Helper()
	c := tls.Client(dialFrom(t, from, b.tls), b.trust("dot"))
	c.SetDeadline(time.Now().Add(10 * time.Second))
	return c, c.Handshake()
}

// askStream sends a message with its length and reads the answer.
func askStream(c io.ReadWriter, query []byte) ([]byte, error) {
	if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(query))), query...)); err != nil {
		return nil, err
	}
	var n [2]byte
	if _, err := io.ReadFull(c, n[:]); err != nil {
		return nil, err
	}
	reply := make([]byte, binary.BigEndian.Uint16(n[:]))
	_, err := io.ReadFull(c, reply)
	return reply, err
}

// browser is an HTTP/2 client.
func (b *booth) browser(t testing.TB, from string) *http.Client {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 5 * time.Second}
	tr := &http.Transport{TLSClientConfig: b.trust("h2"), ForceAttemptHTTP2: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return d.DialContext(ctx, "tcp4", b.web.String())
	}}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 10 * time.Second}
}

const dohURL = "https://" + dnsName + dohPath

func askWeb(c *http.Client, method string, query []byte) (*http.Response, []byte, error) {
	r, _ := http.NewRequest(http.MethodPost, dohURL, bytes.NewReader(query))
	r.Header.Set("Content-Type", dohType)
	if method == http.MethodGet {
		r, _ = http.NewRequest(http.MethodGet, dohURL+"?dns="+base64.RawURLEncoding.EncodeToString(query), nil)
	}
	res, err := c.Do(r)
	if err != nil {
		return nil, nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return res, body, err
}

// overQUIC opens DNS over QUIC from an address of the loopback.
func (b *booth) overQUIC(t testing.TB, from string) (*quic.Conn, error) {
	t.Helper()
	u, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(from)})
	if err != nil {
		t.Fatal(err)
	}
	tr := &quic.Transport{Conn: u}
	t.Cleanup(func() { tr.Close(); u.Close() })
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return tr.Dial(ctx, net.UDPAddrFromAddrPort(b.quic), b.trust("doq"), nil)
}

// askQUIC sends what goes on a stream and reads the answer.
func askQUIC(c *quic.Conn, stream []byte) ([]byte, error) {
	s, err := c.OpenStreamSync(context.Background())
	if err != nil {
		return nil, err
	}
	s.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := s.Write(stream); err != nil {
		return nil, err
	}
	s.Close()
	b, err := io.ReadAll(s)
	if err == nil && (len(b) < 2 || int(binary.BigEndian.Uint16(b)) != len(b)-2) {
		err = fmt.Errorf("an answer of %d octets without its length", len(b))
	}
	if err != nil {
		return nil, err
	}
	return b[2:], nil
}

func lengthed(b []byte) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)
}

func padded(m *dns.Msg) {
	m.SetEdns0(1232, false)
	m.IsEdns0().Option = append(m.IsEdns0().Option, &dns.EDNS0_PADDING{Padding: make([]byte, 20)})
}

func zeroID(m *dns.Msg) { m.Id = 0 }

type collector = prometheus.Collector

// clientTLS is a client whose every step ends within seconds.
func clientTLS(c net.Conn, cfg *tls.Config) *tls.Conn {
	c.SetDeadline(time.Now().Add(10 * time.Second))
	return tls.Client(c, cfg)
}
