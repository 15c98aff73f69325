package dhcp

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/plan"
	"github.com/hotstage/hotstage/internal/wire"
	"github.com/insomniacslk/dhcp/dhcpv4"
)

// belief is what a client thinks that it has, on the axis of true time.
type belief struct {
	addr netip.Addr
	ends time.Duration
}

// world is a segment, its store, its clients' beliefs and a list of the addresses that is
// kept naively, from nothing but the messages. True time goes on through crashes and
// reboots; the boot clock begins anew at a reboot and the wall clock is wrong now and then.
type world struct {
	t       *testing.T
	r       *rand.Rand
	d       *desk
	began   time.Duration // true time of the boot
	boots   int
	jumps   bool // the wall clock goes back to 1970 at some reboots: which address was a client's last is lost
	flooded int
	surges  bool
	lately  int // the client that was offered an address last

	pending []pending
	has     map[int]belief
	last    map[int]netip.Addr      // of each client's last ACK
	owner   map[netip.Addr]int      // the client that the store last had an address for
	unsure  map[int]bool            // the client was granted one since, whose ACK it did not get
	asleep  map[netip.Addr]bool     // declined, its rest perhaps not over
	offer   map[int]netip.Addr      // what a client was offered last
	stands  map[netip.Addr]standing // offers by address
	n       map[string]int          // what happened, so that a test that does nothing is seen
}

type standing struct {
	client int
	until  time.Duration
}

// pending is a grant on its way to the store.
type pending struct {
	client int
	a      answer
	since  time.Duration
}

const (
	worldClients  = 60
	worldReserved = 4 // clients 0 to 2 by hardware address, client 3 by identifier
)

func newWorld(t *testing.T, seed uint64) *world {
	w := &world{
		t: t, r: rand.New(rand.NewPCG(seed, 7)), has: map[int]belief{}, last: map[int]netip.Addr{}, owner: map[netip.Addr]int{},
		asleep: map[netip.Addr]bool{}, offer: map[int]netip.Addr{}, unsure: map[int]bool{}, stands: map[netip.Addr]standing{}, n: map[string]int{},
	}
	w.d = newDesk(t, w.cfg())
	w.squeeze(seed%4 < 2)
	return w
}

// squeeze has a few strangers make a surge, on some seeds.
func (w *world) squeeze(on bool) {
	if w.surges = on; on {
		w.d.g.pool.surge.from = 4
	}
}

// cfg has 40 dynamic addresses for 60 clients.
func (w *world) cfg() Segment {
	c := hall()
	c.Pool = plan.Range{From: addr("10.1.0.10"), To: addr("10.1.0.53")}
	c.Never = []netip.Addr{addr("10.1.0.30")}
	c.Reservations = []plan.Reservation{
		{Name: "printer", MAC: mac(0), Addr: addr("10.1.0.12")}, {Name: "desk", MAC: mac(1), Addr: addr("10.1.0.20")},
		{Name: "camera", MAC: mac(2), Addr: addr("10.1.0.200")}, {Name: "screen", ClientID: []byte("client-3"), Addr: addr("10.1.0.25")},
	}
	return c
}

func (w *world) now() time.Duration { return w.began + w.d.clock.boot }

// mac is the client's hardware address; client 3 has two network cards.
func (w *world) mac(c int) net.HardwareAddr {
	if c == 3 && w.r.IntN(2) == 0 {
		return mac(900_003)
	}
	return mac(c)
}

// mods gives every third client an identifier.
func (w *world) mods(c int, more ...dhcpv4.Modifier) []dhcpv4.Modifier {
	if c%3 == 0 {
		return append(more, id(fmt.Sprintf("client-%d", c)))
	}
	return more
}

