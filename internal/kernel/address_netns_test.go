//go:build linux

package kernel_test

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/hotstage/hotstage/internal/testnet"
)

func pair(t *testing.T) *kernel.Namespace {
	t.Helper()
	ns := testnet.Namespace(t)
	testnet.Do(t, ns, func() error {
		if err := kernel.AddVeth("a", "b", nil); err != nil {
			return err
		}
		if err := kernel.SetUp("b"); err != nil {
			return err
		}
		return kernel.SetUp("a")
	})
	return ns
}

// The kernel keeps who set an address, so what a plan no longer has can be told from what
// others have set.
func TestAddressesKeepTheirOwner(t *testing.T) {
	v4, v6 := netip.MustParsePrefix("10.1.2.3/20"), netip.MustParsePrefix("2001:db8::1/64")
	testnet.Do(t, pair(t), func() error {
		for _, p := range []netip.Prefix{v4, v6} {
			for range 2 { // adding again changes nothing
				if err := kernel.AddAddress("a", p, kernel.OwnerSegment); err != nil {
					return err
				}
			}
		}
		got, err := kernel.Addresses("a")
		if err != nil {
			return err
		}
		var global []kernel.Address
		for _, a := range got {
			if !a.Prefix.Addr().IsLinkLocalUnicast() {
				global = append(global, a)
			}
		}
		want := []kernel.Address{{v4, kernel.OwnerSegment, true}, {v6, kernel.OwnerSegment, true}}
		if diff := cmp.Diff(want, global, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
			t.Errorf("addresses (-want +got):\n%s", diff)
		}
		for range 2 {
			if err := kernel.DeleteAddress("a", v4); err != nil {
				return err
			}
		}
		return nil
	})
}

func TestRouteChanges(t *testing.T) {
	lan := netip.MustParsePrefix("10.1.0.1/24")
	want := []kernel.Route{
		{To: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("10.1.0.254"), Device: "a", Metric: 100},
		{To: netip.MustParsePrefix("198.51.100.0/24"), Via: netip.MustParseAddr("192.0.2.1"), Device: "a", OnLink: true},
		{To: netip.MustParsePrefix("203.0.113.9/32"), Unreachable: true},
		{To: netip.MustParsePrefix("192.0.2.7/32"), Device: "a"},
		{To: netip.MustParsePrefix("::/0"), Via: netip.MustParseAddr("fe80::1"), Device: "a", Metric: 1024},
		{To: netip.MustParsePrefix("2001:db8::/48"), Unreachable: true, Metric: 1024},
	}
	equal := cmp.Options{cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmpopts.EquateEmpty()}
	testnet.Do(t, pair(t), func() error {
		if err := kernel.AddAddress("a", lan, 0); err != nil {
			return err
		}
		add, _, err := kernel.RouteChanges(want, kernel.OwnerUplink)
		if err != nil {
			return err
		}
		if diff := cmp.Diff(want, add, equal); diff != "" {
			t.Errorf("to add (-want +got):\n%s", diff)
		}
		for _, r := range add {
			if err := kernel.AddRoute(r, kernel.OwnerUplink); err != nil {
				return err
			}
		}
		add, remove, err := kernel.RouteChanges(want, kernel.OwnerUplink)
		if err != nil {
			return err
		}
		if len(add)+len(remove) > 0 {
			t.Errorf("after adding: add %v, remove %v", add, remove)
		}
		_, remove, err = kernel.RouteChanges(nil, kernel.OwnerUplink)
		if err != nil {
			return err
		}
		for _, r := range remove {
			if err := kernel.DeleteRoute(r, kernel.OwnerUplink); err != nil {
				return err
			}
		}
		left, err := kernel.Routes(kernel.OwnerUplink)
		if len(left) > 0 {
			t.Errorf("left: %v", left)
		}
		return err
	})
}

func TestWatchTellsOfChanges(t *testing.T) {
	ns := pair(t)
	ctx, cancel := context.WithCancel(t.Context())
	var changed <-chan struct{}
	testnet.Do(t, ns, func() (err error) {
		changed, err = kernel.Watch(ctx)
		return err
	})
	testnet.Do(t, ns, func() error {
		return kernel.AddAddress("a", netip.MustParsePrefix("10.0.0.1/24"), 0)
	})
	select {
	case <-changed:
	case <-time.After(5 * time.Second):
		t.Error("an address was added, and nobody told")
	}
	cancel()
	for range changed {
	}
}
