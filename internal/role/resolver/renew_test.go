package resolver

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// TestRenewedBeforeItRunsOut: what is asked for often is asked anew in the last tenth of its
// time, once, and nobody ever waits for it again; what is asked for seldom is not; a renewal
// that fails takes nothing away.
func TestRenewedBeforeItRunsOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newTerminal(t)
		defer x.stop()
		x.backend.set(300*time.Millisecond, false)
		ask := func(name string) (string, time.Duration) {
			begun := time.Now()
			got := <-x.query(t, name, "10.1.0.50", 1)
			return got, time.Since(begun)
		}
		asked := func() (n int) {
			synctest.Wait()
			for _, name := range x.backend.names() {
				if name == "often.example" {
					n++
				}
			}
			return n
		}
		ask("seldom.example")
		ask("often.example")
		begun := time.Now()
		for time.Since(begun) < 10*time.Minute {
			time.Sleep(time.Second)
			if got, took := ask("often.example"); took > 0 || !strings.HasPrefix(got, "1 NOERROR") {
				t.Fatalf("after %v: %s after %v", time.Since(begun), got, took)
			}
		}
		// TTL 60: renewed in its 54th second or a little later.
		if n := asked(); n < 11 || n > 13 {
			t.Errorf("asked %d times in 10 minutes", n)
		}
		if n := len(x.backend.names()) - asked(); n != 1 {
			t.Errorf("what nobody asked for was asked %d times", n)
		}
		// It fails: the answer is good for the rest of its time, and after that as a stale one.
		x.backend.set(10*time.Millisecond, true)
		begun, n := time.Now(), asked()
		for time.Since(begun) < 5*time.Minute {
			time.Sleep(time.Second)
			if got, took := ask("often.example"); took > 10*time.Millisecond || !strings.HasPrefix(got, "1 NOERROR") {
				t.Fatalf("%v after it began to fail: %s after %v", time.Since(begun), got, took)
			}
		}
		if n = asked() - n; n > 1+5*60/30 {
			t.Errorf("asked %d times while it failed", n)
		}
	})
}

// TestRenewalHasABudget: as many answers as one likes run out at the same time, and only so
// many are renewed at once.
func TestRenewalHasABudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newTerminal(t)
		defer x.stop()
		const names = 3 * renewMost
		for n := range names {
			e := cached(t, time.Now().Add(-57*time.Second), response(t, fmt.Sprintf("n%d.example", n), dns.TypeA, 0, fmt.Sprintf("n%d.example. 60 IN A 192.0.2.1", n)))
			e.uses.Store(renewUses)
			x.cache.put(e)
		}
		x.backend.set(time.Minute, false)
		for n := range names {
			<-x.query(t, fmt.Sprintf("n%d.example", n), "10.1.0.50", 1)
		}
		synctest.Wait()
		if n := len(x.backend.names()); n != renewMost {
			t.Errorf("%d at once, want %d", n, renewMost)
		}
		time.Sleep(flightTime)
		synctest.Wait()
		x.flights.mu.Lock()
		defer x.flights.mu.Unlock()
		if x.flights.renewals != 0 || len(x.flights.of) != 0 {
			t.Errorf("%d renewals and %d flights are left over", x.flights.renewals, len(x.flights.of))
		}
	})
}

