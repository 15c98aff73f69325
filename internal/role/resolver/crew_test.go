package resolver

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/wire"
	"github.com/miekg/dns"
)

// atDesk is a server without sockets whose flights ask b.
func atDesk(t *testing.T, cfg Config, leases leaseNames, b backend) *Server {
	t.Helper()
	s := New(cfg, leases, newMetrics(), func(fact.Event) {})
	s.flights.backend = b
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	s.flights.start(ctx, &all)
	all.Go(func() { s.handler.top.run(ctx) })
	t.Cleanup(func() {
		cancel()
		all.Wait()
	})
	return s
}

// TestLookupSaysWhere follows one name from the backend into the cache, out of date, and
// asks for names of ours.
func TestLookupSaysWhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &slowBackend{delay: 20 * time.Millisecond}
		leases := &leaseTable{}
		leases.bind("phone.yapc.example", addr("10.1.3.7"))
		s := atDesk(t, hall(), leases, b)
		lookup := func(name string, typ uint16) Found {
			t.Helper()
			f, err := s.Lookup(t.Context(), name, typ)
			if err != nil {
				t.Fatal(err)
			}
			return f
		}
		want := Found{Name: "www.example.net", Type: "A", Rcode: "NOERROR", Flags: []string{"rd", "ra"}, From: FromAsked,
			Took: 20 * time.Millisecond, Answer: []string{"www.example.net. 60 IN A 192.0.2.1"}, Authority: []string{}}
		if d := cmp.Diff(want, lookup("www.example.net", dns.TypeA)); d != "" {
			t.Errorf("first (-want +got):\n%s", d)
		}
		time.Sleep(10 * time.Second)
		want.From, want.Age, want.Left, want.Took, want.Answer = FromCache, 10*time.Second, 50*time.Second, 0, []string{"www.example.net. 50 IN A 192.0.2.1"}
		if d := cmp.Diff(want, lookup("www.EXAMPLE.net", dns.TypeA), cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".Name" || p.Last().String() == ".Answer" }, cmp.Ignore())); d != "" {
			t.Errorf("from the cache (-want +got):\n%s", d)
		}
		time.Sleep(2 * time.Minute)
		b.set(time.Second, true)
		for range 2 { // waited for, and then held
			if f := lookup("www.example.net", dns.TypeA); f.From != FromStale || f.Age < 2*time.Minute || f.Rcode != "NOERROR" {
				t.Errorf("out of date: %+v", f)
			}
		}
		if f := lookup("other.example.net", dns.TypeA); f.From != FromAsked || f.Rcode != "SERVFAIL" {
			t.Errorf("nobody knows: %+v", f)
		}
		if f := lookup("phone.yapc.example", dns.TypeA); f.From != FromOwn || len(f.Answer) != 1 || !strings.HasSuffix(f.Answer[0], "10.1.3.7") {
			t.Errorf("a lease: %+v", f)
		}
		name, typ, err := CheckQuestion("10.1.3.7", "")
		if f := lookup(name, typ); err != nil || f.From != FromOwn || len(f.Answer) != 1 || !strings.HasSuffix(f.Answer[0], "PTR phone.yapc.example.") {
			t.Errorf("its address: %v, %+v", err, f)
		}
		if f := lookup("gw9.yapc.example", dns.TypeA); f.Rcode != "NXDOMAIN" || len(f.Authority) != 1 || f.From != FromOwn {
			t.Errorf("no such node: %+v", f)
		}
		if f := lookup("example.net", dns.TypeAXFR); f.Rcode != "REFUSED" || f.From != FromOwn {
			t.Errorf("a transfer: %+v", f)
		}
	})
}

// TestLookupGivesUp: who asked may go before the answer is there.
func TestLookupGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := atDesk(t, hall(), nil, &slowBackend{delay: 3 * time.Second})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if f, err := s.Lookup(ctx, "slow.example.net", dns.TypeA); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v, %+v", err, f)
		}
		time.Sleep(3 * time.Second) // the answer comes all the same, and nobody is in its way
		if f, err := s.Lookup(t.Context(), "slow.example.net", dns.TypeA); err != nil || f.From != FromCache {
			t.Errorf("%v, %+v", err, f)
		}
	})
}

