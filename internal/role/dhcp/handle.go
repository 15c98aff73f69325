package dhcp

import (
	"bytes"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/hotstage/hotstage/internal/wire"
)

const (
	// offerFor is how long an offered address is kept for its client. Its REQUEST may be
	// repeated at 4 s and 12 s (RFC 2131 section 4.1); 20 s let it be lost twice.
	offerFor = 20 * time.Second
	// restFor is how long an address rests that a client found in use. The other holder
	// is most likely a device with a fixed address or a lease of an older network: ten
	// minutes are long enough for the crew to find it and short enough that a client which
	// declines wrongly costs little.
	restFor = 10 * time.Minute
	// graceFor is how long an address that a lease ended on is still kept for its client. The
	// client counts from a moment of its own, at the latest from the arrival of its ACK, and
	// by a clock of its own; see ackWithin.
	graceFor = 10 * time.Second
	// ackWithin is how long after its REQUEST an ACK may leave; later its client would count
	// the lease from a moment that is too far from ours. The lease is stored by then, so that
	// the client's next REQUEST is answered at once with what is left.
	ackWithin = graceFor / 2
	// freshPart of a lease is the time within which a repeated request gets what is left of
	// the lease, which is in the store already: a client that asks in a loop costs no commit.
	freshPart = 32
	// expiryWork bounds the expired leases that one message pays for; the rest waits for
	// the next one or the sweep.
	expiryWork = 8
)

// silence says why a message got no reply.
type silence uint8

const (
	replied silence = iota
	malformed
	relayed     // by no relay of the plan
	tooMany     // more messages than the client's share
	notForUs    // the client chose another server, or the address is another server's part
	unknown     // INIT-REBOOT of a client without a record: RFC 2131 section 4.3.2 wants silence
	full        // no free address
	storeDown   // the store cannot keep a lease, so none is promised
	queueFull   // more leases wait for the store than it can keep soon
	underway    // the same grant is on its way to the store; its ACK answers
	contrary    // fields that no state of RFC 2131 section 4.3.6, table 4 has
	noReplyDue  // RELEASE, DECLINE
	undelivered // the device did not take the reply
	tooLate     // the store took longer than ackWithin
	byPartner   // the other server of the pair answers this client
	unheard     // the partner may know better, and was not heard yet
	astray      // from a segment that is not served, or not from the address that it names
	watching    // a guard of ours looks for servers that the plan does not have
	silences
)

var silenceWords = [silences]string{
	"replied", "malformed", "relayed", "too-many", "not-for-us", "unknown-client", "pool-full", "store-down",
	"queue-full", "underway", "contrary", "no-reply-due", "undelivered", "too-late", "partner-answers", "partner-unheard", "astray", "watch",
}

// delivery is how a reply goes, RFC 2131 section 4.1.
type delivery uint8

const (
	toAll      delivery = iota // broadcast
	toHardware                 // unicast to chaddr and yiaddr: the client has no address to be asked for
	toAddress                  // unicast to ciaddr
	toRelay                    // unicast to the relay at giaddr, port 67
)

// answer is what became of one message. A reply with grant set may leave only after the
// store has the lease.
type answer struct {
	why   silence
	kind  wire.DHCPType // of the message, 0 when malformed
	state string        // of a REQUEST: selecting, init-reboot, renewing, rebinding
	reply wire.DHCPType
	frame []byte // wire.UDPFrameHead free bytes, then the reply
	way   delivery
	dst   netip.Addr
	mac   [6]byte

	grant *binding
	gen   uint32
	rec   record
	// found is an address that a client declined: somebody else uses it.
	found netip.Addr
}

// segment is the service of one segment: its pool and what its replies have in common.
type segment struct {
	cfg      Segment
	boot     string
	template *wire.DHCPTemplate
	names    *names

	mu   sync.Mutex
	pool *pool
	key  [256]byte
	made uint64 // offers
	pair pairing
}

func newSegment(cfg Segment, boot string, n *names) (*segment, error) {
	t, err := wire.NewDHCPTemplate(cfg.Options)
	if err != nil {
		return nil, err
	}
	return &segment{cfg: cfg, boot: boot, template: t, names: n, pool: newPool(cfg)}, nil
}

