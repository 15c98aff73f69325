package crowd

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"github.com/hotstage/hotstage/internal/lab/crowd/frame"
)

// kind is a kind of flow.
type kind uint8

const (
	flowUDP kind = iota
	flowTCP
	flowPing
	flowLongUDP
	flowLongTCP
	kinds
)

// kindNames are the keys in the result.
var kindNames = [kinds]string{"udp", "tcp", "ping", "udp-long", "tcp-long"}

const (
	flowLimit = 48 // open at a time per device
	tokenSize = 8
	// Long flows are quiet for less than the 30 s after which NAPT forgets them.
	longPause = 10 * time.Second
)

// flowWaits are the timeouts of a packet's tries.
var flowWaits = [...]time.Duration{time.Second, 2 * time.Second, 4 * time.Second}

// flow is one conversation with a far end that says everything back.
type flow struct {
	d      *device
	kind   kind
	alarm  alarm
	to     netip.Addr
	port   uint16 // ours; of a ping its id
	remote uint16
	rounds int // still to go; a long flow has as many as it lives for
	pause  time.Duration
	tries  int
	number uint16
	token  uint64
	size   int // of the payload
	got    int // bytes of the present round, over TCP
	quiet  bool
	stream *stream
}

// openShort starts a flow of a few packets: mostly QUIC-like, some TCP, few pings.
func (d *device) openShort(to netip.Addr) {
	f := &flow{kind: flowUDP, to: to, remote: 443, rounds: 1 + d.rand.IntN(3), pause: 50 * time.Millisecond, size: 48 + d.rand.IntN(400)}
	switch p := d.rand.Float64(); {
	case p < 0.02:
		f.kind, f.remote, f.size = flowPing, 0, 56
	case p < 0.25:
		f.kind, f.remote = flowTCP, [...]uint16{443, 443, 80, 7}[d.rand.IntN(4)]
	case p < 0.30:
		f.remote = 7
	}
	d.open(f)
}

// openLong starts a flow that lasts until the device leaves: a packet now and then.
func (d *device) openLong(to netip.Addr) {
	f := &flow{kind: flowLongUDP, to: to, remote: 443, rounds: 1 << 30, pause: longPause, size: 64}
	if d.rand.IntN(2) == 0 {
		f.kind = flowLongTCP
	}
	d.open(f)
}

func (d *device) open(f *flow) {
	if len(d.flows) >= flowLimit {
		d.w.tally.flowsSkipped++
		return
	}
	f.d = d
	f.alarm.who = f
	f.token = d.rand.Uint64()
	f.port = d.freePort()
	d.flows = append(d.flows, f)
	d.w.tally.flows[f.kind].Tried++
	d.w.series.opened++
	d.w.tally.flowsOpen++
	f.begin()
}

func (f *flow) isTCP() bool { return f.kind == flowTCP || f.kind == flowLongTCP }

// begin sends the first packet, or the SYN.
func (f *flow) begin() {
	if f.isTCP() {
		f.d.w.alarms.set(&f.alarm, f.d.w.now+connectLimit)
		f.stream = f.d.connect(f.to, f.remote, f)
		return
	}
	f.send()
}

// payload is the token, the round, and zeros, in b if it has room.
func (f *flow) payload(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b[:0], f.token)
	b = binary.BigEndian.AppendUint16(b, f.number)
	return append(b, make([]byte, f.size-len(b))...)
}

// send sends the present round's packet and waits for its echo.
func (f *flow) send() {
	f.quiet = false
	f.d.w.alarms.set(&f.alarm, f.d.w.now+flowWaits[f.tries])
	switch {
	case f.isTCP():
		f.got = 0
		f.d.w.alarms.set(&f.alarm, f.d.w.now+connectLimit)
		f.stream.write(f.payload(nil))
	case f.kind == flowPing:
		f.d.sendEcho(f.to, f.port, f.number, f.payload(f.d.w.inner))
	default:
		f.d.sendUDP(f.to, f.port, f.remote, f.payload(f.d.w.inner))
	}
}

// wake implements waker: the pause is over, or no echo came in time.
func (f *flow) wake() {
	if f.quiet {
		f.send()
		return
	}
	f.tries++
	if f.isTCP() || f.tries == len(flowWaits) {
		f.fail(false)
		return
	}
	f.d.w.tally.flows[f.kind].Retries++
	f.send()
}

// inputFlow finds the flow that a packet is of.
func (d *device) inputFlow(k *frame.Packet, port uint16) {
	for _, f := range d.flows {
		if f.port != port || f.to != k.From || f.isTCP() || (f.kind == flowPing) != (k.Protocol != frame.UDP) {
			continue
		}
		if len(k.Payload) == f.size && binary.BigEndian.Uint64(k.Payload) == f.token && binary.BigEndian.Uint16(k.Payload[tokenSize:]) == f.number {
			f.echoed()
		}
		return
	}
}

// echoed ends a round.
func (f *flow) echoed() {
	if f.quiet {
		return // a second echo: the first was only late
	}
	w := f.d.w
	w.tally.flows[f.kind].Rounds++
	f.tries = 0
	f.number++
	if f.rounds--; f.rounds <= 0 {
		w.tally.flows[f.kind].OK++
		f.drop()
		return
	}
	f.quiet = true
	w.alarms.set(&f.alarm, w.now+f.pause)
}

// up implements streamUser.
func (f *flow) up() { f.send() }

// data implements streamUser.
func (f *flow) data(b []byte) {
	if f.got += len(b); f.got >= f.size {
		f.echoed()
	}
}

// down implements streamUser: the far end or the path has ended the connection.
func (f *flow) down() {
	f.stream = nil
	f.fail(true)
}

func (f *flow) fail(reset bool) {
	w := f.d.w
	w.tally.flows[f.kind].Failed++
	if reset {
		w.tally.flows[f.kind].Reset++
	}
	w.series.errors++
	f.drop()
}

// drop takes the flow away; it then counts neither as good nor as failed unless it has
// been counted.
func (f *flow) drop() {
	f.d.w.alarms.stop(&f.alarm)
	f.d.w.tally.flowsOpen--
	if f.stream != nil {
		f.stream.shut()
		f.stream = nil
	}
	f.d.flows = slices.DeleteFunc(f.d.flows, func(x *flow) bool { return x == f })
}
