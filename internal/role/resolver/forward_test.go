package resolver

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hotstage/hotstage/internal/wire"
	"github.com/miekg/dns"
)

// script is how a simulated resolver behaves.
type script struct {
	silent, refuses bool
	delay           time.Duration
	rcode           int
	strangers       bool   // sends packets with a wrong id and a wrong question first
	garbage         bool   // sends what cannot be read
	cuts, cutsTCP   bool   // truncates
	lowers          bool   // does not keep the case of letters
	plain           bool   // does not know EDNS
	fails           string // the name that it cannot resolve
}

// simulated are resolvers behind in-memory connections.
type simulated struct {
	mu   sync.Mutex
	of   map[netip.AddrPort]script
	seen []string // "when transport of question"
	from time.Time
	rest sync.WaitGroup
}

func (s *simulated) set(a netip.AddrPort, how script) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.of[a] = how
}

// log is what was asked since it was read last, without probes.
func (s *simulated) log() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := strings.Join(s.seen, ", ")
	s.seen, s.from = nil, time.Now()
	return all
}

func (s *simulated) dial(_ context.Context, network string, to netip.AddrPort) (net.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	how := s.of[to]
	if how.refuses {
		s.note(network, to, "refused")
		return nil, syscall.ECONNREFUSED
	}
	here, there := net.Pipe()
	s.rest.Go(func() {
		defer there.Close()
		s.serve(there, network, to, how)
	})
	return here, nil
}

func (s *simulated) note(network string, to netip.AddrPort, what string) {
	s.seen = append(s.seen, strings.TrimSpace(fmt.Sprintf("%d %s %dms %s", to.Addr().As4()[3], network, time.Since(s.from).Milliseconds(), what)))
}

func (s *simulated) serve(c net.Conn, network string, to netip.AddrPort, how script) {
	b := make([]byte, 2048)
	n, err := c.Read(b)
	if err != nil {
		return
	}
	b = b[:n]
	if network == "tcp" {
		b = b[2:]
	}
	m := new(dns.Msg)
	if m.Unpack(b) != nil {
		return
	}
	what := ""
	if m.IsEdns0() == nil {
		what = "plain"
	}
	if strings.Count(m.Question[0].Name, ".") > 1 { // no probe
		s.mu.Lock()
		s.note(network, to, what)
		s.mu.Unlock()
	}
	if how.silent {
		io.Copy(io.Discard, c) // until it is closed
		return
	}
	time.Sleep(how.delay)
	say := func(r *dns.Msg) {
		out, _ := r.Pack()
		if how.garbage {
			out[7] += 9 // more records than there are
		}
		if network == "tcp" {
			out = append(binary.BigEndian.AppendUint16(nil, uint16(len(out))), out...)
		}
		c.Write(out)
	}
	if how.strangers {
		r := m.Copy()
		r.Response = true
		r.Id++
		say(r)
		r.Id--
		r.Question[0].Name = "www.other.net."
		say(r)
		r = m.Copy() // a query is no answer
		say(r)
		c.Write(b[:8])
	}
	say(how.reply(m, network))
}

func (how script) reply(m *dns.Msg, network string) *dns.Msg {
	r := new(dns.Msg)
	r.SetReply(m)
	if opt := m.IsEdns0(); opt != nil {
		if how.plain {
			r.Rcode = dns.RcodeFormatError
			return r
		}
		r.SetEdns0(1232, false)
	}
	r.Rcode = how.rcode
	if strings.EqualFold(m.Question[0].Name, how.fails) {
		r.Rcode = dns.RcodeServerFailure
	}
	if how.lowers {
		r.Question[0].Name = strings.ToLower(r.Question[0].Name)
	}
	if how.cuts && network == "udp" || how.cutsTCP && network == "tcp" {
		r.Truncated = true
		return r
	}
	if r.Rcode == 0 {
		a, _ := dns.NewRR(r.Question[0].Name + " 60 IN A 192.0.2.1")
		r.Answer = append(r.Answer, a)
	}
	return r
}

// cluster is a forwarder with n simulated resolvers, 192.0.2.1 on.
func cluster(n int) (*forwarder, *simulated, *events) {
	s := &simulated{of: map[netip.AddrPort]script{}, from: time.Now()}
	var addrs []netip.AddrPort
	for i := range n {
		addrs = append(addrs, upstreamAddr(i+1))
	}
	e := newEvents()
	srv := &Server{tell: e.tell}
	return newForwarder(byUDP(addrs...), s.dial, newMetrics(), srv.event), s, e
}

func upstreamAddr(n int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(n)}), 53)
}

