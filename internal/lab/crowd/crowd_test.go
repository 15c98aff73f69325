package crowd

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hotstage/hotstage/internal/lab/crowd/frame"
	"github.com/insomniacslk/dhcp/dhcpv4"
)

func TestSameSeedSameCrowd(t *testing.T) {
	type who struct {
		MAC, Host, Device string
		Arrival           time.Duration
	}
	crowd := func(seed int64) (all []who) {
		cfg := fakeConfig(300)
		cfg.Seed, cfg.Segments[0].Ports = seed, []Port{{Device: "a"}, {Device: "b"}, {Device: "c"}}
		c, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range c.w.devices {
			all = append(all, who{text(d.mac), d.host, d.port.open.Device, d.arrival})
		}
		return all
	}
	if diff := cmp.Diff(crowd(1), crowd(1)); diff != "" {
		t.Errorf("two crowds of one seed differ:\n%s", diff)
	}
	macs := map[string]bool{}
	for _, seed := range []int64{1, 2} {
		for _, d := range crowd(seed) {
			if macs[d.MAC] && seed == 1 {
				t.Errorf("two devices have the address %s", d.MAC)
			}
			if d.MAC[1] != '2' && d.MAC[1] != '6' && d.MAC[1] != 'a' && d.MAC[1] != 'e' {
				t.Errorf("%s is not a locally administered unicast address", d.MAC)
			}
			macs[d.MAC] = true
		}
	}
	if cmp.Equal(crowd(1), crowd(2)) {
		t.Error("another seed gives the same crowd")
	}
}

func TestRushIsAtTheStart(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	const n = 10_000
	first := 0
	for range n {
		at := rush(r.Float64(), time.Minute)
		if at < 0 || at > time.Minute {
			t.Fatalf("arrival at %v, doors are open for a minute", at)
		}
		if at < 6*time.Second {
			first++
		}
	}
	// (1-e^-0.3)/(1-e^-3) = 27% come in the first tenth.
	if first < n*26/100 || first > n*29/100 {
		t.Errorf("%d of %d come in the first tenth, want 27%%", first, n)
	}
	if rush(0, time.Minute) != 0 || rush(1, time.Minute) != time.Minute {
		t.Errorf("rush(0) = %v, rush(1) = %v", rush(0, time.Minute), rush(1, time.Minute))
	}
}

func TestNewRefuses(t *testing.T) {
	for words, change := range map[string]func(*Config){
		"no segment has any devices":     func(c *Config) { c.Segments[0].Devices = 0 },
		"-1 devices: must be 0 or more":  func(c *Config) { c.Segments[0].Devices = -1 },
		"but no port to join at":         func(c *Config) { c.Segments[0].Ports = nil },
		"segment hall has no IPv4":       func(c *Config) { c.Segments[0].Plan.IPv4 = netip.Prefix{} },
		"doors must be over 0":           func(c *Config) { c.Doors = 0 },
		"-1 queries, 12.5 sessions, tim": func(c *Config) { c.Queries = -1 },
	} {
		cfg := fakeConfig(1)
		change(&cfg)
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("New: %v, want an error with %q", err, words)
		}
	}
}

// one is a crowd of one device that does nothing by chance.
func one() Config {
	cfg := fakeConfig(1)
	cfg.Doors, cfg.Stay, cfg.Names = time.Nanosecond, 24*time.Hour, nil
	return cfg
}

func TestDiscoverBacksOff(t *testing.T) {
	inBubble(t, one(), func(n *fake, begin func()) {
		n.set(func(d *testDHCP) { d.mute = true })
		begin()
		time.Sleep(200 * time.Second)
		got, messages := n.asked(dhcpv4.MessageTypeDiscover)
		// RFC 2131 section 4.1: 4, 8, 16, 32, 64, 64 s, each give or take a second.
		waits := []time.Duration{4 * time.Second, 8 * time.Second, 16 * time.Second, 32 * time.Second, 64 * time.Second, 64 * time.Second}
		if len(got) != len(waits)+1 {
			t.Fatalf("%d DISCOVERs in 200 s, want %d", len(got), len(waits)+1)
		}
		for i, want := range waits {
			if wait := got[i+1].at - got[i].at; wait < want-time.Second || wait > want+time.Second+10*time.Millisecond {
				t.Errorf("try %d after %v, want %v give or take 1 s", i+2, wait, want)
			}
			if messages[i+1].NumSeconds == 0 || messages[i+1].TransactionID != messages[0].TransactionID {
				t.Errorf("try %d: secs %d, xid %v of %v", i+2, messages[i+1].NumSeconds, messages[i+1].TransactionID, messages[0].TransactionID)
			}
		}
	})
}

