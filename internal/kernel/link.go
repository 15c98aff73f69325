//go:build linux

package kernel

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ErrNoLink is the cause when a link does not exist.
var ErrNoLink = errors.New("no such link")

// ErrNoVLAN is the cause when the kernel has no 802.1Q.
var ErrNoVLAN = errors.New("this kernel has no 802.1Q (module 8021q): load it by modprobe 8021q, or make an interface of that name by other means")

// Link is what the kernel says of a network interface at one moment.
type Link struct {
	Name     string
	Index    int
	Kind     string // "veth", "vlan", "bridge"; "device" for hardware
	MAC      net.HardwareAddr
	MTU      int
	Up       bool   // set up by somebody
	Carrier  bool   // up, and the other end is there
	Master   string // bridge that it is a port of, or ""
	Isolated bool   // bridge port that reaches only ports that are not isolated
	Parent   int    // index of the link that a VLAN interface is on, or 0
	VLAN     int    // 0 unless Kind is "vlan"
}

// FindLink reads the link of that name in the calling thread's namespace; the cause is
// ErrNoLink when there is none.
func FindLink(name string) (Link, error) {
	l, err := find(name)
	if err != nil {
		return Link{}, err
	}
	a := l.Attrs()
	out := Link{
		Name: a.Name, Index: a.Index, Kind: l.Type(), MAC: a.HardwareAddr, MTU: a.MTU,
		Up: a.Flags&net.FlagUp != 0, Carrier: a.Flags&net.FlagUp != 0 && a.RawFlags&unix.IFF_LOWER_UP != 0,
	}
	if v, ok := l.(*netlink.Vlan); ok {
		out.VLAN, out.Parent = v.VlanId, a.ParentIndex
	}
	if a.MasterIndex == 0 {
		return out, nil
	}
	master, err := netlink.LinkByIndex(a.MasterIndex)
	if err != nil {
		return Link{}, fmt.Errorf("find master of link %s: %w", name, err)
	}
	out.Master = master.Attrs().Name
	if p, err := netlink.LinkGetProtinfo(l); err == nil {
		out.Isolated = p.Isolated
	}
	return out, nil
}

func find(name string) (netlink.Link, error) {
	l, err := netlink.LinkByName(name)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return nil, fmt.Errorf("link %s: %w", name, ErrNoLink)
	}
	if err != nil {
		return nil, fmt.Errorf("find link %s: %w", name, err)
	}
	return l, nil
}

// AddVLAN makes the VLAN interface name on parent, down. The cause is ErrNoVLAN on a kernel
// without 802.1Q.
func AddVLAN(name, parent string, id int) error {
	p, err := find(parent)
	if err != nil {
		return fmt.Errorf("add VLAN interface %s: %w", name, err)
	}
	a := netlink.NewLinkAttrs()
	a.Name, a.ParentIndex = name, p.Attrs().Index
	err = netlink.LinkAdd(&netlink.Vlan{LinkAttrs: a, VlanId: id, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q})
	if errors.Is(err, unix.EOPNOTSUPP) {
		err = ErrNoVLAN
	}
	if err != nil {
		return fmt.Errorf("add VLAN interface %s: %w", name, err)
	}
	return nil
}

// AddBridge makes a bridge without spanning tree, so that its ports forward at once, and
// without multicast snooping, which drops neighbour solicitations where nobody queries.
func AddBridge(name string) error {
	a := netlink.NewLinkAttrs()
	a.Name = name
	snooping := false
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: a, MulticastSnooping: &snooping}); err != nil {
		return fmt.Errorf("add bridge %s: %w", name, err)
	}
	return nil
}

// AddVeth makes a pair of links, down; the peer in the namespace, nil for the same one.
func AddVeth(name, peer string, in *Namespace) error {
	a := netlink.NewLinkAttrs()
	a.Name = name
	v := &netlink.Veth{LinkAttrs: a, PeerName: peer}
	if in != nil {
		v.PeerNamespace = netlink.NsFd(in.FD())
	}
	if err := netlink.LinkAdd(v); err != nil {
		return fmt.Errorf("add veth pair %s and %s: %w", name, peer, err)
	}
	return nil
}

// SetUp sets the link up.
func SetUp(name string) error {
	return change(name, "set up", netlink.LinkSetUp)
}

// SetMTU sets the largest packet of the link, in bytes.
func SetMTU(name string, mtu int) error {
	return change(name, fmt.Sprintf("set MTU %d on", mtu), func(l netlink.Link) error { return netlink.LinkSetMTU(l, mtu) })
}

// SetMaster makes the link a port of the bridge.
func SetMaster(name, bridge string) error {
	b, err := find(bridge)
	if err != nil {
		return err
	}
	return change(name, "put into "+bridge, func(l netlink.Link) error { return netlink.LinkSetMaster(l, b) })
}

// SetIsolated says whether a bridge port is cut off from the other isolated ports.
func SetIsolated(name string, isolated bool) error {
	return change(name, "isolate", func(l netlink.Link) error { return netlink.LinkSetIsolated(l, isolated) })
}

func change(name, what string, f func(netlink.Link) error) error {
	l, err := find(name)
	if err != nil {
		return err
	}
	if err := f(l); err != nil {
		return fmt.Errorf("%s link %s: %w", what, name, err)
	}
	return nil
}

// Has8021Q tells whether the kernel can make VLAN interfaces, by trying it in a namespace
// of its own. Versions and /proc/config.gz do not tell: modules come and go.
func Has8021Q() (bool, error) {
	ns, err := NewNamespace()
	if err != nil {
		return false, err
	}
	defer ns.Close()
	err = ns.Do(func() error {
		if err := AddVeth("a", "b", nil); err != nil {
			return err
		}
		return AddVLAN("a.1", "a", 1)
	})
	if errors.Is(err, ErrNoVLAN) {
		return false, nil
	}
	return err == nil, err
}
