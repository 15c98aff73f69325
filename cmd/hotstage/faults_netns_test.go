package main

import (
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hotstage/hotstage/internal/plan"
	"golang.org/x/sys/unix"
)

// largePlan is onePlan with a pool for some hundreds.
const largePlan = `event: {name: One, attendees: 20}
sites: {venue: {uplinks: {isp: {ipv4: [192.0.2.2/24], gateway: 192.0.2.1}}}}
segments: {attendee: {ipv4: 10.5.0.0/16, pool: 10.5.1.0-10.5.16.255, lease: 30m}}
resolver: {recursion: [192.0.2.1]}
nodes:
  gw1: {roles: [router, dhcp, resolver], interfaces: {eth0: {uplink: isp}, eth1: {segment: attendee}}}
`

// give makes it another plan from the next start on.
func (g *gateway) give(t *testing.T, text string) {
	t.Helper()
	if err := os.WriteFile(g.file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	var faults plan.Faults
	if g.plan, _, faults = plan.Parse([]byte(text), nil); g.plan == nil {
		t.Fatal(faults)
	}
}

// The node is killed at any moment while devices come. Every lease that was acknowledged is
// there after the next start, and no address has two devices.
func TestKilledAgainAndAgain(t *testing.T) {
	g := newGateway(t)
	g.give(t, largePlan)
	who := newGuests(t, g.aps, "p1")
	rounds := 0
	for begun := time.Now(); rounds < 3 || rounds < 8 && time.Since(begun) < 12*time.Second; rounds++ {
		g.start(t)
		before := who.sample(20)
		late := time.AfterFunc(50*time.Millisecond+rand.N(700*time.Millisecond), func() { g.cmd.Process.Kill() })
		who.come(1+200*rounds, 1+200*(rounds+1), time.Second)
		late.Stop()
		g.end(t, unix.SIGKILL)
		who.late()
		if len(before) == 20 && rounds%3 == 2 {
			g.start(t)
			who.reboot(before)
			g.end(t, unix.SIGKILL)
		}
	}
	g.start(t)
	who.reboot(who.all())
	if n := who.come(9000, 9200, 10*time.Second); n != 200 {
		t.Errorf("%d of 200 new devices have an address", n)
	}
	t.Logf("%d kills, %v", rounds, who)
}

// The disk of the state directory fills up while devices come: the journal's and SQLite's at
// once, since they are on it. What was acknowledged is known after the disk has room, and
// after a kill.
func TestDiskFillsUpInTheRush(t *testing.T) {
	for _, c := range []struct{ name, size string }{
		{"small", "size=4m"},  // no room to spare: the journal grows as it is written
		{"large", "size=48m"}, // the journal has its room beforehand, SQLite finds none
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDisk(t, 0, c.size)
			g := newGateway(t)
			g.give(t, largePlan)
			g.startOn(t, d)
			g.until(t, "all is well")
			who := newGuests(t, g.aps, "p1")
			if n := who.come(1, 50, 10*time.Second); n != 49 {
				t.Fatalf("%d of 49 devices have an address\n%s", n, g.log.String())
			}
			if err := d.fill(); err != nil {
				t.Fatal(err)
			}
			// What the last pages still take is acknowledged; then nothing is.
			next := 1000
			for end := time.Now().Add(10 * time.Second); !strings.Contains(g.log.String(), "lease-store-failed"); next += 100 {
				if time.Now().After(end) {
					t.Fatalf("the disk is full and nobody says so; %v\n%s", who, g.log.String())
				}
				who.come(next, next+100, 500*time.Millisecond)
			}
			who.late()
			before := who.acks
			who.come(5000, 5020, 500*time.Millisecond)
			if who.acks > before+4 { // one more page, at most
				t.Errorf("%d ACKs leave with a full disk", who.acks-before)
			}
			if err := d.empty(); err != nil {
				t.Fatal(err)
			}
			if n := who.come(6000, 6020, 10*time.Second); n != 20 {
				t.Errorf("%d of 20 devices have an address when there is room again\n%s", n, g.log.String())
			}
			g.until(t, "all is well")
			who.reboot(who.sample(100))
			if known := len(g.leases(t)); known < len(who.has) {
				t.Errorf("%d leases are known, %d devices have one", known, len(who.has))
			}
			t.Log(who)
		})
	}
}

// The node starts with another plan: no lease is lost that the plan still allows, and nobody
// gets an address that somebody has.
func TestPlanChangesUnderLeases(t *testing.T) {
	g := newGateway(t)
	g.give(t, strings.Replace(largePlan, "10.5.1.0-10.5.16.255", "10.5.1.0-10.5.1.99", 1))
	who := newGuests(t, g.aps, "p1")
	g.start(t)
	if n := who.come(1, 81, 15*time.Second); n != 80 {
		t.Fatalf("%d of 80 devices have an address\n%s", n, g.log.String())
	}
	restart := func(pool, more string) {
		t.Helper()
		if err := g.end(t, unix.SIGKILL); err == nil {
			t.Error("kill -9: it ended well")
		}
		g.give(t, strings.Replace(largePlan, "pool: 10.5.1.0-10.5.16.255", "pool: "+pool+more, 1))
		g.start(t)
	}
	within := func(last byte) (who2 []int) {
		for _, n := range who.all() {
			if a := who.has[n].addr.As4(); a[2] == 1 && a[3] <= last {
				who2 = append(who2, n)
			}
		}
		return who2
	}
	restart("10.5.1.0-10.5.1.199", "") // wider
	who.reboot(who.all())
	if n := who.come(100, 150, 15*time.Second); n != 50 {
		t.Errorf("wider: %d of 50 new devices have an address\n%s", n, g.log.String())
	}
	kept := within(59)
	restart("10.5.1.0-10.5.1.59", "") // narrower, and those within keep theirs
	who.reboot(kept)
	if !strings.Contains(g.log.String(), "leases-outside-pool") {
		t.Errorf("nobody says that leases are outside the pool:\n%s", g.log.String())
	}
	// The address of somebody is reserved for another device, which gets it when that lease has
	// ended; whoever has it gets another one.
	taken := kept[0]
	restart("10.5.1.0-10.5.1.199", ", reservations: {printer: {mac: '"+guestMAC(7777).String()+"', address: "+who.has[taken].addr.String()+"}}")
	who.come(7777, 7778, 2*time.Second)                                                           // another address or none, by the oracle not that one
	who.reboot(slices.DeleteFunc(who.all(), func(n int) bool { return n == 7777 || n == taken })) // also those that were outside meanwhile
	if n := who.come(8000, 8020, 15*time.Second); n != 20 {
		t.Errorf("%d of 20 new devices have an address\n%s", n, g.log.String())
	}
	t.Log(who)
}
