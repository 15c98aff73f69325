//go:build linux

package kernel

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// DatagramBatch is how many datagrams one system call moves at most.
const DatagramBatch = batch

// Datagrams receives UDP in batches by recvmmsg(2) and sends a batch's replies, each to where
// its question came from, by one sendmmsg(2). It allocates nothing after NewDatagrams. For
// one goroutine; the socket itself may be used by others meanwhile.
//
//	Receive ─► Packet(i), From(i) ─► Reply(i) … ─► Flush ─► Receive
type Datagrams struct {
	conn syscall.RawConn

	in, out       []message
	iovIn, iovOut []unix.Iovec
	from          []unix.RawSockaddrInet6 // has room for either family
	buffer        []byte
	reply         []byte
	size, room    int
	got, ready    int
	err           error

	read  func(fd uintptr) bool // made once: a closure a call would be an allocation a call
	write func(fd uintptr) bool
	sent  int
}

// NewDatagrams reads and writes on c, which stays the caller's. A datagram has at most size
// octets, longer ones are cut and told by Whole; a reply has room octets.
func NewDatagrams(c *net.UDPConn, size, room int) (*Datagrams, error) {
	conn, err := c.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("datagrams on %s: %w", c.LocalAddr(), err)
	}
	d := &Datagrams{
		conn: conn, size: size, room: room,
		in: make([]message, batch), out: make([]message, batch),
		iovIn: make([]unix.Iovec, batch), iovOut: make([]unix.Iovec, batch),
		from: make([]unix.RawSockaddrInet6, batch), buffer: make([]byte, batch*size), reply: make([]byte, batch*room),
	}
	for i := range batch {
		d.iovIn[i].Base = &d.buffer[i*size]
		d.iovIn[i].SetLen(size)
		d.in[i].header.Iov, d.out[i].header.Iov = &d.iovIn[i], &d.iovOut[i]
		d.in[i].header.SetIovlen(1)
		d.out[i].header.SetIovlen(1)
		d.in[i].header.Name = (*byte)(unsafe.Pointer(&d.from[i]))
	}
	d.read, d.write = d.fill, d.drain
	return d, nil
}

// Receive waits for at least one datagram and tells how many there are, up to
// DatagramBatch. What an earlier call received is gone. The error is net.ErrClosed once the
// socket is closed; another may be one client's alone, and the next call goes on.
func (d *Datagrams) Receive() (int, error) {
	for i := range d.in {
		d.in[i].header.Namelen = unix.SizeofSockaddrInet6
	}
	d.got, d.ready = 0, 0
	if err := d.conn.Read(d.read); err != nil {
		return 0, err
	}
	return d.got, d.err
}

// fill reads without waiting; false when nothing is there.
func (d *Datagrams) fill(fd uintptr) bool {
	n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&d.in[0])), uintptr(len(d.in)), unix.MSG_DONTWAIT, 0, 0)
	switch errno {
	case 0:
		d.got, d.err = int(n), nil
	case unix.EAGAIN:
		return false
	default:
		d.got, d.err = 0, errno
	}
	return true
}

// Packet is datagram i, valid until the next Receive.
func (d *Datagrams) Packet(i int) []byte { return d.buffer[i*d.size:][:d.in[i].length:d.size] }

// Whole tells whether datagram i had room.
func (d *Datagrams) Whole(i int) bool { return d.in[i].header.Flags&unix.MSG_TRUNC == 0 }

// From is where datagram i came from: an IPv4 address as such, an IPv6 link-local one without
// its zone.
func (d *Datagrams) From(i int) netip.AddrPort {
	a := &d.from[i]
	port := binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&a.Port))[:])
	if a.Family == unix.AF_INET {
		return netip.AddrPortFrom(netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(a)).Addr), port)
	}
	return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), port)
}

// Zoned is From with the zone of a link-local address, for those who answer later. It may
// allocate.
func (d *Datagrams) Zoned(i int) netip.AddrPort {
	at := d.From(i)
	if id := d.from[i].Scope_id; at.Addr().Is6() && id != 0 {
		return netip.AddrPortFrom(at.Addr().WithZone(strconv.FormatUint(uint64(id), 10)), at.Port())
	}
	return at
}

// Room is where the next reply may be written: empty, with the capacity given to
// NewDatagrams. It is the same until Reply takes it.
func (d *Datagrams) Room() []byte { return d.reply[d.ready*d.room:][:0:d.room] }

// Reply puts b, not empty, in line to be sent to where datagram i came from. b must not
// change before Flush; one written into Room is.
func (d *Datagrams) Reply(i int, b []byte) {
	o := &d.out[d.ready].header
	o.Name, o.Namelen = d.in[i].header.Name, d.in[i].header.Namelen
	d.iovOut[d.ready].Base = &b[0]
	d.iovOut[d.ready].SetLen(len(b))
	d.ready++
}

// Flush sends the replies in line. One that cannot be sent is left out and the others go; it
// waits while the socket has no room. The error is net.ErrClosed once the socket is closed.
func (d *Datagrams) Flush() error {
	if d.ready == 0 {
		return nil
	}
	d.sent = 0
	err := d.conn.Write(d.write)
	d.ready = 0
	return err
}

// drain sends what is in line; false when the socket has no room.
func (d *Datagrams) drain(fd uintptr) bool {
	for d.sent < d.ready {
		n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&d.out[d.sent])), uintptr(d.ready-d.sent), unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			d.sent += int(n)
		case unix.EAGAIN:
			return false
		case unix.EINTR:
		default:
			d.sent++
		}
	}
	return true
}
