package control

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"
)

const (
	// dnsSuffix is of a resolver's certificate and its key. A node's name has no dot.
	dnsSuffix = ".dns" + nodeSuffix
	// dnsKeyFor: devices of Apple take no server's certificate for more than 825 days.
	dnsKeyFor = 800 * 24 * time.Hour
	// dnsKeyLeft is the least that a certificate which stays must be good for: an event and
	// the weeks before.
	dnsKeyLeft = 60 * 24 * time.Hour
)

// DNSKey is the file of a node's certificate and key for encrypted DNS in a folder of keys.
func DNSKey(dir, node string) string { return filepath.Join(dir, node+dnsSuffix) }

// MakeDNSKey has the folder's authority sign a certificate for the node's resolver, known by
// those names and addresses, and writes it with its key into the node's file. One that is
// there stays when it is for all of them and for two months at least; anew tells that it did
// not.
func MakeDNSKey(dir, node string, names []string, addrs []netip.Addr, now time.Time) (anew bool, err error) {
	path := DNSKey(dir, node)
	switch pair, err := tls.LoadX509KeyPair(path, path); {
	case err == nil && serves(dir, pair.Leaf, names, addrs, now):
		return false, nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return false, fmt.Errorf("read the resolver's key: %w; remove %s to have it made anew", err, path)
	}
	cert, secret, _, err := issue(dir, node, func(authority *x509.Certificate) *x509.Certificate {
		t := &x509.Certificate{
			Subject: pkix.Name{CommonName: names[0]}, DNSNames: names, NotBefore: now.Add(-24 * time.Hour), NotAfter: now.Add(dnsKeyFor),
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		}
		for _, a := range addrs { // RFC 9462 section 4.2: who finds it by its address looks for that
			t.IPAddresses = append(t.IPAddresses, net.IP(a.AsSlice()))
		}
		if t.NotBefore.Before(authority.NotBefore) {
			t.NotBefore = authority.NotBefore
		}
		return t
	})
	if err != nil {
		return false, err
	}
	return true, replace(path, append(cert, secret...))
}

// serves tells whether the certificate is what MakeDNSKey would make.
func serves(dir string, cert *x509.Certificate, names []string, addrs []netip.Addr, now time.Time) bool {
	authority, err := os.ReadFile(filepath.Join(dir, authorityCert))
	pool := x509.NewCertPool()
	if err != nil || !pool.AppendCertsFromPEM(authority) {
		return false
	}
	if _, err := cert.Verify(x509.VerifyOptions{Roots: pool, CurrentTime: now.Add(dnsKeyLeft)}); err != nil {
		return false
	}
	for _, n := range names {
		if cert.VerifyHostname(n) != nil {
			return false
		}
	}
	for _, a := range addrs {
		if cert.VerifyHostname(a.String()) != nil {
			return false
		}
	}
	return true
}

// replace writes a file in one step, so that whoever reads has the old or the new one.
func replace(path string, text []byte) error {
	next := path + ".new"
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("write a key: %w", err)
	}
	if err := create(next, text); err != nil {
		return err
	}
	if err := os.Rename(next, path); err != nil {
		return fmt.Errorf("write a key: %w", err)
	}
	return nil
}
