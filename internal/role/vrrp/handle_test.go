package vrrp

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	node1 = netip.MustParseAddr("10.53.0.2")
	node2 = netip.MustParseAddr("10.53.0.3")
)

const interval = 50 * time.Millisecond

// begun is a machine that has started as a backup at the moment 0.
func begun(own netip.Addr, priority int, preempt bool) *machine {
	m := &machine{own: own, priority: priority, interval: interval, preempt: preempt}
	m.start(0, "started")
	return m
}

// mastered is one that has become master, and when.
func mastered(t *testing.T, own netip.Addr, priority int, preempt bool) (*machine, moment) {
	t.Helper()
	m := begun(own, priority, preempt)
	now := m.wake()
	take(t, m, now)
	return m, now
}

// take lets the machine become master at once.
func take(t *testing.T, m *machine, now moment) {
	t.Helper()
	wants(t, m, taking, m.tick(now), hold)
	wants(t, m, master, m.heldAt(now), advertise, announce)
}

func from(a netip.Addr, priority int, at moment) word {
	return word{from: a, priority: priority, interval: interval, at: at}
}

// wants fails unless the machine is so and the deeds are these.
func wants(t *testing.T, m *machine, s state, got []deed, want ...deed) {
	t.Helper()
	if m.state != s || !slices.Equal(got, want) {
		t.Errorf("is %v (%s) and does %v, want %v and %v", m.state, m.why, got, s, want)
	}
}

func TestAloneBecomesMasterAndGoesOn(t *testing.T) {
	m := begun(node1, 200, true)
	// RFC 9568 section 6.1: three intervals and (256-200)/256 of one.
	if want := 3*interval + interval*56/256; m.wake() != want {
		t.Fatalf("becomes master at %v, want %v", m.wake(), want)
	}
	wants(t, m, backup, m.tick(m.wake()-1))
	adverts, announced := 0, 0
	for now := m.wake(); now < 20*time.Second; now = m.wake() {
		for _, d := range m.tick(now) {
			switch d {
			case hold:
				wants(t, m, master, m.heldAt(now), advertise, announce)
				adverts, announced = 1, 1
			case advertise:
				adverts++
			case announce:
				announced++
			}
		}
	}
	if m.state != master || adverts < 395 || adverts > 400 {
		t.Errorf("%v with %d advertisements in 20 s", m.state, adverts)
	}
	if announced != 1+len(announcements)+3 {
		t.Errorf("%d announcements in 20 s", announced)
	}
}

func TestBackupWaitsOnAMaster(t *testing.T) {
	m := begun(node2, 190, true)
	now := moment(0)
	for range 100 {
		now += interval
		m.tick(now)
		wants(t, m, backup, m.hear(now, from(node1, 200, now)))
	}
	silent := m.wake() - now
	if silent < 3*interval || silent > 4*interval {
		t.Errorf("waits for %v", silent)
	}
	take(t, m, m.wake())
	if !strings.Contains(m.why, "nothing was heard of 10.53.0.2") {
		t.Error(m.why)
	}
}

func TestMastersStopIsTakenUpAtOnce(t *testing.T) {
	m := begun(node2, 190, true)
	m.hear(interval, from(node1, 200, interval))
	m.hear(2*interval, from(node1, 0, 2*interval))
	if wait := m.wake() - 2*interval; wait > interval {
		t.Errorf("waits for %v after the master has stopped", wait)
	}
	take(t, m, m.wake())
	if !strings.Contains(m.why, "stopped") {
		t.Error(m.why)
	}
}

func TestTheBetterNodeIsMaster(t *testing.T) {
	for _, c := range []struct {
		name     string
		own      netip.Addr
		priority int
		heard    word
		want     state
		deeds    []deed
	}{
		{"less priority", node1, 200, from(node2, 190, 0), master, []deed{advertise}},
		{"more priority", node1, 200, from(node2, 201, 0), backup, []deed{drop}},
		{"as much, higher address", node1, 200, from(node2, 200, 0), backup, []deed{drop}},
		{"as much, lower address", node2, 200, from(node1, 200, 0), master, []deed{advertise}},
		{"it stops", node1, 200, from(node2, 0, 0), master, []deed{advertise}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, now := mastered(t, c.own, c.priority, true)
			wants(t, m, c.want, m.hear(now+1, c.heard), c.deeds...)
		})
	}
}

func TestPreemption(t *testing.T) {
	for _, c := range []struct {
		name          string
		own, master   int
		preempt, take bool
	}{
		{"better", 200, 190, true, true},
		{"better, and shall not", 200, 190, false, false},
		{"worse", 190, 200, true, false},
		{"the master cannot resolve", 190, 100, true, true},
		{"the master cannot resolve, and better shall not preempt", 190, 100, false, true},
		{"neither can", 90, 100, true, false},
		{"neither can, and better shall not preempt", 100, 90, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := begun(node1, c.own, c.preempt)
			took := false
			for now := moment(0); now < time.Second; now += interval {
				took = took || slices.Contains(m.tick(now), hold)
				if m.state == taking {
					break
				}
				m.hear(now, from(node2, c.master, now))
			}
			if took != c.take {
				t.Errorf("takes the address: %v, want %v", took, c.take)
			}
		})
	}
}

// A process that was stopped must not go on as if it had not.
func TestPausedMasterStepsDownFirst(t *testing.T) {
	m, now := mastered(t, node1, 200, true)
	now += m.down(m.interval) + 1
	wants(t, m, backup, m.tick(now), drop)
	if m.wake() != now+2*interval {
		t.Error("does not wait for the others after a pause")
	}
	m2, now := mastered(t, node1, 200, true)
	wants(t, m2, master, m2.tick(now+m2.down(m2.interval)), advertise, announce)
}

