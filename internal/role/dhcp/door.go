package dhcp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/hotstage/hotstage/internal/wire"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	serverPort = 67 // RFC 2131 section 4.1
	clientPort = 68
	// messageRoom holds the longest message that an Ethernet frame brings.
	messageRoom = 1500
	// receiveBatch is how many messages one system call brings at most.
	receiveBatch = 64
	// gatherFor is how long messages gather while more than one comes in that time: a message
	// that comes alone costs several times as much, most of it to wake up for it and to have
	// its lease on disk. Who comes while nobody else does is answered at once.
	gatherFor = time.Millisecond
	// socketBuffer holds a burst of 6,000 DISCOVERs: the kernel accounts about 1 KiB each.
	socketBuffer = 8 << 20
)

// door is how messages come and go on one device. receive is for one goroutine; the rest is
// safe for concurrent use. send never waits; replies that the device does not take become
// undelivered.
type door interface {
	receive(in []packet) (int, error)
	send(es []*entry, server netip.Addr)
	check() error // nil as long as the device is the one that was opened
	interrupt()   // ends receive, send goes on
	Close() error
}

// packet is one message received.
type packet struct {
	data      []byte // within the packet's own buffer
	from      netip.Addr
	broadcast bool
}

// socketDoor is a door on a device of the namespace that it was opened in: a UDP socket for
// what comes and for clients that have an address, a packet socket for the others.
type socketDoor struct {
	device string
	to     netip.Addr
	index  int
	conn   *net.UDPConn
	udp    syscall.RawConn
	in     *inbox
	rush   bool // more than one message came, and less than there was room for

	raw     *os.File
	frames  syscall.RawConn
	netlink *netlink.Handle

	mu     sync.Mutex
	mac    [6]byte // the device's; a bridge changes it with its ports
	routed *outbox // to clients that have an address, and to relays
	handed *outbox // to the others
}

// openDoor opens the device, which must be there and up, and hears what is sent to the
// address: all that comes, when it is 0.0.0.0.
func openDoor(device string, to netip.Addr) (door, error) {
	d := &socketDoor{device: device, to: to}
	if err := d.open(); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

func (d *socketDoor) open() error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	d.netlink = h
	if err := d.look(); err != nil {
		return err
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if e := c.Control(func(fd uintptr) { err = prepare(int(fd), d.device) }); e != nil {
			return e
		}
		return err
	}}
	pc, err := lc.ListenPacket(context.Background(), "udp4", fmt.Sprintf("%v:%d", d.to, serverPort))
	if err != nil {
		return fmt.Errorf("listen on %s port %d: %w", d.device, serverPort, err)
	}
	d.conn = pc.(*net.UDPConn)
	if d.udp, err = d.conn.SyscallConn(); err != nil {
		return err
	}
	d.in, d.routed, d.handed = newInbox(), newOutbox(), newOutbox()
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0) // protocol 0 receives nothing
	if err != nil {
		return fmt.Errorf("open packet socket on %s: %w", d.device, err)
	}
	enlarge(fd)
	d.raw = os.NewFile(uintptr(fd), d.device)
	d.frames, err = d.raw.SyscallConn()
	return err
}

func prepare(fd int, device string) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return fmt.Errorf("share port %d: %w", serverPort, err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1); err != nil {
		return fmt.Errorf("allow broadcast: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_PKTINFO, 1); err != nil {
		return fmt.Errorf("ask for destination addresses: %w", err)
	}
	if err := unix.BindToDevice(fd, device); err != nil {
		return fmt.Errorf("bind to device: %w", err)
	}
	enlarge(fd)
	return nil
}

// enlarge asks for larger buffers: beyond the host's limit when root, up to it otherwise.
// What it gets is enough to serve, only not for the largest burst.
func enlarge(fd int) {
	for _, o := range [2][2]int{{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}, {unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}} {
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, o[0], socketBuffer) != nil {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, o[1], socketBuffer)
		}
	}
}

// look reads the device's index and hardware address.
func (d *socketDoor) look() error {
	l, err := d.netlink.LinkByName(d.device)
	if err != nil {
		return fmt.Errorf("device %s: %w", d.device, err)
	}
	a := l.Attrs()
	switch {
	case a.Flags&net.FlagUp == 0:
		return fmt.Errorf("device %s is down", d.device)
	case len(a.HardwareAddr) != 6:
		return fmt.Errorf("device %s has no Ethernet address", d.device)
	case d.index != 0 && a.Index != d.index:
		return fmt.Errorf("device %s was made anew", d.device)
	}
	d.mu.Lock()
	d.index, d.mac = a.Index, [6]byte(a.HardwareAddr)
	d.mu.Unlock()
	return nil
}

func (d *socketDoor) check() error { return d.look() }

func (d *socketDoor) interrupt() { d.conn.SetReadDeadline(time.Now()) }

// Close ends receive; it may be called more than once.
func (d *socketDoor) Close() error {
	var errs []error
	if d.conn != nil {
		errs = append(errs, d.conn.Close())
	}
	if d.raw != nil {
		errs = append(errs, d.raw.Close())
	}
	if d.netlink != nil {
		d.netlink.Close()
	}
	return errors.Join(errs...)
}

func (d *socketDoor) receive(in []packet) (int, error) {
	if d.rush {
		// A system call and not time.Sleep: for so short a time Go's scheduler, which would put
		// itself to sleep and wake up, costs as much as all the rest of an exchange.
		pause := unix.NsecToTimespec(int64(gatherFor))
		_ = unix.Nanosleep(&pause, nil) // shorter when a signal comes
	}
	n, err := d.in.receive(d.udp, in)
	d.rush = n > 1 && n < len(in)
	return n, err
}

// send: RFC 2131 section 4.1. The kernel resolves the address of a client that has one.
func (d *socketDoor) send(es []*entry, server netip.Addr) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for len(es) > 0 {
		n := min(len(es), sendBatch)
		for _, e := range es[:n] {
			d.put(e, server)
		}
		d.routed.send(d.udp)
		d.handed.send(d.frames)
		es = es[n:]
	}
}

// put addresses the reply and puts it into the outbox that it goes by; mu is held.
func (d *socketDoor) put(e *entry, server netip.Addr) {
	a := &e.reply
	switch a.way {
	case toAddress:
		d.routed.route(a, clientPort)
		return
	case toRelay:
		d.routed.route(a, serverPort) // RFC 2131 section 4.1
		return
	}
	f := wire.UDPFrame{SrcMAC: d.mac, DstMAC: a.mac, Src: server, Dst: a.dst, SrcPort: serverPort, DstPort: clientPort}
	if a.way == toAll {
		f.DstMAC = [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	}
	wire.PutUDPFrame(a.frame, &f)
	d.handed.hand(a, d.index, f.DstMAC)
}

// sendNow sends or fails, and does not wait for room: the client asks again, and nobody
// else waits for its reply.
func sendNow(c syscall.RawConn, b []byte, to unix.Sockaddr) error {
	var err error
	if e := c.Control(func(fd uintptr) {
		for {
			err = unix.Sendto(int(fd), b, unix.MSG_DONTWAIT, to)
			if !errors.Is(err, unix.EINTR) {
				return
			}
		}
	}); e != nil {
		return e
	}
	return err
}

// retry waits between attempts to open a device: at first 100 ms, then up to 2 s.
func retry(n int) time.Duration {
	return min(100*time.Millisecond<<min(n, 5), 2*time.Second)
}
