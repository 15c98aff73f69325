//go:build linux

package kernel

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// batch is how many frames one system call moves at most.
	batch = 64
	// frameSize holds the largest frame of a 1500-byte MTU with tags to spare. Longer ones,
	// which only an offload that was left on can make, are dropped and counted.
	frameSize = 2048
	// frameBuffer is asked for in each direction; the kernel accounts about 2 KiB for a
	// full frame and 1 KiB for a small one, so this holds a burst of some thousands.
	frameBuffer = 8 << 20
)

// Frames sends and receives whole Ethernet frames on one device by a packet socket. It
// sees every frame that arrives at the device and none that leaves by it. Receive is for
// one goroutine at a time, Send for another; the rest is safe for concurrent use.
type Frames struct {
	file *os.File
	conn syscall.RawConn
	mac  net.HardwareAddr

	in, out         []message
	iovIn, iovOut   []unix.Iovec
	buffer          []byte
	dropped, cut    atomic.Uint64
	statisticsMutex sync.Mutex // reading resets the kernel's counter
}

// message is struct mmsghdr of recvmmsg(2).
type message struct {
	header unix.Msghdr
	length uint32
	_      [4]byte
}

// OpenFrames opens the named device of the namespace, promiscuous. Needs CAP_NET_RAW in
// the user namespace that owns ns. The caller closes it.
func OpenFrames(ns *Namespace, device string) (*Frames, error) {
	f, fd := &Frames{}, -1
	err := ns.Do(func() error {
		dev, err := net.InterfaceByName(device)
		if err != nil {
			return err
		}
		f.mac = dev.HardwareAddr
		// Protocol 0 queues nothing until the socket is bound to its device.
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open packet socket: %w", err)
		}
		return prepareFrames(fd, dev.Index)
	})
	if err != nil {
		if fd >= 0 {
			unix.Close(fd)
		}
		return nil, fmt.Errorf("frames on %s: %w", device, err)
	}
	f.file = os.NewFile(uintptr(fd), device)
	if f.conn, err = f.file.SyscallConn(); err != nil {
		f.file.Close()
		return nil, fmt.Errorf("frames on %s: %w", device, err)
	}
	f.allocate()
	return f, nil
}

// prepareFrames sets the socket's options and binds it to the device.
func prepareFrames(fd, index int) error {
	// Only root of the host may go beyond net.core.rmem_max and wmem_max.
	for _, o := range [2][2]int{{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}, {unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}} {
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, o[0], frameBuffer) == nil {
			continue
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, o[1], frameBuffer); err != nil {
			return fmt.Errorf("size socket buffer: %w", err)
		}
	}
	m := unix.PacketMreq{Ifindex: int32(index), Type: unix.PACKET_MR_PROMISC}
	if err := unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &m); err != nil {
		return fmt.Errorf("make promiscuous: %w", err)
	}
	return BindPacket(fd, index, nil)
}

func (f *Frames) allocate() {
	f.buffer = make([]byte, batch*frameSize)
	f.in, f.out = make([]message, batch), make([]message, batch)
	f.iovIn, f.iovOut = make([]unix.Iovec, batch), make([]unix.Iovec, batch)
	for i := range batch {
		f.iovIn[i].Base = &f.buffer[i*frameSize]
		f.iovIn[i].SetLen(frameSize)
		f.in[i].header.Iov, f.out[i].header.Iov = &f.iovIn[i], &f.iovOut[i]
		f.in[i].header.SetIovlen(1)
		f.out[i].header.SetIovlen(1)
	}
}

// HardwareAddr is the device's own address when it was opened. The caller must not change it.
func (f *Frames) HardwareAddr() net.HardwareAddr { return f.mac }

// Receive waits until at least one frame is there and hands over all that are, up to 64.
// Frames are without VLAN tag (the kernel takes it off) and belong to the caller until the
// next Receive. frames is reused when it has room. The error is os.ErrClosed after Close.
func (f *Frames) Receive(frames [][]byte) ([][]byte, error) {
	frames = frames[:0]
	for len(frames) == 0 {
		n, err := f.call(f.conn.Read, unix.SYS_RECVMMSG, f.in)
		if err != nil {
			return frames, fmt.Errorf("receive frames: %w", err)
		}
		for i := range n {
			if f.in[i].header.Flags&unix.MSG_TRUNC != 0 {
				f.cut.Add(1)
				continue
			}
			frames = append(frames, f.buffer[i*frameSize:][:f.in[i].length])
		}
	}
	return frames, nil
}

// Send hands the frames to the device and waits while its queue is full. It keeps none of
// them. A frame that the device refuses (too long, no memory, link down) is skipped and
// counted in failed; err is set only when nothing more can be sent, os.ErrClosed after Close.
func (f *Frames) Send(frames [][]byte) (failed int, err error) {
	for len(frames) > 0 {
		n := 0
		for ; n < len(frames) && n < batch; n++ {
			if len(frames[n]) == 0 {
				break
			}
			f.iovOut[n].Base = &frames[n][0]
			f.iovOut[n].SetLen(len(frames[n]))
		}
		if n == 0 { // an empty frame
			failed, frames = failed+1, frames[1:]
			continue
		}
		sent, err := f.call(f.conn.Write, unix.SYS_SENDMMSG, f.out[:n])
		var refused syscall.Errno
		switch {
		case err == nil:
			frames = frames[sent:]
		case errors.As(err, &refused):
			failed, frames = failed+1, frames[1:]
		default:
			return failed + len(frames), fmt.Errorf("send frames: %w", err)
		}
	}
	return failed, nil
}

// call makes a recvmmsg or sendmmsg and parks the goroutine while the socket isn't ready.
func (f *Frames) call(wait func(func(uintptr) bool) error, number uintptr, m []message) (int, error) {
	var n uintptr
	var errno syscall.Errno
	err := wait(func(fd uintptr) bool {
		for {
			n, _, errno = unix.Syscall6(number, fd, uintptr(unsafe.Pointer(&m[0])), uintptr(len(m)), unix.MSG_DONTWAIT, 0, 0)
			if errno != unix.EINTR {
				return errno != unix.EAGAIN
			}
		}
	})
	switch {
	case err != nil: // without deadlines, closing is the only thing that ends the wait
		return 0, os.ErrClosed
	case errno != 0:
		return 0, errno
	}
	return int(n), nil
}

// Drops counts the frames that arrived and were lost here, because the socket's buffer was
// full or the frame was longer than 2048 bytes. The count goes on after Close.
func (f *Frames) Drops() uint64 {
	f.statisticsMutex.Lock()
	defer f.statisticsMutex.Unlock()
	// Control keeps Close from giving the descriptor to somebody else meanwhile.
	_ = f.conn.Control(func(fd uintptr) {
		if s, err := unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
			f.dropped.Add(uint64(s.Drops))
		}
	})
	return f.dropped.Load() + f.cut.Load()
}

// Close ends Receive and Send at once.
func (f *Frames) Close() error { return f.file.Close() }
