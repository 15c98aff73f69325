package dhcp

import (
	"syscall"
	"unsafe"

	"github.com/hotstage/hotstage/internal/wire"
	"golang.org/x/sys/unix"
)

// sendBatch is how many replies one system call sends at most.
const sendBatch = receiveBatch

// outbox sends datagrams in batches by sendmmsg(2). It allocates nothing after newOutbox. For
// one goroutine at a time.
type outbox struct {
	heads [sendBatch]mmsghdr
	iovs  [sendBatch]unix.Iovec
	to    [sendBatch]unix.RawSockaddrAny // an Inet4 or a Linklayer
	of    [sendBatch]*answer
	n     int

	write func(fd uintptr) // made once: a closure a call would be an allocation a call
}

func newOutbox() *outbox {
	o := &outbox{}
	for i := range o.heads {
		h := &o.heads[i].hdr
		h.Iov, h.Iovlen = &o.iovs[i], 1
		h.Name = (*byte)(unsafe.Pointer(&o.to[i]))
	}
	o.write = o.drain
	return o
}

// route puts the reply in, for its address and port.
func (o *outbox) route(a *answer, port uint16) {
	to := (*unix.RawSockaddrInet4)(unsafe.Pointer(&o.to[o.n]))
	*to = unix.RawSockaddrInet4{Family: unix.AF_INET, Port: port<<8 | port>>8, Addr: a.dst.As4()}
	o.put(a, a.frame[wire.UDPFrameHead:], unix.SizeofSockaddrInet4)
}

// hand puts the reply in, a whole frame for a neighbour on the device.
func (o *outbox) hand(a *answer, device int, mac [6]byte) {
	to := (*unix.RawSockaddrLinklayer)(unsafe.Pointer(&o.to[o.n]))
	*to = unix.RawSockaddrLinklayer{Family: unix.AF_PACKET, Ifindex: int32(device), Halen: 6}
	copy(to.Addr[:], mac[:])
	o.put(a, a.frame, unix.SizeofSockaddrLinklayer)
}

func (o *outbox) put(a *answer, b []byte, name uint32) {
	o.iovs[o.n].Base = &b[0]
	o.iovs[o.n].SetLen(len(b))
	o.heads[o.n].hdr.Namelen = name
	o.of[o.n] = a
	o.n++
}

// send sends what is in, and leaves nothing in. It does not wait for room: a client asks
// again, and nobody else waits for its reply.
func (o *outbox) send(c syscall.RawConn) {
	if o.n == 0 {
		return
	}
	if c.Control(o.write) != nil {
		for _, a := range o.of[:o.n] {
			a.why = undelivered
		}
	}
	clear(o.of[:o.n])
	o.n = 0
}

// drain goes on behind a message that the device does not take.
func (o *outbox) drain(fd uintptr) {
	for at := 0; at < o.n; {
		n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&o.heads[at])), uintptr(o.n-at), unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			at += int(n)
		case unix.EINTR:
		default:
			o.of[at].why = undelivered
			at++
		}
	}
}
