package dhcp

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/plan"
	"github.com/hotstage/hotstage/internal/wire"
	"github.com/insomniacslk/dhcp/dhcpv4"
)

const (
	discover = dhcpv4.MessageTypeDiscover
	request  = dhcpv4.MessageTypeRequest
	decline  = dhcpv4.MessageTypeDecline
	release  = dhcpv4.MessageTypeRelease
	inform   = dhcpv4.MessageTypeInform
)

// said is what a message was answered with: "ack 10.1.0.10 toHardware", or why it was not.
func words(d *desk, a *answer) string {
	r := d.reply(a)
	if r == nil {
		return silenceWords[a.why]
	}
	way := map[delivery]string{toAll: "to all", toHardware: "to hardware", toAddress: "to " + a.dst.String(), toRelay: "by relay " + a.dst.String()}[a.way]
	switch r.MessageType() {
	case dhcpv4.MessageTypeOffer:
		return fmt.Sprintf("offer %v %s", r.YourIPAddr, way)
	case dhcpv4.MessageTypeAck:
		return fmt.Sprintf("ack %v %s", r.YourIPAddr, way)
	}
	return "nak " + way
}

// TestStates goes through RFC 2131 section 4.3, state by state. Client 1 has 10.1.0.10
// bound, client 2 had 10.1.0.11 and released it, client 3 has the reservation 10.1.0.200
// (outside the pool), client 4 is offered 10.1.0.12.
func TestStates(t *testing.T) {
	cfg := hall()
	cfg.Reservations = []plan.Reservation{{Name: "printer", MAC: mac(3), Addr: addr("10.1.0.200")}}
	cfg.Relays = []netip.Addr{addr("10.1.0.5")}
	relay := dhcpv4.WithGatewayIP(net.IP{10, 1, 0, 5})
	none := []dhcpv4.Modifier{}
	all := func(m ...dhcpv4.Modifier) []dhcpv4.Modifier { return m }
	flag := dhcpv4.WithBroadcast(true)
	ours, other := server("10.1.0.2"), server("10.1.0.3")
	for _, c := range []struct {
		what   string // with the section that says so
		client int
		kind   dhcpv4.MessageType
		mods   []dhcpv4.Modifier
		us     bool // unicast to us
		want   string
	}{
		{"4.3.1 the client's current address", 1, discover, none, false, "offer 10.1.0.10 to hardware"},
		{"4.3.1 the client's current address, whatever it wishes", 1, discover, all(wants("10.1.0.15")), false, "offer 10.1.0.10 to hardware"},
		{"4.3.1 the client's previous address", 2, discover, none, false, "offer 10.1.0.11 to hardware"},
		{"4.3.1 the address asked for, if it is free", 9, discover, all(wants("10.1.0.17")), false, "offer 10.1.0.17 to hardware"},
		{"4.3.1 not if another client has it", 9, discover, all(wants("10.1.0.10")), false, "offer 10.1.0.13 to hardware"},
		{"4.3.1 not if another client had it and there are new ones", 9, discover, all(wants("10.1.0.11")), false, "offer 10.1.0.13 to hardware"},
		{"4.3.1 not if it is another server's", 9, discover, all(wants("10.1.0.20")), false, "offer 10.1.0.13 to hardware"},
		{"4.3.1 a new address", 9, discover, none, false, "offer 10.1.0.13 to hardware"},
		{"4.3.1 manual allocation", 3, discover, all(wants("10.1.0.15")), false, "offer 10.1.0.200 to hardware"},
		{"4.1 broadcast flag", 9, discover, all(flag), false, "offer 10.1.0.13 to all"},

		{"4.3.2 SELECTING us", 4, request, all(wants("10.1.0.12"), ours), false, "ack 10.1.0.12 to hardware"},
		{"4.3.2 SELECTING us, broadcast flag", 4, request, all(wants("10.1.0.12"), ours, flag), false, "ack 10.1.0.12 to all"},
		{"4.3.2 SELECTING another server", 4, request, all(wants("10.1.0.12"), other), false, "not-for-us"},
		{"4.3.2 SELECTING us, another client's address", 4, request, all(wants("10.1.0.10"), ours), false, "nak to all"},
		{"4.3.2 SELECTING us, an address that is offered to another client", 9, request, all(wants("10.1.0.12"), ours), false, "nak to all"},
		{"4.3.2 SELECTING us, an offer that we forgot in a restart", 9, request, all(wants("10.1.0.16"), ours), false, "ack 10.1.0.16 to hardware"},
		{"4.3.2 SELECTING us, an address that we don't have", 9, request, all(wants("10.1.0.20"), ours), false, "nak to all"},
		{"4.3.2 SELECTING us, one lease per client", 1, request, all(wants("10.1.0.16"), ours), false, "nak to all"},
		{"4.3.2 SELECTING us, another device's reservation", 9, request, all(wants("10.1.0.200"), ours), false, "nak to all"},

		{"4.3.2 INIT-REBOOT, right", 1, request, all(wants("10.1.0.10")), false, "ack 10.1.0.10 to hardware"},
		{"4.3.2 INIT-REBOOT, lease ended, address still free", 2, request, all(wants("10.1.0.11")), false, "ack 10.1.0.11 to hardware"},
		{"4.3.2 INIT-REBOOT, wrong network", 9, request, all(wants("192.168.1.7")), false, "nak to all"},
		{"4.3.2 INIT-REBOOT, wrong address for a known client", 1, request, all(wants("10.1.0.15")), false, "nak to all"},
		{"4.3.2 INIT-REBOOT, no record of the client: silence", 9, request, all(wants("10.1.0.15")), false, "unknown-client"},
		{"4.3.2 INIT-REBOOT, no record, another client's address: silence", 9, request, all(wants("10.1.0.10")), false, "unknown-client"},
		{"4.3.2 INIT-REBOOT, another server's part: silence", 1, request, all(wants("10.1.0.20")), false, "not-for-us"},
		{"4.3.2 INIT-REBOOT, reservation", 3, request, all(wants("10.1.0.200")), false, "ack 10.1.0.200 to hardware"},
		{"4.3.2 INIT-REBOOT, not the reservation", 3, request, all(wants("10.1.0.15")), false, "nak to all"},

		{"4.3.2 RENEWING", 1, request, all(from("10.1.0.10")), true, "ack 10.1.0.10 to 10.1.0.10"},
		{"4.3.2 RENEWING, broadcast flag does not matter with ciaddr (4.1)", 1, request, all(from("10.1.0.10"), flag), true, "ack 10.1.0.10 to 10.1.0.10"},
		{"4.3.2 RENEWING an address that another client has", 9, request, all(from("10.1.0.10")), true, "nak to all"},
		{"4.3.2 RENEWING an address that another client is offered", 9, request, all(from("10.1.0.12")), true, "nak to all"},
		{"4.3.2 RENEWING a free address without a record: the server trusts ciaddr", 9, request, all(from("10.1.0.16")), true, "ack 10.1.0.16 to 10.1.0.16"},
		{"4.3.2 REBINDING", 1, request, all(from("10.1.0.10")), false, "ack 10.1.0.10 to 10.1.0.10"},
		{"4.3.2 REBINDING in another server's part: silence", 9, request, all(from("10.1.0.20")), false, "not-for-us"},
		{"4.3.2 REBINDING on the wrong network", 1, request, all(from("192.168.1.7")), false, "nak to all"},
		{"4.3.2 REBINDING, the plan has since reserved another address", 3, request, all(from("10.1.0.16")), false, "nak to all"},

		{"4.3.6 table 4: no state has nothing", 1, request, none, false, "contrary"},
		{"4.3.6 table 4: no state has all", 1, request, all(from("10.1.0.10"), wants("10.1.0.10"), ours), false, "contrary"},
		{"4.3.6 table 4: no state has ciaddr and a server", 1, request, all(from("10.1.0.10"), ours), false, "contrary"},

		{"4.3.3 DECLINE", 1, decline, all(wants("10.1.0.10"), ours), false, "no-reply-due"},
		{"4.3.3 DECLINE of another client's address", 9, decline, all(wants("10.1.0.10"), ours), false, "unknown-client"},
		{"4.3.3 DECLINE for another server", 1, decline, all(wants("10.1.0.10"), other), false, "not-for-us"},
		{"4.3.3 DECLINE for no server", 1, decline, all(wants("10.1.0.10")), false, "not-for-us"},
		{"4.3.4 RELEASE", 1, release, all(from("10.1.0.10"), ours), true, "no-reply-due"},
		{"4.3.4 RELEASE of another client's address", 9, release, all(from("10.1.0.10"), ours), true, "unknown-client"},
		{"4.3.4 RELEASE for another server", 1, release, all(from("10.1.0.10"), other), true, "not-for-us"},
		{"4.3.5 INFORM", 9, inform, all(from("10.1.0.77")), true, "ack 0.0.0.0 to 10.1.0.77"},
		{"4.3.5 INFORM from elsewhere", 9, inform, all(from("192.0.2.1")), true, "contrary"},
		{"4.3.5 INFORM without an address", 9, inform, none, false, "contrary"},

		{"4.1 through a relay", 9, discover, all(relay), true, "offer 10.1.0.13 by relay 10.1.0.5"},
		{"4.1 through a relay, broadcast flag", 4, request, all(relay, flag, wants("10.1.0.12"), ours), true, "ack 10.1.0.12 by relay 10.1.0.5"},
		{"4.1 through a relay, REBINDING", 1, request, all(relay, from("10.1.0.10")), true, "ack 10.1.0.10 by relay 10.1.0.5"},
		{"4.3.2 through a relay, NAK", 9, request, all(relay, wants("192.168.1.7")), true, "nak by relay 10.1.0.5"},
		{"a relay that is not of the plan", 9, discover, all(dhcpv4.WithGatewayIP(net.IP{10, 1, 0, 6})), true, "relayed"},
		{"a server's message", 9, dhcpv4.MessageTypeOffer, none, false, "malformed"},
		{"a type of another RFC", 9, dhcpv4.MessageType(13), none, false, "malformed"},
	} {
		t.Run(c.what, func(t *testing.T) {
			d := newDesk(t, cfg)
			if got := d.lease(mac(1)) + d.lease(mac(2)); got != "10.1.0.1010.1.0.11" {
				t.Fatal(got)
			}
			d.ask(mac(2), release, from("10.1.0.11"), ours)
			d.ask(mac(4), discover)
			d.clock.pass(10 * time.Second)
			a := d.hand(message(t, mac(c.client), c.kind, c.mods...), !c.us)
			if got := words(d, a); got != c.want {
				t.Errorf("%s; want %s", got, c.want)
			}
		})
	}
}

