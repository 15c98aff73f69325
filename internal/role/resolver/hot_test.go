//go:build linux

package resolver

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/role/resolver/xdp"
	"github.com/hotstage/hotstage/internal/testnet"
	"github.com/hotstage/hotstage/internal/wire"
	"github.com/miekg/dns"
)

var (
	hotMAC    = [6]byte{2, 0, 0, 0, 0, 1}
	clientMAC = [6]byte{2, 0, 0, 0, 0, 2}
)

// wanted is a demand made by hand.
type wanted struct {
	keys  []key
	added map[string]uint64
}

func (w *wanted) names(n int) (all []hot) {
	for _, k := range w.keys[:min(n, len(w.keys))] {
		all = append(all, hot{key: k, weight: 1})
	}
	return all
}

func (w *wanted) add(k *key, n uint64) { w.added[string(k.bytes())] += n }

// want adds every question of the cache.
func (w *wanted) want(c *cache) {
	for i := range c.shards {
		for b := range c.shards[i].entries.buckets {
			for e := c.shards[i].entries.buckets[b].Load(); e != nil; e = e.chain.Load() {
				var k key
				k.n = copy(k.buf[:], e.key)
				w.keys = append(w.keys, k)
			}
		}
	}
}

// newFront is a front with a program in the kernel, attached to nothing, for 10.1.0.1 and
// 2001:db8:1::1.
func newFront(t testing.TB, h *handler, rate int) (*front, *wanted) {
	t.Helper()
	testnet.Root(t)
	program, err := xdp.Load(xdp.Config{Size: hotAnswers, Rate: rate, Burst: 10 * time.Second / 3, Clients: h.segments})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := program.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := program.Serve([]netip.Addr{addr("10.1.0.1"), addr("2001:db8:1::1")}); err != nil {
		t.Fatal(err)
	}
	if err := program.Beat(time.Minute); err != nil {
		t.Fatal(err)
	}
	w := &wanted{added: map[string]uint64{}}
	return &front{cfg: hall(), cache: h.cache, local: h.local, demand: w, m: h.m, program: program, kept: map[string]*copied{},
		event: func(fact.Severity, string, string) {}}, w
}

// store puts a response into the cache as an answer to the question.
func store(t testing.TB, c *cache, name string, typ uint16, do, cd bool, now time.Time, change func(*dns.Msg)) *entry {
	t.Helper()
	q := new(dns.Msg)
	q.SetQuestion(dns.Fqdn(name), typ)
	q.CheckingDisabled = cd
	if do {
		q.SetEdns0(1232, true)
	}
	parsed, err := wire.ParseDNSQuery(packed(t, q))
	if err != nil {
		t.Fatal(err)
	}
	var k key
	k.set(&parsed)
	r := new(dns.Msg)
	r.SetReply(q)
	r.Compress = true
	change(r)
	e, ok := newEntry(&k, packed(t, r), now)
	if !ok {
		t.Fatalf("%s cannot be stored", name)
	}
	c.put(e)
	return e
}

// zoo fills the cache with answers of all kinds, and returns their names.
func zoo(t testing.TB, c *cache, now time.Time) (names []string) {
	t.Helper()
	for i := range 60 {
		name := fmt.Sprintf("N%d.%sexample.net", i, strings.Repeat("label.", i%9))
		if i == 59 {
			name = strings.Repeat("x", 60) + "." + strings.Repeat("y", 60) + ".net" // 127 octets
		}
		for _, do := range []bool{false, true} {
			for _, cd := range []bool{false, true} {
				store(t, c, name, dns.TypeA, do, cd, now.Add(-time.Duration(i)*time.Second), func(r *dns.Msg) {
					r.AuthenticatedData = i%3 == 0
					if i%10 == 9 {
						r.Rcode = dns.RcodeNameError
						r.Ns = []dns.RR{record(t, "net. 900 IN SOA a.net. b.net. 1 2 3 4 900")}
						return
					}
					owner := r.Question[0].Name
					if i%5 == 4 { // a chain, with names that make odd offsets
						next := fmt.Sprintf("%s.cdn.example.", strings.Repeat("c", 1+i%7))
						r.Answer = append(r.Answer, record(t, owner+" 300 IN CNAME "+next))
						owner = next
					}
					for n := range 1 + i%12 {
						r.Answer = append(r.Answer, record(t, fmt.Sprintf("%s %d IN A 192.0.2.%d", owner, 100+n, n)))
					}
					if do {
						r.Answer = append(r.Answer, record(t, owner+" 200 IN RRSIG A 13 2 300 20300101000000 20200101000000 1 example.net. "+strings.Repeat("QUJD", 5+4*i)+"QQ=="))
					}
				})
			}
		}
		names = append(names, name)
	}
	return names
}

