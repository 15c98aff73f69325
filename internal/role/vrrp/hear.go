package vrrp

import (
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/wire"
)

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
