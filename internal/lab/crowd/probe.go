package crowd

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/hotstage/hotstage/internal/lab/crowd/frame"
	"github.com/hotstage/hotstage/internal/plan"
)

// ProbeCount counts what one kind of isolation probe got through.
type ProbeCount struct {
	Name    string `json:"name"`
	Words   string `json:"words"`   // from whom to what
	Allowed bool   `json:"allowed"` // whether it should get through
	Tried   int    `json:"tried"`
	Through int    `json:"through"`
	// Control tells that the probe is no probe: it shows that the probers can send and can
	// see what arrives, and that the targets are alive. A control that doesn't get through
	// makes the forbidden probes worthless.
	Control bool `json:"control,omitempty"`
}

// OK tells whether the kind went as it should; one that was never tried did.
func (p ProbeCount) OK() bool {
	if p.Allowed {
		return p.Through == p.Tried
	}
	return p.Through == 0
}

type probeKind uint8

const (
	directV4 probeKind = iota
	directV6
	broadcastProbe
	hairpinV4
	hairpinV6
	crossV4
	crossV6
	managementV4
	managementV6
	managementNode
	managementTCP
	serverV4
	serverV6
	gatewayV4
	gatewayV6
	crewGateway
	crewNode
	crewTCP
	probeKinds
)

var probeTable = [probeKinds]ProbeCount{
	directV4:       {Name: "attendee-direct-v4", Words: "attendee to attendee of the same segment, straight to its hardware address"},
	directV6:       {Name: "attendee-direct-v6", Words: "the same over IPv6"},
	broadcastProbe: {Name: "attendee-broadcast", Words: "attendee to all attendees of its segment by broadcast"},
	hairpinV4:      {Name: "attendee-hairpin-v4", Words: "attendee to attendee of the same segment, by way of the gateway"},
	hairpinV6:      {Name: "attendee-hairpin-v6", Words: "the same over IPv6"},
	crossV4:        {Name: "attendee-segment-v4", Words: "attendee to attendee of another segment"},
	crossV6:        {Name: "attendee-segment-v6", Words: "the same over IPv6"},
	managementV4:   {Name: "management-device-v4", Words: "attendee to a device of the management segment"},
	managementV6:   {Name: "management-device-v6", Words: "the same over IPv6"},
	managementNode: {Name: "management-node-ping", Words: "attendee to management addresses of nodes, ICMP echo"},
	managementTCP:  {Name: "management-node-tcp", Words: "attendee to management addresses of nodes, TCP ports 22 and 80"},
	serverV4:       {Name: "server-device-v4", Words: "attendee to a device of the server segment that gives no service"},
	serverV6:       {Name: "server-device-v6", Words: "the same over IPv6"},
	gatewayV4:      {Name: "gateway-ping-v4", Words: "attendee to its gateway, ICMP echo", Allowed: true, Control: true},
	gatewayV6:      {Name: "gateway-ping-v6", Words: "the same over IPv6", Allowed: true, Control: true},
	crewGateway:    {Name: "control-device-ping", Words: "each device that the probes aim at to its own gateway, ICMP echo", Allowed: true, Control: true},
	crewNode:       {Name: "control-node-ping", Words: "management device to management addresses of nodes, ICMP echo", Allowed: true, Control: true},
	crewTCP:        {Name: "control-node-tcp", Words: "management device to management addresses of nodes, TCP port 22 or 80 (a refusal is an answer)", Allowed: true, Control: true},
}

const (
	// probeMagic marks a probe wherever it turns up; eight bytes of number follow.
	probeMagic = "hotstage-probe/"
	probePort  = 33434 // UDP, as traceroute uses; nothing listens there
	probeWait  = 3 * time.Second
	// repeatWait is when a probe that must get through and has not is sent once more: a device
	// may roam, or a busy machine lose a frame, and neither says anything of the venue.
	repeatWait = time.Second
)

// probe is one packet sent to see whether it arrives.
type probe struct {
	kind    probeKind
	through bool
	from    *device
	port    uint16 // of TCP
	again   func() // sends it once more; nil: once is enough
}

