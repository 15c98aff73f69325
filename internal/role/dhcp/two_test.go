package dhcp

import (
	"net/netip"
	"testing"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/plan"
	"github.com/insomniacslk/dhcp/dhcpv4"
)

// TestTwoServers: two servers with a part of the pool each hear every broadcast. Client 1
// has 10.1.0.10 of the first, client 2 has 10.1.0.20 of the second, client 3 has the
// reservation 10.1.0.200, which both know.
func TestTwoServers(t *testing.T) {
	all := func(m ...dhcpv4.Modifier) []dhcpv4.Modifier { return m }
	for _, c := range []struct {
		what          string // with the section that says so
		client        int
		kind          dhcpv4.MessageType
		mods          []dhcpv4.Modifier
		first, second string
	}{
		{"3.1 step 2: each may offer", 9, discover, nil, "offer 10.1.0.11 to hardware", "offer 10.1.0.21 to hardware"},
		{"3.1 step 4: the one that was not selected takes it as declined", 9, request, all(wants("10.1.0.21"), server("10.1.0.3")), "not-for-us", "ack 10.1.0.21 to hardware"},
		{"4.3.2 INIT-REBOOT: the server without a record is silent", 1, request, all(wants("10.1.0.10")), "ack 10.1.0.10 to hardware", "not-for-us"},
		{"4.3.2 INIT-REBOOT: and so is the other", 2, request, all(wants("10.1.0.20")), "not-for-us", "ack 10.1.0.20 to hardware"},
		{"4.3.2 INIT-REBOOT: nobody's record, nobody's answer", 9, request, all(wants("10.1.0.15")), "unknown-client", "not-for-us"},
		{"4.3.2 INIT-REBOOT on the wrong network: both may say so", 9, request, all(wants("192.168.0.7")), "nak to all", "nak to all"},
		{"4.3.2 REBINDING: only the one that has it", 2, request, all(from("10.1.0.20")), "not-for-us", "ack 10.1.0.20 to 10.1.0.20"},
		{"4.3.2 REBINDING a lease that somebody else has: only the one that knows", 9, request, all(from("10.1.0.20")), "not-for-us", "nak to all"},
		{"4.3.1 a reservation is both's", 3, discover, nil, "offer 10.1.0.200 to hardware", "offer 10.1.0.200 to hardware"},
		{"4.3.2 a reservation, either may extend it", 3, request, all(from("10.1.0.200")), "ack 10.1.0.200 to 10.1.0.200", "ack 10.1.0.200 to 10.1.0.200"},
		{"4.3.3 DECLINE to one", 2, decline, all(wants("10.1.0.20"), server("10.1.0.3")), "not-for-us", "no-reply-due"},
		{"4.3.4 RELEASE to one", 1, release, all(from("10.1.0.10"), server("10.1.0.2")), "no-reply-due", "not-for-us"},
	} {
		t.Run(c.what, func(t *testing.T) {
			one, two := hall(), hall()
			one.Reservations = []plan.Reservation{{Name: "printer", MAC: mac(3), Addr: addr("10.1.0.200")}}
			two.Reservations = one.Reservations
			two.Server, two.Pool = addr("10.1.0.3"), plan.Range{From: addr("10.1.0.20"), To: addr("10.1.0.29")}
			a, b := newDesk(t, one), newDesk(t, two)
			a.lease(mac(1))
			b.ask(mac(2), request, wants("10.1.0.20"), server("10.1.0.3"))
			msg := message(t, mac(c.client), c.kind, c.mods...)
			if got := [2]string{words(a, a.hand(msg, true)), words(b, b.hand(msg, true))}; got != [2]string{c.first, c.second} {
				t.Errorf("they say %q; want %q, %q", got, c.first, c.second)
			}
		})
	}
}

// TestReplyOptions: what a reply carries, as handle makes it.
func TestReplyOptions(t *testing.T) {
	size := func(n uint16) dhcpv4.Modifier { return dhcpv4.WithOption(dhcpv4.OptMaxMessageSize(n)) }
	list := func(c ...dhcpv4.OptionCode) dhcpv4.Modifier { return dhcpv4.WithRequestedOptions(c...) }
	long := hall()
	for len(long.Options[2].Data) < 248 { // 62 resolvers
		long.Options[2].Data = append(long.Options[2].Data, 10, 1, 0, 1)
	}
	big := append(long.Options[:3:3], long.Options[2])
	big[3].Code = 200
	long.Options = big
	for _, c := range []struct {
		what string
		mods []dhcpv4.Modifier
		want map[uint8]bool
	}{
		{"RFC 2131 section 2: 576 bytes unless it says more", nil, map[uint8]bool{1: true, 3: true, 6: true, 200: false}},
		{"RFC 2132 section 9.10: it says more", []dhcpv4.Modifier{size(1500)}, map[uint8]bool{1: true, 3: true, 6: true, 200: true}},
		{"RFC 2132 section 9.10: less than 576 is not allowed", []dhcpv4.Modifier{size(300)}, map[uint8]bool{1: true, 3: true, 6: true, 200: false}},
		{"RFC 2132 section 9.8: what it wants most comes, the rest where it fits", []dhcpv4.Modifier{list(dhcpv4.GenericOptionCode(200), dhcpv4.OptionDomainNameServer, dhcpv4.OptionRouter)}, map[uint8]bool{1: true, 3: true, 6: false, 200: true}},
		{"RFC 2132 section 9.8: and nothing else", []dhcpv4.Modifier{list(dhcpv4.OptionSubnetMask)}, map[uint8]bool{1: true, 3: false, 6: false, 200: false}},
	} {
		d := newDesk(t, long)
		offer := d.reply(d.ask(mac(1), discover, c.mods...))
		for code, want := range c.want {
			if got := offer.Options.Has(dhcpv4.GenericOptionCode(code)); got != want {
				t.Errorf("%s: option %d: %v", c.what, code, got)
			}
		}
	}
}

