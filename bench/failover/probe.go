//go:build linux

package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/hotstage/hotstage/internal/wire"
)

// patience is how long a client waits for an answer.
const patience = time.Second

// asked is one query of the client.
type asked struct {
	sent time.Time
	took time.Duration // until the answer
	ok   bool          // it is a good one
}

// client asks at a steady rate, each query from a port of its own as stub resolvers do.
type client struct {
	ns     *kernel.Namespace
	server netip.Addr
	name   func(i int) string
	rate   int
	most   time.Duration
}

// ask sends all queries, each at its time, and gives what became of them, in order. It ends
// early when ctx does.
func (c client) ask(ctx context.Context) ([]asked, error) {
	all := make([]asked, int(float64(c.rate)*c.most.Seconds()))
	conns := make(chan *net.UDPConn, 64)
	failed := make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // one thread in the namespace opens all sockets
		defer close(conns)
		err := c.ns.Do(func() error {
			for range all {
				u, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(c.server, 53)))
				if err != nil {
					return err
				}
				select {
				case conns <- u:
				case <-ctx.Done():
					u.Close()
					return nil
				}
			}
			return nil
		})
		if err != nil {
			failed <- err
		}
	}()
	var waiting sync.WaitGroup
	begun, n := time.Now(), 0
	for u := range conns {
		if ctx.Err() != nil {
			u.Close()
			continue
		}
		name, err := wire.PackDNSName(nil, c.name(n))
		if err != nil {
			return nil, err
		}
		time.Sleep(time.Until(begun.Add(time.Duration(n) * time.Second / time.Duration(c.rate))))
		a := &all[n]
		id := uint16(n)
		waiting.Go(func() { a.exchange(u, name, id) })
		n++
	}
	waiting.Wait()
	select {
	case err := <-failed:
		return nil, fmt.Errorf("client: %w", err)
	default:
		return all[:n], nil
	}
}

// exchange asks and waits.
func (a *asked) exchange(u *net.UDPConn, name []byte, id uint16) {
	defer u.Close()
	query := wire.AppendDNSQuery(nil, id, wire.DNSFlagRD, name, wire.DNSTypeA, wire.DNSClassIN, 1232, false)
	a.sent = time.Now()
	u.SetDeadline(a.sent.Add(patience))
	if _, err := u.Write(query); err != nil {
		return
	}
	b := make([]byte, 2048)
	for {
		n, err := u.Read(b)
		if err != nil {
			return
		}
		if n >= wire.DNSHeader && b[0] == query[0] && b[1] == query[1] {
			a.took, a.ok = time.Since(a.sent), b[3]&0xf == wire.DNSNoError
			return
		}
	}
}

// lost is how many of the queries have no good answer.
func lost(all []asked) (n int) {
	for _, a := range all {
		if !a.ok {
			n++
		}
	}
	return n
}

// outage is the longest time from a query answered to the next one answered, with queries lost
// in between, that touches the time between from and to. Without any it is 0: then the client
// itself was late.
func outage(all []asked, from, to time.Time) (longest time.Duration) {
	if len(all) == 0 {
		return 0
	}
	last, missing := all[0].sent, false
	end := func(until time.Time) {
		if missing && until.After(from) && last.Before(to) {
			longest = max(longest, until.Sub(last))
		}
		last, missing = until, false
	}
	for _, a := range all {
		if a.ok {
			end(a.sent)
		} else {
			missing = true
		}
	}
	end(all[len(all)-1].sent)
	return longest
}

// slowest is the longest that an answer took which was sent for between from and to.
func slowest(all []asked, from, to time.Time) (d time.Duration) {
	for _, a := range all {
		if a.ok && !a.sent.Before(from) && a.sent.Before(to) {
			d = max(d, a.took)
		}
	}
	return d
}
