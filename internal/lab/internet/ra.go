//go:build linux

package internet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/hotstage/hotstage/internal/plan"
	"github.com/mdlayher/ndp"
	"golang.org/x/sync/errgroup"
)

const (
	advertiseEvery = 10 * time.Second // between MinRtrAdvInterval and MaxRtrAdvInterval of RFC 4861 section 6.2.1
	routerLifetime = 30 * time.Minute // its AdvDefaultLifetime for MaxRtrAdvInterval of 600 s
)

// advertised tells whether a node learns its IPv6 default route on the uplink from router
// advertisements: the system has set up its own, and a plan may name the next hop.
func advertised(u plan.Uplink) bool {
	return u.Mode == plan.UplinkDHCP || u.Mode == plan.UplinkStatic && u.IPv6.IsValid() && !u.Gateway6.IsValid()
}

// listenND is the socket for router advertisements on one link, at our address there.
func listenND(device string) (*ndp.Conn, *net.Interface, error) {
	link, err := net.InterfaceByName(device)
	if err != nil {
		return nil, nil, fmt.Errorf("router advertisements on %s: %w", device, err)
	}
	conn, _, err := ndp.Listen(link, ndp.Addr(gateway6.String()))
	if err != nil {
		return nil, nil, fmt.Errorf("router advertisements on %s: %w", device, err)
	}
	if err := conn.JoinGroup(netip.MustParseAddr("ff02::2")); err != nil {
		conn.Close()
		return nil, nil, fmt.Errorf("router advertisements on %s: join all routers: %w", device, err)
	}
	return conn, link, nil
}

// advertise offers the link's default route, every 10 s and whenever a node asks. It offers
// no prefix: the customer's is delegated. A send that fails is repeated by the next tick.
func advertise(ctx context.Context, conn *ndp.Conn, link *net.Interface) error {
	ra := &ndp.RouterAdvertisement{
		CurrentHopLimit: 64, RouterLifetime: routerLifetime,
		Options: []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: link.HardwareAddr}},
	}
	all := netip.IPv6LinkLocalAllNodes()
	group, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	asked := make(chan struct{}, 1)
	group.Go(func() error {
		for {
			m, _, _, err := conn.ReadFrom()
			switch {
			case errors.Is(err, net.ErrClosed):
				return nil
			case err != nil:
				continue // a message that can't be read: the library says so per message
			}
			if _, ok := m.(*ndp.RouterSolicitation); ok {
				select {
				case asked <- struct{}{}:
				default: // one is on its way
				}
			}
		}
	})
	group.Go(func() error {
		tick := time.NewTicker(advertiseEvery)
		defer tick.Stop()
		for {
			_ = conn.WriteTo(ra, nil, all)
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
			case <-asked:
			}
		}
	})
	return group.Wait()
}
