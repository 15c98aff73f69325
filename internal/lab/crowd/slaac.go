package crowd

import (
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/hotstage/hotstage/internal/lab/crowd/frame"
)

// slaac is the IPv6 side of a device: link-local address, router, global address, resolvers
// (RFC 4861, 4862, 8106).
//
//	begin: DAD of link-local ──1 s──► RS (3 times, 4 s apart) ──RA──► DAD of global ──1 s──► usable
type slaac struct {
	d     *device
	alarm alarm
	step  func(*slaac)

	linkLocal netip.Addr
	router    netip.Addr
	network   netip.Prefix
	tentative netip.Addr
	addr      netip.Addr // usable
	dns       []netip.Addr
	asked     moment // first RS
	tries     int
}

func (s *slaac) prepare(d *device) {
	s.d = d
	s.alarm.who = s
	s.linkLocal = interfaceID(netip.MustParsePrefix("fe80::/64"), d.rand.Uint64())
}

// interfaceID is an address with a stable but opaque identifier, as of RFC 7217; the
// universal bit of the old kind has no meaning any more (RFC 7136).
func interfaceID(p netip.Prefix, id uint64) netip.Addr {
	b := p.Addr().As16()
	binary.BigEndian.PutUint64(b[8:], id)
	return netip.AddrFrom16(b)
}

// begin starts on a new link, if the segment has IPv6.
func (s *slaac) begin() {
	if !s.d.segment.Plan.IPv6.IsValid() {
		return
	}
	s.d.hold(s.linkLocal)
	s.detect(s.linkLocal)
	// RFC 4861 section 6.3.7 wants up to a second's delay, which detection is.
	s.tries = 0
	s.after(retransTimer, (*slaac).solicit)
}

// stop forgets the link.
func (s *slaac) stop() {
	s.d.w.alarms.stop(&s.alarm)
	for _, a := range [...]netip.Addr{s.linkLocal, s.tentative, s.addr} {
		s.d.yield(a)
	}
	s.router, s.tentative, s.addr, s.dns = netip.Addr{}, netip.Addr{}, netip.Addr{}, nil
	s.network = netip.Prefix{}
	s.asked = 0
}

func (s *slaac) after(d time.Duration, step func(*slaac)) {
	s.step = step
	s.d.w.alarms.set(&s.alarm, s.d.w.now+d)
}

// wake implements waker.
func (s *slaac) wake() { s.step(s) }

// detect asks whether somebody has the address already (RFC 4862 section 5.4).
func (s *slaac) detect(a netip.Addr) {
	w := s.d.w
	w.scratch = frame.AppendSolicitation(w.scratch[:0], s.d.mac, netip.IPv6Unspecified(), a)
	s.d.port.send(w.scratch, frame.Multicast(frame.SolicitedNode(a)))
}

// solicit asks for routers: three times, four seconds apart (RFC 4861 section 10).
func (s *slaac) solicit() {
	w := s.d.w
	if s.asked == 0 {
		s.asked = w.now
	}
	s.tries++
	w.tally.slaac.Solicitations++
	w.scratch = frame.AppendRouterSolicitation(w.scratch[:0], s.d.mac, s.linkLocal)
	s.d.port.send(w.scratch, frame.Multicast(frame.AllRouters))
	if s.tries < 3 {
		s.after(4*time.Second, (*slaac).solicit)
	}
}

// advertised takes a router's announcement.
func (s *slaac) advertised(from netip.Addr, source frame.MAC, a frame.Advertisement) {
	w := s.d.w
	if a.Lifetime == 0 {
		if s.router == from {
			s.router = netip.Addr{}
		}
		return
	}
	if !s.router.IsValid() {
		s.router = from
	}
	if s.router == from {
		s.dns = a.DNS
		mac := a.Source
		if mac == (frame.MAC{}) {
			mac = source
		}
		s.d.learn(from, mac)
	}
	if s.addr.IsValid() || s.tentative.IsValid() {
		return
	}
	for _, p := range a.Prefixes {
		if p.Auto && p.Prefix.Bits() == 64 && p.Preferred > 0 {
			s.network = p.Prefix
			s.tentative = interfaceID(p.Prefix, s.d.rand.Uint64())
			s.d.hold(s.tentative)
			s.detect(s.tentative)
			if s.asked != 0 {
				w.tally.ra.add(w.now - s.asked)
			}
			s.after(retransTimer, (*slaac).configured)
			return
		}
	}
}

// configured ends the detection: nobody has said no.
func (s *slaac) configured() {
	s.addr, s.tentative = s.tentative, netip.Addr{}
	s.d.w.tally.slaac.Configured++
	if s.asked != 0 {
		s.d.w.tally.configured.add(s.d.w.now - s.asked)
	}
}

// hop is the next hop to an IPv6 address; invalid when there is none.
func (s *slaac) hop(to netip.Addr) netip.Addr {
	if to.IsLinkLocalUnicast() || s.network.IsValid() && s.network.Contains(to) {
		return to
	}
	return s.router
}

// global tells whether the device reaches the IPv6 internet: a device with none but a local
// address (fc00::/7) uses IPv4 there (RFC 6724 section 2.1).
func (s *slaac) global() bool {
	return s.addr.IsValid() && s.router.IsValid() && !s.addr.IsPrivate()
}

// source is the address to use for to; invalid when IPv6 isn't ready.
func (s *slaac) source(to netip.Addr) netip.Addr {
	if to.IsLinkLocalUnicast() {
		return s.linkLocal
	}
	return s.addr
}

// owns tells whether a is one of the device's, tentative ones too.
func (s *slaac) owns(a netip.Addr) bool {
	return a == s.linkLocal || a == s.addr || a == s.tentative
}

// inputNeighbour takes solicitations and advertisements.
func (s *slaac) inputNeighbour(p *frame.Packet) {
	d, w := s.d, s.d.w
	n, err := frame.ParseNeighbour(p)
	if err != nil {
		return
	}
	foreign := p.Src != d.mac
	if p.ICMPType == frame.NeighbourAdvert {
		if s.owns(n.Target) && foreign {
			w.oracle.conflict(w, d, n.Target, p.Src)
			return
		}
		if x := d.lookup(n.Target); x != nil && n.MAC != (frame.MAC{}) {
			x.found(n.MAC)
		}
		return
	}
	if !s.owns(n.Target) || !foreign {
		return
	}
	h := frame.Header{Dst: p.Src, Src: d.mac, From: n.Target, To: p.From}
	asked := true
	if p.From.IsUnspecified() { // somebody else wants our address: tell all (RFC 4861 section 7.2.4)
		w.oracle.conflict(w, d, n.Target, p.Src)
		h.Dst, h.To, asked = frame.Multicast(frame.AllNodes), frame.AllNodes, false
	} else if n.MAC != (frame.MAC{}) {
		h.Dst = n.MAC
	}
	w.scratch = frame.AppendAdvertisement(w.scratch[:0], h, n.Target, asked)
	d.port.send(w.scratch, h.Dst)
}