// resolveNow asks for a name and says what came, when.
func resolveNow(f *forwarder, name string) string {
	begun := time.Now()
	w, _ := wire.PackDNSName(nil, name)
	msg, err := f.resolve(context.Background(), ask{name: w, typ: wire.DNSTypeA})
	s := "none"
	if err == nil {
		s = dns.RcodeToString[int(msg[3]&0xf)]
	}
	return fmt.Sprintf("%s after %dms", s, time.Since(begun).Milliseconds())
}

func TestForward(t *testing.T) {
	well := script{delay: 10 * time.Millisecond}
	with := func(change func(*script)) script {
		s := well
		change(&s)
		return s
	}
	silent, refuses := script{silent: true}, script{refuses: true}
	servfail := with(func(s *script) { s.rcode = dns.RcodeServerFailure })
	for _, c := range []struct {
		what    string
		scripts []script
		want    string
		asked   string
	}{
		{"the first is well", []script{well, well}, "NOERROR after 10ms", "1 udp 0ms"},
		{"no such name is an answer", []script{with(func(s *script) { s.rcode = 3 }), well}, "NXDOMAIN after 10ms", "1 udp 0ms"},
		{"the first is silent", []script{silent, well}, "NOERROR after 410ms", "1 udp 0ms, 2 udp 400ms"},
		{"the first is slow", []script{with(func(s *script) { s.delay = 405 * time.Millisecond }), well}, "NOERROR after 405ms", "1 udp 0ms, 2 udp 400ms"},
		{"the first fails", []script{servfail, well}, "NOERROR after 20ms", "1 udp 0ms, 2 udp 10ms"},
		{"nobody listens at the first", []script{refuses, well}, "NOERROR after 10ms", "1 udp 0ms refused, 2 udp 0ms"},
		{"all fail", []script{servfail, servfail}, "SERVFAIL after 20ms", "1 udp 0ms, 2 udp 10ms"},
		{"one fails, one is silent", []script{silent, servfail}, "SERVFAIL after 2800ms", "1 udp 0ms, 2 udp 400ms, 1 udp 800ms"},
		{"all silent", []script{silent, silent}, "none after 2800ms", "1 udp 0ms, 2 udp 400ms, 1 udp 800ms"},
		{"one alone, silent, is asked three times", []script{silent}, "none after 2800ms", "1 udp 0ms, 1 udp 400ms, 1 udp 800ms"},
		{"nobody listens anywhere", []script{refuses, refuses}, "none after 3175ms", "1 udp 0ms refused, 2 udp 0ms refused, 1 udp 25ms refused, 2 udp 25ms refused, 1 udp 75ms refused, 2 udp 75ms refused, 1 udp 175ms refused, 2 udp 175ms refused, 1 udp 375ms refused, 2 udp 375ms refused, 1 udp 575ms refused, 2 udp 575ms refused, 1 udp 775ms refused, 2 udp 775ms refused, 1 udp 975ms refused, 2 udp 975ms refused, 1 udp 1175ms refused, 2 udp 1175ms refused, 1 udp 1375ms refused, 2 udp 1375ms refused, 1 udp 1575ms refused, 2 udp 1575ms refused, 1 udp 1775ms refused, 2 udp 1775ms refused, 1 udp 1975ms refused, 2 udp 1975ms refused, 1 udp 2175ms refused, 2 udp 2175ms refused, 1 udp 2375ms refused, 2 udp 2375ms refused, 1 udp 2575ms refused, 2 udp 2575ms refused, 1 udp 2775ms refused, 2 udp 2775ms refused, 1 udp 2975ms refused, 2 udp 2975ms refused, 1 udp 3175ms refused, 2 udp 3175ms refused"},
		{"one alone fails", []script{servfail}, "SERVFAIL after 10ms", "1 udp 0ms"},
		{"truncated", []script{with(func(s *script) { s.cuts = true }), well}, "NOERROR after 20ms", "1 udp 0ms, 1 tcp 10ms"},
		{"truncated by TCP too", []script{with(func(s *script) { s.cuts, s.cutsTCP = true, true }), well}, "NOERROR after 30ms", "1 udp 0ms, 1 tcp 10ms, 2 udp 20ms"},
		{"another case: perhaps forged", []script{with(func(s *script) { s.lowers = true }), well}, "NOERROR after 20ms", "1 udp 0ms, 1 tcp 10ms"},
		{"without EDNS", []script{with(func(s *script) { s.plain = true }), well}, "NOERROR after 20ms", "1 udp 0ms, 1 udp 10ms plain"},
		{"without EDNS, truncated", []script{with(func(s *script) { s.plain, s.cuts = true, true }), well}, "NOERROR after 30ms", "1 udp 0ms, 1 udp 10ms plain, 1 tcp 20ms plain"},
		{"unreadable", []script{with(func(s *script) { s.garbage = true }), well}, "NOERROR after 20ms", "1 udp 0ms, 2 udp 10ms"},
		{"strangers", []script{with(func(s *script) { s.strangers = true }), well}, "NOERROR after 10ms", "1 udp 0ms"},
	} {
		t.Run(c.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, s, _ := cluster(len(c.scripts))
				for i, how := range c.scripts {
					s.set(upstreamAddr(i+1), how)
				}
				got := resolveNow(f, "www.a-long-enough-name.example")
				s.rest.Wait()
				if diff := cmp.Diff([]string{c.want, c.asked}, []string{got, s.log()}); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
				if n := len(f.sockets); n != 0 {
					t.Errorf("%d sockets are still taken", n)
				}
			})
		})
	}
}