func TestRequestStatesAreCounted(t *testing.T) {
	d := newDesk(t, hall())
	d.lease(mac(1))
	for _, c := range []struct {
		want string
		mods []dhcpv4.Modifier
		us   bool
	}{
		{"selecting", []dhcpv4.Modifier{wants("10.1.0.10"), server("10.1.0.2")}, false},
		{"init-reboot", []dhcpv4.Modifier{wants("10.1.0.10")}, false},
		{"renewing", []dhcpv4.Modifier{from("10.1.0.10")}, true},
		{"rebinding", []dhcpv4.Modifier{from("10.1.0.10")}, false},
	} {
		if a := d.hand(message(t, mac(1), request, c.mods...), !c.us); a.state != c.want {
			t.Errorf("state %q, want %q", a.state, c.want)
		}
	}
}

func TestTimesOfALease(t *testing.T) {
	d := newDesk(t, hall())
	offer := d.reply(d.ask(mac(1), discover))
	if got := offer.IPAddressLeaseTime(0); got != time.Hour {
		t.Errorf("lease of %v", got)
	}
	if a := d.reply(d.ask(mac(9), inform, from("10.1.0.77"))); a.IPAddressLeaseTime(0) != 0 || a.IPAddressRenewalTime(0) != 0 {
		t.Errorf("INFORM is answered with a lease time: %s", a.Summary())
	}
}

