//go:build linux

package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"syscall"

	"github.com/ti-mo/conntrack"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Tracking is what connection tracking says of itself in one namespace.
type Tracking struct {
	Count int // flows in the table
	Max   int // that fit; the host's, for all namespaces together
	// Since the namespace was made: new flows that were dropped because the table was full or
	// no port was free, and flows that were forgotten early to make room.
	InsertFailed, Dropped, EarlyDropped uint64
}

// ReadTracking reads the numbers of the calling thread's namespace. The cause is
// fs.ErrNotExist while nothing tracks connections there.
func ReadTracking() (Tracking, error) {
	var t Tracking
	var err error
	if t.Count, err = number("net/netfilter/nf_conntrack_count"); err != nil {
		return t, err
	}
	if t.Max, err = number("net/netfilter/nf_conntrack_max"); err != nil {
		return t, err
	}
	c, err := conntrack.Dial(nil)
	if err != nil {
		return t, fmt.Errorf("open conntrack: %w", err)
	}
	defer c.Close()
	all, err := c.Stats()
	if err != nil {
		return t, fmt.Errorf("read conntrack statistics: %w", err)
	}
	for _, s := range all { // by processor
		t.InsertFailed += uint64(s.InsertFailed)
		t.Dropped += uint64(s.Drop)
		t.EarlyDropped += uint64(s.EarlyDrop)
	}
	return t, nil
}

// Session counts flows by the address that answers go to, and the protocol.
type Session struct {
	Addr     netip.Addr
	Protocol uint8 // unix.IPPROTO_TCP and so on
}

// Sessions counts the calling namespace's IPv4 flows by where answers are sent: for
// translated flows, the address of the exit. It walks the whole table (25,000 flows are
// about 0.1 s of a core), without keeping it. Only the addresses that keep accepts are counted.
func Sessions(keep func(netip.Addr) bool) (map[Session]int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("list flows: %w", err)
	}
	defer unix.Close(fd)
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|nl.IPCTNL_MSG_CT_GET, unix.NLM_F_DUMP)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_INET, Version: nl.NFNETLINK_V0})
	if err := unix.Sendto(fd, req.Serialize(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, fmt.Errorf("list flows: %w", err)
	}
	all := map[Session]int{}
	for buffer := make([]byte, 1<<16); ; {
		n, _, err := unix.Recvfrom(fd, buffer, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list flows: %w", err)
		}
		messages, err := syscall.ParseNetlinkMessage(buffer[:n])
		if err != nil {
			return nil, fmt.Errorf("list flows: %w", err)
		}
		for _, m := range messages {
			switch m.Header.Type {
			case unix.NLMSG_DONE:
				return all, nil
			case unix.NLMSG_ERROR:
				if len(m.Data) >= 4 {
					return nil, fmt.Errorf("list flows: %w", unix.Errno(-int32(binary.NativeEndian.Uint32(m.Data))))
				}
				return nil, errors.New("list flows: the kernel answered with an error that can't be read")
			}
			if s, ok := answered(m.Data); ok && keep(s.Addr) {
				all[s]++
			}
		}
	}
}

// Attributes of linux/netfilter/nfnetlink_conntrack.h.
const (
	ctaTupleReply = 2
	ctaTupleIP    = 1
	ctaTupleProto = 2
	ctaIPv4Dst    = 2
	ctaProtoNum   = 1
)

// answered reads where a flow's answers go.
func answered(message []byte) (s Session, ok bool) {
	if len(message) < nl.SizeofNfgenmsg {
		return s, false
	}
	reply := attribute(message[nl.SizeofNfgenmsg:], ctaTupleReply)
	dst := attribute(attribute(reply, ctaTupleIP), ctaIPv4Dst)
	proto := attribute(attribute(reply, ctaTupleProto), ctaProtoNum)
	if len(dst) != 4 || len(proto) < 1 {
		return s, false
	}
	return Session{netip.AddrFrom4([4]byte(dst)), proto[0]}, true
}

// attribute is the value of the first netlink attribute of that type, nil without one.
func attribute(b []byte, want uint16) []byte {
	for len(b) >= unix.NLA_HDRLEN {
		length := int(binary.NativeEndian.Uint16(b))
		if length < unix.NLA_HDRLEN || length > len(b) {
			return nil
		}
		if binary.NativeEndian.Uint16(b[2:])&nl.NLA_TYPE_MASK == want {
			return b[unix.NLA_HDRLEN:length]
		}
		b = b[min(len(b), (length+unix.NLA_ALIGNTO-1)&^(unix.NLA_ALIGNTO-1)):]
	}
	return nil
}

// CanTime tells whether the kernel has timers (ct timeout objects) for the protocol, by
// making one and removing it.
func CanTime(protocol uint8) (bool, error) {
	t := Table{Name: "hotstage_probe", Timers: []Timer{{Name: "probe", Protocol: protocol, States: map[uint16]uint32{0: 60}}}}
	err := t.Write()
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOENT) || errors.Is(err, fs.ErrInvalid) || errors.Is(err, unix.EINVAL) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, DeleteTable(t.Name)
}
