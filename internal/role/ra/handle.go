package ra

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"github.com/mdlayher/ndp"
)

// Constants of RFC 4861 section 10.
const (
	maxInitialInterval = 16 * time.Second       // MAX_INITIAL_RTR_ADVERT_INTERVAL
	maxInitial         = 3                      // MAX_INITIAL_RTR_ADVERTISEMENTS
	minDelay           = 3 * time.Second        // MIN_DELAY_BETWEEN_RAS, multicast
	maxReplyDelay      = 500 * time.Millisecond // MAX_RA_DELAY_TIME
)

const (
	// MaxRtrAdvInterval of RFC 4861 section 6.2.1 is 600 s by default. MinRtrAdvInterval is
	// 0.75 of it, the most allowed, so that phones are woken 7 times an hour and no more
	// (RFC 7772 section 5.1).
	maxInterval = 600 * time.Second
	minInterval = 450 * time.Second
	// Lifetimes: the router and the resolvers for 45 minutes (RFC 7772: 45 to 90; RFC 8106
	// section 5.1: at least three intervals), the prefix preferred for 45 minutes and valid
	// for 90 (RFC 9096 section 4), so that a prefix that changes is forgotten the same hour.
	routerLifetime    = 45 * time.Minute
	preferredLifetime = 45 * time.Minute
	validLifetime     = 90 * time.Minute
	// hopLimit for the hosts' packets: the Assigned Number of RFC 1700 (RFC 4861 6.2.1).
	hopLimit = 64
	// maxPending solicitations are answered by unicast, which sleeping phones do not hear
	// (RFC 7772 section 5.1); when more wait, one multicast answers all.
	maxPending = 128
	// maxRivals other routers are remembered per link.
	maxRivals   = 64
	rivalMemory = 10 * time.Minute
)

// allNodes is the link-local all-nodes group (RFC 4291 section 2.7.1).
var allNodes = netip.MustParseAddr("ff02::1")

// announcer decides when to advertise to whom. It is pure: the time is passed in. Not safe
// for concurrent use.
type announcer struct {
	random        func(time.Duration) time.Duration // uniform in [0, d)
	sent          int                               // multicast advertisements so far
	lastMulticast time.Time
	nextMulticast time.Time
	pending       map[netip.Addr]time.Time // unicast replies and when they are due
}

func newAnnouncer(now time.Time) *announcer {
	return &announcer{random: rand.N[time.Duration], nextMulticast: now, pending: map[netip.Addr]time.Time{}}
}

// solicit notes a valid solicitation from src, which may be unspecified. The reply waits a
// random moment (RFC 4861 section 6.2.6).
func (a *announcer) solicit(now time.Time, src netip.Addr) {
	at := now.Add(a.random(maxReplyDelay))
	if !src.IsUnspecified() {
		if _, waits := a.pending[src]; waits {
			return
		}
		if len(a.pending) < maxPending {
			a.pending[src] = at
			return
		}
	}
	if earliest := a.lastMulticast.Add(minDelay); a.sent > 0 && at.Before(earliest) {
		at = earliest
	}
	if at.Before(a.nextMulticast) {
		a.nextMulticast = at
	}
}

// wake is when due must be asked next.
func (a *announcer) wake() time.Time {
	next := a.nextMulticast
	for _, at := range a.pending {
		if at.Before(next) {
			next = at
		}
	}
	return next
}

// due lists the destinations to advertise to now; a multicast answers all who wait.
func (a *announcer) due(now time.Time) []netip.Addr {
	if !now.Before(a.nextMulticast) {
		clear(a.pending)
		a.sent++
		a.lastMulticast = now
		interval := minInterval + a.random(maxInterval-minInterval)
		if a.sent < maxInitial {
			interval = min(interval, maxInitialInterval)
		}
		a.nextMulticast = now.Add(interval)
		return []netip.Addr{allNodes}
	}
	var to []netip.Addr
	for dst, at := range a.pending {
		if !now.Before(at) {
			to = append(to, dst)
			delete(a.pending, dst)
		}
	}
	return to
}