// TestRenewalTimes: RFC 2131 section 4.4.5: T1 and T2 are 1/2 and 7/8 of the lease, "with some
// random fuzz around a fixed value, to avoid synchronization of client reacquisition".
func TestRenewalTimes(t *testing.T) {
	const lease = 3600
	early, late := 0, 0
	for xid := range uint32(6000) {
		t1, t2 := renewal(lease, 0xdeadbeef+xid)
		if t1 < lease*15/32 || t1 > lease*17/32 || t2 < lease*27/32 || t2 > lease*29/32 || t2-t1 != lease*12/32 {
			t.Fatalf("transaction %d: T1 %d, T2 %d", xid, t1, t2)
		}
		early, late = early+btoi(t1 < lease/2-60), late+btoi(t1 > lease/2+60)
	}
	if early < 1000 || late < 1000 {
		t.Errorf("of 6000 leases %d are renewed over a minute before half of it and %d after: no fuzz", early, late)
	}
	for _, l := range []uint32{1, 2, 3, 7, 16, 1 << 31, 1<<32 - 1} {
		if t1, t2 := renewal(l, 0xffffffff); t1 < 1 || t1 > t2 || t2 > l {
			t.Errorf("lease of %d s: T1 %d, T2 %d", l, t1, t2)
		}
	}
}