// clientKey is the client's identity within the segment: the client identifier (RFC 2131
// section 4.2, RFC 4361) after an 'i', or its hardware address after an 'm'. A reservation
// by MAC belongs to the hardware address, whatever system is booted on it and whatever
// identifier that sends; one by client identifier to whoever sends that identifier from a
// hardware address without a reservation. The bytes are valid until the next call.
func (g *segment) clientKey(m *wire.DHCP) []byte {
	if id := m.ClientID; len(id) >= 2 && len(id) <= 255 && g.pool.byMAC[m.CHAddr] == nil {
		g.key[0] = 'i'
		return g.key[:1+copy(g.key[1:], id)]
	}
	g.key[0] = 'm'
	return g.key[:1+copy(g.key[1:], m.CHAddr[:])]
}

// handle answers one message. broadcast says that it came to the broadcast address, which
// tells REBINDING from RENEWING. canGrant says whether a lease could be stored. a is filled
// anew; a.frame's room is used again. Safe for concurrent use with different m and a.
func (g *segment) handle(at moment, m *wire.DHCP, broadcast, canGrant bool, a *answer) {
	g.mu.Lock()
	defer g.mu.Unlock()
	*a = answer{frame: a.frame[:0], kind: m.Type, mac: m.CHAddr}
	if viaRelay(m) {
		if !slices.Contains(g.cfg.Relays, m.GIAddr) {
			a.why = relayed
			return
		}
		broadcast = true // of the client's: RENEWING is unicast to us, past the relay
	}
	if seeks(m) {
		a.why = watching
		return
	}
	g.pool.expire(at, expiryWork, g.ended)
	key := g.clientKey(m)
	if why := g.refer(m, key, broadcast); why != replied {
		a.why = why
		return
	}
	switch m.Type {
	case wire.DHCPDiscover:
		g.discover(at, m, key, canGrant, a)
	case wire.DHCPRequest:
		g.request(at, m, key, broadcast, canGrant, a)
	case wire.DHCPDecline:
		g.decline(at, m, key, a)
	case wire.DHCPRelease:
		g.release(at, m, key, a)
	case wire.DHCPInform:
		g.inform(m, a)
	default: // a server's message, or one that RFC 2131 does not know
		a.why = malformed
	}
}

// viaRelay tells whether a relay sent the message on, RFC 1542 section 4.1.1.
func viaRelay(m *wire.DHCP) bool { return m.GIAddr.Is4() && !m.GIAddr.IsUnspecified() }

// ended is called for each lease that ran out.
func (g *segment) ended(b *binding) { g.unname(b) }

func (g *segment) unname(b *binding) {
	if b.name != "" {
		g.names.claim(b.addr, "", "")
		b.name = ""
	}
}

// discover: RFC 2131 section 4.3.1.
func (g *segment) discover(at moment, m *wire.DHCP, key []byte, canGrant bool, a *answer) {
	if !canGrant { // another server may have a store that works
		a.why = storeDown
		return
	}
	b, forgoes := g.pool.choose(at.boot, key, m.Requested), g.cfg.IPv6Only && bytes.IndexByte(m.Parameters, wire.DHCPOptIPv6Only) >= 0
	switch {
	case b == nil && forgoes:
		// RFC 8925 section 3.3: it needs no address to be told to do without. The others get
		// one with it: clients exist that take an offer of 0.0.0.0 for none.
		g.write(m, a, wire.DHCPReply{Type: wire.DHCPOffer, YIAddr: netip.IPv4Unspecified()})
		return
	case b == nil:
		a.why = full
		return
	case b.state != bound && !b.owner:
		g.pool.offer(b, key, at.boot+offerFor)
		b.forgoes = forgoes
	}
	g.made++
	lease, _ := g.term(at, b, key, b.state == bound && b.client == string(key))
	g.write(m, a, wire.DHCPReply{Type: wire.DHCPOffer, YIAddr: b.addr, Lease: seconds(lease)})
}

// request: RFC 2131 section 4.3.2, whose four states are told apart by what is filled in
// (section 4.3.6, table 4):
//
//	            ciaddr   requested address   server identifier   sent to
//	SELECTING   zero     set                 set                 broadcast
//	INIT-REBOOT zero     set                 not set             broadcast
//	RENEWING    set      not set             not set             us
//	REBINDING   set      not set             not set             broadcast
func (g *segment) request(at moment, m *wire.DHCP, key []byte, broadcast, canGrant bool, a *answer) {
	has := m.CIAddr.Is4() && !m.CIAddr.IsUnspecified()
	switch {
	case m.ServerID.IsValid() && m.Requested.IsValid() && !has:
		a.state = "selecting"
		g.selecting(at, m, key, canGrant, a)
	case !m.ServerID.IsValid() && m.Requested.IsValid() && !has:
		a.state = "init-reboot"
		g.reboot(at, m, key, canGrant, a)
	case !m.ServerID.IsValid() && !m.Requested.IsValid() && has:
		a.state = "renewing"
		if broadcast {
			a.state = "rebinding"
		}
		g.extend(at, m, key, canGrant, a)
	default:
		a.why = contrary
	}
}

