//go:build linux

package vrrp

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"
	"unsafe"

	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/hotstage/hotstage/internal/wire"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// socket hears and says whole frames on one device. receive waits so long at most, then its
// error is os.ErrDeadlineExceeded; it is for who calls close. The rest is safe for concurrent
// use before that.
type socket interface {
	receive(b []byte, patience time.Duration) (int, error)
	send(frame []byte) error
	hardware() [6]byte
	gone() error // why it serves no more: device away, down or without carrier
	close()
}

// device is a packet socket and, so that switches that snoop on multicast send us what we
// need, a socket that is a member of the groups.
type device struct {
	name    string
	index   int
	fd      int
	to      unix.SockaddrLinklayer
	members []int
}

// frameRoom holds an advertisement of as many addresses as are read, and any solicitation.
const frameRoom = 512

// openSocket opens the device, which must be there and have carrier.
func openSocket(s Segment) (socket, error) {
	l, err := kernel.FindLink(s.Device)
	if err != nil {
		return nil, err
	}
	if !l.Carrier {
		return nil, fmt.Errorf("device %s has no carrier", s.Device)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open packet socket on %s: %w", s.Device, err)
	}
	d := &device{name: s.Device, index: l.Index, fd: fd, to: unix.SockaddrLinklayer{Ifindex: l.Index, Halen: 6}}
	err = kernel.BindPacket(fd, d.index, filter(s))
	for _, a := range s.Addresses {
		if err == nil {
			err = d.join(a.Service)
		}
	}
	if err != nil {
		d.close()
		return nil, fmt.Errorf("listen for advertisements on %s: %w", s.Device, err)
	}
	return d, nil
}

// join becomes a member of the groups of the address's family: advertisements, and over IPv6
// those who look for the address.
func (d *device) join(a netip.Addr) error {
	family := unix.AF_INET
	if a.Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	d.members = append(d.members, fd)
	if a.Is4() {
		m := unix.IPMreqn{Multiaddr: [4]byte{224, 0, 0, 18}, Ifindex: int32(d.index)}
		return unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, &m)
	}
	for _, g := range []netip.Addr{netip.MustParseAddr("ff02::12"), wire.SolicitedNode(a)} {
		m := unix.IPv6Mreq{Multiaddr: g.As16(), Interface: uint32(d.index)}
		if err := unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, &m); err != nil {
			return err
		}
	}
	return nil
}

// filter lets through, untagged, advertisements and what is said on the link of the service
// addresses, so that the ARP of thousands of devices costs nothing.
func filter(s Segment) []bpf.Instruction {
	var four uint32
	var six [4]uint32
	for _, a := range s.Addresses {
		b := a.Service.AsSlice()
		word := func(i int) uint32 { return uint32(b[i])<<24 | uint32(b[i+1])<<16 | uint32(b[i+2])<<8 | uint32(b[i+3]) }
		if a.Service.Is4() {
			four = word(0)
			continue
		}
		six = [4]uint32{word(0), word(4), word(8), word(12)}
	}
	return []bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtVLANTagPresent},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0, SkipTrue: 24},
		bpf.LoadAbsolute{Off: 12, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.ETH_P_ARP, SkipFalse: 4},
		bpf.LoadAbsolute{Off: 28, Size: 4}, // sender
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: four, SkipTrue: 21},
		bpf.LoadAbsolute{Off: 38, Size: 4}, // target
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: four, SkipTrue: 19, SkipFalse: 18},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.ETH_P_IP, SkipFalse: 2},
		bpf.LoadAbsolute{Off: 23, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: wire.VRRPProtocol, SkipTrue: 16, SkipFalse: 15},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.ETH_P_IPV6, SkipFalse: 14},
		bpf.LoadAbsolute{Off: 20, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: wire.VRRPProtocol, SkipTrue: 13},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_ICMPV6, SkipFalse: 11},
		bpf.LoadAbsolute{Off: 54, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 135, SkipTrue: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 136, SkipFalse: 8},
		bpf.LoadAbsolute{Off: 62, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: six[0], SkipFalse: 6},
		bpf.LoadAbsolute{Off: 66, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: six[1], SkipFalse: 4},
		bpf.LoadAbsolute{Off: 70, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: six[2], SkipFalse: 2},
		bpf.LoadAbsolute{Off: 74, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: six[3], SkipTrue: 1},
		bpf.RetConstant{Val: 0},
		bpf.RetConstant{Val: frameRoom},
	}
}

func (d *device) receive(b []byte, patience time.Duration) (int, error) {
	wait := unix.NsecToTimespec(patience.Nanoseconds())
	n, err := unix.Ppoll([]unix.PollFd{{Fd: int32(d.fd), Events: unix.POLLIN}}, &wait, nil)
	switch {
	case err == nil && n == 0, errors.Is(err, unix.EINTR):
		return 0, os.ErrDeadlineExceeded
	case err != nil:
		return 0, err
	}
	n, err = unix.Read(d.fd, b)
	if errors.Is(err, unix.EAGAIN) {
		return 0, os.ErrDeadlineExceeded
	}
	return n, err
}

// send gives the frame to the device, or drops it when the device takes none: the next
// advertisement comes soon.
func (d *device) send(frame []byte) error {
	to := d.to
	copy(to.Addr[:], frame[:6])
	return unix.Sendto(d.fd, frame, unix.MSG_DONTWAIT, &to)
}

func (d *device) hardware() [6]byte { return kernel.PacketHardware(d.fd) }

// gone asks in a way that takes none of the kernel's locks: netlink may have to wait for
// seconds while others make or remove links.
func (d *device) gone() error {
	r, err := unix.NewIfreq(d.name)
	if err != nil {
		return err
	}
	ask := func(request uintptr) error {
		if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(d.fd), request, uintptr(unsafe.Pointer(r))); e != 0 {
			return fmt.Errorf("device %s: %w", d.name, e)
		}
		return nil
	}
	if err := ask(unix.SIOCGIFINDEX); err != nil {
		return err
	}
	if r.Uint32() != uint32(d.index) {
		return fmt.Errorf("device %s is another one", d.name)
	}
	if err := ask(unix.SIOCGIFFLAGS); err != nil {
		return err
	}
	if up := uint16(unix.IFF_UP | unix.IFF_RUNNING); r.Uint16()&up != up {
		return errors.New("device " + d.name + " has no carrier")
	}
	return nil
}

func (d *device) close() {
	unix.Close(d.fd)
	for _, fd := range d.members {
		unix.Close(fd)
	}
}

// urge has the kernel prefer the calling thread to all that is not real-time, where it may,
// and returns what ends that.
func urge() (end func()) {
	was, err := unix.Getpriority(unix.PRIO_PROCESS, 0) // 20 minus the nice value
	if err != nil || unix.Setpriority(unix.PRIO_PROCESS, 0, -20) != nil {
		return func() {}
	}
	return func() { _ = unix.Setpriority(unix.PRIO_PROCESS, 0, 20-was) }
}