// hear hands a message over and follows what is answered, but for grants, which wait.
func (w *world) hear(c int, b []byte, broadcast bool) *answer {
	w.t.Helper()
	d := w.d
	if err := d.m.Parse(b); err != nil {
		w.t.Fatal(err)
	}
	a := &d.a
	d.g.handle(read(d.clock), &d.m, broadcast, true, a)
	switch {
	case a.grant != nil:
		if a.rec.trial {
			w.n["trial"]++
		}
		p := pending{client: c, a: *a, since: w.now()}
		p.a.frame = append([]byte(nil), a.frame...)
		w.pending = append(w.pending, p)
		w.promisedNothing(c)
		w.unsure[c] = true
	case len(a.frame) == 0:
		w.n[silenceWords[a.why]]++
	case a.reply == wire.DHCPNak:
		w.n["nak"]++
		delete(w.has, c)
	case a.reply == wire.DHCPAck && a.kind == wire.DHCPRequest: // what is left of a stored lease
		w.n["ack again"]++
		w.acked(c, a)
	}
	return a
}

// acked has the client count from now, as late as it can.
func (w *world) acked(c int, a *answer) {
	r := w.d.reply(a)
	got, _ := netip.AddrFromSlice(r.YourIPAddr.To4())
	delete(w.unsure, c)
	w.has[c], w.last[c] = belief{got, w.now() + r.IPAddressLeaseTime(0)}, got
}

func (w *world) discover() {
	c := w.r.IntN(worldClients)
	delete(w.has, c) // who asks for an address has none
	var more []dhcpv4.Modifier
	if w.r.IntN(3) == 0 {
		more = append(more, wants(w.any().String()))
	}
	swept := w.r.IntN(2) == 0
	if swept {
		w.d.g.pool.expire(read(w.d.clock), 1<<20, w.d.g.ended)
	}
	others := w.standing()
	a := w.hear(c, message(w.t, w.mac(c), discover, w.mods(c, more...)...), true)
	if others >= leastOffers {
		w.turnedOver()
	}
	if len(a.frame) == 0 {
		free := w.free(c)
		if w.d.g.pool.clients[w.key(c)] == nil && len(free) <= w.d.g.pool.kept(w.d.clock.boot) {
			w.n["kept"]++
			return
		}
		if a.why != full || swept && len(free) > 0 {
			w.t.Fatalf("client %d is not offered anything (%s), but %v are free", c, silenceWords[a.why], free)
		}
		return
	}
	w.n["offer"]++
	got, _ := netip.AddrFromSlice(w.d.reply(a).YourIPAddr.To4())
	w.mayBeOffered(c, got, others)
	if swept {
		w.itsOwn(c, got)
	}
	w.offer[c], w.lately = got, c
	if b := w.d.g.pool.at(got); !b.owner && b.state != bound {
		w.promisedNothing(c)
		w.stands[got] = standing{c, w.now() + offerFor}
	}
}

// promisedNothing: an offer to the client that stood stands no more.
func (w *world) promisedNothing(c int) {
	for a, s := range w.stands {
		if s.client == c {
			delete(w.stands, a)
		}
	}
}

func (w *world) standing() (n int) {
	for _, s := range w.stands {
		if s.until > w.now() {
			n++
		}
	}
	return n
}

// live says whether a client other than c has the address.
func (w *world) live(a netip.Addr, but int) bool {
	for c, b := range w.has {
		if b.addr == a && c != but && b.ends > w.now() {
			return true
		}
	}
	return false
}

// mayBeOffered: nobody has the address, no other device's reservation is touched, and
// nobody else was just promised it while few were.
func (w *world) mayBeOffered(c int, got netip.Addr, others int) {
	w.t.Helper()
	if w.live(got, c) {
		w.t.Fatalf("client %d is offered %v, which another client has", c, got)
	}
	for i, r := range w.cfg().Reservations {
		if (got == r.Addr) != (c == i) && (got == r.Addr || c == i && !w.live(r.Addr, c)) {
			w.t.Fatalf("client %d is offered %v; %v is reserved for client %d", c, got, r.Addr, i)
		}
	}
	if own := w.d.g.pool.at(got).client == w.key(c); own { // who comes back to its address goes before a stranger
		return
	}
	if s, ok := w.stands[got]; ok && s.client != c && s.until > w.now() && others < leastOffers {
		w.t.Fatalf("client %d is offered %v, which client %d was offered and may take for %v more", c, got, s.client, s.until-w.now())
	}
}

