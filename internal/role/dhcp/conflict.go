package dhcp

import (
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/wire"
)

// Addresses are probed before they are wanted, so that an offer never waits: the next of
// those that nobody had and of those that somebody gave back, from where choose takes them.
// What has a lease is never probed, and no answer takes a lease away.
const (
	// probeAhead is how many addresses at the head of each list are known to be quiet.
	probeAhead = 32
	// probeBurst at each guardTick are sent at most: 160 a second keep ahead of 6,000 devices
	// in a minute, and are less than those devices' own broadcasts.
	probeBurst = 16
	// probeAgain is how often an address that stays at the head is probed.
	probeAgain = time.Minute
	// probeResting is how often one is probed that somebody uses; after quietAfter probes
	// without an answer it is free again.
	probeResting = 15 * time.Second
	quietAfter   = 4
	// answerWithin is how long an answer counts: ANNOUNCE_WAIT of RFC 5227 section 1.1, after
	// which a host that probes may use the address.
	answerWithin = 2 * time.Second
	// namedAMinute of those who use an address are told of in a minute.
	namedAMinute = 16
)

// unprobed lists the addresses to probe now, at most probeBurst; they count as probed.
func (g *segment) unprobed(at moment, into []netip.Addr) []netip.Addr {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.pool
	for b := p.resting.front; b != nil && len(into) < probeBurst; {
		next := b.next
		switch due := b.probed == 0 || at.boot-b.probed >= probeResting; {
		case due && b.squat && b.unheard >= quietAfter:
			p.end(b, expired, at, 0)
		case due:
			b.probed = at.boot
			b.unheard++
			into = append(into, b.addr)
		}
		b = next
	}
	for _, l := range [...]*list{&p.fresh, &p.past} {
		b := l.front
		for n := 0; b != nil && n < probeAhead && len(into) < probeBurst; n++ {
			if b.probed == 0 || at.boot-b.probed >= probeAgain {
				b.probed = at.boot
				into = append(into, b.addr)
			}
			b = b.next
		}
	}
	return into
}

// inUse takes the answer to a probe: mac uses the address. It says whether that is news for
// a person. An address whose last device still uses it stays that device's, and is the last
// to be given to another.
func (g *segment) inUse(at moment, a netip.Addr, mac [6]byte) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	p, b := g.pool, g.pool.at(a)
	switch {
	case b == nil || b.owner || b.state == bound || b.probed == 0 || at.boot-b.probed > answerWithin:
		return false // nobody asked
	case b.state == declined:
		news := !b.squat || b.mac != mac
		b.squat, b.mac, b.unheard = true, mac, 0
		b.ends, b.until = at.boot+restFor, at.wall.Add(restFor)
		p.resting.remove(b)
		p.resting.pushBack(b)
		return news
	case b.client != "" && b.mac == mac:
		if b.in == &p.past {
			p.past.remove(b)
			p.past.pushBack(b)
		}
		return false
	case b.offeredTo == "m"+string(mac[:]):
		return false
	}
	p.end(b, declined, at, restFor)
	b.squat, b.mac, b.unheard = true, mac, 0
	return true
}

// probe asks who uses the next addresses.
func (g *guard) probe(at moment, e ear, own [6]byte) {
	g.addrs = g.seg.unprobed(at, g.addrs[:0])
	for _, a := range g.addrs {
		g.arp = wire.AppendARPProbe(g.arp[:0], own, a)
		if e.say(g.arp) != nil {
			return // the device is full or gone: these are probed again in their turn
		}
	}
}

// answered takes an ARP packet.
func (g *guard) answered(at moment, own [6]byte, a wire.ARP) {
	if !a.Reply || a.SenderMAC == own || !g.seg.inUse(at, a.Sender, a.SenderMAC) {
		return
	}
	if at.boot-g.minute >= time.Minute {
		g.minute, g.named = at.boot, 0
	}
	if g.named++; g.named > namedAMinute {
		return
	}
	name := g.seg.cfg.Name
	g.tell.to(fact.Event{
		Time: at.wall, Task: g.tell.task, Kind: "address-in-use", Severity: fact.Warning,
		Words: fmt.Sprintf("%v of the pool of segment %s is in use by %s, which has no lease of it: it is not given to anybody until it is quiet for a minute; look for a device with a fixed address",
			a.Sender, name, net.HardwareAddr(a.SenderMAC[:])),
	})
}
