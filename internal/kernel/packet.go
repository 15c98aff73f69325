//go:build linux

package kernel

import (
	"fmt"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// BindPacket binds a packet socket of protocol 0, which has heard nothing yet, to the device of
// that index: from then on it hears the frames that arrive there and pass the filter, and none
// that leave. Without a filter it hears all.
func BindPacket(fd, index int, filter []bpf.Instruction) error {
	if len(filter) > 0 {
		raw, err := bpf.Assemble(filter)
		if err != nil {
			return err
		}
		program := make([]unix.SockFilter, len(raw))
		for i, r := range raw {
			program[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
		}
		if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}); err != nil {
			return fmt.Errorf("attach filter: %w", err)
		}
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1); err != nil {
		return fmt.Errorf("ignore outgoing frames: %w", err)
	}
	const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8 // in network byte order
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: index}); err != nil {
		return fmt.Errorf("bind packet socket: %w", err)
	}
	return nil
}

// PacketHardware is the hardware address that the device of a bound packet socket has now: a
// bridge changes it with its ports. It is zero when the device is gone.
func PacketHardware(fd int) (mac [6]byte) {
	// packet(7): the name of a bound packet socket has the device's address.
	if a, err := unix.Getsockname(fd); err == nil {
		if l, ok := a.(*unix.SockaddrLinklayer); ok {
			copy(mac[:], l.Addr[:6])
		}
	}
	return mac
}
