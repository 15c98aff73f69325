//go:build linux

package venue

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/hotstage/hotstage/internal/plan"
	"github.com/hotstage/hotstage/internal/testnet"
	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"
)

// built builds the plan's venue for the test and closes it after it.
func built(t *testing.T, p *plan.Plan) *Venue {
	t.Helper()
	testnet.Root(t)
	v, err := Build(t.Context(), p, Options{PlanFile: "plan.yaml", Dir: t.TempDir(), Ready: standInReady}, func(s string) { t.Log(s) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	})
	return v
}

// devices lists the links of a namespace with their states, without loopback.
func devices(t *testing.T, ns *kernel.Namespace) map[string]string {
	t.Helper()
	all := map[string]string{}
	testnet.Do(t, ns, func() error {
		links, err := net.Interfaces()
		for _, l := range links {
			if l.Flags&net.FlagLoopback == 0 {
				all[l.Name] = fmt.Sprintf("%d %t", l.MTU, l.Flags&net.FlagUp != 0)
			}
		}
		return err
	})
	return all
}

func TestNodesHaveTheirLinks(t *testing.T) {
	v := built(t, twoSites())
	want := map[string]map[string]string{
		"gw1":    {"eth0": "1454 true", "eth1": "1500 true", "eth1.101": "1500 true", "eth1.201": "1500 true"},
		"srv1":   {"ens192": "1500 true"},
		"cloud1": {"eth0": "1500 true"},
	}
	if v.tags { // then the node makes them
		delete(want["gw1"], "eth1.101")
		delete(want["gw1"], "eth1.201")
	}
	for node, links := range want {
		if d := cmp.Diff(links, devices(t, v.Namespace(node))); d != "" {
			t.Errorf("links of %s (-want +got):\n%s", node, d)
		}
	}
	internet, access := v.Internet()
	if d := cmp.Diff(map[string]string{"isp0": "1454 true", "isp1": "1500 true"}, devices(t, internet)); d != "" {
		t.Errorf("links of the internet (-want +got):\n%s", d)
	}
	var ends []string
	for _, a := range access {
		ends = append(ends, fmt.Sprint(a.Device, " ", a.Uplink.Name, " ", a.Node, " ", a.Address4))
	}
	if d := cmp.Diff([]string{"isp0 flets gw1 203.0.113.10", "isp1 sakura cloud1 invalid IP"}, ends); d != "" {
		t.Errorf("access (-want +got):\n%s", d)
	}
	if n := len(v.Ports("hall")); n != 4 {
		t.Errorf("hall has %d ports, want 4", n)
	}
	if n := len(v.Ports("server")); n != 1 {
		t.Errorf("server has %d ports, want 1", n)
	}
}

// Uplinks without an address of their own in the plan get one of the carrier's, and a
// second uplink is the fallback of the first.
func TestTwoSystemUplinks(t *testing.T) {
	ip := testnet.Tools(t, "ip")[0]
	p := twoSites()
	p.Sites[0].Uplinks[0].IPv4 = nil
	p.Sites[0].Uplinks = append(p.Sites[0].Uplinks, plan.Uplink{Name: "lte", Site: "venue", Mode: plan.UplinkSystem, IPv4: []netip.Prefix{netip.MustParsePrefix("203.0.113.77/32")}})
	p.Nodes[0].Interfaces = append(p.Nodes[0].Interfaces, plan.Interface{Name: "wwan0", Uplink: "lte"})
	v := built(t, p)
	out, err := testnet.Output(v.Namespace("gw1"), ip, "-4", "route", "show", "default")
	if err != nil {
		t.Fatal(err, out)
	}
	var routes []string
	for line := range strings.Lines(out) {
		routes = append(routes, strings.Join(strings.Fields(strings.ReplaceAll(line, "onlink", "")), " "))
	}
	if d := cmp.Diff([]string{"default via 100.64.0.1 dev eth0", "default via 100.64.0.1 dev wwan0 metric 100"}, routes); d != "" {
		t.Errorf("routes (-want +got):\n%s", d)
	}
	_, access := v.Internet()
	if got := fmt.Sprint(access[0].Address4, access[0].Uplink.IPv4); got != "100.127.0.2 [100.127.0.2/32]" {
		t.Errorf("the carrier gives %s, want 100.127.0.2 and the uplink to say so", got)
	}
}

func TestTrunkLinksShareTheirHardwareAddress(t *testing.T) {
	v := built(t, twoSites())
	if v.tags {
		t.Skip("this kernel has 802.1Q: the node makes the VLAN interfaces")
	}
	var parent, vlan *net.Interface
	testnet.Do(t, v.Namespace("gw1"), func() (err error) {
		if parent, err = net.InterfaceByName("eth1"); err != nil {
			return err
		}
		vlan, err = net.InterfaceByName("eth1.101")
		return err
	})
	if parent.HardwareAddr.String() != vlan.HardwareAddr.String() {
		t.Errorf("eth1.101 has %s, eth1 has %s: a VLAN interface has its parent's", vlan.HardwareAddr, parent.HardwareAddr)
	}
}

