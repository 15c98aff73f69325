//go:build linux

package vrrp

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/kernel"
)

// keeper is where service addresses are while this node has them. Safe for concurrent use.
type keeper interface {
	hold(device string, a netip.Addr) error
	drop(device string, a netip.Addr) error
	// sweep removes what an earlier process may have left on the device.
	sweep(device string, a netip.Addr) error
	// silent tells that the kernel does not answer who asks for the address.
	silent() bool
	where() string
	close()
}

// holderName is the TUN device with the service addresses.
const holderName = "hs-vrrp"

// newKeeper makes the TUN device, or does without where there can be none.
func newKeeper(event func(fact.Severity, string, string)) (keeper, error) {
	h, err := kernel.NewHolder(holderName)
	if err == nil {
		return onTUN{h}, nil
	}
	if !errors.Is(err, kernel.ErrNoTUN) {
		return nil, err
	}
	return withoutTUN(err, event), nil
}

// withoutTUN has the addresses on the segments' interfaces, and says so and why.
func withoutTUN(why error, event func(fact.Severity, string, string)) keeper {
	event(fact.Warning, "vrrp-without-tun", fmt.Sprintf(
		"%v: service addresses are on the segments' interfaces for %v at a time, so that they end that long after this process. Give it /dev/net/tun.", why, leased))
	return &onDevice{held: map[netip.Addr]func(){}}
}

func sweep(device string, a netip.Addr) error {
	have, err := kernel.Addresses(device)
	if errors.Is(err, kernel.ErrNoLink) {
		return nil
	}
	for _, x := range have {
		if x.Prefix.Addr() == a || x.Owner == kernel.OwnerVRRP {
			err = errors.Join(err, kernel.DeleteAddress(device, x.Prefix))
		}
	}
	return err
}

// onTUN has the addresses on a device that ends with the process.
type onTUN struct{ h *kernel.Holder }

func (k onTUN) hold(_ string, a netip.Addr) error       { return k.h.Hold(a) }
func (k onTUN) drop(_ string, a netip.Addr) error       { return k.h.Drop(a) }
func (k onTUN) sweep(device string, a netip.Addr) error { return sweep(device, a) }
func (k onTUN) silent() bool                            { return true }
func (k onTUN) where() string                           { return "on " + k.h.Name() }
func (k onTUN) close()                                  { k.h.Close() }

const (
	// leased is the lifetime of an address without TUN, the shortest that leaves the kernel,
	// which counts in seconds, time to hear of the next.
	leased     = 2 * time.Second
	leaseAgain = 500 * time.Millisecond
)

// onDevice has the addresses on the segment's interface, from where the kernel removes them
// when they are not renewed.
type onDevice struct {
	mu   sync.Mutex
	held map[netip.Addr]func() // what ends the renewals
}

func (k *onDevice) hold(device string, a netip.Addr) error {
	p := netip.PrefixFrom(a, a.BitLen())
	if err := kernel.AddLease(device, p, kernel.OwnerVRRP, leased); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.held[a] != nil {
		return nil
	}
	var tick *time.Timer
	ended := false
	tick = time.AfterFunc(leaseAgain, func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if ended {
			return
		}
		// It may be gone with its link; then it comes with the next hold.
		if kernel.AddLease(device, p, kernel.OwnerVRRP, leased) == nil {
			tick.Reset(leaseAgain)
		}
	})
	k.held[a] = func() { ended = true; tick.Stop() }
	return nil
}

func (k *onDevice) drop(device string, a netip.Addr) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if end := k.held[a]; end != nil {
		end()
		delete(k.held, a)
	}
	err := kernel.DeleteAddress(device, netip.PrefixFrom(a, a.BitLen()))
	if errors.Is(err, kernel.ErrNoLink) {
		return nil
	}
	return err
}

func (k *onDevice) sweep(device string, a netip.Addr) error { return sweep(device, a) }
func (k *onDevice) silent() bool                            { return false }

func (k *onDevice) where() string {
	return fmt.Sprintf("on the segment's interface for %v at a time, because no TUN device can be made", leased)
}

func (k *onDevice) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, end := range k.held {
		end()
	}
}
