//go:build linux

package xdp

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Mode is where the program runs on an interface.
type Mode string

// Modes.
const (
	Native  Mode = "native"  // in the driver
	Generic Mode = "generic" // behind the driver: each frame has cost its buffer already
	Off     Mode = "off"
)

// Port is an interface that is to be served.
type Port struct {
	Device string
	Mode   Mode
	Why    string // why not native; "" when it is
}

// port is an interface with the program on it.
type port struct {
	Port
	index int
	mac   [6]byte
	veth  bool
	link  link.Link // nil when off
}

// detach takes the program off the interface.
func (x *port) detach() error {
	if x.link == nil {
		return nil
	}
	err := x.link.Close()
	x.link, x.Mode = nil, Off
	if err != nil {
		return fmt.Errorf("take XDP program off %s: %w", x.Device, err)
	}
	return nil
}

// Tend puts the program on the named interfaces of the calling thread's namespace, and sees
// after those it is on: one that was made anew, has another MAC, or whose other end has changed. Call it
// from time to time. It returns how each of them stands.
func (p *Program) Tend(devices []string) []Port {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []Port
	for _, device := range devices {
		x := p.ports[device]
		if x == nil {
			x = &port{Port: Port{Device: device, Mode: Off}}
			p.ports[device] = x
		}
		if err := p.tend(x); err != nil {
			x.Why = errors.Join(err, x.detach()).Error()
		}
		all = append(all, x.Port)
	}
	return all
}

// tend makes the program run on the interface as well as it can.
func (p *Program) tend(x *port) error {
	l, err := netlink.LinkByName(x.Device)
	if err != nil {
		return err
	}
	at := l.Attrs()
	if len(at.HardwareAddr) != 6 {
		return errors.New("it is no Ethernet interface")
	}
	x.veth = l.Type() == "veth"
	mac := [6]byte(at.HardwareAddr)
	deaf := x.veth && !peerHears(at)
	if x.link != nil && (x.index != at.Index || x.Mode == Native && deaf) {
		if err := x.detach(); err != nil && x.index == at.Index {
			return err
		}
	}
	if x.link != nil && x.mac == mac {
		return nil
	}
	if x.index != 0 && x.index != at.Index {
		p.objects.Ports.Delete(uint32(x.index)) // it may be another's by now, which is not served
	}
	x.index, x.mac = at.Index, mac
	if x.link != nil {
		return p.note(x)
	}
	return p.attach(x, deaf)
}

// note tells the program what it has to know of the interface.
func (p *Program) note(x *port) error {
	if err := p.objects.Ports.Put(uint32(x.index), portOf(x.mac, x.Mode == Generic, x.veth)); err != nil {
		return fmt.Errorf("note its MAC: %w", err)
	}
	return nil
}

// portOf is an interface as the program's map has it.
func portOf(mac [6]byte, generic, veth bool) (x hotPort) {
	x.Mac = mac
	if generic {
		x.Generic = 1
	}
	if veth {
		x.Veth = 1
	}
	return x
}

// attach puts the program into the driver, or behind it. deaf: the other end of a veth pair
// would not hear what the driver sends.
func (p *Program) attach(x *port, deaf bool) (err error) {
	p.objects.Ports.Delete(uint32(x.index)) // nothing is answered before the mode is known
	options := link.XDPOptions{Program: p.objects.Hot, Interface: x.index, Flags: link.XDPDriverMode}
	if deaf {
		x.Why = "the other end of the veth pair has no XDP program: what the driver sends would be lost"
	} else {
		if x.link, err = link.AttachXDP(options); err == nil {
			x.Mode, x.Why = Native, ""
			return p.note(x)
		}
		if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EEXIST) {
			return errors.New("another XDP program is on it: ip link show " + x.Device)
		}
		x.Why = "its driver: " + err.Error()
	}
	options.Program, options.Flags = p.objects.Behind, link.XDPGenericMode
	if x.link, err = link.AttachXDP(options); err != nil {
		x.link = nil
		return err
	}
	x.Mode = Generic
	return p.note(x)
}

// peerHears tells whether the other end of a veth pair takes frames that our end sends from
// XDP: only when it has an XDP program in its driver too. (Or GRO, which cannot be seen from
// another namespace.)
func peerHears(at *netlink.LinkAttrs) bool {
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(at.ParentIndex)
	req.AddData(msg)
	if at.NetNsID >= 0 {
		req.AddData(nl.NewRtAttr(unix.IFLA_TARGET_NETNSID, nl.Uint32Attr(uint32(at.NetNsID))))
	}
	reply, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	if err != nil || len(reply) != 1 {
		return false
	}
	peer, err := netlink.LinkDeserialize(nil, reply[0])
	if err != nil || peer.Attrs().Xdp == nil {
		return false
	}
	const driver = 1 // XDP_ATTACHED_DRV of linux/if_link.h
	return peer.Attrs().Xdp.AttachMode == driver
}
