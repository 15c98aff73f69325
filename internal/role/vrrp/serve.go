package vrrp

import (
	"context"
	"errors"
	"os"
	"runtime"
	"sync"
	"time"
)

const (
	// look is how often a link is looked at, and a missing one tried.
	look = 100 * time.Millisecond
	// mostStrangers are remembered per link: who makes addresses up fills no memory.
	mostStrangers = 64
	// strangerTold is how often a stranger is told of while it is there.
	strangerTold = 10 * time.Minute
)

// link is one segment and what is so of it.
type link struct {
	Segment
	s *Server

	mu        sync.Mutex
	sock      socket // nil while the device is not there
	why       string // of that
	instances []*instance
	strangers map[string]moment // and when they were told of
	frame     []byte
}

// instance is one service address on this node.
type instance struct {
	Address
	link     *link
	machine  machine
	odd      time.Duration // the interval of another node that was told of
	wanted   bool          // the address; see have
	had      bool
	wish     chan struct{} // wanted has changed
	heldTold moment        // when it was told that the address cannot be had
}

func (i *instance) family() string {
	if i.Service.Is6() {
		return "IPv6"
	}
	return "IPv4"
}

// keep takes part on the link whenever its device is there, until ctx ends. It calls tried
// after the first try.
func (l *link) keep(ctx context.Context, tried func()) {
	defer tried()
	for ctx.Err() == nil {
		sock, err := l.s.open(l.Segment)
		if err == nil {
			l.begin(sock)
			tried()
			err = l.serve(ctx, sock)
		}
		l.missing(err)
		tried()
		select {
		case <-ctx.Done():
		case <-time.After(look):
		}
	}
}

func (l *link) begin(sock socket) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sock, l.why = sock, ""
	for _, i := range l.instances {
		i.machine.start(l.s.now(), "started")
		i.changed(initial)
	}
}

// end gives up the addresses and the socket.
func (l *link) end(why string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, i := range l.instances {
		i.step(func(m *machine, now moment) []deed { return m.stop(now, why) })
	}
	l.sock.close()
	l.sock = nil
}

// missing notes why the link is not there.
func (l *link) missing(why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.why = why.Error()
}

// serve takes frames and does what is due on an open socket until the device goes or ctx
// ends; the error says which. It has a thread of its own, which the kernel prefers to others,
// and waits on it by a system call: a busy process must not look like a dead one.
func (l *link) serve(ctx context.Context, sock socket) (err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer urge()()
	defer func() { l.end(err.Error()) }()
	b := make([]byte, frameRoom)
	looked := l.s.now()
	for {
		n, err := sock.receive(b, min(l.tick(), look))
		switch {
		case err == nil:
			l.take(b[:n])
		case !errors.Is(err, os.ErrDeadlineExceeded):
			time.Sleep(10 * time.Millisecond) // it fails once when the device is down for a moment
		}
		if ctx.Err() != nil {
			return errors.New("this node stops")
		}
		if now := l.s.now(); now-looked >= look {
			looked = now
			if err := sock.gone(); err != nil {
				return err
			}
		}
	}
}

// tick does what is due and says how long nothing else is.
func (l *link) tick() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	next := moment(1<<63 - 1)
	for _, i := range l.instances {
		i.step(func(*machine, moment) []deed { return nil })
		next = min(next, i.machine.wake())
	}
	return max(next-l.s.now(), 0)
}
