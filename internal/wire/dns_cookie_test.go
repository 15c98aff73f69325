package wire

import (
	"testing"

	"github.com/miekg/dns"
)

// TestCookieOfAQuery: the option is found among others; what is no cookie, or no list of
// options, is a malformed query (RFC 7873 section 5.2.2).
func TestCookieOfAQuery(t *testing.T) {
	query := func(options string) []byte {
		b := question(t, "www.example.net.", dns.TypeA, func(m *dns.Msg) { m.SetEdns0(1232, false) })
		b[len(b)-1] = byte(len(options))
		return append(b, options...)
	}
	for _, c := range []struct{ what, options, want string }{
		{"none", "", ""},
		{"another option", "\x00\x0c\x00\x03\x00\x00\x00", ""},
		{"the client's", "\x00\x0a\x00\x0812345678", "12345678"},
		{"behind another", "\x00\x0c\x00\x00\x00\x0a\x00\x0812345678", "12345678"},
		{"with a server's", "\x00\x0a\x00\x101234567812345678", "1234567812345678"},
		{"two: the first", "\x00\x0a\x00\x0812345678\x00\x0a\x00\x0887654321", "12345678"},
		{"too short", "\x00\x0a\x00\x071234567", "!"},
		{"between the lengths", "\x00\x0a\x00\x0912345678x", "!"},
		{"too long", "\x00\x0a\x00\x29" + "123456789012345678901234567890123456789012", "!"},
		{"behind the end", "\x00\x0a\x00\x0812345", "!"},
		{"half an option", "\x00\x0a\x00", "!"},
	} {
		q, err := ParseDNSQuery(query(c.options))
		if got := string(q.Cookie); (err != nil) != (c.want == "!") || err == nil && got != c.want {
			t.Errorf("%s: %q, %v", c.what, got, err)
		}
	}
}