// probing sends the probes once, early in the stay, and counts.
type probing struct {
	w     *world
	alarm alarm
	busy  bool
	pair  int
	late  bool // what was not answered was sent again
	tried [probeKinds]int
	seen  map[uint64]*probe // by number
	last  uint64
}

// begin starts the probes, if there are to be any.
func (p *probing) begin(w *world) {
	if w.cfg.Probes < 0 {
		return
	}
	p.w, p.busy = w, true
	p.alarm.who = p
	p.controls()
	w.alarms.set(&p.alarm, w.now+500*time.Millisecond)
}

// wake implements waker: the next pair, or the end.
func (p *probing) wake() {
	pause := 20 * time.Millisecond
	switch {
	case p.pair < p.w.cfg.Probes:
		p.pair++
		if p.try(); p.pair == p.w.cfg.Probes {
			pause = repeatWait
		}
	case !p.late:
		p.late = true
		p.repeat()
		pause = probeWait - repeatWait
	default:
		p.busy = false
		return
	}
	p.w.alarms.set(&p.alarm, p.w.now+pause)
}

// ready lists the attendees' devices that hold an address.
func (p *probing) ready() (all []*device) {
	for _, d := range p.w.devices {
		if d.here && d.lease.holds() && d.segment.Plan.Class == plan.Attendee {
			all = append(all, d)
		}
	}
	return all
}

// try sends one of each kind from a random attendee.
func (p *probing) try() {
	all := p.ready()
	if len(all) == 0 {
		return
	}
	// Its own random stream would be as good: who is ready depends on time anyway.
	r := p.w.devices[0].rand
	a := all[r.IntN(len(all))]
	p.ping(gatewayV4, a, a.lease.router)
	p.ping(gatewayV6, a, a.slaac.router)
	start := r.IntN(len(all))
	near, far := false, false
	for i := range all {
		b := all[(start+i)%len(all)]
		switch {
		case b == a:
		case b.segment == a.segment && b.port != a.port && !near:
			near = true
			p.near(a, b)
		case b.segment != a.segment && !far:
			far = true
			p.udp(crossV4, a, b.lease.addr)
			p.udp(crossV6, a, b.slaac.addr)
		}
	}
	for _, c := range p.w.crew {
		v4, v6 := managementV4, managementV6
		switch c.segment.Plan.Class {
		case plan.Management:
		case plan.Server:
			v4, v6 = serverV4, serverV6
		default:
			continue
		}
		if c.lease.holds() {
			p.udp(v4, a, c.lease.addr)
			p.udp(v6, a, c.slaac.addr)
		}
	}
	if n := len(p.w.cfg.Management); n > 0 {
		to := p.w.cfg.Management[r.IntN(n)]
		p.ping(managementNode, a, to)
		p.syn(managementTCP, a, to, [2]uint16{22, 80}[r.IntN(2)])
	}
}

// repeat sends once more what must get through and has not. Of a device that has no address
// any more nothing can be said.
func (p *probing) repeat() {
	for n, x := range p.seen {
		switch {
		case x.through || x.again == nil:
		case !x.from.lease.holds():
			p.tried[x.kind]--
			delete(p.seen, n)
		default:
			x.again()
		}
	}
}

// near sends the probes between two devices of one segment at different access points.
func (p *probing) near(a, b *device) {
	if !a.segment.Plan.Isolate {
		return
	}
	// The target shows that it can see a probe at all.
	p.ping(gatewayV4, b, b.lease.router)
	p.udp(hairpinV4, a, b.lease.addr)
	if b.slaac.addr.IsValid() && a.slaac.addr.IsValid() {
		p.udp(hairpinV6, a, b.slaac.addr)
		p.direct(directV6, a, b, a.slaac.addr, b.slaac.addr)
	}
	p.direct(directV4, a, b, a.lease.addr, b.lease.addr)
	p.direct(broadcastProbe, a, nil, a.lease.addr, broadcast4)
}