// itsOwn: a client that had an address gets it back, if nobody else has it or was promised it.
func (w *world) itsOwn(c int, got netip.Addr) {
	w.t.Helper()
	was, knew := w.last[c]
	if !knew || c < worldReserved || w.asleep[was] || w.unsure[c] || w.jumps {
		return
	}
	if o, ok := w.owner[was]; !ok || o != c {
		return
	}
	for a, s := range w.stands { // somebody else was promised it, or the client something else
		if s.until > w.now() && (a == was || s.client == c) {
			return
		}
	}
	for _, p := range w.pending {
		if p.a.grant.addr == was || p.client == c {
			return
		}
	}
	if b := w.d.g.pool.at(got); b.client != w.key(c) { // it may be one whose ACK was lost
		w.t.Fatalf("client %d had %v, which is free, and is offered %v", c, was, got)
	}
	w.n["own back"]++
}

// free lists the addresses that could be offered to client c without any doubt.
func (w *world) free(c int) (all []netip.Addr) {
	if c < worldReserved {
		return nil
	}
	taken := map[netip.Addr]bool{addr("10.1.0.12"): true, addr("10.1.0.20"): true, addr("10.1.0.25"): true, addr("10.1.0.30"): true}
	for _, p := range w.pending {
		taken[p.a.grant.addr] = true
	}
	for a := addr("10.1.0.10"); a != addr("10.1.0.54"); a = a.Next() {
		s, offered := w.stands[a]
		b := w.d.g.pool.at(a)
		if !taken[a] && !w.asleep[a] && !(offered && s.until > w.now()) && b.state != bound {
			all = append(all, a)
		}
	}
	return all
}

func (w *world) any() netip.Addr {
	a := addr("10.1.0.8")
	for range w.r.IntN(50) {
		a = a.Next()
	}
	return a
}

// request comes in one of the four states, mostly as an honest client would.
func (w *world) request() {
	c := w.r.IntN(worldClients)
	if w.lately >= 0 && w.r.IntN(2) == 0 { // an honest client takes its offer up at once
		c = w.lately
	}
	asked := w.last[c]
	if w.r.IntN(8) == 0 || !asked.IsValid() {
		asked = w.any()
	}
	switch w.r.IntN(6) {
	case 0:
		w.hear(c, message(w.t, w.mac(c), request, w.mods(c, wants(asked.String()))...), true)
	case 1:
		if b, ok := w.has[c]; ok && b.ends > w.now() {
			w.hear(c, message(w.t, w.mac(c), request, w.mods(c, from(b.addr.String()))...), w.r.IntN(2) == 0)
		}
	case 2:
		w.hear(c, message(w.t, w.mac(c), request, w.mods(c, from(asked.String()))...), true)
	default:
		got, ok := w.offer[c]
		if !ok || w.r.IntN(10) == 0 {
			got = w.any()
		}
		server := server([]string{"10.1.0.2", "10.1.0.3"}[btoi(w.r.IntN(8) == 0)])
		a := w.hear(c, message(w.t, w.mac(c), request, w.mods(c, wants(got.String()), server)...), true)
		if a.why == notForUs {
			w.promisedNothing(c)
		}
	}
}

func (w *world) giveBack() {
	c := w.r.IntN(worldClients)
	b, ok := w.has[c]
	a := b.addr
	if !ok || w.r.IntN(6) == 0 {
		a = w.any()
	}
	if w.r.IntN(3) > 0 {
		w.hear(c, message(w.t, w.mac(c), release, w.mods(c, from(a.String()), server("10.1.0.2"))...), false)
		if a == b.addr {
			delete(w.has, c)
		}
		return
	}
	found := w.hear(c, message(w.t, w.mac(c), decline, w.mods(c, wants(a.String()), server("10.1.0.2"))...), true).found
	if found.IsValid() {
		w.n["declined"]++
		w.asleep[found] = true
		delete(w.owner, found)
		delete(w.stands, found)
	}
	if a == b.addr {
		delete(w.has, c)
	}
}

