//go:build linux

package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrNoTUN is the cause when the kernel has no TUN devices, or this process may make none.
var ErrNoTUN = errors.New("no TUN device can be made here (modprobe tun)")

// Holder has addresses for as long as this process lives: they are on a TUN device that ends
// with its descriptor, so that the kernel takes them away at once however the process ends.
// The device is not on any link: nobody answers ARP or neighbour solicitations for what is
// on it, and packets to it are taken by whatever interface they arrive.
type Holder struct {
	name string
	file *os.File
}

// NewHolder makes the device in the calling thread's namespace. The cause is ErrNoTUN where
// that cannot be done. The caller closes it.
func NewHolder(name string) (*Holder, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun: %w: %w", err, ErrNoTUN)
	}
	h := &Holder{name: name, file: os.NewFile(uintptr(fd), "/dev/net/tun")}
	if err := h.prepare(fd); err != nil {
		h.file.Close()
		return nil, fmt.Errorf("make TUN device %s: %w", name, err)
	}
	return h, nil
}

func (h *Holder) prepare(fd int) error {
	r, err := unix.NewIfreq(h.name)
	if err != nil {
		return err
	}
	r.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TUNSETIFF, uintptr(unsafe.Pointer(r))); e != 0 {
		if e == unix.EBUSY {
			return fmt.Errorf("%w: another process has it", e)
		}
		return fmt.Errorf("%w: %w", e, ErrNoTUN)
	}
	// The kernel shall say nothing on it by itself, and no IPv6 setting of others end it.
	for _, s := range [...]struct{ name, value string }{
		{"net/ipv6/conf/" + h.name + "/disable_ipv6", "0"},
		{"net/ipv6/conf/" + h.name + "/addr_gen_mode", "1"}, // no link-local address
		{"net/ipv6/conf/" + h.name + "/accept_ra", "0"},
		{"net/ipv6/conf/" + h.name + "/accept_dad", "0"},
	} {
		if err := SetSysctl(s.name, s.value); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return SetUp(h.name)
}

// Name is the device's.
func (h *Holder) Name() string { return h.name }

// Hold adds an address, which serves at once. Over IPv6 the kernel does not choose it as the
// source of what names none.
func (h *Holder) Hold(a netip.Addr) error {
	p := netip.PrefixFrom(a, a.BitLen())
	life := lifetime{valid: forever, preferred: forever}
	if a.Is6() {
		life.preferred = 0 // deprecated: RFC 6724 section 5, rule 3
	}
	if err := address(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, h.name, p, OwnerVRRP, life); err != nil {
		return fmt.Errorf("hold %s on %s: %w", a, h.name, err)
	}
	return nil
}

// Drop takes an address away; one that is not held is no error.
func (h *Holder) Drop(a netip.Addr) error {
	return DeleteAddress(h.name, netip.PrefixFrom(a, a.BitLen()))
}

// Close removes the device and all that is on it.
func (h *Holder) Close() error { return h.file.Close() }
