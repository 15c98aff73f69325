package dhcp

import (
	"fmt"
	"testing"
)

// TestNames: one name, one lease; nobody takes the plan's names, or those that devices
// look up by themselves and trust.
func TestNames(t *testing.T) {
	n := newNames([]string{"GW1.yapc.example"})
	a, b := addr("10.1.0.10"), addr("10.1.0.11")
	for _, c := range []struct {
		what, label, want string
	}{
		{"its own", "phone", "phone.yapc.example"},
		{"the plan's", "gw1", "gw1-10-1-0-10.yapc.example"},
		{"everybody's web proxy", "wpad", "wpad-10-1-0-10.yapc.example"},
		{"everybody's IPv6 router", "isatap", "isatap-10-1-0-10.yapc.example"},
		{"none", "", ""},
	} {
		got := n.claim(a, c.label, "yapc.example")
		if got != c.want {
			t.Errorf("%s: %q is given %q, want %q", c.what, c.label, got, c.want)
		}
		if back, ok := n.addrOf(c.want); ok != (c.want != "") || ok && back != a {
			t.Errorf("%s: %s is %v, %v", c.what, c.want, back, ok)
		}
	}
	n.claim(a, "phone", "yapc.example")
	if got := n.claim(b, "phone", "yapc.example"); got != "phone-10-1-0-11.yapc.example" {
		t.Errorf("a second phone is %q", got)
	}
	n.claim(a, "", "")
	if _, ok := n.addrOf("phone.yapc.example"); ok || len(n.addr) != 1 || len(n.name) != 1 {
		t.Errorf("after its lease the name is still there: %v", n.addr)
	}
}

func TestLabel(t *testing.T) {
	long := "a123456789b123456789c123456789d123456789e123456789f123456789xyz-and-more"
	for in, want := range map[string]string{
		"Phone": "phone", "Akira's iPhone": "akira-s-iphone", "a.b.c": "a", "-x-": "x", "ノート": "", "": "", "a\x00b": "a", "a--b": "a-b",
		"..": "", "_dmarc": "dmarc", long: long[:63], long[:62] + "-z": long[:62] + "z",
	} {
		if got := label([]byte(in)); got != want {
			t.Errorf("label(%q) = %q, want %q", in, got, want)
		}
	}
	for i := range 256 { // whatever comes is a label or nothing
		for _, c := range label([]byte{'a', byte(i), 'b', byte(i)}) {
			if !(c == '-' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z') {
				t.Errorf("byte %d: %s", i, fmt.Sprintf("%q", c))
			}
		}
	}
}