// commit writes the oldest grants and what ended, as the ledger does: in one transaction,
// which fails now and then, with or without having reached the disk.
func (w *world) commit() {
	n := w.r.IntN(len(w.pending) + 1)
	batch := w.pending[:n]
	w.pending = append([]pending(nil), w.pending[n:]...)
	var leases []fact.Lease
	for i := range batch {
		leases = append(leases, w.d.g.fact(batch[i].a.grant, &batch[i].a.rec))
	}
	leases, ended := w.d.g.unsaved(w.r.IntN(20), leases, nil)
	luck := w.r.IntN(10)
	if luck != 0 { // on disk
		if err := w.d.book.Commit(context.Background(), leases); err != nil {
			w.t.Fatal(err)
		}
		for i := range batch {
			w.owner[batch[i].a.grant.addr] = batch[i].client
			delete(w.asleep, batch[i].a.grant.addr)
		}
	}
	if luck <= 1 { // and an error
		w.n["failed"]++
		for i := range batch {
			w.d.g.notStored(batch[i].a.grant, batch[i].a.gen)
			delete(w.owner, batch[i].a.grant.addr)
		}
		w.d.g.resoil(ended)
		return
	}
	for i := range batch {
		p := &batch[i]
		if w.d.g.stored(p.a.grant, p.a.gen, &p.a.rec) && w.now()-p.since <= ackWithin {
			w.n["ack"]++
			w.acked(p.client, &p.a)
		}
	}
}

// crash loses all but the store, and maybe the machine's time.
func (w *world) crash() {
	w.pending = nil
	clear(w.stands)
	clear(w.offer)
	if w.r.IntN(3) == 0 {
		w.n["reboot"]++
		w.boots++
		off := time.Duration(w.r.Int64N(int64(3 * time.Hour)))
		w.began = w.now() + off
		w.d.clock.mu.Lock()
		w.d.clock.id, w.d.clock.boot = fmt.Sprintf("boot-%d", w.boots+2), time.Duration(w.r.Int64N(int64(time.Minute)))
		w.d.clock.wall = w.d.clock.wall.Add(off)
		if w.jumps && w.r.IntN(2) == 0 {
			w.d.clock.wall = time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC)
		}
		w.d.clock.mu.Unlock()
		clear(w.asleep)
	}
	w.n["restart"]++
	w.d.restart(w.cfg())
	w.squeeze(w.surges)
	for _, b := range w.d.g.pool.slots { // a rest begins anew with the boot
		if b != nil && b.state == declined {
			w.asleep[b.addr] = true
		}
	}
	for c, b := range w.has {
		if b.ends <= w.now() {
			continue
		}
		x := w.d.g.pool.at(b.addr)
		if string(x.client) != w.key(c) || x.state != bound || w.began+x.ends+graceFor < b.ends {
			w.t.Fatalf("after a restart: client %d has %v until %v; the server has it as %d of %q until %v", c, b.addr, b.ends, x.state, x.client, w.began+x.ends)
		}
	}
}

func (w *world) key(c int) string {
	m := net.HardwareAddr(mac(c))
	if c%3 == 0 && c != 0 { // the reservation of client 0 is by its hardware address
		return "i" + fmt.Sprintf("client-%d", c)
	}
	return "m" + string(m)
}

// turnedOver forgets offers that were taken back for others, as they may be when many stand.
func (w *world) turnedOver() {
	for a, s := range w.stands {
		if to := w.d.g.pool.at(a).offeredTo; to == "" || s.client >= 0 && to != w.key(s.client) {
			delete(w.stands, a)
		}
	}
}

func (w *world) flood() {
	for range 30 {
		w.flooded++
		w.d.ask(mac(1_000_000+w.flooded), discover)
	}
	maps.DeleteFunc(w.stands, func(_ netip.Addr, s standing) bool { return s.client < 0 })
	w.turnedOver()
	if n, most := w.d.g.pool.offers.n, w.d.g.pool.offersAllowed(); n > most {
		w.t.Fatalf("%d offers stand, at most %d may", n, most)
	}
	// Those that the flood holds are nobody's that the list knows.
	for k, b := range w.d.g.pool.offered {
		if _, ok := w.stands[b.addr]; !ok {
			w.stands[b.addr] = standing{-len(k), w.began + b.offerEnds}
		}
	}
}

