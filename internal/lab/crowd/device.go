package crowd

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/hotstage/hotstage/internal/lab/crowd/frame"
)

// device is one attendee's thing, or one of the crew's.
type device struct {
	w       *world
	segment *segment
	port    *port
	rand    *rand.Rand
	mac     frame.MAC
	profile *profile
	host    string
	crew    bool

	arrival moment
	here    bool // it has joined its segment and not left
	life    life

	lease      lease
	slaac      slaac
	neighbours []*neighbour
	queries    []*query
	flows      []*flow
	streams    []*stream
	browsing   browsing
}

// profile is how a kind of device behaves.
type profile struct {
	host      string // its DHCP host name, with a number to fill in
	class     string // DHCP option 60
	id        bool   // sends the client identifier 01 and its MAC
	broadcast bool   // wants DHCP answers by broadcast
	want      []byte // DHCP option 55
	https     bool   // asks for HTTPS records too
	weight    int    // how common it is, in hundredths
}

// profiles of what people bring, roughly as often as at a conference of engineers. The
// parameter request lists are of the usual lengths; servers must not depend on the order.
var profiles = [...]profile{
	{host: "iPhone-%d", id: true, want: []byte{1, 121, 3, 6, 15, 108, 114, 119, 252}, https: true, weight: 38},
	{host: "Pixel-%d", class: "android-dhcp-14", want: []byte{1, 3, 6, 15, 26, 28, 51, 58, 59, 43, 114, 108}, weight: 24},
	{host: "MacBook-Pro-%d", id: true, want: []byte{1, 121, 3, 6, 15, 108, 114, 119, 252, 95, 44, 46}, https: true, weight: 18},
	{host: "DESKTOP-%05d", class: "MSFT 5.0", id: true, want: []byte{1, 3, 6, 15, 31, 33, 43, 44, 46, 47, 119, 121, 249, 252}, weight: 12},
	{host: "thinkpad%d", id: true, want: []byte{1, 2, 6, 12, 15, 26, 28, 121, 3, 33, 40, 41, 42, 119, 249, 252, 17}, weight: 6},
	{host: "", class: "udhcp 1.36.1", broadcast: true, want: []byte{1, 3, 6, 12, 15, 28, 42}, weight: 2},
}

// life is a device's coming and going.
type life struct {
	alarm alarm
	d     *device
	next  func(*device) // what the alarm means
}

// wake implements waker.
func (l *life) wake() { l.next(l.d) }

// newDevice makes the device with a number that is unique in the world, at one of ports.
func (w *world) newDevice(id int, ports []*port) *device {
	d := &device{w: w}
	d.rand = rand.New(rand.NewPCG(uint64(w.cfg.Seed), uint64(id)))
	// Locally administered, unicast (IEEE 802), as phones' private addresses are.
	d.mac = frame.MAC{0x02 | byte(d.rand.UintN(64))<<2, byte(d.rand.Uint32()), byte(d.rand.Uint32()), byte(id >> 16), byte(id >> 8), byte(id)}
	d.port = ports[d.rand.IntN(len(ports))]
	d.segment = d.port.segment
	pick := d.rand.IntN(100)
	for i := range profiles {
		if pick -= profiles[i].weight; pick < 0 {
			d.profile = &profiles[i]
			break
		}
	}
	if d.profile.host != "" {
		d.host = fmt.Sprintf(d.profile.host, id)
	}
	d.arrival = rush(d.rand.Float64(), w.cfg.Doors)
	d.life = life{d: d, next: (*device).arrive}
	d.life.alarm.who = &d.life
	d.lease.prepare(d)
	d.slaac.prepare(d)
	d.browsing.prepare(d)
	return d
}

// rush maps an even u of 0..1 to a moment within doors, so that three times as many come in
// the first moments as on average: the queue that has formed before the doors open.
func rush(u float64, doors time.Duration) moment {
	const k = 3
	x := -math.Log(1-u*(1-math.Exp(-k))) / k
	return moment(x * float64(doors))
}

