//go:build linux

package xdp

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/hotstage/hotstage/internal/testnet"
)

var (
	ourMAC   = [6]byte{2, 0, 0, 0, 0, 1}
	theirMAC = [6]byte{2, 0, 0, 0, 0, 2}
	us       = netip.MustParseAddrPort("10.1.0.1:53")
	us6      = netip.MustParseAddrPort("[2001:db8:1::1]:53")
	client   = netip.MustParseAddrPort("10.1.0.50:40000")
	client6  = netip.MustParseAddrPort("[2001:db8:1::50]:40000")
	popular  = []byte("\x03www\x07popular\x07example\x00")
)

// A stale object would be another program than its source says.
func TestObjectIsOfItsSource(t *testing.T) {
	sums, err := os.ReadFile("hot.sum")
	if err != nil {
		t.Fatal(err)
	}
	var now strings.Builder
	for _, name := range []string{"hot.c", "hot_bpfel.o"} {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&now, "%x  %s\n", sha256.Sum256(b), name)
	}
	if string(sums) != now.String() {
		t.Errorf("hot.c or its object has changed, run make bpf; sums are\n%snot\n%s", now.String(), sums)
	}
}

func TestLimitsAreTheProgramsOwn(t *testing.T) {
	source, err := os.ReadFile("hot.c")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"SLOTS": fmt.Sprint(slots), "MESSAGE": fmt.Sprint(maxMessage), "TTLS": fmt.Sprint(maxTTLs), "WORDS": fmt.Sprint(maxName / 8)} {
		if m := regexp.MustCompile(`#define ` + name + ` (\d+)`).FindSubmatch(source); m == nil || string(m[1]) != want {
			t.Errorf("%s is %s here, %s in hot.c", name, want, m)
		}
	}
	counts := regexp.MustCompile(`(?s)enum count \{(.*?)COUNTS`).FindSubmatch(source)[1]
	if n := bytes.Count(counts, []byte(",")); n < countPassed+len(reasons) {
		t.Errorf("hot.c counts %d things, this side %d", n, countPassed+len(reasons))
	}
	spec, err := loadHot()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]int{hotMapSegments: maxPrefixes, hotMapServed: maxServed, hotMapCounts: countPassed + len(reasons)} {
		if got := spec.Maps[name].MaxEntries; got != uint32(want) {
			t.Errorf("map %s has %d places, not %d", name, got, want)
		}
	}
}

// A slot that somebody may be reading is not written.
func TestSlotsRest(t *testing.T) {
	table := newTable(2)
	now := time.Now()
	seen := map[uint32]bool{}
	for range 4 {
		n, ok := table.take(now)
		if !ok || seen[n] {
			t.Fatalf("slot %d twice, or none", n)
		}
		seen[n] = true
	}
	if n, ok := table.take(now); ok {
		t.Fatalf("a fifth slot %d of four", n)
	}
	table.leave(3, now)
	if n, ok := table.take(now.Add(rest - 1)); ok {
		t.Fatalf("slot %d before it has rested", n)
	}
	if n, ok := table.take(now.Add(rest)); !ok || n != 3 {
		t.Fatalf("slot %d, %v, not the one that has rested", n, ok)
	}
}

func TestUnfitAnswers(t *testing.T) {
	good := response(popular, 3)
	if _, err := encode(good); err != nil {
		t.Errorf("a good answer: %v", err)
	}
	for name, change := range map[string]func(*Answer){
		"no name":     func(a *Answer) { a.Name = nil },
		"long name":   func(a *Answer) { a.Name = make([]byte, 129) },
		"records":     func(a *Answer) { a.TTLs = make([]int, 17) },
		"large":       func(a *Answer) { a.Message = make([]byte, 1233) },
		"short":       func(a *Answer) { a.Message = a.Message[:20] },
		"TTL outside": func(a *Answer) { a.TTLs = []int{len(a.Message) - 3} },
	} {
		a := good
		change(&a)
		if _, err := encode(a); !errors.Is(err, ErrUnfit) {
			t.Errorf("%s: %v, not ErrUnfit", name, err)
		}
	}
}

// response is an answer of n A records to a query for A of the name, stored a second ago for
// 100 s.
func response(name []byte, n int) Answer {
	a := Answer{Name: name, Type: 1, Stored: time.Now().Add(-time.Second), Until: time.Now().Add(time.Minute)}
	b := append([]byte{0, 0, 0x81, 0x80, 0, 1, 0, byte(n), 0, 0, 0, 0}, name...)
	b = append(b, 0, 1, 0, 1)
	for i := range n {
		a.TTLs = append(a.TTLs, len(b)+6)
		b = append(b, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 100, 0, 4, 192, 0, 2, byte(i))
	}
	a.Message = b
	return a
}