// mix gives the name's letters a random case.
func mix(r *rand.Rand, name string) string {
	b := []byte(name)
	for i, c := range b {
		if r.IntN(2) == 0 {
			b[i] = strings.ToUpper(string(c))[0]
		} else {
			b[i] = strings.ToLower(string(c))[0]
		}
	}
	return string(b)
}

// randomQuery is a query such as clients send, and now and then one that they do not.
func randomQuery(t testing.TB, r *rand.Rand, names []string) []byte {
	m := new(dns.Msg)
	name := mix(r, names[r.IntN(len(names))])
	if r.IntN(20) == 0 {
		name = "z." + name
	}
	m.SetQuestion(dns.Fqdn(name), dns.TypeA)
	m.Id = uint16(r.Uint32())
	flag := func(of int) bool { return r.IntN(of) == 0 }
	m.CheckingDisabled, m.AuthenticatedData = flag(4), flag(3)
	m.RecursionDesired = !flag(30)
	if !flag(3) {
		m.SetEdns0([]uint16{1232, 4096, 512, 0, 600, 65535}[r.IntN(6)], flag(2))
		if flag(20) {
			m.Extra[0].(*dns.OPT).Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0123456789abcdef"}}
		}
		if flag(30) {
			m.Extra[0].(*dns.OPT).SetVersion(1)
		}
		if flag(30) {
			m.Extra = append(m.Extra, m.Extra[0])
		}
	}
	if flag(40) {
		m.Question[0].Qtype = dns.TypeAAAA
	}
	if flag(40) {
		m.Question[0].Qclass = dns.ClassCHAOS
	}
	if flag(40) {
		m.Opcode = dns.OpcodeNotify
	}
	b := packed(t, m)
	switch {
	case flag(20):
		b = b[:r.IntN(len(b))]
	case flag(20):
		b = append(b, make([]byte, 1+r.IntN(300))...)
	case flag(10):
		b[r.IntN(len(b))] ^= 1 << r.IntN(8)
	}
	return b
}

// opened checks every field of an answer's frame and returns the message in it.
func opened(t testing.TB, query, b []byte) []byte {
	t.Helper()
	if !bytes.Equal(b[:6], query[6:12]) || !bytes.Equal(b[6:12], query[:6]) || !bytes.Equal(b[12:14], query[12:14]) {
		t.Fatalf("Ethernet header %x of the answer to %x", b[:14], query[:14])
	}
	ip, src := b[14:], query[14:]
	var udp, srcUDP []byte
	pseudo := []byte{0, 17}
	if b[12] == 8 {
		if ip[0] != 0x45 || ip[1] != 0 || int(binary.BigEndian.Uint16(ip[2:])) != len(ip) || ip[4]|ip[5]|ip[7] != 0 || ip[6] != 0x40 || ip[8] != 64 || ip[9] != 17 ||
			!bytes.Equal(ip[12:16], src[16:20]) || !bytes.Equal(ip[16:20], src[12:16]) || testnet.Sum(ip[:20]) != 0xffff {
			t.Fatalf("IPv4 header %x of the answer to %x", ip[:20], src[:20])
		}
		pseudo = append(pseudo, ip[12:20]...)
		udp, srcUDP = ip[20:], src[20:]
	} else {
		if !bytes.Equal(ip[:4], []byte{0x60, 0, 0, 0}) || int(binary.BigEndian.Uint16(ip[4:])) != len(ip)-40 || ip[6] != 17 || ip[7] != 64 ||
			!bytes.Equal(ip[8:24], src[24:40]) || !bytes.Equal(ip[24:40], src[8:24]) {
			t.Fatalf("IPv6 header %x of the answer to %x", ip[:40], src[:40])
		}
		pseudo = append(pseudo, ip[8:40]...)
		udp, srcUDP = ip[40:], src[40:]
	}
	pseudo = append(pseudo, udp[4:6]...)
	if !bytes.Equal(udp[:2], srcUDP[2:4]) || !bytes.Equal(udp[2:4], srcUDP[:2]) || int(binary.BigEndian.Uint16(udp[4:])) != len(udp) || udp[6]|udp[7] == 0 ||
		testnet.Sum(pseudo, udp) != 0xffff {
		t.Fatalf("UDP header %x of the answer to %x, sum %x", udp[:8], srcUDP[:8], testnet.Sum(pseudo, udp))
	}
	return udp[8:]
}

