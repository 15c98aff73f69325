//go:build linux

package vrrp

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/hotstage/hotstage/internal/plan"
	"github.com/hotstage/hotstage/internal/testnet"
)

// keepalived is one in place of a node of the plan.
type keepalived struct {
	v    *pair
	name string
	conf string
	dir  string
	path string
	cmd  *exec.Cmd
}

// keepalived prepares one in the node's namespace, with what else the node needs: the
// link-local address that the plan has for it, and who answers at the service addresses.
func (v *pair) keepalived(name string, priority int, interval string) *keepalived {
	v.t.Helper()
	x := v.plan.Segment("server").Service
	var own plan.Sharer
	for _, n := range x.Nodes {
		if n.Node == name {
			own = n
		}
	}
	k := &keepalived{v: v, name: name, dir: v.t.TempDir(), path: testnet.Tools(v.t, "keepalived")[0]}
	k.conf = filepath.Join(k.dir, "conf")
	instance := func(family string, more ...string) string {
		return fmt.Sprintf("vrrp_instance %s {\n version 3\n state BACKUP\n interface e\n virtual_router_id %d\n priority %d\n advert_int %s\n %s\n}\n",
			family, x.VRID, priority, interval, strings.Join(more, "\n "))
	}
	text := instance("four", fmt.Sprintf("virtual_ipaddress { %s/32 dev e }", x.IPv4)) +
		instance("six", "mcast_src_ip "+own.IPv6.String(), fmt.Sprintf("virtual_ipaddress { %s/64 dev e\n %s/128 dev e }", virtualLinkLocal(x.VRID), x.IPv6))
	if err := os.WriteFile(k.conf, []byte(text), 0o600); err != nil {
		v.t.Fatal(err)
	}
	testnet.Do(v.t, v.space[name], func() error {
		return kernel.AddAddress("e", netip.PrefixFrom(own.IPv6, 64), 0)
	})
	v.run(name, "echo-"+name)
	v.t.Cleanup(k.stop)
	return k
}

func (k *keepalived) start() {
	k.v.t.Helper()
	log, err := os.Create(filepath.Join(k.dir, "log"))
	if err != nil {
		k.v.t.Fatal(err)
	}
	defer log.Close()
	k.cmd = exec.Command(k.path, "-n", "-l", "-D", "-f", k.conf, "-p", filepath.Join(k.dir, "pid"), "-r", filepath.Join(k.dir, "vrrp.pid"))
	k.cmd.Stdout, k.cmd.Stderr = log, log
	k.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := k.v.space[k.name].Start(k.cmd); err != nil {
		k.v.t.Fatal(err)
	}
}

// stop stops it as its unit does: it says that it stops.
func (k *keepalived) stop() {
	if k.cmd == nil {
		return
	}
	_ = k.cmd.Process.Signal(syscall.SIGTERM)
	_ = k.cmd.Wait()
	k.cmd = nil
}

// log is what it has said, for a failed test.
func (k *keepalived) log() string {
	b, err := os.ReadFile(filepath.Join(k.dir, "log"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err.Error()
	}
	return string(b)
}

// We are the master; keepalived takes over when we are killed, and gives back.
func TestKeepalivedTakesOverFromUsAndGivesBack(t *testing.T) {
	v := newPair(t, "")
	k := v.keepalived("srv2", 190, "0.05")
	first := v.start("srv1")
	k.start()
	v.await("srv1")
	time.Sleep(time.Second) // keepalived must have heard us, and not have taken it
	v.await("srv1")
	first.signal(syscall.SIGKILL)
	v.await("srv2")
	back := v.start("srv1")
	v.await("srv1")
	back.signal(syscall.SIGTERM) // our last word has priority 0
	began := time.Now()
	v.await("srv2")
	t.Logf("keepalived after our stop: %v", time.Since(began))
	if first.has("two-masters") || back.has("two-masters") || first.has("vrrp-stranger") || back.has("vrrp-interval") {
		t.Errorf("events: %+v %+v", first.events, back.events)
	}
	if t.Failed() {
		t.Log(k.log())
	}
}

// Keepalived is the master; we take over when it stops, and give back.
func TestWeTakeOverFromKeepalivedAndGiveBack(t *testing.T) {
	v := newPair(t, "")
	k := v.keepalived("srv2", 210, "0.05")
	k.start()
	v.await("srv2")
	ours := v.start("srv1")
	time.Sleep(time.Second)
	v.await("srv2")
	if ours.has("vrrp-master") {
		t.Errorf("we took the address from a better node: %s", ours.words("vrrp-master"))
	}
	k.stop()
	v.await("srv1")
	if w := ours.words("vrrp-master"); !strings.Contains(w, "stopped") {
		t.Errorf("we did not understand that keepalived stops: %s", w)
	}
	k.start()
	v.await("srv2")
	until(t, "we have given both addresses up", func() bool { return ours.count("vrrp-backup") == 2 })
	if ours.has("two-masters") || ours.has("vrrp-stranger") {
		t.Errorf("events: %+v", ours.events)
	}
	if t.Failed() {
		t.Log(k.log())
	}
}

// One with another interval is understood, and people are told.
func TestKeepalivedAtAnotherPace(t *testing.T) {
	v := newPair(t, "")
	k := v.keepalived("srv2", 210, "0.2")
	k.start()
	v.await("srv2")
	ours := v.start("srv1")
	until(t, "people are told of the other interval", func() bool { return strings.Contains(ours.words("vrrp-interval"), "200ms") })
	before := ours.count("vrrp-master") // before its first word we wait as our own interval asks
	time.Sleep(time.Second)
	if ours.count("vrrp-master") != before {
		t.Error("we do not wait as long as the master's interval asks")
	}
}
