//go:build linux

package xdp

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/hotstage/hotstage/internal/testnet"
	"github.com/vishvananda/netlink"
)

// child is set when this test binary runs as the process that answers; see answer.
const child = "HOTSTAGE_TEST_XDP_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(child) != "" {
		if err := answerUntilKilled(); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// answerUntilKilled is a process that answers on eth0 of its namespace.
func answerUntilKilled() error {
	p, err := Load(Config{Size: 8, Rate: 1000, Burst: time.Second, Clients: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/24")}})
	if err != nil {
		return err
	}
	a := response(popular, 1)
	a.Until = time.Now().Add(time.Hour)
	if err := p.Put("popular", a); err != nil {
		return err
	}
	if err := p.Serve([]netip.Addr{us.Addr()}); err != nil {
		return err
	}
	if ports := p.Tend([]string{"eth0"}); ports[0].Mode == Off {
		return fmt.Errorf("off: %s", ports[0].Why)
	}
	fmt.Println("ready")
	for {
		if err := p.Beat(300 * time.Millisecond); err != nil {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// wire is a client and a node, joined by a veth pair, and a socket of the client's:
//
//	client eth0 10.1.0.50, 2001:db8:1::50 ── eth0 10.1.0.1, 2001:db8:1::1 node
type cable struct {
	client, node *kernel.Namespace
	socket       *net.UDPConn
	socket6      *net.UDPConn
}

func newCable(t *testing.T) *cable {
	t.Helper()
	c := &cable{client: testnet.Namespace(t), node: testnet.Namespace(t)}
	testnet.Veth(t, c.node, "eth0", []string{"10.1.0.1/24", "2001:db8:1::1/64"}, c.client, "eth0", []string{"10.1.0.50/24", "2001:db8:1::50/64"})
	for _, s := range []struct {
		socket **net.UDPConn
		to     netip.AddrPort
	}{{&c.socket, us}, {&c.socket6, us6}} {
		testnet.Do(t, c.client, func() (err error) {
			*s.socket, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(s.to))
			return err
		})
		t.Cleanup(func() { (*s.socket).Close() })
	}
	return c
}

// hears puts a program on the client's end of the pair, with which the pair carries what the
// other end sends from its driver.
func (c *cable) hears(t *testing.T) link.Link {
	t.Helper()
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, int32(Pass)), asm.Return()}})
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	var l link.Link
	testnet.Do(t, c.client, func() error {
		i, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		l, err = link.AttachXDP(link.XDPOptions{Program: program, Interface: i.Index, Flags: link.XDPDriverMode})
		return err
	})
	t.Cleanup(func() { l.Close() })
	return l
}

// tend puts the program on the node's interface.
func (c *cable) tend(t *testing.T, p *Program) (port Port) {
	t.Helper()
	testnet.Do(t, c.node, func() error {
		port = p.Tend([]string{"eth0"})[0]
		return nil
	})
	return port
}

// ask sends a query and returns what comes within d, or nil.
func ask(t *testing.T, socket *net.UDPConn, query []byte, d time.Duration) []byte {
	t.Helper()
	buf := make([]byte, 2048)
	if _, err := socket.Write(query); err != nil { // an earlier query's refusal
		socket.Write(query)
	}
	socket.SetReadDeadline(time.Now().Add(d))
	for {
		n, err := socket.Read(buf)
		if err != nil && strings.Contains(err.Error(), "refused") {
			return nil
		}
		if err != nil || n > 12 {
			return buf[:n]
		}
	}
}

// Clients get answers through veth from behind the driver, and from the driver when the other
// end hears them; also those that have to grow by more than there is room for in front.
func TestAnswersArrive(t *testing.T) {
	for _, mode := range []Mode{Generic, Native} {
		t.Run(string(mode), func(t *testing.T) {
			c := newCable(t)
			if mode == Native {
				c.hears(t)
			}
			p := newProgram(t, 10_000, time.Second)
			if got := c.tend(t, p); got.Mode != mode || (got.Why == "") != (mode == Native) {
				t.Fatalf("it runs %+v, not %s", got, mode)
			}
			large := []byte("\x05large\x07example\x00")
			if err := p.Put("large", response(large, 16)); err != nil {
				t.Fatal(err)
			}
			for _, socket := range []*net.UDPConn{c.socket, c.socket6} {
				for _, edns := range []bool{false, true} {
					got := ask(t, socket, query(popular, edns), 2*time.Second)
					if want := response(popular, 3).Message; len(got) < len(want) || !bytes.Equal(got[12+len(popular):12+len(popular)+10], want[12+len(popular):12+len(popular)+10]) {
						t.Errorf("to %s EDNS %v came %x", socket.RemoteAddr(), edns, got)
					}
				}
				got := ask(t, socket, query(large, false), time.Second)
				if n := len(response(large, 16).Message); len(got) != n && len(got) != 0 {
					t.Errorf("a large answer of %d octets, not %d", len(got), n)
				}
			}
			counts, err := p.Counts()
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%+v", counts)
			if counts.Answered+counts.Passed["room"] != 6 || counts.Answered < 4 {
				t.Errorf("counts are %+v, not 6 answered or without room", counts)
			}
		})
	}
}

