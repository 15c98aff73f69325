//go:build linux

package crowd

import (
	"context"
	"testing"
	"time"

	"github.com/hotstage/hotstage/internal/testnet"
)

// TestForeignToolsReachDevices lets ping and arping judge a device's ARP, ICMP and
// neighbour discovery.
func TestForeignToolsReachDevices(t *testing.T) {
	tools := testnet.Tools(t, "ping", "arping")
	v := newTestVenue(t, 5)
	v.cfg.Doors, v.cfg.Stay, v.cfg.Probes, v.cfg.Names, v.cfg.Own = time.Second, 10*time.Second, -1, nil, nil
	v.play(func(ctx context.Context, c *Crowd) {
		for c.Snapshot().Bound < 10 && ctx.Err() == nil {
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(2500 * time.Millisecond) // duplicate address detection takes two seconds
		c.w.lock()
		d := c.w.devices[0]
		v4, v6 := d.lease.addr.String(), d.slaac.addr.String()
		c.w.unlock()
		for _, args := range [][]string{
			{tools[0], "-c3", "-i0.2", "-W2", v4},
			{tools[0], "-c3", "-i0.2", "-W2", v6},
			{tools[0], "-c1", "-s1400", "-W2", v4},
			{tools[1], "-c2", "-w3", "-I", "br-a", v4},
		} {
			if out, err := testnet.Output(v.node, args[0], args[1:]...); err != nil {
				t.Errorf("%v: %v\n%s", args, err, out)
			}
		}
		c.w.lock()
		if c.w.tally.pinged != 7 {
			t.Errorf("devices answered %d echo requests, want 7", c.w.tally.pinged)
		}
		c.w.unlock()
	})
}