// advertisement is what the link's router says. A final one has the router lifetime zero
// (RFC 4861 section 6.2.5) and leaves the prefix as it was, because hosts go on reaching
// each other and the services on the link by it.
func (l Link) advertisement(mac net.HardwareAddr, final bool) *ndp.RouterAdvertisement {
	m := &ndp.RouterAdvertisement{CurrentHopLimit: hopLimit, RouterLifetime: routerLifetime}
	if final {
		m.RouterLifetime = 0
	}
	if len(mac) == 6 {
		m.Options = append(m.Options, &ndp.LinkLayerAddress{Direction: ndp.Source, Addr: mac})
	}
	if l.MTU > 0 {
		m.Options = append(m.Options, ndp.NewMTU(uint32(l.MTU)))
	}
	m.Options = append(m.Options, &ndp.PrefixInformation{
		PrefixLength: uint8(l.Prefix.Bits()), Prefix: l.Prefix.Addr(),
		OnLink: true, AutonomousAddressConfiguration: true,
		ValidLifetime: validLifetime, PreferredLifetime: preferredLifetime,
	})
	if len(l.DNS) > 0 {
		m.Options = append(m.Options, &ndp.RecursiveDNSServer{Lifetime: routerLifetime, Servers: l.DNS})
	}
	if len(l.Search) > 0 {
		m.Options = append(m.Options, &ndp.DNSSearchList{Lifetime: routerLifetime, DomainNames: l.Search})
	}
	if l.Portal != "" { // RFC 8910 section 2.3
		m.Options = append(m.Options, &ndp.CaptivePortal{URI: l.Portal})
	}
	return m
}

// What is wrong with a packet; each is a value of the metric's label "why".
var (
	errHopLimit = errors.New("hop-limit") // not 255: came from beyond the link
	errMessage  = errors.New("malformed")
	errSource   = errors.New("source") // an address that nobody on the link can have
	errType     = errors.New("type")
)

// ICMPv6 types (RFC 4861 sections 4.1 and 4.2).
const (
	typeSolicitation  = 133
	typeAdvertisement = 134
)

// check validates a router solicitation or advertisement by RFC 4861 section 6.1 and tells
// which it is. The checksum is the kernel's to verify. The header of an advertisement is 16
// octets, that of a solicitation 8.
func check(b []byte, hops int, src netip.Addr, prefix netip.Prefix) (kind byte, mac net.HardwareAddr, err error) {
	if hops != ndp.HopLimit {
		return 0, nil, errHopLimit
	}
	if len(b) < 8 || b[1] != 0 {
		return 0, nil, errMessage
	}
	options := 8
	switch b[0] {
	case typeSolicitation:
		if !src.IsUnspecified() && !src.IsLinkLocalUnicast() && !prefix.Contains(src.WithZone("")) {
			return 0, nil, errSource
		}
	case typeAdvertisement:
		options = 16
		if !src.IsLinkLocalUnicast() {
			return 0, nil, errSource
		}
	default:
		return 0, nil, errType
	}
	if len(b) < options {
		return 0, nil, errMessage
	}
	for o := b[options:]; len(o) > 0; {
		if len(o) < 8 || o[1] == 0 || int(o[1])*8 > len(o) {
			return 0, nil, errMessage
		}
		if o[0] == 1 && o[1] == 1 { // source link-layer address of Ethernet
			mac = net.HardwareAddr(append([]byte(nil), o[2:8]...))
		}
		o = o[int(o[1])*8:]
	}
	if b[0] == typeSolicitation && src.IsUnspecified() && mac != nil {
		return 0, nil, errMessage
	}
	return b[0], mac, nil
}

// announces tells whether a checked advertisement offers a router or a prefix, and which
// prefix; a farewell offers nothing.
func announces(b []byte) (prefix string, offers bool) {
	offers = binary.BigEndian.Uint16(b[6:]) > 0
	for o := b[16:]; len(o) >= 8; o = o[int(o[1])*8:] {
		if o[0] == 3 && o[1] == 4 && binary.BigEndian.Uint32(o[4:]) > 0 {
			offers = true
			if bits := int(o[2]); bits <= 128 {
				prefix = netip.PrefixFrom(netip.AddrFrom16([16]byte(o[16:32])), bits).String()
			}
		}
	}
	return prefix, offers
}
