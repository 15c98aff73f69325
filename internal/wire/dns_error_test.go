package wire

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

// refused is an answer to a question, with or without EDNS, behind some octets of another's.
func refused(t testing.TB, edns bool) (b []byte, start int) {
	t.Helper()
	name, err := PackDNSName(nil, "www.example.net")
	if err != nil {
		t.Fatal(err)
	}
	q := DNSQuery{ID: 7, Name: name, Type: DNSTypeA, Class: DNSClassIN, EDNS: edns, Size: 1232}
	a := BeginDNSAnswer([]byte("before"), &q, 0, DNSServFail)
	return a.Finish(&q, DNSServFail, 1232), len("before")
}

// TestExtendedErrors: the library reads what was added, several options one behind another;
// who sent no OPT gets none, and no answer gets longer than its client takes.
func TestExtendedErrors(t *testing.T) {
	read := func(b []byte) (got []string) {
		m := new(dns.Msg)
		if err := m.Unpack(b); err != nil {
			t.Fatal(err)
		}
		if opt := m.IsEdns0(); opt != nil {
			for _, o := range opt.Option {
				got = append(got, strings.Join(strings.Fields(o.String()), " "))
			}
		}
		return got
	}
	b, start := refused(t, true)
	b = AddDNSError(b, start, DNSEDENoAuthority, "no resolver answered", 1232)
	b = AddDNSOption(b, start, 10, []byte("\x01\x02\x03\x04\x05\x06\x07\x08"), 1232)
	b = AddDNSError(b, start, DNSEDEBlocked, "", 1232)
	want := []string{"22 (No Reachable Authority): (no resolver answered)", "0102030405060708", "15 (Blocked): ()"}
	if diff := cmp.Diff(want, read(b[start:])); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if code := DNSErrorOf(b[start:]); code != DNSEDENoAuthority {
		t.Errorf("the first error is read as %d", code)
	}
	if string(b[:start]) != "before" {
		t.Errorf("what stood before became %q", b[:start])
	}
	b, start = refused(t, true)
	without := len(b)
	if n := len(AddDNSError(b, start, DNSEDENetworkError, strings.Repeat("x", 500), 1232)) - without; n != 4+2+64 {
		t.Errorf("%d octets for a long text", n)
	}
	for size, want := range map[int]int{without - start + 6: 6, without - start + 5: 0, 0: 0} {
		b, start = refused(t, true)
		if got := len(AddDNSError(b, start, DNSEDENetworkError, "", size)) - without; got != want {
			t.Errorf("%d octets added for a client that takes %d, want %d", got, size, want)
		}
	}
	b, start = refused(t, false)
	if got := AddDNSError(b, start, DNSEDENetworkError, "", 512); len(got) != len(b) {
		t.Errorf("an option for a client without EDNS")
	}
}

// FuzzAddDNSOption: whatever the message, the result is as readable as before, and longer by
// the option or not at all.
func FuzzAddDNSOption(f *testing.F) {
	b, start := refused(f, true)
	f.Add(b[start:], uint16(15), []byte{0, 22})
	b, start = refused(f, false)
	f.Add(b[start:], uint16(10), []byte("12345678"))
	f.Add([]byte{}, uint16(0), []byte{})
	f.Fuzz(func(t *testing.T, msg []byte, code uint16, data []byte) {
		_, before := WalkDNS(msg, func(DNSRecord) {})
		got := AddDNSOption(append([]byte(nil), msg...), 0, code, data, 1232)
		if _, after := WalkDNS(got, func(DNSRecord) {}); (before == nil) != (after == nil) {
			t.Fatalf("%v before, %v after: %x", before, after, got)
		}
		DNSErrorOf(got)
		if added := len(got) - len(msg); added != 0 && (added != 4+len(data) || len(got) > 1232) {
			t.Fatalf("%d octets added for %d", added, len(data))
		}
	})
}