func TestLostAcknowledgement(t *testing.T) {
	inBubble(t, one(), func(n *fake, begin func()) {
		n.dropping(func(k *frame.Packet) bool { // the server never hears a REQUEST
			m, err := dhcpv4.FromBytes(k.Payload)
			return k.DstPort == frame.DHCPServerPort && err == nil && m.MessageType() == dhcpv4.MessageTypeRequest
		})
		begin()
		time.Sleep(66 * time.Second)
		requests, _ := n.asked(dhcpv4.MessageTypeRequest)
		discovers, _ := n.asked(dhcpv4.MessageTypeDiscover)
		// RFC 2131 section 3.1: four times, for 60 s in all, then from the beginning.
		if len(requests) < 5 || len(discovers) != 2 {
			t.Fatalf("%d REQUESTs and %d DISCOVERs in 66 s", len(requests), len(discovers))
		}
		if again := discovers[1].at; requests[3].at > 32*time.Second || requests[4].at < again || again < 56*time.Second {
			t.Errorf("the fourth REQUEST at %v, the second DISCOVER at %v, the fifth REQUEST at %v", requests[3].at, again, requests[4].at)
		}
	})
}

func TestRefusalsDoNotLoop(t *testing.T) {
	inBubble(t, one(), func(n *fake, begin func()) {
		n.set(func(d *testDHCP) { d.deny = true })
		begin()
		time.Sleep(60 * time.Second)
		// After 0, 1, 2, ... 10 s: the eleventh triangle number is 55.
		if d, _ := n.asked(dhcpv4.MessageTypeDiscover); len(d) < 10 || len(d) > 13 {
			t.Errorf("%d DISCOVERs in 60 s of NAKs, want about 12", len(d))
		}
		n.set(func(d *testDHCP) { d.deny = false })
		time.Sleep(20 * time.Second)
		n.look(func(w *world) {
			if w.bound() != 1 {
				t.Error("not bound after the NAKs have ended")
			}
		})
	})
}

func TestLeaseRunsOut(t *testing.T) {
	inBubble(t, one(), func(n *fake, begin func()) {
		n.set(func(d *testDHCP) { d.lease = 100 * time.Second })
		begin()
		time.Sleep(20 * time.Second)
		n.set(func(d *testDHCP) { d.mute = true })
		time.Sleep(90 * time.Second)
		got, messages := n.asked(dhcpv4.MessageTypeRequest)
		var renewing, rebinding []time.Duration
		for i, s := range got[1:] {
			m := messages[i+1]
			if m.ClientIPAddr.IsUnspecified() || m.RequestedIPAddress() != nil || m.ServerIdentifier() != nil {
				t.Errorf("REQUEST at %v: ciaddr %v, options 50 %v, 54 %v; want the first only (RFC 2131 table 5)", s.at, m.ClientIPAddr, m.RequestedIPAddress(), m.ServerIdentifier())
			}
			if s.To == broadcast4 {
				rebinding = append(rebinding, s.at)
			} else {
				renewing = append(renewing, s.at)
			}
		}
		within := func(words string, got, want time.Duration) {
			t.Helper()
			if got < want || got > want+50*time.Millisecond {
				t.Errorf("%s at %v, want %v", words, got, want)
			}
		}
		if len(renewing) < 3 || len(rebinding) < 2 {
			t.Fatalf("renewing at %v, rebinding at %v", renewing, rebinding)
		}
		within("T1", renewing[0], 50*time.Second)
		within("T2", rebinding[0], 87500*time.Millisecond)
		discovers, _ := n.asked(dhcpv4.MessageTypeDiscover)
		if len(discovers) < 2 {
			t.Fatal("no DISCOVER after the lease has run out")
		}
		within("the end", discovers[1].at, 100*time.Second)
		n.look(func(w *world) {
			if w.bound() != 0 || w.tally.expired != 1 {
				t.Errorf("%d bound, %d expired; want 0 and 1", w.bound(), w.tally.expired)
			}
		})
	})
}

