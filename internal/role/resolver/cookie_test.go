package resolver

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"testing"
	"time"

	"github.com/hotstage/hotstage/internal/wire"
	"github.com/miekg/dns"
)

func octets(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestCookieOfTheRFC: the example of RFC 9018 appendix A.1, which every server makes alike.
func TestCookieOfTheRFC(t *testing.T) {
	secret := octets(t, "e5e973e5a6b2a43f48e7dc849e37bfcf")
	k := &baker{[2]uint64{binary.LittleEndian.Uint64(secret), binary.LittleEndian.Uint64(secret[8:])}}
	var c [wire.DNSCookieSize]byte
	copy(c[:], octets(t, "2464c4abcf10c957"))
	k.seal(&c, addr("198.51.100.100"), 1559731985)
	if got := hex.EncodeToString(c[8:]); got != "010000005cf79f111f8130c3eee29480" {
		t.Error(got)
	}
}

// withCookie adds a COOKIE option to a question.
func withCookie(c []byte) func(*dns.Msg) {
	return func(m *dns.Msg) {
		m.SetEdns0(1232, false)
		m.IsEdns0().Option = append(m.IsEdns0().Option, &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: hex.EncodeToString(c)})
	}
}

// cookieOf is the answer's cookie.
func cookieOf(t testing.TB, b []byte) []byte {
	t.Helper()
	if opt := unpacked(t, b).IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			if c, ok := o.(*dns.EDNS0_COOKIE); ok {
				return octets(t, c.Cookie)
			}
		}
	}
	return nil
}

// TestCookies: every answer to a question with a cookie has one; ours is known again from the
// same address for an hour, whatever became of the rest of it.
func TestCookies(t *testing.T) {
	h := newHandler(hall(), nil)
	h.cache.put(cached(t, noon, response(t, "www.example.net", dns.TypeA, 0, "www.example.net. 86400 IN A 192.0.2.1")))
	mine := []byte("8 octets")
	var got []byte
	for _, name := range []string{"www.example.net", "gw1.yapc.example", "nobody.yapc.example"} {
		reply, v := h.ask(question(t, name, dns.TypeA, withCookie(mine)), "10.1.0.50", true)
		got = cookieOf(t, reply)
		if v != answer || len(got) != wire.DNSCookieSize || string(got[:8]) != string(mine) {
			t.Fatalf("%s: %v, cookie %x", name, v, got)
		}
	}
	if reply, _ := h.ask(question(t, "www.example.net", dns.TypeA, edns(1232, false)), "10.1.0.50", true); cookieOf(t, reply) != nil {
		t.Error("a cookie for who sent none")
	}
	changed := func(at int) []byte {
		b := append([]byte(nil), got...)
		b[at] ^= 1
		return b
	}
	for what, c := range map[string]struct {
		cookie []byte
		from   string
		after  time.Duration
		want   bool
	}{
		"ours":                {got, "10.1.0.50", 0, true},
		"ours after 59 min":   {got, "10.1.0.50", 59 * time.Minute, true},
		"ours after 61 min":   {got, "10.1.0.50", 61 * time.Minute, false},
		"ours, clock behind":  {got, "10.1.0.50", -4 * time.Minute, true},
		"ours, far ahead":     {got, "10.1.0.50", -6 * time.Minute, false},
		"another's address":   {got, "10.1.0.51", 0, false},
		"another client part": {changed(0), "10.1.0.50", 0, false},
		"another version":     {changed(8), "10.1.0.50", 0, false},
		"another time":        {changed(15), "10.1.0.50", 0, false},
		"another hash":        {changed(23), "10.1.0.50", 0, false},
		"client part alone":   {mine, "10.1.0.50", 0, false},
		"longer":              {append(got[:24:24], 0), "10.1.0.50", 0, false},
	} {
		q, err := wire.ParseDNSQuery(question(t, "www.example.net", dns.TypeA, withCookie(c.cookie)))
		if err != nil {
			t.Fatal(err)
		}
		if ours := h.baker.bake(&q, addr(c.from), noon.Add(c.after)); ours != c.want {
			t.Errorf("%s: known is %v", what, ours)
		}
		if !q.Bakes {
			t.Errorf("%s: no new cookie", what)
		}
	}
}

// TestForgersTakeNothingFromWhoHasACookie: a flood in the client's name uses up the share of
// its address alone.
func TestForgersTakeNothingFromWhoHasACookie(t *testing.T) {
	h := newHandler(hall(), nil)
	reply, _ := h.ask(question(t, "gw1.yapc.example", dns.TypeA, withCookie([]byte("8 octets"))), "10.1.0.50", true)
	known := question(t, "gw1.yapc.example", dns.TypeA, withCookie(cookieOf(t, reply)))
	forged := question(t, "gw1.yapc.example", dns.TypeA, withCookie([]byte("another!")))
	count := map[string]int{}
	for n := range 3000 {
		h.ask(forged, "10.1.0.50", true)
		if n%10 == 0 {
			reply, v := h.ask(known, "10.1.0.50", true)
			count[fmt.Sprint(v == answer && !unpacked(t, reply).Truncated)]++
		}
	}
	if count["true"] != 300 {
		t.Errorf("answered in full: %v", count)
	}
}
