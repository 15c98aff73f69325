package crowd

import (
	"net/netip"
	"slices"
	"time"

	"github.com/hotstage/hotstage/internal/lab/crowd/frame"
)

// streamUser is what a TCP connection serves. down comes at most once, and only for an end
// that the user has not asked for; the stream is gone then.
type streamUser interface {
	up()
	data(b []byte)
	down()
}

const (
	connectLimit = 10 * time.Second // for a handshake or an echo, retransmissions included
	streamMSS    = 1220             // fits 1280-byte paths of IPv6 too
	// RFC 6298 section 2: 1 s until the path is measured, which such short flows don't.
	firstRTO = time.Second
	rtoLimit = 3 // retransmissions
)

// stream is the client's end of a TCP connection (RFC 9293), for messages of one segment:
// at most one is unacknowledged.
//
//	connect ──SYN─► opening ──SYN,ACK─► open ──shut: FIN─► closing ──FIN─► gone
type stream struct {
	d          *device
	user       streamUser // nil once it has shut the stream
	alarm      alarm
	to         netip.Addr
	port       uint16
	remote     uint16
	next       uint32 // sequence number of the next byte that was never sent
	unacked    uint32
	expected   uint32 // of the peer
	pending    []byte // sent, not acknowledged
	open       bool
	finSent    bool
	finArrived bool
	tries      int
}

// connect sends a SYN. The user has to expect down at any time after it.
func (d *device) connect(to netip.Addr, remote uint16, user streamUser) *stream {
	s := &stream{d: d, user: user, to: to, remote: remote, port: d.freePort()}
	s.alarm.who = s
	s.unacked = d.rand.Uint32()
	s.next = s.unacked + 1
	d.streams = append(d.streams, s)
	s.retransmit()
	return s
}

// write sends b, which is one segment, once. The one before must have been acknowledged by
// an answer.
func (s *stream) write(b []byte) {
	s.pending = b
	s.unacked = s.next
	s.next += uint32(len(b))
	s.tries = 0
	s.retransmit()
}

// retransmit sends what is not acknowledged and waits.
func (s *stream) retransmit() {
	switch {
	case !s.open:
		s.send(frame.SYN, s.unacked, nil)
	case len(s.pending) > 0:
		s.send(frame.ACK|frame.PSH, s.unacked, s.pending)
	case s.finSent:
		s.send(frame.ACK|frame.FIN, s.next-1, nil)
	}
	s.d.w.alarms.set(&s.alarm, s.d.w.now+firstRTO<<s.tries)
}

func (s *stream) send(flags uint8, seq uint32, payload []byte) {
	h, hop, ok := s.d.path(s.to)
	if !ok {
		return
	}
	g := frame.Segment{SrcPort: s.port, DstPort: s.remote, Seq: seq, Flags: flags}
	if flags&frame.SYN != 0 {
		g.MSS = streamMSS
	}
	if flags&frame.ACK != 0 {
		g.Ack = s.expected
	}
	s.d.w.scratch = frame.AppendTCP(s.d.w.scratch[:0], h, g, payload)
	s.d.transmit(hop, s.d.w.scratch)
}

// wake implements waker: nothing was acknowledged in time.
func (s *stream) wake() {
	if s.tries++; s.tries > rtoLimit {
		s.fail()
		return
	}
	s.d.w.tally.retransmits++
	s.retransmit()
}

// inputTCP finds the stream of a segment; one of no stream is refused, as RFC 9293 section
// 3.10.7.1 asks, unless a probe was waiting for it.
func (d *device) inputTCP(k *frame.Packet) {
	for _, s := range d.streams {
		if s.port == k.DstPort && s.remote == k.SrcPort && s.to == k.From {
			s.input(k)
			return
		}
	}
	d.w.probes.answered(d, k)
	if k.Flags&frame.RST == 0 {
		h := frame.Header{Dst: k.Src, Src: d.mac, From: k.To, To: k.From}
		g := frame.Segment{SrcPort: k.DstPort, DstPort: k.SrcPort, Seq: k.Ack, Flags: frame.RST}
		d.w.scratch = frame.AppendTCP(d.w.scratch[:0], h, g, nil)
		d.port.send(d.w.scratch, k.Src)
	}
}

func (s *stream) input(k *frame.Packet) {
	if k.Flags&frame.RST != 0 {
		if s.open || k.Ack == s.next { // RFC 9293 section 3.10.7.3: else it is not for our SYN
			s.fail()
		}
		return
	}
	if !s.open {
		if k.Flags&(frame.SYN|frame.ACK) == frame.SYN|frame.ACK && k.Ack == s.next {
			s.open, s.expected, s.unacked, s.tries = true, k.Seq+1, s.next, 0
			s.d.w.alarms.stop(&s.alarm)
			s.send(frame.ACK, s.next, nil)
			s.user.up()
		}
		return
	}
	if k.Flags&frame.ACK != 0 && k.Ack == s.next && !s.finSent && s.unacked != s.next {
		s.unacked, s.pending, s.tries = s.next, nil, 0
		s.d.w.alarms.stop(&s.alarm)
	}
	s.receive(k)
}

// receive takes the segment's data and FIN when they are the next ones; others come again.
func (s *stream) receive(k *frame.Packet) {
	if len(k.Payload) == 0 && k.Flags&frame.FIN == 0 {
		if k.Flags&frame.SYN != 0 { // our ACK of the handshake was lost
			s.send(frame.ACK, s.next, nil)
		}
		s.settled(k)
		return
	}
	inOrder := k.Seq == s.expected
	if inOrder {
		s.expected += uint32(len(k.Payload))
		if k.Flags&frame.FIN != 0 {
			s.expected++
			s.finArrived = true
		}
	}
	s.send(frame.ACK, s.next, nil)
	if inOrder && len(k.Payload) > 0 && s.user != nil {
		s.user.data(k.Payload)
	}
	s.settled(k)
}

// settled ends the stream when both sides have said goodbye.
func (s *stream) settled(k *frame.Packet) {
	switch {
	case s.finSent && s.finArrived && k.Flags&frame.ACK != 0 && k.Ack == s.next:
		s.drop()
	case s.finArrived && s.user != nil:
		s.fail() // the peer has enough of us
	}
}

// shut says goodbye for the user, who hears no more. Before the handshake is done the
// stream is simply dropped.
func (s *stream) shut() {
	if s.user = nil; !s.open {
		s.drop()
		return
	}
	if s.finSent {
		return
	}
	s.pending = nil
	s.finSent = true
	s.unacked = s.next
	s.next++
	s.tries = 0
	s.retransmit()
}

// fail ends the stream at once and tells the user.
func (s *stream) fail() {
	user := s.user
	s.drop()
	if user != nil {
		user.down()
	}
}

// drop takes the stream away without telling anybody.
func (s *stream) drop() {
	s.d.w.alarms.stop(&s.alarm)
	s.d.streams = slices.DeleteFunc(s.d.streams, func(x *stream) bool { return x == s })
}
