package resolver

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/wire"
)

// A resolver is down when it has answered nothing at all for downAfter while it was asked
// downQueries times or more. That one name gets no answer says nothing of the resolver.
const (
	downAfter   = time.Second
	downQueries = 3
	// A resolver that has answered this many questions and kept the case of letters in none
	// cannot do it: it is asked in lower case from then on.
	caseTries = 10
)

// upstream is one resolver and how it is. Safe for concurrent use.
type upstream struct {
	addr netip.AddrPort

	mu         sync.Mutex
	srtt, dev  time.Duration // smoothed as in RFC 6298 section 2
	unanswered int           // questions since the last answer
	since      time.Time     // of the first of them
	down       bool
	why        string
	kept, lost int // answers in the question's case, and in another
	probing    bool
	tried      time.Time // of the last probe
}

func (u *upstream) isDown() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.down
}

// patience is how long to wait before another resolver is asked too.
func (u *upstream) patience() time.Duration {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.srtt == 0 {
		return hedgeMost
	}
	return min(max(u.srtt+4*u.dev, hedgeLeast), hedgeMost)
}

// mixes tells whether to mix the case of letters (draft-vixie-dnsext-dns0x20).
func (u *upstream) mixes() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.kept > 0 || u.lost < caseTries
}

// caseSeen notes whether an answer was in the case of its question.
func (u *upstream) caseSeen(q ask, kept bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case !kept:
		u.lost++
	case len(q.name) > 8 && u.lost < caseTries: // long enough to have been mixed
		u.kept++
	}
}

func (u *upstream) asked(now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.unanswered == 0 {
		u.since = now
	}
	u.unanswered++
}

// answered notes an answer. It is true when the resolver was down and is well again, which
// needs one that is no failure.
func (u *upstream) answered(rtt time.Duration, well bool) (back bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.unanswered = 0
	if u.srtt == 0 {
		u.srtt, u.dev = rtt, rtt/2
	} else {
		u.dev += ((u.srtt - rtt).Abs() - u.dev) / 4
		u.srtt += (rtt - u.srtt) / 8
	}
	back = u.down && well
	if back {
		u.down = false
	}
	return back
}

// failed notes a question without an answer. It is true when the resolver is down from now
// on.
func (u *upstream) failed(now time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.down || u.unanswered < downQueries || now.Sub(u.since) < downAfter {
		return false
	}
	u.down, u.why = true, "does not answer"
	return true
}

// cannot notes that the resolver answers but cannot resolve; true when that is new.
func (u *upstream) cannot() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.down {
		return false
	}
	u.down, u.why = true, "answers but cannot resolve"
	return true
}

// wantsProbe tells whether to probe now, and takes the probe when so: at each chance while
// questions are unanswered or the resolver is down, and now and then in any case, because
// one that answers may still fail to resolve.
func (u *upstream) wantsProbe(now time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.probing || !u.down && u.unanswered == 0 && now.Sub(u.tried) < probeIdle {
		return false
	}
	u.probing, u.tried = true, now
	return true
}

func (u *upstream) probed() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.probing = false
}

func (u *upstream) check() fact.Check {
	u.mu.Lock()
	defer u.mu.Unlock()
	c := fact.Check{Name: "upstream-" + u.addr.Addr().String(), Words: "the resolver " + u.addr.String() + " resolves", OK: !u.down, Measured: "not asked yet"}
	if u.down {
		c.Measured = u.why
		c.Hint = fmt.Sprintf("dig @%s -p %d . NS", u.addr.Addr(), u.addr.Port())
	} else if u.srtt > 0 {
		c.Measured = "round trip " + u.srtt.Round(100*time.Microsecond).String()
	}
	return c
}

// query is a question as it is sent.
type query struct {
	ask
	id     uint16
	packet []byte
}

