package kea

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/plan"
)

const header = "address,hwaddr,client_id,valid_lifetime,expire,subnet_id,fqdn_fwd,fqdn_rev,hostname,state,user_context\n"

// hall is a plan with one segment 10.0.0.0/24, its pool from .10 to .99 and two reservations.
const hall = `event: {name: T, attendees: 20}
sites: {venue: {uplinks: {isp: {}}}}
segments:
  hall:
    class: attendee
    ipv4: 10.0.0.0/24
    pool: 10.0.0.10-10.0.0.99
    reservations:
      printer: {mac: "02:00:00:00:00:05", address: 10.0.0.5}
`

func parsed(t testing.TB, src string) *plan.Plan {
	t.Helper()
	p, _, faults := plan.Parse([]byte(src), nil)
	if p == nil {
		t.Fatal(faults)
	}
	return p
}

var now = time.Unix(1_700_000_000, 0)

func carry(t testing.TB, lines ...string) (Carried, []Fault) {
	t.Helper()
	rows, faults := ReadLeases([]File{{"l.csv", []byte(header + strings.Join(lines, "\n") + "\n")}})
	return Carry(rows, parsed(t, hall), now), faults
}

func TestKeaLeases(t *testing.T) {
	for _, c := range []struct{ name, line, want string }{
		{"by identifier", "10.0.0.10,02:00:00:00:00:01,01:02:00:00:00:00:01,3600,1700001000,1,0,0,phone,0,", "bound id:01020000000001 02:00:00:00:00:01 phone"},
		{"by MAC", "10.0.0.10,02:00:00:00:00:01,,3600,1700001000,1,0,0,,0,", "bound mac:02:00:00:00:00:01 02:00:00:00:00:01 "},
		{"an identifier of one byte is none", "10.0.0.10,02:00:00:00:00:01,ff,3600,1700001000,1,0,0,,0,", "bound mac:02:00:00:00:00:01 02:00:00:00:00:01 "},
		{"a reserved MAC whatever its identifier", "10.0.0.5,02:00:00:00:00:05,01:02:00:00:00:00:05,3600,1700001000,1,0,0,,0,", "bound mac:02:00:00:00:00:05 02:00:00:00:00:05 "},
		{"run out", "10.0.0.10,02:00:00:00:00:01,,3600,1700000000,1,0,0,,0,", "expired mac:02:00:00:00:00:01 02:00:00:00:00:01 "},
		{"declined", "10.0.0.10,,,86400,1700001000,1,0,0,,1,", "declined   "},
		{"declined long ago", "10.0.0.10,,,86400,1699999999,1,0,0,,1,", "expired   "},
		{"reclaimed", "10.0.0.10,02:00:00:00:00:01,,3600,1700001000,1,0,0,,2,", "expired mac:02:00:00:00:00:01 02:00:00:00:00:01 "},
		{"released, of a newer Kea", "10.0.0.10,02:00:00:00:00:01,,3600,1700001000,1,0,0,,3,", "released mac:02:00:00:00:00:01 02:00:00:00:00:01 "},
		{"reclaimed, of an old database's dump", "10.0.0.10,02:00:00:00:00:0A,01:AB,3600,1700001000,1,0,0,,expired-reclaimed,", "expired id:01ab 02:00:00:00:00:0a "},
		{"bound, of an old database's dump", "10.0.0.10,02:00:00:00:00:0A,,3600,1700001000,1,0,0,,default,", "bound mac:02:00:00:00:00:0a 02:00:00:00:00:0a "},
		{"a name with a domain and a comma", "10.0.0.10,02:00:00:00:00:01,,3600,1700001000,1,1,1,My&#x2cPhone.conf.example.,0,{ \"a\": 1&#x2c \"b\": 2 }", "bound mac:02:00:00:00:00:01 02:00:00:00:00:01 my-phone"},
		{"an InfiniBand device", "10.0.0.10,80:00:00:48:fe:80:00:00,ff:00:01:02,3600,1700001000,1,0,0,,0,", "bound id:ff000102  "},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, faults := carry(t, c.line)
			if len(faults) > 0 || len(got.Leases) != 1 {
				t.Fatalf("%v, %d leases", faults, len(got.Leases))
			}
			l := got.Leases[0]
			if s := fmt.Sprintf("%s %s %s %s", l.State, l.Client, l.MAC, l.Hostname); s != c.want {
				t.Errorf("%s, want %s", s, c.want)
			}
			if l.Boot != "" || l.ExpiresBoot != 0 || l.Segment != "hall" || l.Expires.Sub(l.Start) <= 0 {
				t.Errorf("%+v", l)
			}
		})
	}
}

