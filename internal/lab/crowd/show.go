package crowd

import (
	"time"

	"github.com/hotstage/hotstage/internal/fact"
)

// show is the scenario's clock: doors, stay, leaving, over. Each second it takes samples.
type show struct {
	w     *world
	alarm alarm
	stage stage
	until moment // of the stage
}

type stage uint8

const (
	before stage = iota
	doors
	stay
	leaving
	over
)

const (
	// grace is given at the end of the stay to devices that are still without an address:
	// three tries of RFC 2131's back-off.
	grace = 30 * time.Second
	// farewell is how long devices take to leave.
	farewell = 3 * time.Second
)

func (s *show) begin(w *world) {
	s.w = w
	s.alarm.who = s
	s.stage, s.until = doors, w.cfg.Doors
	w.alarms.set(&s.alarm, time.Second)
}

// commands tells whether devices can be told to do something.
func (s *show) commands() bool { return s.stage == doors || s.stage == stay }

// wake implements waker: a second has passed.
func (s *show) wake() {
	w := s.w
	w.sample()
	// From the alarm's moment, not from now: lateness must not add up.
	w.alarms.set(&s.alarm, s.alarm.at+time.Second)
	if w.now < s.until {
		return
	}
	switch s.stage {
	case doors:
		s.stage, s.until = stay, s.until+w.cfg.Stay
		w.probes.begin(w)
	case stay:
		if !s.settled() {
			return
		}
		w.tally.addressed, w.tally.addressed6 = w.bound(), w.bound6()
		w.unaddressed()
		s.stage, s.until = leaving, w.now+farewell+time.Second
		for _, d := range w.devices {
			d.after(w.now+moment(d.rand.Float64()*float64(farewell)), (*device).leave)
		}
	case leaving:
		s.stage = over
		w.alarms.stop(&s.alarm)
		close(w.over)
	}
}

// settled tells whether the stay may end: nobody waits for anything, or has waited long.
func (s *show) settled() bool {
	w := s.w
	if len(w.waiting) > 0 || w.probes.busy {
		return false
	}
	return w.bound() == len(w.devices) || w.now >= s.until+grace
}

// bound counts the devices that have an address now.
func (w *world) bound() (n int) {
	for _, d := range w.devices {
		if d.here && d.lease.holds() {
			n++
		}
	}
	return n
}

// bound6 counts the devices that have an IPv6 address now.
func (w *world) bound6() (n int) {
	for _, d := range w.devices {
		if d.here && d.slaac.addr.IsValid() {
			n++
		}
	}
	return n
}

// unaddressed names the first devices without an address, for the result.
func (w *world) unaddressed() {
	for _, d := range w.devices {
		if !(d.here && d.lease.holds()) && len(w.tally.unaddressed) < 20 {
			w.tally.unaddressed = append(w.tally.unaddressed, text(d.mac)+" at "+d.port.open.Device+" of "+d.segment.Plan.Name)
		}
	}
}

// series are the figures of the present second and all samples so far.
type series struct {
	dora, dns               histogram
	queries, opened, errors int
	arrived                 int // in all, at the last sample
	received, sent          uint64
	samples                 []fact.Sample
}

// sampleLimit bounds the samples of one run: five hours of a second's dozen.
const sampleLimit = 5 * 3600 * 16

// sample closes a second. The names are those of Result.Series.
func (w *world) sample() {
	s, t := &w.series, &w.tally
	at := w.start.Add(w.show.alarm.at)
	put := func(name string, v float64) {
		if len(s.samples) < sampleLimit {
			s.samples = append(s.samples, fact.Sample{Time: at, Series: name, Value: v})
		}
	}
	put("arrivals", float64(t.arrived-s.arrived))
	put("bound", float64(w.bound()))
	put("left", float64(t.left))
	put("dora_rate", float64(s.dora.n))
	if s.dora.n > 0 {
		put("dora_p50_ms", ms(s.dora.quantile(0.5)))
		put("dora_p99_ms", ms(s.dora.quantile(0.99)))
	}
	put("dns_rate", float64(s.queries))
	if s.dns.n > 0 {
		put("dns_p50_ms", ms(s.dns.quantile(0.5)))
		put("dns_p99_ms", ms(s.dns.quantile(0.99)))
	}
	put("flows", float64(t.flowsOpen))
	put("flow_rate", float64(s.opened))
	put("errors", float64(s.errors))
	put("frames_in", float64(t.own.Received-s.received))
	put("frames_out", float64(t.own.Sent-s.sent))
	t.rates(s)
	if s.dora.n > 0 {
		s.dora.reset()
	}
	if s.dns.n > 0 {
		s.dns.reset()
	}
	s.arrived, s.received, s.sent = t.arrived, t.own.Received, t.own.Sent
	s.queries, s.opened, s.errors = 0, 0, 0
}
