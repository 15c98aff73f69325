package dhcp

import (
	"testing"
	"time"

	"github.com/hotstage/hotstage/internal/plan"
	"github.com/insomniacslk/dhcp/dhcpv4"
)

// rushHall has the pool that a plan with 6,000 devices gets: a /19 less its first 64 hosts.
func rushHall() Segment {
	c := wideHall(time.Hour)
	c.Pool = plan.Range{From: addr("10.1.0.64"), To: addr("10.1.31.254")}
	return c
}

// TestRushIsNotHeldUp: 6,000 devices in 60 s, two mornings in a row, the second with new
// hardware addresses (as phones make them up): each has its address with the first exchange,
// and the whole lease with its first renewal.
func TestRushIsNotHeldUp(t *testing.T) {
	d := newDesk(t, rushHall())
	had := map[int]string{}
	for day := range 2 {
		trials := 0
		for n := range 6000 {
			c := day*10_000 + n
			if had[c] = d.lease(mac(c)); had[c] == "" {
				t.Fatalf("day %d: device %d got nothing", day, n)
			}
			trials += btoi(d.a.rec.trial)
			d.clock.pass(10 * time.Millisecond)
		}
		t.Logf("day %d: %d of 6000 begin with %v", day, trials, trialFor)
		d.clock.pass(trialFor * 15 / 32)
		for n := range 6000 {
			c := day*10_000 + n
			ack := d.reply(d.ask(mac(c), request, from(had[c])))
			if ack == nil || ack.MessageType() != dhcpv4.MessageTypeAck || ack.IPAddressLeaseTime(0) < 54*time.Minute {
				t.Fatalf("day %d: the first renewal of device %d gets %v", day, n, ack)
			}
		}
		d.clock.pass(20 * time.Hour)
		d.g.pool.expire(read(d.clock), 1<<20, d.g.ended)
	}
}

// TestQuietStrangers: without a surge strangers get the whole lease at once.
func TestQuietStrangers(t *testing.T) {
	d := newDesk(t, rushHall())
	for n := range 1200 { // 10 a second
		d.lease(mac(n))
		if d.a.rec.trial {
			t.Fatalf("device %d is on trial", n)
		}
		d.clock.pass(100 * time.Millisecond)
	}
}

// flooded is a segment with 2,048 addresses of which devices 0 to 199 have one each, 200 to
// 219 had one and gave it back, and 220 to 239 had one that ended.
func flooded(t *testing.T) (d *desk, had map[int]string) {
	cfg := wideHall(time.Hour)
	cfg.Pool = plan.Range{From: addr("10.1.4.0"), To: addr("10.1.11.255")}
	cfg.Reservations = []plan.Reservation{{Name: "printer", MAC: mac(900), Addr: addr("10.1.4.77")}, {Name: "screen", ClientID: []byte("screen"), Addr: addr("10.1.12.1")}}
	d, had = newDesk(t, cfg), map[int]string{}
	for n := 220; n < 240; n++ {
		had[n] = d.lease(mac(n))
	}
	d.clock.pass(2 * time.Hour)
	for n := range 220 {
		had[n] = d.lease(mac(n))
		d.clock.pass(time.Second)
	}
	for n := 200; n < 220; n++ {
		d.ask(mac(n), release, from(had[n]), server("10.1.0.2"))
	}
	return d, had
}