// TestTenMinutesWithoutResolvers: an hour after they were asked first, all resolvers are gone
// for ten minutes. Names that are in the cache, expired ones and such as expire meanwhile, are
// answered each time, soon; what is asked outside is bounded; when they are back all is as
// before within the half minute that RFC 8767 leaves.
func TestTenMinutesWithoutResolvers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, s, e := cluster(2)
		h := newHandler(hall(), nil)
		x := &terminal{handler: h, flights: newFlights(h.cache, f, h.clients, h.m)}
		h.renew = x.flights.renew
		ctx, cancel := context.WithCancel(context.Background())
		var all sync.WaitGroup
		x.flights.start(ctx, &all)
		all.Go(func() { f.watch(ctx) })
		defer func() { cancel(); all.Wait(); s.rest.Wait() }()
		set := func(how script) { s.set(upstreamAddr(1), how); s.set(upstreamAddr(2), how) }
		set(script{delay: 5 * time.Millisecond})
		name := func(n int) string { return fmt.Sprintf("name%d.example.net", n) }
		slowest := time.Duration(0)
		ask := func(n int) string {
			begun := time.Now()
			got := <-x.query(t, name(n), number(1<<16+n).String(), 7)
			slowest = max(slowest, time.Since(begun))
			return got
		}
		for n := range 100 {
			ask(n)
		}
		time.Sleep(time.Hour) // expired: their TTL is 60
		for n := range 50 {   // these are fresh when it begins
			ask(n)
		}
		set(script{silent: true})
		s.log()
		slowest = 0
		begun := time.Now()
		for time.Since(begun) < 10*time.Minute {
			for n := range 100 {
				if got := ask(n); !strings.HasPrefix(got, "7 NOERROR") {
					t.Fatalf("%s %v after the resolvers were gone: %s", name(n), time.Since(begun), got)
				}
			}
			time.Sleep(5 * time.Second)
		}
		if slowest > staleAfter {
			t.Errorf("the slowest answer took %v", slowest)
		}
		asked := strings.Count(s.log(), ", ") + 1
		// Each name once in half a minute and a flight of up to 5 s, three times each.
		if most := 100 * 3 * (10*60/30 + 1); asked > most {
			t.Errorf("%d questions outside in ten minutes, want %d at most", asked, most)
		}
		if !e.has("no-upstream") {
			t.Error("nobody was told")
		}
		t.Logf("10 minutes without resolvers: slowest answer %v, %d questions outside, %v stale answers", slowest, asked, testutil.ToFloat64(h.m.stale))
		set(script{delay: 5 * time.Millisecond})
		time.Sleep(31 * time.Second)
		for n := range 100 {
			ask(n)
		}
		time.Sleep(time.Second)
		for n := range 100 {
			if got := ask(n); got != "7 NOERROR 59" && got != "7 NOERROR 60" {
				t.Fatalf("%s when they are back: %s", name(n), got)
			}
		}
	})
}

// TestWhy: whoever knows EDNS is told why an answer is stale or missing, and what a resolver
// said of its own failure; who does not gets no option.
func TestWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newTerminal(t)
		defer x.stop()
		why := func(name string, change ...func(*dns.Msg)) string {
			packet := question(t, name, dns.TypeA, change...)
			got := make(chan string, 1)
			say := func(b []byte) {
				m := unpacked(t, b)
				s := dns.RcodeToString[m.Rcode]
				if opt := m.IsEdns0(); opt != nil {
					for _, o := range opt.Option {
						s += " " + strings.TrimSuffix(o.String(), ": ()")
					}
				}
				got <- s
			}
			x.exchange(t, packet, say)
			return <-got
		}
		known := func(name string, rcode int, records ...string) {
			x.cache.put(cached(t, time.Now().Add(-time.Hour), response(t, name, dns.TypeA, rcode, records...)))
		}
		known("old.example", 0, "old.example. 60 IN A 192.0.2.1")
		known("gone.example", 3, "!example. 60 IN SOA a. b. 1 60 60 60 60")
		x.backend.set(time.Millisecond, true)
		with := edns(1232, false)
		got := []string{
			why("old.example", with), why("old.example", with), why("old.example"), why("gone.example", with),
			why("new.example", with), why("new.example", with), why("new.example"),
		}
		want := []string{
			"NOERROR 3 (Stale Answer)", "NOERROR 3 (Stale Answer)", "NOERROR", "NXDOMAIN 19 (Stale NXDOMAIN Answer)",
			"SERVFAIL 22 (No Reachable Authority)", "SERVFAIL 22 (No Reachable Authority)", "SERVFAIL",
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		m := new(dns.Msg)
		m.SetQuestion("bogus.example.", dns.TypeA)
		m.Response, m.Rcode = true, dns.RcodeServerFailure
		m.SetEdns0(1232, false)
		m.IsEdns0().Option = append(m.IsEdns0().Option, &dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeDNSBogus})
		x.backend.say(packed(t, m))
		if got := why("bogus.example", with); got != "SERVFAIL 6 (DNSSEC Bogus)" {
			t.Errorf("what a resolver said: %s", got)
		}
	})
}
