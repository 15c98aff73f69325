package resolver

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hotstage/hotstage/internal/wire"
	"github.com/miekg/dns"
)

// slowBackend answers every A question with 192.0.2.1 after a delay, or fails.
type slowBackend struct {
	mu    sync.Mutex
	delay time.Duration
	fails bool
	said  []byte   // the answer to everything, when there is one
	asked []string // names, in order
}

func (b *slowBackend) say(msg []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.said = msg
}

func (b *slowBackend) set(delay time.Duration, fails bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.delay, b.fails = delay, fails
}

func (b *slowBackend) names() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.asked)
}

func (b *slowBackend) resolve(ctx context.Context, q ask) ([]byte, error) {
	b.mu.Lock()
	name := wire.DNSNameString(q.name)
	b.asked = append(b.asked, name)
	delay, fails, said := b.delay, b.fails, b.said
	b.mu.Unlock()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(delay):
	}
	if said != nil {
		return said, nil
	}
	if fails {
		return nil, errors.New("no answer")
	}
	m := new(dns.Msg)
	m.SetQuestion(dns.Fqdn(name), q.typ)
	m.Response = true
	r, _ := dns.NewRR(name + ". 60 IN A 192.0.2.1")
	m.Answer = append(m.Answer, r)
	return m.Pack()
}

// terminal is a handler with flights over a slow backend.
type terminal struct {
	*handler
	flights *flights
	backend *slowBackend
	stop    func() // and wait
}

func newTerminal(t *testing.T) *terminal {
	t.Helper()
	h := newHandler(hall(), nil)
	b := &slowBackend{}
	x := &terminal{handler: h, backend: b, flights: newFlights(h.cache, b, h.clients, h.m)}
	h.renew = x.flights.renew
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	x.flights.start(ctx, &all)
	x.stop = func() { cancel(); all.Wait() }
	return x
}

// query asks for a name as a client would; the answer, in one line with its id, comes on the
// channel.
func (x *terminal) query(t *testing.T, name, from string, id uint16) <-chan string {
	t.Helper()
	return x.packet(t, question(t, name, dns.TypeA, func(m *dns.Msg) { m.Id = id }), addr(from))
}

func (x *terminal) packet(t *testing.T, packet []byte, from netip.Addr) <-chan string {
	t.Helper()
	got := make(chan string, 1)
	say := func(b []byte) {
		m := unpacked(t, b)
		s := fmt.Sprint(m.Id, " ", dns.RcodeToString[m.Rcode])
		for _, r := range m.Answer {
			s += fmt.Sprint(" ", r.Header().Ttl)
		}
		got <- s
	}
	x.board(packet, from, say)
	return got
}

// exchange sends a query as one client does; say gets the answer.
func (x *terminal) exchange(t *testing.T, packet []byte, say func([]byte)) {
	t.Helper()
	x.board(packet, addr("10.1.0.50"), say)
}

func (x *terminal) board(packet []byte, from netip.Addr, say func([]byte)) {
	var q wire.DNSQuery
	var k key
	reply, v := x.handle(nil, packet, from, true, time.Now(), &q, &k)
	if v == answer {
		say(reply)
	} else {
		x.flights.board(&k, passenger{q: q, size: 512, from: from, since: time.Now(), answer: say})
	}
}

// after is what came on the channel and when, since begun.
func after(begun time.Time, got <-chan string) string {
	s := <-got
	return fmt.Sprint(time.Since(begun).Round(time.Millisecond), ": ", s)
}

func TestOneFlightForAllWhoAsk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newTerminal(t)
		defer x.stop()
		x.backend.set(100*time.Millisecond, false)
		begun := time.Now()
		var answers []<-chan string
		for n := range 300 {
			answers = append(answers, x.query(t, []string{"www.example.net", "WWW.example.NET"}[n%2], number(1<<16+n).String(), uint16(n)))
			time.Sleep(100 * time.Microsecond)
		}
		for n, got := range answers {
			if diff := cmp.Diff(fmt.Sprintf("100ms: %d NOERROR 60", n), after(begun, got)); diff != "" {
				t.Fatalf("client %d (-want +got):\n%s", n, diff)
			}
		}
		if diff := cmp.Diff([]string{"www.example.net"}, x.backend.names()); diff != "" {
			t.Errorf("asked (-want +got):\n%s", diff)
		}
	})
}

