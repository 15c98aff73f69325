//go:build linux

package venue

import (
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"unsafe"

	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// newSpace makes a namespace with its loopback up; defaults, unless nil, runs in it and sets
// what links that come later shall have.
func newSpace(defaults func() error) (*kernel.Namespace, error) {
	ns, err := kernel.NewNamespace()
	if err != nil {
		return nil, err
	}
	err = ns.Do(func() error {
		if err := kernel.SetUp("lo"); err != nil || defaults == nil {
			return err
		}
		return defaults()
	})
	if err != nil {
		ns.Close()
		return nil, err
	}
	return ns, nil
}

// quiet keeps the kernel of this namespace from sending or expecting anything by itself: no
// IPv6 on links that come later, and bridged frames pass no packet filter.
func quiet() error {
	if err := setAll("1", "net/ipv6/conf/all/disable_ipv6", "net/ipv6/conf/default/disable_ipv6"); err != nil {
		return err
	}
	return setAll("0", "net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables", "net/bridge/bridge-nf-call-arptables")
}

// noDAD lets IPv6 addresses serve as soon as they are set: the internet has been there for
// years when a node starts.
func noDAD() error {
	return setAll("0", "net/ipv6/conf/all/accept_dad", "net/ipv6/conf/default/accept_dad")
}

// setAll sets kernel parameters to the value. A kernel without one of them has nothing to
// switch there, so that is no error.
func setAll(value string, names ...string) error {
	for _, name := range names {
		if err := kernel.SetSysctl(name, value); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// addBridge makes a bridge that learns and ages addresses as a switch does.
func addBridge(in *kernel.Namespace, name string) error {
	return in.Do(func() error {
		if err := kernel.AddBridge(name); err != nil {
			return err
		}
		return kernel.SetUp(name)
	})
}

// enslave makes a link of the namespace a port of the bridge. Isolated ports reach only
// ports that are not isolated.
func enslave(in *kernel.Namespace, port, bridge string, isolated bool) error {
	return in.Do(func() error {
		if err := kernel.SetMaster(port, bridge); err != nil {
			return err
		}
		if err := kernel.SetIsolated(port, isolated); err != nil {
			return err
		}
		return kernel.SetUp(port)
	})
}

// join makes a veth pair between two namespaces, both ends up.
func join(a *kernel.Namespace, aName string, b *kernel.Namespace, bName string, mtu int) error {
	if err := a.Do(func() error { return kernel.AddVeth(aName, bName, b) }); err != nil {
		return err
	}
	up := func(name string) func() error {
		return func() error {
			if err := kernel.SetMTU(name, mtu); err != nil {
				return err
			}
			return kernel.SetUp(name)
		}
	}
	if err := a.Do(up(aName)); err != nil {
		return err
	}
	return b.Do(up(bName))
}

// borrowMAC gives link the hardware address of another of the same namespace, as a VLAN
// interface has its parent's.
func borrowMAC(in *kernel.Namespace, link, of string) error {
	return in.Do(func() error {
		from, err := kernel.FindLink(of)
		if err != nil {
			return err
		}
		to, err := netlink.LinkByName(link)
		if err == nil {
			err = netlink.LinkSetHardwareAddr(to, from.MAC)
		}
		if err != nil {
			return fmt.Errorf("set hardware address of %s: %w", link, err)
		}
		return nil
	})
}

// fullChecksums makes the kernel put real checksums into what it sends on the link, as a
// network card would: over a veth pair it leaves them out, and our devices read raw frames.
func fullChecksums(in *kernel.Namespace, link string) error {
	// struct ethtool_value and struct ifreq of linux/ethtool.h and linux/if.h.
	value := struct{ command, data uint32 }{unix.ETHTOOL_STXCSUM, 0}
	var request struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	copy(request.name[:unix.IFNAMSIZ-1], link)
	request.data = unsafe.Pointer(&value)
	return in.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open socket: %w", err)
		}
		defer unix.Close(fd)
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
		runtime.KeepAlive(&value)
		if errno != 0 {
			return fmt.Errorf("switch off checksum offload of %s: %w", link, errno)
		}
		return nil
	})
}
