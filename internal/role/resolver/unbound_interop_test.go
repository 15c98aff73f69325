//go:build linux

package resolver

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/hotstage/hotstage/internal/role/resolver/unbound"
	"github.com/hotstage/hotstage/internal/testnet"
	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
)

// fakeRoot is the root's server and everybody else's: it has an address for every name.
//
// Namespace: 198.41.0.4 (a.root-servers.net) and 127.0.0.1 on the loopback, nothing else.
func fakeRoot(t *testing.T) *kernel.Namespace {
	t.Helper()
	ns := testnet.Namespace(t)
	var packets *net.UDPConn
	var streams net.Listener
	testnet.Do(t, ns, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		a, _ := netlink.ParseAddr("198.41.0.4/32")
		if err := netlink.AddrAdd(lo, a); err != nil {
			return err
		}
		at := &net.UDPAddr{IP: net.IPv4(198, 41, 0, 4), Port: 53}
		if packets, err = net.ListenUDP("udp4", at); err != nil {
			return err
		}
		streams, err = net.Listen("tcp4", at.String())
		return err
	})
	answer := dns.HandlerFunc(func(w dns.ResponseWriter, m *dns.Msg) {
		r := new(dns.Msg)
		r.SetReply(m)
		r.Authoritative = true
		add := func(section *[]dns.RR, s string) {
			rr, err := dns.NewRR(s)
			if err != nil {
				t.Error(err)
			}
			*section = append(*section, rr)
		}
		switch q := m.Question[0]; {
		case q.Qtype == dns.TypeNS && q.Name == ".":
			add(&r.Answer, ". 86400 IN NS a.root-servers.net.")
			add(&r.Extra, "a.root-servers.net. 86400 IN A 198.41.0.4")
		case q.Qtype == dns.TypeA:
			add(&r.Answer, q.Name+" 60 IN A 192.0.2.80")
		default:
			add(&r.Ns, ". 60 IN SOA a.root-servers.net. x. 1 60 60 60 60")
		}
		w.WriteMsg(r)
	})
	for _, s := range []*dns.Server{{PacketConn: packets, Handler: answer}, {Listener: streams, Handler: answer}} {
		done := make(chan struct{})
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		go func() { s.ActivateAndServe(); close(done) }()
		<-started
		t.Cleanup(func() { s.Shutdown(); <-done })
	}
	return ns
}

// household is a server with children over the fake root, that answers on 127.0.0.1 port 53 of
// the namespace.
type household struct {
	*Server
	ns     *kernel.Namespace
	events *events
}

func newHousehold(t *testing.T) *household {
	t.Helper()
	testnet.Tools(t, "unbound")
	x := &household{ns: fakeRoot(t), events: newEvents()}
	cfg := hall()
	cfg.Rate = 1 << 20
	cfg.Listen = append(cfg.Listen, addr("127.0.0.1"))
	dir := filepath.Join(t.TempDir(), "a-directory-whose-name-is-too-long-for-the-path-of-a-socket", "unbound")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "root.key"), nil, 0o600); err != nil { // the fake root is not signed
		t.Fatal(err)
	}
	cfg.Unbound = &unbound.Config{Dir: dir, Within: x.ns.Do}
	x.Server = New(cfg, nil, newMetrics(), x.events.tell)
	x.Server.net = within(x.ns)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- x.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(10 * time.Second):
			t.Error("it does not stop")
		}
		for _, pid := range x.pids() {
			if syscall.Kill(pid, 0) == nil {
				t.Errorf("process %d is left over", pid)
			}
		}
	})
	<-x.Ready()
	x.await(t)
	return x
}

// await waits until both children run.
func (x *household) await(t *testing.T) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		checks := x.children.Checks()
		if !slices.ContainsFunc(checks, func(c fact.Check) bool { return !c.OK }) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("children: %+v", checks)
		}
	}
}

var pidText = regexp.MustCompile(`pid (\d+)`)

func (x *household) pids() (pids []int) {
	for _, c := range x.children.Checks() {
		if m := pidText.FindStringSubmatch(c.Measured); m != nil {
			pid, _ := strconv.Atoi(m[1])
			pids = append(pids, pid)
		}
	}
	return pids
}

