package dhcp

import (
	"encoding/hex"
	"net"
	"strings"

	"github.com/hotstage/hotstage/internal/fact"
)

// stored tells that the store has the grant. It says whether the ACK may still go: not
// when the client gave the address back in the meantime.
func (g *segment) stored(b *binding, gen uint32, r *record) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.pool.committed(b, gen, r)
	if b.state != bound || b.client != r.client {
		return false
	}
	if !b.owner && (r.host != "" || b.name != "") { // a reservation has its name from the plan
		b.name = g.names.claim(b.addr, b.host, g.cfg.Domain)
	}
	return true
}

// notStored takes the grant back.
func (g *segment) notStored(b *binding, gen uint32) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.pool.refused(b, gen)
}

// lastWord is what the store shall have of the grant in a; not ok when its address has changed
// since: what it changed to is written instead, or was already.
func (g *segment) lastWord(a *answer) (l fact.Lease, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if a.grant.gen != a.gen {
		return l, false
	}
	return g.fact(a.grant, &a.rec), true
}

// unsaved takes up to n ended bindings that the store does not know of yet.
func (g *segment) unsaved(n int, into []fact.Lease, from []*binding) ([]fact.Lease, []*binding) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for ; n > 0 && len(g.pool.dirty) > 0; n-- {
		last := len(g.pool.dirty) - 1
		b := g.pool.dirty[last]
		g.pool.dirty[last] = nil
		g.pool.dirty = g.pool.dirty[:last]
		b.dirty = false
		if b.durable != nil || b.state == fresh { // granted again: that commit says more
			continue
		}
		into, from = append(into, g.fact(b, &b.record)), append(from, b)
	}
	return into, from
}

// resoil puts them back after the store failed.
func (g *segment) resoil(bs []*binding) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, b := range bs {
		g.pool.soil(b)
	}
}

var factState = [...]fact.LeaseState{bound: fact.LeaseBound, released: fact.LeaseReleased, expired: fact.LeaseExpired, declined: fact.LeaseDeclined}

// holder is a client as the store and people see it; it is made once for all its renewals.
type holder struct {
	client, words string
	mac           net.HardwareAddr
}

// fact is the record of the address as the store and people see it. g.mu is held.
func (g *segment) fact(b *binding, r *record) fact.Lease {
	h := b.holder
	if h == nil || h.client != r.client || [6]byte(h.mac) != r.mac {
		h = &holder{client: r.client, words: clientWords(r.client), mac: net.HardwareAddr(append([]byte(nil), r.mac[:]...))}
		b.holder = h
	}
	return fact.Lease{
		Segment: g.cfg.Name, Addr: b.addr, Client: h.words, MAC: h.mac,
		Hostname: r.host, State: factState[r.state], Start: r.start, Expires: r.until, Boot: g.boot, ExpiresBoot: r.ends,
	}
}

// clientWords is a client key as fact.Lease has it.
func clientWords(key string) string {
	switch {
	case key == "":
		return ""
	case key[0] == 'm':
		return "mac:" + net.HardwareAddr(key[1:]).String()
	}
	return "id:" + hex.EncodeToString([]byte(key[1:]))
}

// clientFromWords is clientWords backwards; "" for what it cannot have written.
func clientFromWords(words string) string {
	if h, ok := strings.CutPrefix(words, "id:"); ok {
		if b, err := hex.DecodeString(h); err == nil && len(b) > 0 && len(b) <= 255 {
			return "i" + string(b)
		}
		return ""
	}
	if h, ok := strings.CutPrefix(words, "mac:"); ok {
		if b, err := net.ParseMAC(h); err == nil && len(b) == 6 {
			return "m" + string(b)
		}
	}
	return ""
}

// leases copies what the store has, in steps, so that a long list delays no client.
func (g *segment) leases(into []fact.Lease) []fact.Lease {
	const step = 256
	add := func(b *binding) {
		r := &b.record
		if b.durable != nil {
			r = b.durable
		}
		if r.state != fresh {
			l := g.fact(b, r)
			l.Node = g.factNode(b)
			into = append(into, l)
		}
	}
	for i := 0; i < len(g.pool.slots); i += step { // slots itself never changes
		g.mu.Lock()
		for _, b := range g.pool.slots[i:min(i+step, len(g.pool.slots))] {
			if b != nil {
				add(b)
			}
		}
		g.mu.Unlock()
	}
	g.mu.Lock()
	for _, b := range g.pool.outside {
		add(b)
	}
	g.mu.Unlock()
	return into
}
