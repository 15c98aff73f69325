package wire

import (
	"encoding/hex"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var compareAddr = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

// Advertisements as keepalived 2.2.7 sends them, captured on a link of two namespaces.
var keepalivedFrames = map[string]string{
	"IPv4": "01005e000012f6393c46a68e080045c0002000320000ff70d0320a350002e00000123135c801000511bf0a35000a",
	"IPv6": "333300000012f6393c46a68e86dd6c0e648e002870fffe80000000000000f4393cfffe46a68eff0200000000000000000000000000123135c80200050638fe80000000000000000000000000000a20010db800000000000000000000000a",
}

func advert4() VRRP {
	return VRRP{MAC: [6]byte{2, 0, 0, 0, 0, 1}, Source: netip.MustParseAddr("10.53.0.2"), ID: 53, Priority: 200,
		Interval: 50 * time.Millisecond, Addrs: []netip.Addr{netip.MustParseAddr("10.53.0.10")}}
}

func advert6() VRRP {
	return VRRP{MAC: [6]byte{2, 0, 0, 0, 0, 1}, Source: netip.MustParseAddr("fe80::2"), ID: 53, Priority: 200, Interval: time.Second,
		Addrs: []netip.Addr{netip.MustParseAddr("fe80::a"), netip.MustParseAddr("2001:db8::a")}}
}

func TestVRRPThereAndBack(t *testing.T) {
	for _, want := range []VRRP{advert4(), advert6()} {
		b := AppendVRRP([]byte("before"), want)[6:]
		got, err := ParseVRRP(b)
		if err != nil || !IsVRRP(b) {
			t.Fatalf("%v, %v", err, IsVRRP(b))
		}
		if diff := cmp.Diff(want, got, compareAddr); diff != "" {
			t.Error(diff)
		}
	}
}

func TestKeepalivedAdvertisements(t *testing.T) {
	for name, text := range keepalivedFrames {
		b, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseVRRP(b)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		// Ours with the same content has the same bytes but for the identification of IPv4.
		ours := AppendVRRP(nil, got)
		start := 14 + 20
		if got.Source.Is6() {
			start = 14 + 40
		}
		if hex.EncodeToString(ours[start:]) != hex.EncodeToString(b[start:]) {
			t.Errorf("%s: theirs\n%x, ours\n%x", name, b[start:], ours[start:])
		}
	}
}

// Over IPv4 RFC 9568 section 5.2.8 has the checksum without the pseudo-header.
func TestVRRPChecksumOfTheMessageAlone(t *testing.T) {
	b := AppendVRRP(nil, advert4())
	m := b[14+20:]
	m[6], m[7] = 0, 0
	sum := ^checksum(0, m)
	m[6], m[7] = byte(sum>>8), byte(sum)
	if _, err := ParseVRRP(b); err != nil {
		t.Error(err)
	}
	m[2]++
	if _, err := ParseVRRP(b); err != ErrVRRPChecksum {
		t.Errorf("a wrong checksum: %v", err)
	}
}

func TestBadVRRP(t *testing.T) {
	four, six := AppendVRRP(nil, advert4()), AppendVRRP(nil, advert6())
	ip := func(b []byte) { // the header's checksum anew
		h := b[14:34]
		h[10], h[11] = 0, 0
		sum := ^checksum(0, h)
		h[10], h[11] = byte(sum>>8), byte(sum)
	}
	message := func(b []byte) { // the message's checksum anew, without the pseudo-header
		m := b[34:]
		m[6], m[7] = 0, 0
		sum := ^checksum(0, m)
		m[6], m[7] = byte(sum>>8), byte(sum)
	}
	for _, c := range []struct {
		name  string
		from  []byte
		spoil func(b []byte) []byte
		want  error
	}{
		{"TTL", four, func(b []byte) []byte { b[14+8] = 254; ip(b); return b }, ErrVRRPHops},
		{"hop limit", six, func(b []byte) []byte { b[14+7] = 64; return b }, ErrVRRPHops},
		{"to one alone", four, func(b []byte) []byte { b[14+19] = 19; ip(b); return b }, ErrVRRPGroup},
		{"from a group", four, func(b []byte) []byte { b[14+12] = 224; ip(b); return b }, ErrVRRPSource},
		{"from a global address", six, func(b []byte) []byte { b[14+8] = 0x20; return b }, ErrVRRPSource},
		{"IPv4 checksum", four, func(b []byte) []byte { b[14+1]++; return b }, ErrVRRPShape},
		{"fragment", four, func(b []byte) []byte { b[14+7] = 1; ip(b); return b }, ErrVRRPShape},
		{"version 2", four, func(b []byte) []byte { b[34] = 0x21; message(b); return b }, ErrVRRPVersion},
		{"another type", four, func(b []byte) []byte { b[34] = 0x32; message(b); return b }, ErrVRRPVersion},
		{"no interval", four, func(b []byte) []byte { b[34+4], b[34+5] = 0, 0; message(b); return b }, ErrVRRPShape},
		{"VRID 0", four, func(b []byte) []byte { b[34+1] = 0; message(b); return b }, ErrVRRPShape},
		{"more addresses than there are", four, func(b []byte) []byte { b[34+3] = 2; message(b); return b }, ErrVRRPShape},
		{"no address", four, func(b []byte) []byte { b[34+3] = 0; message(b); return b }, ErrVRRPShape},
		{"checksum", six, func(b []byte) []byte { b[14+40+2]++; return b }, ErrVRRPChecksum},
		{"cut", six, func(b []byte) []byte { return b[:len(b)-1] }, ErrVRRPShape},
		{"cut in the header", six, func(b []byte) []byte { return b[:40] }, ErrVRRPShape},
		{"ARP", four, func(b []byte) []byte { b[13] = 6; return b }, ErrVRRPShape},
	} {
		b := c.spoil(append([]byte(nil), c.from...))
		if _, err := ParseVRRP(b); err != c.want {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}

func FuzzVRRP(f *testing.F) {
	f.Add(AppendVRRP(nil, advert4()))
	f.Add(AppendVRRP(nil, advert6()))
	for _, text := range keepalivedFrames {
		b, _ := hex.DecodeString(text)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := ParseVRRP(b)
		if err != nil {
			return
		}
		if !IsVRRP(b) {
			t.Error("read, and no VRRP")
		}
		again, err := ParseVRRP(AppendVRRP(nil, v))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(v, again, compareAddr); diff != "" {
			t.Error(diff)
		}
	})
}