// The other end of a veth pair must not lose its program unnoticed: what the driver sends
// would not arrive.
func TestNativeFallsBack(t *testing.T) {
	c := newCable(t)
	hears := c.hears(t)
	p := newProgram(t, 10_000, time.Second)
	if got := c.tend(t, p); got.Mode != Native {
		t.Fatalf("it runs %+v", got)
	}
	if err := hears.Close(); err != nil {
		t.Fatal(err)
	}
	if got := c.tend(t, p); got.Mode != Generic {
		t.Fatalf("with a deaf other end it runs %+v", got)
	}
	if got := ask(t, c.socket, query(popular, false), 2*time.Second); len(got) == 0 {
		t.Error("no answer after the change")
	}
}

// What is not answered reaches a socket, and what is not DNS is as ever.
func TestTheRestReachesTheKernel(t *testing.T) {
	c := newCable(t)
	p := newProgram(t, 10_000, time.Second)
	c.tend(t, p)
	var server *net.UDPConn
	var tcp net.Listener
	testnet.Do(t, c.node, func() (err error) {
		if server, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(us)); err != nil {
			return err
		}
		tcp, err = net.Listen("tcp", us.String())
		return err
	})
	defer server.Close()
	defer tcp.Close()
	go func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := server.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			server.WriteToUDPAddrPort(append(buf[:n], "socket"...), from)
		}
	}()
	if got := ask(t, c.socket, query([]byte("\x04cold\x00"), true), 2*time.Second); !bytes.HasSuffix(got, []byte("socket")) {
		t.Errorf("a cold name: %q", got)
	}
	if got := ask(t, c.socket, append(query(popular, true), make([]byte, 4000)...), 2*time.Second); len(got) == 0 { // in fragments
		t.Errorf("a query in fragments: %q", got)
	}
	if got := ask(t, c.socket, query(popular, true), 2*time.Second); len(got) == 0 || bytes.HasSuffix(got, []byte("socket")) {
		t.Errorf("the hot name: %q", got)
	}
	testnet.Do(t, c.client, func() error {
		s, err := net.DialTimeout("tcp", us.String(), 2*time.Second)
		if err != nil {
			return err
		}
		return s.Close()
	})
}

// An interface that is made anew is found, one that is not there is said.
func TestTendFollowsTheInterface(t *testing.T) {
	c := newCable(t)
	p := newProgram(t, 10_000, time.Second)
	first := c.tend(t, p)
	testnet.Do(t, c.node, func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.LinkDel(l)
	})
	if got := c.tend(t, p); got.Mode != Off || got.Why == "" {
		t.Errorf("without the interface it runs %+v", got)
	}
	testnet.Veth(t, c.node, "eth0", []string{"10.1.0.1/24"}, c.client, "eth0", []string{"10.1.0.50/24"})
	if got := c.tend(t, p); got.Mode != first.Mode {
		t.Errorf("on the new interface it runs %+v, not %+v", got, first)
	}
	testnet.Do(t, c.node, func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.LinkSetHardwareAddr(l, net.HardwareAddr{2, 0, 0, 0, 9, 9})
	})
	c.tend(t, p)
	var socket *net.UDPConn
	testnet.Do(t, c.client, func() (err error) {
		socket, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(us))
		return err
	})
	defer socket.Close()
	if got := ask(t, socket, query(popular, false), 2*time.Second); len(got) == 0 {
		t.Error("no answer at the new MAC")
	}
}

// A process that is paused goes silent, and one that is killed leaves nothing behind.
func TestTheProcessPausedAndKilled(t *testing.T) {
	c := newCable(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), child+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.node.Start(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("the process said %q, %v", line, err)
	}
	answers := func() bool { return len(ask(t, c.socket, query(popular, false), 100*time.Millisecond)) > 0 }
	within := func(what string, want bool, d time.Duration) {
		t.Helper()
		for end := time.Now().Add(d); answers() != want; {
			if time.Now().After(end) {
				t.Fatalf("%s: answers: %v, after %v", what, !want, d)
			}
		}
	}
	within("running", true, 2*time.Second)
	cmd.Process.Signal(syscall.SIGSTOP)
	within("paused", false, 600*time.Millisecond)
	cmd.Process.Signal(syscall.SIGCONT)
	within("resumed", true, 2*time.Second)
	cmd.Process.Kill()
	cmd.Wait()
	var l netlink.Link
	testnet.Do(t, c.node, func() (err error) {
		l, err = netlink.LinkByName("eth0")
		return err
	})
	if x := l.Attrs().Xdp; x != nil && x.Attached {
		t.Errorf("a killed process leaves its program: %+v", x)
	}
	within("killed", false, time.Second)
}
