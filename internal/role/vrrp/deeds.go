package vrrp

import (
	"context"
	"fmt"

	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/plan"
	"github.com/hotstage/hotstage/internal/wire"
)

// have gives the node the address and takes it away as wanted, until ctx ends and it is
// given up. It is apart from the rest because the kernel's lock over all addresses may be
// somebody else's for long, while advertisements must go on.
func (i *instance) have(ctx context.Context) {
	for {
		select {
		case <-i.wish:
			i.settle()
		case <-ctx.Done():
			i.settle()
			return
		}
	}
}

// settle makes what is had what is wanted.
func (i *instance) settle() {
	l := i.link
	for {
		l.mu.Lock()
		want, had := i.wanted, i.had
		l.mu.Unlock()
		switch {
		case want == had:
			return
		case want:
			err := l.s.keeper.hold(l.Device, i.Service)
			l.mu.Lock()
			i.had = err == nil
			if err != nil {
				i.refused(err)
			} else {
				i.step((*machine).heldAt)
			}
			l.mu.Unlock()
		default:
			if err := l.s.keeper.drop(l.Device, i.Service); err != nil {
				l.s.event(fact.Alarm, "vrrp-address-stuck", fmt.Sprintf("The service address %s cannot be given up: %v. Stop this node.", i.Service, err))
			}
			l.mu.Lock()
			i.had = false
			l.mu.Unlock()
		}
	}
}

// want says whether the address is wanted; the machine goes on meanwhile.
func (i *instance) want(it bool) {
	i.wanted = it
	select {
	case i.wish <- struct{}{}:
	default: // it is said already
	}
}

// refused makes the node a backup again, which it remains until nobody else has the address.
func (i *instance) refused(err error) {
	before := i.machine.state
	i.machine.start(i.link.s.now(), err.Error())
	i.wanted = false
	i.changed(before)
	i.unheld(err)
}

// step brings the machine to now, lets f do its part and does what comes of it.
func (i *instance) step(f func(*machine, moment) []deed) {
	now, before := i.link.s.now(), i.machine.state
	i.do(i.machine.tick(now))
	i.changed(before)
	before = i.machine.state
	i.do(f(&i.machine, now))
	i.changed(before)
}

// do does the deeds.
func (i *instance) do(deeds []deed) {
	l := i.link
	for _, d := range deeds {
		switch d {
		case hold:
			i.want(true)
		case drop:
			i.want(false)
		case advertise:
			i.advertise(i.machine.priority)
		case resign:
			i.advertise(0)
		case announce:
			i.announce()
		case alarm:
			l.s.event(fact.Alarm, "two-masters", fmt.Sprintf(
				"On segment %s both this node and %s have the service address %s: devices get answers of either. They do not hear each other: look at the switch between them, or stop one.",
				l.Name, i.who(i.machine.rival.who), i.Service))
		}
	}
}

func (i *instance) unheld(err error) {
	now := i.link.s.now()
	if i.heldTold == 0 || now-i.heldTold > rivalTold {
		i.heldTold = now
		i.link.s.event(fact.Alarm, "vrrp-address-refused", fmt.Sprintf("The service address %s cannot be had: %v; another node must have it.", i.Service, err))
	}
}

// changed tells of a change of state.
func (i *instance) changed(before state) {
	m, now := i.link.s.m, i.machine.state
	m.priority.WithLabelValues(i.link.Name, i.family()).Set(float64(i.machine.priority))
	if before == now {
		return
	}
	if now == taking {
		return // nothing has changed for others
	}
	has := 0.0
	if now == master {
		has = 1
	}
	m.master.WithLabelValues(i.link.Name, i.family()).Set(has)
	m.changes.WithLabelValues(i.link.Name, i.family(), now.String()).Inc()
	switch {
	case now == master:
		i.link.s.event(fact.Info, "vrrp-master", fmt.Sprintf("This node has the service address %s of segment %s: %s.", i.Service, i.link.Name, i.machine.why))
	case before == master:
		i.link.s.event(fact.Info, "vrrp-backup", fmt.Sprintf("This node has the service address %s of segment %s no more: %s.", i.Service, i.link.Name, i.machine.why))
	}
}

func (i *instance) send(kind string, frame []byte) {
	l := i.link
	if l.sock == nil {
		return
	}
	if l.sock.send(frame) != nil {
		l.s.m.failed.WithLabelValues(l.Name, i.family()).Inc()
		return
	}
	switch kind {
	case "advertisement":
		l.s.m.sent.WithLabelValues(l.Name, i.family()).Inc()
	case "announcement":
		l.s.m.announced.WithLabelValues(l.Name, i.family()).Inc()
	default:
		l.s.m.answered.WithLabelValues(l.Name, i.family()).Inc()
	}
}

func (i *instance) advertise(priority int) {
	l := i.link
	if l.sock == nil {
		return
	}
	v := wire.VRRP{MAC: l.sock.hardware(), Source: i.Own, ID: uint8(l.VRID), Priority: uint8(priority), Interval: i.machine.interval}
	if i.Beside.IsValid() {
		v.Addrs = append(v.Addrs, i.Beside)
	}
	v.Addrs = append(v.Addrs, i.Service)
	l.frame = wire.AppendVRRP(l.frame[:0], v)
	i.send("advertisement", l.frame)
}

func (i *instance) announce() {
	l := i.link
	if l.sock == nil {
		return
	}
	if i.Service.Is4() {
		l.frame = wire.AppendARPAnnouncement(l.frame[:0], l.sock.hardware(), i.Service)
	} else {
		l.frame = wire.AppendAdvertisement(l.frame[:0], l.sock.hardware(), i.Service, nil)
	}
	i.send("announcement", l.frame)
}

// weigh sets the priority of each address by whether this node can resolve.
func (l *link) weigh(good bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	priority := l.Priority
	if !good {
		priority = max(1, priority-plan.PriorityUnwell)
	}
	for _, i := range l.instances {
		i.step(func(m *machine, now moment) []deed { return m.weigh(now, priority) })
	}
}
