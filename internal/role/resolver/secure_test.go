package resolver

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// TestEveryWay: the same answer by each, padded when the query is, and counted apart.
func TestEveryWay(t *testing.T) {
	b := newBooth(t, nil)
	private, err := b.overTLS(t, "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	web := b.browser(t, "127.0.0.1")
	quick, err := b.overQUIC(t, "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	plain := dialFrom(t, "127.0.0.1", b.plainTCP)
	for _, way := range []struct {
		name string
		ask  func([]byte) ([]byte, error)
	}{
		{"dot", func(q []byte) ([]byte, error) { return askStream(private, q) }},
		{"get", func(q []byte) ([]byte, error) { _, a, err := askWeb(web, http.MethodGet, q); return a, err }},
		{"post", func(q []byte) ([]byte, error) { _, a, err := askWeb(web, http.MethodPost, q); return a, err }},
		{"doq", func(q []byte) ([]byte, error) { return askQUIC(quick, lengthed(q)) }},
		{"tcp", func(q []byte) ([]byte, error) { return askStream(plain, q) }},
	} {
		for _, pad := range []bool{false, true} {
			change := []func(*dns.Msg){zeroID, edns(1232, false)}
			if pad {
				change[1] = padded
			}
			reply, err := way.ask(question(t, "GW1.yapc.example", dns.TypeA, change...))
			if err != nil {
				t.Errorf("%s: %v", way.name, err)
				continue
			}
			m := unpacked(t, reply)
			if diff := cmp.Diff([]string{"GW1.yapc.example. 300 IN A 10.1.0.1"}, lines(m)); diff != "" || m.Id != 0 {
				t.Errorf("%s: id %d (-want +got):\n%s", way.name, m.Id, diff)
			}
			if got := len(reply) == paddingBlock; got != (pad && way.name != "tcp") {
				t.Errorf("%s, asked for padding %v: %d octets", way.name, pad, len(reply))
			}
		}
	}
	for _, c := range []io.ReadWriter{private, plain} { // each way tells of all
		if reply, err := askStream(c, question(t, "_dns.resolver.arpa", dns.TypeSVCB)); err != nil || len(unpacked(t, reply).Answer) != 2 {
			t.Errorf("discovery: %x, %v", reply, err)
		}
	}
	for by, want := range map[string]float64{"dot": 3, "doh": 4, "doq": 2, "tcp": 3} {
		m := b.server.m
		c := map[string]interface{ Inc() }{"dot": m.dot, "doh": m.doh, "doq": m.doq, "tcp": m.tcp}[by]
		if got := testutil.ToFloat64(c.(collector)); got != want {
			t.Errorf("%s queries: %v, want %v", by, got, want)
		}
	}
	for _, by := range []string{"dot", "doh", "doq"} {
		if got := testutil.ToFloat64(b.server.m.handshakes.WithLabelValues(by, "ok")); got != 1 {
			t.Errorf("%s handshakes: %v", by, got)
		}
	}
}

// TestALPN: a client that speaks something else is told by its handshake; one that names
// nothing is served over TLS, as RFC 7858 knows no name, and not by HTTP/1.
func TestALPN(t *testing.T) {
	b := newBooth(t, nil)
	for _, c := range []struct {
		to   string
		alpn []string
		want bool
	}{
		{"tls", nil, true}, {"tls", []string{"dot"}, true}, {"tls", []string{"h2"}, false}, {"tls", []string{"http/1.1", "dot"}, true},
		{"web", nil, false}, {"web", []string{"h2"}, true}, {"web", []string{"http/1.1"}, false}, {"web", []string{"h2", "http/1.1"}, true},
	} {
		to := b.tls
		if c.to == "web" {
			to = b.web
		}
		cfg := b.trust("")
		cfg.NextProtos = c.alpn
		conn := clientTLS(dialFrom(t, "127.0.0.1", to), cfg)
		err := conn.Handshake()
		if err == nil && c.to == "web" { // served when the server says its settings
			_, err = conn.Read(make([]byte, 1))
		}
		if (err == nil) != c.want {
			t.Errorf("%s with %q: %v", c.to, c.alpn, err)
		}
	}
}

// TestCertificateIsReplaced: another one is served without a restart; what is no certificate
// leaves the one that was.
func TestCertificateIsReplaced(t *testing.T) {
	b := newBooth(t, nil)
	serial := func() string {
		c, err := b.overTLS(t, "127.0.0.1")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	first := serial()
	b.write(t, b.file, 3*24*time.Hour, []string{dnsName})
	b.server.secure.cert.refresh()
	second := serial()
	if first == second {
		t.Error("the first certificate is served still")
	}
	if c := b.server.secure.checks()[0]; c.OK || !strings.Contains(c.Hint, "ends in") {
		t.Errorf("three days before its end: %+v", c)
	}
	if err := os.WriteFile(b.file, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := b.server.secure.cert.refresh(); err == nil {
		t.Error("nonsense is a certificate")
	}
	if third := serial(); third != second {
		t.Error("nonsense changed the certificate")
	}
	b.write(t, b.file, 30*24*time.Hour, []string{"other.example"})
	b.server.secure.cert.refresh()
	if c := b.server.secure.checks()[0]; c.OK || !strings.Contains(c.Hint, "not for "+dnsName) {
		t.Errorf("a certificate for another name: %+v", c)
	}
	b.write(t, b.file, 30*24*time.Hour, []string{dnsName})
	b.server.secure.cert.refresh()
	if c := b.server.secure.checks()[0]; !c.OK {
		t.Errorf("a good one: %+v", c)
	}
}

// TestWithoutCertificate: plain service goes on; encrypted service begins when there is one.
func TestWithoutCertificate(t *testing.T) {
	for _, must := range []bool{false, true} {
		later := filepath.Join(t.TempDir(), "later.pem")
		b := newBooth(t, func(b *booth, cfg *Config) {
			cfg.Encrypted.Chain, cfg.Encrypted.Key, cfg.Encrypted.Must, cfg.Encrypted.Own = later, later, must, true
		})
		plain := dialFrom(t, "127.0.0.1", b.plainTCP)
		if _, err := askStream(plain, question(t, "gw1.yapc.example", dns.TypeA)); err != nil {
			t.Fatal(err)
		}
		if got := b.server.secure.checks()[0]; got.OK == must || !strings.Contains(got.Measured, "hotstage keys PLAN") {
			t.Errorf("must %v: %+v", must, got)
		}
		if told := b.events.has("encrypted-dns"); told != must {
			t.Errorf("must %v: told %v", must, told)
		}
		reply, _ := askStream(plain, question(t, "_dns.resolver.arpa", dns.TypeSVCB))
		if m := unpacked(t, reply); len(m.Answer) != 0 {
			t.Errorf("devices are told of what is not served: %v", m)
		}
		b.write(t, later, 30*24*time.Hour, []string{dnsName})
		b.server.secure.try(b.ctx, b.server.flights.all)
		if _, err := b.overTLS(t, "127.0.0.1"); err != nil {
			t.Errorf("with a certificate: %v", err)
		}
		reply, _ = askStream(plain, question(t, "_dns.resolver.arpa", dns.TypeSVCB))
		if m := unpacked(t, reply); len(m.Answer) != 2 {
			t.Errorf("devices are not told: %v", m)
		}
		b.stop()
	}
}

// TestPortIsTaken: somebody else's web server on the node takes nothing of plain service, and
// is told once.
func TestPortIsTaken(t *testing.T) {
	b := newBooth(t, func(b *booth, cfg *Config) { b.taken = true })
	plain := dialFrom(t, "127.0.0.1", b.plainTCP)
	if _, err := askStream(plain, question(t, "gw1.yapc.example", dns.TypeA)); err != nil {
		t.Fatal(err)
	}
	b.events.await(t, "encrypted-dns")
	b.server.secure.try(b.ctx, b.server.flights.all)
	b.events.mu.Lock()
	told := 0
	for _, e := range b.events.list {
		if e.Kind == "encrypted-dns" {
			told++
		}
	}
	b.events.mu.Unlock()
	if told != 1 {
		t.Errorf("told %d times", told)
	}
	if c := b.server.secure.checks()[0]; c.OK || !strings.Contains(c.Hint, "ss -ltnp") {
		t.Errorf("check: %+v", c)
	}
	b.mu.Lock()
	b.taken = false
	b.mu.Unlock()
	b.server.secure.try(b.ctx, b.server.flights.all)
	if _, err := b.overTLS(t, "127.0.0.1"); err != nil {
		t.Errorf("when it is free: %v", err)
	}
}
