//go:build linux

package dhcp

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
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

// wideHall is a segment with a large pool on the device "hall".
func wideHall(lease time.Duration) Segment {
	c := hall()
	c.Device, c.Lease = "hall", lease
	c.Prefix = netip.MustParsePrefix("10.1.0.0/16")
	c.Pool = plan.Range{From: addr("10.1.1.0"), To: addr("10.1.200.255")}
	c.Options[0].Data = []byte{255, 255, 0, 0}
	c.Options = append(c.Options,
		wire.DHCPOption{Code: wire.DHCPOptDomain, Data: []byte(c.Domain)},
		wire.DHCPOption{Code: wire.DHCPOptDomainSearch, Data: searchList(c.Domain)},
	)
	return c
}

// served runs a server in a namespace and returns a client's namespace beside it, whose
// device is eth0.
func served(t testing.TB, cfg Segment, book leaseBook) (*Server, *kernel.Namespace) {
	t.Helper()
	node, client := testnet.Namespace(t), testnet.Namespace(t)
	testnet.Veth(t, node, cfg.Device, []string{"10.1.0.2/16"}, client, "eth0", nil)
	return run(t, node, cfg, book), client
}

func run(t testing.TB, node *kernel.Namespace, cfg Segment, book leaseBook) *Server {
	t.Helper()
	return runTelling(t, node, cfg, book, func(e fact.Event) { t.Log(e.Kind, e.Words) })
}

// runTelling runs a server in the namespace until the test ends; its events go to tell.
func runTelling(t testing.TB, node *kernel.Namespace, cfg Segment, book leaseBook, tell func(fact.Event)) *Server {
	t.Helper()
	s := New(Config{Segments: []Segment{cfg}}, book, SystemClock(), metrics(), tell)
	for _, l := range s.links {
		open, listen := l.open, l.listen
		if listen != nil {
			l.listen = func() (e ear, err error) {
				if err := node.Do(func() error { e, err = listen(); return nil }); err != nil {
					return nil, err
				}
				return e, err
			}
		}
		l.open = func() (d door, err error) {
			e := node.Do(func() error { d, err = open(); return nil })
			if e != nil {
				return nil, e
			}
			return d, err
		}
	}
	start(t, s)
	return s
}

// start runs the server until the test ends.
func start(t testing.TB, s *Server) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	select {
	case <-s.Ready():
	case <-time.After(10 * time.Second):
		t.Fatal("not ready")
	}
}

// state is what the server says of the one lease there is, "" when there is none.
func stateOf(s *Server) fact.LeaseState {
	for _, l := range s.Leases() {
		return l.State
	}
	return ""
}

func eventually(t testing.TB, what string, so func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !so(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not so after 20 s: " + what)
		}
	}
}

