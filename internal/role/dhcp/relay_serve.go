package dhcp

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/hotstage/hotstage/internal/wire"
	"github.com/prometheus/client_golang/prometheus"
)

// agent relays one segment.
//
//	devices ──broadcast──► front ──────► backs[device] ──► servers
//	devices ◄───frame───── front ◄────── backs[device] ◄── servers
type agent struct {
	clerk
	clock Clock
	m     *RelayMetrics
	tell  *teller
	limit *limiter
	ports *share

	front *leg
	backs map[string]*leg
	asked prometheus.Counter
	given map[netip.Addr]prometheus.Counter // answers, by server
	flood map[string]prometheus.Counter     // by port
	// Of the front's goroutine:
	fdb *kernel.FDB // nil where the device has one port
	to  entry

	// since is when the first of the messages without an answer was sent on, on the boot
	// clock; 0 when the last had one.
	since atomic.Int64
	heard atomic.Uint64 // answers
}

// newAgent makes a segment's agent, with one socket to open for its devices and one for each
// device that leads to servers.
func newAgent(node string, s RelaySegment, clock Clock, m *RelayMetrics, tell *teller) *agent {
	g := &agent{
		clerk: clerk{cfg: s, info: s.info(node)}, clock: clock, m: m, tell: tell, limit: newLimiter(), ports: newShare(s.Devices),
		backs: map[string]*leg{}, asked: m.requests.WithLabelValues(s.Name), to: entry{reply: answer{way: toRelay, frame: make([]byte, 0, wire.UDPFrameHead+messageRoom)}},
		given: map[netip.Addr]prometheus.Counter{}, flood: map[string]prometheus.Counter{},
	}
	for port := range g.info {
		g.flood[port] = m.floods.WithLabelValues(s.Name, port)
	}
	in := &wire.DHCP{}
	g.front = newLeg(g, s.Device, broadcast4, func(at moment, p packet) { g.ask(at, p, in) })
	open := g.front.open
	g.front.open = func() (door, error) {
		d, err := open()
		if err == nil {
			g.learn()
		}
		return d, err
	}
	for _, server := range s.Servers {
		g.given[server.Addr] = m.replies.WithLabelValues(s.Name, server.Addr.String())
		if g.backs[server.Device] == nil {
			m, e := &wire.DHCP{}, &entry{reply: answer{frame: make([]byte, 0, wire.UDPFrameHead+messageRoom)}}
			g.backs[server.Device] = newLeg(g, server.Device, s.Addr, func(_ moment, p packet) { g.reply(p, m, e) })
		}
	}
	return g
}

// legs are the front and then the backs, in a stable order.
func (g *agent) legs() []*leg {
	all := []*leg{g.front}
	for _, s := range g.cfg.Servers {
		if l := g.backs[s.Device]; !slices.Contains(all, l) {
			all = append(all, l)
		}
	}
	return all
}

// learn opens the bridge that tells the ports.
func (g *agent) learn() {
	g.unlearn()
	if len(g.cfg.Ports) < 2 {
		return
	}
	f, err := kernel.OpenFDB(g.cfg.Device)
	if err != nil {
		g.tell.say(read(g.clock), fact.Warning, "relay-ports-unknown", g.cfg.Name, "segment %s is relayed, but not by which port: %v", g.cfg.Name, err)
		return
	}
	g.fdb = f
}

func (g *agent) unlearn() {
	if g.fdb != nil {
		g.fdb.Close()
		g.fdb = nil
	}
}

// port is where the hardware address is; the device where nobody knows.
func (g *agent) port(mac [6]byte) string {
	if g.fdb != nil {
		if p := g.fdb.Port(mac); g.info[p] != nil {
			return p
		}
	}
	return g.cfg.Device
}

// ask takes what a device says.
func (g *agent) ask(at moment, p packet, m *wire.DHCP) {
	if m.Parse(p.data) != nil {
		g.drop(unreadable)
		return
	}
	if !g.limit.allow(m.CHAddr, at.boot) {
		g.drop(overClient)
		return
	}
	port := g.port(m.CHAddr)
	if !g.ports.allow(nil, []byte(port), at.boot) {
		g.drop(overPort)
		g.flood[port].Inc()
		g.tell.say(at, fact.Warning, "relay-port-flood", g.cfg.Name+" "+port,
			"more than %d DHCP messages a second come by port %s of segment %s: the rest is dropped; look at what is behind that port", g.ports.rate, port, g.cfg.Name)
		return
	}
	var head [wire.UDPFrameHead]byte
	var why refusal
	if g.to.reply.frame, why = g.onward(m, p.data, p.from, port, append(g.to.reply.frame[:0], head[:]...)); why != passed {
		g.drop(why)
		g.refused(at, why, m, port)
		return
	}
	g.asked.Inc()
	if !seeks(m) && m.Type == wire.DHCPDiscover {
		g.since.CompareAndSwap(0, int64(at.boot))
	}
	for _, s := range g.cfg.Servers {
		g.to.reply.dst = s.Addr
		g.backs[s.Device].send(&g.to, g.cfg.Addr)
	}
}

// refused tells the crew of who poses as a relay.
func (g *agent) refused(at moment, why refusal, m *wire.DHCP, port string) {
	switch why {
	case posing:
		g.tell.say(at, fact.Warning, "relay-spoofed", g.cfg.Name, "a device of segment %s, %v at port %s, writes option 82 as only relays do: it is not served", g.cfg.Name, net.HardwareAddr(m.CHAddr[:]), port)
	case foreign, looping:
		g.tell.say(at, fact.Warning, "relay-foreign", g.cfg.Name,
			"in segment %s a relay that the plan does not have sends messages on, as %v after %d hops, for %v: name it under relays of the segment, or shut its port", g.cfg.Name, m.GIAddr, m.Hops, net.HardwareAddr(m.CHAddr[:]))
	}
}

