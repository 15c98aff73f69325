//go:build linux

package main

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/hotstage/hotstage/bench/rig"
	"github.com/hotstage/hotstage/internal/testnet"
)

// TestProbeOfEcho: the prober has every answer of the echo, each at the time of its coming, and
// the echo ends when it is told to.
func TestProbeOfEcho(t *testing.T) {
	testnet.Root(t)
	server, client := testnet.Namespace(t), testnet.Namespace(t)
	testnet.Veth(t, server, "v0", []string{"10.64.0.1/16"}, client, "w0", []string{clientAddr + "/16"})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	testnet.Do(t, server, func() error {
		conns, err := listenEcho(ctx, "10.64.0.1:53")
		if err == nil {
			go func() { ended <- serveEcho(ctx, conns) }()
		}
		return err
	})
	s := &stage{b: &bench{Bench: &rig.Bench{Ctx: ctx}}, server: server, client: client, addr: netip.MustParseAddr("10.64.0.1")}
	got, err := s.probe(load{from: clientAddr, rate: 2000, most: 500 * time.Millisecond, wait: patience, ports: 4})
	if err != nil {
		t.Fatal(err)
	}
	if got.sent != 1000 || got.lost > 10 || got.p50 <= 0 || got.p50 > got.p99 || got.p99 > got.p999 || got.p999 > got.max {
		t.Errorf("got %+v", got)
	}
	s.addr = netip.MustParseAddr("10.64.0.2") // nobody
	if got, err := s.probe(load{from: clientAddr, rate: 1000, most: 100 * time.Millisecond, wait: 200 * time.Millisecond, ports: 4}); err != nil || got.lost != got.sent {
		t.Errorf("of nobody: %+v, %v", got, err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
