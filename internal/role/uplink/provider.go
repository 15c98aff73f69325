//go:build linux

package uplink

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"golang.org/x/sys/unix"
)

// patience is how long an exchange waits for an answer; then it is sent once more, with twice
// the patience.
const (
	patience = time.Second
	sends    = 2
)

// provider speaks DHCP on a link. Sockets are open only during an exchange.
type provider struct {
	device string
	ns     *kernel.Namespace
}

// wanted are the options that we use, RFC 2132 and RFC 3442.
func wanted() dhcpv4.Modifier {
	return dhcpv4.WithRequestedOptions(dhcpv4.OptionSubnetMask, dhcpv4.OptionClasslessStaticRoute, dhcpv4.OptionRouter,
		dhcpv4.OptionInterfaceMTU, dhcpv4.OptionIPAddressLeaseTime, dhcpv4.OptionRenewTimeValue, dhcpv4.OptionRebindingTimeValue)
}

func (p *provider) discover(ctx context.Context) (*Lease, error) {
	modifiers := []dhcpv4.Modifier{wanted()}
	c, err := p.broadcast()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if last := p.last(); last.IsValid() {
		modifiers = append(modifiers, dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(last.AsSlice())))
	}
	offer, err := c.DiscoverOffer(ctx, modifiers...)
	if err != nil {
		return nil, fmt.Errorf("no offer on %s: %w", p.device, err)
	}
	l, err := c.RequestFromOffer(ctx, offer, wanted())
	var nak *nclient4.ErrNak
	if errors.As(err, &nak) {
		return nil, errRefused
	}
	if err != nil {
		return nil, fmt.Errorf("no acknowledgement on %s: %w", p.device, err)
	}
	return leaseOf(l.ACK, time.Now())
}

// last is the address that an earlier process got on the link, invalid without one.
func (p *provider) last() (a netip.Addr) {
	p.ns.Do(func() error {
		have, err := kernel.Addresses(p.device)
		for _, x := range have {
			if x.Owner == kernel.OwnerUplink && x.Prefix.Addr().Is4() && !a.IsValid() {
				a = x.Prefix.Addr()
			}
		}
		return err // without it we ask for any address
	})
	return a
}

func (p *provider) renew(ctx context.Context, l *Lease, any bool) (*Lease, error) {
	open := func() (*nclient4.Client, error) { return p.unicast(l) }
	if any {
		open = p.broadcast
	}
	c, err := open()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	request, err := dhcpv4.NewRenewFromAck(l.ack, wanted())
	if err != nil {
		return nil, fmt.Errorf("renew on %s: %w", p.device, err)
	}
	answer, err := c.SendAndRead(ctx, c.RemoteAddr(), request, nclient4.IsMessageType(dhcpv4.MessageTypeAck, dhcpv4.MessageTypeNak))
	switch {
	case err != nil:
		return nil, fmt.Errorf("renew on %s: %w", p.device, err)
	case answer.MessageType() == dhcpv4.MessageTypeNak:
		return nil, errRefused
	}
	return leaseOf(answer, time.Now())
}

// broadcast is a client on a raw socket, which needs no address.
func (p *provider) broadcast() (c *nclient4.Client, err error) {
	err = p.ns.Do(func() error {
		c, err = nclient4.New(p.device, nclient4.WithTimeout(patience), nclient4.WithRetry(sends))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open DHCP client on %s: %w", p.device, err)
	}
	return c, nil
}

// unicast is a client that speaks to the lease's server under the lease's address.
func (p *provider) unicast(l *Lease) (c *nclient4.Client, err error) {
	err = p.ns.Do(func() error {
		link, err := net.InterfaceByName(p.device)
		if err != nil {
			return err
		}
		listen := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
			var failed error
			err := raw.Control(func(fd uintptr) { failed = unix.BindToDevice(int(fd), p.device) })
			return errors.Join(err, failed)
		}}
		conn, err := listen.ListenPacket(context.Background(), "udp4", netip.AddrPortFrom(l.Prefix.Addr(), dhcpv4.ClientPort).String())
		if err != nil {
			return err
		}
		to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(l.Server, dhcpv4.ServerPort))
		c, err = nclient4.NewWithConn(conn, link.HardwareAddr, nclient4.WithServerAddr(to), nclient4.WithTimeout(patience), nclient4.WithRetry(sends))
		if err != nil {
			conn.Close()
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open DHCP client on %s: %w", p.device, err)
	}
	return c, nil
}
