//go:build linux

package rig

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"syscall"

	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Namespaces makes n namespaces whose loopback is up, or none. The caller closes them.
func Namespaces(n int) (all []*kernel.Namespace, err error) {
	defer func() {
		if err != nil {
			Close(all)
			all = nil
		}
	}()
	for range n {
		ns, err := kernel.NewNamespace()
		if err != nil {
			return all, err
		}
		all = append(all, ns)
		if err := ns.Do(func() error { return Up("lo") }); err != nil {
			return all, err
		}
	}
	return all, nil
}

// Close gives the namespaces back; nil ones are passed over.
func Close(all []*kernel.Namespace) {
	for _, ns := range all {
		if ns != nil {
			ns.Close()
		}
	}
}

// Up gives a link of the calling thread's namespace the addresses ("10.0.0.1/24") and sets it
// up. IPv6 addresses serve at once.
func Up(name string, addrs ...string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("link %s: %w", name, err)
	}
	for _, s := range addrs {
		a, err := netlink.ParseAddr(s)
		if err != nil {
			return err
		}
		if a.IP.To4() == nil {
			a.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(l, a); err != nil {
			return fmt.Errorf("address %s on %s: %w", s, name, err)
		}
	}
	return netlink.LinkSetUp(l)
}

// End is one end of a link: its name, where it is and its addresses.
type End struct {
	In    *kernel.Namespace
	Name  string
	Addrs []string
}

// Join makes a link between two namespaces, both ends up.
func Join(a, b End) error {
	err := a.In.Do(func() error {
		l := netlink.NewLinkAttrs()
		l.Name = a.Name
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: l, PeerName: b.Name, PeerNamespace: netlink.NsFd(b.In.FD())})
	})
	if err != nil {
		return fmt.Errorf("link %s to %s: %w", a.Name, b.Name, err)
	}
	for _, e := range []End{a, b} {
		if err := e.In.Do(func() error { return Up(e.Name, e.Addrs...) }); err != nil {
			return err
		}
	}
	return nil
}

// Run runs a program in the namespace to its end, or kills it when ctx ends, and returns what
// it said and what it took.
func Run(ctx context.Context, ns *kernel.Namespace, name string, args ...string) (string, *exec.Cmd, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := ns.Start(cmd); err != nil {
		return "", cmd, err
	}
	err := cmd.Wait()
	return out.String(), cmd, err
}
