//go:build linux

// Command failover measures what clients see when something dies: a backend behind ours and
// behind dnsdist, and the node that holds the service address, ours beside keepalived with
// unbound. All in namespaces, in turn in one run on one machine.
//
//	go run ./bench/failover -hotstage bin/hotstage -part backend,address
//
// A client asks at a steady rate, each query from a port of its own, and waits a second for
// an answer. The outage is the time from the last query answered to the next one that is, when
// some in between are lost. An observer asks by ARP all the while who has the service address,
// and counts who says so.
//
// Each figure is the median of several trials with the least and the most. A line "bar" ends
// each goal: what was measured, what it is held to, and ok or short.
package main

import (
	"flag"
	"log"
	"strings"

	"github.com/hotstage/hotstage/bench/rig"
)

func main() {
	log.SetFlags(0)
	flags := rig.NewFlags("backend,address")
	only := flag.String("event", "", "of part address: this event alone (kill, cut, pause or stop)")
	flag.Parse()
	flags.Main("failover", func(r *rig.Bench) error {
		b := &bench{Bench: r, only: *only}
		return b.run()
	})
}

type bench struct {
	*rig.Bench
	only string
	auth *rig.Authority // of part backend
}

// run measures the parts one after the other.
func (b *bench) run() error {
	if err := rig.Need("unbound", "dnsdist", "keepalived", "nsd"); err != nil {
		return err
	}
	return b.Measure(versions(), rig.Part{Name: "backend", Run: b.backend}, rig.Part{Name: "address", Run: b.address})
}

// versions are those of the peers.
func versions() string {
	return strings.Join([]string{rig.FirstLine("keepalived", "-v"), "unbound " + strings.TrimPrefix(rig.FirstLine("unbound", "-V"), "Version "), rig.FirstLine("dnsdist", "--version")}, ", ")
}

// siteZones makes an unbound answer everything below site.tld itself, and what dnsdist and
// ours ask to see whether a backend is well.
func siteZones() []string {
	return []string{
		`local-zone: "site.tld." redirect`, `local-data: "site.tld. 30 A 192.0.2.80"`,
		`local-zone: "." static`, `local-data: ". 3600 NS a.root-servers.net."`, `local-data: "a.root-servers.net. 3600 A 198.41.0.4"`,
	}
}