func TestRepeatedRequests(t *testing.T) {
	d := newDesk(t, hall())
	d.lease(mac(1))
	d.clock.pass(10 * time.Second)
	a := d.ask(mac(1), request, from("10.1.0.10"))
	if got := d.reply(a).IPAddressLeaseTime(0); a.grant != nil || got != time.Hour-10*time.Second {
		t.Errorf("10 s after its lease a client gets %v and a commit (%v); want what is left, and none", got, a.grant != nil)
	}
	d.clock.pass(30 * time.Minute)
	a = d.ask(mac(1), request, from("10.1.0.10"))
	if got := d.reply(a).IPAddressLeaseTime(0); a.grant == nil || got != time.Hour {
		t.Errorf("at T1 it gets %v", got)
	}
	l := d.g.leases(nil)[0]
	if l.Expires.Sub(l.Start) != 90*time.Minute+10*time.Second {
		t.Errorf("start %v, expires %v: a renewal keeps the start", l.Start, l.Expires)
	}

	// While the first is on its way to the store, a repetition is not answered.
	xid := dhcpv4.WithTransactionID(dhcpv4.TransactionID{1, 2, 3, 4})
	msg := message(t, mac(2), request, wants("10.1.0.12"), server("10.1.0.2"), xid)
	hand := func() *answer {
		var a answer
		if err := d.m.Parse(msg); err != nil {
			t.Fatal(err)
		}
		d.g.handle(read(d.clock), &d.m, true, true, &a)
		return &a
	}
	first := hand()
	if a := hand(); first.grant == nil || a.why != underway {
		t.Errorf("%v, then %v", first.grant, a.why)
	}
	if !d.g.stored(first.grant, first.gen, &first.rec) {
		t.Error("the ACK may not go")
	}
	if a := hand(); len(a.frame) == 0 || a.grant != nil {
		t.Error("after the commit the repetition is not answered")
	}
}

