package dhcp

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/wire"
)

const (
	// seekEvery is how often a guard asks whether other servers are there: often enough to
	// have an answer within 10 s, also of a server that tries an address for some seconds
	// before it offers it, and seldom enough to cost the air nothing.
	seekEvery = 5 * time.Second
	// rogueMemory is how long a server counts as there after its last word.
	rogueMemory = time.Minute
	// rogueTold is how often it is told of again while it is there.
	rogueTold = 10 * time.Minute
	// mostRogues are remembered per segment: who makes hardware addresses up fills no memory.
	mostRogues = 64
)

// seekID begins the client identifier of the guards' DISCOVERs: servers of ours do not
// answer it. The first byte says that no hardware address follows (RFC 2132 section 9.14).
const seekID = "\x00hotstage dhcp watch "

// seeks says whether a guard of ours has sent the message.
func seeks(m *wire.DHCP) bool {
	return len(m.ClientID) > len(seekID) && bytes.Equal(m.ClientID[:len(seekID)], []byte(seekID))
}

// guard notices on one segment what would take service from its devices: DHCP servers that
// the plan does not have, and addresses of the pool that somebody uses without a lease. It
// asks for the servers as a device would, and hears what they say to devices where that
// reaches us; it probes addresses before they are wanted. hear is for one goroutine, due for
// another; the rest is safe for concurrent use.
type guard struct {
	seg   *segment
	clock Clock
	m     *Metrics
	tell  *teller

	seek       time.Duration // when the next DISCOVER is due
	frame, arp []byte
	addrs      []netip.Addr

	msg    wire.DHCP
	minute time.Duration // in which as many as named were told of
	named  int

	mu     sync.Mutex
	why    error // of not listening; nil while it does
	rogues map[[6]byte]*rogue
}

// rogue is a server that the plan does not have.
type rogue struct {
	server     netip.Addr
	seen, told time.Duration // boot clock; told 0: never
}

func newGuard(g *segment, clock Clock, m *Metrics, tell *teller) *guard {
	return &guard{seg: g, clock: clock, m: m, tell: tell, rogues: map[[6]byte]*rogue{}}
}

func (g *guard) deaf(at moment, err error) {
	g.mu.Lock()
	g.why = err
	g.mu.Unlock()
	g.tell.say(at, fact.Warning, "dhcp-watch-failed", g.seg.cfg.Name,
		"segment %s is served, but not watched for other DHCP servers: %v", g.seg.cfg.Name, err)
}

// due says what it is time for.
func (g *guard) due(at moment, e ear) {
	mac := e.hardware()
	g.probe(at, e, mac)
	if at.boot >= g.seek {
		g.seek = at.boot + seekEvery
		g.ask(e, mac)
	}
}

// ask asks for other servers.
func (g *guard) ask(e ear, mac [6]byte) {
	var head [wire.UDPFrameHead]byte
	g.frame = wire.AppendDHCPDiscover(append(g.frame[:0], head[:]...), rand.Uint32(), mac, seekID+g.seg.cfg.Server.String())
	wire.PutUDPFrame(g.frame, &wire.UDPFrame{
		SrcMAC: mac, DstMAC: [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, Src: netip.IPv4Unspecified(), Dst: broadcast4, SrcPort: clientPort, DstPort: serverPort,
	})
	err := e.say(g.frame)
	g.mu.Lock()
	g.why = err
	g.mu.Unlock()
}

// hear takes a frame that the ear let through.
func (g *guard) hear(at moment, own [6]byte, b []byte) {
	if a, ok := wire.ParseARP(b); ok {
		g.answered(at, own, a)
		return
	}
	f, payload, ok := wire.ParseUDPFrame(b)
	if !ok || f.SrcPort != serverPort || f.SrcMAC == own || g.msg.ParseReply(payload) != nil {
		return
	}
	switch g.msg.Type {
	case wire.DHCPOffer, wire.DHCPAck, wire.DHCPNak:
	default:
		return
	}
	server := g.msg.ServerID
	if !server.IsValid() || server.IsUnspecified() {
		server = f.Src
	}
	c := &g.seg.cfg
	if slices.Contains(c.Partners, server) || server == c.Server && slices.Contains(c.Relays, f.Src) { // a relay brings our own replies
		return
	}
	g.m.rogue(g.seg.cfg.Name)
	g.notice(at, f.SrcMAC, server, &g.msg)
}

// notice remembers another server and tells of it, each at most once in rogueTold.
func (g *guard) notice(at moment, mac [6]byte, server netip.Addr, m *wire.DHCP) {
	g.mu.Lock()
	defer g.mu.Unlock()
	r := g.rogues[mac]
	if r == nil {
		for k, old := range g.rogues {
			if len(g.rogues) >= mostRogues && at.boot-old.seen >= rogueMemory {
				delete(g.rogues, k)
			}
		}
		if len(g.rogues) >= mostRogues {
			return
		}
		r = &rogue{}
		g.rogues[mac] = r
	}
	r.server, r.seen = server, at.boot
	if r.told != 0 && at.boot-r.told < rogueTold {
		return
	}
	r.told = at.boot
	what := "and gives addresses"
	switch {
	case m.Type == wire.DHCPNak:
		what = "and takes devices their addresses"
	case m.YIAddr.Is4() && !m.YIAddr.IsUnspecified():
		what = fmt.Sprintf("and gives addresses such as %v", m.YIAddr)
	}
	if server == g.seg.cfg.Server {
		what += ", in our name"
	}
	g.tell.to(fact.Event{
		Time: at.wall, Task: g.tell.task, Kind: "rogue-dhcp", Severity: fact.Alarm,
		Words: fmt.Sprintf("on segment %s another DHCP server answers, %v at %s, %s: devices that believe it have no network; find its switch port or access point and shut it",
			g.seg.cfg.Name, server, net.HardwareAddr(mac[:]), what),
	})
}

// check says whether other servers were heard of late.
func (g *guard) check(at moment) fact.Check {
	g.mu.Lock()
	defer g.mu.Unlock()
	var who []string
	for mac, r := range g.rogues {
		if at.boot-r.seen < rogueMemory {
			who = append(who, fmt.Sprintf("%v at %s", r.server, net.HardwareAddr(mac[:])))
		}
	}
	slices.Sort(who)
	c := fact.Check{
		Name: "dhcp-alone-" + g.seg.cfg.Name, Words: "no other DHCP server answers on segment " + g.seg.cfg.Name,
		Goal: "0 servers", Measured: fmt.Sprintf("%d servers", len(who)), OK: len(who) == 0,
	}
	switch {
	case len(who) > 0:
		c.Hint = "find the switch port or access point of " + strings.Join(who[:min(3, len(who))], ", ") + " and shut it"
	case g.why != nil:
		c.Measured = fmt.Sprintf("not watched: %v", g.why)
	}
	return c
}
