//go:build linux

package uplink

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

// errRefused is the cause when a server says that our address is not ours (DHCPNAK).
var errRefused = errors.New("the server refuses the address (DHCPNAK)")

// server is a provider's DHCP service as a client sees it; each method is one exchange and
// returns when it is answered, when nobody answers for a few seconds, or when ctx ends.
type server interface {
	// discover asks for any lease (RFC 2131 section 3.1).
	discover(ctx context.Context) (*Lease, error)
	// renew asks the server that gave the lease, or any, to prolong it (section 4.4.5).
	renew(ctx context.Context, l *Lease, any bool) (*Lease, error)
}

// client keeps a lease.
//
//	          lease                T1                 T2
//	asking ──────────► bound ───────────► renewing ────────► rebinding
//	  ▲                  ▲  prolonged        │  prolonged       │
//	  │                  └───────────────────┴──────────────────┤
//	  └──────────────── refused, or the lease is over ──────────┘
//
// A server that is silent costs nothing until the lease is over.
type client struct {
	server server
	// got hears of every new or prolonged lease, and of nil when there is none any more.
	got func(l *Lease, why error)
	// silent hears when nobody answered.
	silent func(err error)
}

const (
	// firstWait and lastWait bound the pauses between discoveries. RFC 2131 section 4.1 begins
	// with 4 s for the sake of many clients; we are the only one on an uplink.
	firstWait, lastWait = time.Second, 64 * time.Second
	// leastRenewWait is between two renewals, section 4.4.5.
	leastRenewWait = time.Minute
)

// run keeps a lease until ctx ends. It does not release it then: the next process wants the
// same address.
func (c *client) run(ctx context.Context) {
	for ctx.Err() == nil {
		l := c.ask(ctx)
		if l == nil {
			return
		}
		c.got(l, nil)
		if why := c.hold(ctx, l); why != nil {
			c.got(nil, why)
		}
	}
}

// ask discovers until there is a lease; nil when ctx ends.
func (c *client) ask(ctx context.Context) *Lease {
	for pause := firstWait; ; pause = min(lastWait, 2*pause) {
		l, err := c.server.discover(ctx)
		if err == nil {
			return l
		}
		if ctx.Err() != nil {
			return nil
		}
		c.silent(err)
		if !sleep(ctx, pause/2+rand.N(pause)) {
			return nil
		}
	}
}

// hold prolongs the lease for as long as the server does, and says why that ended; nil when
// ctx ended.
func (c *client) hold(ctx context.Context, l *Lease) (why error) {
	wait := l.Renew
	for {
		if !sleep(ctx, wait) {
			return nil
		}
		age := time.Since(l.Taken)
		if age >= l.Valid {
			return errors.New("the lease is over, and no server has prolonged it")
		}
		bounded, cancel := context.WithDeadline(ctx, l.Taken.Add(l.Valid))
		longer, err := c.server.renew(bounded, l, age >= l.Rebind)
		cancel()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, errRefused):
			return err
		case err != nil:
			c.silent(err)
			wait = next(l, time.Since(l.Taken))
		case longer.Prefix != l.Prefix:
			return errors.New("the server prolonged another address than ours")
		default:
			l = longer
			c.got(l, nil)
			wait = l.Renew
		}
	}
}

// next is the pause after an unanswered renewal: half of what is left of the phase, at least
// a minute, but never beyond the phase (RFC 2131 section 4.4.5).
func next(l *Lease, age time.Duration) time.Duration {
	end := l.Rebind
	if age >= l.Rebind {
		end = l.Valid
	}
	left := end - age
	return max(0, min(left, max(left/2, leastRenewWait)))
}

// sleep is false when ctx ends first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