// newQuery makes the packet of a question with a random id and, with mix, random case of
// the letters, so that a forger must guess both.
func newQuery(q ask, mix bool) query {
	name := slices.Clone(q.name)
	if mix {
		for i, bits := 0, uint64(0); i < len(name); i++ {
			if i%64 == 0 {
				bits = rand.Uint64()
			}
			if 'a' <= name[i] && name[i] <= 'z' && bits>>(i%64)&1 != 0 {
				name[i] -= 'a' - 'A'
			}
		}
	}
	flags := wire.DNSFlagRD | wire.DNSFlagAD
	if q.cd {
		flags |= wire.DNSFlagCD
	}
	id := uint16(rand.Uint32())
	return query{q, id, wire.AppendDNSQuery(make([]byte, 2, 2+wire.DNSHeader+len(name)+4+wire.DNSOPTSize), id, flags, name, q.typ, wire.DNSClassIN, ourSize, q.do)}
}

// plain is the query without EDNS.
func (q query) plain() query {
	q.packet = slices.Clone(q.packet[:len(q.packet)-wire.DNSOPTSize])
	binary.BigEndian.PutUint16(q.packet[2+10:], 0)
	return q
}

// noEDNS tells whether the answer is that of a resolver which does not know EDNS (RFC 6891
// section 7): one without OPT record, and with FORMERR or NOTIMP.
func noEDNS(msg []byte) bool {
	rcode := msg[3] & 0xf
	return (rcode == wire.DNSFormErr || rcode == wire.DNSNotImp) && binary.BigEndian.Uint16(msg[10:]) == 0
}

var (
	errOther = errors.New("it answered something else than was asked")
	errCut   = errors.New("it truncated an answer by TCP")
)

// match tells whether b answers the query, and whether in the same case.
func (q *query) match(b []byte) (ok, sameCase bool) {
	sent := q.packet[2:]
	end := wire.DNSHeader + len(q.name) + 4
	if len(b) < end || binary.BigEndian.Uint16(b) != q.id || b[2]&0xf8 != 0x80 || binary.BigEndian.Uint16(b[4:]) != 1 {
		return false, false
	}
	if string(b[wire.DNSHeader:end]) == string(sent[wire.DNSHeader:end]) {
		return true, true
	}
	var got, want [wire.DNSMaxName + 4]byte
	n := wire.LowerDNS(got[:0], b[wire.DNSHeader:end-4])
	return string(n) == string(wire.LowerDNS(want[:0], q.name)) && string(b[end-4:end]) == string(sent[end-4:end]), false
}

// exchangeUDP waits for a packet that answers; others are passed over, because anyone can
// send them.
func exchangeUDP(c net.Conn, q query) (msg []byte, sameCase bool, err error) {
	if _, err := c.Write(q.packet[2:]); err != nil {
		return nil, false, err
	}
	b := make([]byte, 4096)
	for strangers := 0; strangers < 100; strangers++ {
		n, err := c.Read(b)
		if err != nil {
			return nil, false, err
		}
		ok, same := q.match(b[:n])
		if !ok {
			continue
		}
		if b[2]&byte(wire.DNSFlagTC>>8) == 0 {
			if _, err := wire.WalkDNS(b[:n], func(wire.DNSRecord) {}); err != nil {
				return nil, false, err
			}
		}
		return slices.Clone(b[:n]), same, nil
	}
	return nil, false, errOther
}

// exchangeTCP asks by TCP (RFC 7766).
func exchangeTCP(c net.Conn, q query) (msg []byte, sameCase bool, err error) {
	binary.BigEndian.PutUint16(q.packet, uint16(len(q.packet)-2))
	if _, err := c.Write(q.packet); err != nil {
		return nil, false, err
	}
	var size [2]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return nil, false, err
	}
	b := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(c, b); err != nil {
		return nil, false, err
	}
	ok, same := q.match(b)
	if !ok {
		return nil, false, errOther
	}
	if b[2]&byte(wire.DNSFlagTC>>8) != 0 {
		return nil, false, errCut
	}
	if _, err := wire.WalkDNS(b, func(wire.DNSRecord) {}); err != nil {
		return nil, false, err
	}
	return b, same, nil
}
