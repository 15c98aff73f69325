package resolver

import (
	"fmt"
	"testing"

	"github.com/miekg/dns"
)

func TestBelow(t *testing.T) {
	for _, c := range []struct {
		name, apex string
		want       bool
	}{
		{"example.com", "example.com", true},
		{"www.example.com", "example.com", true},
		{"a.b.c.example.com", "example.com", true},
		{"badexample.com", "example.com", false},
		{"com", "example.com", false},
		{"example.org", "example.com", false},
		{"www.example.com", ".", true},
		{".", ".", true},
		{".", "com", false},
	} {
		if got := below(string(pack(c.name)), string(pack(c.apex))); got != c.want {
			t.Errorf("below(%s, %s) = %v", c.name, c.apex, got)
		}
	}
	// The octets of a name may end like another's without a label's beginning there.
	if below("\x05a\x03com\x00", "\x03com\x00") {
		t.Error("a suffix within a label counts")
	}
}

// TestFlush drops a name and what is below it in all types, and leaves the rest as it was.
func TestFlush(t *testing.T) {
	c := newCache(4 << 20)
	_, empty := c.used()
	put := func(name string, typ uint16, data string) {
		c.put(cached(t, noon, response(t, name, typ, 0, name+". 300 IN "+data)))
	}
	for i := range 100 {
		put(fmt.Sprintf("h%d.example.com", i), dns.TypeA, "A 192.0.2.1")
	}
	put("example.com", dns.TypeA, "A 192.0.2.1")
	put("example.com", dns.TypeAAAA, "AAAA 2001:db8::1")
	put("notexample.com", dns.TypeA, "A 192.0.2.2")
	put("example.org", dns.TypeA, "A 192.0.2.3")
	if n := c.flush(pack("h7.example.com")); n != 1 {
		t.Errorf("one name: %d dropped", n)
	}
	if n := c.flush(pack("example.com")); n != 101 {
		t.Errorf("the zone: %d dropped", n)
	}
	if c.get(keyOf(t, question(t, "h8.example.com", dns.TypeA))) != nil {
		t.Error("a name below is still there")
	}
	if c.get(keyOf(t, question(t, "notexample.com", dns.TypeA))) == nil {
		t.Error("another name that ends alike has gone")
	}
	if n := c.flush(pack(".")); n != 2 {
		t.Errorf("all: %d dropped", n)
	}
	if entries, bytes := c.used(); entries != 0 || bytes != empty {
		t.Errorf("%d answers, %d bytes are left", entries, bytes)
	}
	put("example.com", dns.TypeA, "A 192.0.2.1") // and it works on
	if entries, _ := c.used(); entries != 1 {
		t.Errorf("%d answers after one was put", entries)
	}
}