func TestKeaLeasesMalformed(t *testing.T) {
	for line, want := range map[string]string{
		"10.0.0.10,02:00:00:00:00:01":                                     "l.csv:3: 2 fields instead of 11; was the file cut off",
		"10.0.0.10,02:00:00:00:00:01,,3600,1700001000,1,0,0,,0,,,":        "l.csv:3: 13 fields instead of 11",
		"10.0.0.x,02:00:00:00:00:01,,3600,1700001000,1,0,0,,0,":           `l.csv:3: address "10.0.0.x" is not an IPv4 address`,
		"2001:db8::1,02:00:00:00:00:01,,3600,1700001000,1,0,0,,0,":        "is not an IPv4 address",
		"10.0.0.10,zz,,3600,1700001000,1,0,0,,0,":                         `hwaddr "zz": not 1 to 20 bytes`,
		"10.0.0.10,02:00:00:00:00:01,1,3600,1700001000,1,0,0,,0,":         `client_id "1": not 1 to 255 bytes`,
		"10.0.0.10,02:00:00:00:00:01,,-1,1700001000,1,0,0,,0,":            `valid_lifetime "-1"`,
		"10.0.0.10,02:00:00:00:00:01,,3600,soon,1,0,0,,0,":                `expire "soon"`,
		"10.0.0.10,02:00:00:00:00:01,,3600,9223372036854775807,1,0,0,,0,": "is not a time in seconds since 1970",
		"10.0.0.10,02:00:00:00:00:01,,3600,1700001000,1,0,0,,7,":          `state "7" is not one that is known`,
		"10.0.0.10,,,3600,1700001000,1,0,0,,0,":                           "nobody knows whose lease it is",
	} {
		got, faults := carry(t, "", line, "10.0.0.11,02:00:00:00:00:02,,3600,1700001000,1,0,0,,0,")
		if len(faults) != 1 || !strings.Contains(faults[0].Error(), want) {
			t.Errorf("%s: %v, want %s", line, faults, want)
		}
		if got.Bound != 1 {
			t.Errorf("%s: the line after it is lost", line)
		}
	}
	for text, want := range map[string]string{"": "l.csv:1: the file is empty", "a,b\n": "l.csv:1: not the header", header[:20] + "\n": "it has no column client_id"} {
		if _, faults := ReadLeases([]File{{"l.csv", []byte(text)}}); len(faults) != 1 || !strings.Contains(faults[0].Error(), want) {
			t.Errorf("%q: %v, want %s", text, faults, want)
		}
	}
}

// Files count in the order of their age, whichever they are given in; a lifetime of 0 takes a
// lease away; columns may come in another order and with more than we know.
func TestKeaLeaseFiles(t *testing.T) {
	line := func(a, mac string, life int) string {
		return fmt.Sprintf("%s,02:00:00:00:00:%s,,%d,1700001000,1,0,0,,0,\n", a, mac, life)
	}
	rows, faults := ReadLeases([]File{
		{"l.csv", []byte(header + line("10.0.0.10", "04", 3600) + line("10.0.0.13", "13", 3600) + line("10.0.0.13", "13", 0))},
		{"l.csv.completed", []byte(header + line("10.0.0.10", "03", 3600))},
		{"l.csv.1", []byte(header + line("10.0.0.10", "02", 3600) + line("10.0.0.11", "02", 0))},
		{"l.csv.2", []byte("pool_id,state,address,hwaddr,client_id,valid_lifetime,expire\r\n0,0,10.0.0.11,02:00:00:00:00:01,,3600,1700001000\r\n0,0,10.0.0.12,02:00:00:00:00:01,,3600,1700001000\r\n")},
	})
	var got []string
	for _, r := range rows {
		got = append(got, fmt.Sprintf("%s %s %s", r.Addr, r.MAC, r.At))
	}
	want := []string{"10.0.0.10 02:00:00:00:00:04 l.csv:2", "10.0.0.12 02:00:00:00:00:01 l.csv.2:3"}
	if d := cmp.Diff(want, got); d != "" || len(faults) > 0 {
		t.Errorf("%v -want +got:\n%s", faults, d)
	}
}

func TestKeaCarryCounts(t *testing.T) {
	c, faults := carry(t,
		"10.0.0.10,02:00:00:00:00:01,,3600,1700001000,1,0,0,,0,",
		"10.0.0.11,02:00:00:00:00:01,,3600,1700002000,1,0,0,,0,", // the same client, later
		"10.0.0.12,02:00:00:00:00:01,,3600,1700000500,1,0,0,,0,", // and earlier
		"10.0.0.13,02:00:00:00:00:03,,3600,1600000000,1,0,0,,0,", // run out
		"10.0.0.14,,,3600,1700001000,1,0,0,,1,",
		"10.0.0.200,02:00:00:00:00:06,,3600,1700001000,1,0,0,,0,", // beside the pool
		"10.9.0.1,02:00:00:00:00:07,,3600,1700001000,1,0,0,,0,",   // outside
		"10.0.0.5,02:00:00:00:00:05,,3600,1700001000,1,0,0,,0,",   // reserved
	)
	got := fmt.Sprintf("%d bound, %d ended, %d declined, %d outside, %d beside, %d doubled, %d in all, %v", c.Bound, c.Ended, c.Declined, len(c.Outside), len(c.Beside), len(c.Doubled), len(c.Leases), faults)
	if want := "3 bound, 3 ended, 1 declined, 1 outside, 1 beside, 2 doubled, 7 in all, []"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	for _, l := range c.Leases {
		if l.Client == "mac:02:00:00:00:00:01" && (l.State == fact.LeaseBound) != (l.Addr == netip.MustParseAddr("10.0.0.11")) {
			t.Errorf("%s is %s", l.Addr, l.State)
		}
	}
}

