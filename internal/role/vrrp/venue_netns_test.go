//go:build linux

package vrrp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/hotstage/hotstage/internal/plan"
	"github.com/hotstage/hotstage/internal/testnet"
	"github.com/hotstage/hotstage/internal/wire"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
)

// TestMain lets the test binary be a node that is killed, stopped and let go; see child.
func TestMain(m *testing.M) {
	if name := os.Getenv("HOTSTAGE_CHILD"); name != "" {
		if err := child(name); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// unwell is a node that resolves while a file is not there.
type unwell string

func (u unwell) Resolves() (bool, string) {
	_, err := os.Stat(string(u))
	return errors.Is(err, os.ErrNotExist), "the test says so"
}

// child is a node: it takes part, echoes UDP on port 53 of the service addresses, and prints
// its events, until SIGTERM. As "echo-NAME" it echoes alone.
func child(name string) error {
	only, name := strings.HasPrefix(name, "echo-"), strings.TrimPrefix(name, "echo-")
	p, _, faults := plan.Parse([]byte(os.Getenv("HOTSTAGE_PLAN")), nil)
	if p == nil {
		return fmt.Errorf("plan: %v", faults)
	}
	cfg, err := Configure(p, name)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	free := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		return errors.Join(c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_FREEBIND, 1) }), err)
	}}
	for _, seg := range cfg.Segments {
		for _, a := range seg.Addresses {
			c, err := free.ListenPacket(ctx, "udp", netip.AddrPortFrom(a.Service, 53).String())
			if err != nil {
				return err
			}
			go echo(c.(*net.UDPConn), name)
		}
	}
	if only {
		<-ctx.Done()
		return nil
	}
	out := json.NewEncoder(os.Stdout)
	var mu sync.Mutex
	s := New(cfg, unwell(os.Getenv("HOTSTAGE_UNWELL")), NewMetrics(prometheus.NewRegistry()), func(e fact.Event) {
		mu.Lock()
		defer mu.Unlock()
		_ = out.Encode(e)
	})
	if os.Getenv("HOTSTAGE_NO_TUN") != "" {
		s.make = func() (keeper, error) { return withoutTUN(kernel.ErrNoTUN, s.event), nil }
	}
	return s.Run(ctx)
}

// echo answers each packet with the node's name.
func echo(c *net.UDPConn, name string) {
	b := make([]byte, 512)
	for {
		_, from, err := c.ReadFromUDPAddrPort(b)
		if err != nil {
			return
		}
		_, _ = c.WriteToUDPAddrPort([]byte(name), from)
	}
}

// pairPlan has two resolvers in one segment with both families.
const pairPlan = `
event: {name: Pair, attendees: 10}
sites: {venue: {uplinks: {isp: {ipv4: [203.0.113.1], ipv6: "2001:db8:53::/48"}}}}
segments: {server: {ipv4: 10.3.0.0/24, ipv6: "2001:db8:53:10::/64", service: [10.3.0.10]}}
nodes:
  gw1: {roles: [router], interfaces: {eth0: {uplink: isp}, eth1: {segment: server}}}
  srv1: {roles: [resolver], interfaces: {e: {segment: server}}}
  srv2: {roles: [resolver], interfaces: {e: {segment: server}}}
resolver: {VRRP}
`

// pair is two nodes and a client on one switch:
//
//	srv1 ─┐
//	srv2 ─┼─ switch ── client
type pair struct {
	t                 *testing.T
	text              string
	plan              *plan.Plan
	fabric, client    *kernel.Namespace
	space             map[string]*kernel.Namespace
	nodes             map[string]*process
	service, service6 netip.Addr
}

// process is a running node.
type process struct {
	cmd    *exec.Cmd
	unwell string
	over   chan struct{}
	mu     sync.Mutex
	events []fact.Event
}

