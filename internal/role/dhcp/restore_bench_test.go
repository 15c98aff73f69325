package dhcp

import (
	"encoding/hex"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/plan"
)

// BenchmarkRestore is the start of a segment with 100,000 leases.
func BenchmarkRestore(b *testing.B) {
	const n = 100_000
	cfg := Segment{
		Name: "hall", Lease: time.Hour, Server: netip.MustParseAddr("10.4.0.2"), Prefix: netip.MustParsePrefix("10.4.0.0/14"),
		Pool: plan.Range{From: netip.MustParseAddr("10.4.1.0"), To: netip.MustParseAddr("10.6.255.255")},
	}
	at := read(SystemClock())
	leases := make([]fact.Lease, n)
	for i := range leases {
		mac := net.HardwareAddr{2, 0, 0, byte(i >> 16), byte(i >> 8), byte(i)}
		leases[i] = fact.Lease{
			Segment: "hall", Addr: address(number(cfg.Pool.From) + uint32(i*7919%n)), Client: "mac:" + mac.String(), MAC: mac, State: fact.LeaseBound,
			Hostname: "pc-" + hex.EncodeToString(mac[3:]), Start: at.wall, Expires: at.wall.Add(time.Duration(3600e9 - i*104729%n)), Boot: "this", ExpiresBoot: at.boot + time.Duration(3600e9-i*104729%n),
		}
	}
	for b.Loop() {
		g, err := newSegment(cfg, "this", newNames(nil))
		if err != nil {
			b.Fatal(err)
		}
		if out := g.restore(at, leases); out > 0 || g.pool.leased() != n {
			b.Fatal(out, g.pool.leased())
		}
	}
}