func TestClientIdentity(t *testing.T) {
	d := newDesk(t, hall())
	a := d.lease(mac(1), id("laptop"))
	for _, c := range []struct {
		what string
		mac  net.HardwareAddr
		mods []dhcpv4.Modifier
		same bool
	}{
		{"the identifier counts, not the hardware address (RFC 2131 section 4.2)", mac(2), []dhcpv4.Modifier{id("laptop")}, true},
		{"another identifier is another client", mac(1), []dhcpv4.Modifier{id("phone")}, false},
		{"without one the hardware address is it", mac(1), nil, false},
		{"one byte is too short (RFC 2132 section 9.14)", mac(1), []dhcpv4.Modifier{id("l")}, false},
	} {
		offer := d.reply(d.ask(c.mac, discover, c.mods...))
		if got := offer.YourIPAddr.String() == a; got != c.same {
			t.Errorf("%s: %v", c.what, offer.YourIPAddr)
		}
		if got := string(offer.Options.Get(dhcpv4.OptionClientIdentifier)); len(c.mods) > 0 && got == "" {
			t.Errorf("%s: identifier not repeated (RFC 6842)", c.what)
		}
	}
}

func TestReservation(t *testing.T) {
	cfg := hall()
	cfg.Reservations = []plan.Reservation{{Name: "printer", MAC: mac(3), Addr: addr("10.1.0.12")}}
	d := newDesk(t, cfg)
	for i := range 9 { // the pool without the reserved one
		if a := d.lease(mac(100 + i)); a == "" || a == "10.1.0.12" {
			t.Fatalf("client %d got %q", i, a)
		}
	}
	if a := d.ask(mac(200), discover); a.why != full {
		t.Errorf("a tenth client: %s", words(d, a))
	}
	if a := d.lease(mac(3), id("boot loader")); a != "10.1.0.12" {
		t.Errorf("the printer got %q", a)
	}
	ask := dhcpv4.WithRequestedOptions(dhcpv4.OptionHostName)
	ack := d.reply(d.ask(mac(3), request, id("system"), hostname("HP-1234"), ask, wants("10.1.0.12")))
	if ack.HostName() != "printer" {
		t.Errorf("host name %q, want the reservation's", ack.HostName())
	}
	a := d.ask(mac(3), decline, wants("10.1.0.12"), server("10.1.0.2"))
	if a.found != addr("10.1.0.12") || d.lease(mac(3)) != "10.1.0.12" {
		t.Error("a declined reservation must be told of and offered again")
	}
}

// TestReservationByClientID: the device is known by its identifier, whatever its hardware
// address; a reservation of that hardware address goes first.
func TestReservationByClientID(t *testing.T) {
	cfg := hall()
	cfg.Reservations = []plan.Reservation{
		{Name: "screen", ClientID: []byte("lobby-screen"), Addr: addr("10.1.0.12")}, {Name: "printer", MAC: mac(3), Addr: addr("10.1.0.200")},
	}
	d := newDesk(t, cfg)
	screen := id("lobby-screen")
	if a := d.lease(mac(1), screen); a != "10.1.0.12" {
		t.Fatalf("the screen got %q", a)
	}
	for _, c := range []struct {
		what string
		mac  net.HardwareAddr
		kind dhcpv4.MessageType
		mods []dhcpv4.Modifier
		want string
	}{
		{"another card, the same identifier", mac(2), discover, []dhcpv4.Modifier{screen}, "offer 10.1.0.12 to hardware"},
		{"and reboots with it", mac(2), request, []dhcpv4.Modifier{screen, wants("10.1.0.12")}, "ack 10.1.0.12 to hardware"},
		{"and renews with it", mac(1), request, []dhcpv4.Modifier{screen, from("10.1.0.12")}, "ack 10.1.0.12 to 10.1.0.12"},
		{"and remembers another address", mac(2), request, []dhcpv4.Modifier{screen, wants("10.1.0.15")}, "nak to all"},
		{"its card without the identifier", mac(1), discover, nil, "offer 10.1.0.10 to hardware"},
		{"its card with another identifier", mac(1), request, []dhcpv4.Modifier{id("other"), wants("10.1.0.12"), server("10.1.0.2")}, "nak to all"},
		{"a device with a reservation by MAC sends it", mac(3), discover, []dhcpv4.Modifier{screen}, "offer 10.1.0.200 to hardware"},
	} {
		if got := words(d, d.hand(message(t, c.mac, c.kind, c.mods...), true)); got != c.want {
			t.Errorf("%s: %s; want %s", c.what, got, c.want)
		}
	}
	ask := dhcpv4.WithRequestedOptions(dhcpv4.OptionHostName)
	if ack := d.reply(d.ask(mac(2), request, screen, hostname("x"), ask, wants("10.1.0.12"))); ack.HostName() != "screen" {
		t.Errorf("host name %q, want the reservation's", ack.HostName())
	}
	if _, ok := d.g.names.nameOf(addr("10.1.0.12")); ok {
		t.Error("the lease has a name beside the plan's")
	}
	d.restart(cfg)
	if got := words(d, d.ask(mac(4), request, screen, from("10.1.0.12"))); got != "ack 10.1.0.12 to 10.1.0.12" {
		t.Errorf("after a restart, with another card: %s", got)
	}
}