func newPair(t *testing.T, vrrp string) *pair {
	t.Helper()
	v := &pair{t: t, text: strings.Replace(pairPlan, "VRRP", vrrp, 1), space: map[string]*kernel.Namespace{}, nodes: map[string]*process{}}
	p, _, faults := plan.Parse([]byte(v.text), nil)
	if p == nil {
		t.Fatal(faults)
	}
	v.plan = p
	seg := p.Segment("server")
	v.service, v.service6 = seg.Service.IPv4, seg.Service.IPv6
	v.fabric, v.client = testnet.Namespace(t), testnet.Namespace(t)
	testnet.Do(t, v.fabric, func() error { return errors.Join(kernel.AddBridge("br"), kernel.SetUp("br")) })
	port := func(name string, ns *kernel.Namespace, addrs ...string) {
		testnet.Veth(t, v.fabric, name, nil, ns, "e", addrs)
		testnet.Do(t, v.fabric, func() error { return kernel.SetMaster(name, "br") })
	}
	for _, name := range []string{"srv1", "srv2"} {
		v.space[name] = testnet.Namespace(t)
		a := p.Node(name).Attachment("server")
		port(name, v.space[name], a.IPv4.String(), a.IPv6.String())
		testnet.Do(t, v.space[name], func() error { // what role segment sets
			return errors.Join(kernel.SetSysctl("net/ipv4/conf/e/arp_ignore", "1"), kernel.SetSysctl("net/ipv4/conf/e/arp_announce", "2"),
				kernel.SetSysctl("net/ipv4/conf/e/rp_filter", "2"))
		})
	}
	port("client", v.client, "10.3.0.77/24", "2001:db8:53:10::77/64")
	return v
}

// start starts the node's process.
func (v *pair) start(name string) *process { return v.run(name, name) }

// run starts a process in the node's namespace that is what child says.
func (v *pair) run(name, as string) *process {
	v.t.Helper()
	p := &process{unwell: filepath.Join(v.t.TempDir(), "unwell"), over: make(chan struct{})}
	p.cmd = exec.Command("/proc/self/exe")
	p.cmd.Env = append(os.Environ(), "HOTSTAGE_CHILD="+as, "HOTSTAGE_PLAN="+v.text, "HOTSTAGE_UNWELL="+p.unwell)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p.cmd.Stderr = os.Stderr
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		v.t.Fatal(err)
	}
	if err := v.space[name].Start(p.cmd); err != nil {
		v.t.Fatal(err)
	}
	go func() {
		defer close(p.over)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			var e fact.Event
			if json.Unmarshal(lines.Bytes(), &e) != nil {
				fmt.Fprintln(os.Stderr, lines.Text())
				continue
			}
			p.mu.Lock()
			p.events = append(p.events, e)
			p.mu.Unlock()
		}
		p.cmd.Wait() // its error is the kill
	}()
	v.t.Cleanup(func() { p.signal(syscall.SIGKILL) })
	v.nodes[name] = p
	return p
}

// both starts both nodes and waits until the first has the addresses.
func (v *pair) both() (first, second *process) {
	v.t.Helper()
	first, second = v.start("srv1"), v.start("srv2")
	v.await("srv1")
	return first, second
}

// signal sends one; of a fatal one it waits for the end.
func (p *process) signal(s syscall.Signal) {
	_ = p.cmd.Process.Signal(s)
	if s == syscall.SIGKILL || s == syscall.SIGTERM {
		<-p.over
	}
}

func (p *process) has(kind string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.ContainsFunc(p.events, func(e fact.Event) bool { return e.Kind == kind })
}

func (p *process) words(kind string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range slices.Backward(p.events) {
		if e.Kind == kind {
			return e.Words
		}
	}
	return ""
}

// until asks again and again for 10 s.
func until(t *testing.T, what string, so func() bool) {
	t.Helper()
	for range 1000 {
		if so() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("not so after 10 s: %s", what)
}

// await waits until the client is answered by the node on both addresses.
func (v *pair) await(name string) {
	v.t.Helper()
	for _, a := range []netip.Addr{v.service, v.service6} {
		until(v.t, name+" answers at "+a.String(), func() bool { return v.ask(a) == name })
	}
}

// ask is who answers a packet to the address, or "".
func (v *pair) ask(a netip.Addr) (who string) {
	testnet.Do(v.t, v.client, func() error {
		c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 53)))
		if err != nil {
			return err
		}
		who = answered(c, 100*time.Millisecond)
		return nil
	})
	return who
}