func TestLeaseIsRenewed(t *testing.T) {
	inBubble(t, one(), func(n *fake, begin func()) {
		n.set(func(d *testDHCP) { d.lease = 100 * time.Second })
		begin()
		time.Sleep(520 * time.Second)
		n.look(func(w *world) {
			if got := w.tally.renewals; got.Tried != 10 || got.Acks != 10 || w.tally.dora.n != 1 || w.bound() != 1 {
				t.Errorf("after 520 s of a 100 s lease: %+v, %d DORA, %d bound", got, w.tally.dora.n, w.bound())
			}
		})
	})
}

func TestWholeScenario(t *testing.T) {
	const devices = 200
	cfg := fakeConfig(devices)
	cfg.Doors, cfg.Stay, cfg.Own = 20*time.Second, 40*time.Second, []string{"gw.event.example", "big.example"}
	inBubble(t, cfg, func(n *fake, begin func()) {
		begin()
		<-n.c.w.over
		n.look(func(w *world) {
			r := w.result()
			for _, c := range []struct {
				words     string
				got, want int
			}{
				{"arrived", r.Arrived, devices}, {"addressed", r.Addressed, devices}, {"left", r.Left, devices},
				{"IPv6 devices", r.IPv6.Devices, devices}, {"IPv6 addressed", r.IPv6.Addressed, devices},
				{"duplicates", r.DuplicateCount, 0}, {"NAKs", r.DHCP.Naks, 0}, {"DNS failures", r.DNS.Failed(), 0}, {"DNS malformed", r.DNS.Malformed, 0},
				{"unresolved", r.Unresolved, 0}, {"retransmits", r.Retransmits, 0}, {"expired", r.Expired, 0},
				{"renewals", r.Renewals.Acks, r.Renewals.Tried}, {"ACKs", r.DHCP.Acks, r.DORA.Count + r.Renewals.Acks + r.Reboots},
				{"roamed and rebooted", r.Reboots, r.Roamed}, {"flows left open", w.tally.flowsOpen, 0}, {"alarms left set", len(w.alarms), 0},
			} {
				if c.got != c.want {
					t.Errorf("%s: %d, want %d", c.words, c.got, c.want)
				}
			}
			if r.DNS.Truncated == 0 || r.Roamed == 0 || r.DHCP.Releases == 0 {
				t.Errorf("%d truncated answers, %d roamed, %d released: want some of each", r.DNS.Truncated, r.Roamed, r.DHCP.Releases)
			}
			for kind, f := range r.Flows {
				if f.Failed != 0 || f.Rounds == 0 {
					t.Errorf("flows %s: %+v", kind, f)
				}
			}
			sum := map[string]float64{}
			for _, s := range r.Series {
				sum[s.Series] += s.Value
			}
			if sum["arrivals"] != devices || int(sum["dns_rate"]) != r.DNS.Asked || int(sum["dora_rate"]) != r.DORA.Count {
				t.Errorf("series sum up to %v", sum)
			}
			// 1/3 questions a second each: 200 devices for some 50 s.
			if want := devices * 50 / 3; r.DNS.Asked < want*7/10 || r.DNS.Asked > want*15/10 {
				t.Errorf("%d questions, want about %d", r.DNS.Asked, want)
			}
		})
	})
}