// What we write for Kea and read again is the same, but that Kea knows no released leases.
func TestKeaRoundTrip(t *testing.T) {
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	lease := func(a, client string, m net.HardwareAddr, host string, s fact.LeaseState) fact.Lease {
		l := fact.Lease{Segment: "hall", Addr: netip.MustParseAddr(a), Client: client, MAC: m, Hostname: host, State: s, Start: now.UTC().Add(-5 * time.Hour), Expires: now.UTC().Add(time.Hour)}
		if s == fact.LeaseExpired {
			l.Expires = now.UTC().Add(-time.Hour)
		}
		return l
	}
	want := []fact.Lease{
		lease("10.0.0.10", "id:01020000000001", mac, "phone", fact.LeaseBound),
		lease("10.0.0.11", "mac:02:00:00:00:00:02", net.HardwareAddr{2, 0, 0, 0, 0, 2}, "", fact.LeaseBound),
		lease("10.0.0.12", "id:ff", net.HardwareAddr{2, 0, 0, 0, 0, 3}, "", fact.LeaseExpired),
		lease("10.0.0.13", "", nil, "", fact.LeaseDeclined),
		lease("10.0.0.14", "id:"+strings.Repeat("ab", 255), net.HardwareAddr{2, 0, 0, 0, 0, 4}, "tablet", fact.LeaseExpired),
	}
	want[2].Client = "id:ff00"
	written := append([]fact.Lease{}, want...)
	written[3].MAC = make(net.HardwareAddr, 6) // as the server has it
	written[4].State = fact.LeaseReleased
	written = append(written, fact.Lease{Segment: "hall", Addr: netip.MustParseAddr("10.0.0.15"), State: fact.LeaseExpired}) // a decline that is over
	var b bytes.Buffer
	if err := WriteLeases(&b, written, func(fact.Lease) int { return 7 }); err != nil {
		t.Fatal(err)
	}
	rows, faults := ReadLeases([]File{{"l.csv", b.Bytes()}})
	got := Carry(rows, parsed(t, hall), now).Leases
	if d := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" || len(faults) > 0 {
		t.Errorf("%v -want +got:\n%s\n%s", faults, d, b.String())
	}
	if !strings.HasPrefix(b.String(), header) {
		t.Errorf("header: %s", b.String())
	}
}

func TestKeaCSVEscapes(t *testing.T) {
	for plain, escaped := range map[string]string{"a,b": "a&#x2cb", "&#x2c": "&#x26#x2c", "": "", "x&#y": "x&#y"} {
		if got := escapeCSV(plain); got != escaped {
			t.Errorf("escape %q: %q, want %q", plain, got, escaped)
		}
		if got := unescapeCSV(escaped); got != plain {
			t.Errorf("unescape %q: %q, want %q", escaped, got, plain)
		}
	}
	for odd, want := range map[string]string{"a&#x": "a&#x", "&#xzz1": "&#xzz1", "&#x2": "&#x2", "&#x&#x2c": "&#x,"} {
		if got := unescapeCSV(odd); got != want {
			t.Errorf("unescape %q: %q, want %q", odd, got, want)
		}
	}
}

func FuzzKeaLeases(f *testing.F) {
	f.Add([]byte(header + "10.0.0.10,02:00:00:00:00:01,01:02:00:00:00:00:01,3600,1700001000,1,0,0,phone&#x2c,0,{ }\n10.0.0.10,02:00:00:00:00:01,,0,1700001000,1,0,0,,0,\n"))
	f.Add([]byte(header + "10.0.0.14,,,3600,1700001000,1,0,0,,1,\n10.0.0.5,02:00:00:00:00:05,ffff,4294967295,9223372036,1,0,0,,0,\n"))
	p := parsed(f, hall)
	f.Fuzz(func(t *testing.T, src []byte) {
		rows, _ := ReadLeases([]File{{"l.csv", src}})
		c := Carry(rows, p, now)
		if c.Bound+c.Ended+c.Declined != len(c.Leases) || len(c.Leases)+len(c.Outside) != len(rows) {
			t.Fatalf("lost: %+v of %d rows", c, len(rows))
		}
		var b bytes.Buffer
		if err := WriteLeases(&b, c.Leases, func(fact.Lease) int { return 1 }); err != nil {
			t.Fatal(err)
		}
		again, faults := ReadLeases([]File{{"l.csv", b.Bytes()}})
		bound := Carry(again, p, now)
		if len(faults) > 0 || bound.Bound != c.Bound || bound.Declined != c.Declined {
			t.Fatalf("%d bound and %d declined became %d and %d: %v\n%s", c.Bound, c.Declined, bound.Bound, bound.Declined, faults, b.String())
		}
	})
}
