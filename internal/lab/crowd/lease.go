package crowd

import (
	"net/netip"
	"time"

	"github.com/hotstage/hotstage/internal/lab/crowd/frame"
)

// phase is the state of a DHCP client (RFC 2131 figure 5).
type phase uint8

const (
	idle phase = iota // not joined, or a device of the crew with a fixed address
	selecting
	requesting
	rebooting
	bound
	renewing
	rebinding
	fixing // of the crew: looking for a free address
)

// lease is the DHCP client of a device.
//
//	discover        OFFER            ACK          T1             T2
//	───────► selecting ──► requesting ──► bound ──► renewing ──► rebinding
//	   ▲                        │NAK        ▲           │ACK         │ACK
//	   └────────────────────────┴─ rebooting┴───────────┴────────────┘
type lease struct {
	d     *device
	state phase
	alarm alarm

	addr            netip.Addr // held, or asked for while rebooting
	network         netip.Prefix
	router          netip.Addr
	dns             []netip.Addr
	server          netip.Addr
	until, t1, t2   moment
	offered, given  netip.Addr // by OFFER, by ACK
	offeredBy       netip.Addr
	xid             uint32
	began           moment // of the first DISCOVER or REQUEST of this exchange
	sent            moment // of the last message
	tries           int
	refusals        int   // in a row
	recheck, outage *wait // whose result this exchange is
	fixed, answered bool  // of the crew: the address is taken; somebody else has it
}

func (l *lease) prepare(d *device) {
	l.d = d
	l.alarm.who = l
}

// holds tells whether the device uses its address at the moment.
func (l *lease) holds() bool {
	return l.state == bound || l.state == renewing || l.state == rebinding || l.state == rebooting && l.recheck != nil || l.fixed
}

// discover begins at the beginning: the first DISCOVER of an exchange leaves now.
func (l *lease) discover() {
	l.letGo()
	l.began = l.d.w.now
	l.rediscover()
}

// rediscover sends a first DISCOVER without beginning to count anew.
func (l *lease) rediscover() {
	l.rest(0)
	l.send()
}

// reboot asks for the address that the device had (RFC 2131 section 4.4.2).
func (l *lease) reboot() {
	if !l.addr.IsValid() {
		l.discover()
		return
	}
	l.state, l.tries, l.began = rebooting, 0, l.d.w.now
	l.xid = l.d.rand.Uint32()
	l.send()
}

// renewEarly makes T1 come now.
func (l *lease) renewEarly() {
	if l.state == bound {
		l.renew()
	}
}

func (l *lease) renew() {
	l.state, l.tries, l.began = renewing, 0, l.d.w.now
	l.xid = l.d.rand.Uint32()
	l.d.w.tally.renewals.Tried++
	l.send()
}

// wake implements waker: no answer in time, or T1, T2 or the end of the lease.
func (l *lease) wake() {
	now := l.d.w.now
	switch l.state {
	case bound:
		if now >= l.t1 {
			l.renew()
		}
		return
	case renewing:
		if now >= l.t2 {
			l.state, l.tries = rebinding, 0
		}
	case rebinding:
		if now >= l.until { // the end: RFC 2131 section 4.4.5 halts network use at once
			l.d.w.tally.expired++
			l.restart()
			return
		}
	case requesting:
		if l.tries >= requestLimit {
			l.rediscover()
			return
		}
	case rebooting:
		if l.tries >= requestLimit {
			l.checked(silent)
			l.restart()
			return
		}
	case fixing:
		l.fix()
		return
	case idle:
		return
	}
	if l.tries > 0 {
		l.d.w.tally.dhcp.Retries++
	}
	l.send()
}

// restart begins anew, with the network as unknown as on the first day.
func (l *lease) restart() {
	l.d.forget()
	l.discover()
	l.d.slaac.begin()
}

// requestLimit is how often a REQUEST is sent: "the client might retransmit the
// DHCPREQUEST message four times, for a total delay of 60 seconds" (RFC 2131 section 3.1).
const requestLimit = 4