// TestDuplicates feeds the crowd a server that gives one address to all.
func TestDuplicates(t *testing.T) {
	cfg := fakeConfig(3)
	cfg.Doors, cfg.Stay = time.Second, time.Hour
	inBubble(t, cfg, func(n *fake, begin func()) {
		n.set(func(d *testDHCP) { d.lie = true })
		begin()
		time.Sleep(3 * time.Second)
		n.look(func(w *world) {
			o := w.oracle
			if o.count < 2 {
				t.Fatalf("%d duplicates of three devices with one address", o.count)
			}
			d := o.duplicates[0]
			if d.Addr != netip.MustParseAddr("10.1.0.10") || d.How != "ack" || d.First == d.Second || !strings.Contains(d.String(), d.Second) {
				t.Errorf("duplicate %+v", d)
			}
		})
	})
}

func TestLeaseOfAnAbsentDeviceIsItsOwn(t *testing.T) {
	cfg := fakeConfig(2)
	cfg.Doors, cfg.Stay = time.Nanosecond, time.Hour
	inBubble(t, cfg, func(n *fake, begin func()) {
		begin()
		time.Sleep(3 * time.Second)
		n.look(func(w *world) {
			a, b := w.devices[0], w.devices[1]
			a.part() // out of reach, without a word
			n.set(func(d *testDHCP) { d.leases[text(b.mac)] = a.lease.addr })
			b.lease.restart()
		})
		time.Sleep(3 * time.Second)
		n.look(func(w *world) {
			if w.oracle.count != 1 || w.oracle.duplicates[0].How != "lease" {
				t.Errorf("duplicates %v, want one of kind lease", w.oracle.duplicates)
			}
		})
	})
}

func TestReleasedAddressMayBeGivenAgain(t *testing.T) {
	cfg := fakeConfig(2)
	cfg.Doors, cfg.Stay = time.Nanosecond, time.Hour
	inBubble(t, cfg, func(n *fake, begin func()) {
		begin()
		time.Sleep(3 * time.Second)
		n.look(func(w *world) {
			a, b := w.devices[0], w.devices[1]
			a.lease.release()
			a.part()
			n.set(func(d *testDHCP) { d.leases[text(b.mac)] = a.lease.addr })
			b.lease.restart()
		})
		time.Sleep(3 * time.Second)
		n.look(func(w *world) {
			if w.oracle.count != 0 {
				t.Errorf("duplicates %v, want none", w.oracle.duplicates)
			}
		})
	})
}

func TestConflictIsDeclined(t *testing.T) {
	inBubble(t, one(), func(n *fake, begin func()) {
		begin()
		time.Sleep(3 * time.Second)
		other := frame.MAC{2, 9, 9, 9, 9, 9}
		var had netip.Addr
		n.look(func(w *world) {
			d := w.devices[0]
			had = d.lease.addr
			d.port.input(frame.AppendARP(nil, frame.Broadcast, other, false, had, frame.MAC{}, had))
		})
		time.Sleep(5 * time.Second)
		declines, messages := n.asked(dhcpv4.MessageTypeDecline)
		if len(declines) != 1 || !messages[0].RequestedIPAddress().Equal(had.AsSlice()) || messages[0].ServerIdentifier() == nil {
			t.Fatalf("DECLINEs: %v", messages)
		}
		n.look(func(w *world) {
			want := Duplicate{Addr: had, First: text(w.devices[0].mac), Second: text(other), How: "neighbour"}
			if w.oracle.count != 1 || w.oracle.duplicates[0].First != want.First || w.oracle.duplicates[0].Second != want.Second || w.oracle.duplicates[0].Addr != had {
				t.Errorf("duplicates %v, want %v", w.oracle.duplicates, want)
			}
			if w.bound() != 0 {
				t.Error("uses the address still")
			}
		})
		time.Sleep(10 * time.Second) // "a minimum of ten seconds before restarting"
		discovers, _ := n.asked(dhcpv4.MessageTypeDiscover)
		if len(discovers) != 2 || discovers[1].at-declines[0].at < 10*time.Second {
			t.Errorf("DISCOVERs at %v, DECLINE at %v", discovers, declines[0].at)
		}
	})
}