// TestExpiredAnswers goes through an outage: an answer expires, the resolvers asked become
// slow, then fail, then are well again.
func TestExpiredAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newTerminal(t)
		defer x.stop()
		var got []string
		asked := 0
		step := func(what string, id uint16) {
			begun := time.Now()
			s := after(begun, x.query(t, "www.example.net", "10.1.0.50", id))
			n := len(x.backend.names())
			got = append(got, fmt.Sprintf("%s: %s, asked %d", what, s, n-asked))
			asked = n
		}
		step("first", 1)
		step("cached", 2)
		time.Sleep(time.Minute)
		x.backend.set(4*time.Second, false)
		step("slow", 3)
		step("again while asking", 4)
		time.Sleep(3 * time.Second)
		step("it came", 5)
		time.Sleep(time.Hour)
		x.backend.set(10*time.Millisecond, true)
		step("failed", 6)
		x.backend.set(10*time.Millisecond, false)
		time.Sleep(staleHold - 20*time.Millisecond)
		step("held", 7)
		time.Sleep(20 * time.Millisecond)
		step("asked again", 8)
		time.Sleep(25 * time.Hour)
		x.backend.set(10*time.Millisecond, true)
		step("too old", 9)
		step("failure kept", 10)
		time.Sleep(time.Second)
		step("failure over", 11)
		if diff := cmp.Diff([]string{
			"first: 0s: 1 NOERROR 60, asked 1",
			"cached: 0s: 2 NOERROR 60, asked 0",
			"slow: 1.8s: 3 NOERROR 30, asked 1",
			"again while asking: 0s: 4 NOERROR 30, asked 0",
			"it came: 0s: 5 NOERROR 60, asked 0",
			"failed: 10ms: 6 NOERROR 30, asked 1",
			"held: 0s: 7 NOERROR 30, asked 0",
			"asked again: 10ms: 8 NOERROR 60, asked 1",
			"too old: 10ms: 9 SERVFAIL, asked 1",
			"failure kept: 0s: 10 SERVFAIL, asked 0",
			"failure over: 10ms: 11 SERVFAIL, asked 1",
		}, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

// TestFloodOfOneClient: who asks for thousands of names that get no answer is told so beyond
// its share, and the others' questions are asked all the same.
func TestFloodOfOneClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newTerminal(t)
		defer x.stop()
		x.backend.set(time.Minute, false)
		told := 0
		for n := range 1000 {
			select {
			case s := <-x.query(t, fmt.Sprintf("x%d.example", n), "10.1.0.66", 1):
				if s != "1 SERVFAIL" {
					t.Fatal(s)
				}
				told++
			default:
			}
		}
		synctest.Wait()
		if asked := len(x.backend.names()); asked > maxFlights/8 || asked+told != 1000 {
			t.Errorf("%d asked of one client, %d told off", asked, told)
		}
		x.backend.set(10*time.Millisecond, false)
		for n := range 500 {
			begun := time.Now()
			if s := after(begun, x.query(t, fmt.Sprintf("y%d.example", n), number(1<<16+256+n).String(), 2)); s != "10ms: 2 NOERROR 60" {
				t.Fatalf("client %d: %s", n, s)
			}
		}
		time.Sleep(flightTime)
		synctest.Wait()
		if total := &x.clients.total; total.waiting != 0 || total.flights != 0 {
			t.Errorf("left over: %d waiting, %d flights", total.waiting, total.flights)
		}
	})
}

// TestEndAnswersAll: when the server stops everybody who waits is told so at once, and the
// cache does not learn of it.
func TestEndAnswersAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newTerminal(t)
		x.backend.set(time.Minute, false)
		begun := time.Now()
		first, second := x.query(t, "a.example", "10.1.0.50", 1), x.query(t, "b.example", "10.1.0.51", 2)
		time.Sleep(time.Second)
		x.stop()
		if diff := cmp.Diff([]string{"1s: 1 SERVFAIL", "1s: 2 SERVFAIL"}, []string{after(begun, first), after(begun, second)}); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if n, _ := x.cache.used(); n != 0 {
			t.Errorf("%d answers in the cache", n)
		}
		if s := after(begun, x.query(t, "c.example", "10.1.0.50", 3)); s != "1s: 3 SERVFAIL" {
			t.Errorf("after the end: %s", s)
		}
	})
}