// check: no address has two live clients, and the pool's own books agree with each other.
func (w *world) check(step int) {
	w.t.Helper()
	holds := map[netip.Addr]int{}
	for c, b := range w.has {
		if b.ends <= w.now() {
			continue
		}
		if other, two := holds[b.addr]; two {
			w.t.Fatalf("step %d: clients %d and %d both have %v", step, c, other, b.addr)
		}
		holds[b.addr] = c
	}
	sound(w.t, w.d.g.pool)
}

// sound looks at every address and compares with the lists, the heap and the maps.
func sound(t testing.TB, p *pool) {
	t.Helper()
	in := map[*list]int{}
	live, offered := 0, 0
	one := func(b *binding) {
		if b == nil {
			return
		}
		if b.state == bound {
			live++
			if b.in != nil || b.offeredTo != "" || p.live[b.heapAt] != b {
				t.Fatalf("%v is bound and in a list, offered, or not in the heap", b.addr)
			}
			// The store may have two for one client, of a commit that failed for us and not for
			// it; such a one is as it was loaded, and ends.
			if p.clients[b.client] == nil && b.gen > 1 {
				t.Fatalf("%v is bound to %q, which the pool does not know", b.addr, b.client)
			}
		} else if b.heapAt >= 0 {
			t.Fatalf("%v is in the heap and not bound", b.addr)
		}
		if b.offeredTo != "" {
			offered++
			if p.offered[b.offeredTo] != b || b.in != &p.offers {
				t.Fatalf("%v is offered to %q and not in its place", b.addr, b.offeredTo)
			}
		}
		if b.in != nil {
			in[b.in]++
		} else if b.state != bound && !b.owner {
			t.Fatalf("%v is nowhere", b.addr)
		}
	}
	for _, b := range p.slots {
		one(b)
	}
	for _, b := range p.outside {
		one(b)
	}
	if live != len(p.live) || offered != len(p.offered) || offered != p.offers.n ||
		in[&p.fresh] != p.fresh.n || in[&p.past] != p.past.n || in[&p.resting] != p.resting.n {
		t.Fatalf("%d bound of %d in the heap, %d offered of %d and %d; lists %v", live, len(p.live), offered, len(p.offered), p.offers.n, in)
	}
	for c, b := range p.clients {
		if b.client != c {
			t.Fatalf("client %q is said to have had %v, whose last client is %q", c, b.addr, b.client)
		}
	}
}

func (w *world) pass() {
	steps := []time.Duration{time.Millisecond, time.Second, ackWithin, 15 * time.Second, offerFor, time.Minute, 10 * time.Minute, 29 * time.Minute, 70 * time.Minute}
	w.d.clock.pass(time.Duration(w.r.Int64N(int64(steps[w.r.IntN(len(steps))]) + 1)))
	for a := range w.asleep { // its rest may be over, or cut short by others: the server says
		if b := w.d.g.pool.at(a); b.state != declined || b.ends <= w.d.clock.boot {
			delete(w.asleep, a)
		}
	}
}

// TestOracle: 10,000 random deeds on each of some seeds.
func TestOracle(t *testing.T) {
	deeds := []struct {
		often int
		name  string
		do    func(*world)
	}{
		{40, "discover", (*world).discover}, {50, "request", (*world).request}, {8, "giveBack", (*world).giveBack}, {40, "commit", (*world).commit},
		{6, "pass", (*world).pass}, {1, "crash", (*world).crash}, {1, "flood", (*world).flood},
	}
	var all []int
	for i, d := range deeds {
		for range d.often {
			all = append(all, i)
		}
	}
	total := map[string]int{}
	for seed := range uint64(8) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			w := newWorld(t, seed)
			w.jumps = seed%2 == 1
			for step := range 10000 {
				deeds[all[w.r.IntN(len(all))]].do(w)
				w.check(step)
			}
			for what, n := range w.n {
				total[what] += n
			}
		})
	}
	for _, what := range []string{"offer", "ack", "ack again", "nak", "declined", "own back", "failed", "restart", "reboot", "pool-full", "kept", "trial", "unknown-client", "not-for-us"} {
		if total[what] < 50 {
			t.Errorf("%q happened %d times: %v", what, total[what], total)
		}
	}
}
