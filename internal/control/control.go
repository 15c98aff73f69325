// Package control is a node's control socket: JSON over HTTP on a unix socket in the
// node's state directory, which only its owner may open. Whoever holds the socket is the
// one that runs the node.
package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// Socket is the path of the control socket in a state directory.
func Socket(state string) string { return filepath.Join(state, "control.sock") }

// ErrRunning says that another process runs the node.
var ErrRunning = errors.New("already running")

// Server answers on the control socket. It is a task; Listen comes first, so that a second
// process for the same state directory is refused before it touches anything.
type Server struct {
	listener net.Listener
	handler  http.Handler
	ready    chan struct{}
}

// Hold takes the lock of the state directory, so that no node begins with it, or returns
// ErrRunning when one has it; release gives it back.
func Hold(state string) (release func() error, err error) {
	lock, err := os.OpenFile(filepath.Join(state, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the state directory's lock: %w", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		lock.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("state directory %s: %w", state, ErrRunning)
		}
		return nil, fmt.Errorf("lock the state directory: %w", err)
	}
	return lock.Close, nil
}

// Listen takes the socket of the state directory, or returns ErrRunning when another process
// answers on it. A socket left behind by a killed process is taken over. The state
// directory's lock file decides, so two that start at once cannot both win; release gives
// it back.
func Listen(state string, handler http.Handler) (s *Server, release func() error, err error) {
	release, err = Hold(state)
	if err != nil {
		return nil, nil, err
	}
	path := Socket(state)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		release()
		return nil, nil, fmt.Errorf("remove the old control socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err == nil {
		err = os.Chmod(path, 0o600)
	}
	if err != nil {
		release()
		return nil, nil, fmt.Errorf("listen on the control socket: %w", err)
	}
	return &Server{l, handler, make(chan struct{})}, release, nil
}

func (s *Server) String() string { return "control" }

// Ready is closed once the socket is served.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Run serves until ctx ends, and then gives requests that run a second to end.
func (s *Server) Run(ctx context.Context) error {
	h := &http.Server{Handler: s.handler, ReadHeaderTimeout: 5 * time.Second, MaxHeaderBytes: 16 << 10}
	ended := make(chan error, 1)
	go func() { ended <- h.Serve(s.listener) }()
	close(s.ready)
	select {
	case err := <-ended:
		return fmt.Errorf("serve the control socket: %w", err)
	case <-ctx.Done():
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	err := h.Shutdown(last)
	<-ended
	return err
}

// JSON is a handler that answers with what f returns.
func JSON(f func() any) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		text, err := json.MarshalIndent(f(), "", "  ")
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Write(append(text, '\n'))
	}
}

// maxAnswer bounds what a client reads: 1,000,000 leases are about 300 MB of JSON.
const maxAnswer = 512 << 20

// Fetch asks the node whose state directory is given, and reads its JSON answer into dst.
func Fetch(ctx context.Context, state, what string, dst any) error {
	return ask(ctx, http.MethodGet, state, what, dst)
}

// Order has the node do something, and reads its JSON answer into dst.
func Order(ctx context.Context, state, what string, dst any) error {
	return ask(ctx, http.MethodPost, state, what, dst)
}

func ask(ctx context.Context, method, state, what string, dst any) error {
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", Socket(state))
	}}}
	req, err := http.NewRequestWithContext(ctx, method, "http://node/"+what, nil)
	if err != nil {
		return fmt.Errorf("ask the node for %s: %w", what, err)
	}
	res, err := c.Do(req)
	if err != nil {
		return fmt.Errorf("ask the node for %s: %w (does it run with --state %s?)", what, err, state)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 1024))
		return fmt.Errorf("ask the node for %s: %s: %s", what, res.Status, text)
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, maxAnswer)).Decode(dst); err != nil {
		return fmt.Errorf("read the node's %s: %w", what, err)
	}
	return nil
}
