//go:build linux

package main

import (
	"encoding/binary"
	"net/netip"
	"sync"
	"time"

	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/hotstage/hotstage/internal/wire"
)

// roundTime is how often the observer asks who has the address.
const roundTime = 10 * time.Millisecond

// round is one question of the observer.
type round struct {
	asked  time.Time
	answer [][6]byte // who said that it has the address
}

// observer asks again and again by ARP who has an address, as a device would that checks it
// for duplicates, and notes all who say so. Each question has a hardware address of its own, so
// that an answer belongs to one question however late it is. Safe for concurrent use.
type observer struct {
	addr   netip.Addr
	frames *kernel.Frames
	done   sync.WaitGroup
	end    chan struct{}

	mu     sync.Mutex
	rounds []round
}

// observe begins on the device of the namespace. The caller stops it.
func observe(ns *kernel.Namespace, device string, addr netip.Addr) (*observer, error) {
	f, err := kernel.OpenFrames(ns, device)
	if err != nil {
		return nil, err
	}
	o := &observer{addr: addr, frames: f, end: make(chan struct{})}
	o.done.Go(o.ask)
	o.done.Go(o.listen)
	return o, nil
}

func (o *observer) stop() {
	close(o.end)
	o.frames.Close()
	o.done.Wait()
}

// mostRounds is an hour of them, which no trial takes.
const mostRounds = int(time.Hour / roundTime)

func (o *observer) ask() {
	tick := time.NewTicker(roundTime)
	defer tick.Stop()
	for n := range mostRounds {
		mac := [6]byte{2, 0x40}
		binary.BigEndian.PutUint32(mac[2:], uint32(n))
		o.mu.Lock()
		o.rounds = append(o.rounds, round{asked: time.Now()})
		o.mu.Unlock()
		if _, err := o.frames.Send([][]byte{wire.AppendARPProbe(nil, mac, o.addr)}); err != nil {
			return
		}
		select {
		case <-o.end:
			return
		case <-tick.C:
		}
	}
}

func (o *observer) listen() {
	var in [][]byte
	for {
		var err error
		if in, err = o.frames.Receive(in[:0]); err != nil {
			return
		}
		for _, b := range in {
			a, ok := wire.ParseARP(b)
			if !ok || !a.Reply || a.Sender != o.addr || a.TargetMAC[0] != 2 || a.TargetMAC[1] != 0x40 {
				continue
			}
			o.mu.Lock()
			if n := int(binary.BigEndian.Uint32(a.TargetMAC[2:])); n < len(o.rounds) {
				o.rounds[n].answer = append(o.rounds[n].answer, a.SenderMAC)
			}
			o.mu.Unlock()
		}
	}
}

// holder is who alone has had the address for the time d until now; ok is false when nobody
// or more than one had, or it is not known for that long.
func (o *observer) holder(d time.Duration) (mac [6]byte, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := time.Now()
	answered := 0
	for i := len(o.rounds) - 1; i >= 0; i-- {
		r := &o.rounds[i]
		switch age := now.Sub(r.asked); {
		case age < 100*time.Millisecond: // its answer may be on its way
			continue
		case age > d:
			return mac, answered > 0 && answered >= int(d/roundTime)*8/10
		}
		switch {
		case len(r.answer) == 0: // lost, or nobody
		case len(r.answer) > 1 || answered > 0 && r.answer[0] != mac:
			return mac, false
		default:
			mac = r.answer[0]
			answered++
		}
	}
	return mac, false
}

// twice is how long, between from and to, more than one had the address.
func (o *observer) twice(from, to time.Time) (d time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i, r := range o.rounds {
		if r.asked.Before(from) || !r.asked.Before(to) || len(r.answer) < 2 {
			continue
		}
		if until := roundTime; i+1 < len(o.rounds) {
			d += max(o.rounds[i+1].asked.Sub(r.asked), until)
		} else {
			d += until
		}
	}
	return d
}