// arrive joins the segment at the device's port.
func (d *device) arrive() {
	d.join()
	if d.crew {
		d.lease.startCrew()
		return
	}
	d.w.tally.arrived++
	d.lease.discover()
	// Later: some renew early, some roam, as if hours had passed.
	stay := d.w.cfg.Doors - d.arrival + d.w.cfg.Stay
	at := d.w.now + moment((0.2+0.6*d.rand.Float64())*float64(stay))
	switch p := d.rand.Float64(); {
	case p < shareRoams:
		d.after(at, (*device).roam)
	case p < shareRoams+shareRenews:
		d.after(at, func(d *device) { d.lease.renewEarly() })
	}
}

// Shares of devices that do a thing once in their stay.
const (
	shareRoams    = 0.05 // lid closed or out of reach, back at another access point
	shareRenews   = 0.20 // reaches T1, which a rehearsal is too short for
	shareReleases = 0.30 // says goodbye; phones just go
)

func (d *device) after(at moment, next func(*device)) {
	d.life.next = next
	d.w.alarms.set(&d.life.alarm, at)
}

// join appears at the port.
func (d *device) join() {
	d.here = true
	d.port.members[d.mac] = d
	d.slaac.begin()
}

// part vanishes from the port with everything in flight, but remembers its lease.
func (d *device) part() {
	d.here = false
	delete(d.port.members, d.mac)
	d.forget()
	d.lease.pause()
}

// forget drops all that hangs on the present link: neighbours, IPv6, questions and flows.
func (d *device) forget() {
	for len(d.queries) > 0 {
		d.queries[0].drop()
	}
	for len(d.flows) > 0 {
		d.flows[0].drop()
	}
	for len(d.streams) > 0 {
		d.streams[0].drop()
	}
	d.browsing.stop()
	// Last, because streams have said goodbye just now.
	d.slaac.stop()
	for _, n := range d.neighbours {
		d.w.alarms.stop(&n.alarm)
	}
	d.neighbours = nil
}

// roam goes out of reach and comes back at another access point of the same segment.
func (d *device) roam() {
	if d.lease.state != bound {
		return
	}
	d.part()
	d.after(d.w.now+time.Second+moment(d.rand.Float64()*float64(2*time.Second)), func(d *device) {
		ports := d.w.portsOf(d.segment)
		d.port = ports[(d.port.place+1)%len(ports)]
		d.w.tally.roamed++
		d.join()
		d.lease.reboot()
	})
}

// leave goes for good; some release their lease first (RFC 2131 section 4.4.6).
func (d *device) leave() {
	d.w.tally.left++
	if !d.here {
		return
	}
	if d.rand.Float64() < shareReleases {
		d.lease.release()
	}
	d.part()
}

// hold makes the device answer for an address.
func (d *device) hold(a netip.Addr) { d.segment.holders[a.As16()] = d }

// yield ends that, unless another device has taken the address over.
func (d *device) yield(a netip.Addr) {
	if a.IsValid() && d.segment.holders[a.As16()] == d {
		delete(d.segment.holders, a.As16())
	}
}

// port numbers of a device's own choice (RFC 6335 section 6).
const (
	firstPort = 49152
	portCount = 65536 - firstPort
)

// freePort is a source port that no query, flow or stream of the device has.
func (d *device) freePort() uint16 {
	for {
		if n := uint16(firstPort + d.rand.IntN(portCount)); !d.uses(n) {
			return n
		}
	}
}

func (d *device) uses(n uint16) bool {
	for _, q := range d.queries {
		if q.port == n {
			return true
		}
	}
	for _, f := range d.flows {
		if f.port == n {
			return true
		}
	}
	for _, s := range d.streams {
		if s.port == n {
			return true
		}
	}
	return false
}
