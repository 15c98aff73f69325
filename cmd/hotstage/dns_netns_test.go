package main

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hotstage/hotstage/internal/role/resolver"
	"github.com/hotstage/hotstage/internal/testnet"
	"github.com/miekg/dns"
)

// TestDNSOfANode asks a running node through its control socket as its crew does: an answer
// from outside, again from the cache, who asked for it, and its end by a flush.
func TestDNSOfANode(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	g.start(t)
	verb := func(want string, args ...string) string {
		t.Helper()
		out, errs, code := output(t, append(append([]string{"dns"}, args...), "--state", g.state)...)
		if code != 0 || !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("dns %v: exit %d, want %q\n%s\n%s", args, code, want, out, errs)
		}
		return out
	}
	verb(`^gw1.one.home.arpa A: NOERROR aa rd ra, by this node itself\n  gw1.one.home.arpa. 300 IN A 10\.`, "lookup", "gw1.one.home.arpa")
	verb(`NOERROR.*, asked for, `, "lookup", "www.example.net")
	// The uplink's resolver says NOERROR without an SOA: not to be cached. So an attendee asks
	// for a name of ours, to be seen at the top.
	server := g.plan.Segments[0].Gateway4.String() + ":53"
	testnet.Do(t, g.ns, func() error {
		for range 20 {
			if _, _, err := new(dns.Client).Exchange(new(dns.Msg).SetQuestion("gw1.one.home.arpa.", dns.TypeAAAA), server); err != nil {
				return err
			}
		}
		return nil
	})
	time.Sleep(300 * time.Millisecond) // samples are counted ten times a second
	verb(`(?m)^about [0-9.]+ queries/s in the last minutes, each query counted$`, "top")
	verb(`(?m)^[0-9.]+ +[0-9.]+% +AAAA +gw1.one.home.arpa$`, "top", "--names", "-n", "1")
	var top resolver.Top
	if err := json.Unmarshal([]byte(verb("clients", "top", "--clients", "-o", "json")), &top); err != nil || len(top.Names) != 0 || len(top.Clients) == 0 || top.Clients[0].PerSecond <= 0 {
		t.Errorf("%v, %+v", err, top)
	}
	verb(`^0 answers for example.net and below dropped`, "flush", "example.net")
	verb(`for all names dropped`, "flush", "--all")
	// An answer that is none ends with 1, for scripts.
	if out, _, code := output(t, "dns", "lookup", "example.net", "AXFR", "--state", g.state); code != 1 || !strings.Contains(out, "REFUSED") {
		t.Errorf("a transfer: exit %d, %s", code, out)
	}
}
