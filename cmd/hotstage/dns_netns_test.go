package main

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/role/resolver"
	"github.com/hotstage/hotstage/internal/testnet"
	"github.com/miekg/dns"
)

// TestDNSOfANode asks a running node through its control socket as its crew does: an answer
// from outside, again from the cache, who asked for it, and its end by a flush.
func TestDNSOfANode(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	src := strings.Replace(onePlan, "recursion: [192.0.2.1]", "recursion: [192.0.2.1], log: 100%, block: [ads.example.net]", 1)
	if err := os.WriteFile(g.file, []byte(src), 0o644); err != nil {
		t.Fatal(err)
	}
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
	verb(`^x.ads.example.net A: NXDOMAIN aa rd ra, blocked by the plan\nbecause: Blocked \(extended error 15\) by the event's network\n`, "lookup", "x.ads.example.net")
	time.Sleep(500 * time.Millisecond) // the log is written five times a second
	verb(`(?m)^[0-9-]+ [0-9:.]+ +127.0.0.1 +A +x.ads.example.net +NXDOMAIN +block +0s$`, "log", "ads.example.net")
	var logged []fact.Query
	if err := json.Unmarshal([]byte(verb("asked", "log", "-o", "json")), &logged); err != nil || len(logged) != 23 || logged[1].From != resolver.FromAsked {
		t.Errorf("%v, %d queries in the log: %+v", err, len(logged), logged)
	}
	if info, err := os.Stat(queriesFile(g.state)); err != nil || info.Size() == 0 {
		t.Errorf("the log's file: %v, %v", info, err)
	}
	// An answer that is none ends with 1, for scripts.
	if out, _, code := output(t, "dns", "lookup", "example.net", "AXFR", "--state", g.state); code != 1 || !strings.Contains(out, "REFUSED") {
		t.Errorf("a transfer: exit %d, %s", code, out)
	}
	if err := g.end(t, os.Interrupt); err != nil {
		t.Errorf("%v\n%s", err, g.log.String())
	}
}