// unharmed: after a flood every holder renews, who comes back finds its address, a device
// whose reservation was waiting gets in, and later strangers too.
func unharmed(t *testing.T, d *desk, had map[int]string) {
	t.Helper()
	for n := range 200 {
		if got, want := words(d, d.ask(mac(n), request, from(had[n]))), "ack "+had[n]+" to "+had[n]; got != want {
			t.Fatalf("holder %d: %s, want %s", n, got, want)
		}
	}
	for n := 200; n < 240; n++ {
		if got := d.lease(mac(n)); got != had[n] {
			t.Errorf("device %d comes back and gets %q, want %s", n, got, had[n])
		}
	}
	if a, b := d.lease(mac(900)), d.lease(mac(901), id("screen")); a != "10.1.4.77" || b != "10.1.12.1" {
		t.Errorf("the reserved devices get %q and %q", a, b)
	}
	sound(t, d.g.pool)
	d.clock.pass(trialFor + graceFor)
	d.g.pool.expire(read(d.clock), 1<<20, d.g.ended)
	free := d.g.pool.fresh.n + d.g.pool.past.n
	t.Logf("%v after the flood %d of 2047 addresses are free", trialFor, free)
	if free < 1000 {
		t.Errorf("%v after the flood only %d addresses are free", trialFor, free)
	}
	if d.lease(mac(999)) == "" {
		t.Error("then a new device gets none")
	}
}

// TestFloods: 130,000 made-up devices, the largest flood on record at an event, at 5,000 a
// second; each flood goes further than the one before.
func TestFloods(t *testing.T) {
	for _, c := range []struct {
		what string
		many int
		one  func(d *desk, n int)
	}{
		{"DISCOVERs", 130_000, func(d *desk, n int) { d.ask(mac(1_000_000+n), discover) }},
		{"offers taken up", 130_000, func(d *desk, n int) { d.lease(mac(1_000_000 + n)) }},
		{"offers taken up twice, to have the whole lease", 130_000, func(d *desk, n int) {
			if a := d.lease(mac(1_000_000 + n)); a != "" {
				d.clock.pass(time.Millisecond)
				d.ask(mac(1_000_000+n), request, from(a))
			}
		}},
		{"taken up and given back", 26_000, func(d *desk, n int) {
			if a := d.lease(mac(1_000_000 + n)); a != "" {
				d.ask(mac(1_000_000+n), release, from(a), server("10.1.0.2"))
			}
		}},
		{"addresses asked for without an offer", 26_000, func(d *desk, n int) {
			a := address(number(addr("10.1.4.0")) + uint32(n%2048)).String()
			d.ask(mac(1_000_000+n), request, wants(a), server("10.1.0.2"))
			d.ask(mac(2_000_000+n), request, from(a))
			d.ask(mac(3_000_000+n), discover, wants(a))
		}},
	} {
		t.Run(c.what, func(t *testing.T) {
			d, had := flooded(t)
			for n := range c.many {
				c.one(d, n)
				d.clock.pass(200 * time.Microsecond)
				if n%2600 == 2000 && n < 26_000 { // in the middle of it
					back := 200 + n/2600
					if got := d.lease(mac(back)); got != had[back] {
						t.Errorf("after %d device %d comes back and gets %q, want %s", n, back, got, had[back])
					}
					if got, want := words(d, d.ask(mac(n/2600), request, from(had[n/2600]))), "ack "+had[n/2600]; got[:min(len(got), len(want))] != want {
						t.Errorf("after %d holder %d: %s", n, n/2600, got)
					}
				}
			}
			if p := d.g.pool; len(p.clients) > 2100 || len(p.offered) > 2100 {
				t.Errorf("%d clients and %d offers are remembered", len(p.clients), len(p.offered))
			}
			unharmed(t, d, had)
		})
	}
}

// TestOneThatNeverStops: a client that asks 1,000 times a second is heard 10 times a second,
// and none of 6,000 others goes unheard because of it.
func TestOneThatNeverStops(t *testing.T) {
	for range 20 { // the hash is another one each time
		l := newLimiter()
		heard, now := 0, 1000*time.Hour
		for n := range 60_000 {
			now += time.Millisecond
			heard += btoi(l.allow([6]byte(mac(1)), now))
			if n%10 == 0 { // a device comes: DISCOVER, REQUEST
				for range 2 {
					if !l.allow([6]byte(mac(1000+n)), now) {
						t.Fatalf("device %d is not heard", n)
					}
				}
			}
		}
		if heard < 600 || heard > 600+2*limitBurst {
			t.Errorf("%d of 60,000 messages in 60 s were heard", heard)
		}
	}
}
