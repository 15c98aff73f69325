//go:build linux

package segment

import (
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"testing"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/hotstage/hotstage/internal/testnet"
	"github.com/prometheus/client_golang/prometheus"
)

// Segments of several ports, which the node bridges:
//
//	h1 ── eth1 ─┐                h3 ── eth3 ─┐
//	            ├ a, isolated                ├ server, not
//	h2 ── eth2 ─┘                h4 ── eth4 ─┘
const bridgedVenue = `
event: {name: Bridged, attendees: 10}
sites: {venue: {uplinks: {isp: {ipv4: [203.0.113.1]}}}}
segments:
  a: {class: attendee, ipv4: 10.1.0.0/24}
  server: {ipv4: 10.3.0.0/24}
nodes:
  gw1:
    roles: [router, dhcp, resolver]
    interfaces: {eth0: {uplink: isp}, eth1: {segment: a}, eth2: {segment: a}, eth3: {segment: server}, eth4: {segment: server}}
`

func TestBridgedPorts(t *testing.T) {
	gw := testnet.Namespace(t)
	hosts := map[string]*kernel.Namespace{}
	for link, address := range map[string]string{"eth1": "10.1.0.71/24", "eth2": "10.1.0.72/24", "eth3": "10.3.0.73/24", "eth4": "10.3.0.74/24"} {
		hosts[link] = testnet.Namespace(t)
		testnet.Veth(t, gw, link, nil, hosts[link], "e", []string{address})
	}
	p := load(t, []byte(bridgedVenue))
	c, err := Configure(p, "gw1")
	if err != nil {
		t.Fatal(err)
	}
	s := New(c, NewMetrics(prometheus.NewRegistry()), func(fact.Event) {})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- gw.Do(func() error { return s.Run(ctx) }) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	select {
	case <-s.Ready():
	case <-time.After(20 * time.Second):
		t.Fatalf("not ready: %+v", s.Checks())
	}
	to := func(s string) netip.Addr { return netip.MustParseAddr(s) }
	if !reaches(t, hosts["eth3"], "ping", to("10.3.0.74"), 0) {
		t.Error("servers of one segment cannot reach each other")
	}
	if !reaches(t, hosts["eth1"], "ping", to("10.1.0.1"), 0) {
		t.Error("an attendee cannot reach the gateway")
	}
	if reaches(t, hosts["eth1"], "ping", to("10.1.0.72"), 0) {
		t.Error("an attendee reaches another by the bridge")
	}
	testnet.Do(t, gw, func() error {
		for _, of := range []string{"iptables", "ip6tables", "arptables"} {
			got, err := kernel.Sysctl("net/bridge/bridge-nf-call-" + of)
			if errors.Is(err, fs.ErrNotExist) {
				continue // not in this kernel
			}
			if err != nil || got != "0" {
				t.Errorf("bridge-nf-call-%s is %s, %v", of, got, err)
			}
		}
		all, err := kernel.Sessions(func(a netip.Addr) bool { return a == to("10.3.0.73") })
		if len(all) > 0 {
			t.Errorf("a flow between two ports of a bridge is tracked: %v", all)
		}
		return err
	})
}
