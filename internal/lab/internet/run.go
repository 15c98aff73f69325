//go:build linux

package internet

import (
	"context"
	"io"
	"net"
	"sync"

	"golang.org/x/sync/errgroup"
)

// closing runs serve until it returns, and closes c when ctx ends so that it does.
func closing(c io.Closer, serve func() error) func(context.Context) error {
	return func(ctx context.Context) error {
		stop := context.AfterFunc(ctx, func() { c.Close() })
		defer func() { stop(); c.Close() }()
		return serve()
	}
}

// repeat runs serve n times side by side.
func repeat(n int, serve func() error) func() error {
	return func() error {
		var group errgroup.Group
		for range n {
			group.Go(serve)
		}
		return group.Wait()
	}
}

// connections are the open ones of a listener, to be closed together.
type connections struct {
	mu     sync.Mutex
	open   map[net.Conn]struct{}
	closed bool
	group  sync.WaitGroup
}

// goes handles c in a goroutine and closes it afterwards; false when all are to be closed.
func (s *connections) goes(c net.Conn, handle func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		c.Close()
		return false
	}
	if s.open == nil {
		s.open = map[net.Conn]struct{}{}
	}
	s.open[c] = struct{}{}
	s.group.Go(func() {
		handle()
		c.Close()
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.open, c)
	})
	return true
}

func (s *connections) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for c := range s.open {
		c.Close()
	}
}

func (s *connections) wait() { s.group.Wait() }