func TestMasterLearnsNothingBackupLearnsTheInterval(t *testing.T) {
	m := begun(node2, 190, true)
	m.hear(0, word{from: node1, priority: 200, interval: time.Second})
	if w := m.wake(); w < 3*time.Second || w > 4*time.Second {
		t.Errorf("waits for %v on a master of 1 s", w)
	}
	take(t, m, m.wake())
	if m.sendAt-m.sent != interval {
		t.Errorf("advertises each %v", m.sendAt-m.sent)
	}
}

func TestAnotherMasterThatGoesOnIsAlarming(t *testing.T) {
	m, now := mastered(t, node1, 200, true)
	alarms := 0
	var first moment
	for begun := now; now < begun+time.Minute/2; now += interval {
		m.tick(now)
		if slices.Contains(m.hear(now, from(node2, 190, now)), alarm) {
			alarms++
			if first == 0 {
				first = now - begun
			}
		}
	}
	if alarms != 1 || first < rivalLeast || first > 2*rivalLeast || !m.contended(now) {
		t.Errorf("%d alarms, the first after %v; contended %v", alarms, first, m.contended(now))
	}
	if m.contended(now + rivalMemory + time.Second) {
		t.Error("is contended long after the other has gone")
	}
	// One word of a node that learns is none.
	m, now = mastered(t, node1, 200, true)
	wants(t, m, master, m.hear(now+1, from(node2, 190, now)), advertise)
	if m.contended(now + 2) {
		t.Error("one advertisement makes two masters")
	}
}

func TestClaimsAreContradicted(t *testing.T) {
	m, now := mastered(t, node1, 200, true)
	wants(t, m, master, m.claim(now+interval, "somebody")) // the last word of the one before
	now += time.Second
	m.sent, m.sendAt, m.announceAt = now, now+interval, now+time.Hour
	wants(t, m, master, m.claim(now, "somebody"), announce, alarm)
	wants(t, m, master, m.claim(now+1, "somebody")) // not a storm
	wants(t, m, master, m.claim(now+interval, "somebody"), announce)
	b := begun(node2, 190, true)
	wants(t, b, backup, b.claim(time.Second, "somebody"))
}

func TestPriorityIsToldAtOnce(t *testing.T) {
	m, now := mastered(t, node1, 200, true)
	wants(t, m, master, m.weigh(now+1, 100), advertise)
	wants(t, m, master, m.weigh(now+2, 100))
	b := begun(node2, 190, true)
	wants(t, b, backup, b.weigh(1, 90))
}

// Who is taking the address when a better one comes, does not.
func TestTakingIsGivenUp(t *testing.T) {
	m := begun(node2, 190, true)
	now := m.wake()
	wants(t, m, taking, m.tick(now), hold)
	wants(t, m, taking, m.hear(now+1, from(node1, 100, now+1)))
	wants(t, m, backup, m.hear(now+2, from(node1, 200, now+2)), drop)
	wants(t, m, backup, m.heldAt(now+3), drop) // the kernel was late
}

func TestStopGivesUp(t *testing.T) {
	m, now := mastered(t, node1, 200, true)
	wants(t, m, initial, m.stop(now, "stop"), drop, resign)
	wants(t, m, initial, m.tick(now+time.Hour))
	wants(t, m, initial, m.hear(now+time.Hour, from(node2, 0, 0)))
	b := begun(node2, 190, true)
	wants(t, b, initial, b.stop(1, "stop"))
}

// Whatever happens in whatever order, two nodes that hear each other are not both master for
// longer than an interval, and one of them is within a second of quiet.
func TestTwoMachinesUnderRandomPauses(t *testing.T) {
	for seed := range uint64(50) {
		play(t, seed)
	}
}

// play lets two machines hear each other by a link without delay, each stopped now and then,
// and each waiting for the kernel now and then.
func play(t *testing.T, seed uint64) {
	t.Helper()
	r := newDice(seed)
	all := []*machine{begun(node1, 200, true), begun(node2, 190, true)}
	var paused, had [2]moment // until when; from when, or never
	had[0], had[1] = never, never
	var both, none, now moment
	var do func(i int, deeds []deed)
	do = func(i int, deeds []deed) {
		for _, d := range deeds {
			switch d {
			case hold:
				had[i] = now + time.Duration(r.upTo(20))*time.Millisecond
			case drop:
				had[i] = never
			case advertise:
				if other := all[1-i]; now >= paused[1-i] {
					do(1-i, other.tick(now))
					do(1-i, other.hear(now, from(all[i].own, all[i].priority, now)))
				}
			}
		}
	}
	for ; now < time.Minute; now += time.Millisecond {
		answers := 0
		for i, m := range all {
			if r.one(3000) {
				paused[i] = now + time.Duration(r.upTo(800))*time.Millisecond
			}
			if now < paused[i] {
				continue // a stopped process answers nobody
			}
			do(i, m.tick(now))
			if m.state == taking && now >= had[i] {
				do(i, m.heldAt(now))
			}
			if m.state == master {
				answers++
			}
		}
		if both += time.Millisecond; answers < 2 {
			both = 0
		}
		if none += time.Millisecond; answers > 0 || now < paused[0] || now < paused[1] {
			none = 0
		}
		if both > interval {
			t.Fatalf("seed %d: at %v both have answered for %v", seed, now, both)
		}
		if none > time.Second {
			t.Fatalf("seed %d: at %v nobody has answered for %v", seed, now, none)
		}
	}
}
