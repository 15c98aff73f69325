package main

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/hotstage/hotstage/internal/testnet"
	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// guests are DHCP clients behind one link who remember every ACK. They judge at each one that
// nobody else has a lease of its address, and at the end that each lease is known still.
type guests struct {
	t     *testing.T
	conn  net.PacketConn
	has   map[int]grant
	of    map[netip.Addr]int // who was acknowledged the address last
	acks  int
	moved map[int]bool // those who may be given another address, since the plan or the rules say so
}

// grant is what one ACK promised.
type grant struct {
	addr  netip.Addr
	until time.Time // by Go's monotonic clock
}

// newGuests are clients on a device of the namespace.
func newGuests(t *testing.T, ns *kernel.Namespace, device string) *guests {
	t.Helper()
	g := &guests{t: t, has: map[int]grant{}, of: map[netip.Addr]int{}, moved: map[int]bool{}}
	testnet.Do(t, ns, func() error {
		l, err := netlink.LinkByName(device)
		if err != nil {
			return err
		}
		if err := netlink.RouteReplace(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}, Scope: netlink.SCOPE_LINK}); err != nil {
			return err
		}
		c, err := net.ListenUDP("udp4", &net.UDPAddr{Port: 68})
		if err != nil {
			return err
		}
		g.conn = c
		raw, err := c.SyscallConn()
		if err != nil {
			return err
		}
		var set error
		err = raw.Control(func(fd uintptr) {
			if set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1); set == nil {
				set = unix.BindToDevice(int(fd), device)
			}
		})
		if err != nil {
			return err
		}
		return set
	})
	t.Cleanup(func() { g.conn.Close() })
	return g
}

func guestMAC(n int) net.HardwareAddr {
	return net.HardwareAddr{2, 0xee, 0, byte(n >> 16), byte(n >> 8), byte(n)}
}

// ask sends a message of client n; lost is lost.
func (g *guests) ask(n int, kind dhcpv4.MessageType, mods ...dhcpv4.Modifier) {
	m, err := dhcpv4.New(append([]dhcpv4.Modifier{dhcpv4.WithHwAddr(guestMAC(n)), dhcpv4.WithMessageType(kind), dhcpv4.WithBroadcast(true)}, mods...)...)
	if err != nil {
		g.t.Fatal(err)
	}
	g.conn.WriteTo(m.ToBytes(), &net.UDPAddr{IP: net.IPv4bcast, Port: 67})
}

func wish(a netip.Addr) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(a.AsSlice()))
}

// hear reads one reply and notes it; nil at the end of the time. It answers OFFERs.
func (g *guests) hear(until time.Time) *dhcpv4.DHCPv4 {
	b := make([]byte, 2048)
	g.conn.SetReadDeadline(until)
	k, _, err := g.conn.ReadFrom(b)
	if err != nil {
		return nil
	}
	m, err := dhcpv4.FromBytes(b[:k])
	if err != nil {
		g.t.Fatal(err)
	}
	n, addr := clientOf(m), netip.AddrFrom4([4]byte(m.YourIPAddr.To4()))
	switch m.MessageType() {
	case dhcpv4.MessageTypeOffer:
		if _, ok := g.has[n]; !ok {
			g.ask(n, dhcpv4.MessageTypeRequest, wish(addr), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(m.ServerIdentifier())))
		}
	case dhcpv4.MessageTypeAck:
		g.note(n, grant{addr, time.Now().Add(m.IPAddressLeaseTime(0))})
	}
	return m
}

func clientOf(m *dhcpv4.DHCPv4) int {
	h := m.ClientHWAddr
	return int(h[3])<<16 | int(h[4])<<8 | int(h[5])
}

// note judges an ACK.
func (g *guests) note(n int, l grant) {
	g.acks++
	if other, ok := g.of[l.addr]; ok && other != n && g.has[other].addr == l.addr && time.Now().Before(g.has[other].until) {
		g.t.Errorf("%v is acknowledged to client %d while client %d has it for %v more", l.addr, n, other, time.Until(g.has[other].until))
	}
	if had, ok := g.has[n]; ok && had.addr != l.addr && !g.moved[n] {
		g.t.Errorf("client %d had %v and is acknowledged %v", n, had.addr, l.addr)
	}
	g.has[n], g.of[l.addr] = l, n
}

// come has the clients from..to-1 ask until each has an address or the time is over; they
// repeat every second. It returns how many have one.
func (g *guests) come(from, to int, most time.Duration) (n int) {
	end := time.Now().Add(most)
	for time.Now().Before(end) {
		n = 0
		for c := from; c < to; c++ {
			if _, ok := g.has[c]; ok {
				n++
			} else {
				g.ask(c, dhcpv4.MessageTypeDiscover)
			}
		}
		if n == to-from {
			break
		}
		for again := earlier(end, time.Now().Add(time.Second)); time.Now().Before(again) && n < to-from; {
			g.hear(earlier(again, time.Now().Add(20*time.Millisecond)))
			n = 0
			for c := from; c < to; c++ {
				if _, ok := g.has[c]; ok {
					n++
				}
			}
		}
	}
	return n
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// late reads what is still on its way.
func (g *guests) late() {
	for g.hear(time.Now().Add(50*time.Millisecond)) != nil {
	}
}

// reboot has each of the clients ask for its address as after a restart of its own
// (INIT-REBOOT), and fails when it is refused or nobody answers.
func (g *guests) reboot(who []int) {
	g.t.Helper()
	g.late()
	done := map[int]bool{}
	for end := time.Now().Add(20 * time.Second); len(done) < len(who) && time.Now().Before(end); {
		for _, n := range who {
			if !done[n] {
				g.ask(n, dhcpv4.MessageTypeRequest, wish(g.has[n].addr))
			}
		}
		for m := g.hear(time.Now().Add(time.Second)); m != nil && len(done) < len(who); m = g.hear(time.Now().Add(time.Second)) {
			n := clientOf(m)
			switch m.MessageType() {
			case dhcpv4.MessageTypeAck:
				done[n] = true
			case dhcpv4.MessageTypeNak:
				g.t.Errorf("client %d is refused its %v, which it has for %v more", n, g.has[n].addr, time.Until(g.has[n].until))
				done[n] = true
			}
		}
	}
	if len(done) < len(who) {
		g.t.Errorf("%d of %d clients get their address again", len(done), len(who))
	}
}

// all are the clients with an address.
func (g *guests) all() []int { return slices.Sorted(maps.Keys(g.has)) }

// sample is up to n of them.
func (g *guests) sample(n int) []int {
	who := g.all()
	rand.Shuffle(len(who), func(i, j int) { who[i], who[j] = who[j], who[i] })
	return who[:min(n, len(who))]
}

func (g *guests) String() string { return fmt.Sprintf("%d ACKs to %d clients", g.acks, len(g.has)) }