// A node with a system uplink finds it as pppd leaves it.
func TestSystemUplinkIsSetUp(t *testing.T) {
	ip := testnet.Tools(t, "ip")[0]
	v := built(t, twoSites())
	for _, c := range []struct{ args, want string }{
		{"-4 -o addr show dev eth0", "203.0.113.10/32"},
		{"-4 route show default", "default via 100.64.0.1 dev eth0 onlink"},
		{"-6 route show default", "default via fe80::1 dev eth0"},
	} {
		out, err := testnet.Output(v.Namespace("gw1"), ip, strings.Fields(c.args)...)
		if err != nil || !strings.Contains(out, c.want) {
			t.Errorf("ip %s: want %q, got %q, %v", c.args, c.want, out, err)
		}
	}
	out, err := testnet.Output(v.Namespace("cloud1"), ip, "route", "show")
	if err != nil || out != "" {
		t.Errorf("a static uplink is the node's to set up, but it has routes: %q, %v", out, err)
	}
}

// makeVLANs does on a kernel with 802.1Q what a node does first: it makes its VLAN
// interfaces. On another kernel they are there.
func makeVLANs(t *testing.T, v *Venue) {
	t.Helper()
	if !v.tags {
		return
	}
	for _, n := range v.plan.Nodes {
		for _, a := range n.Attachments {
			for _, port := range a.Ports {
				if port.Parent == "" {
					continue
				}
				testnet.Do(t, v.Namespace(n.Name), func() error {
					if err := kernel.AddVLAN(port.Device, port.Parent, port.VLAN); err != nil {
						return err
					}
					return kernel.SetUp(port.Device)
				})
			}
		}
	}
}

// ear is a packet socket at a device.
func ear(t *testing.T, ns *kernel.Namespace, device string) *packet.Conn {
	t.Helper()
	var c *packet.Conn
	testnet.Do(t, ns, func() error {
		dev, err := net.InterfaceByName(device)
		if err != nil {
			return err
		}
		c, err = packet.Listen(dev, packet.Raw, testEtherType, nil)
		return err
	})
	t.Cleanup(func() { c.Close() })
	return c
}

const testEtherType = 0x88b5 // local experimental, IEEE 802

// broadcast sends words from a made-up station to everybody.
func broadcast(t *testing.T, from *packet.Conn, words string) {
	t.Helper()
	frame := append([]byte{255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 1}, binary.BigEndian.AppendUint16(nil, testEtherType)...)
	frame = append(frame, words...)
	frame = append(frame, make([]byte, max(0, 60-len(frame)))...)
	all := &packet.Addr{HardwareAddr: net.HardwareAddr(frame[:6])}
	if _, err := from.WriteTo(frame, all); err != nil {
		t.Fatal(err)
	}
}

// hear reads the next frame's words, without padding; "" when none comes within the wait.
func hear(t *testing.T, at *packet.Conn, wait time.Duration) string {
	t.Helper()
	at.SetReadDeadline(time.Now().Add(wait))
	b := make([]byte, 2000)
	n, _, err := at.ReadFrom(b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return ""
	}
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimRight(string(b[14:n]), "\x00")
}

// What one port sends reaches the node and no other port; what the node sends reaches all;
// nothing crosses to another segment.
func TestIsolation(t *testing.T) {
	v := built(t, twoSites())
	makeVLANs(t, v)
	ports := v.Ports("hall")
	a, b := ear(t, ports[0].Namespace, ports[0].Device), ear(t, ports[1].Namespace, ports[1].Device)
	gw := ear(t, v.Namespace("gw1"), "eth1.101")
	server := v.Ports("server")[0]
	other, srv := ear(t, server.Namespace, server.Device), ear(t, v.Namespace("srv1"), "ens192")

	const wait = 2 * time.Second
	broadcast(t, a, "from a")
	if got := hear(t, gw, wait); got != "from a" {
		t.Errorf("the node hears %q from port 0, want %q", got, "from a")
	}
	broadcast(t, gw, "from gw")
	for i, at := range []*packet.Conn{a, b} {
		// Had b heard a, that would come first: the switch keeps the order.
		if got := hear(t, at, wait); got != "from gw" {
			t.Errorf("port %d hears %q, want %q", i, got, "from gw")
		}
	}
	broadcast(t, srv, "from srv")
	if got := hear(t, other, wait); got != "from srv" {
		t.Errorf("the server segment's port hears %q, want %q and nothing of the hall", got, "from srv")
	}
	if got := hear(t, b, 50*time.Millisecond); got != "" {
		t.Errorf("the hall hears %q of the server segment", got)
	}
}

