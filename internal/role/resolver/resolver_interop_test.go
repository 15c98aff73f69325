//go:build linux

package resolver

import (
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hotstage/hotstage/internal/testnet"
)

// digStatus and the others find what dig says of an answer.
var (
	digStatus = regexp.MustCompile(`status: ([A-Z]+)`)
	digFlags  = regexp.MustCompile(`;; flags: ([a-z ]+);`)
	digEDNS   = regexp.MustCompile(`; EDNS: version: 0, flags:( do)?; udp: 1232`)
	digSpace  = regexp.MustCompile(`\s+`)
)

// dug is dig's output in short: status, flags, how it came, the records.
func dug(out string) string {
	var parts []string
	for _, re := range []*regexp.Regexp{digStatus, digFlags} {
		if m := re.FindStringSubmatch(out); m != nil {
			parts = append(parts, m[1])
		}
	}
	if m := digEDNS.FindStringSubmatch(out); m != nil {
		parts = append(parts, "edns"+m[1])
	}
	if strings.Contains(out, "(TCP)") {
		parts = append(parts, "tcp")
	}
	for line := range strings.Lines(out) {
		if line = strings.TrimSpace(line); line != "" && line[0] != ';' {
			parts = append(parts, digSpace.ReplaceAllString(line, " "))
		}
	}
	if len(parts) > 7 {
		parts = append(parts[:4], "many")
	}
	return strings.Join(parts, "|")
}

// TestDig: dig is content with what it gets, and says no warning.
func TestDig(t *testing.T) {
	dig := testnet.Tools(t, "dig")[0]
	v := newVenue(t)
	v.leases.bind("phone.yapc.example", addr("10.1.0.52"))
	const www, negative = "www.example.net. 60 IN A 192.0.2.80", "yapc.example. 30 IN SOA gw1.yapc.example. hostmaster.yapc.example. 1 3600 600 86400 30"
	for _, c := range []struct{ args, want string }{
		{"+notcp www.example.net", "NOERROR|qr rd ra|edns|" + www},
		{"+tcp www.example.net", "NOERROR|qr rd ra|edns|tcp|" + www},
		{"-6 @2001:db8:1::1 www.example.net", "NOERROR|qr rd ra|edns|" + www},
		{"+noedns www.example.net", "NOERROR|qr rd ra|" + www},
		{"+dnssec www.example.net", "NOERROR|qr rd ra|edns do|" + www},
		{"+cdflag www.example.net", "NOERROR|qr rd ra cd|edns|" + www},
		{"+bufsize=512 +ignore big.example.net", "NOERROR|qr tc rd ra|edns"},
		{"big.example.net", "NOERROR|qr rd ra|edns|tcp|many"}, // dig goes to TCP by itself
		{"www.example.net ANY +notcp", "NOERROR|qr rd ra|edns|www.example.net. 3600 IN HINFO \"RFC8482\" \"\""},
		{"+norecurse www.example.net", "REFUSED|qr ra|edns"},
		{"+edns=1 +noednsnegotiation www.example.net", "BADVERS|qr rd ra|edns"},
		{"gw1.yapc.example AAAA", "NOERROR|qr aa rd ra|edns|gw1.yapc.example. 300 IN AAAA 2001:db8:1::1"},
		{"phone.yapc.example", "NOERROR|qr aa rd ra|edns|phone.yapc.example. 60 IN A 10.1.0.52"},
		{"nobody.yapc.example", "NXDOMAIN|qr aa rd ra|edns|" + negative},
		{"-x 10.1.0.52", "NOERROR|qr aa rd ra|edns|52.0.1.10.in-addr.arpa. 60 IN PTR phone.yapc.example."},
		{"-x 2001:db8:1::1", "NOERROR|qr aa rd ra|edns|1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa. 300 IN PTR gw1.yapc.example."},
		{"yapc.example AXFR +notcp", ""},
		{"version.bind TXT CH", "REFUSED|qr rd ra|edns"},
	} {
		args := append([]string{"+time=3", "+tries=1", "+nocookie"}, strings.Fields(c.args)...)
		if !strings.Contains(c.args, "@") {
			args = append(args, "@10.1.0.1", "-b", "10.1.0.50")
		}
		out, err := testnet.Output(v.client, dig, args...)
		if strings.Contains(c.args, "AXFR") {
			// dig makes every transfer by TCP and shows no header: that it fails is all one sees.
			if !strings.Contains(out, "Transfer failed") {
				t.Errorf("dig %s: %v\n%s", c.args, err, out)
			}
			continue
		}
		if err != nil {
			t.Errorf("dig %s: %v\n%s", c.args, err, out)
			continue
		}
		if diff := cmp.Diff(c.want, sixty.ReplaceAllString(dug(out), " 60 IN")); diff != "" {
			t.Errorf("dig %s (-want +got):\n%s\n%s", c.args, diff, out)
		}
		if strings.Contains(strings.ToLower(out), "warning") {
			t.Errorf("dig %s warns:\n%s", c.args, out)
		}
	}
}
