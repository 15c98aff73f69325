package crowd

import (
	"net/netip"

	"github.com/hotstage/hotstage/internal/lab/crowd/frame"
)

// input hands a frame that arrived at the port to the devices it is for.
func (p *port) input(f []byte) {
	t := &p.w.tally
	t.own.Received++
	t.own.ReceivedBytes += uint64(len(f))
	k := &p.packet
	if k.Parse(f) != nil {
		return // of a kind that devices ignore
	}
	if k.Dst[0]&1 == 0 {
		if d := p.members[k.Dst]; d != nil {
			d.input(k)
		}
		return
	}
	switch {
	case k.Type == frame.TypeARP:
		p.inputARP(k)
	case k.Protocol == frame.UDP:
		p.inputBroadcast(k)
	case k.Protocol == frame.ICMPv6:
		p.inputMulticast(k)
	}
}

// inputARP finds whom a broadcast concerns. A real device also refreshes what it knows of
// the sender; for thousands of devices only announcements are worth that.
func (p *port) inputARP(k *frame.Packet) {
	if k.From == k.To || k.ARPReply {
		for _, d := range p.members {
			d.inputARP(k)
		}
		return
	}
	for _, a := range [...]netip.Addr{k.To, k.From} {
		if d := p.holder(a); d != nil {
			d.inputARP(k)
		}
	}
}

// holder is the device at this port that answers for a.
func (p *port) holder(a netip.Addr) *device {
	if d := p.segment.holders[a.As16()]; d != nil && d.port == p && d.here {
		return d
	}
	return nil
}

// inputBroadcast finds whom a DHCP answer is for, and sees probes.
func (p *port) inputBroadcast(k *frame.Packet) {
	if k.DstPort != frame.DHCPClientPort {
		p.w.probes.arrived(k.Payload)
		return
	}
	if len(k.Payload) < 34 {
		p.w.tally.dhcp.Malformed++
		return
	}
	if d := p.members[frame.MAC(k.Payload[28:34])]; d != nil { // chaddr
		d.lease.input(k.Payload)
	}
}

// inputMulticast takes neighbour discovery.
func (p *port) inputMulticast(k *frame.Packet) {
	switch k.ICMPType {
	case frame.RouterAdvertisement:
		a, err := frame.ParseAdvertisement(k)
		if err != nil {
			p.w.tally.slaac.Malformed++
			return
		}
		for _, d := range p.members {
			d.slaac.advertised(k.From, k.Src, a)
		}
	case frame.NeighbourSolicitation, frame.NeighbourAdvert:
		n, err := frame.ParseNeighbour(k)
		if err != nil {
			return
		}
		if d := p.holder(n.Target); d != nil {
			d.slaac.inputNeighbour(k)
		}
	}
}

// input takes a frame to the device's own hardware address.
func (d *device) input(k *frame.Packet) {
	switch {
	case k.Type == frame.TypeARP:
		d.inputARP(k)
		return
	case k.Protocol == frame.UDP && k.DstPort == frame.DHCPClientPort && k.Type == frame.TypeIPv4:
		d.lease.input(k.Payload)
		return
	case k.Protocol == frame.ICMPv6 && k.ICMPType == frame.RouterAdvertisement:
		if a, err := frame.ParseAdvertisement(k); err == nil {
			d.slaac.advertised(k.From, k.Src, a)
		} else {
			d.w.tally.slaac.Malformed++
		}
		return
	case k.Protocol == frame.ICMPv6 && (k.ICMPType == frame.NeighbourSolicitation || k.ICMPType == frame.NeighbourAdvert):
		d.slaac.inputNeighbour(k)
		return
	}
	d.w.probes.arrived(k.Payload) // even if the IP address is not the device's: it has come through
	if k.To.Is4() && !(d.lease.holds() && k.To == d.lease.addr) || k.To.Is6() && !d.slaac.owns(k.To) {
		return
	}
	d.inputIP(k)
}

// inputIP takes a packet to one of the device's addresses.
func (d *device) inputIP(k *frame.Packet) {
	switch {
	case k.IsEcho():
		d.w.tally.pinged++
		h := frame.Header{Dst: k.Src, Src: d.mac, From: k.To, To: k.From}
		d.w.scratch = frame.AppendEcho(d.w.scratch[:0], h, true, k.ID, k.Number, k.Payload)
		d.port.send(d.w.scratch, k.Src)
	case k.IsEchoReply():
		d.inputFlow(k, k.ID)
	case k.Protocol == frame.UDP && k.SrcPort == frame.DNSPort:
		d.inputAnswer(k)
	case k.Protocol == frame.UDP:
		d.inputFlow(k, k.DstPort)
	case k.Protocol == frame.TCP:
		d.inputTCP(k)
	}
}

// path is the header for a packet to an address, and its next hop; ok is false when the
// device has no way there.
func (d *device) path(to netip.Addr) (h frame.Header, hop netip.Addr, ok bool) {
	h = frame.Header{Src: d.mac, To: to}
	if to.Is4() {
		h.From, hop = d.lease.addr, d.lease.hop(to)
		ok = d.lease.holds() && hop.IsValid()
	} else {
		h.From, hop = d.slaac.source(to), d.slaac.hop(to)
		ok = h.From.IsValid() && hop.IsValid()
	}
	return h, hop, ok
}

// sendUDP sends a datagram if there is a way to its destination.
func (d *device) sendUDP(to netip.Addr, srcPort, dstPort uint16, payload []byte) {
	if h, hop, ok := d.path(to); ok {
		d.w.scratch = frame.AppendUDP(d.w.scratch[:0], h, srcPort, dstPort, payload)
		d.transmit(hop, d.w.scratch)
	}
}

// sendEcho sends an ICMP echo request if there is a way to its destination.
func (d *device) sendEcho(to netip.Addr, id, number uint16, payload []byte) {
	if h, hop, ok := d.path(to); ok {
		d.w.scratch = frame.AppendEcho(d.w.scratch[:0], h, false, id, number, payload)
		d.transmit(hop, d.w.scratch)
	}
}
