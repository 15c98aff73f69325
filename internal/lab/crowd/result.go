package crowd

import (
	"time"

	"github.com/hotstage/hotstage/internal/fact"
)

// Result is what the devices saw. Durations named _ms or in Latency are milliseconds.
type Result struct {
	Start    time.Time     `json:"start"`
	Duration time.Duration `json:"duration"` // in ns

	Devices int `json:"devices"`
	Arrived int `json:"arrived"`
	// Addressed is how many had an IPv4 address when the stay ended; Unaddressed names the
	// first of the others.
	Addressed   int      `json:"addressed"`
	Unaddressed []string `json:"unaddressed,omitempty"`
	Left        int      `json:"left"`
	Roamed      int      `json:"roamed"` // away and back at another access point, by INIT-REBOOT

	// DORA is from the first DISCOVER to the ACK, retries included; of outages too.
	DORA Latency    `json:"dora"`
	DHCP DHCPCounts `json:"dhcp"`
	// Renewals are unicast or broadcast REQUESTs of devices with a lease.
	Renewals Renewals `json:"renewals"`
	Reboots  int      `json:"reboots"` // INIT-REBOOTs that were acknowledged
	Expired  int      `json:"expired"` // leases that ran out in use, because nobody answered

	Duplicates     []Duplicate `json:"duplicates,omitempty"` // the first 1000
	DuplicateCount int         `json:"duplicate_count"`
	Rechecks       []Recheck   `json:"rechecks,omitempty"`
	Outages        []Outage    `json:"outages,omitempty"`

	IPv6  IPv6       `json:"ipv6"`
	DNS   DNS        `json:"dns"`
	Flows FlowCounts `json:"flows"`

	Probes []ProbeCount `json:"probes,omitempty"`
	Own    Own          `json:"own"`

	// Unresolved counts gateways and resolvers that answered no ARP or neighbour
	// solicitation, Pinged the echo requests that devices answered, Retransmits the TCP
	// segments sent again.
	Unresolved  int `json:"unresolved"`
	Pinged      int `json:"pinged"`
	Retransmits int `json:"retransmits"`

	// Series are samples of each second: arrivals, bound, left, dora_rate, dora_p50_ms,
	// dora_p99_ms, dns_rate, dns_p50_ms, dns_p99_ms, flows (open), flow_rate (opened),
	// errors (failed questions and flows), frames_in, frames_out. A latency has no sample in
	// a second without any.
	Series []fact.Sample `json:"series"`
}

// Latency sums many durations up, in milliseconds; percentiles are at most 1.6% too high.
type Latency struct {
	Count int     `json:"count"`
	P50   float64 `json:"p50"`
	P99   float64 `json:"p99"`
	Max   float64 `json:"max"`
}

// DHCPCounts counts messages of devices and of servers.
type DHCPCounts struct {
	Discovers int `json:"discovers"`
	Offers    int `json:"offers"`
	Requests  int `json:"requests"`
	Acks      int `json:"acks"`
	Naks      int `json:"naks"`
	Releases  int `json:"releases"`
	Declines  int `json:"declines"`
	Retries   int `json:"retries"`
	Malformed int `json:"malformed"`
}

// Renewals counts how leases were extended.
type Renewals struct {
	Tried   int     `json:"tried"`
	Acks    int     `json:"acks"`
	Naks    int     `json:"naks"`
	Latency Latency `json:"latency"`
}

// IPv6 counts address configuration. RA is from the first solicitation to the
// advertisement; Usable until duplicate address detection was over, which takes a second.
type IPv6 struct {
	Devices       int     `json:"devices"`   // that walked into segments with IPv6
	Addressed     int     `json:"addressed"` // of these, had an address when the stay ended
	Solicitations int     `json:"solicitations"`
	Configured    int     `json:"configured"` // times; a device that roams does it again
	Malformed     int     `json:"malformed"`
	RA            Latency `json:"ra"`
	Usable        Latency `json:"usable"`
}

// DNS counts questions. OK counts answers with NOERROR, empty ones too; the failures are
// after all tries. All names asked for exist.
type DNS struct {
	Asked     int     `json:"asked"`
	OK        int     `json:"ok"`
	TCP       int     `json:"tcp"`       // asked by TCP at once
	Truncated int     `json:"truncated"` // asked again by TCP
	Retries   int     `json:"retries"`
	Timeout   int     `json:"timeout"`
	ServFail  int     `json:"servfail"`
	NXDomain  int     `json:"nxdomain"`
	Refused   int     `json:"refused"`
	Other     int     `json:"other"`
	Malformed int     `json:"malformed"` // datagrams that answer no question
	Latency   Latency `json:"latency"`
}

// Failed is how many questions got no answer that a device can use.
func (d DNS) Failed() int { return d.Timeout + d.ServFail + d.NXDomain + d.Refused + d.Other }

