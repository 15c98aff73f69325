//go:build linux

// Package testnet gives one test a network of its own: anonymous namespaces and veth pairs
// that are gone when the test is. It also decides when a missing tool or privilege skips a
// test and when it fails it.
package testnet

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Missing skips the test, or fails it when HOTSTAGE_MUST names the kind (a comma-separated
// list of netns, interop, vm, browser): a skipped test must not look like a passed one.
func Missing(t testing.TB, kind, why string) {
	t.Helper()
	if must(kind) {
		t.Fatalf("%s tests must run here (HOTSTAGE_MUST), but %s", kind, why)
	}
	t.Skipf("%s: %s", kind, why)
}

func must(kind string) bool {
	return slices.Contains(strings.Split(os.Getenv("HOTSTAGE_MUST"), ","), kind)
}

// Root needs the privilege to make network namespaces, and time: go test -short goes without
// networks.
func Root(t testing.TB) {
	t.Helper()
	if testing.Short() && !must("netns") {
		t.Skip("netns: -short goes without networks")
	}
	ns, err := kernel.NewNamespace()
	if err != nil {
		Missing(t, "netns", err.Error())
	}
	ns.Close()
}

// Tools needs the named programs of Debian's packages, and root; it returns their paths.
func Tools(t testing.TB, names ...string) []string {
	t.Helper()
	Root(t)
	var paths []string
	for _, name := range names {
		path, err := exec.LookPath(name)
		if err != nil {
			for _, dir := range []string{"/usr/sbin/", "/sbin/", "/usr/bin/", "/bin/"} {
				if _, e := os.Stat(dir + name); e == nil {
					path, err = dir+name, nil
				}
			}
		}
		if err != nil {
			Missing(t, "interop", name+" is not installed")
		}
		paths = append(paths, path)
	}
	return paths
}

// Namespace makes a namespace for the test, with its loopback up.
func Namespace(t testing.TB) *kernel.Namespace {
	t.Helper()
	Root(t)
	ns, err := kernel.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	Do(t, ns, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
	return ns
}

// Do runs f in the namespace and fails the test on an error.
func Do(t testing.TB, ns *kernel.Namespace, f func() error) {
	t.Helper()
	if err := ns.Do(f); err != nil {
		t.Fatal(err)
	}
}

// Veth joins two namespaces by a pair of links with the given addresses ("10.0.0.1/24",
// as many as wanted), both up. Without IPv6 duplicate address detection, so that the
// addresses serve at once.
func Veth(t testing.TB, a *kernel.Namespace, aName string, aAddrs []string, b *kernel.Namespace, bName string, bAddrs []string) {
	t.Helper()
	Do(t, a, func() error {
		v := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: aName, TxQLen: 1000}, PeerName: bName, PeerNamespace: netlink.NsFd(b.FD())}
		return netlink.LinkAdd(v)
	})
	up := func(ns *kernel.Namespace, name string, addrs []string) {
		Do(t, ns, func() error {
			l, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			for _, s := range addrs {
				ad, err := netlink.ParseAddr(s)
				if err != nil {
					return err
				}
				if ad.IP.To4() == nil {
					ad.Flags = unix.IFA_F_NODAD
				}
				if err := netlink.AddrAdd(l, ad); err != nil {
					return err
				}
			}
			return netlink.LinkSetUp(l)
		})
	}
	up(a, aName, aAddrs)
	up(b, bName, bAddrs)
}

// Output runs a program in the namespace and returns what it printed on both streams; the
// error is of the program.
func Output(ns *kernel.Namespace, name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := ns.Start(cmd); err != nil {
		return "", err
	}
	err := cmd.Wait()
	return out.String(), err
}
