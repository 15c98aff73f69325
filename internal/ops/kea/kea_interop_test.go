//go:build linux

package kea

import (
	"bytes"
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

	"github.com/google/go-cmp/cmp"
	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/hotstage/hotstage/internal/testnet"
	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/vishvananda/netlink"
)

// The configurations that the golden tests read are ones that Kea takes.
func TestKeaTakesTheConfigurations(t *testing.T) {
	dhcp4 := testnet.Tools(t, "kea-dhcp4")[0]
	ns := testnet.Namespace(t)
	testnet.Do(t, ns, func() error {
		for i, name := range []string{"ens192.251", "ens192.10", "ens192.20", "eno2", "eno3"} {
			if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: fmt.Sprintf("peer%d", i)}); err != nil {
				return err
			}
		}
		return nil
	})
	for _, name := range []string{"janog", "campus", "every"} {
		src, err := os.ReadFile("testdata/" + name + ".conf")
		if err != nil {
			t.Fatal(err)
		}
		// Kea 2.2 does not know the comma before a closing bracket, and looks for the libraries.
		text := strings.NewReplacer("},\n            ]", "}\n            ]", "/usr/lib/x86_64-linux-gnu/kea/hooks/", hooks(t)).Replace(string(src))
		file := filepath.Join(t.TempDir(), name+".conf")
		write(t, file, text)
		if out, err := testnet.Output(ns, dhcp4, "-t", file); err != nil {
			t.Errorf("kea-dhcp4 -t %s: %v\n%s", name, err, out)
		}
	}
}

