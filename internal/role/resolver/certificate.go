package resolver

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// certificate is what the resolver proves itself with, from files that may be replaced at any
// time. Safe for concurrent use.
type certificate struct {
	chain, key string

	have atomic.Pointer[tls.Certificate] // nil before one could be read

	mu   sync.Mutex
	seen [2]stamp // of the files as last read
	err  error    // of the last reading
}

// stamp tells one state of a file from another.
type stamp struct {
	size    int64
	changed time.Time
}

// refresh reads the files when they have changed since the last time, or could not be read
// then. When they are no pair, the certificate stays what it was. fresh tells that there is
// another one now.
func (c *certificate) refresh() (fresh bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var now [2]stamp
	for i, path := range []string{c.chain, c.key} {
		s, err := os.Stat(path)
		if err != nil {
			c.err = fmt.Errorf("read the certificate: %w", err)
			return false, c.err
		}
		now[i] = stamp{s.Size(), s.ModTime()}
	}
	if c.err == nil && now == c.seen {
		return false, nil
	}
	c.seen = now
	pair, err := tls.LoadX509KeyPair(c.chain, c.key)
	if err != nil {
		c.err = fmt.Errorf("read the certificate in %s and its key in %s: %w", c.chain, c.key, err)
		return false, c.err
	}
	c.err = nil
	c.have.Store(&pair)
	return true, nil
}

// absent tells that the files are not there, which is no fault of them.
func (c *certificate) absent() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return errors.Is(c.err, fs.ErrNotExist)
}

// problem is why the files could not be read the last time, or nil.
func (c *certificate) problem() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// pick is tls.Config's GetCertificate.
func (c *certificate) pick(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if p := c.have.Load(); p != nil {
		return p, nil
	}
	return nil, errors.New("no certificate")
}

// ends is when the certificate is not good any more; zero without one.
func (c *certificate) ends() time.Time {
	if p := c.have.Load(); p != nil && p.Leaf != nil {
		return p.Leaf.NotAfter
	}
	return time.Time{}
}