// TestReservationOfALeasedAddress: the plan reserves an address that another client has.
func TestReservationOfALeasedAddress(t *testing.T) {
	d := newDesk(t, hall())
	had := d.lease(mac(1))
	cfg := hall()
	cfg.Reservations = []plan.Reservation{{Name: "printer", MAC: mac(3), Addr: addr(had)}}
	d.restart(cfg)
	if a := d.lease(mac(3)); a == had || a == "" {
		t.Fatalf("the printer got %q while client 1 has %s", a, had)
	}
	if got := words(d, d.ask(mac(1), request, from(had))); got != "nak to all" {
		t.Errorf("client 1 renews: %s", got)
	}
	if a := d.lease(mac(1)); a == had || a == "" {
		t.Errorf("client 1 got %q", a)
	}
	d.clock.pass(61 * time.Minute)
	if a := d.lease(mac(3)); a != had {
		t.Errorf("after the lease the printer got %q, want %s", a, had)
	}
}

func TestDeclinedAddressRests(t *testing.T) {
	d := newDesk(t, hall())
	had := d.lease(mac(1))
	a := d.ask(mac(1), decline, wants(had), server("10.1.0.2"))
	if a.found != addr(had) {
		t.Errorf("found %v", a.found)
	}
	if again := d.lease(mac(1)); again == had || again == "" {
		t.Errorf("then the client got %q", again)
	}
	if got := words(d, d.ask(mac(2), request, wants(had), server("10.1.0.2"))); got != "nak to all" {
		t.Errorf("somebody asks for it: %s", got)
	}
	d.save()
	d.clock.pass(restFor - time.Second)
	d.restart(hall())
	if d.g.pool.at(addr(had)).state != declined {
		t.Error("it does not rest any more after a restart")
	}
	d.clock.pass(2 * time.Second)
	if got := words(d, d.ask(mac(2), request, wants(had), server("10.1.0.2"))); got != "ack "+had+" to hardware" {
		t.Errorf("after the rest: %s", got)
	}
}

// TestDecliningAll: a client that declines everything costs the others no more than an
// eighth of the pool, 4 addresses at least.
func TestDecliningAll(t *testing.T) {
	d := newDesk(t, hall())
	for i := range 50 {
		a := d.lease(mac(1))
		if a == "" {
			t.Fatalf("no address at decline %d", i)
		}
		d.ask(mac(1), decline, wants(a), server("10.1.0.2"))
	}
	for i := range 6 {
		if d.lease(mac(10+i)) == "" {
			t.Errorf("client %d got none", i)
		}
	}
}

