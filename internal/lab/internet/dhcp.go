//go:build linux

package internet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/hotstage/hotstage/internal/plan"
	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/sys/unix"
)

// uplinkLease is shorter than any provider's, so that a rehearsal sees renewals.
const uplinkLease = 2 * time.Minute

// leases is one uplink's DHCP service: the plan's address for whoever asks, or the first
// free ones of the link's prefix by hardware address. Used by one goroutine.
type leases struct {
	server netip.Prefix
	fixed  netip.Addr // the plan's address, or invalid
	dns    []net.IP
	byMAC  map[string]netip.Addr
}

func newLeases(a *access, resolvers []netip.AddrPort) *leases {
	l := &leases{server: a.ours, byMAC: map[string]netip.Addr{}}
	if all := a.Uplink.Addresses4(); len(all) > 0 {
		l.fixed = all[0]
	}
	for _, r := range resolvers {
		if r.Addr().Is4() && len(l.dns) < 3 {
			l.dns = append(l.dns, r.Addr().AsSlice())
		}
	}
	return l
}

// address of the client; invalid when the prefix is used up.
func (l *leases) address(client net.HardwareAddr) netip.Addr {
	if l.fixed.IsValid() {
		return l.fixed
	}
	if a, ok := l.byMAC[string(client)]; ok {
		return a
	}
	a := l.server.Addr()
	for range len(l.byMAC) + 1 {
		a = a.Next()
	}
	if !a.Less(plan.LastAddr(l.server)) {
		return netip.Addr{}
	}
	l.byMAC[string(client)] = a
	return a
}

// reply to one message of a client (RFC 2131 section 4.3), or nil when it deserves none.
func (l *leases) reply(m *dhcpv4.DHCPv4) (*dhcpv4.DHCPv4, error) {
	if m.OpCode != dhcpv4.OpcodeBootRequest || len(m.ClientHWAddr) == 0 {
		return nil, nil
	}
	if id := m.ServerIdentifier(); id != nil && !id.Equal(l.server.Addr().AsSlice()) {
		return nil, nil // the client took another server's offer
	}
	var kind dhcpv4.MessageType
	switch m.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		kind = dhcpv4.MessageTypeOffer
	case dhcpv4.MessageTypeRequest:
		kind = dhcpv4.MessageTypeAck
	default:
		return nil, nil // a release or decline changes nothing: the address stays the client's
	}
	addr := l.address(m.ClientHWAddr)
	if !addr.IsValid() {
		return nil, nil
	}
	wanted := m.RequestedIPAddress()
	if wanted == nil {
		wanted = m.ClientIPAddr
	}
	if kind == dhcpv4.MessageTypeAck && !wanted.Equal(addr.AsSlice()) {
		return dhcpv4.NewReplyFromRequest(m, dhcpv4.WithMessageType(dhcpv4.MessageTypeNak), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(l.server.Addr().AsSlice())))
	}
	return dhcpv4.NewReplyFromRequest(m,
		dhcpv4.WithMessageType(kind),
		dhcpv4.WithYourIP(addr.AsSlice()),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(l.server.Addr().AsSlice())),
		dhcpv4.WithNetmask(net.CIDRMask(l.server.Bits(), 32)),
		dhcpv4.WithRouter(l.server.Addr().AsSlice()),
		dhcpv4.WithDNS(l.dns...),
		dhcpv4.WithLeaseTime(uint32(uplinkLease.Seconds())))
}

// listenDHCP is the server's socket on one link.
func listenDHCP(device string) (net.PacketConn, error) {
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		ctlErr := raw.Control(func(fd uintptr) {
			err = errors.Join(unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1),
				unix.BindToDevice(int(fd), device))
		})
		return errors.Join(ctlErr, err)
	}}
	conn, err := lc.ListenPacket(context.Background(), "udp4", ":67")
	if err != nil {
		return nil, fmt.Errorf("DHCP on %s: %w", device, err)
	}
	return conn, nil
}

// serveDHCP answers the clients of one link until the socket is closed.
func (in *Internet) serveDHCP(conn net.PacketConn, l *leases) error {
	buf := make([]byte, 1500)
	for {
		n, _, err := conn.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		m, err := dhcpv4.FromBytes(buf[:n])
		if err != nil {
			in.counts.malformed.Add(1)
			continue
		}
		r, err := l.reply(m)
		if err != nil {
			in.counts.malformed.Add(1)
			continue
		}
		if r == nil {
			continue
		}
		to := &net.UDPAddr{IP: net.IPv4bcast, Port: 68}
		if !m.ClientIPAddr.IsUnspecified() && r.MessageType() == dhcpv4.MessageTypeAck {
			to.IP = m.ClientIPAddr // a renewal
		}
		if _, err := conn.WriteTo(r.ToBytes(), to); err == nil {
			in.counts.dhcp.Add(1)
		}
	}
}
