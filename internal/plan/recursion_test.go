package plan

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestRecursion: who may be asked, as the plan writes it and as it is read; what is wrong is
// told with what may have been meant.
func TestRecursion(t *testing.T) {
	const base = "event: {name: X, attendees: 10}\nsites: {v: {uplinks: {isp: {}}}}\n"
	for _, c := range []struct{ given, want string }{
		{"9.9.9.9", "9.9.9.9:53"},
		{"[9.9.9.9, '[2620:fe::fe]:5353', '2620:fe::fe']", "9.9.9.9:53 [2620:fe::fe]:5353 [2620:fe::fe]:53"},
		{"tcp://10.0.0.1", "tcp://10.0.0.1:53"},
		{"['tls://9.9.9.9#dns.quad9.net', 'tls://[2620:fe::fe]#DNS.quad9.net.', 'tls://9.9.9.9:443#dns.quad9.net']",
			"tls://9.9.9.9#dns.quad9.net tls://[2620:fe::fe]#dns.quad9.net tls://9.9.9.9:443#dns.quad9.net"},
		{"unbound", "unbound"},
		{"[unbound, 9.9.9.9]", "unbound 9.9.9.9:53"},
		{"[9.9.9.9, '9.9.9.9:53']", "stands twice"},
		{"[unbound, unbound]", "unbound stands twice"},
		{"native", "no recursion of its own; say unbound"},
		{"tls://9.9.9.9", "needs the name that the certificate is for"},
		{"'tls://dns.quad9.net@9.9.9.9'", "the name follows the address"},
		{"'9.9.9.9@853#dns.quad9.net'", "the name follows the address"},
		{"'9.9.9.9#dns.quad9.net'", "tls://9.9.9.9#dns.quad9.net"},
		{"https://dns.quad9.net/dns-query", "asked by UDP (an address alone), tcp:// or tls://"},
		{"dns.quad9.net", "who could resolve the name"},
		{"0.0.0.0", "not a resolver to ask"},
		{"9.9.9.9:0", "not a resolver to ask"},
		{"fe80::1%eth0", "not a resolver to ask"},
	} {
		p, _, faults := Parse([]byte(base+"resolver: {recursion: "+c.given+"}\n"), nil)
		got := ""
		if !faults.Errors() {
			if p.Resolver.Unbound {
				got = "unbound "
			}
			for _, a := range p.Resolver.Ask {
				got += a.String() + " "
			}
			if diff := cmp.Diff(c.want, strings.TrimSpace(got)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", c.given, diff)
			}
			continue
		}
		for _, f := range faults {
			if f.Severity == Error {
				got += fmt.Sprintln(f.Line, f.Words, f.Allowed, f.Hint)
			}
		}
		if !strings.Contains(got, c.want) || !strings.HasPrefix(got, "3 ") {
			t.Errorf("%s: %s, want %q", c.given, got, c.want)
		}
	}
}
