package vrrp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/plan"
	"github.com/hotstage/hotstage/internal/wire"
)

const (
	// look is how often a link is looked at, and a missing one tried.
	look = 100 * time.Millisecond
	// mostStrangers are remembered per link: who makes addresses up fills no memory.
	mostStrangers = 64
	// strangerTold is how often a stranger is told of while it is there.
	strangerTold = 10 * time.Minute
)

// link is one segment and what is so of it.
type link struct {
	Segment
	s *Server

	mu        sync.Mutex
	sock      socket // nil while the device is not there
	why       string // of that
	instances []*instance
	strangers map[string]moment // and when they were told of
	frame     []byte
}

// instance is one service address on this node.
type instance struct {
	Address
	link     *link
	machine  machine
	odd      time.Duration // the interval of another node that was told of
	wanted   bool          // the address; see have
	had      bool
	wish     chan struct{} // wanted has changed
	heldTold moment        // when it was told that the address cannot be had
}

func (i *instance) family() string {
	if i.Service.Is6() {
		return "IPv6"
	}
	return "IPv4"
}

// keep takes part on the link whenever its device is there, until ctx ends. It calls tried
// after the first try.
func (l *link) keep(ctx context.Context, tried func()) {
	defer tried()
	for ctx.Err() == nil {
		sock, err := l.s.open(l.Segment)
		if err == nil {
			l.begin(sock)
			tried()
			err = l.serve(ctx, sock)
		}
		l.missing(err)
		tried()
		select {
		case <-ctx.Done():
		case <-time.After(look):
		}
	}
}

func (l *link) begin(sock socket) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sock, l.why = sock, ""
	for _, i := range l.instances {
		i.machine.start(l.s.now(), "started")
		i.changed(initial)
	}
}

// end gives up the addresses and the socket.
func (l *link) end(why string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, i := range l.instances {
		i.step(func(m *machine, now moment) []deed { return m.stop(now, why) })
	}
	l.sock.close()
	l.sock = nil
}

// missing notes why the link is not there.
func (l *link) missing(why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.why = why.Error()
}

// serve takes frames and does what is due on an open socket until the device goes or ctx
// ends; the error says which. It has a thread of its own, which the kernel prefers to others,
// and waits on it by a system call: a busy process must not look like a dead one.
func (l *link) serve(ctx context.Context, sock socket) (err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer urge()()
	defer func() { l.end(err.Error()) }()
	b := make([]byte, frameRoom)
	looked := l.s.now()
	for {
		n, err := sock.receive(b, min(l.tick(), look))
		switch {
		case err == nil:
			l.take(b[:n])
		case !errors.Is(err, os.ErrDeadlineExceeded):
			time.Sleep(10 * time.Millisecond) // it fails once when the device is down for a moment
		}
		if ctx.Err() != nil {
			return errors.New("this node stops")
		}
		if now := l.s.now(); now-looked >= look {
			looked = now
			if err := sock.gone(); err != nil {
				return err
			}
		}
	}
}

// tick does what is due and says how long nothing else is.
func (l *link) tick() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	next := moment(1<<63 - 1)
	for _, i := range l.instances {
		i.step(func(*machine, moment) []deed { return nil })
		next = min(next, i.machine.wake())
	}
	return max(next-l.s.now(), 0)
}

// take is one frame of others.
func (l *link) take(b []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if wire.IsVRRP(b) {
		l.advertisement(b)
		return
	}
	if a, ok := wire.ParseARP(b); ok {
		for _, i := range l.instances {
			i.arp(a)
		}
		return
	}
	if n, ok := wire.ParseNeighbour(b); ok {
		for _, i := range l.instances {
			i.neighbour(n)
		}
	}
}

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

// arp answers who asks for the address, and notices who says that he has it.
func (i *instance) arp(a wire.ARP) {
	own := i.link.sock.hardware()
	switch {
	case !i.Service.Is4() || a.SenderMAC == own:
	case a.Sender == i.Service:
		i.claimed(a.SenderMAC)
	case !a.Reply && a.Target == i.Service:
		i.step(func(m *machine, _ moment) []deed {
			if m.state == master && i.link.s.keeper.silent() {
				i.link.frame = wire.AppendARPReply(i.link.frame[:0], own, a)
				i.send("answer", i.link.frame)
			}
			return nil
		})
	}
}

