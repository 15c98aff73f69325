//go:build linux

package resolver

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/hotstage/hotstage/internal/testnet"
)

// foreign is an Unbound that somebody else runs, at an address of the loopback.
type foreign struct {
	x    *household
	t    *testing.T
	path string
	conf string
	cmd  *exec.Cmd
}

// newForeign starts one that resolves by the fake root, or, without an uplink, not at all.
func newForeign(t *testing.T, x *household, at string, uplink bool) *foreign {
	t.Helper()
	u := &foreign{x: x, t: t, path: testnet.Tools(t, "unbound")[0], conf: filepath.Join(t.TempDir(), "unbound.conf")}
	text := fmt.Sprintf("server:\n chroot: \"\"\n username: \"\"\n pidfile: \"\"\n use-syslog: no\n do-ip6: no\n interface: %s\n access-control: 127.0.0.0/8 allow\n module-config: \"iterator\"\n", at)
	if !uplink {
		hints := filepath.Join(filepath.Dir(u.conf), "hints")
		if err := os.WriteFile(hints, []byte(". 3600 IN NS a.nowhere.\na.nowhere. 3600 IN A 203.0.113.1\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		text += " root-hints: \"" + hints + "\"\n"
	}
	if err := os.WriteFile(u.conf, []byte(text+"remote-control:\n control-enable: no\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	u.start()
	t.Cleanup(u.kill)
	return u
}

func (u *foreign) start() {
	u.t.Helper()
	u.cmd = exec.Command(u.path, "-d", "-c", u.conf)
	u.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := u.x.ns.Start(u.cmd); err != nil {
		u.t.Fatal(err)
	}
}

func (u *foreign) kill() {
	if u.cmd != nil {
		u.cmd.Process.Kill()
		u.cmd.Wait()
		u.cmd = nil
	}
}

func (u *foreign) signal(s syscall.Signal) { u.cmd.Process.Signal(s) }

// newAsking is a server that asks two resolvers by address, 127.0.0.2 and 127.0.0.3, in the
// namespace of the fake root.
func newAsking(t *testing.T, firstHasUplink bool) (x *household, first, second *foreign) {
	t.Helper()
	x = &household{ns: fakeRoot(t), events: newEvents()}
	first, second = newForeign(t, x, "127.0.0.2", firstHasUplink), newForeign(t, x, "127.0.0.3", true)
	cfg := hall()
	cfg.Rate = 1 << 20
	cfg.Listen = append(cfg.Listen, addr("127.0.0.1"))
	cfg.Ask = byUDP(netip.MustParseAddrPort("127.0.0.2:53"), netip.MustParseAddrPort("127.0.0.3:53"))
	x.Server = New(cfg, nil, newMetrics(), x.events.tell)
	x.Server.net = within(x.ns)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- x.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	<-x.Ready()
	for end := time.Now().Add(30 * time.Second); x.ask("ready.example.net") != nil; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the resolvers do not begin to answer")
		}
	}
	return x, first, second
}

// TestBackendFaults: of two real resolvers asked by address one is killed, or takes questions
// and says nothing, or has no uplink of its own: with up to 1,000 queries a second no client's
// query is lost.
func TestBackendFaults(t *testing.T) {
	for _, c := range []struct {
		what   string
		uplink bool
		fault  func(*foreign)
		mend   func(*foreign)
	}{
		{"killed", true, (*foreign).kill, (*foreign).start},
		{"silent", true, func(u *foreign) { u.signal(syscall.SIGSTOP) }, func(u *foreign) { u.signal(syscall.SIGCONT) }},
		{"without uplink", false, func(*foreign) {}, func(*foreign) {}},
	} {
		t.Run(c.what, func(t *testing.T) {
			x, first, _ := newAsking(t, c.uplink)
			undisturbed(t, x.ask, func(rate, n int) {
				switch n {
				case rate:
					c.fault(first)
				case 4 * rate:
					c.mend(first)
				}
			})
		})
	}
}

// TestBothKilledAndBack: while nobody is there questions wait for somebody; when both are
// back within a client's patience none is lost for good, and all is as before.
func TestBothKilledAndBack(t *testing.T) {
	x, first, second := newAsking(t, true)
	first.kill()
	second.kill()
	begun := time.Now()
	answers := make(chan error, 50)
	for n := range cap(answers) {
		go func() {
			err := x.ask(fmt.Sprintf("waits%d.example.net", n))
			for err != nil && time.Since(begun) < time.Minute { // as a stub does
				err = x.ask(fmt.Sprintf("waits%d.example.net", n))
			}
			answers <- err
		}()
	}
	time.Sleep(300 * time.Millisecond)
	first.start()
	second.start()
	for range cap(answers) {
		if err := <-answers; err != nil {
			t.Error(err)
		}
	}
	t.Logf("all answered %v after both were killed", time.Since(begun))
	if checks := x.Checks(); !checks[0].OK && checks[0].Name == "resolver-can-resolve" {
		t.Errorf("%+v", checks[0])
	}
}
