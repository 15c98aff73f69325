package crowd

import (
	"net/netip"
	"time"

	"github.com/hotstage/hotstage/internal/lab/crowd/frame"
)

// browsing is what the person does: look something up, talk to what it resolved to, wait.
type browsing struct {
	d     *device
	alarm alarm
	on    bool
}

// page is one thing looked up: its questions, then its flows.
type page struct {
	open  int // questions without an answer
	found []netip.Addr
	own   bool // of the event: there is nobody to talk to
	long  bool // for one flow that lasts
}

const (
	shareOwn  = 0.05 // of lookups: the event's timetable, its printers
	shareTCP  = 0.02 // of questions
	share6    = 0.30 // of flows besides, where there is IPv6: as many again would go unmeasured by NAPT
	shareLong = 0.50 // of devices: keep one connection open, as messengers do
)

func (b *browsing) prepare(d *device) {
	b.d = d
	b.alarm.who = b
}

// begin looks something up soon, as every device does to see whether it is online.
func (b *browsing) begin() {
	if b.on || b.d.crew {
		return
	}
	b.on = true
	b.d.w.alarms.set(&b.alarm, b.d.w.now+time.Duration(b.d.rand.Float64()*float64(2*time.Second)))
	if b.d.rand.Float64() < shareLong {
		if name := b.d.w.name(b.d.rand); name != "" {
			b.d.ask(name, frame.TypeA, false, &page{long: true})
		}
	}
}

func (b *browsing) stop() {
	b.on = false
	b.d.w.alarms.stop(&b.alarm)
}

// wake implements waker: the next thing.
func (b *browsing) wake() {
	d, w := b.d, b.d.w
	p := &page{}
	name := w.name(d.rand)
	if n := len(w.cfg.Own); n > 0 && (d.rand.Float64() < shareOwn || name == "") {
		name, p.own = w.cfg.Own[d.rand.IntN(n)], true
	}
	asked := 2.0
	if d.profile.https {
		asked++
	}
	pause := time.Minute
	if w.cfg.Queries > 0 {
		pause = time.Duration(d.rand.ExpFloat64() * asked / w.cfg.Queries * float64(time.Second))
	}
	w.alarms.set(&b.alarm, w.now+pause)
	if name == "" {
		return
	}
	tcp := d.rand.Float64() < shareTCP
	d.ask(name, frame.TypeA, tcp, p)
	d.ask(name, frame.TypeAAAA, tcp, p)
	if d.profile.https {
		d.ask(name, frame.TypeHTTPS, tcp, p)
	}
}

// visit opens the flows of a page whose questions are answered.
func (d *device) visit(p *page) {
	if p.own || len(p.found) == 0 || !d.browsing.on {
		return
	}
	var v4, v6 netip.Addr
	for _, a := range p.found {
		if a.Is4() && !v4.IsValid() {
			v4 = a
		}
		if a.Is6() && !v6.IsValid() {
			v6 = a
		}
	}
	if p.long {
		if v4.IsValid() {
			d.openLong(v4)
		}
		return
	}
	for n := d.flowsPerPage(); n > 0; n-- {
		if v4.IsValid() {
			d.openShort(v4)
		}
		if v6.IsValid() && d.slaac.global() && d.rand.Float64() < share6 {
			d.openShort(v6)
		}
	}
}

// flowsPerPage is so many that the device's sessions reach the configured number: sessions
// = flows per second x the time that NAPT remembers each.
func (d *device) flowsPerPage() int {
	c := &d.w.cfg
	if c.Queries == 0 {
		return 0
	}
	asked := 2.0
	if d.profile.https {
		asked++
	}
	rate := max(0, c.Sessions-shareLong) / c.SessionTimer.Seconds()
	mean := rate * asked / c.Queries
	n := int(mean)
	if d.rand.Float64() < mean-float64(n) {
		n++
	}
	return n
}