// TestFlood: 10,000 DISCOVERs from made-up addresses hold half of the free addresses at
// most, known clients keep theirs, and a new one still gets one.
func TestFlood(t *testing.T) {
	cfg := hall()
	cfg.Pool = plan.Range{From: addr("10.1.0.10"), To: addr("10.1.0.209")}
	d := newDesk(t, cfg)
	known, gone := d.lease(mac(1)), d.lease(mac(2))
	d.ask(mac(2), release, from(gone), server("10.1.0.2"))
	for i := range 10000 {
		d.ask(mac(1000+i), discover)
		if n := d.g.pool.offers.n; n > 100 {
			t.Fatalf("%d of 200 addresses are offered", n)
		}
		if i == 5000 {
			if a := d.lease(mac(3)); a == "" {
				t.Error("a new client got none")
			}
		}
	}
	if len(d.g.pool.offered) > 100 || len(d.g.pool.clients) > 3 {
		t.Errorf("%d offers and %d clients are remembered", len(d.g.pool.offered), len(d.g.pool.clients))
	}
	if a, b := d.lease(mac(1)), d.lease(mac(2)); a != known || b != gone {
		t.Errorf("known clients got %s and %s, want %s and %s", a, b, known, gone)
	}
	d.clock.pass(offerFor)
	d.ask(mac(1), discover)
	for range 20 {
		d.ask(mac(1), inform) // each message takes back some
	}
	if n := d.g.pool.offers.n; n > 0 {
		t.Errorf("%d offers stand after %v", n, offerFor)
	}
}

func TestAddressChoice(t *testing.T) {
	d := newDesk(t, hall())
	ours := server("10.1.0.2")
	for i := range 10 {
		d.lease(mac(i))
	}
	for _, i := range []int{4, 2, 7} {
		d.clock.pass(time.Second)
		d.ask(mac(i), release, from(fmt.Sprintf("10.1.0.%d", 10+i)), ours)
	}
	if a := d.lease(mac(50)); a != "10.1.0.14" {
		t.Errorf("a new client got %s; want the one that has been free the longest", a)
	}
	if a := d.lease(mac(7)); a != "10.1.0.17" {
		t.Errorf("client 7 got %s; want its own back", a)
	}
	d.clock.pass(2 * time.Hour)
	d.save()
	d.restart(hall())
	if a := d.lease(mac(3)); a != "10.1.0.13" {
		t.Errorf("after its lease and a restart client 3 got %s; want its own back", a)
	}
	if a := d.lease(mac(51)); a != "10.1.0.12" {
		t.Errorf("a new client got %s; want the one that has been free the longest", a)
	}
}

func TestNobodyWaitsForADeadStore(t *testing.T) {
	d := newDesk(t, hall())
	had := d.lease(mac(1))
	if err := d.m.Parse(message(t, mac(2), discover)); err != nil {
		t.Fatal(err)
	}
	d.g.handle(read(d.clock), &d.m, true, false, &d.a)
	if d.a.why != storeDown || len(d.a.frame) > 0 {
		t.Errorf("DISCOVER while the store is down: %s", words(d, &d.a))
	}
	d.book.set(errFull)
	if got := words(d, d.ask(mac(2), request, wants("10.1.0.15"), server("10.1.0.2"))); got != "store-down" {
		t.Errorf("REQUEST while the store is down: %s", got)
	}
	d.clock.pass(30 * time.Minute)
	before := d.g.leases(nil)
	if got := words(d, d.ask(mac(1), request, from(had))); got != "store-down" {
		t.Errorf("renewal while the store is down: %s", got)
	}
	if diff := cmp.Diff(before, d.g.leases(nil), cmp.Comparer(func(a, b fact.Lease) bool {
		return a.Expires.Equal(b.Expires) && a.Addr == b.Addr && a.State == b.State
	})); diff != "" {
		t.Errorf("a commit that failed changed the leases (-want +got):\n%s", diff)
	}
	d.book.set(nil)
	if a := d.lease(mac(3)); a != "10.1.0.11" {
		t.Errorf("with the store back a new client got %q", a)
	}
	if got := words(d, d.ask(mac(2), request, wants("10.1.0.15"), server("10.1.0.2"))); got != "ack 10.1.0.15 to hardware" {
		t.Errorf("with the store back: %s", got)
	}
}