// hooks is where this machine has Kea's libraries.
func hooks(t *testing.T) string {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/*/kea/hooks/libdhcp_lease_cmds.so")
	if err != nil || len(found) == 0 {
		testnet.Missing(t, "interop", "Kea's hook libraries are not installed")
	}
	return filepath.Dir(found[0]) + "/"
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// server is a Kea in a namespace, with a client's namespace beside it.
type server struct {
	ns, client *kernel.Namespace
	dir, conf  string
	cmd        *exec.Cmd
}

// keaConf is one segment on eth0; %s is the folder of its files.
const keaConf = `{"Dhcp4": {
  "interfaces-config": {"interfaces": ["eth0"]},
  "lease-database": {"type": "memfile", "persist": true, "name": "%s/leases.csv", "lfc-interval": 0},
  "sanity-checks": {"lease-checks": "fix"},
  "valid-lifetime": 3600,
  "subnet4": [{"id": 5, "subnet": "10.7.0.0/24", "user-context": {"name": "hall"}, "pools": [{"pool": "10.7.0.10 - 10.7.0.99"}],
    "option-data": [{"name": "routers", "data": "10.7.0.1"}],
    "reservations": [{"hw-address": "02:00:00:00:07:03", "ip-address": "10.7.0.5", "hostname": "printer"}]}]
}}`

func newServer(t *testing.T) *server {
	t.Helper()
	s := &server{ns: testnet.Namespace(t), client: testnet.Namespace(t), dir: t.TempDir()}
	testnet.Veth(t, s.ns, "eth0", []string{"10.7.0.1/24"}, s.client, "eth0", nil)
	s.conf = filepath.Join(s.dir, "kea.conf")
	write(t, s.conf, fmt.Sprintf(keaConf, s.dir))
	return s
}

// start starts Kea, and returns once it listens; it ends with the test.
func (s *server) start(t *testing.T) {
	t.Helper()
	s.cmd = exec.Command(testnet.Tools(t, "kea-dhcp4")[0], "-c", s.conf)
	s.cmd.Env = append(os.Environ(), "KEA_PIDFILE_DIR="+s.dir, "KEA_LOCKFILE_DIR="+s.dir)
	out, err := os.Create(filepath.Join(s.dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	s.cmd.Stdout, s.cmd.Stderr = out, out
	err = s.ns.Start(s.cmd)
	out.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.stop(t) })
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		log, _ := os.ReadFile(filepath.Join(s.dir, "log"))
		if bytes.Contains(log, []byte("DHCP4_STARTED")) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("Kea does not start:\n%s", log)
		}
	}
}

// stop has Kea write all it has and waits for its end.
func (s *server) stop(t *testing.T) {
	t.Helper()
	if s.cmd == nil {
		return
	}
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	timer := time.AfterFunc(20*time.Second, func() { s.cmd.Process.Kill() })
	if err := s.cmd.Wait(); err != nil {
		log, _ := os.ReadFile(filepath.Join(s.dir, "log"))
		t.Errorf("Kea ended with %v\n%s", err, log)
	}
	timer.Stop()
	s.cmd = nil
}

// lease gets an address as the device with that last byte of its MAC address.
func (s *server) lease(t *testing.T, last byte, mods ...dhcpv4.Modifier) netip.Addr {
	t.Helper()
	mac := net.HardwareAddr{2, 0, 0, 0, 7, last}
	var c *nclient4.Client
	testnet.Do(t, s.client, func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetHardwareAddr(l, mac); err != nil {
			return err
		}
		c, err = nclient4.New("eth0", nclient4.WithHWAddr(mac), nclient4.WithTimeout(3*time.Second), nclient4.WithRetry(10))
		return err
	})
	defer c.Close()
	l, err := c.Request(t.Context(), mods...)
	if err != nil {
		t.Fatal(err)
	}
	a, _ := netip.AddrFromSlice(l.ACK.YourIPAddr.To4())
	return a
}

// A real Kea gives three leases; its configuration becomes a plan and its file our leases,
// which go back to a Kea that then gives each device the same address.
func TestKeaMoveOverAndBack(t *testing.T) {
	testnet.Tools(t, "kea-dhcp4")
	s := newServer(t)
	s.start(t)
	id := dhcpv4.WithOption(dhcpv4.OptClientIdentifier([]byte{1, 2, 0, 0, 0, 7, 1}))
	had := []netip.Addr{s.lease(t, 1, id, dhcpv4.WithOption(dhcpv4.OptHostName("Phone"))), s.lease(t, 2), s.lease(t, 3, dhcpv4.WithOption(dhcpv4.OptClientIdentifier([]byte{255, 1, 2, 3})))}
	s.stop(t)

	text, err := os.ReadFile(s.conf)
	if err != nil {
		t.Fatal(err)
	}
	in, err := Import(s.conf, text, nil, Answers{Name: "T"})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(s.dir, "leases.csv")
	csv, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	rows, faults := ReadLeases([]File{{file, csv}})
	c := Carry(rows, parsed(t, string(in.Plan)), time.Now())
	got := map[string]netip.Addr{}
	for _, l := range c.Leases {
		got[fmt.Sprintf("%s %s %s %s", l.Client, l.Hostname, l.Segment, l.State)] = l.Addr
	}
	want := map[string]netip.Addr{
		"id:01020000000701 phone hall bound":       had[0],
		"mac:02:00:00:00:07:02  hall bound":        had[1],
		"mac:02:00:00:00:07:03 printer hall bound": netip.MustParseAddr("10.7.0.5"),
	}
	if d := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" || len(faults) > 0 || len(c.Beside) > 0 {
		t.Fatalf("%v, %v: -want +got:\n%s\n%s", faults, c.Beside, d, csv)
	}

	for _, id := range []int{5, 99} { // Kea's own, and a guess that its sanity checks set right
		t.Run(fmt.Sprintf("back with subnet id %d", id), func(t *testing.T) { goBack(t, c.Leases, id, had) })
	}
}

// goBack gives the leases to a new Kea, which gives each device the address it had.
func goBack(t *testing.T, all []fact.Lease, subnet int, had []netip.Addr) {
	back := newServer(t)
	var b bytes.Buffer
	if err := WriteLeases(&b, all, func(fact.Lease) int { return subnet }); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(back.dir, "leases.csv"), b.String())
	back.start(t)
	// The last device asks first, so that a server that had forgotten would mix them up.
	again := []netip.Addr{2: back.lease(t, 3, dhcpv4.WithOption(dhcpv4.OptClientIdentifier([]byte{255, 1, 2, 3})))}
	again[1] = back.lease(t, 2)
	again[0] = back.lease(t, 1, dhcpv4.WithOption(dhcpv4.OptClientIdentifier([]byte{1, 2, 0, 0, 0, 7, 1})))
	if d := cmp.Diff(had, again, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
		log, _ := os.ReadFile(filepath.Join(back.dir, "log"))
		t.Errorf("addresses after going back (-before +after):\n%s\n%s\n%s", d, b.String(), log)
	}
}
