// Package crowd walks simulated attendees into the venue: thousands of devices in one
// process, each with its own MAC, DHCP client, IPv6, resolver and flows, over raw frames.
//
//	 arrive        DORA, RA           names, flows          leave
//	─────────► joining ──────────► here ──────────────► away
//	               ▲                 │ roams, INIT-REBOOT   ▲
//	               └─────────────────┘                      │ Stay is over
//	                                 └──────────────────────┘
//
// A device is a few small state machines with alarms; there is one lock and no goroutine
// per device. What devices were told is recorded as they saw it, so the crowd is the judge
// of "no two clients with one address" and of "what was acknowledged stays".
package crowd

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/hotstage/hotstage/internal/plan"
)

// Port is a place where devices join a segment: one access point, or one switch port.
type Port struct {
	Namespace *kernel.Namespace
	Device    string // an interface without addresses of the kernel's
}

// Segment is a segment with the devices that walk into it.
type Segment struct {
	Plan  plan.Segment
	Ports []Port // devices are spread over them
	// Devices that walk in. A segment without any and with a port gets one device of the
	// crew there, which stays: probes aim at it, and it proves that probes can be seen.
	Devices int
}

// Config is the scenario. Zero values of the numbers below Seed mean the defaults.
type Config struct {
	Segments []Segment
	Doors    time.Duration // all devices arrive within; most of them early
	Stay     time.Duration // from the last arrival until devices leave
	Seed     int64         // the same seed gives the same devices and arrivals

	Names []string // of the internet, the most popular first
	Own   []string // names of the event
	// Management lists addresses of nodes that attendees must not reach.
	Management []netip.Addr

	// Queries is how many DNS questions a device asks per second while it is here. Default
	// 1/3: 6,000 devices then ask 2,000 a second, JANOG53's mean.
	Queries float64
	// Sessions is how many NAPT sessions a device keeps up, counting each flow for
	// SessionTimer after its end. Default 12.5 (25 per attendee) and 30 s.
	Sessions     float64
	SessionTimer time.Duration
	// Probes is how many pairs each isolation probe tries. Default 20; negative for none.
	Probes int
}

func (c *Config) defaults() {
	if c.Queries == 0 {
		c.Queries = 1.0 / 3
	}
	if c.Sessions == 0 {
		c.Sessions = 12.5
	}
	if c.SessionTimer == 0 {
		c.SessionTimer = 30 * time.Second
	}
	if c.Probes == 0 {
		c.Probes = 20
	}
}

func (c *Config) check() error {
	total := 0
	for _, s := range c.Segments {
		if s.Devices < 0 {
			return fmt.Errorf("segment %s: %d devices: must be 0 or more", s.Plan.Name, s.Devices)
		}
		if s.Devices > 0 && len(s.Ports) == 0 {
			return fmt.Errorf("segment %s: %d devices but no port to join at", s.Plan.Name, s.Devices)
		}
		if !s.Plan.IPv4.IsValid() {
			return fmt.Errorf("segment %s has no IPv4 prefix", s.Plan.Name)
		}
		total += s.Devices
	}
	switch {
	case total == 0:
		return errors.New("no segment has any devices")
	case c.Doors <= 0 || c.Stay < 0:
		return fmt.Errorf("doors %v, stay %v: doors must be over 0 and stay not under", c.Doors, c.Stay)
	case c.Queries < 0 || c.Sessions < 0 || c.SessionTimer < 0:
		return fmt.Errorf("%v queries, %v sessions, timer %v: none may be under 0", c.Queries, c.Sessions, c.SessionTimer)
	}
	return nil
}

// Crowd is the attendees of one rehearsal. Run is for one call; everything else is safe for
// concurrent use while it runs.
type Crowd struct {
	w *world
}

// New makes the devices and their arrivals. It opens nothing and starts nothing.
func New(cfg Config) (*Crowd, error) {
	cfg.defaults()
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("crowd: %w", err)
	}
	cfg.Segments = slices.Clone(cfg.Segments)
	return &Crowd{w: newWorld(cfg)}, nil
}

// Run plays the scenario and returns what the devices saw. It ends when all have left, or
// with ctx: then the result so far comes with ctx's error.
func (c *Crowd) Run(ctx context.Context) (Result, error) {
	w := c.w
	stop, err := w.open()
	if err != nil {
		return Result{}, fmt.Errorf("crowd: %w", err)
	}
	inner, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var readers sync.WaitGroup
	w.begin(time.Now())
	for _, p := range w.ports {
		readers.Go(func() {
			if err := p.read(); err != nil {
				cancel(fmt.Errorf("crowd: %w", err))
			}
		})
	}
	w.keepTime(inner)
	w.lock()
	result := w.result()
	w.unlock()
	stop()
	readers.Wait()
	if err := ctx.Err(); err != nil {
		return result, err
	}
	return result, context.Cause(inner)
}

// String names the crowd in logs.
func (c *Crowd) String() string { return fmt.Sprintf("crowd of %d devices", len(c.w.devices)) }
