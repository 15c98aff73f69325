package crowd

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"github.com/hotstage/hotstage/internal/lab/crowd/frame"
)

// queryWaits are the timeouts of a question's tries; each goes to the next resolver.
// Android and glibc wait 5 s; Apple and systemd-resolved about 1 s at first.
var queryWaits = [...]time.Duration{time.Second, 2 * time.Second, 4 * time.Second}

const queryLimit = 12 // per device at a time

// query is one question of a device, over all its tries.
type query struct {
	d        *device
	alarm    alarm
	question []byte
	kind     uint16
	id       uint16
	port     uint16
	server   int        // index of the first resolver asked
	to       netip.Addr // the one asked last
	tries    int
	began    moment
	stream   *stream // over TCP
	size     []byte  // what has come over TCP so far
	page     *page
}

// resolvers are the servers that the device was told: by RA and by DHCP, in turns.
func (d *device) resolvers() []netip.Addr {
	if len(d.slaac.dns) == 0 || !d.slaac.addr.IsValid() {
		return d.lease.dns
	}
	return append(d.lease.dns[:len(d.lease.dns):len(d.lease.dns)], d.slaac.dns...)
}

// ask starts a question for a page; tcp skips UDP.
func (d *device) ask(name string, kind uint16, tcp bool, p *page) {
	servers := d.resolvers()
	question := frame.AppendQuestion(nil, name, kind)
	if len(servers) == 0 || len(question) == 0 || len(d.queries) == queryLimit {
		return
	}
	q := &query{d: d, question: question, kind: kind, id: uint16(d.rand.Uint32()), port: d.freePort(), began: d.w.now, page: p}
	q.alarm.who = q
	q.server = d.rand.IntN(len(servers))
	d.queries = append(d.queries, q)
	p.open++
	d.w.tally.dns.Asked++
	d.w.series.queries++
	if tcp {
		d.w.tally.dns.TCP++
		q.overTCP()
		return
	}
	q.send()
}

// aim picks the resolver of the present try; a device that has lost all keeps the last.
func (q *query) aim() {
	if servers := q.d.resolvers(); len(servers) > 0 {
		q.to = servers[(q.server+q.tries)%len(servers)]
	}
}

func (q *query) send() {
	q.aim()
	w := q.d.w
	w.inner = frame.AppendQuery(w.inner[:0], q.id, q.question)
	q.d.sendUDP(q.to, q.port, frame.DNSPort, w.inner)
	w.alarms.set(&q.alarm, w.now+queryWaits[q.tries])
}

// wake implements waker: no answer in time.
func (q *query) wake() {
	if q.stream != nil {
		q.stream.drop()
		q.stream = nil
	}
	q.tries++
	if q.tries == len(queryWaits) {
		q.fail(&q.d.w.tally.dns.Timeout)
		return
	}
	q.d.w.tally.dns.Retries++
	q.send()
}

// inputAnswer finds the question that a datagram answers: also late, from a resolver that
// was asked before, for the id and port are the same in all tries.
func (d *device) inputAnswer(k *frame.Packet) {
	for _, q := range d.queries {
		if q.port == k.DstPort && q.stream == nil {
			if slices.Contains(d.resolvers(), k.From) {
				q.answered(k.Payload, false)
			}
			return
		}
	}
}

// answered takes a message. What doesn't fit the question is passed over, as a forged
// answer would be: the right one may still come.
func (q *query) answered(b []byte, tcp bool) {
	t := &q.d.w.tally.dns
	a, err := frame.ParseAnswer(b)
	if err != nil || a.ID != q.id || !frame.SameQuestion(a.Question, q.question) {
		t.Malformed++
		return
	}
	switch {
	case a.Truncated && !tcp:
		t.Truncated++
		q.overTCP()
		return
	case a.RCode == frame.ServFail:
		q.fail(&t.ServFail)
		return
	case a.RCode == frame.NXDomain:
		q.fail(&t.NXDomain)
		return
	case a.RCode == frame.Refused:
		q.fail(&t.Refused)
		return
	case a.RCode != frame.NoError:
		q.fail(&t.Other)
		return
	}
	took := q.d.w.now - q.began
	t.OK++
	q.d.w.tally.resolve.add(took)
	q.d.w.series.dns.add(took)
	q.end(a.Addrs)
}

// overTCP asks the present resolver again over TCP (RFC 7766).
func (q *query) overTCP() {
	if !q.to.IsValid() {
		q.aim()
	}
	q.size = q.size[:0]
	w := q.d.w
	w.alarms.set(&q.alarm, w.now+queryWaits[q.tries])
	q.stream = q.d.connect(q.to, frame.DNSPort, q)
}

// up implements streamUser.
func (q *query) up() {
	m := frame.AppendQuery([]byte{0, 0}, q.id, q.question)
	binary.BigEndian.PutUint16(m, uint16(len(m)-2))
	q.stream.write(m)
}

// data implements streamUser.
func (q *query) data(b []byte) {
	q.size = append(q.size, b...)
	if len(q.size) < 2 {
		return
	}
	if n := 2 + int(binary.BigEndian.Uint16(q.size)); len(q.size) >= n {
		q.answered(q.size[2:n], true)
	}
}

// down implements streamUser: the resolver gave up the connection; the alarm tries again.
func (q *query) down() { q.stream = nil }

func (q *query) fail(reason *int) {
	*reason++
	q.d.w.series.errors++
	q.end(nil)
}

// end takes the question away and gives its page what it has found.
func (q *query) end(found []netip.Addr) {
	page := q.page
	q.drop()
	page.open--
	page.found = append(page.found, found...)
	if page.open == 0 {
		q.d.visit(page)
	}
}

// drop takes the question away without telling anybody.
func (q *query) drop() {
	q.d.w.alarms.stop(&q.alarm)
	if q.stream != nil {
		q.stream.shut()
		q.stream = nil
	}
	q.d.queries = slices.DeleteFunc(q.d.queries, func(x *query) bool { return x == q })
}
