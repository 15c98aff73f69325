package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"time"
)

// PeerPort is where nodes of an event talk to each other, by TCP.
const PeerPort = 4767

// maxMessage bounds what one node tells another at once.
const maxMessage = 4 << 20

// Peers answers other nodes of the event: mutual TLS with the event's keys, and only from the
// addresses that the plan gives them. It is a task.
type Peers struct {
	keys   *Keys
	own    []netip.Addr
	from   map[netip.Addr]string // node by address
	answer func(ctx context.Context, node string, message []byte) ([]byte, error)
	ready  chan struct{}
}

// NewPeers makes a server on the node's addresses own for those nodes, by their addresses.
// answer has the name that the peer has proved. It starts nothing; Run does.
func NewPeers(keys *Keys, own []netip.Addr, from map[netip.Addr]string, answer func(ctx context.Context, node string, message []byte) ([]byte, error)) *Peers {
	return &Peers{keys: keys, own: own, from: from, answer: answer, ready: make(chan struct{})}
}

func (p *Peers) String() string { return "peers" }

// Ready is closed once Run runs: an address that is not there yet is listened on when it comes.
func (p *Peers) Ready() <-chan struct{} { return p.ready }

// Run answers until ctx ends.
func (p *Peers) Run(ctx context.Context) error {
	close(p.ready)
	cfg := p.keys.config()
	h := &http.Server{
		Handler: http.HandlerFunc(p.serve), TLSConfig: cfg, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute,
		MaxHeaderBytes: 16 << 10, ErrorLog: log.New(io.Discard, "", 0), // what a stranger sends is not worth a line
	}
	ended := make(chan error, len(p.own))
	for _, a := range p.own {
		go func() { ended <- p.listen(ctx, h, a) }()
	}
	<-ctx.Done()
	h.Close()
	for range p.own {
		<-ended
	}
	return nil
}

// listen serves on one address, again and again while it is not there.
func (p *Peers) listen(ctx context.Context, h *http.Server, a netip.Addr) error {
	for ctx.Err() == nil {
		l, err := net.Listen("tcp", netip.AddrPortFrom(a, PeerPort).String())
		if err == nil {
			err = h.ServeTLS(&guarded{l, p.from}, "", "")
			l.Close()
		}
		if errors.Is(err, http.ErrServerClosed) {
			return nil
		}
		select {
		case <-ctx.Done():
		case <-time.After(500 * time.Millisecond):
		}
	}
	return nil
}

// guarded accepts connections from the nodes' addresses alone.
type guarded struct {
	net.Listener
	from map[netip.Addr]string
}

func (g *guarded) Accept() (net.Conn, error) {
	for {
		c, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if a, err := netip.ParseAddrPort(c.RemoteAddr().String()); err == nil && g.from[a.Addr().Unmap()] != "" {
			return c, nil
		}
		c.Close()
	}
}

func (p *Peers) serve(w http.ResponseWriter, r *http.Request) {
	node := r.TLS.PeerCertificates[0].Subject.CommonName // RequireAndVerifyClientCert: there is one
	known := false
	for _, n := range p.from {
		known = known || n == node
	}
	if !known || r.Method != http.MethodPost {
		http.Error(w, "not for "+node, http.StatusForbidden)
		return
	}
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxMessage))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	answer, err := p.answer(r.Context(), node, text)
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Write(answer)
}

// Peer is the way to another node, for one goroutine.
type Peer struct {
	node   string
	addrs  []netip.Addr
	client *http.Client
	last   int // which address answered
}

// NewPeer makes the way to the node at those of its addresses, tried in turn.
func NewPeer(keys *Keys, node string, addrs []netip.Addr) *Peer {
	cfg := keys.config()
	cfg.ServerName = node
	dial := &net.Dialer{Timeout: time.Second, KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: 2}}
	return &Peer{node: node, addrs: slices.Clone(addrs), client: &http.Client{Transport: &http.Transport{
		TLSClientConfig: cfg, DialContext: dial.DialContext, TLSHandshakeTimeout: time.Second, MaxIdleConnsPerHost: 1, IdleConnTimeout: time.Minute,
	}}}
}

// Exchange sends the message to the node and returns its answer.
func (p *Peer) Exchange(ctx context.Context, message []byte) (answer []byte, err error) {
	for range p.addrs {
		answer, err = p.post(ctx, p.addrs[p.last], message)
		if err == nil || ctx.Err() != nil {
			return answer, err
		}
		p.last = (p.last + 1) % len(p.addrs)
	}
	return nil, err
}

func (p *Peer) post(ctx context.Context, a netip.Addr, message []byte) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+netip.AddrPortFrom(a, PeerPort).String()+"/", bytes.NewReader(message))
	if err != nil {
		return nil, err
	}
	res, err := p.client.Do(r)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", p.node, errors.Unwrap(err)) // without the URL
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, maxMessage))
	if err != nil {
		return nil, fmt.Errorf("read the answer of %s: %w", p.node, err)
	}
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers: %s", p.node, bytes.TrimSpace(text))
	}
	return text, nil
}