// TestOverload: options in the file and sname fields count, RFC 2132 section 9.3.
func TestOverload(t *testing.T) {
	d := newDesk(t, hall())
	b := message(t, mac(1), request)
	copy(b[108:], []byte{50, 4, 10, 1, 0, 15, 255})
	copy(b[44:], []byte{54, 4, 10, 1, 0, 2, 255})
	b = append(b[:240], 53, 1, 3, 52, 1, 3, 255)
	if got := words(d, d.hand(b, true)); got != "ack 10.1.0.15 to hardware" {
		t.Errorf("an overloaded REQUEST: %s", got)
	}
}

// TestBootRule goes through the rule of restore: when a lease ends after the machine was
// started again.
func TestBootRule(t *testing.T) {
	clock := newClock()
	boot, wall := clock.boot, clock.wall
	lease := func(booted string, expires, expiresBoot time.Duration) fact.Lease {
		return fact.Lease{
			Segment: "hall", Addr: addr("10.1.0.10"), Client: "mac:02:00:00:00:00:01", MAC: mac(1), State: fact.LeaseBound,
			Start: wall.Add(expires - time.Hour), Expires: wall.Add(expires), Boot: booted, ExpiresBoot: expiresBoot,
		}
	}
	for _, c := range []struct {
		what  string
		l     fact.Lease
		since time.Duration // this boot's age
		back  time.Duration // how far the wall clock is behind
		ends  time.Duration // from now; 0: has ended
	}{
		{"same boot: the boot clock alone", lease("boot-1", 0, boot+20*time.Minute), boot, 0, 20 * time.Minute},
		{"same boot, the wall clock years ahead", lease("boot-1", 0, boot+20*time.Minute), boot, -10000 * time.Hour, 20 * time.Minute},
		{"same boot, the wall clock in 1970", lease("boot-1", 0, boot+20*time.Minute), boot, 400000 * time.Hour, 20 * time.Minute},
		{"same boot, ended", lease("boot-1", 20*time.Minute, boot-time.Minute), boot, 0, 0},
		{"rebooted a minute ago: a whole lease from the boot on", lease("boot-0", 20*time.Minute, 9*time.Hour), time.Minute, 0, 59 * time.Minute},
		{"rebooted a minute ago, ended by the wall clock, which may be wrong", lease("boot-0", -20*time.Minute, 9*time.Hour), time.Minute, 0, 59 * time.Minute},
		{"rebooted two hours ago: has ended", lease("boot-0", -20*time.Minute, 9*time.Hour), 2 * time.Hour, 0, 0},
		{"rebooted, wall clock in 1970: no longer than the lease was", lease("boot-0", 20*time.Minute, 9*time.Hour), time.Minute, 400000 * time.Hour, 59 * time.Minute},
		{"no boot id is known: as after a reboot", lease("", 20*time.Minute, boot+20*time.Minute), time.Minute, 0, 59 * time.Minute},
	} {
		t.Run(c.what, func(t *testing.T) {
			d := newDesk(t, hall())
			d.clock.boot, d.clock.wall = c.since, wall.Add(-c.back)
			d.book.leases["x"] = c.l
			d.restart(hall())
			b := d.g.pool.at(addr("10.1.0.10"))
			switch {
			case c.ends == 0 && b.state != expired:
				t.Errorf("state %d until %v; want it ended", b.state, b.ends-c.since)
			case c.ends != 0 && (b.state != bound || b.ends-c.since != c.ends):
				t.Errorf("state %d for %v more; want %v", b.state, b.ends-c.since, c.ends)
			}
		})
	}
}

// TestPlanShortensLease: a lease from before is not cut short by a reboot under a new plan.
func TestPlanShortensLease(t *testing.T) {
	d := newDesk(t, hall())
	a := d.lease(mac(1))
	d.clock.pass(5 * time.Minute)
	d.clock.id, d.clock.boot = "boot-2", time.Minute // the machine was off for 4 minutes
	short := hall()
	short.Lease = 10 * time.Minute
	if outside := d.restart(short); outside != 0 {
		t.Errorf("%d outside", outside)
	}
	if b := d.g.pool.at(addr(a)); b.state != bound || b.ends-d.clock.boot != 55*time.Minute {
		t.Errorf("state %d for %v more; want 55 minutes", b.state, b.ends-d.clock.boot)
	}
}

// TestPlanMovesPool: leases of addresses that are another node's now are counted, and
// their devices are not answered: the other node does.
func TestPlanMovesPool(t *testing.T) {
	d := newDesk(t, hall())
	a := d.lease(mac(1))
	moved := hall()
	moved.Pool = plan.Range{From: addr("10.1.0.20"), To: addr("10.1.0.29")}
	if n := d.restart(moved); n != 1 {
		t.Errorf("%d live leases outside, want 1", n)
	}
	if got := words(d, d.ask(mac(1), request, from(a))); got != "not-for-us" {
		t.Errorf("its renewal: %s", got)
	}
	if got := d.lease(mac(1)); !netip.MustParsePrefix("10.1.0.16/28").Contains(addr(got)) {
		t.Errorf("then it gets %s", got)
	}
}
