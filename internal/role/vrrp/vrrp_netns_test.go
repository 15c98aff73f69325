//go:build linux

package vrrp

import (
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/hotstage/hotstage/internal/testnet"
	"github.com/hotstage/hotstage/internal/wire"
	"github.com/vishvananda/netlink"
)

// outageGoal is what a device may notice at default settings.
const outageGoal = 300 * time.Millisecond

// faults of a master, and what ends them.
var faults = []struct {
	name     string
	do, undo func(v *pair, p *process)
}{
	{"kill", func(_ *pair, p *process) { p.signal(syscall.SIGKILL) }, func(v *pair, _ *process) { v.start("srv1") }},
	{"cut", func(v *pair, _ *process) { v.plug("srv1", false) }, func(v *pair, _ *process) { v.plug("srv1", true) }},
	{"pause", func(_ *pair, p *process) { p.signal(syscall.SIGSTOP) }, func(_ *pair, p *process) { p.signal(syscall.SIGCONT) }},
	{"stop", func(_ *pair, p *process) { p.signal(syscall.SIGTERM) }, func(v *pair, _ *process) { v.start("srv1") }},
}

// plug puts a node's cable in, or pulls it.
func (v *pair) plug(name string, in bool) {
	testnet.Do(v.t, v.fabric, func() error {
		if in {
			return kernel.SetUp(name)
		}
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		return netlink.LinkSetDown(l)
	})
}

// tries is how often a fault is played at most: a machine that is busy with other tests may
// not run a node for longer than an outage may be.
const tries = 3

// Whatever happens to the master, a client is answered again within the goal, the other
// node's time of answering beside it is an interval at most, and the first node takes over
// again when it is back.
func TestAddressSurvivesItsMaster(t *testing.T) {
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			var worst time.Duration
			for range tries {
				if worst = survives(t, f.name, f.do, f.undo); worst <= outageGoal {
					return
				}
			}
			t.Errorf("no answers for %v, in the last of %d tries", worst, tries)
		})
	}
}

// survives plays one fault and is the longer outage of both families.
func survives(t *testing.T, name string, do, undo func(*pair, *process)) (worst time.Duration) {
	v := newPair(t, "")
	first, second := v.both()
	stop := make(chan struct{})
	four, six, arp := v.send(v.service, stop), v.send(v.service6, stop), v.watch(stop)
	time.Sleep(300 * time.Millisecond)
	do(v, first)
	v.await("srv2")
	time.Sleep(300 * time.Millisecond)
	undo(v, first)
	v.await("srv1")
	time.Sleep(300 * time.Millisecond)
	close(stop)
	for family, r := range map[string]traffic{"IPv4": <-four, "IPv6": <-six} {
		t.Logf("%s %s: %d of %d without an answer, outage %v", name, family, r.lost, r.sent, r.outage)
		worst = max(worst, r.outage)
	}
	both := <-arp
	t.Logf("%s: two machines have answered ARP for %v; %d answers", name, both[0], both[1])
	if both[0] > interval || both[1] < 50 {
		t.Errorf("two machines have answered ARP for %v; %d answers", both[0], both[1])
	}
	for _, p := range []*process{first, second, v.nodes["srv1"]} {
		if p.has("two-masters") {
			t.Error(p.words("two-masters"))
		}
		if t.Failed() || worst > outageGoal {
			t.Log(p.told())
		}
	}
	if name == "pause" && !strings.Contains(first.words("vrrp-backup"), "said nothing for") {
		t.Errorf("a paused master has not noticed: %q", first.words("vrrp-backup"))
	}
	return worst
}

// After kill -9 nothing of the address is left on the node.
func TestKilledNodeKeepsNothing(t *testing.T) {
	v := newPair(t, "")
	first, _ := v.both()
	first.signal(syscall.SIGKILL)
	testnet.Do(t, v.space["srv1"], func() error {
		if l, err := kernel.FindLink(holderName); err == nil {
			t.Errorf("left: %+v", l)
		}
		all, err := kernel.Addresses("e")
		for _, a := range all {
			if a.Prefix.Addr() == v.service || a.Prefix.Addr() == v.service6 {
				t.Errorf("left: %v", a)
			}
		}
		return err
	})
	v.await("srv2")
}

// What an earlier process without TUN could have left is taken away at the start.
func TestStartTakesAwayWhatIsLeft(t *testing.T) {
	v := newPair(t, "")
	testnet.Do(t, v.space["srv2"], func() error {
		return kernel.AddAddress("e", netip.PrefixFrom(v.service, 32), kernel.OwnerVRRP)
	})
	v.both()
	testnet.Do(t, v.space["srv2"], func() error {
		all, err := kernel.Addresses("e")
		for _, a := range all {
			if a.Prefix.Addr() == v.service {
				t.Errorf("left: %v", a)
			}
		}
		return err
	})
}

func TestNodeThatCannotResolveStepsBack(t *testing.T) {
	v := newPair(t, "")
	first, second := v.both()
	touch(t, first.unwell)
	v.await("srv2")
	if !first.has("vrrp-unwell") {
		t.Error("nobody is told that the node cannot resolve")
	}
	// When none can, the first of the plan has it.
	touch(t, second.unwell)
	v.await("srv1")
	if second.has("two-masters") || first.has("two-masters") {
		t.Error("two masters")
	}
}