// FlowCounts has the kinds udp, tcp, ping, udp-long and tcp-long.
type FlowCounts map[string]FlowCount

// FlowCount counts the flows of one kind. A long flow is neither OK nor failed while it
// lives; each of its echoes is a round. Retries count packets whose echo was late or lost.
type FlowCount struct {
	Tried   int `json:"tried"`
	OK      int `json:"ok"`
	Failed  int `json:"failed"`
	Reset   int `json:"reset"` // of the failed ones: refused or cut, not timed out
	Rounds  int `json:"rounds"`
	Retries int `json:"retries"`
}

// Own tells faults of the generator from faults of the venue.
type Own struct {
	Received      uint64  `json:"received"` // frames
	ReceivedBytes uint64  `json:"received_bytes"`
	Sent          uint64  `json:"sent"`
	SentBytes     uint64  `json:"sent_bytes"`
	Drops         uint64  `json:"drops"`  // arrived, but our sockets were full
	Unsent        uint64  `json:"unsent"` // refused by our interfaces
	Late          Latency `json:"late"`   // how late our alarms were
}

// Snapshot is the state at one moment, for a progress display.
type Snapshot struct {
	Elapsed  time.Duration
	Devices  int
	Arrived  int
	Bound    int
	Left     int
	DORA     Latency
	DNS      Latency
	DNSRate  int // of the last second
	FlowRate int
	Flows    int // open
	Errors   int // of the last second
	Retries  int // of DHCP, in all

	Duplicates int
	Probing    bool
	Leaving    bool
}

// tally is what world counts.
type tally struct {
	arrived, left, roamed        int
	addressed, addressed6        int // at the end of the stay
	reboots, expired, unresolved int
	pinged, retransmits          int
	flowsOpen, flowsSkipped      int
	unaddressed                  []string

	dhcp     DHCPCounts
	renewals Renewals
	slaac    IPv6
	dns      DNS
	flows    [kinds]FlowCount
	own      Own

	dora, renewal, resolve, ra, configured, lag histogram

	rechecks []Recheck
	outages  []Outage
	last     struct{ queries, opened, errors int } // of the last full second
}

// rates keeps the last full second for Snapshot.
func (t *tally) rates(s *series) {
	t.last.queries, t.last.opened, t.last.errors = s.queries, s.opened, s.errors
}

// Snapshot is how it stands now. It may be called at any time, once a second or so: it
// walks all devices.
func (c *Crowd) Snapshot() Snapshot {
	w := c.w
	w.mu.Lock()
	defer w.mu.Unlock()
	t := &w.tally
	s := Snapshot{Devices: len(w.devices), Arrived: t.arrived, Bound: w.bound(), Left: t.left, DORA: t.dora.latency(), DNS: t.resolve.latency(),
		DNSRate: t.last.queries, FlowRate: t.last.opened, Errors: t.last.errors, Flows: t.flowsOpen, Retries: t.dhcp.Retries,
		Duplicates: w.oracle.count, Probing: w.probes.busy, Leaving: w.show.stage >= leaving}
	if !w.start.IsZero() {
		s.Elapsed = time.Since(w.start)
	}
	return s
}

// result gathers everything; the world is locked.
func (w *world) result() Result {
	t := &w.tally
	r := Result{Start: w.start, Duration: w.now, Devices: len(w.devices), Arrived: t.arrived, Addressed: t.addressed, Unaddressed: t.unaddressed,
		Left: t.left, Roamed: t.roamed, DORA: t.dora.latency(), DHCP: t.dhcp, Renewals: t.renewals, Reboots: t.reboots, Expired: t.expired,
		Duplicates: w.oracle.duplicates, DuplicateCount: w.oracle.count, Rechecks: t.rechecks, Outages: t.outages,
		IPv6: t.slaac, DNS: t.dns, Flows: FlowCounts{}, Probes: w.probes.counts(), Own: t.own,
		Unresolved: t.unresolved, Pinged: t.pinged, Retransmits: t.retransmits, Series: w.series.samples}
	if w.show.stage < leaving {
		r.Addressed, r.IPv6.Addressed = w.bound(), w.bound6()
	} else {
		r.IPv6.Addressed = t.addressed6
	}
	for _, s := range w.segments {
		if s.Plan.IPv6.IsValid() {
			r.IPv6.Devices += s.Devices
		}
	}
	r.Renewals.Latency = t.renewal.latency()
	r.IPv6.RA, r.IPv6.Usable = t.ra.latency(), t.configured.latency()
	r.DNS.Latency = t.resolve.latency()
	for k, name := range kindNames {
		r.Flows[name] = t.flows[k]
	}
	for _, p := range w.ports {
		if p.frames != nil {
			r.Own.Drops += p.frames.Drops()
		}
	}
	r.Own.Late = t.lag.latency()
	return r
}