// backoff of the try just sent: 4 s, doubling up to 64 s, each give or take up to one
// second (RFC 2131 section 4.1).
func (l *lease) backoff() time.Duration {
	base := min(4*time.Second<<min(l.tries-1, 4), 64*time.Second)
	return base - time.Second + time.Duration(l.d.rand.Float64()*float64(2*time.Second))
}

// send sends the message that the state calls for and sets the alarm for the next.
func (l *lease) send() {
	d, w := l.d, l.d.w
	l.tries++
	l.sent = w.now
	a := frame.Ask{Type: frame.Request, XID: l.xid, MAC: d.mac, Broadcast: d.profile.broadcast,
		Secs: uint16(min((w.now-l.began)/time.Second, 65535)), Class: d.profile.class, Host: d.host, Want: d.profile.want}
	next := w.now + l.backoff()
	switch l.state {
	case selecting:
		a.Type = frame.Discover
		a.Requested = l.addr // remembered from before, if at all
		w.tally.dhcp.Discovers++
	case requesting:
		a.Requested, a.Server = l.offered, l.offeredBy
		w.tally.dhcp.Requests++
	case rebooting:
		a.Requested = l.addr
		w.tally.dhcp.Requests++
	case renewing:
		a.Current, next = l.addr, min(next, l.t2)
		w.tally.dhcp.Requests++
	case rebinding:
		a.Current, next = l.addr, min(next, l.until)
		w.tally.dhcp.Requests++
	}
	l.transmit(a, l.state == renewing)
	w.alarms.set(&l.alarm, next)
}

// transmit sends a message to all, or to the server of the lease.
func (l *lease) transmit(a frame.Ask, unicast bool) {
	d, w := l.d, l.d.w
	if d.profile.id {
		a.Client = append([]byte{1}, d.mac[:]...)
	}
	h := frame.Header{Dst: frame.Broadcast, Src: d.mac, From: netip.IPv4Unspecified(), To: broadcast4}
	if a.Current.IsValid() {
		h.From = a.Current
	}
	if unicast {
		h.To = l.server
	}
	w.inner = frame.AppendAsk(w.inner[:0], a)
	w.scratch = frame.AppendUDP(w.scratch[:0], h, frame.DHCPClientPort, frame.DHCPServerPort, w.inner)
	if unicast {
		d.transmit(l.hop(l.server), w.scratch)
		return
	}
	d.port.send(w.scratch, frame.Broadcast)
}

// broadcast4 is the limited broadcast address.
var broadcast4 = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// hop is the next hop to an IPv4 address.
func (l *lease) hop(to netip.Addr) netip.Addr {
	if l.network.Contains(to) {
		return to
	}
	return l.router
}

// input takes a server's message.
func (l *lease) input(payload []byte) {
	r, err := frame.ParseReply(payload)
	w := l.d.w
	if err != nil {
		w.tally.dhcp.Malformed++
		return
	}
	if r.XID != l.xid || r.MAC != l.d.mac {
		return // for somebody else, or late
	}
	switch {
	case r.Type == frame.Offer && l.state == selecting:
		w.tally.dhcp.Offers++
		l.offered, l.offeredBy = r.Given, r.Server
		l.state, l.tries = requesting, 0
		l.send()
	case r.Type == frame.Ack && l.expects():
		w.tally.dhcp.Acks++
		l.acknowledged(r)
	case r.Type == frame.Nak && l.expects():
		w.tally.dhcp.Naks++
		l.refused()
	}
}

// refused takes a NAK: the device has no address and restarts (RFC 2131 section 3.1), at
// once after the first and then ever later, lest the two of them loop.
func (l *lease) refused() {
	d, w := l.d, l.d.w
	if l.state == renewing || l.state == rebinding {
		w.tally.renewals.Naks++
	}
	l.checked(denied)
	w.oracle.ended(d)
	d.forget()
	l.letGo()
	l.addr = netip.Addr{}
	l.rest(time.Duration(l.refusals) * time.Second)
	l.refusals = min(l.refusals+1, 60)
	d.slaac.begin()
}