// controls lets the crew show that it is alive and sees answers.
func (p *probing) controls() {
	for _, c := range p.w.crew {
		if !c.lease.holds() {
			continue
		}
		p.ping(crewGateway, c, c.lease.router)
		if c.segment.Plan.Class != plan.Management {
			continue
		}
		for _, to := range p.w.cfg.Management {
			p.ping(crewNode, c, to)
			p.syn(crewTCP, c, to, 22)
		}
	}
}

// number registers a probe and makes its payload.
func (p *probing) number(k probeKind, from *device) []byte {
	p.tried[k]++
	p.last++
	p.seen[p.last] = &probe{kind: k, from: from}
	return binary.BigEndian.AppendUint64([]byte(probeMagic), p.last)
}

func (p *probing) ping(k probeKind, from *device, to netip.Addr) {
	if _, _, ok := from.path(to); !to.IsValid() || !ok {
		return
	}
	id, seq := uint16(p.last), uint16(p.pair)
	payload := p.number(k, from)
	from.sendEcho(to, id, seq, payload)
	if probeTable[k].Allowed {
		p.seen[p.last].again = func() {
			if _, _, ok := from.path(to); ok {
				from.sendEcho(to, id, seq+1, payload)
			}
		}
	}
}

// udp sends a datagram by way of the gateway, also to a neighbour.
func (p *probing) udp(k probeKind, from *device, to netip.Addr) {
	if !to.IsValid() {
		return
	}
	h, _, ok := from.path(to)
	router := from.lease.router
	if to.Is6() {
		router = from.slaac.router
	}
	if ok && router.IsValid() {
		from.w.scratch = frame.AppendUDP(from.w.scratch[:0], h, probePort, probePort, p.number(k, from))
		from.transmit(router, from.w.scratch)
	}
}

// direct sends a datagram to the target's hardware address, or to all without a target.
func (p *probing) direct(k probeKind, from, target *device, src, dst netip.Addr) {
	mac := frame.Broadcast
	if target != nil {
		mac = target.mac
	}
	h := frame.Header{Dst: mac, Src: from.mac, From: src, To: dst}
	from.w.scratch = frame.AppendUDP(from.w.scratch[:0], h, probePort, probePort, p.number(k, from))
	from.port.send(from.w.scratch, mac)
}

// syn tries to open a TCP connection; whatever answers has been reached.
func (p *probing) syn(k probeKind, from *device, to netip.Addr, port uint16) {
	h, hop, ok := from.path(to)
	if !ok {
		return
	}
	p.number(k, from)
	x := p.seen[p.last]
	x.port = from.freePort()
	g := frame.Segment{SrcPort: x.port, DstPort: port, Seq: from.rand.Uint32(), Flags: frame.SYN, MSS: streamMSS}
	from.w.scratch = frame.AppendTCP(from.w.scratch[:0], h, g, nil)
	from.transmit(hop, from.w.scratch)
}

// arrived looks for a probe in something that a device received.
func (p *probing) arrived(payload []byte) {
	if len(payload) < len(probeMagic)+8 || !bytes.HasPrefix(payload, []byte(probeMagic)) {
		return
	}
	if x := p.seen[binary.BigEndian.Uint64(payload[len(probeMagic):])]; x != nil {
		x.through = true
	}
}

// answered looks for a probe that a TCP segment answers.
func (p *probing) answered(d *device, k *frame.Packet) {
	for _, x := range p.seen {
		if x.port != 0 && x.port == k.DstPort && x.from == d {
			x.through = true
		}
	}
}

// counts are the kinds that were tried.
func (p *probing) counts() []ProbeCount {
	var through [probeKinds]int
	for _, x := range p.seen {
		if x.through {
			through[x.kind]++
		}
	}
	var all []ProbeCount
	for k := range probeKinds {
		if p.tried[k] > 0 {
			c := probeTable[k]
			c.Tried, c.Through = p.tried[k], through[k]
			all = append(all, c)
		}
	}
	return all
}