// answered sends a packet and is what comes back, or "". It closes the socket.
func answered(c *net.UDPConn, patience time.Duration) string {
	defer c.Close()
	if _, err := c.Write([]byte("?")); err != nil {
		return ""
	}
	c.SetReadDeadline(time.Now().Add(patience))
	b := make([]byte, 64)
	n, err := c.Read(b)
	if err != nil {
		return ""
	}
	return string(b[:n])
}

// traffic is what a client saw that sends a packet each 5 ms, each from a port of its own.
type traffic struct {
	sent, lost int
	outage     time.Duration // the longest run of packets without an answer
}

const (
	pace = 5 * time.Millisecond
	// inTime is how late an answer counts. A stopped process answers what waits for it when
	// it is let go, which helps nobody.
	inTime = 100 * time.Millisecond
)

// send sends until stop is closed.
func (v *pair) send(a netip.Addr, stop <-chan struct{}) <-chan traffic {
	result := make(chan traffic, 1)
	go func() {
		var mu sync.Mutex
		var all sync.WaitGroup
		var at []time.Time
		var ok []bool
		err := v.client.Do(func() error {
			tick := time.NewTicker(pace)
			defer tick.Stop()
			for k := 0; ; k++ {
				select {
				case <-stop:
					return nil
				case <-tick.C:
				}
				c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 53)))
				if err != nil {
					return err
				}
				mu.Lock()
				at, ok = append(at, time.Now()), append(ok, false)
				mu.Unlock()
				all.Go(func() {
					if answered(c, inTime) != "" {
						mu.Lock()
						ok[k] = true
						mu.Unlock()
					}
				})
			}
		})
		if err != nil {
			v.t.Error(err)
		}
		all.Wait()
		r := traffic{sent: len(at)}
		for i := 0; i < len(at); {
			if ok[i] {
				i++
				continue
			}
			from := at[i]
			for ; i < len(at) && !ok[i]; i++ {
				r.lost++
			}
			end := at[len(at)-1]
			if i < len(at) {
				end = at[i]
			}
			r.outage = max(r.outage, end.Sub(from))
		}
		result <- r
	}()
	return result
}

// watch asks by ARP each 5 ms who has the address until stop is closed; the result is for
// how long two machines have answered side by side at most, and how many answers there were.
func (v *pair) watch(stop <-chan struct{}) <-chan [2]time.Duration {
	var s socket
	testnet.Do(v.t, v.client, func() (err error) {
		s, err = openSocket(Segment{Device: "e", Addresses: []Address{{Service: v.service}}})
		return err
	})
	result := make(chan [2]time.Duration, 1)
	go func() {
		defer s.close()
		probe, asked := wire.AppendARPProbe(nil, s.hardware(), v.service), time.Time{}
		var last [6]byte
		var begun, ended time.Time // of changes that follow each other closely
		var worst time.Duration
		answers := 0
		for b := make([]byte, frameRoom); ; {
			select {
			case <-stop:
				result <- [2]time.Duration{worst, time.Duration(answers)}
				return
			default:
			}
			if time.Since(asked) >= pace {
				asked = time.Now()
				_ = s.send(probe)
			}
			n, err := s.receive(b, pace)
			if err != nil {
				continue
			}
			a, ok := wire.ParseARP(b[:n])
			if !ok || !a.Reply || a.Sender != v.service {
				continue
			}
			now := time.Now()
			if answers++; answers > 1 && last != a.SenderMAC {
				if now.Sub(ended) > 4*interval {
					begun = now
				}
				ended = now
				worst = max(worst, ended.Sub(begun))
			}
			last = a.SenderMAC
		}
	}()
	return result
}

func (p *process) count(kind string) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range p.events {
		if e.Kind == kind {
			n++
		}
	}
	return n
}

// told is all that the node has told, for a failed test.
func (p *process) told() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all strings.Builder
	for _, e := range p.events {
		fmt.Fprintf(&all, "\n%s %s", e.Time.Format("05.000"), e.Words)
	}
	return all.String()
}