// selecting: the client takes an offer, ours or another server's.
func (g *segment) selecting(at moment, m *wire.DHCP, key []byte, canGrant bool, a *answer) {
	if m.ServerID != g.cfg.Server {
		// "implicitly declining" our offer: section 3.1, item 3.
		if b := g.pool.offered[string(key)]; b != nil {
			g.pool.heed(b)
		}
		a.why = notForUs
		return
	}
	// A restart of ours forgets offers, so a free address is granted without one.
	b := g.pool.at(m.Requested)
	if b == nil || !g.mayHave(b, m, key) {
		g.nak(m, a, "the offered address is not free any more")
		return
	}
	g.grant(at, m, key, b, canGrant, a)
}

// reboot: the client remembers an address and asks whether it still holds.
func (g *segment) reboot(at moment, m *wire.DHCP, key []byte, canGrant bool, a *answer) {
	if !g.cfg.Prefix.Contains(m.Requested) {
		g.nak(m, a, "that address is of another network")
		return
	}
	b := g.pool.at(m.Requested)
	if b == nil || b.unknown(key) { // another server's part: it answers
		a.why = notForUs
		return
	}
	own, mine := g.pool.clients[string(key)], g.pool.reserved(key)
	switch {
	case mine == b:
		g.grant(at, m, key, b, canGrant, a)
	case mine != nil:
		g.nak(m, a, "another address is reserved for this device")
	case own == nil: // "the DHCP server MUST remain silent"
		a.why = unknown
	case own == b && g.mayHave(b, m, key):
		g.grant(at, m, key, b, canGrant, a)
	default:
		g.nak(m, a, "that address is not this client's any more")
	}
}

// extend: the client has the address and wants it longer, from us (RENEWING) or from
// anybody (REBINDING). A free address of our part is granted even where we have no record:
// the client uses it, and nobody else was given it.
func (g *segment) extend(at moment, m *wire.DHCP, key []byte, canGrant bool, a *answer) {
	if !g.cfg.Prefix.Contains(m.CIAddr) {
		g.nak(m, a, "that address is of another network")
		return
	}
	b := g.pool.at(m.CIAddr)
	switch {
	case b == nil || b.unknown(key):
		a.why = notForUs
	case !g.mayHave(b, m, key):
		g.nak(m, a, "that address is not this client's any more")
	default:
		g.grant(at, m, key, b, canGrant, a)
	}
}

// mayHave says whether granting the address to the client takes it from nobody and leaves
// the client with one live lease.
func (g *segment) mayHave(b *binding, m *wire.DHCP, key []byte) bool {
	if own := g.pool.reserved(key); own != nil || b.owner {
		return own == b
	}
	// A live lease of an address that the plan has since reserved for another device is
	// left to run out; its client gets another address.
	if own := g.pool.clients[string(key)]; own != nil && own != b && own.state == bound && !own.owner {
		return false
	}
	switch b.state {
	case bound:
		return b.client == string(key)
	case declined: // who answers for it may have had it before the leases were lost
		return b.squat && b.mac == m.CHAddr
	}
	if g.pool.keeps(b) {
		return !b.theirs && b.client != "" && b.client == string(key)
	}
	// A restart of ours forgets offers. A free address that was another client's is asked for
	// by guessing more likely than by such an offer: who was made one asks for a new one.
	return b.offeredTo == string(key) || b.offeredTo == "" && (b.client == "" || b.client == string(key))
}

// grant binds the address in memory and makes the ACK, to be sent once it is stored.
func (g *segment) grant(at moment, m *wire.DHCP, key []byte, b *binding, canGrant bool, a *answer) {
	again := b.state == bound && b.client == string(key)
	if again && b.durable != nil && b.xid == m.XID {
		a.why = underway
		return
	}
	host := b.host
	switch {
	case b.owner:
		host = string(b.title)
	case len(m.Hostname) > 0 || !again:
		host = label(m.Hostname)
	}
	lease, trial := g.term(at, b, key, again)
	lends := b.theirs && b.lent < b.ends // what we promise of the partner's address we must have on disk as ours
	if again && !lends && b.durable == nil && host == b.host && b.mac == m.CHAddr &&
		at.boot-b.granted < lease/freshPart && b.ends-at.boot > lease/2 {
		g.ack(m, a, b, b.ends-at.boot)
		return
	}
	if !canGrant {
		a.why = queueFull
		return
	}
	r := record{
		state: bound, mac: m.CHAddr, host: host, start: at.wall,
		until: at.wall.Add(lease), granted: at.boot, first: at.boot, ends: at.boot + lease, trial: trial, lately: true,
	}
	if b.theirs {
		r.lent = r.ends
	}
	if again {
		r.client, r.start, r.first = b.client, b.start, b.first
	} else {
		r.client = string(key)
		g.unname(b)
	}
	g.pool.grant(b, r)
	b.xid = m.XID
	a.grant, a.gen, a.rec = b, b.gen, r
	g.ack(m, a, b, lease)
}

