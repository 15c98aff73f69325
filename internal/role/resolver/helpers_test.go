package resolver

import (
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/plan"
	"github.com/hotstage/hotstage/internal/wire"
	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// noon is when a test begins that has a clock of its own.
var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// What the tests' resolver gives each client: the plan's default, and the burst that goes with it.
const (
	clientRate  = 300
	clientBurst = 1000
)

// hall is the resolver of gw1 with two segments and some names.
func hall() Config {
	name := func(fqdn, a string) plan.Name { return plan.Name{FQDN: fqdn, Addr: addr(a)} }
	return Config{
		Name: "gw1.yapc.example", Domain: "yapc.example", Cache: 4 << 20, Rate: clientRate,
		Clients: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/20"), netip.MustParsePrefix("2001:db8:1::/64"), netip.MustParsePrefix("192.0.3.0/26")},
		Names: []plan.Name{
			name("gw1.yapc.example", "10.1.0.1"), name("gw1.yapc.example", "2001:db8:1::1"),
			name("gw.hall.yapc.example", "10.1.0.1"), name("stream.video.example", "10.1.0.9"),
		},
	}
}

// leaseTable holds names of leases, as a DHCP server would.
type leaseTable struct {
	mu sync.Mutex
	of map[string]netip.Addr
}

func (l *leaseTable) bind(name string, a netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.of == nil {
		l.of = map[string]netip.Addr{}
	}
	l.of[name] = a
}

func (l *leaseTable) AddrOf(name string) (netip.Addr, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a, ok := l.of[name]
	return a, ok
}

func (l *leaseTable) NameOf(a netip.Addr) (string, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, b := range l.of {
		if a == b {
			return name, true
		}
	}
	return "", false
}

// byUDP are resolvers asked by UDP.
func byUDP(addrs ...netip.AddrPort) (all []plan.Asked) {
	for _, a := range addrs {
		all = append(all, plan.Asked{Addr: a, By: plan.UDP})
	}
	return all
}

func newMetrics() *Metrics { return NewMetrics(prometheus.NewRegistry()) }

func newHandler(cfg Config, leases leaseNames) *handler {
	return &handler{segments: cfg.Clients, cache: newCache(cfg.Cache), local: newLocal(cfg, leases), clients: newClients(cfg.Rate), baker: newBaker(), renew: func(*key) {}, top: newTop(), m: newMetrics()}
}

// question packs a query by the library.
func question(t testing.TB, name string, typ uint16, change ...func(*dns.Msg)) []byte {
	t.Helper()
	m := new(dns.Msg)
	m.SetQuestion(dns.Fqdn(name), typ)
	m.Id = 0x1234
	for _, c := range change {
		c(m)
	}
	return packed(t, m)
}

func packed(t testing.TB, m *dns.Msg) []byte {
	t.Helper()
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func unpacked(t testing.TB, b []byte) *dns.Msg {
	t.Helper()
	m := new(dns.Msg)
	if err := m.Unpack(b); err != nil {
		t.Fatalf("the library cannot read %x: %v", b, err)
	}
	return m
}

func edns(size uint16, do bool) func(*dns.Msg) {
	return func(m *dns.Msg) { m.SetEdns0(size, do) }
}

func noRD(m *dns.Msg) { m.RecursionDesired = false }

func record(t testing.TB, s string) dns.RR {
	t.Helper()
	r, err := dns.NewRR(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// response packs a response of an upstream; a record with "!" in front is of the authority
// section.
func response(t testing.TB, name string, typ uint16, rcode int, records ...string) []byte {
	t.Helper()
	m := new(dns.Msg)
	m.SetQuestion(dns.Fqdn(name), typ)
	m.Response, m.RecursionAvailable, m.Compress, m.Rcode = true, true, true, rcode
	for _, s := range records {
		if rest, ok := strings.CutPrefix(s, "!"); ok {
			m.Ns = append(m.Ns, record(t, rest))
		} else {
			m.Answer = append(m.Answer, record(t, s))
		}
	}
	m.SetEdns0(1232, false)
	return packed(t, m)
}

// keyOf is the cache's key of a packed query.
func keyOf(t testing.TB, packet []byte) *key {
	t.Helper()
	q, err := wire.ParseDNSQuery(packet)
	if err != nil {
		t.Fatal(err)
	}
	k := new(key)
	k.set(&q)
	return k
}

// cached makes an entry of a response, as if received at now.
func cached(t testing.TB, now time.Time, msg []byte) *entry {
	t.Helper()
	m := unpacked(t, msg)
	q := m.Question[0]
	e, ok := newEntry(keyOf(t, question(t, q.Name, q.Qtype)), msg, now)
	if !ok {
		t.Fatalf("no entry of %x", msg)
	}
	return e
}

// lines are a message's records in short: "A 10.0.0.1 300", with the section's sign for
// authority ("!") and additional ("+"); OPT is left out.
func lines(m *dns.Msg) []string {
	var all []string
	for i, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, r := range section {
			if r.Header().Rrtype == dns.TypeOPT {
				continue
			}
			all = append(all, []string{"", "!", "+"}[i]+strings.ReplaceAll(r.String(), "\t", " "))
		}
	}
	return all
}

// events collects what a server tells.
type events struct {
	mu   sync.Mutex
	list []fact.Event
	more chan struct{} // has room for one: something was told since
}

func newEvents() *events { return &events{more: make(chan struct{}, 1)} }

func (e *events) tell(x fact.Event) {
	e.mu.Lock()
	e.list = append(e.list, x)
	e.mu.Unlock()
	select {
	case e.more <- struct{}{}:
	default:
	}
}

func (e *events) has(kind string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.ContainsFunc(e.list, func(x fact.Event) bool { return x.Kind == kind })
}

// await waits for an event of the kind.
func (e *events) await(t testing.TB, kind string) {
	t.Helper()
	end := time.After(10 * time.Second)
	for !e.has(kind) {
		select {
		case <-e.more:
		case <-end:
			t.Fatalf("no event %q within 10 s", kind)
		}
	}
}
