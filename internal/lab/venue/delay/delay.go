//go:build linux

// Package delay is the way to a far site: two Ethernet devices joined so that every frame
// comes out at the other end a fixed time later. It works in user space, on packet sockets,
// because not every kernel has netem and no unprivileged one lets us load it.
package delay

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hotstage/hotstage/internal/kernel"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

const (
	// maxFrame is the longest thing a packet socket hands over: the virtio header, Ethernet
	// with a tag, and 64 KiB of a frame that the kernel has not segmented yet (GSO).
	maxFrame = 10 + 18 + 65536
	// queueBytes bounds what is under way in one direction: 1 Gbit/s for 60 ms.
	queueBytes = 8 << 20
	// queueFrames bounds the number of frames under way in one direction.
	queueFrames = 16384
	// socketBytes is the kernel's buffer in front of ours; it must hold what arrives while
	// the reader waits for a processor.
	socketBytes = 8 << 20
)

// End is one end of a line: a device, which must be up, and the namespace it is in. The
// device should have no addresses: the line takes what arrives, and so would a stack.
type End struct {
	Namespace *kernel.Namespace
	Device    string
}

// Line carries frames between two ends. Frames keep their order, their partial checksums
// and their segmentation offload, so TCP is as fast as over a plain veth pair.
type Line struct {
	ends    [2]*tap
	queues  [2]*queue // queues[i] holds what came in at ends[i]
	dropped atomic.Uint64
}

// Open makes a line that holds every frame back for oneWay in each direction. Frames that
// arrive from now on are carried once Run runs; Close must follow, after Run has returned.
func Open(a, b End, oneWay time.Duration) (*Line, error) {
	l := &Line{}
	for i, e := range []End{a, b} {
		t, err := openTap(e)
		if err != nil {
			l.Close()
			return nil, fmt.Errorf("delay line at %s: %w", e.Device, err)
		}
		l.ends[i] = t
		l.queues[i] = newQueue(queueBytes, queueFrames, oneWay)
	}
	return l, nil
}

// Run carries frames until ctx ends, then returns nil; no goroutine is left.
func (l *Line) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for i := range l.ends {
		g.Go(func() error { return l.read(ctx, i) })
		g.Go(func() error { return l.write(ctx, i) })
	}
	return g.Wait()
}

// Dropped counts the frames that were lost because a queue was full or a device refused
// them. Frames that the kernel dropped before we could read them are counted too, late.
func (l *Line) Dropped() uint64 {
	n := l.dropped.Load()
	for _, t := range l.ends {
		n += t.lost()
	}
	return n
}

// Close gives the sockets back.
func (l *Line) Close() {
	for _, t := range l.ends {
		if t != nil {
			t.file.Close()
		}
	}
}

// read moves frames from the socket of end i to its queue.
func (l *Line) read(ctx context.Context, i int) error {
	t, q := l.ends[i], l.queues[i]
	t.file.SetReadDeadline(time.Time{})
	stop := context.AfterFunc(ctx, func() { t.file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	spare := make([]byte, maxFrame) // where frames go that find the queue full
	for {
		into := q.reserve()
		full := into == nil
		if full {
			into = spare
		}
		n, age, err := t.receive(into)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil
		case lossy(err) || full && err == nil:
			l.dropped.Add(1)
		case err != nil:
			return fmt.Errorf("delay line: read from %s: %w", t.device, err)
		default:
			q.commit(n, age)
		}
	}
}

// write sends what is due from queue i to the other end. It sleeps in the kernel on a
// thread of its own: the runtime's timers have a grain of a millisecond.
func (l *Line) write(ctx context.Context, i int) error {
	q, out := l.queues[i], l.ends[1-i]
	return onPreciseThread(func() error {
		for ctx.Err() == nil {
			frame, wait := q.front()
			switch {
			case frame == nil:
				select {
				case <-q.filled:
				case <-ctx.Done():
				}
			case wait > 0:
				sleep(min(wait, 50*time.Millisecond)) // bounded, so that ctx is looked at
			default:
				if _, err := unix.Write(out.fd, frame); lossy(err) {
					l.dropped.Add(1)
				} else if err != nil {
					return fmt.Errorf("delay line: write to %s: %w", out.device, err)
				}
				q.pop()
			}
		}
		return nil
	})
}

// lossy tells whether err costs one frame and not the line: a device that is down or gone
// for a while, a full buffer, a kind of frame that a packet socket cannot describe.
func lossy(err error) bool {
	for _, e := range []syscall.Errno{unix.ENETDOWN, unix.ENXIO, unix.ENODEV, unix.ENOBUFS, unix.EAGAIN, unix.EINVAL, unix.EMSGSIZE, unix.EINTR} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
