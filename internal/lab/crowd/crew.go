package crowd

import (
	"net/netip"
	"time"

	"github.com/hotstage/hotstage/internal/lab/crowd/frame"
	"github.com/hotstage/hotstage/internal/plan"
)

// startCrew gives a device of the crew a fixed address: the segments it is in may have no
// DHCP.
func (l *lease) startCrew() {
	p := &l.d.segment.Plan
	l.network, l.router = p.IPv4.Masked(), p.Gateway4
	l.offered = plan.LastAddr(p.IPv4)
	l.next()
}

// next tries the next lower address that the plan gives to nobody.
func (l *lease) next() {
	p := &l.d.segment.Plan
	for a := l.offered.Prev(); p.IPv4.Contains(a); a = a.Prev() {
		if p.Pool.Contains(a) || a == p.Gateway4 || a == p.IPv4.Masked().Addr() || reserved(p, a) {
			continue
		}
		l.offered, l.state, l.tries, l.answered = a, fixing, 0, false
		l.fix()
		return
	}
	l.state = idle // a segment without room for one more; its probes are then not tried
}

func reserved(p *plan.Segment, a netip.Addr) bool {
	for _, r := range p.Reservations {
		if r.Addr == a {
			return true
		}
	}
	return false
}

// fix probes the address twice and takes it when nobody answers (RFC 5227 section 2.1).
func (l *lease) fix() {
	d, w := l.d, l.d.w
	switch {
	case l.answered:
		l.next()
		return
	case l.tries == 2:
		l.addr, l.fixed, l.state = l.offered, true, idle
		d.hold(l.addr)
		d.announce()
		return
	}
	l.tries++
	w.scratch = frame.AppendARP(w.scratch[:0], frame.Broadcast, d.mac, false, netip.IPv4Unspecified(), frame.MAC{}, l.offered)
	d.port.send(w.scratch, frame.Broadcast)
	w.alarms.set(&l.alarm, w.now+200*time.Millisecond)
}

// heard notes that the address of the crew's choice is taken.
func (l *lease) heard(p *frame.Packet) {
	if l.state == fixing && p.From == l.offered {
		l.answered = true
	}
}
