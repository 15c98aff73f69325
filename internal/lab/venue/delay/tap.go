//go:build linux

package delay

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// tap is a packet socket on one device that sees every frame that arrives there.
type tap struct {
	device string
	fd     int
	file   *os.File
	conn   syscall.RawConn
	gone   atomic.Uint64 // lost in the socket's buffer, as far as the kernel has told
}

func openTap(e End) (*tap, error) {
	t := &tap{device: e.Device}
	err := e.Namespace.Do(func() error {
		dev, err := net.InterfaceByName(e.Device)
		if err != nil {
			return err
		}
		// Protocol 0: nothing is queued until the socket is bound to its device.
		t.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open packet socket: %w", err)
		}
		if err := t.prepare(dev.Index); err != nil {
			unix.Close(t.fd)
			return err
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	t.file = os.NewFile(uintptr(t.fd), e.Device) // non-blocking: reads park in the poller
	if t.conn, err = t.file.SyscallConn(); err != nil {
		t.file.Close()
		return nil, err
	}
	return t, nil
}

// prepare sets the socket's options and binds it, in this order: the options decide what
// the first frame looks like.
func (t *tap) prepare(index int) error {
	for _, o := range []struct {
		level, option, value int
		words                string
	}{
		{unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1, "keep offloads (PACKET_VNET_HDR)"},
		{unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1, "ignore our own frames (PACKET_IGNORE_OUTGOING)"},
		{unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1, "stamp arrivals (SO_TIMESTAMPNS)"},
	} {
		if err := unix.SetsockoptInt(t.fd, o.level, o.option, o.value); err != nil {
			return fmt.Errorf("%s: %w", o.words, err)
		}
	}
	// Beyond net.core.rmem_max only the host's root may go; the others get that much.
	for _, o := range [][2]int{{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}, {unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}} {
		if unix.SetsockoptInt(t.fd, unix.SOL_SOCKET, o[0], socketBytes) != nil {
			if err := unix.SetsockoptInt(t.fd, unix.SOL_SOCKET, o[1], socketBytes); err != nil {
				return fmt.Errorf("size socket buffer: %w", err)
			}
		}
	}
	all := binary.NativeEndian.Uint16([]byte{unix.ETH_P_ALL >> 8, unix.ETH_P_ALL}) // network byte order
	err := unix.Bind(t.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: index})
	if err != nil {
		return fmt.Errorf("bind packet socket: %w", err)
	}
	return nil
}

// receive waits for a frame and puts it, behind its virtio header, into p. age is the time
// since the kernel saw it arrive. os.ErrDeadlineExceeded ends the wait.
func (t *tap) receive(p []byte) (n int, age time.Duration, err error) {
	var control [64]byte
	iov := unix.Iovec{Base: &p[0]}
	iov.SetLen(len(p))
	msg := unix.Msghdr{Iov: &iov, Control: &control[0]}
	msg.SetIovlen(1)
	waitErr := t.conn.Read(func(fd uintptr) bool {
		msg.SetControllen(len(control))
		r, _, errno := unix.Syscall(unix.SYS_RECVMSG, fd, uintptr(unsafe.Pointer(&msg)), unix.MSG_DONTWAIT)
		if errno == unix.EAGAIN {
			return false
		}
		n, err = int(r), nil
		if errno != 0 {
			n, err = 0, errno
		}
		return true
	})
	if waitErr != nil {
		return 0, 0, waitErr
	}
	if err == nil && msg.Flags&unix.MSG_TRUNC != 0 {
		err = unix.EMSGSIZE
	}
	return n, arrived(control[:msg.Controllen]), err
}

// arrived is how long ago the SO_TIMESTAMPNS control message says the frame came; 0 without.
func arrived(control []byte) time.Duration {
	const header, stamp = unix.SizeofCmsghdr, int(unsafe.Sizeof(unix.Timespec{}))
	if len(control) < header+stamp {
		return 0
	}
	h := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
	if h.Level != unix.SOL_SOCKET || h.Type != unix.SCM_TIMESTAMPNS {
		return 0
	}
	ts := *(*unix.Timespec)(unsafe.Pointer(&control[unix.CmsgLen(0)]))
	return time.Since(time.Unix(ts.Unix()))
}

// lost counts frames that found the socket's buffer full. The kernel's own counter is reset
// by each reading, so ours keeps the sum.
func (t *tap) lost() uint64 {
	if s, err := unix.GetsockoptTpacketStats(t.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
		t.gone.Add(uint64(s.Drops))
	}
	return t.gone.Load()
}

// onPreciseThread runs f on a thread of its own whose sleeps end when they should, and not
// up to 50 us later (the default timer slack). The thread ends with f.
func onPreciseThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the slack is the thread's
		unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
		done <- f()
	}()
	return <-done
}

// sleep blocks the thread.
func sleep(d time.Duration) {
	ts := unix.NsecToTimespec(d.Nanoseconds())
	unix.Nanosleep(&ts, nil) // cut short by a signal: the caller looks at the clock again
}
