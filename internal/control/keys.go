package control

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"
)

// Names of the files in a folder of keys. A node needs its own file alone; the authority's
// key stays with the crew.
const (
	authorityKey  = "ca.key"
	authorityCert = "ca.crt"
	nodeSuffix    = ".pem"
)

// keysFor is how long keys are good for. An event is over long before; a machine whose clock is
// years off must still be heard, so that nobody looks at the time (see Keys.config).
const keysFor = 10 * 365 * 24 * time.Hour

// Keys are what a node shows others of its event that it is one of them, and tells them by.
type Keys struct {
	own   tls.Certificate
	event *x509.CertPool
	when  time.Time // the authority's birth: the moment at which certificates are judged
}

// MakeKeys makes the event's certificate authority in the folder, when it is not there, and a
// file for each node that has none. It returns the names of the files that it made. What is
// there is never replaced.
func MakeKeys(dir, event string, nodes []string, now time.Time) (made []string, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make a folder for the keys: %w", err)
	}
	if _, err := os.Stat(filepath.Join(dir, authorityCert)); errors.Is(err, fs.ErrNotExist) {
		if err := os.WriteFile(filepath.Join(dir, ".gitignore"), []byte("*\n"), 0o600); err != nil { // secrets are not for the plan's repository
			return nil, fmt.Errorf("make a folder for the keys: %w", err)
		}
		if err := makeAuthority(dir, event, now); err != nil {
			return nil, err
		}
		made = append(made, authorityKey, authorityCert)
	}
	for _, n := range nodes {
		path := filepath.Join(dir, n+nodeSuffix)
		if _, err := os.Stat(path); err == nil {
			continue
		}
		if err := makeNode(dir, n); err != nil {
			return made, err
		}
		made = append(made, n+nodeSuffix)
	}
	return made, nil
}

func makeAuthority(dir, event string, now time.Time) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make the authority's key: %w", err)
	}
	t := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Hotstage " + event},
		NotBefore: now.UTC().Truncate(time.Second), NotAfter: now.Add(keysFor), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, MaxPathLenZero: true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return fmt.Errorf("make the authority's certificate: %w", err)
	}
	secret, err := keyBlock(key)
	if err != nil {
		return err
	}
	if err := create(filepath.Join(dir, authorityKey), secret); err != nil {
		return err
	}
	return create(filepath.Join(dir, authorityCert), certBlock(cert))
}

// makeNode writes the node's certificate, its key and the authority's certificate in one file.
func makeNode(dir, node string) error {
	cert, secret, authority, err := issue(dir, node, func(authority *x509.Certificate) *x509.Certificate {
		return &x509.Certificate{
			Subject: pkix.Name{CommonName: node}, DNSNames: []string{node},
			NotBefore: authority.NotBefore, NotAfter: authority.NotAfter, KeyUsage: x509.KeyUsageDigitalSignature,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		}
	})
	if err != nil {
		return err
	}
	return create(filepath.Join(dir, node+nodeSuffix), append(append(cert, secret...), authority...))
}

// issue makes a key and has the folder's authority sign the certificate that template gives
// for it. All is in PEM.
func issue(dir, node string, template func(authority *x509.Certificate) *x509.Certificate) (cert, secret, above []byte, err error) {
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, authorityCert), filepath.Join(dir, authorityKey))
	if err != nil {
		return nil, nil, nil, fmt.Errorf("read the event's authority in %s, to make a key for %s: %w; make the keys where %s is, and copy %s to the node", dir, node, err, authorityKey, node+nodeSuffix)
	}
	authority, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return nil, nil, nil, fmt.Errorf("read the event's authority: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("make a key for %s: %w", node, err)
	}
	t := template(authority)
	if t.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)); err != nil {
		return nil, nil, nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, t, authority, key.Public(), pair.PrivateKey)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("make a certificate for %s: %w", node, err)
	}
	if secret, err = keyBlock(key); err != nil {
		return nil, nil, nil, err
	}
	return certBlock(der), secret, certBlock(authority.Raw), nil
}

func certBlock(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func keyBlock(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("write a key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func create(path string, text []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("write a key: %w", err)
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Sync(), f.Close())
}

// LoadKeys reads the node's file of the folder. The error is fs.ErrNotExist when there is none.
func LoadKeys(dir, node string) (*Keys, error) {
	path := filepath.Join(dir, node+nodeSuffix)
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the node's keys: %w", err)
	}
	own, err := tls.X509KeyPair(text, text)
	if err != nil {
		return nil, fmt.Errorf("read the node's keys in %s: %w", path, err)
	}
	if len(own.Certificate) != 2 {
		return nil, fmt.Errorf("read the node's keys in %s: %d certificates where the node's and the authority's are needed; make the file anew with: hotstage keys", path, len(own.Certificate))
	}
	authority, err := x509.ParseCertificate(own.Certificate[1])
	if err != nil {
		return nil, fmt.Errorf("read the event's authority in %s: %w", path, err)
	}
	own.Certificate = own.Certificate[:1]
	k := &Keys{own: own, event: x509.NewCertPool(), when: authority.NotBefore}
	k.event.AddCert(authority)
	if own.Leaf, err = x509.ParseCertificate(own.Certificate[0]); err != nil {
		return nil, fmt.Errorf("read the node's certificate in %s: %w", path, err)
	}
	if err := own.Leaf.VerifyHostname(node); err != nil {
		return nil, fmt.Errorf("the keys in %s are not of node %s: %w", path, node, err)
	}
	return k, nil
}

// config is TLS by which both sides show a certificate of the event. Time is not looked at:
// keys of an event are few and are thrown away after it, and a node whose clock is wrong must
// not lose its partner for that.
func (k *Keys) config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{k.own}, RootCAs: k.event,
		ClientCAs: k.event, ClientAuth: tls.RequireAndVerifyClientCert, Time: func() time.Time { return k.when },
	}
}