func TestWithoutPreemptTheSecondKeepsIt(t *testing.T) {
	v := newPair(t, "vrrp: {preempt: false}")
	first := v.start("srv1") // who is there first keeps it
	v.await("srv1")
	second := v.start("srv2")
	first.signal(syscall.SIGKILL)
	v.await("srv2")
	back := v.start("srv1")
	time.Sleep(time.Second)
	v.await("srv2")
	if back.has("vrrp-master") {
		t.Error("the first has taken the address back")
	}
	touch(t, second.unwell)
	v.await("srv1")
}

// A machine that says that it has the address is told of and contradicted.
func TestSomebodyElsesClaimIsAnAlarm(t *testing.T) {
	v := newPair(t, "")
	first, _ := v.both()
	time.Sleep(2 * rivalLeast)
	mac := [6]byte{2, 0, 0, 0, 0xba, 0xd}
	testnet.Do(t, v.client, func() error {
		s, err := openSocket(Segment{Device: "e"})
		if err != nil {
			return err
		}
		defer s.close()
		return s.send(wire.AppendARPAnnouncement(nil, mac, v.service))
	})
	until(t, "people are told", func() bool { return first.has("two-masters") })
	if w := first.words("two-masters"); !strings.Contains(w, net.HardwareAddr(mac[:]).String()) || !strings.Contains(w, v.service.String()) {
		t.Error(w)
	}
	v.await("srv1")
}

// An advertisement of somebody who is no node of the plan is told of and not obeyed.
func TestStrangersAreNotObeyed(t *testing.T) {
	v := newPair(t, "")
	first, _ := v.both()
	seg := v.plan.Segment("server")
	stop := make(chan struct{})
	seen := v.send(v.service, stop)
	testnet.Do(t, v.client, func() error {
		s, err := openSocket(Segment{Device: "e"})
		if err != nil {
			return err
		}
		defer s.close()
		for range 20 {
			for _, src := range []string{"10.3.0.66", "fe80::66"} {
				a := wire.VRRP{MAC: s.hardware(), Source: netip.MustParseAddr(src), ID: uint8(seg.Service.VRID), Priority: 255, Interval: interval, Addrs: []netip.Addr{v.service}}
				if a.Source.Is6() {
					a.Addrs = []netip.Addr{v.service6}
				}
				if err := s.send(wire.AppendVRRP(nil, a)); err != nil {
					return err
				}
			}
			time.Sleep(20 * time.Millisecond)
		}
		return nil
	})
	close(stop)
	if r := <-seen; r.lost > 0 {
		t.Errorf("%d of %d without an answer", r.lost, r.sent)
	}
	if w := first.words("vrrp-stranger"); !strings.Contains(w, "fe80::66") && !strings.Contains(w, "10.3.0.66") {
		t.Errorf("the stranger is not named: %q", w)
	}
	if first.has("vrrp-backup") {
		t.Error(first.words("vrrp-backup"))
	}
}

// Where no TUN device can be made, the address is on the interface and ends soon after the
// process; while that lives, it stays.
func TestWithoutTUN(t *testing.T) {
	v := newPair(t, "")
	t.Setenv("HOTSTAGE_NO_TUN", "yes")
	first, _ := v.both()
	if !strings.Contains(first.words("vrrp-without-tun"), "2s at a time") {
		t.Error("nobody is told")
	}
	on := func() (n int) {
		testnet.Do(t, v.space["srv1"], func() error {
			all, err := kernel.Addresses("e")
			for _, a := range all {
				if a.Prefix.Addr() == v.service || a.Prefix.Addr() == v.service6 {
					n++
				}
			}
			return err
		})
		return n
	}
	for range 40 {
		if n := on(); n != 2 {
			t.Fatalf("the master lost its addresses: has %d%s", n, first.told())
		}
		time.Sleep(100 * time.Millisecond)
	}
	v.await("srv1")
	first.signal(syscall.SIGKILL)
	killed := time.Now()
	until(t, "the addresses are gone", func() bool { return on() == 0 })
	if took := time.Since(killed); took > leased+2*time.Second { // the kernel looks once a second
		t.Errorf("the addresses of a killed process were there for %v", took)
	}
	v.await("srv2")
}

// Another node of the plan that goes on as master is an alarm that names it.
func TestAnotherMasterIsAnAlarm(t *testing.T) {
	v := newPair(t, "")
	first := v.start("srv1")
	v.await("srv1")
	x := v.plan.Segment("server").Service
	testnet.Do(t, v.client, func() error {
		s, err := openSocket(Segment{Device: "e"})
		if err != nil {
			return err
		}
		defer s.close()
		other := wire.VRRP{MAC: s.hardware(), Source: x.Nodes[1].IPv4, ID: uint8(x.VRID), Priority: 190, Interval: interval, Addrs: []netip.Addr{v.service}}
		for range 20 {
			if err := s.send(wire.AppendVRRP(nil, other)); err != nil {
				return err
			}
			time.Sleep(interval)
		}
		return nil
	})
	if !first.has("two-masters") {
		t.Fatalf("nobody is told%s", first.told())
	}
	if w := first.words("two-masters"); !strings.Contains(w, "srv2 (") || first.count("two-masters") != 1 {
		t.Errorf("%d times: %s", first.count("two-masters"), w)
	}
	v.await("srv1")
}