func TestUdhcpc(t *testing.T) {
	udhcpc := testnet.Tools(t, "udhcpc", "ip")[0]
	s, client := served(t, wideHall(16*time.Second), newMemory())
	script := filepath.Join(t.TempDir(), "script")
	write(t, script, "#!/bin/sh\necho \"event=$1 ip=$ip mask=$mask router=$router dns=$dns domain=$domain lease=$lease serverid=$serverid search=$search\"\n"+
		"[ \"$1\" = bound ] && ip addr add $ip/$mask dev $interface; exit 0\n")
	log, err := os.Create(filepath.Join(t.TempDir(), "said"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	says := func() string {
		b, err := os.ReadFile(log.Name())
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	cmd := exec.Command(udhcpc, "-f", "-i", "eth0", "-s", script, "-x", "hostname:phone", "-O", "search")
	cmd.Stdout, cmd.Stderr = log, log
	if err := client.Start(cmd); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	first := func() fact.Lease {
		for _, l := range s.Leases() {
			return l
		}
		return fact.Lease{}
	}
	eventually(t, "bound", func() bool { return first().State == fact.LeaseBound })
	if a, ok := s.AddrOf("Phone.yapc.example."); !ok || a != first().Addr {
		t.Errorf("phone.yapc.example is %v, %v", a, ok)
	}
	// Sooner, a repeated request gets what is left of the same lease: see freshPart.
	time.Sleep(time.Second)
	cmd.Process.Signal(syscall.SIGUSR1) // renew
	eventually(t, "renewed", func() bool { return first().Expires.Sub(first().Start) > 16*time.Second })
	eventually(t, "renewed, says udhcpc", func() bool { return strings.Contains(says(), "event=renew") })
	cmd.Process.Signal(syscall.SIGUSR2) // release
	eventually(t, "released", func() bool { return first().State == fact.LeaseReleased })
	cmd.Process.Kill()
	cmd.Wait()
	for _, want := range []string{
		"event=bound ip=10.1.1.0 mask=16 router=10.1.0.1 dns=10.1.0.1 domain=yapc.example lease=16 serverid=10.1.0.2 search=yapc.example\n",
		"event=renew ip=10.1.1.0 mask=16 router=10.1.0.1 dns=10.1.0.1 domain=yapc.example lease=16 ",
	} {
		if !strings.Contains(says(), want) {
			t.Errorf("udhcpc says\n%s\nwant %s", says(), want)
		}
	}
}

func TestDhclient(t *testing.T) {
	tools := testnet.Tools(t, "dhclient", "ip")
	s, client := served(t, wideHall(time.Hour), newMemory())
	dir := t.TempDir()
	script, conf := filepath.Join(dir, "script"), filepath.Join(dir, "conf")
	write(t, script, "#!/bin/sh\necho \"reason=$reason ip=$new_ip_address mask=$new_subnet_mask router=$new_routers lease=$new_dhcp_lease_time renew=$new_dhcp_renewal_time search=$new_domain_search\"\n"+
		"case $reason in PREINIT) "+tools[1]+" link set dev $interface up;; BOUND|REBOOT) "+tools[1]+" addr replace $new_ip_address/16 dev $interface;; esac\nexit 0\n")
	write(t, conf, "request subnet-mask, routers, domain-name-servers, domain-search;\n")
	args := []string{"-v", "-1", "-sf", script, "-cf", conf, "-lf", filepath.Join(dir, "leases"), "-pf", filepath.Join(dir, "pid")}
	once := func(extra ...string) string {
		t.Helper()
		out, err := testnet.Output(client, tools[0], append(append(append([]string{}, args...), extra...), "eth0")...)
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return out
	}
	kill := func() {
		if b, err := os.ReadFile(filepath.Join(dir, "pid")); err == nil {
			if pid, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil {
				if p, err := os.FindProcess(pid); err == nil {
					p.Kill()
				}
			}
		}
	}
	t.Cleanup(kill)
	out := once()
	want := regexp.MustCompile(`reason=BOUND ip=10\.1\.1\.0 mask=255\.255\.0\.0 router=10\.1\.0\.1 lease=3600 renew=1[6-9]\d\d search=yapc\.example\.`)
	if !want.MatchString(out) {
		t.Errorf("dhclient says\n%s\nwant %v", out, want)
	}
	kill()
	if out := once(); !strings.Contains(out, "reason=REBOOT ip=10.1.1.0") || strings.Contains(out, "DHCPDISCOVER") {
		t.Errorf("after a restart dhclient says\n%s", out)
	}
	once("-r")
	eventually(t, "released", func() bool { return stateOf(s) == fact.LeaseReleased })
}

// TestPerfdhcp has 1,000 clients a second come through a relay, which perfdhcp is, with every
// lease on disk before its ACK: none is dropped. On a machine that is busy with other tests
// perfdhcp does not take all replies; what counts then is that the server heard and answered
// each message that perfdhcp sent.
func TestPerfdhcp(t *testing.T) {
	perfdhcp := testnet.Tools(t, "perfdhcp")[0]
	node, client := testnet.Namespace(t), testnet.Namespace(t)
	testnet.Veth(t, node, "hall", []string{"10.1.0.2/16"}, client, "eth0", []string{"10.1.0.5/16"})
	cfg := wideHall(time.Hour)
	cfg.Relays, cfg.Devices = []netip.Addr{addr("10.1.0.5")}, 10_000
	s := run(t, node, cfg, journal{filepath.Join(t.TempDir(), "leases")})
	out, err := testnet.Output(client, perfdhcp, "-4", "-r", "1000", "-p", "4", "-W", "1000000", "-R", "1000000", "-b", "mac=00:0c:01:00:00:00", "-l", "eth0", "10.1.0.2")
	sent := regexp.MustCompile(`(?m)^sent packets: (\d+)$`).FindAllStringSubmatch(out, -1)
	drops := regexp.MustCompile(`(?m)^drops: (\d+)$`).FindAllStringSubmatch(out, -1)
	if len(sent) != 2 || len(drops) != 2 {
		t.Fatalf("perfdhcp: %v\n%s", err, out)
	}
	for i, c := range []struct {
		what          string
		heard, answer prometheus.Counter
	}{
		{"DISCOVERs", s.metrics.messages[wire.DHCPDiscover], s.metrics.replies[wire.DHCPOffer]},
		{"REQUESTs", s.metrics.messages[wire.DHCPRequest], s.metrics.replies[wire.DHCPAck]},
	} {
		eventually(t, c.what+" answered", func() bool { return testutil.ToFloat64(c.answer) == testutil.ToFloat64(c.heard) })
		if heard := fmt.Sprint(testutil.ToFloat64(c.heard)); heard != sent[i][1] || sent[i][1] == "0" {
			t.Errorf("perfdhcp sent %s %s, the server heard %s", sent[i][1], c.what, heard)
		}
		if drops[i][1] != "0" {
			t.Logf("perfdhcp did not take %s replies to %s; the server sent all", drops[i][1], c.what)
		}
	}
}

func TestDhcpcd(t *testing.T) {
	dhcpcd := testnet.Tools(t, "dhcpcd")[0]
	s, client := served(t, wideHall(time.Hour), newMemory())
	conf := filepath.Join(t.TempDir(), "conf")
	write(t, conf, "duid\noption domain_name_servers, routers, ntp_servers, interface_mtu\nnoarp\nnoipv6rs\n")
	// --oneshot leaves after the first lease; the namespace's own /run and /var/lib keep its
	// files from those of the machine.
	out, err := inPrivate(client, dhcpcd, "-4", "-B", "-1", "-d", "-f", conf, "-c", "/bin/true", "eth0")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if !regexp.MustCompile(`leased 10\.1\.1\.0 for 3600 seconds`).MatchString(out) {
		t.Errorf("dhcpcd says\n%s", out)
	}
	ls := s.Leases()
	if len(ls) != 1 || ls[0].State != fact.LeaseBound || !strings.HasPrefix(ls[0].Client, "id:ff") {
		t.Errorf("leases %+v; want one bound to an RFC 4361 client identifier", ls)
	}
	testnet.Do(t, client, func() error {
		i, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		as, err := i.Addrs()
		if err == nil && !strings.Contains(fmt.Sprint(as), "10.1.1.0/16") {
			t.Errorf("addresses of the client: %v", as)
		}
		return err
	})
}

// inPrivate runs a program that insists on fixed paths with its own /run and /var/lib.
func inPrivate(ns *kernel.Namespace, name string, args ...string) (string, error) {
	sh := "mount --make-rprivate / && mount -t tmpfs none /run && mount -t tmpfs none /var/lib && exec \"$0\" \"$@\""
	return testnet.Output(ns, "unshare", append([]string{"--mount", "timeout", "-k", "2", "30", "sh", "-c", sh, name}, args...)...)
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}