func TestForeignIPv6Detection(t *testing.T) {
	inBubble(t, one(), func(n *fake, begin func()) {
		begin()
		time.Sleep(5 * time.Second)
		n.look(func(w *world) {
			d := w.devices[0]
			d.port.input(frame.AppendSolicitation(nil, frame.MAC{2, 9, 9, 9, 9, 9}, netip.IPv6Unspecified(), d.slaac.addr))
		})
		time.Sleep(time.Second)
		n.mu.Lock()
		defer n.mu.Unlock()
		last := n.seen[len(n.seen)-1]
		if last.ICMPType != frame.NeighbourAdvert || last.To != frame.AllNodes {
			t.Errorf("last frame %+v: want an advertisement to all nodes", last)
		}
		if n.c.w.oracle.count != 1 {
			t.Errorf("%d conflicts, want 1", n.c.w.oracle.count)
		}
	})
}

func TestDNSFailures(t *testing.T) {
	cfg := one()
	cfg.Names = []string{"broken.example"}
	cfg.Own = []string{"absent.example"}
	inBubble(t, cfg, func(n *fake, begin func()) {
		begin()
		time.Sleep(10 * time.Minute)
		n.dropping(func(k *frame.Packet) bool { return k.DstPort == frame.DNSPort })
		time.Sleep(10 * time.Minute)
		n.look(func(w *world) {
			d := w.tally.dns
			if d.ServFail == 0 || d.NXDomain == 0 || d.Timeout == 0 || d.OK != 0 || d.Retries < 2*d.Timeout {
				t.Errorf("%+v: want SERVFAIL, NXDOMAIN and timeouts after three tries", d)
			}
			if open := d.Asked - d.Failed(); open < 0 || open > queryLimit {
				t.Errorf("%+v: %d questions have no end", d, open)
			}
		})
	})
}

func TestForgedAnswersArePassedOver(t *testing.T) {
	cfg := one()
	cfg.Names = []string{"one.example"}
	inBubble(t, cfg, func(n *fake, begin func()) {
		n.ra = false
		begin()
		n.dropping(func(k *frame.Packet) bool {
			if k.DstPort != frame.DNSPort || k.Protocol != frame.UDP {
				return k.Protocol == frame.TCP
			}
			h := frame.Header{Dst: k.Src, Src: fakeMAC, From: k.To, To: k.From}
			forged := n.resolve(k.Payload, false)
			forged[0] ^= 1
			stranger := h
			stranger.From = netip.MustParseAddr("10.1.0.9")
			n.c.w.lock()
			p := n.c.w.devices[0].port
			p.input(frame.AppendUDP(nil, h, 53, k.SrcPort, forged))
			p.input(frame.AppendUDP(nil, stranger, 53, k.SrcPort, n.resolve(k.Payload, false)))
			p.input(frame.AppendUDP(nil, h, 53, k.SrcPort, []byte("x")))
			n.c.w.unlock()
			return true
		})
		time.Sleep(time.Minute)
		n.look(func(w *world) {
			if d := w.tally.dns; d.OK != 0 || d.Malformed == 0 || d.Timeout == 0 {
				t.Errorf("%+v: want no answer taken", d)
			}
		})
	})
}

func TestFlowsFailAndAreCounted(t *testing.T) {
	cfg := one()
	cfg.Names = []string{"one.example"}
	inBubble(t, cfg, func(n *fake, begin func()) {
		n.dropping(func(k *frame.Packet) bool { return k.DstPort == 443 || k.DstPort == 80 || k.DstPort == 7 || k.IsEcho() })
		begin()
		time.Sleep(10 * time.Minute)
		n.look(func(w *world) {
			for k, f := range w.tally.flows {
				if f.OK != 0 || f.Rounds != 0 || f.Tried > 0 && f.Failed == 0 {
					t.Errorf("flows %s: %+v, want all failed", kindNames[k], f)
				}
			}
			if w.tally.flows[flowUDP].Failed == 0 || w.tally.flows[flowTCP].Failed == 0 {
				t.Errorf("%+v", w.tally.flows)
			}
			if len(w.devices[0].streams) > flowLimit || len(w.devices[0].flows) > flowLimit {
				t.Errorf("%d streams, %d flows", len(w.devices[0].streams), len(w.devices[0].flows))
			}
		})
	})
}