// FuzzHandle: whatever comes, nothing breaks, no lease is taken from its client, and every
// reply can be read.
func FuzzHandle(f *testing.F) {
	f.Add(message(f, mac(9), discover), true)
	f.Add(message(f, mac(9), request, wants("10.1.0.10"), server("10.1.0.2")), true)
	f.Add(message(f, mac(9), discover, dhcpv4.WithGatewayIP(net.IP{10, 1, 0, 5}), dhcpv4.WithOption(dhcpv4.OptRelayAgentInfo(dhcpv4.OptGeneric(dhcpv4.AgentCircuitIDSubOption, []byte("ap1"))))), false)
	f.Add(message(f, mac(9), request, from("10.1.0.10")), false)
	f.Add(message(f, mac(9), release, from("10.1.0.10"), server("10.1.0.2")), false)
	f.Add(message(f, mac(9), decline, wants("10.1.0.10"), server("10.1.0.2"), id("xyz")), true)
	f.Add(message(f, mac(9), discover, dhcpv4.WithGeneric(dhcpv4.OptionParameterRequestList, []byte{1, 3, 108, 114, 119, 121, 162})), true)
	f.Add(message(f, mac(9), discover, id(seekID+"10.1.0.3")), true)
	f.Add(message(f, mac(9), request, wants("10.1.0.12"), id("screen")), true)
	cfg := hall()
	cfg.IPv6Only = true
	cfg.Options = append(cfg.Options, wire.DHCPOption{Code: wire.DHCPOptIPv6Only, Data: []byte{0, 0, 7, 8}}, wire.DHCPOption{Code: wire.DHCPOptEncryptedDNS, Data: make([]byte, 300)})
	cfg.Reservations = []plan.Reservation{{Name: "screen", ClientID: []byte("screen"), Addr: addr("10.1.0.12")}}
	d := newDesk(f, cfg)
	d.g.pool.surge.from = 2
	had := addr(d.lease(mac(1)))
	f.Fuzz(func(t *testing.T, b []byte, broadcast bool) {
		d.t = t
		if d.m.Parse(b) != nil || d.m.CHAddr == [6]byte(mac(1)) {
			return
		}
		var a answer
		d.g.handle(read(d.clock), &d.m, broadcast, true, &a)
		d.reply(&a)
		if a.grant != nil {
			d.g.stored(a.grant, a.gen, &a.rec)
		}
		if own := d.g.pool.at(had); own.state != bound || own.client != "m"+string(mac(1)) {
			t.Fatalf("client 1 has lost %v to %q", had, own.client)
		}
		d.clock.pass(time.Millisecond)
		if d.clock.boot > 1000*time.Hour+50*time.Minute {
			d.clock.boot = 1000 * time.Hour
		}
	})
}

func BenchmarkExchange(b *testing.B) {
	d := newDesk(b, wideHall(time.Hour))
	in := message(b, mac(1), discover, dhcpv4.WithRequestedOptions(dhcpv4.OptionSubnetMask, dhcpv4.OptionRouter, dhcpv4.OptionDomainNameServer))
	req := message(b, mac(1), request, wants("10.1.1.0"), server("10.1.0.2"))
	a := answer{frame: make([]byte, 0, wire.UDPFrameHead+wire.DHCPMaxMessage)}
	one := func(b *testing.B, in []byte) {
		if err := d.m.Parse(in); err != nil {
			b.Fatal(err)
		}
		d.g.handle(read(d.clock), &d.m, true, true, &a)
		if len(a.frame) == 0 {
			b.Fatal(words(d, &a))
		}
	}
	b.Run("discover", func(b *testing.B) {
		b.ReportAllocs()
		for n := uint32(0); b.Loop(); n++ {
			in[32], in[33] = byte(n>>8), byte(n) // 65,536 clients
			one(b, in)
		}
	})
	b.Run("request", func(b *testing.B) {
		d = newDesk(b, wideHall(time.Hour)) // the discovers may have been offered its address
		b.ReportAllocs()
		for b.Loop() {
			d.clock.pass(2 * time.Minute) // past freshPart: each makes a commit
			one(b, req)
			d.g.stored(a.grant, a.gen, &a.rec)
		}
	})
}