// reply takes what a server says.
func (g *agent) reply(p packet, m *wire.DHCP, e *entry) {
	if m.ParseReply(p.data) != nil {
		g.drop(unreadable)
		return
	}
	if why := g.back(m, p.data, p.from, &e.reply); why != passed {
		g.drop(why)
		return
	}
	g.since.Store(0)
	g.heard.Add(1)
	g.given[p.from].Inc()
	g.front.send(e, g.cfg.Addr)
}

func (g *agent) drop(why refusal) { g.m.drops[why].Inc() }

// silent is how long devices have asked and nobody answered, and whether that is too long.
func (g *agent) silent(at moment) (time.Duration, bool) {
	since := time.Duration(g.since.Load())
	if since == 0 {
		return 0, false
	}
	return at.boot - since, at.boot-since >= silentFor
}

// complain tells of silent servers.
func (g *agent) complain(at moment) {
	if took, long := g.silent(at); long {
		g.tell.say(at, fact.Alarm, "relay-unanswered", g.cfg.Name,
			"devices of segment %s get no address: no answer of %s for %v; look at the role dhcp there, and at the way to it", g.cfg.Name, g.servers(), took.Round(time.Second))
		return
	}
	g.tell.forget("relay-unanswered", g.cfg.Name)
}

func (g *agent) servers() string {
	var all []string
	for _, s := range g.cfg.Servers {
		all = append(all, s.Addr.String())
	}
	return strings.Join(all, " and ")
}

// check says whether the segment is relayed.
func (g *agent) check(at moment) fact.Check {
	c := fact.Check{
		Name: "dhcp-relay-" + g.cfg.Name, Words: fmt.Sprintf("segment %s is relayed to %s", g.cfg.Name, g.servers()), Goal: "answers",
		Measured: fmt.Sprintf("%d answers", g.heard.Load()), OK: true,
	}
	for _, l := range g.legs() {
		if err := l.closed(); err != nil {
			c.OK, c.Measured, c.Hint = false, err.Error(), "ip address show "+l.device
		}
	}
	if took, long := g.silent(at); long && c.OK {
		c.OK, c.Measured, c.Hint = false, fmt.Sprintf("no answer for %v", took.Round(time.Second)), "hotstage status on the dhcp node; ping -I "+g.cfg.Addr.String()+" "+g.cfg.Servers[0].Addr.String()
	}
	return c
}

// leg is one socket of an agent: opened again and again while the device is not there.
type leg struct {
	agent  *agent
	device string
	open   func() (door, error)
	take   func(moment, packet)

	mu        sync.Mutex
	door      door
	why       error
	tried     chan struct{}
	triedOnce sync.Once
}

// newLeg makes a leg that hears on the device what is sent to the address.
func newLeg(g *agent, device string, to netip.Addr, take func(moment, packet)) *leg {
	return &leg{agent: g, device: device, take: take, tried: make(chan struct{}), open: func() (door, error) { return openDoor(device, to) }}
}

// run opens the device again and again until ctx ends.
func (l *leg) run(ctx context.Context) {
	for n := 0; ctx.Err() == nil; n++ {
		d, err := l.open()
		if err == nil {
			n = 0
			l.set(d, nil)
			l.agent.tell.forget("device-gone", l.device)
			err = l.serve(ctx, d)
			d.Close()
		}
		l.set(nil, err)
		if ctx.Err() != nil {
			return
		}
		l.agent.tell.say(read(l.agent.clock), fact.Alarm, "device-gone", l.device,
			"DHCP of segment %s is not relayed: %v; it goes on by itself when the device is back", l.agent.cfg.Name, err)
		select {
		case <-ctx.Done():
		case <-time.After(retry(n)):
		}
	}
}

// serve reads messages until ctx ends or the device goes.
func (l *leg) serve(ctx context.Context, d door) error {
	done, gone := make(chan struct{}), error(nil)
	var watching sync.WaitGroup
	watching.Go(func() { gone = watchDoor(ctx, d, done) })
	err := l.receive(ctx, d)
	close(done)
	watching.Wait()
	if gone != nil {
		return gone
	}
	return err
}

// receive is the loop: one goroutine a socket.
func (l *leg) receive(ctx context.Context, d door) error {
	in := make([]packet, receiveBatch)
	for ctx.Err() == nil {
		n, err := d.receive(in)
		if err != nil {
			return fmt.Errorf("receive on %s: %w", l.device, err)
		}
		at := read(l.agent.clock)
		for _, p := range in[:n] {
			l.take(at, p)
		}
	}
	return ctx.Err()
}

func (l *leg) set(d door, err error) {
	l.mu.Lock()
	l.door, l.why = d, err
	l.mu.Unlock()
	l.triedOnce.Do(func() { close(l.tried) })
}

// closed is why the leg is not open, nil when it is.
func (l *leg) closed() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.door == nil && l.why == nil {
		return fmt.Errorf("device %s is not open yet", l.device)
	}
	return l.why
}

// send sends what e has to say; safe for concurrent use with different ones.
func (l *leg) send(e *entry, own netip.Addr) {
	l.mu.Lock()
	d := l.door
	l.mu.Unlock()
	e.reply.why = replied
	if d != nil {
		d.send([]*entry{e}, own)
	}
	if d == nil || e.reply.why == undelivered {
		l.agent.drop(unsent)
	}
}