func (g *segment) ack(m *wire.DHCP, a *answer, b *binding, left time.Duration) {
	g.write(m, a, wire.DHCPReply{Type: wire.DHCPAck, YIAddr: b.addr, Lease: seconds(left)})
}

// nak: RFC 2131 section 4.3.2; always broadcast, section 4.1.
func (g *segment) nak(m *wire.DHCP, a *answer, why string) {
	g.write(m, a, wire.DHCPReply{Type: wire.DHCPNak, Message: why})
	if a.way != toRelay && !g.cfg.Relayed { // of a relayed segment it is unicast: no broadcast gets there
		a.way, a.dst = toAll, broadcast4
	}
}

// decline: RFC 2131 section 4.3.3. Only the client that has the address, or was offered it,
// can decline it.
func (g *segment) decline(at moment, m *wire.DHCP, key []byte, a *answer) {
	a.why = noReplyDue
	b := g.pool.at(m.Requested)
	switch {
	case m.ServerID != g.cfg.Server:
		a.why = notForUs
		return
	case b == nil || !(b.state == bound && b.client == string(key) || b.offeredTo == string(key)):
		a.why = unknown
		return
	}
	a.found = b.addr
	g.unname(b)
	if b.owner { // the plan says so: it is offered again, and the event tells the crew
		g.pool.end(b, released, at, 0)
		return
	}
	g.pool.end(b, declined, at, restFor)
}

// release: RFC 2131 section 4.3.4.
func (g *segment) release(at moment, m *wire.DHCP, key []byte, a *answer) {
	a.why = noReplyDue
	b := g.pool.at(m.CIAddr)
	switch {
	case m.ServerID.IsValid() && m.ServerID != g.cfg.Server:
		a.why = notForUs
	case b == nil || b.state != bound || b.client != string(key):
		a.why = unknown
	default:
		g.unname(b)
		g.pool.end(b, released, at, 0)
	}
}

// inform: RFC 2131 section 4.3.5: no lease is made and no lease time sent, and only to an
// address of the segment, so that nobody can make us send elsewhere.
func (g *segment) inform(m *wire.DHCP, a *answer) {
	if !g.cfg.Prefix.Contains(m.CIAddr) {
		a.why = contrary
		return
	}
	g.write(m, a, wire.DHCPReply{Type: wire.DHCPAck})
}

var broadcast4 = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// write makes the reply and says how it goes.
func (g *segment) write(m *wire.DHCP, a *answer, r wire.DHCPReply) {
	r.Server = g.cfg.Server
	if r.Lease != 0 {
		r.Renew, r.Rebind = renewal(r.Lease, m.XID)
	}
	if b := g.pool.owners[string(g.clientKey(m))]; b != nil {
		r.Hostname = b.title
	}
	a.reply = r.Type
	switch {
	case viaRelay(m):
		a.way, a.dst = toRelay, m.GIAddr
	case m.CIAddr.Is4() && !m.CIAddr.IsUnspecified():
		a.way, a.dst = toAddress, m.CIAddr
	case m.Broadcast || r.YIAddr.IsUnspecified():
		a.way, a.dst = toAll, broadcast4
	default:
		a.way, a.dst = toHardware, r.YIAddr
	}
	var head [wire.UDPFrameHead]byte
	a.frame = wire.AppendDHCPReply(append(a.frame[:0], head[:]...), m, g.template, &r)
}

// renewal is T1 and T2 of a lease, RFC 2131 section 4.4.5: 1/2 and 7/8 of it, each up to 1/32
// of it sooner or later by the transaction, so that devices that came in one rush do not all
// come back in one.
func renewal(lease, xid uint32) (t1, t2 uint32) {
	l := uint64(lease)
	fuzz := l * uint64(xid*2654435761>>16) >> 20 // 0 to 1/16 of the lease; Knuth's multiplicative hash
	return uint32(max(1, l*15/32+fuzz)), uint32(max(1, l*27/32+fuzz))
}

func seconds(d time.Duration) uint32 { return uint32(max(1, d/time.Second)) }