// ask asks as one client does: from a port of its own, once, for up to a second.
func (x *household) ask(name string) error {
	var c *dns.Conn
	err := x.ns.Do(func() error {
		n, err := net.Dial("udp4", "127.0.0.1:53")
		c = &dns.Conn{Conn: n}
		return err
	})
	if err != nil {
		return err
	}
	defer c.Close()
	m := new(dns.Msg)
	m.SetQuestion(dns.Fqdn(name), dns.TypeA)
	c.SetDeadline(time.Now().Add(time.Second))
	if err := c.WriteMsg(m); err != nil {
		return err
	}
	r, err := c.ReadMsg()
	if err == nil && r.Rcode != dns.RcodeSuccess {
		err = fmt.Errorf("rcode %d", r.Rcode)
	}
	return err
}

// load asks at a rate, each question for a name of its own and from a port of its own; at is
// called before each. What was lost got no good answer within a second.
func load(ask func(name string) error, rate, questions int, at func(n int)) (took []time.Duration, lost []string) {
	var all sync.WaitGroup
	var mu sync.Mutex
	slots := make(chan struct{}, 2*rate)
	tag := rand.Uint32()
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	for n := range questions {
		at(n)
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			begun := time.Now()
			err := ask(fmt.Sprintf("n%d-%x.example.net", n, tag))
			mu.Lock()
			defer mu.Unlock()
			took = append(took, time.Since(begun))
			if err != nil {
				lost = append(lost, fmt.Sprintf("%d: %v", n, err))
			}
		})
		<-tick.C
	}
	all.Wait()
	slices.Sort(took)
	return took, lost
}

// pulse measures the longest pause of this process, until stop: on a busy machine what is
// lost may be the machine's doing.
func pulse() (stop func() time.Duration) {
	end, longest := make(chan struct{}), make(chan time.Duration)
	go func() {
		var most time.Duration
		for last := time.Now(); ; {
			select {
			case <-end:
				longest <- most
				return
			case <-time.After(5 * time.Millisecond):
			}
			now := time.Now()
			most, last = max(most, now.Sub(last)), now
		}
	}()
	return func() time.Duration { close(end); return <-longest }
}

// sustained is the highest of some rates, up to 1,000 a second, that the machine has breath
// for at this moment: what is lost then is lost to the fault that follows.
func sustained(t *testing.T, ask func(name string) error) int {
	t.Helper()
	for _, rate := range []int{1000, 300, 100, 30} {
		took, lost := load(ask, rate, rate, func(int) {})
		if len(lost) == 0 && took[len(took)*99/100] < 200*time.Millisecond {
			return rate
		}
		t.Logf("this machine is too busy for %d queries a second: %d lost, p99 %v", rate, len(lost), took[len(took)*99/100])
	}
	testnet.Missing(t, "interop", "this machine is too busy for 30 queries a second")
	return 0
}

// undisturbed is a run of load in which this process was not paused for long, or in which
// nothing was lost all the same: up to four are tried.
func undisturbed(t *testing.T, ask func(name string) error, at func(rate, n int)) {
	t.Helper()
	for range 4 {
		rate := sustained(t, ask)
		stop := pulse()
		took, lost := load(ask, rate, 5*rate, func(n int) { at(rate, n) })
		paused := stop()
		t.Logf("%d queries at %d/s, %d lost; p50 %v, p99 %v, longest %v; longest pause of this process %v",
			len(took), rate, len(lost), took[len(took)/2], took[len(took)*99/100], took[len(took)-1], paused)
		if len(lost) == 0 {
			return
		}
		if paused < 250*time.Millisecond {
			t.Fatalf("lost: %s", strings.Join(lost[:min(10, len(lost))], ", "))
		}
	}
	testnet.Missing(t, "interop", "this machine pauses its processes for so long that queries are lost without a fault")
}

// TestChildrenKilled: with 1,000 queries a second, each for a name of its own, one child and
// then the other is killed; no client's query is lost, and both come back.
func TestChildrenKilled(t *testing.T) {
	x := newHousehold(t)
	undisturbed(t, x.ask, func(rate, n int) {
		if n == rate || n == 3*rate {
			x.await(t)
			syscall.Kill(x.pids()[n/rate/2], syscall.SIGKILL)
		}
	})
	x.await(t)
	x.events.await(t, "unbound-down")
	for _, c := range x.children.Checks() {
		if strings.HasSuffix(c.Measured, "started 1 times") {
			t.Errorf("%s: %s", c.Name, c.Measured)
		}
	}
}
