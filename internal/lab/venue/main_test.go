//go:build linux

package venue

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"testing"
	"time"

	"github.com/hotstage/hotstage/internal/plan"
	"golang.org/x/sys/unix"
)

// TestMain makes this test binary also the program under rehearsal: "run PLAN --node NAME
// --state DIR --local-leases" is a node, and with enterTest set it is `hotstage rehearse`.
func TestMain(m *testing.M) {
	switch {
	case len(os.Args) == 10 && os.Args[1] == "run":
		os.Exit(standIn(os.Args[4], os.Args[6]))
	case os.Getenv(enterTest) != "":
		os.Exit(rehearse(os.Getenv(enterTest)))
	}
	os.Exit(m.Run())
}

// standIn is a node that does what the file "mood" in its state directory says:
//
//	(nothing)  writes "ready" and ends on SIGTERM
//	die        ends at once with 3
//	faint      becomes ready, then ends with 4 when "now" appears
//	deaf       ignores SIGTERM
func standIn(node, state string) int {
	fmt.Println("this is", node)
	if os.Getenv(mark) != "" {
		fmt.Println("this is a rehearsal, I can tell")
		return 9
	}
	mood, _ := os.ReadFile(filepath.Join(state, "mood"))
	if string(mood) == "die" {
		fmt.Fprintln(os.Stderr, "no memory of the past")
		return 3
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	if err := os.WriteFile(filepath.Join(state, "ready"), nil, 0o600); err != nil {
		fmt.Println(err)
		return 1
	}
	if string(mood) == "deaf" {
		signal.Ignore(unix.SIGTERM)
		select {}
	}
	for string(mood) == "faint" {
		if _, err := os.Stat(filepath.Join(state, "now")); err == nil {
			fmt.Println("I faint")
			return 4
		}
		time.Sleep(5 * time.Millisecond)
	}
	<-ctx.Done()
	fmt.Println("stopped in order")
	return 0
}

// standInReady waits for the stand-in's file.
func standInReady(ctx context.Context, node, state string) error {
	for {
		if _, err := os.Stat(filepath.Join(state, "ready")); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// twoSites is a venue with one node and a cloud with another:
//
//	internet ── flets ── gw1 (eth0; trunk eth1) ── hall (isolated), server
//	internet ── sakura, 20 ms ── cloud1 (eth0)        srv1 (ens192) ── server
func twoSites() *plan.Plan {
	p := netip.MustParsePrefix
	a := netip.MustParseAddr
	return &plan.Plan{
		Sites: []plan.Site{
			{Name: "venue", Uplinks: []plan.Uplink{{
				Name: "flets", Site: "venue", Mode: plan.UplinkSystem, MTU: 1454,
				IPv4: []netip.Prefix{p("203.0.113.10/32")}, IPv6: p("2001:db8:100::/48"),
			}}},
			{Name: "cloud", RTT: 20 * time.Millisecond, Uplinks: []plan.Uplink{{
				Name: "sakura", Site: "cloud", Mode: plan.UplinkStatic, MTU: 1500,
				IPv4: []netip.Prefix{p("198.51.100.8/29")}, Address4: p("198.51.100.10/29"), Gateway4: a("198.51.100.9"),
			}}},
		},
		Segments: []plan.Segment{
			{Name: "hall", Class: plan.Attendee, Site: "venue", VLAN: 101, Isolate: true, IPv4: p("10.1.0.0/20")},
			{Name: "server", Class: plan.Server, Site: "venue", VLAN: 201, IPv4: p("10.2.0.0/24")},
		},
		Nodes: []plan.Node{
			{
				Name: "gw1", Site: "venue", Roles: []plan.Role{plan.RoleRouter, plan.RoleNTP},
				Interfaces: []plan.Interface{
					{Name: "eth0", Uplink: "flets"},
					{Name: "eth1", Trunk: []string{"hall", "server"}},
				},
				Attachments: []plan.Attachment{
					{Segment: "hall", Device: "eth1.101", Ports: []plan.Port{{Device: "eth1.101", Parent: "eth1", VLAN: 101}}},
					{Segment: "server", Device: "eth1.201", Ports: []plan.Port{{Device: "eth1.201", Parent: "eth1", VLAN: 201}}},
				},
			},
			{
				Name: "srv1", Site: "venue", Roles: []plan.Role{plan.RoleDHCP},
				Interfaces:  []plan.Interface{{Name: "ens192", Segment: "server"}},
				Attachments: []plan.Attachment{{Segment: "server", Device: "ens192", Ports: []plan.Port{{Device: "ens192"}}}},
			},
			{
				Name: "cloud1", Site: "cloud", Roles: []plan.Role{plan.RoleRouter},
				Interfaces: []plan.Interface{{Name: "eth0", Uplink: "sakura"}},
			},
		},
		Limits: plan.Limits{Neighbours: 8192, Conntrack: 1 << 30},
	}
}
