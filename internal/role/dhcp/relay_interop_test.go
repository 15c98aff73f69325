package dhcp

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/hotstage/hotstage/internal/plan"
	"github.com/hotstage/hotstage/internal/testnet"
	"github.com/hotstage/hotstage/internal/wire"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// elsewhere is a venue whose server is not in the segment of its devices:
//
//	one eth0 ── p1 ┐
//	               ├ br101 10.1.0.1  router  10.9.0.1 srv ── ens192 10.9.0.5  server
//	two eth0 ── p2 ┘
type elsewhere struct {
	one, two, router, server *kernel.Namespace
	relay                    *Relay
	m                        *RelayMetrics
}

func newElsewhere(t testing.TB) *elsewhere {
	t.Helper()
	v := &elsewhere{one: testnet.Namespace(t), two: testnet.Namespace(t), router: testnet.Namespace(t), server: testnet.Namespace(t)}
	testnet.Veth(t, v.router, "p1", nil, v.one, "eth0", nil)
	testnet.Veth(t, v.router, "p2", nil, v.two, "eth0", nil)
	testnet.Veth(t, v.router, "srv", []string{"10.9.0.1/24"}, v.server, "ens192", []string{"10.9.0.5/24"})
	testnet.Do(t, v.router, func() error {
		if err := kernel.AddBridge("br101"); err != nil {
			return err
		}
		for _, p := range []string{"p1", "p2"} {
			if err := kernel.SetMaster(p, "br101"); err != nil {
				return err
			}
		}
		return kernel.SetSysctl("net/ipv4/ip_forward", "1")
	})
	v.ip(t, v.router, "address", "add", "10.1.0.1/24", "dev", "br101")
	v.ip(t, v.router, "link", "set", "br101", "up")
	v.ip(t, v.server, "route", "add", "default", "via", "10.9.0.1")
	cfg := relaySegment()
	cfg.Ports, cfg.Servers = []string{"p1", "p2"}, []RelayServer{{addr("10.9.0.5"), "srv"}}
	v.m = NewRelayMetrics(prometheus.NewRegistry())
	v.relay = NewRelay(RelayConfig{Node: "gw1", Segments: []RelaySegment{cfg}}, SystemClock(), v.m, func(e fact.Event) { t.Log(e.Kind, e.Words) })
	for _, l := range v.relay.agents[0].legs() {
		open := l.open
		l.open = func() (d door, err error) {
			if e := v.router.Do(func() error { d, err = open(); return nil }); e != nil {
				return nil, e
			}
			return d, err
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- v.relay.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	<-v.relay.Ready()
	return v
}

func (v *elsewhere) ip(t testing.TB, ns *kernel.Namespace, args ...string) {
	t.Helper()
	if out, err := testnet.Output(ns, testnet.Tools(t, "ip")[0], args...); err != nil {
		t.Fatalf("ip %v: %v\n%s", args, err, out)
	}
}

// device runs udhcpc in the namespace until the test ends, and sets up what it gets.
func device(t testing.TB, ns *kernel.Namespace) (cmd *exec.Cmd, says func() string) {
	t.Helper()
	dir := t.TempDir()
	script := filepath.Join(dir, "script")
	write(t, script, "#!/bin/sh\necho \"event=$1 ip=$ip mask=$mask router=$router lease=$lease serverid=$serverid\"\n"+
		"[ \"$1\" = bound ] && ip addr add $ip/$mask dev $interface && ip route add default via $router; exit 0\n")
	log, err := os.Create(filepath.Join(dir, "said"))
	if err != nil {
		t.Fatal(err)
	}
	cmd = exec.Command(testnet.Tools(t, "udhcpc")[0], "-f", "-i", "eth0", "-s", script)
	cmd.Stdout, cmd.Stderr = log, log
	if err := ns.Start(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait(); log.Close() })
	return cmd, func() string {
		b, err := os.ReadFile(log.Name())
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
}

// A device gets its address through our relay from our server, renews it past the relay, and
// gives it back.
func TestRelayAndServer(t *testing.T) {
	testnet.Tools(t, "udhcpc", "ip")
	v := newElsewhere(t)
	cfg := far()
	cfg.Lease = 16 * time.Second
	s := run(t, v.server, cfg, newMemory())
	cmd, says := device(t, v.one)
	_, others := device(t, v.two)
	eventually(t, "both bound", func() bool {
		return strings.Contains(says(), "event=bound") && strings.Contains(others(), "event=bound")
	})
	if !strings.Contains(says(), "mask=24 router=10.1.0.1 lease=16 serverid=10.9.0.5\n") {
		t.Errorf("udhcpc says %s", says())
	}
	time.Sleep(time.Second)             // sooner, a repeated request gets what is left of the same lease: see freshPart
	cmd.Process.Signal(syscall.SIGUSR1) // renew
	eventually(t, "renewed", func() bool { return strings.Contains(says(), "event=renew") })
	// On a busy machine the answer finds no socket of udhcpc yet, and it asks again by broadcast:
	// what counts is that the server heard it directly.
	if got := testutil.ToFloat64(s.metrics.states["renewing"]); got < 1 {
		t.Errorf("%v renewals heard", got)
	}
	cmd.Process.Signal(syscall.SIGUSR2) // release
	eventually(t, "released", func() bool {
		for _, l := range s.Leases() {
			if l.State == fact.LeaseReleased {
				return true
			}
		}
		return false
	})
	for _, c := range append(v.relay.Checks(), s.Checks()...) {
		if !c.OK {
			t.Errorf("%+v", c)
		}
	}
	poseAsRelay(t, v, s)
}

// poseAsRelay has a device write to the server as if it were the relay.
func poseAsRelay(t *testing.T, v *elsewhere, s *Server) {
	t.Helper()
	before := testutil.ToFloat64(s.metrics.silences[relayed])
	testnet.Do(t, v.two, func() error {
		c, err := net.Dial("udp4", "10.9.0.5:67")
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write(message(t, mac(66), discover, relay("10.1.0.1")))
		return err
	})
	eventually(t, "refused", func() bool { return testutil.ToFloat64(s.metrics.silences[relayed]) == before+1 })
}

// The same node relays a segment to another one and serves it itself, and the servers' segment
// too: each hears its own.
func TestRelayBesideServer(t *testing.T) {
	testnet.Tools(t, "udhcpc", "ip")
	v := newElsewhere(t)
	here := hall()
	here.Device, here.Server, here.Lease, here.Partners = "br101", addr("10.1.0.1"), 16*time.Second, []netip.Addr{addr("10.9.0.5")}
	there := far()
	there.Lease, there.Pool = 16*time.Second, plan.Range{From: addr("10.1.0.20"), To: addr("10.1.0.29")}
	a, b := run(t, v.router, here, newMemory()), run(t, v.server, there, newMemory())
	aside := near()
	aside.Device, aside.Server, aside.Partners = "srv", addr("10.9.0.1"), []netip.Addr{addr("10.9.0.5")}
	run(t, v.router, aside, newMemory())
	first, says := device(t, v.one)
	eventually(t, "bound", func() bool { return strings.Contains(says(), "event=bound") })
	offers := func(s *Server) float64 { return testutil.ToFloat64(s.metrics.replies[wire.DHCPOffer]) }
	eventually(t, "both offer", func() bool { return offers(a) >= 1 && offers(b) >= 1 })
	mine := a
	if strings.Contains(says(), "serverid=10.9.0.5") {
		mine = b
	}
	time.Sleep(time.Second)
	first.Process.Signal(syscall.SIGUSR1)
	eventually(t, "renewed with the server that it chose", func() bool { return testutil.ToFloat64(mine.metrics.states["renewing"]) >= 1 })
	if rogues := testutil.ToFloat64(a.metrics.rogues.WithLabelValues("hall")); rogues != 0 {
		t.Errorf("%v messages of the partner taken for a rogue's", rogues)
	}
}

const keaRelayed = `{"Dhcp4": {
  "interfaces-config": {"interfaces": ["ens192"]}, "store-extended-info": true, "valid-lifetime": 3600,
  "lease-database": {"type": "memfile", "persist": true, "name": "%s/leases.csv", "lfc-interval": 0},
  "subnet4": [{"id": 5, "subnet": "10.1.0.0/24", "pools": [{"pool": "10.1.0.10 - 10.1.0.99"}], "option-data": [{"name": "routers", "data": "10.1.0.1"}]}]
}}`

// Kea is the server behind our relay: it reads our option 82 as we meant it, and what it
// sends back reaches the device.
func TestRelayToKea(t *testing.T) {
	kea := testnet.Tools(t, "kea-dhcp4", "udhcpc", "ip")[0]
	v, dir := newElsewhere(t), t.TempDir()
	conf := filepath.Join(dir, "kea.conf")
	write(t, conf, fmt.Sprintf(keaRelayed, dir))
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(kea, "-c", conf)
	cmd.Env = append(os.Environ(), "KEA_PIDFILE_DIR="+dir, "KEA_LOCKFILE_DIR="+dir)
	cmd.Stdout, cmd.Stderr = log, log
	if err := v.server.Start(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	file := func(name string) []byte { b, _ := os.ReadFile(filepath.Join(dir, name)); return b }
	eventually(t, "Kea runs", func() bool { return bytes.Contains(file("log"), []byte("DHCP4_STARTED")) })
	_, says := device(t, v.two)
	eventually(t, "bound", func() bool { return strings.Contains(says(), "event=bound ip=10.1.0.10") })
	info := fmt.Sprintf("%X", wire.AppendDHCPRelayInfo(nil, "hall/p2", "gw1"))
	if !bytes.Contains(bytes.ToUpper(file("leases.csv")), []byte(info)) {
		t.Errorf("Kea knows\n%s\nwant option 82 %s", file("leases.csv"), info)
	}
	if got := testutil.ToFloat64(v.m.replies.WithLabelValues("hall", "10.9.0.5")); got < 2 {
		t.Errorf("%v answers brought", got)
	}
	for i, c := range v.m.drops {
		if c != nil && testutil.ToFloat64(c) != 0 {
			t.Errorf("%v dropped: %s", testutil.ToFloat64(c), refusalWords[i])
		}
	}
}
