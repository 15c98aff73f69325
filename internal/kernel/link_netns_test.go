//go:build linux

package kernel_test

import (
	"errors"
	"testing"

	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/hotstage/hotstage/internal/testnet"
)

func TestLinks(t *testing.T) {
	testnet.Do(t, testnet.Namespace(t), func() error {
		if _, err := kernel.FindLink("a"); !errors.Is(err, kernel.ErrNoLink) {
			t.Errorf("a link that is not there: %v", err)
		}
		for _, f := range []func() error{
			func() error { return kernel.AddVeth("a", "b", nil) },
			func() error { return kernel.AddBridge("br1") },
			func() error { return kernel.SetMaster("a", "br1") },
			func() error { return kernel.SetIsolated("a", true) },
			func() error { return kernel.SetMTU("b", 1400) },
			func() error { return kernel.SetUp("a") },
		} {
			if err := f(); err != nil {
				return err
			}
		}
		a, err := kernel.FindLink("a")
		if err != nil {
			return err
		}
		if a.Kind != "veth" || !a.Up || a.Carrier || a.Master != "br1" || !a.Isolated {
			t.Errorf("a is %+v", a)
		}
		b, err := kernel.FindLink("b")
		if err != nil {
			return err
		}
		if b.Up || b.MTU != 1400 || b.Master != "" || b.Isolated {
			t.Errorf("b is %+v", b)
		}
		return nil
	})
}

func TestVLANSaysWhenThereIsNone(t *testing.T) {
	testnet.Root(t)
	has, err := kernel.Has8021Q()
	if err != nil {
		t.Fatal(err)
	}
	testnet.Do(t, testnet.Namespace(t), func() error {
		if err := kernel.AddVeth("a", "b", nil); err != nil {
			return err
		}
		err := kernel.AddVLAN("a.5", "a", 5)
		if has != (err == nil) || err != nil && !errors.Is(err, kernel.ErrNoVLAN) {
			t.Errorf("Has8021Q is %v, but making one: %v", has, err)
		}
		return nil
	})
}