func TestRefusedConnectionIsReset(t *testing.T) {
	cfg := one()
	cfg.Names = []string{"one.example"}
	inBubble(t, cfg, func(n *fake, begin func()) {
		n.dropping(func(k *frame.Packet) bool {
			if k.Protocol != frame.TCP || k.DstPort == frame.DNSPort || k.Flags&frame.SYN == 0 {
				return false
			}
			h := frame.Header{Dst: k.Src, Src: fakeMAC, From: k.To, To: k.From}
			n.c.w.lock()
			n.c.w.devices[0].port.input(frame.AppendTCP(nil, h, frame.Segment{SrcPort: k.DstPort, DstPort: k.SrcPort, Ack: k.Seq + 1, Flags: frame.RST | frame.ACK}, nil))
			n.c.w.unlock()
			return true
		})
		begin()
		time.Sleep(5 * time.Minute)
		n.look(func(w *world) {
			if f := w.tally.flows[flowTCP]; f.Tried == 0 || f.Reset != f.Tried || f.Failed != f.Tried {
				t.Errorf("TCP flows %+v, want all reset", f)
			}
		})
	})
}

func TestLostSegmentsAreSentAgain(t *testing.T) {
	cfg := one()
	cfg.Names = []string{"one.example"}
	inBubble(t, cfg, func(n *fake, begin func()) {
		r := rand.New(rand.NewPCG(3, 3))
		n.dropping(func(k *frame.Packet) bool { return k.Protocol == frame.TCP && r.IntN(4) == 0 })
		begin()
		time.Sleep(20 * time.Minute)
		n.look(func(w *world) {
			f := w.tally.flows[flowTCP]
			// A packet is lost four times in a row once in 256 times.
			if w.tally.retransmits == 0 || f.OK < f.Tried*9/10 {
				t.Errorf("%d retransmits, TCP flows %+v: want nearly all OK", w.tally.retransmits, f)
			}
		})
	})
}

func TestRecheck(t *testing.T) {
	const devices = 50
	cfg := fakeConfig(devices)
	cfg.Doors, cfg.Stay = time.Second, time.Hour
	for _, c := range []struct {
		words              string
		fault              func(d *testDHCP)
		kept, lost, silent int
	}{
		{"all is well", func(*testDHCP) {}, devices, 0, 0},
		{"ten leases are gone", func(d *testDHCP) {
			n := 0
			for mac := range d.leases {
				if n++; n <= 10 {
					delete(d.leases, mac)
				}
			}
		}, devices - 10, 10, 0},
		{"the server is dead", func(d *testDHCP) { d.mute = true }, 0, 0, devices},
	} {
		t.Run(c.words, func(t *testing.T) {
			inBubble(t, cfg, func(n *fake, begin func()) {
				if _, err := n.c.Recheck(n.t.Context()); !errors.Is(err, errNotRunning) {
					t.Errorf("before Run: %v", err)
				}
				begin()
				time.Sleep(3 * time.Second)
				n.set(c.fault)
				ctx, cancel := context.WithTimeout(n.t.Context(), 5*time.Minute)
				defer cancel()
				r, err := n.c.Recheck(ctx)
				if err != nil || r.Asked != devices || r.Kept != c.kept || r.Lost != c.lost || r.Silent != c.silent || len(r.Losses) != c.lost {
					t.Errorf("%+v, %v: want %d kept, %d lost, %d silent", r, err, c.kept, c.lost, c.silent)
				}
			})
		})
	}
}