// Whatever a client sends: what leaves before the socket is byte for byte what the socket
// path would send at the same moment, and everything else reaches the socket as it came.
func TestHotAnswersAreTheSockets(t *testing.T) {
	cfg := hall()
	cfg.Rate = 10_000_000
	h := newHandler(cfg, nil)
	names := zoo(t, h.cache, time.Now())
	f, w := newFront(t, h, cfg.Rate)
	w.want(h.cache)
	if err := f.fill(time.Now()); err != nil {
		t.Fatal(err)
	}
	if len(f.kept) != 240 {
		t.Fatalf("%d answers kept, not all 240", len(f.kept))
	}
	queries := 100_000
	if testing.Short() {
		queries = 10_000
	}
	r := rand.New(rand.NewPCG(1, 2))
	var q wire.DNSQuery
	var k key
	sent := 0
	for range queries {
		payload := randomQuery(t, r, names)
		v6 := r.IntN(2) == 0
		from, to := addr("10.1.0.50"), addr("10.1.0.1")
		if v6 {
			from, to = addr("2001:db8:1::50"), addr("2001:db8:1::1")
		}
		frame := testnet.UDPFrame(hotMAC, clientMAC, netip.AddrPortFrom(from, 1024+uint16(r.IntN(60000))), netip.AddrPortFrom(to, 53), payload)
		if r.IntN(30) == 0 { // padding of short frames
			frame = append(frame, make([]byte, 1+r.IntN(40))...)
		}
		before := time.Now()
		out, verdict, err := f.program.Try(hotMAC, false, frame)
		after := time.Now()
		if err != nil {
			t.Fatal(err)
		}
		switch verdict {
		case xdp.Transmit:
			sent++
			got := opened(t, frame, out)
			first, v := h.handle(nil, payload, from, true, before, &q, &k)
			second, _ := h.handle(nil, payload, from, true, after, &q, &k)
			if v != answer || !bytes.Equal(got, first) && !bytes.Equal(got, second) {
				t.Fatalf("the answer to %x is\n%x, the socket's\n%x (verdict %d)", payload, got, first, v)
			}
		case xdp.Pass:
			if !bytes.Equal(out, frame) {
				t.Fatalf("passed, but changed:\n%x to\n%x", frame, out)
			}
		default:
			t.Fatalf("verdict %d for %x", verdict, frame)
		}
	}
	if sent < queries/4 {
		t.Errorf("%d of %d were answered before the socket: too few to have compared", sent, queries)
	}
	c, err := f.program.Counts()
	if err != nil {
		t.Fatal(err)
	}
	for _, why := range []string{"unusual", "cold", "large"} {
		if c.Passed[why] == 0 {
			t.Errorf("nothing was passed as %s: too little was tried", why)
		}
	}
	if c.Answered != uint64(sent) {
		t.Errorf("%d counted as answered, not %d", c.Answered, sent)
	}
	t.Logf("%d of %d answered, passed: %v", sent, queries, c.Passed)
}

func addrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// firstKey is the key of the name's A record.
func firstKey(c *cache, name string, t testing.TB) string {
	t.Helper()
	q, err := wire.ParseDNSQuery(question(t, name, dns.TypeA))
	if err != nil {
		t.Fatal(err)
	}
	var k key
	k.set(&q)
	return string(k.bytes())
}