// TestDownAndUp: a resolver that dies is not asked first any more; when all are dead that is
// an alarm, and they are asked all the same; when one comes back it is first again.
func TestDownAndUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, s, e := cluster(2)
		ctx, cancel := context.WithCancel(context.Background())
		var all sync.WaitGroup
		all.Go(func() { f.watch(ctx) })
		defer func() { cancel(); all.Wait(); s.rest.Wait() }()
		first, second := upstreamAddr(1), upstreamAddr(2)
		well, dead := script{delay: 10 * time.Millisecond}, script{silent: true}
		s.set(first, well)
		s.set(second, well)
		expect := func(when, want, asked string, kinds ...string) {
			t.Helper()
			s.log()
			got := []string{resolveNow(f, "www.a-long-enough-name.example")}
			got = append(got, s.log())
			var told []string
			e.mu.Lock()
			for _, x := range e.list {
				told = append(told, x.Kind)
			}
			e.list = nil
			e.mu.Unlock()
			if diff := cmp.Diff(append([]string{want, asked}, kinds...), append(got, told...)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", when, diff)
			}
		}
		time.Sleep(35500 * time.Millisecond) // between two probes
		expect("all well", "NOERROR after 10ms", "1 udp 0ms")
		s.set(first, dead)
		expect("one dies", "NOERROR after 60ms", "1 udp 0ms, 2 udp 50ms")
		time.Sleep(4 * time.Second)
		expect("and is known to be dead", "NOERROR after 10ms", "2 udp 0ms", "upstream-down")
		s.set(second, dead)
		time.Sleep(30 * time.Second)
		expect("all dead", "none after 2100ms", "1 udp 0ms, 2 udp 50ms, 1 udp 100ms", "no-upstream")
		if c := f.checks()[0]; c.OK || c.Name != "resolver-can-resolve" {
			t.Errorf("the first check: %+v", c)
		}
		s.set(second, well)
		time.Sleep(2 * time.Second)
		expect("the second is back", "NOERROR after 10ms", "2 udp 0ms", "upstream-up")
		s.set(first, script{rcode: dns.RcodeRefused, delay: 10 * time.Millisecond})
		time.Sleep(20 * time.Second)
		expect("the first answers, but no good", "NOERROR after 10ms", "2 udp 0ms")
		s.set(first, well)
		time.Sleep(2 * time.Second)
		expect("the first is back", "NOERROR after 10ms", "1 udp 0ms", "upstream-up")
		s.set(first, script{rcode: dns.RcodeServerFailure, delay: 10 * time.Millisecond})
		time.Sleep(11 * time.Second)
		expect("the first cannot resolve any more", "NOERROR after 10ms", "2 udp 0ms", "upstream-down")
	})
}

// TestCaseIsMixed: the letters of the question vary, and a resolver that keeps no case is
// asked in lower case after ten answers.
func TestCaseIsMixed(t *testing.T) {
	name, _ := wire.PackDNSName(nil, "www.a-long-enough-name.example")
	forms := map[string]bool{}
	ids := map[uint16]bool{}
	for range 200 {
		q := newQuery(ask{name: name, typ: 1}, true)
		forms[string(q.packet[14:14+len(name)])] = true
		ids[q.id] = true
		if string(wire.LowerDNS(nil, q.packet[14:14+len(name)])) != string(name) {
			t.Fatalf("another name: %q", q.packet)
		}
	}
	if len(forms) < 195 || len(ids) < 190 {
		t.Errorf("%d forms and %d ids of 200", len(forms), len(ids))
	}
	synctest.Test(t, func(t *testing.T) {
		f, s, _ := cluster(1)
		s.set(upstreamAddr(1), script{lowers: true})
		for n := range 12 {
			want := "1 udp 0ms, 1 tcp 0ms"
			if n >= caseTries {
				want = "1 udp 0ms"
			}
			resolveNow(f, "www.a-long-enough-name.example")
			if got := s.log(); got != want {
				t.Errorf("question %d: %s, want %s", n, got, want)
			}
		}
	})
}
