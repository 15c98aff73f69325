package crowd

import (
	"net/netip"
	"slices"
	"time"

	"github.com/hotstage/hotstage/internal/lab/crowd/frame"
)

const (
	neighbourLimit = 16 // per device: gateways, resolvers, DHCP servers
	pendingLimit   = 16 // frames that wait for a neighbour; RFC 4861 section 7.2.2 asks for one at least
	// Of RFC 4861 section 10, used for ARP too.
	retransTimer = time.Second
	solicitLimit = 3
	// Stacks ask again after 15 to 45 s of use (ReachableTime); the crowd after a minute.
	reachable = time.Minute
)

// neighbour is an entry of a device's ARP or neighbour cache.
type neighbour struct {
	d       *device
	addr    netip.Addr
	mac     frame.MAC
	known   bool
	asked   int // solicitations without an answer
	fresh   moment
	pending [][]byte
	alarm   alarm
}

// transmit sends a frame that was built for to, an address of the link, whose hardware
// address it looks up. Until that is known the frame waits; if nobody answers it is lost,
// as on a real device.
func (d *device) transmit(to netip.Addr, f []byte) {
	n := d.neighbour(to)
	switch {
	case n == nil:
		return
	case n.known:
		d.port.send(f, n.mac)
		if d.w.now-n.fresh > reachable && n.alarm.place == 0 {
			n.solicit()
		}
	default:
		if len(n.pending) == pendingLimit {
			n.pending = slices.Delete(n.pending, 0, 1)
		}
		n.pending = append(n.pending, slices.Clone(f))
		if n.alarm.place == 0 {
			n.solicit()
		}
	}
}

// neighbour finds or makes the entry of an address; nil when there are too many.
func (d *device) neighbour(a netip.Addr) *neighbour {
	if n := d.lookup(a); n != nil || len(d.neighbours) == neighbourLimit {
		return n
	}
	n := &neighbour{d: d, addr: a}
	n.alarm.who = n
	d.neighbours = append(d.neighbours, n)
	return n
}

func (d *device) lookup(a netip.Addr) *neighbour {
	for _, n := range d.neighbours {
		if n.addr == a {
			return n
		}
	}
	return nil
}

// solicit asks who has the address: by unicast while the entry is known, else all.
func (n *neighbour) solicit() {
	d, w := n.d, n.d.w
	n.asked++
	w.alarms.set(&n.alarm, w.now+retransTimer)
	if n.addr.Is4() {
		to := frame.Broadcast
		if n.known {
			to = n.mac
		}
		w.scratch = frame.AppendARP(w.scratch[:0], to, d.mac, false, d.lease.addr, frame.MAC{}, n.addr)
		d.port.send(w.scratch, to)
		return
	}
	from := d.slaac.linkLocal
	w.scratch = frame.AppendSolicitation(w.scratch[:0], d.mac, from, n.addr)
	to := frame.Multicast(frame.SolicitedNode(n.addr))
	if n.known {
		to = n.mac
	}
	d.port.send(w.scratch, to)
}

// wake implements waker: nobody has answered in time.
func (n *neighbour) wake() {
	if n.asked < solicitLimit {
		n.solicit()
		return
	}
	n.d.w.tally.unresolved++
	n.d.neighbours = slices.DeleteFunc(n.d.neighbours, func(x *neighbour) bool { return x == n })
}

// found takes over what an answer or an announcement says.
func (n *neighbour) found(mac frame.MAC) {
	n.mac, n.known, n.asked, n.fresh = mac, true, 0, n.d.w.now
	n.d.w.alarms.stop(&n.alarm)
	for _, f := range n.pending {
		n.d.port.send(f, mac)
	}
	n.pending = nil
}

// learn is found for an address that the device may not know yet.
func (d *device) learn(a netip.Addr, mac frame.MAC) {
	if n := d.neighbour(a); n != nil {
		n.found(mac)
	}
}

// inputARP updates what is known of the sender and answers a request (RFC 826).
func (d *device) inputARP(p *frame.Packet) {
	mine := d.lease.holds()
	if mine && p.From == d.lease.addr && p.SenderMAC != d.mac {
		d.lease.conflict(p.SenderMAC)
		return
	}
	if n := d.lookup(p.From); n != nil {
		n.found(p.SenderMAC)
	}
	d.lease.heard(p)
	if mine && !p.ARPReply && p.To == d.lease.addr {
		d.w.scratch = frame.AppendARP(d.w.scratch[:0], p.SenderMAC, d.mac, true, d.lease.addr, p.SenderMAC, p.From)
		d.port.send(d.w.scratch, p.SenderMAC)
	}
}

// announce tells all stations of the device's address (RFC 5227 section 2.3).
func (d *device) announce() {
	w := d.w
	w.scratch = frame.AppendARP(w.scratch[:0], frame.Broadcast, d.mac, false, d.lease.addr, frame.MAC{}, d.lease.addr)
	d.port.send(w.scratch, frame.Broadcast)
}
