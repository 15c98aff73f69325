package crowd

import (
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/hotstage/hotstage/internal/lab/crowd/frame"
)

// Duplicate is an address that two devices had at one moment.
type Duplicate struct {
	Addr netip.Addr `json:"addr"`
	// First had the address when Second got it, or was seen with it.
	First  string    `json:"first"`
	Second string    `json:"second"`
	Time   time.Time `json:"time"`
	// How it was seen: "ack" (acknowledged to Second while First used it), "lease" (while
	// First was out of reach and its lease ran on) or "neighbour" (by ARP or neighbour
	// discovery; Second may be no device of the crowd).
	How string `json:"how"`
}

// oracle remembers every lease as the devices were told and finds two on one address.
type oracle struct {
	leases     map[netip.Addr]*grant
	of         map[*device]netip.Addr // the address of each device's grant
	duplicates []Duplicate            // the first duplicateLimit
	count      int
}

// grant is an ACK that has neither run out nor been given back.
type grant struct {
	d     *device
	until moment
}

const duplicateLimit = 1000

// acknowledged notes d's new lease.
func (o *oracle) acknowledged(w *world, d *device) {
	l := &d.lease
	if had, ok := o.of[d]; ok && had != l.addr {
		delete(o.leases, had)
	}
	if g := o.leases[l.addr]; g != nil && g.d != d && w.now < g.until {
		how := "lease"
		if g.d.here && g.d.lease.holds() && g.d.lease.addr == l.addr {
			how = "ack"
		}
		o.add(w, l.addr, g.d.mac, d.mac, how)
		delete(o.of, g.d)
	}
	o.leases[l.addr] = &grant{d: d, until: l.until}
	o.of[d] = l.addr
}

// ended notes that d has given its lease back or was told that it has none.
func (o *oracle) ended(d *device) {
	if had, ok := o.of[d]; ok {
		delete(o.leases, had)
		delete(o.of, d)
	}
}

// conflict notes another station that uses d's address.
func (o *oracle) conflict(w *world, d *device, a netip.Addr, other frame.MAC) {
	o.add(w, a, d.mac, other, "neighbour")
}

func (o *oracle) add(w *world, a netip.Addr, first, second frame.MAC, how string) {
	o.count++
	if len(o.duplicates) < duplicateLimit {
		o.duplicates = append(o.duplicates, Duplicate{Addr: a, First: text(first), Second: text(second), Time: w.start.Add(w.now), How: how})
	}
}

func text(m frame.MAC) string { return net.HardwareAddr(m[:]).String() }

// String says it in a sentence.
func (d Duplicate) String() string {
	return fmt.Sprintf("%s: %s had it when %s got it (%s, %s)", d.Addr, d.First, d.Second, d.How, d.Time.Format(time.TimeOnly))
}
