package dhcp

import (
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// inbox receives datagrams in batches by recvmmsg(2), with where they came from and where
// they were sent to. It allocates nothing after newInbox. For one goroutine.
type inbox struct {
	heads [receiveBatch]mmsghdr
	iovs  [receiveBatch]unix.Iovec
	from  [receiveBatch]unix.RawSockaddrInet4
	info  [receiveBatch][controlRoom]byte
	data  [receiveBatch][messageRoom]byte

	read func(fd uintptr) bool // made once: a closure a call would be an allocation a call
	want int
	got  int
	err  error
}

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
	_   [4]byte
}

// controlRoom holds one IP_PKTINFO message: a head of 16 bytes and struct in_pktinfo of 12,
// rounded up to 8 (cmsg(3)).
const (
	controlHead = 16
	controlRoom = 32
)

func newInbox() *inbox {
	b := &inbox{}
	for i := range b.heads {
		b.iovs[i].Base = &b.data[i][0]
		b.iovs[i].SetLen(messageRoom)
		h := &b.heads[i].hdr
		h.Iov, h.Iovlen = &b.iovs[i], 1
		h.Name = (*byte)(unsafe.Pointer(&b.from[i]))
		h.Control = &b.info[i][0]
	}
	b.read = func(fd uintptr) bool {
		n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&b.heads[0])), uintptr(b.want), unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			b.got, b.err = int(n), nil
		case unix.EAGAIN, unix.EINTR:
			return false
		default:
			b.got, b.err = 0, errno
		}
		return true
	}
	return b
}

// receive waits for at least one datagram and fills in, whose data is valid until the next call.
func (b *inbox) receive(c syscall.RawConn, in []packet) (int, error) {
	b.want = min(receiveBatch, len(in))
	for i := range b.heads[:b.want] {
		h := &b.heads[i].hdr
		h.Namelen = unix.SizeofSockaddrInet4
		h.SetControllen(controlRoom)
	}
	if err := c.Read(b.read); err != nil {
		return 0, err
	}
	for i := range b.got {
		in[i] = packet{data: b.data[i][:b.heads[i].len], from: netip.AddrFrom4(b.from[i].Addr), broadcast: b.broadcast(i)}
	}
	return b.got, b.err
}

// broadcast tells whether datagram i was sent to 255.255.255.255: ipi_addr, the last four
// bytes of struct in_pktinfo (ip(7)), is the destination in the header.
func (b *inbox) broadcast(i int) bool {
	c := &b.info[i]
	head := (*unix.Cmsghdr)(unsafe.Pointer(c))
	if b.heads[i].hdr.Controllen < controlHead+12 || head.Level != unix.IPPROTO_IP || head.Type != unix.IP_PKTINFO {
		return false
	}
	return [4]byte(c[controlHead+8:controlHead+12]) == [4]byte{255, 255, 255, 255}
}