// query asks for A of the name, with EDNS or without.
func query(name []byte, edns bool) []byte {
	b := append([]byte{0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}, name...)
	b = append(b, 0, 1, 0, 1)
	if edns {
		b[11] = 1
		b = append(b, 0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0)
	}
	return b
}

// newProgram is a program of 10.1.0.1 and 2001:db8:1::1 that is awake and has the answer to
// popular.
func newProgram(t testing.TB, rate int, burst time.Duration) *Program {
	t.Helper()
	testnet.Root(t)
	p, err := Load(Config{Size: 8, Rate: rate, Burst: burst, Clients: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/24"), netip.MustParsePrefix("2001:db8:1::/64")}})
	if err != nil {
		if refusal := (*ebpf.VerifierError)(nil); errors.As(err, &refusal) {
			t.Logf("%-30v", refusal)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, err := range []error{p.Serve([]netip.Addr{us.Addr(), us6.Addr()}), p.Beat(time.Minute), p.Put("popular", response(popular, 3))} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return p
}

func try(t testing.TB, p *Program, frame []byte) Verdict {
	t.Helper()
	out, v, err := p.Try(ourMAC, false, frame)
	if err != nil {
		t.Fatal(err)
	}
	if v == Pass && !bytes.Equal(out, frame) {
		t.Fatalf("passed, but changed:\n%x to\n%x", frame, out)
	}
	return v
}

// What is not a plain query to us is the kernel's.
func TestEverythingElsePasses(t *testing.T) {
	p := newProgram(t, 10_000_000, time.Second)
	frame := func(change ...func(b []byte)) []byte {
		b := testnet.UDPFrame(ourMAC, theirMAC, client, us, query(popular, true))
		for _, f := range change {
			f(b)
			binary.BigEndian.PutUint16(b[24:], 0)
			binary.BigEndian.PutUint16(b[24:], ^testnet.Sum(b[14:34]))
		}
		return b
	}
	frame6 := func(change func(b []byte)) []byte {
		b := testnet.UDPFrame(ourMAC, theirMAC, client6, us6, query(popular, true))
		change(b)
		return b
	}
	to := func(from, to string) []byte {
		return testnet.UDPFrame(ourMAC, theirMAC, netip.MustParseAddrPort(from), netip.MustParseAddrPort(to), query(popular, false))
	}
	if v := try(t, p, frame()); v != Transmit {
		t.Fatalf("a plain query: verdict %d", v)
	}
	if v := try(t, p, frame6(func([]byte) {})); v != Transmit {
		t.Fatalf("a plain query by IPv6: verdict %d", v)
	}
	tagged := append(append(append([]byte(nil), frame()[:12]...), 0x81, 0, 0, 5), frame()[12:]...)
	for name, b := range map[string][]byte{
		"other MAC":        frame(func(b []byte) { b[5] = 9 }),
		"broadcast":        frame(func(b []byte) { copy(b, []byte{255, 255, 255, 255, 255, 255}) }),
		"VLAN tag":         tagged,
		"ARP":              frame(func(b []byte) { b[13] = 6 }),
		"IPv4 options":     frame(func(b []byte) { b[14] = 0x46 }),
		"more fragments":   frame(func(b []byte) { b[20] |= 0x20 }),
		"a fragment":       frame(func(b []byte) { b[21] = 1 }),
		"TCP":              frame(func(b []byte) { b[23] = 6 }),
		"UDP length":       frame(func(b []byte) { b[39]++ }),
		"packet too long":  frame(func(b []byte) { b[17]++; b[39]++ }),
		"IP version 5":     frame(func(b []byte) { b[14] = 0x55 }),
		"cut in UDP":       frame()[:40],
		"cut in Ethernet":  frame()[:14],
		"cut in DNS":       frame()[:60],
		"IPv6 version":     frame6(func(b []byte) { b[14] = 0x50 }),
		"IPv6 extension":   frame6(func(b []byte) { b[20] = 0 }),
		"IPv6 fragment":    frame6(func(b []byte) { b[20] = 44 }),
		"IPv6 length":      frame6(func(b []byte) { b[19]-- }),
		"IPv6 cut":         frame6(func([]byte) {})[:50],
		"other port":       to("10.1.0.50:40000", "10.1.0.1:5353"),
		"other address":    to("10.1.0.50:40000", "10.1.0.2:53"),
		"other address 6":  to("[2001:db8:1::50]:40000", "[2001:db8:1::2]:53"),
		"foreign":          to("10.2.0.50:40000", "10.1.0.1:53"),
		"foreign 6":        to("[2001:db8:2::50]:40000", "[2001:db8:1::1]:53"),
		"mapped, not IPv4": to("[::ffff:10.1.0.50]:40000", "[2001:db8:1::1]:53"),
		"from port 0":      to("10.1.0.50:0", "10.1.0.1:53"),
	} {
		if v := try(t, p, b); v != Pass {
			t.Errorf("%s: verdict %d", name, v)
		}
	}
	wrong := frame()
	wrong[25]++
	if v := try(t, p, wrong); v != Pass {
		t.Errorf("wrong IPv4 checksum: verdict %d", v)
	}
}

// An answer is served from Put to Remove, to its time, and while the process is alive.
func TestAnswersComeAndGo(t *testing.T) {
	p := newProgram(t, 10_000_000, time.Second)
	frame := testnet.UDPFrame(ourMAC, theirMAC, client, us, query(popular, false))
	check := func(when string, want Verdict) {
		t.Helper()
		if v := try(t, p, frame); v != want {
			t.Errorf("%s: verdict %d, not %d", when, v, want)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check("put", Transmit)
	must(p.Remove(response(popular, 3)))
	check("removed", Pass)
	must(p.Put("popular", response(popular, 1)))
	must(p.Put("popular", response(popular, 2))) // replaces
	check("put again", Transmit)
	out, _, err := p.Try(ourMAC, false, frame)
	must(err)
	if want := append([]byte{0x12, 0x34}, response(popular, 2).Message[2:]...); len(out) != 42+len(want) {
		t.Errorf("the answer is %x, not as long as %x", out[42:], want)
	}
	hits := map[string]uint64{}
	must(p.Hits(func(name string, n uint64) { hits[name] += n }))
	must(p.Hits(func(name string, n uint64) { hits[name] += n }))
	if hits["popular"] != 2 {
		t.Errorf("hits are %v, not 2", hits)
	}
	must(p.Serve([]netip.Addr{us6.Addr()}))
	check("served elsewhere", Pass)
	must(p.Serve([]netip.Addr{us.Addr()}))
	check("served again", Transmit)
	must(p.Beat(0))
	check("asleep", Pass)
	must(p.Beat(time.Minute))
	old := response(popular, 2)
	old.Until = time.Now()
	must(p.Put("popular", old))
	check("expired", Pass)
	for i := range 20 { // more than there is room for
		err = errors.Join(err, p.Put("x", response(append([]byte{1, byte('a' + i)}, popular...), 1)))
	}
	if !errors.Is(err, ErrFull) {
		t.Errorf("21 answers in 8 places: %v", err)
	}
	c, err := p.Counts()
	must(err)
	if c.Answered != 4 || c.Passed["cold"] != 1 || c.Passed["asleep"] != 1 || c.Passed["expiring"] != 1 {
		t.Errorf("counts are %+v", c)
	}
}

// A client over its rate is the socket's; far over it nobody's. Others do not notice.
func TestShareOfAClient(t *testing.T) {
	p := newProgram(t, 10, time.Second)
	got := map[Verdict]int{}
	for range 60 {
		got[try(t, p, testnet.UDPFrame(ourMAC, theirMAC, client, us, query(popular, false)))]++
	}
	if got[Transmit] < 10 || got[Transmit] > 12 || got[Drop] < 10 || got[Drop] > 20 || got[Transmit]+got[Pass]+got[Drop] != 60 {
		t.Errorf("60 queries at once at a rate of 10: %d answered, %d passed, %d dropped; not about 10, 30, 20", got[Transmit], got[Pass], got[Drop])
	}
	for i := range 3 {
		other := testnet.UDPFrame(ourMAC, theirMAC, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, 0, byte(60 + i)}), 999), us, query(popular, false))
		if v := try(t, p, other); v != Transmit {
			t.Errorf("another client: verdict %d", v)
		}
	}
}

// Behind the driver a query of a local socket lacks its checksum, and so does its answer: the
// sum of the pseudo header is there, and the header is where it was.
func TestAnswerWithoutChecksum(t *testing.T) {
	p := newProgram(t, 10_000_000, time.Second)
	for _, c := range []struct{ from, to netip.AddrPort }{{client, us}, {client6, us6}} {
		frame := testnet.UDPFrame(ourMAC, theirMAC, c.from, c.to, query(popular, true))
		at := len(frame) - len(query(popular, true)) - 8
		binary.BigEndian.PutUint16(frame[at+6:], testnet.Sum(testnet.PseudoHeader(c.from.Addr(), c.to.Addr(), len(frame)-at)))
		out, v, err := p.Try(ourMAC, true, frame)
		if err != nil || v != Transmit {
			t.Fatalf("verdict %d, %v", v, err)
		}
		want := testnet.Sum(testnet.PseudoHeader(c.to.Addr(), c.from.Addr(), len(out)-at))
		if got := binary.BigEndian.Uint16(out[at+6:]); got != want {
			t.Errorf("the answer's checksum is %x, not %x", got, want)
		}
	}
}

func BenchmarkAnswer(b *testing.B) {
	p := newProgram(b, 10_000_000, time.Hour)
	frame := testnet.UDPFrame(ourMAC, theirMAC, client, us, query(popular, true))
	for b.Loop() {
		try(b, p, frame)
	}
}