func TestRecheckOfAnotherAddress(t *testing.T) {
	inBubble(t, one(), func(n *fake, begin func()) {
		begin()
		time.Sleep(3 * time.Second)
		// A server that acknowledges something else than what was asked for.
		n.dropping(func(k *frame.Packet) bool {
			if k.DstPort != frame.DHCPServerPort {
				return false
			}
			m, err := dhcpv4.FromBytes(k.Payload)
			if err != nil {
				return false
			}
			r, err := dhcpv4.NewReplyFromRequest(m, dhcpv4.WithMessageType(dhcpv4.MessageTypeAck), dhcpv4.WithYourIP([]byte{10, 1, 9, 9}),
				dhcpv4.WithOption(dhcpv4.OptServerIdentifier(fakeGate.AsSlice())), dhcpv4.WithLeaseTime(3600))
			if err != nil {
				t.Error(err)
				return true
			}
			h := frame.Header{Dst: k.Src, Src: fakeMAC, From: fakeGate, To: broadcast4}
			n.c.w.lock()
			n.c.w.devices[0].port.input(frame.AppendUDP(nil, h, 67, 68, r.ToBytes()))
			n.c.w.unlock()
			return true
		})
		r, err := n.c.Recheck(n.t.Context())
		if err != nil || r.Lost != 1 || len(r.Losses) != 1 || r.Losses[0].Now != netip.MustParseAddr("10.1.9.9") || !r.Losses[0].Had.IsValid() {
			t.Errorf("%+v, %v", r, err)
		}
	})
}

func TestOutage(t *testing.T) {
	const devices = 300
	cfg := fakeConfig(devices)
	cfg.Doors, cfg.Stay = time.Second, time.Minute
	inBubble(t, cfg, func(n *fake, begin func()) {
		begin()
		time.Sleep(10 * time.Second)
		o, err := n.c.Outage(n.t.Context(), 250*time.Millisecond) // 1,200 a second
		if err != nil || o.Devices < devices*9/10 || o.Bound != o.Devices || o.DORA.Count != o.Devices || o.Took > time.Second {
			t.Errorf("%+v, %v", o, err)
		}
		n.set(func(d *testDHCP) { d.mute = true })
		ctx, cancel := context.WithTimeout(n.t.Context(), 10*time.Second)
		defer cancel()
		if o, err := n.c.Outage(ctx, time.Second); !errors.Is(err, context.DeadlineExceeded) || o.Bound != 0 || o.Devices == 0 {
			t.Errorf("while the server is dead: %+v, %v", o, err)
		}
		if _, err := n.c.Outage(n.t.Context(), -1); err == nil {
			t.Error("an outage in less than no time is accepted")
		}
	})
}

func TestProbesSeeWhatTheyShould(t *testing.T) {
	cfg := fakeConfig(20)
	cfg.Stay, cfg.Probes = 10*time.Second, 30
	for _, leaky := range []bool{false, true} {
		inBubble(t, cfg, func(n *fake, begin func()) {
			n.dropping(func(k *frame.Packet) bool {
				if leaky && k.DstPort == probePort { // a bridge that forwards to all other ports
					n.c.w.lock()
					for _, p := range n.c.w.ports {
						if p.members[k.Src] == nil {
							h := frame.Header{Dst: k.Dst, Src: k.Src, From: k.From, To: k.To}
							p.input(frame.AppendUDP(nil, h, k.SrcPort, k.DstPort, k.Payload))
						}
					}
					n.c.w.unlock()
				}
				return k.DstPort == probePort
			})
			begin()
			<-n.c.w.over
			n.look(func(w *world) {
				var names []string
				for _, p := range w.result().Probes {
					names = append(names, p.Name)
					direct := p.Name == "attendee-direct-v4" || p.Name == "attendee-direct-v6" || p.Name == "attendee-broadcast"
					if want := !(leaky && direct); p.OK() != want || p.Tried == 0 || leaky && direct && p.Through != p.Tried {
						t.Errorf("leaky %v: %+v", leaky, p)
					}
				}
				if !slices.Contains(names, "attendee-direct-v6") || !slices.Contains(names, "gateway-ping-v4") {
					t.Errorf("probes %v", names)
				}
			})
		})
	}
}

func TestSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, err := New(fakeConfig(5))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(Snapshot{Devices: 5}, c.Snapshot()); diff != "" {
			t.Errorf("before Run (-want +got):\n%s", diff)
		}
	})
}
