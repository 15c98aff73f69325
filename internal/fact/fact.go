// Package fact holds what has happened at the venue as plain values: leases, events,
// samples, checks. Roles write facts, store keeps them, ops shows them; a fact never acts.
package fact

import (
	"net"
	"net/netip"
	"time"
)

// Lease is one DHCPv4 binding. The key of a client within a segment is Client; the
// address is unique in the whole plan.
type Lease struct {
	Segment  string           `json:"segment"`
	Addr     netip.Addr       `json:"addr"`
	Client   string           `json:"client"` // "id:<hex>" (option 61) or "mac:<aa:bb:..>"; see RFC 2131 section 4.2
	MAC      net.HardwareAddr `json:"mac"`
	Hostname string           `json:"hostname,omitempty"` // as the client said it (option 12), made safe for DNS
	State    LeaseState       `json:"state"`
	Start    time.Time        `json:"start"`   // wall clock, of the first ACK of this binding
	Expires  time.Time        `json:"expires"` // wall clock, for people; see Remaining for what counts
	// Boot and ExpiresBoot say the same expiry on the machine's boot clock
	// (CLOCK_BOOTTIME), which a step of the wall clock cannot move.
	Boot        string        `json:"boot,omitempty"`
	ExpiresBoot time.Duration `json:"expires_boot,omitempty"`
	// Node and Seq are of leases on their way between a node's journal and the shared
	// database: who wrote this, and when in the order of that node's changes. Zero elsewhere.
	Node string `json:"node,omitempty"`
	Seq  int64  `json:"seq,omitempty"`
}

// LeaseState is what a binding is at the moment.
type LeaseState string

// The states of a binding.
const (
	LeaseBound    LeaseState = "bound"
	LeaseReleased LeaseState = "released"
	LeaseExpired  LeaseState = "expired"
	LeaseDeclined LeaseState = "declined" // a client found the address in use; kept out of the pool for a while
)

// Severity ranks an event by what a person should do.
type Severity string

// The severities of an event.
const (
	Info    Severity = "info"    // good to know
	Warning Severity = "warning" // look at it today
	Alarm   Severity = "alarm"   // attendees feel it now
)

// Event is something that happened at a known time and that a person may want to read.
type Event struct {
	Time     time.Time `json:"time"`
	Node     string    `json:"node"`
	Task     string    `json:"task"` // the task that says it, for example "dhcp"
	Kind     string    `json:"kind"` // a stable key in lower case, for example "pool-full"
	Severity Severity  `json:"severity"`
	Words    string    `json:"words"` // one sentence for a person: what is so, what to do
}

// Check is one statement about the venue that is either so or not.
type Check struct {
	Name     string `json:"name"`               // stable key, for example "dora-p99"
	Words    string `json:"words"`              // what was asked, for a person
	Goal     string `json:"goal,omitempty"`     // for example "under 50 ms"
	Measured string `json:"measured,omitempty"` // for example "3.1 ms"
	OK       bool   `json:"ok"`
	Hint     string `json:"hint,omitempty"` // when not OK: where to look, what to type
}

// Sample is one value of one series at one moment.
type Sample struct {
	Time   time.Time `json:"time"`
	Series string    `json:"series"`
	Value  float64   `json:"value"`
}

// Query is one question to a resolver, of a sample of them.
type Query struct {
	Time   time.Time     `json:"time"`
	Client netip.Addr    `json:"client"`
	Name   string        `json:"name"` // in lower case, without its last dot
	Type   string        `json:"type"`
	Rcode  string        `json:"rcode"`
	From   string        `json:"from"` // where the answer came from: cache, stale, own, block, asked
	Took   time.Duration `json:"took_ns"`
}