// TestLookupReadsReasons: extended errors reach the person.
func TestLookupReadsReasons(t *testing.T) {
	q, err := wire.ParseDNSQuery(question(t, "a.example", dns.TypeA, edns(1232, false)))
	if err != nil {
		t.Fatal(err)
	}
	b := wire.AddDNSError(refuse(nil, &q, 0, wire.DNSServFail), 0, wire.DNSEDENetworkError, "no uplink", ourSize)
	var f Found
	if err := f.read(b); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]Reason{{23, "Network Error", "no uplink"}}, f.Reasons); d != "" || f.Rcode != "SERVFAIL" {
		t.Errorf("%s\n%s", f.Rcode, d)
	}
	if f.read([]byte{1, 2, 3}) == nil {
		t.Error("three octets are read as an answer")
	}
}

func TestCheckQuestion(t *testing.T) {
	for _, c := range []struct {
		name, typ, want string
		qtype           uint16
	}{
		{"www.example.org", "", "www.example.org", dns.TypeA},
		{"www.example.org.", "https", "www.example.org.", dns.TypeHTTPS},
		{"10.1.2.3", "", "3.2.1.10.in-addr.arpa.", dns.TypePTR},
		{"2001:db8::1", "ptr", "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa.", dns.TypePTR},
		{".", "NS", ".", dns.TypeNS},
		{"", "A", "", 0},
		{"a..b", "A", "", 0},
		{"www.example.org", "WHAT", "", 0},
		{strings.Repeat("a", 64) + ".example", "", "", 0},
	} {
		name, typ, err := CheckQuestion(c.name, c.typ)
		if name != c.want || typ != c.qtype || (err != nil) != (c.want == "") || err != nil && !errors.Is(err, ErrQuestion) {
			t.Errorf("%q %q: %q, %d, %v", c.name, c.typ, name, typ, err)
		}
	}
}

// TestTopForPeople: questions that differ only in what DNSSEC they want are one, clients
// have the names of their leases, and rates are those of all.
func TestTopForPeople(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		leases := &leaseTable{}
		leases.bind("phone.yapc.example", addr("10.1.3.7"))
		s := atDesk(t, hall(), leases, &slowBackend{})
		var q wire.DNSQuery
		var k key
		for i := range 600 { // 10/s
			change := edns(1232, i%2 == 0)
			name := "a.example.net"
			if i%4 == 0 {
				name = "b.example.net"
			}
			s.handler.handle(nil, question(t, name, dns.TypeA, change), addr("10.1.3.7"), true, time.Now(), &q, &k)
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(time.Second)
		top := s.Top(5)
		if top.PerSecond < 9 || top.PerSecond > 11 || top.OneIn != 1 {
			t.Errorf("in all %+v, want 10/s", top)
		}
		if len(top.Names) != 2 || top.Names[0].Name != "a.example.net" || top.Names[0].Type != "A" || top.Names[0].Share < .74 || top.Names[0].Share > .76 {
			t.Errorf("names %+v", top.Names)
		}
		if len(top.Clients) != 1 || top.Clients[0].Device != "phone.yapc.example" || top.Clients[0].Share < .99 || top.Clients[0].Share > 1.01 {
			t.Errorf("clients %+v", top.Clients)
		}
		if top = s.Top(1); len(top.Names) != 1 {
			t.Errorf("one asked for: %+v", top.Names)
		}
	})
}

func TestFlushByName(t *testing.T) {
	s := New(hall(), nil, newMetrics(), func(fact.Event) {})
	s.handler.cache.put(cached(t, noon, response(t, "www.example.net", dns.TypeA, 0, "www.example.net. 300 IN A 192.0.2.1")))
	if n, err := s.Flush("Example.NET"); n != 1 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if n, err := s.Flush("a..b"); n != 0 || err == nil {
		t.Errorf("%d, %v", n, err)
	}
}

// FuzzCheckQuestion: what passes can be asked for, and every answer can be read.
func FuzzCheckQuestion(f *testing.F) {
	for _, s := range [][2]string{{"www.example.net", ""}, {"10.1.0.1", ""}, {"fe80::1%eth0", "PTR"}, {".", "NS"}, {"gw1.yapc.example.", "ANY"}, {"a\\.b", "TYPE65535"}, {"\x00.\xff", "OPT"}, {"x.ads.example.net", "AXFR"}} {
		f.Add(s[0], s[1])
	}
	s := New(blocking(), nil, newMetrics(), func(fact.Event) {}) // does not run: who cannot wait is told SERVFAIL
	f.Fuzz(func(t *testing.T, name, typ string) {
		n, qtype, err := CheckQuestion(name, typ)
		if err != nil {
			return
		}
		found, err := s.Lookup(t.Context(), n, qtype)
		if err != nil || found.Rcode == "" || found.Type == "" {
			t.Errorf("%q %q: %v, %+v", name, typ, err, found)
		}
		if _, err := s.Flush(n); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	})
}
