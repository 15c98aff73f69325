package dhcp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/hotstage/hotstage/internal/kernel"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// ear hears on one device what is said beside our clients: messages of other DHCP servers,
// and answers to our ARP probes. hear is for one goroutine, say for another; neither frame
// is kept. hear's error is os.ErrClosed after Close.
type ear interface {
	hear(b []byte) (int, error)
	say(frame []byte) error
	hardware() [6]byte
	Close() error
}

// socketEar is a packet socket on a device of the namespace that it was opened in.
type socketEar struct {
	file *os.File
	conn syscall.RawConn
	to   unix.SockaddrLinklayer
}

// heard is what the kernel lets through: ARP replies, and first fragments of UDP from port 67
// with a server's message: a relay sends its clients' from there too. So the opening rush
// costs the ear nothing.
var heard = []bpf.Instruction{
	bpf.LoadAbsolute{Off: 12, Size: 2},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.ETH_P_ARP, SkipFalse: 2},
	bpf.LoadAbsolute{Off: 20, Size: 2}, // operation, RFC 826
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: 2, SkipTrue: 11, SkipFalse: 10},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.ETH_P_IP, SkipFalse: 9},
	bpf.LoadAbsolute{Off: 23, Size: 1}, // protocol
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_UDP, SkipFalse: 7},
	bpf.LoadAbsolute{Off: 20, Size: 2}, // fragment offset
	bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0x1fff, SkipTrue: 5},
	bpf.LoadMemShift{Off: 14}, // X: length of the IPv4 header
	bpf.LoadIndirect{Off: 14, Size: 2},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: serverPort, SkipTrue: 2},
	bpf.LoadIndirect{Off: 14 + 8, Size: 1},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: 2, SkipTrue: 1}, // BOOTREPLY, RFC 951
	bpf.RetConstant{Val: 0},
	bpf.RetConstant{Val: messageRoom + 18},
}

// openEar opens the device, which must be there.
func openEar(device string) (ear, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open packet socket on %s: %w", device, err)
	}
	e := &socketEar{file: os.NewFile(uintptr(fd), device)}
	if err := e.prepare(fd, device); err != nil {
		e.file.Close()
		return nil, fmt.Errorf("listen to other servers on %s: %w", device, err)
	}
	return e, nil
}

func (e *socketEar) prepare(fd int, device string) error {
	dev, err := net.InterfaceByName(device)
	if err != nil {
		return err
	}
	if err := kernel.BindPacket(fd, dev.Index, heard); err != nil {
		return err
	}
	e.to = unix.SockaddrLinklayer{Ifindex: dev.Index, Halen: 6}
	e.conn, err = e.file.SyscallConn()
	return err
}

func (e *socketEar) hear(b []byte) (int, error) { return e.file.Read(b) }

func (e *socketEar) say(frame []byte) error {
	to := e.to
	copy(to.Addr[:], frame[:6])
	return sendNow(e.conn, frame, &to)
}

func (e *socketEar) hardware() (mac [6]byte) {
	_ = e.conn.Control(func(fd uintptr) { mac = kernel.PacketHardware(int(fd)) })
	return mac
}

func (e *socketEar) Close() error { return e.file.Close() }

// guardTick is how often the guard looks whether something is due.
const guardTick = 100 * time.Millisecond

// beside listens and probes while the link serves. It returns what stops that and waits.
// Where it cannot be done the link serves all the same, and an event says so.
func (l *link) beside(ctx context.Context) (stop func()) {
	if l.listen == nil {
		return func() {}
	}
	e, err := l.listen()
	if err != nil {
		l.guard.deaf(read(l.clock), err)
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var both sync.WaitGroup
	both.Go(func() { l.guard.listen(ctx, e) })
	both.Go(func() { l.guard.speak(ctx, e) })
	return func() {
		cancel()
		e.Close()
		both.Wait()
	}
}

// listen hears until ctx ends or the ear is closed. A device that is down for a moment makes
// the ear fail once.
func (g *guard) listen(ctx context.Context, e ear) {
	b := make([]byte, messageRoom+18)
	for ctx.Err() == nil {
		n, err := e.hear(b)
		switch {
		case errors.Is(err, os.ErrClosed):
			return
		case err != nil:
			select {
			case <-ctx.Done():
			case <-time.After(guardTick):
			}
		default:
			g.hear(read(g.clock), e.hardware(), b[:n])
		}
	}
}

// speak says what is due until ctx ends.
func (g *guard) speak(ctx context.Context, e ear) {
	tick := time.NewTicker(guardTick)
	defer tick.Stop()
	for {
		g.due(read(g.clock), e)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
