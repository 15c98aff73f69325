package crowd

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Recheck is the answer to "is every acknowledged lease still that client's?".
type Recheck struct {
	Time   time.Time `json:"time"`
	Asked  int       `json:"asked"`  // devices that had a lease
	Kept   int       `json:"kept"`   // the same address was acknowledged again
	Lost   int       `json:"lost"`   // a NAK, or another address
	Silent int       `json:"silent"` // no answer to four requests, or none before the context ended
	Left   int       `json:"left"`   // went away meanwhile
	Losses []Loss    `json:"losses"` // the first 100
}

// Loss is a lease that is no longer its client's.
type Loss struct {
	MAC  string     `json:"mac"`
	Had  netip.Addr `json:"had"`
	Now  netip.Addr `json:"now"` // invalid after a NAK
	Time time.Time  `json:"time"`
}

// Outage is how the network came back for all devices at once.
type Outage struct {
	Time    time.Time     `json:"time"`
	Devices int           `json:"devices"`
	Bound   int           `json:"bound"` // got an address again
	Left    int           `json:"left"`  // went away before, such as to another access point
	Took    time.Duration `json:"took"`  // in ns, until the last one, or until the context ended
	DORA    Latency       `json:"dora"`
}

// verdict is how a recheck of one device ends.
type verdict uint8

const (
	kept verdict = iota
	moved
	denied
	silent
	gone
)

// wait is what somebody outside waits for.
type wait struct {
	left     int
	finished chan struct{}
	verdicts [gone + 1]int
	losses   []Loss
	took     histogram
}

const lossLimit = 100

func (w *world) newWait(n int) *wait {
	x := &wait{left: n, finished: make(chan struct{})}
	w.waiting = append(w.waiting, x)
	if n == 0 {
		close(x.finished)
	}
	return x
}

// done counts one device off.
func (x *wait) done() {
	if x.left--; x.left == 0 {
		close(x.finished)
	}
}

// checked ends the recheck of this device, if there is one. After moved, addr is still the
// old address.
func (l *lease) checked(v verdict) {
	x := l.recheck
	if x == nil {
		return
	}
	l.recheck = nil
	x.verdicts[v]++
	if (v == moved || v == denied) && len(x.losses) < lossLimit {
		loss := Loss{MAC: text(l.d.mac), Had: l.addr, Time: l.d.w.start.Add(l.d.w.now)}
		if v == moved {
			loss.Now = l.given
		}
		x.losses = append(x.losses, loss)
	}
	x.done()
}

// pace is how many devices a recheck asks per second.
const pace = 500

// errNotRunning is for commands before Run has begun or after the devices have left.
var errNotRunning = errors.New("crowd: it is not running: call this while Run is, before the stay is over")

// Recheck asks, for every device with a lease, whether the lease is still its own, as a
// device does that has restarted (INIT-REBOOT, RFC 2131 section 4.3.2), 500 a second. Run
// doesn't end meanwhile. When ctx ends first, the devices without an answer count as silent.
func (c *Crowd) Recheck(ctx context.Context) (Recheck, error) {
	w := c.w
	w.lock()
	if !w.show.commands() {
		w.unlock()
		return Recheck{}, errNotRunning
	}
	var held []*device
	for _, d := range w.devices {
		if d.here && d.lease.holds() && d.lease.recheck == nil {
			held = append(held, d)
		}
	}
	x := w.newWait(len(held))
	for i, d := range held {
		d.lease.recheck = x
		d.after(w.now+moment(i)*time.Second/pace, func(d *device) {
			if d.lease.recheck != nil {
				d.lease.reboot()
			}
		})
	}
	r := Recheck{Time: w.start.Add(w.now), Asked: len(held)}
	w.unlock()
	err := c.await(ctx, x)
	w.lock()
	defer w.unlock()
	for _, d := range held {
		if d.lease.recheck == x {
			d.lease.checked(silent)
		}
	}
	w.endWait(x)
	v := x.verdicts
	r.Kept, r.Lost, r.Silent, r.Left, r.Losses = v[kept], v[moved]+v[denied], v[silent], v[gone], x.losses
	w.tally.rechecks = append(w.tally.rechecks, r)
	return r, err
}

// Outage makes all devices that are here forget the network and ask for it anew, evenly
// within the given time, as after a power cut of the switches. It returns when every one has
// an address again, or with ctx: then Bound says how many have.
func (c *Crowd) Outage(ctx context.Context, within time.Duration) (Outage, error) {
	if within < 0 {
		return Outage{}, fmt.Errorf("crowd: outage within %v: must not be under 0", within)
	}
	w := c.w
	w.lock()
	if !w.show.commands() {
		w.unlock()
		return Outage{}, errNotRunning
	}
	var hit []*device
	for _, d := range w.devices {
		if d.here && d.lease.outage == nil {
			hit = append(hit, d)
		}
	}
	began := w.now
	x := w.newWait(len(hit))
	for i, d := range hit {
		if i%100 == 99 { // thousands of goodbyes: let others have the lock meanwhile
			w.unlock()
			w.lock()
		}
		if !d.here || d.lease.outage != nil {
			x.done() // it has gone away just now
			continue
		}
		d.part()
		d.lease.outage = x
		d.after(w.now+moment(d.rand.Float64()*float64(within)), func(d *device) {
			d.join()
			d.lease.discover()
		})
	}
	o := Outage{Time: w.start.Add(w.now), Devices: len(hit)}
	w.unlock()
	err := c.await(ctx, x)
	w.lock()
	defer w.unlock()
	for _, d := range hit {
		if d.lease.outage == x {
			d.lease.outage = nil
		}
	}
	w.endWait(x)
	o.Bound, o.Left, o.Took, o.DORA = x.took.n, x.verdicts[gone], w.now-began, x.took.latency()
	w.tally.outages = append(w.tally.outages, o)
	return o, err
}

// await blocks until x is finished, the scenario is over or ctx ends.
func (c *Crowd) await(ctx context.Context, x *wait) error {
	select {
	case <-x.finished:
		return nil
	case <-c.w.over:
		return errNotRunning
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (w *world) endWait(x *wait) {
	w.waiting = slices.DeleteFunc(w.waiting, func(y *wait) bool { return x == y })
}
