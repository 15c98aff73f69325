//go:build linux

package dhcp

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/hotstage/hotstage/internal/testnet"
	"github.com/hotstage/hotstage/internal/wire"
	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/vishvananda/netlink"
)

// switched is a bridge with a port for each of the namespaces, whose device is called eth0.
// All ports but the first are isolated: they reach the first alone.
//
//	node ── port 0 ──┬── port 1 (isolated) ── …
//	                 └── port 2 (isolated) ── …
func switched(t testing.TB, addrs []string, to ...*kernel.Namespace) {
	t.Helper()
	sw := testnet.Namespace(t)
	testnet.Do(t, sw, func() error {
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}); err != nil {
			return err
		}
		br, err := netlink.LinkByName("br0")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(br)
	})
	for i, ns := range to {
		port, device := fmt.Sprintf("p%d", i), "eth0"
		if i == 0 {
			device = "hall"
		}
		var own []string
		if addrs[i] != "" {
			own = []string{addrs[i]}
		}
		testnet.Veth(t, sw, port, nil, ns, device, own)
		testnet.Do(t, sw, func() error {
			l, err := netlink.LinkByName(port)
			if err != nil {
				return err
			}
			br, err := netlink.LinkByName("br0")
			if err != nil {
				return err
			}
			if err := netlink.LinkSetMaster(l, br); err != nil || i == 0 {
				return err
			}
			return netlink.LinkSetIsolated(l, true)
		})
	}
}

// log collects events.
type log struct {
	mu  sync.Mutex
	all []fact.Event
}

func (l *log) tell(e fact.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, e)
}

// words are those of the first event of the kind, "" when there is none.
func (l *log) words(kind string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.all {
		if e.Kind == kind {
			return e.Words
		}
	}
	return ""
}

// answering plays another DHCP server on eth0 of the namespace until the test ends: it
// offers 192.168.1.7 to every DISCOVER.
func answering(t testing.TB, ns *kernel.Namespace) (mac string) {
	t.Helper()
	frames, err := kernel.OpenFrames(ns, "eth0")
	if err != nil {
		t.Fatal(err)
	}
	var done sync.WaitGroup
	t.Cleanup(func() { frames.Close(); done.Wait() })
	own := [6]byte(frames.HardwareAddr())
	done.Go(func() {
		var in [][]byte
		for {
			var err error
			if in, err = frames.Receive(in); err != nil {
				return
			}
			for _, b := range in {
				f, payload, ok := wire.ParseUDPFrame(b)
				if !ok || f.DstPort != 67 {
					continue
				}
				ask, err := dhcpv4.FromBytes(payload)
				if err != nil {
					continue
				}
				r, err := dhcpv4.NewReplyFromRequest(ask, dhcpv4.WithMessageType(dhcpv4.MessageTypeOffer), dhcpv4.WithYourIP([]byte{192, 168, 1, 7}),
					dhcpv4.WithOption(dhcpv4.OptServerIdentifier([]byte{192, 168, 1, 1})))
				if err != nil {
					continue
				}
				out := append(make([]byte, wire.UDPFrameHead), r.ToBytes()...)
				wire.PutUDPFrame(out, &wire.UDPFrame{SrcMAC: own, DstMAC: f.SrcMAC, Src: addr("192.168.1.1"), Dst: addr("192.168.1.7"), SrcPort: 67, DstPort: 68})
				frames.Send([][]byte{out})
			}
		}
	})
	return frames.HardwareAddr().String()
}

// TestRogueOnAnIsolatedPort: two servers of ours and a client are on a segment for a while,
// and no alarm comes; then a rogue is plugged in behind an isolated port, answers by unicast
// alone, and is named within 10 s though no device asks.
func TestRogueOnAnIsolatedPort(t *testing.T) {
	node, partner, place := testnet.Namespace(t), testnet.Namespace(t), testnet.Namespace(t)
	switched(t, []string{"10.1.0.2/16", "10.1.0.3/16", ""}, node, partner, place)
	one, two := wideHall(time.Hour), wideHall(time.Hour)
	two.Server, two.Pool.From, one.Pool.To, two.Device = addr("10.1.0.3"), addr("10.1.100.0"), addr("10.1.99.255"), "eth0"
	one.Partners, two.Partners = []netip.Addr{two.Server}, []netip.Addr{one.Server}
	var events log
	s := runTelling(t, node, one, newMemory(), events.tell)
	runTelling(t, partner, two, newMemory(), events.tell)
	time.Sleep(seekEvery + time.Second) // both have asked twice
	if got := events.words("rogue-dhcp"); got != "" {
		t.Errorf("without a rogue: %s", got)
	}
	mac, since := answering(t, place), time.Now()
	eventually(t, "the rogue is told of", func() bool { return events.words("rogue-dhcp") != "" })
	took := time.Since(since)
	t.Logf("after %v: %s", took.Round(time.Millisecond), events.words("rogue-dhcp"))
	if took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
	for _, want := range []string{mac, "192.168.1.1", "192.168.1.7", "segment hall"} {
		if !strings.Contains(events.words("rogue-dhcp"), want) {
			t.Errorf("%q does not name %s", events.words("rogue-dhcp"), want)
		}
	}
	var check fact.Check
	for _, c := range s.Checks() {
		if c.Name == "dhcp-alone-hall" {
			check = c
		}
	}
	if check.OK || !strings.Contains(check.Hint, mac) {
		t.Errorf("check %+v", check)
	}
	if len(s.Leases()) > 0 {
		t.Errorf("a guard got a lease: %v", s.Leases())
	}
}
