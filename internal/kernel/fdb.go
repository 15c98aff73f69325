//go:build linux

package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// FDB asks a bridge behind which of its ports a hardware address was last seen. It needs
// Linux 5.0. For one goroutine.
type FDB struct {
	fd     int
	bridge int
	seq    uint32
	names  map[int]string
	buf    [512]byte
}

// OpenFDB opens the bridge's forwarding database, in the namespace of the calling thread.
func OpenFDB(bridge string) (*FDB, error) {
	dev, err := net.InterfaceByName(bridge)
	if err != nil {
		return nil, fmt.Errorf("bridge %s: %w", bridge, err)
	}
	f := &FDB{bridge: dev.Index, names: map[int]string{}}
	if f.fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE); err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	// The answer is there when sendto returns; were it not, nobody shall wait for it.
	if err := unix.SetsockoptTimeval(f.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000}); err != nil {
		return nil, errors.Join(fmt.Errorf("bound the wait for netlink: %w", err), f.Close())
	}
	return f, nil
}

// Close may be called once.
func (f *FDB) Close() error { return unix.Close(f.fd) }

const (
	neighHead = 12 // struct ndmsg of rtnetlink(7)
	// mostPorts is how many names of ports are remembered: more than a bridge of ours has.
	mostPorts = 1024
)

// Port is the name of the port, "" when the bridge has not seen the address of late.
func (f *FDB) Port(mac [6]byte) string {
	// struct ndmsg, then NDA_LLADDR with 2 bytes of padding, and NDA_MASTER.
	b := f.request(unix.RTM_GETNEIGH, neighHead+12+8)
	b[0] = unix.AF_BRIDGE
	a, ne := b[neighHead:], binary.NativeEndian
	ne.PutUint16(a, 4+6)
	ne.PutUint16(a[2:], unix.NDA_LLADDR)
	copy(a[4:], mac[:])
	ne.PutUint16(a[12:], 4+4)
	ne.PutUint16(a[14:], unix.NDA_MASTER)
	ne.PutUint32(a[16:], uint32(f.bridge))
	got := f.ask(len(b), unix.RTM_NEWNEIGH)
	if len(got) < neighHead {
		return ""
	}
	return f.name(int(ne.Uint32(got[4:])))
}

// name of the link; all are forgotten when there are many, so that those that are gone do
// not fill memory.
func (f *FDB) name(index int) string {
	if name := f.names[index]; name != "" {
		return name
	}
	ne := binary.NativeEndian
	b := f.request(unix.RTM_GETLINK, unix.SizeofIfInfomsg)
	ne.PutUint32(b[4:], uint32(index))
	got := f.ask(len(b), unix.RTM_NEWLINK)
	for got = got[min(len(got), unix.SizeofIfInfomsg):]; len(got) >= unix.SizeofRtAttr; {
		n := int(ne.Uint16(got))
		if n < unix.SizeofRtAttr || n > len(got) {
			break
		}
		if ne.Uint16(got[2:]) == unix.IFLA_IFNAME {
			if len(f.names) >= mostPorts {
				clear(f.names)
			}
			f.names[index] = unix.ByteSliceToString(got[unix.SizeofRtAttr:n])
			return f.names[index]
		}
		got = got[min(len(got), (n+3)&^3):]
	}
	return ""
}

// request begins a message with a body of n bytes, which the caller fills in.
func (f *FDB) request(kind uint16, n int) []byte {
	b := f.buf[:unix.SizeofNlMsghdr+n]
	clear(b)
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	binary.NativeEndian.PutUint16(b[4:], kind)
	binary.NativeEndian.PutUint16(b[6:], unix.NLM_F_REQUEST)
	f.seq++
	binary.NativeEndian.PutUint32(b[8:], f.seq)
	return b[unix.SizeofNlMsghdr:]
}

// ask sends the request of n bytes and returns the body of an answer of that kind, else nil.
func (f *FDB) ask(n int, kind uint16) []byte {
	if unix.Sendto(f.fd, f.buf[:unix.SizeofNlMsghdr+n], 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}) != nil {
		return nil
	}
	for range 4 {
		n, _, err := unix.Recvfrom(f.fd, f.buf[:], 0)
		switch {
		case err == unix.EINTR, err == nil && n >= unix.SizeofNlMsghdr && binary.NativeEndian.Uint32(f.buf[8:]) != f.seq: // of a request before
			continue
		case err != nil || n < unix.SizeofNlMsghdr || binary.NativeEndian.Uint16(f.buf[4:]) != kind:
			return nil
		}
		return f.buf[unix.SizeofNlMsghdr:n]
	}
	return nil
}