// rest sends the next DISCOVER after a while.
func (l *lease) rest(d time.Duration) {
	l.state, l.tries, l.xid = selecting, 0, l.d.rand.Uint32()
	l.d.w.alarms.set(&l.alarm, l.d.w.now+d)
}

// expects tells whether an ACK or NAK has a REQUEST that it answers.
func (l *lease) expects() bool {
	return l.state == requesting || l.state == rebooting || l.state == renewing || l.state == rebinding
}

// acknowledged takes an ACK: the address is the device's from now on.
func (l *lease) acknowledged(r frame.Reply) {
	d, w := l.d, l.d.w
	from, took := l.state, w.now-l.began
	if l.addr.IsValid() && l.addr != r.Given {
		d.yield(l.addr)
	}
	if l.given = r.Given; l.given == l.addr {
		l.checked(kept)
	} else {
		l.checked(moved)
	}
	l.addr, l.server, l.dns = r.Given, r.Server, r.DNS
	l.network = netip.PrefixFrom(r.Given, ones(r.Mask)).Masked()
	l.router = netip.Addr{}
	if len(r.Routers) > 0 {
		l.router = r.Routers[0]
	}
	// Counted from the request (RFC 2131 section 4.4.1), so that we never hold too long.
	l.t1, l.t2, l.until = l.sent+r.T1, l.sent+r.T2, l.sent+r.Lease
	l.state, l.refusals = bound, 0
	d.hold(l.addr)
	w.oracle.acknowledged(w, d)
	w.alarms.set(&l.alarm, l.t1)
	switch from {
	case requesting:
		w.tally.dora.add(took)
		w.series.dora.add(took)
		if l.outage != nil {
			l.outage.took.add(took)
			l.outage.done()
			l.outage = nil
		}
	case rebooting:
		w.tally.reboots++
	default:
		w.tally.renewals.Acks++
		w.tally.renewal.add(took)
		return
	}
	d.announce()
	d.browsing.begin()
}

// ones is the length of a network mask; 32 when the mask is not one.
func ones(mask netip.Addr) int {
	if !mask.IsValid() {
		return 32
	}
	m, n := mask.As4(), 0
	for _, b := range m {
		for ; b&0x80 != 0; b <<= 1 {
			n++
		}
		if b != 0 {
			return 32
		}
	}
	return n
}

// conflict gives an address back that another station uses too (RFC 5227 section 2.4,
// RFC 2131 section 3.1 item 5).
func (l *lease) conflict(with frame.MAC) {
	d, w := l.d, l.d.w
	w.oracle.conflict(w, d, l.addr, with)
	if l.fixed {
		return
	}
	w.tally.dhcp.Declines++
	l.transmit(frame.Ask{Type: frame.Decline, XID: d.rand.Uint32(), MAC: d.mac, Requested: l.addr, Server: l.server}, false)
	w.oracle.ended(d)
	d.forget()
	l.letGo()
	l.addr = netip.Addr{}
	l.began = w.now + 10*time.Second // "SHOULD wait a minimum of ten seconds before restarting"
	l.rest(10 * time.Second)
	d.slaac.begin()
}

// release gives the lease back (RFC 2131 section 4.4.6).
func (l *lease) release() {
	if l.state != bound && l.state != renewing {
		return
	}
	l.d.w.tally.dhcp.Releases++
	l.transmit(frame.Ask{Type: frame.Release, XID: l.d.rand.Uint32(), MAC: l.d.mac, Current: l.addr, Server: l.server}, true)
	l.d.w.oracle.ended(l.d)
}

// letGo stops using the address, which stays the device's by lease and memory.
func (l *lease) letGo() {
	l.d.yield(l.addr)
	l.state = idle
	l.d.w.alarms.stop(&l.alarm)
}

// pause is for a device that is out of reach.
func (l *lease) pause() {
	l.checked(gone)
	if l.outage != nil {
		l.outage.verdicts[gone]++
		l.outage.done()
		l.outage = nil
	}
	l.letGo()
}
