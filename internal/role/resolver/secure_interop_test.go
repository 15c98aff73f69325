//go:build linux

package resolver

import (
	"encoding/base64"
	"encoding/pem"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hotstage/hotstage/internal/testnet"
	"github.com/miekg/dns"
)

// privateVenue is a venue with encrypted service, and the file of the authority that signed
// its certificate.
func privateVenue(t *testing.T) (v *venue, ca string) {
	t.Helper()
	a := newAuthority(t)
	dir := t.TempDir()
	file, ca := filepath.Join(dir, "dns.pem"), filepath.Join(dir, "ca.crt")
	a.write(t, file, 30*24*time.Hour, []string{dnsName}, "10.1.0.1", "2001:db8:1::1")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}), 0o644); err != nil {
		t.Fatal(err)
	}
	return newVenueWith(t, func(cfg *Config) {
		cfg.Encrypted = &Encrypted{Name: dnsName, Chain: file, Key: file, Hints: []netip.Addr{addr("10.1.0.1"), addr("2001:db8:1::1")}}
	}), ca
}

var (
	kdigStatus = regexp.MustCompile(`status: ([A-Z]+)`)
	kdigSize   = regexp.MustCompile(`;; Received ([0-9]+) B`)
)

// TestKdig: knot's client asks each way, by both families, and verifies the certificate.
func TestKdig(t *testing.T) {
	kdig := testnet.Tools(t, "kdig")[0]
	v, ca := privateVenue(t)
	// The way is named last: what is said of TLS behind +quic brings kdig 3.2.6 down.
	verified, other := "+tls-ca="+ca+" +tls-hostname="+dnsName, "+tls-ca="+ca+" +tls-hostname=other.example"
	for _, c := range []struct{ way, args, want string }{
		{"TLS", verified + " +tls @10.1.0.1 www.example.net", "www.example.net. 60 IN A 192.0.2.80"},
		{"TLS", verified + " +tls @2001:db8:1::1 www.example.net", "www.example.net. 60 IN A 192.0.2.80"},
		{"TLS", "+tls-ca=" + ca + " +tls-hostname=10.1.0.1 +tls @10.1.0.1 www.example.net", "www.example.net. 60 IN A 192.0.2.80"}, // as DDR verifies
		{"TLS", verified + " +tls +padding=128 @10.1.0.1 www.example.net", "B 468"},
		{"TLS", verified + " +tls +nopadding @10.1.0.1 www.example.net", "www.example.net. 60 IN A 192.0.2.80"},
		{"TLS", verified + " +tls +dnssec @10.1.0.1 big.example.net", "big.example.net. 60 IN A 192.0.2.199"},
		{"TLS", verified + " +tls @10.1.0.1 _dns.resolver.arpa SVCB", `_dns.resolver.arpa. 300 IN SVCB 1 dns.yapc.example. alpn=doq,dot ipv4hint=10.1.0.1 ipv6hint=2001:db8:1::1`},
		{"TLS", other + " +tls @10.1.0.1 www.example.net", "refused"},
		{"HTTP", other + " +https @10.1.0.1 www.example.net", "refused"},
		{"QUIC", other + " +quic @10.1.0.1 www.example.net", "refused"},
		{"HTTP", verified + " +https @10.1.0.1 www.example.net", "www.example.net. 60 IN A 192.0.2.80"},
		{"HTTP", verified + " +https-get @2001:db8:1::1 www.example.net", "www.example.net. 60 IN A 192.0.2.80"},
		{"HTTP", verified + " +https @10.1.0.1 big.example.net", "big.example.net. 60 IN A 192.0.2.199"},
		{"QUIC", verified + " +quic @10.1.0.1 www.example.net", "www.example.net. 60 IN A 192.0.2.80"},
		{"QUIC", verified + " +quic @2001:db8:1::1 big.example.net", "big.example.net. 60 IN A 192.0.2.199"},
	} {
		args := append([]string{"+timeout=3", "+retry=0"}, strings.Fields(c.args)...)
		out, err := testnet.Output(v.client, kdig, args...)
		short := sixty.ReplaceAllString(digSpace.ReplaceAllString(out, " "), " 60 IN")
		if m := kdigSize.FindStringSubmatch(out); m != nil {
			short += " B " + m[1]
		}
		if c.want == "refused" {
			if err == nil && kdigStatus.MatchString(out) {
				t.Errorf("kdig %s: an answer under another name:\n%s", c.args, out)
			}
			continue
		}
		if err != nil || !strings.Contains(out, "status: NOERROR") || !strings.Contains(out, ";; "+c.way+" session") || !strings.Contains(short, c.want) {
			t.Errorf("kdig %s: %v, want %q\n%s", c.args, err, c.want, out)
		}
	}
}

// TestCurl: curl resolves a name by our DNS over HTTPS, and gets the statuses and headers of
// RFC 8484.
func TestCurl(t *testing.T) {
	curl := testnet.Tools(t, "curl")[0]
	v, ca := privateVenue(t)
	query := filepath.Join(t.TempDir(), "query")
	packet := question(t, "www.example.net", dns.TypeA, zeroID)
	if err := os.WriteFile(query, packet, 0o644); err != nil {
		t.Fatal(err)
	}
	url := "https://" + dnsName + dohPath
	base := "--silent --show-error --max-time 10 --cacert " + ca + " --resolve " + dnsName + ":443:10.1.0.1 "
	const show = "%{http_version} %{http_code} %{content_type} %header{cache-control}"
	for _, c := range []struct{ args, want string }{
		{"--data-binary @" + query + " -H content-type:application/dns-message " + url, `^2 200 application/dns-message max-age=(60|5[0-9])$`},
		{url + "?dns=" + base64.RawURLEncoding.EncodeToString(packet), `^2 200 application/dns-message max-age=(60|5[0-9])$`},
		{url, `^2 400 `},
		{"-X DELETE " + url, `^2 405 `},
		{"--data-binary @" + query + " " + url, `^2 415 `},
		{"https://" + dnsName + "/", `^2 404 `},
		{"--http1.1 " + url, `^0 000 `}, // no such protocol
	} {
		args := append(strings.Fields(base+c.args), "--output", "/dev/null", "--write-out", "\n"+show)
		out, _ := testnet.Output(v.client, curl, args...)
		at := strings.LastIndex(strings.TrimRight(out, "\n"), "\n")
		if got := strings.TrimSpace(out[at+1:]) + " "; !regexp.MustCompile(strings.TrimSuffix(c.want, "$")).MatchString(got) {
			t.Errorf("curl %s: %q, want %s", c.args, out, c.want)
		}
	}
	// The world's web server at 192.0.2.80 is not there: that curl knows its address is all.
	out, _ := testnet.Output(v.client, curl, append(strings.Fields(base), "-v", "--max-time", "2", "--doh-url", url, "http://curl.example.net/")...)
	if !strings.Contains(out, "192.0.2.80") {
		t.Errorf("curl --doh-url does not find the address:\n%s", out)
	}
}