// A frame that a node's kernel sends has a real checksum when a device reads it.
func TestFramesCarryChecksums(t *testing.T) {
	v := built(t, twoSites())
	makeVLANs(t, v)
	ip := testnet.Tools(t, "ip")[0]
	if out, err := testnet.Output(v.Namespace("gw1"), ip, "addr", "add", "10.1.0.1/20", "dev", "eth1.101"); err != nil {
		t.Fatal(err, out)
	}
	port := v.Ports("hall")[2]
	var at *packet.Conn
	testnet.Do(t, port.Namespace, func() error {
		dev, err := net.InterfaceByName(port.Device)
		if err != nil {
			return err
		}
		at, err = packet.Listen(dev, packet.Raw, unix.ETH_P_IP, nil)
		return err
	})
	defer at.Close()
	var c net.Conn
	testnet.Do(t, v.Namespace("gw1"), func() (err error) {
		d := net.Dialer{}
		c, err = d.Dial("udp4", "10.1.15.255:68")
		return err
	})
	defer c.Close()
	if _, err := c.Write([]byte("an odd payload.")); err != nil {
		t.Fatal(err)
	}
	at.SetReadDeadline(time.Now().Add(2 * time.Second))
	b := make([]byte, 2000)
	n, _, err := at.ReadFrom(b)
	if err != nil {
		t.Fatal(err)
	}
	ip4 := b[14:n]
	udp := ip4[20:binary.BigEndian.Uint16(ip4[2:])]
	// RFC 768: over the pseudo header, the header with its checksum and the data, the
	// one's complement sum is all ones.
	sum := sum16(ip4[12:20]) + 17 + uint32(len(udp)) + sum16(udp)
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	if sum != 0xffff {
		t.Errorf("the UDP checksum %#x is wrong: the sum is %#x, want 0xffff", binary.BigEndian.Uint16(udp[6:]), sum)
	}
}

func sum16(b []byte) (sum uint32) {
	for i, x := range b {
		sum += uint32(x) << (8 * (1 - i%2))
	}
	return sum
}

func TestCloudIsAsFarAsThePlanSays(t *testing.T) {
	tools := testnet.Tools(t, "ip", "ping")
	v := built(t, twoSites())
	internet, access := v.Internet()
	for _, c := range []struct {
		ns   *kernel.Namespace
		args []string
	}{
		{v.Namespace("cloud1"), []string{"addr", "add", "198.51.100.10/29", "dev", "eth0"}},
		{internet, []string{"addr", "add", "198.51.100.9/29", "dev", access[1].Device}},
	} {
		if out, err := testnet.Output(c.ns, tools[0], c.args...); err != nil {
			t.Fatal(err, out)
		}
	}
	out, err := testnet.Output(v.Namespace("cloud1"), tools[1], "-c11", "-i0.02", "-W2", "198.51.100.9")
	if err != nil {
		t.Fatal(err, out)
	}
	var least, mean float64
	if _, err := fmt.Sscanf(out[strings.LastIndex(out, "= ")+2:], "%f/%f", &least, &mean); err != nil {
		t.Fatal(err, out)
	}
	if least < 20 || least > 22 {
		t.Errorf("the fastest round trip took %.2f ms, want 20 to 22:\n%s", least, out)
	}
}

func TestBuildWithAFault(t *testing.T) {
	testnet.Root(t)
	for _, c := range []struct {
		name, want string
		spoil      func(*plan.Plan)
	}{
		{"unknown segment", `node srv1: interface ens192: the plan has no segment "nowhere"`, func(p *plan.Plan) { p.Nodes[1].Interfaces[0].Segment = "nowhere" }},
		{"unknown uplink", `node gw1: interface eth0: site venue of the plan has no uplink "carrier pigeon"`, func(p *plan.Plan) { p.Nodes[0].Interfaces[0].Uplink = "carrier pigeon" }},
		{"unknown site", `segment hall: the plan has no site "moon"`, func(p *plan.Plan) { p.Segments[0].Site = "moon" }},
		{"name too long", `node srv1: interface a-name-of-16-chr: add veth pair`, func(p *plan.Plan) { p.Nodes[1].Interfaces[0].Name = "a-name-of-16-chr" }},
	} {
		p := twoSites()
		c.spoil(p)
		v, err := Build(t.Context(), p, Options{PlanFile: "x", Dir: t.TempDir()}, func(string) {})
		if err == nil {
			v.Close()
			t.Errorf("%s: no error", c.name)
		} else if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %q, want %q in it", c.name, err, c.want)
		}
	}
}
