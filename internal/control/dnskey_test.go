package control

import (
	"crypto/tls"
	"crypto/x509"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestMakeDNSKey(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	now := time.Now()
	if _, err := MakeKeys(dir, "Conf", []string{"gw1"}, now); err != nil {
		t.Fatal(err)
	}
	names := []string{"dns.conf.example", "gw1.conf.example"}
	addrs := []netip.Addr{netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("2001:db8::1")}
	for _, c := range []struct {
		name  string
		names []string
		addrs []netip.Addr
		after time.Duration
		want  bool
	}{
		{"first", names, addrs, 0, true},
		{"again", names, addrs, 0, false},
		{"less", names[:1], addrs[:1], 0, false},
		{"another address", names, append(addrs, netip.MustParseAddr("10.9.0.1")), 0, true},
		{"another name", append(names, "x.example"), addrs, 0, true},
		{"a year later", names, addrs, 365 * 24 * time.Hour, false},
		{"a month before its end", names, addrs, dnsKeyFor - 30*24*time.Hour, true},
		{"beyond its end", names, addrs, 2 * dnsKeyFor, true},
	} {
		anew, err := MakeDNSKey(dir, "gw1", c.names, c.addrs, now.Add(c.after))
		if err != nil || anew != c.want {
			t.Errorf("%s: anew %v, %v", c.name, anew, err)
		}
		pair, err := tls.LoadX509KeyPair(DNSKey(dir, "gw1"), DNSKey(dir, "gw1"))
		if err != nil {
			t.Fatal(err)
		}
		if len(pair.Certificate) != 1 || pair.Leaf.NotAfter.Sub(pair.Leaf.NotBefore) > 825*24*time.Hour {
			t.Errorf("%s: %d certificates, good from %v to %v", c.name, len(pair.Certificate), pair.Leaf.NotBefore, pair.Leaf.NotAfter)
		}
		pool := x509.NewCertPool()
		ca, _ := os.ReadFile(filepath.Join(dir, "ca.crt"))
		pool.AppendCertsFromPEM(ca)
		for _, a := range c.addrs {
			if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: a.String(), CurrentTime: now.Add(c.after)}); err != nil {
				t.Errorf("%s: %s: %v", c.name, a, err)
			}
		}
	}
	info, err := os.Stat(DNSKey(dir, "gw1"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := os.Remove(filepath.Join(dir, "ca.key")); err != nil {
		t.Fatal(err)
	}
	if _, err := MakeDNSKey(dir, "srv1", names, addrs, now); err == nil || !strings.Contains(err.Error(), "make the keys where ca.key is") {
		t.Errorf("without the authority's key: %v", err)
	}
	if err := os.WriteFile(DNSKey(dir, "gw1"), []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := MakeDNSKey(dir, "gw1", names, addrs, now); err == nil || !strings.Contains(err.Error(), "to have it made anew") {
		t.Errorf("of nonsense: %v", err)
	}
}