// neighbour is arp for IPv6.
func (i *instance) neighbour(n wire.Neighbour) {
	own := i.link.sock.hardware()
	switch {
	case n.Target != i.Service || n.MAC == own:
	case n.Advertisement:
		i.claimed(n.MAC)
	default:
		i.step(func(m *machine, _ moment) []deed {
			if m.state == master && i.link.s.keeper.silent() {
				i.link.frame = wire.AppendAdvertisement(i.link.frame[:0], own, i.Service, &n)
				i.send("answer", i.link.frame)
			}
			return nil
		})
	}
}

func (i *instance) claimed(mac [6]byte) {
	i.step(func(m *machine, now moment) []deed {
		if m.state == master {
			i.link.s.m.contended.WithLabelValues(i.link.Name, i.family()).Inc()
		}
		return m.claim(now, "the machine with "+net.HardwareAddr(mac[:]).String())
	})
}

// advertisement is one of a virtual router: of ours it is obeyed when it comes from a node
// of the plan.
func (l *link) advertisement(b []byte) {
	v, err := wire.ParseVRRP(b)
	k := slices.IndexFunc(l.instances, func(i *instance) bool { return v.Source.IsValid() && v.Source.Is4() == i.Service.Is4() })
	if k < 0 || err == nil && int(v.ID) != l.VRID {
		return // of another virtual router
	}
	i := l.instances[k]
	ignore := func(why string) { l.s.m.ignored.WithLabelValues(l.Name, i.family(), why).Inc() }
	peer := slices.IndexFunc(i.Peers, func(p Peer) bool { return p.Addr == v.Source })
	switch {
	case err != nil:
		ignore(err.Error())
		return
	case peer < 0:
		ignore("stranger")
		l.stranger(v)
		return
	case !slices.Contains(v.Addrs, i.Service):
		ignore("address")
		return
	}
	l.s.m.heard.WithLabelValues(l.Name, i.family()).Inc()
	i.pace(i.Peers[peer], v.Interval)
	i.step(func(m *machine, now moment) []deed {
		if m.state == master && v.Priority > 0 {
			l.s.m.contended.WithLabelValues(l.Name, i.family()).Inc()
		}
		return m.hear(now, word{from: v.Source, priority: int(v.Priority), interval: v.Interval, at: now})
	})
}

// pace tells of a node with another interval than the plan's, once for each.
func (i *instance) pace(p Peer, interval time.Duration) {
	if interval == i.machine.interval || interval == i.odd {
		return
	}
	i.odd = interval
	i.link.s.event(fact.Warning, "vrrp-interval", fmt.Sprintf("%s advertises the service address %s each %v and this node each %v: give both the same plan.", p.Name, i.Service, interval, i.machine.interval))
}

// stranger tells of who speaks for our virtual router and is not in the plan.
func (l *link) stranger(v wire.VRRP) {
	now := l.s.now()
	who := fmt.Sprintf("%s (%s)", v.Source, net.HardwareAddr(v.MAC[:]))
	if told, known := l.strangers[who]; known && now-told < strangerTold {
		return
	}
	if len(l.strangers) >= mostStrangers {
		for w, told := range l.strangers {
			if now-told >= strangerTold {
				delete(l.strangers, w)
			}
		}
		if len(l.strangers) >= mostStrangers {
			return
		}
	}
	l.strangers[who] = now
	var about []string
	for _, a := range v.Addrs {
		about = append(about, a.String())
	}
	l.s.event(fact.Alarm, "vrrp-stranger", fmt.Sprintf(
		"On segment %s %s, which is no resolver of the plan, advertises virtual router %d with %v and priority %d: it is not obeyed; find its port and shut it, or give it another virtual router.",
		l.Name, who, v.ID, about, v.Priority))
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
