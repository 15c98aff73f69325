package dhcp

import (
	"bytes"
	"net/netip"
	"slices"
	"time"

	"github.com/hotstage/hotstage/internal/wire"
)

// mostHops is how many relays a message may have passed: RFC 1542 section 4.1.1.
const mostHops = 16

// refusal says why the relay dropped a message.
type refusal uint8

const (
	passed     refusal = iota
	unreadable         // no DHCP message, or a server's on the clients' side and the other way round
	looping            // more than mostHops
	foreign            // giaddr is set, and not by a relay of the plan
	posing             // a device that wrote option 82 itself
	overClient         // more than the device's share
	overPort           // more than the port's share
	notServer          // an answer that no server of the plan sent
	notOurs            // an answer to another relay, or with an option 82 that we did not write
	outside            // an answer with an address of another segment
	unsent             // the device did not take it
	refusals
)

var refusalWords = [refusals]string{
	"passed", "malformed", "hops", "foreign-relay", "spoofed-option", "too-many", "port-flood", "not-a-server", "not-ours", "not-of-segment", "undelivered",
}

// clerk is the part of an agent that looks at messages alone: no socket, no clock.
type clerk struct {
	cfg  RelaySegment
	info map[string][]byte // option 82 by port
}

// onward appends to out what a device's message m, which was read from b, becomes on its way
// to the servers.
func (d *clerk) onward(m *wire.DHCP, b []byte, from netip.Addr, port string, out []byte) ([]byte, refusal) {
	switch m.Type {
	case wire.DHCPDiscover, wire.DHCPRequest, wire.DHCPDecline, wire.DHCPRelease, wire.DHCPInform:
	default:
		return out, unreadable
	}
	switch {
	case m.Hops > mostHops:
		return out, looping
	case viaRelay(m):
		// Never is our own address let through: RFC 3046 section 2.1.1.
		if m.GIAddr != from || m.GIAddr == d.cfg.Addr || !slices.Contains(d.cfg.Relays, m.GIAddr) {
			return out, foreign
		}
	case m.RelayAgent != nil:
		return out, posing // RFC 3046 section 2.1
	}
	return wire.AppendDHCPRelayed(out, b, d.cfg.Addr, d.info[port], wire.DHCPMaxMessage), passed
}

// back makes of a server's message m, which was read from b, what goes to the device: RFC
// 1542 section 4.1.2. a.frame's room is used again.
func (d *clerk) back(m *wire.DHCP, b []byte, from netip.Addr, a *answer) refusal {
	*a = answer{frame: a.frame[:0], kind: m.Type, mac: m.CHAddr}
	switch m.Type {
	case wire.DHCPOffer, wire.DHCPAck, wire.DHCPNak:
	default:
		return unreadable
	}
	switch {
	case !slices.ContainsFunc(d.cfg.Servers, func(s RelayServer) bool { return s.Addr == from }):
		return notServer
	case m.GIAddr != d.cfg.Addr || m.RelayAgent != nil && !d.wrote(m.RelayAgent):
		return notOurs
	case !m.YIAddr.IsUnspecified() && !d.cfg.Prefix.Contains(m.YIAddr), !m.CIAddr.IsUnspecified() && !d.cfg.Prefix.Contains(m.CIAddr):
		return outside
	}
	var head [wire.UDPFrameHead]byte
	frame, left := wire.AppendDHCPUnrelayed(append(a.frame, head[:]...), b)
	if left != len(m.RelayAgent) { // part of it is in another field
		return notOurs
	}
	a.frame, a.reply = frame, m.Type
	switch {
	case m.Broadcast:
		a.way, a.dst = toAll, broadcast4
	case !m.YIAddr.IsUnspecified():
		a.way, a.dst = toHardware, m.YIAddr
	case !m.CIAddr.IsUnspecified():
		a.way, a.dst = toHardware, m.CIAddr
	default:
		a.way, a.dst = toAll, broadcast4
	}
	return passed
}

// wrote tells whether an option 82 is one of ours.
func (d *clerk) wrote(info []byte) bool {
	for _, ours := range d.info {
		if bytes.Equal(ours, info) {
			return true
		}
	}
	return false
}

// silentFor is how long devices may ask without an answer before the crew is told: a device
// repeats after 4 and 8 s (RFC 2131 section 4.1), so a few lost messages do not count.
const silentFor = 15 * time.Second
