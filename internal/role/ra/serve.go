package ra

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
	"github.com/mdlayher/ndp"
	"golang.org/x/net/ipv6"
)

// socket sends and receives ICMPv6 on one device. receive is called by one goroutine, the
// others by another; close makes receive return an error.
type socket interface {
	receive(b []byte) (n, hops int, src netip.Addr, err error)
	send(m *ndp.RouterAdvertisement, dst netip.Addr) error
	hardware() net.HardwareAddr
	own() netip.Addr
	gone() bool // the device is away, down, or another one of the same name
	close()
}

// retry is how often a missing device is looked for and a present one looked at.
const retry = time.Second

// keep announces on one link whenever its device is there, until ctx ends. It calls served
// when it announces first, at the latest when ctx ends.
func (s *Server) keep(ctx context.Context, l *link, served func()) {
	defer served()
	told := false
	for tries := 0; ctx.Err() == nil; tries++ {
		sock, err := s.open(l.Device)
		if err == nil {
			if told {
				s.event(fact.Info, "ra-resumed", fmt.Sprintf("IPv6 is announced on segment %s again.", l.Segment))
			}
			tries, told = 0, false
			l.set(true, "")
			served()
			s.announce(ctx, l, sock)
			err = fmt.Errorf("device %s went away", l.Device)
		}
		l.set(false, err.Error())
		s.m.serving.WithLabelValues(l.Segment).Set(0)
		if tries == 10 && !told {
			told = true
			s.event(fact.Warning, "ra-device-missing",
				fmt.Sprintf("IPv6 is not announced on segment %s: %v; look at ip -6 address show dev %s.", l.Segment, err, l.Device))
		}
		select {
		case <-ctx.Done():
		case <-time.After(retry):
		}
	}
}

func (l *link) set(serving bool, why string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.serving, l.why = serving, why
}

// solicitation is a received packet's gist.
type solicitation struct{ src netip.Addr }

// announce sends on an open socket until the device goes or ctx ends, and then closes it.
func (s *Server) announce(ctx context.Context, l *link, sock socket) {
	heard := make(chan solicitation, maxPending)
	crowded := make(chan struct{}, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.listen(l, sock, heard, crowded)
	}()
	defer func() {
		sock.close()
		<-done
	}()
	s.m.serving.WithLabelValues(l.Segment).Set(1)
	a := newAnnouncer(time.Now())
	timer := time.NewTimer(0)
	defer timer.Stop()
	look := time.NewTicker(retry)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			s.send(l, sock, true, allNodes)
			return
		case <-done:
			return
		case <-look.C:
			if sock.gone() {
				return
			}
			continue
		case h := <-heard:
			a.solicit(time.Now(), h.src)
		case <-crowded: // one multicast answers those that found no room
			a.solicit(time.Now(), netip.IPv6Unspecified())
		case <-timer.C:
			for _, dst := range a.due(time.Now()) {
				s.send(l, sock, false, dst)
			}
		}
		timer.Reset(time.Until(a.wake()))
	}
}

func (s *Server) send(l *link, sock socket, final bool, dst netip.Addr) {
	if err := sock.send(l.advertisement(sock.hardware(), final), dst); err != nil {
		s.m.failed.WithLabelValues(l.Segment).Inc()
		return
	}
	kind := "unicast"
	if dst == allNodes {
		kind = "multicast"
		l.mu.Lock()
		l.last = time.Now()
		l.mu.Unlock()
	}
	if final {
		kind = "final"
	}
	s.m.sent.WithLabelValues(l.Segment, kind).Inc()
}

// listen reads until the socket is closed. What it cannot pass on is counted, and crowded
// says that there was some.
func (s *Server) listen(l *link, sock socket, heard chan<- solicitation, crowded chan<- struct{}) {
	b := make([]byte, 9216) // more than any link's MTU here
	for {
		n, hops, src, err := sock.receive(b)
		if err != nil {
			return
		}
		if src == sock.own() {
			continue
		}
		kind, mac, err := check(b[:n], hops, src, l.Prefix)
		if err != nil {
			s.m.invalid.WithLabelValues(l.Segment, err.Error()).Inc()
			continue
		}
		if kind == typeAdvertisement {
			prefix, offers := announces(b[:n])
			s.m.foreign.WithLabelValues(l.Segment).Inc()
			if offers {
				s.notice(l, time.Now(), src, mac, prefix)
			}
			continue
		}
		s.m.solicited.WithLabelValues(l.Segment).Inc()
		select {
		case heard <- solicitation{src}:
		default:
			s.m.invalid.WithLabelValues(l.Segment, "too-many").Inc()
			select {
			case crowded <- struct{}{}:
			default: // it is said already
			}
		}
	}
}

// notice remembers another router and tells of it, each at most once in rivalMemory.
func (s *Server) notice(l *link, now time.Time, src netip.Addr, mac net.HardwareAddr, prefix string) {
	l.mu.Lock()
	r, known := l.foreign[src]
	if !known && len(l.foreign) >= maxRivals {
		for a, old := range l.foreign {
			if now.Sub(old.seen) >= rivalMemory {
				delete(l.foreign, a)
			}
		}
	}
	full := !known && len(l.foreign) >= maxRivals
	say := !full && now.Sub(r.told) >= rivalMemory
	if !full {
		r.seen, r.prefix, r.mac = now, prefix, "MAC unknown"
		if mac != nil {
			r.mac = mac.String()
		}
		if say {
			r.told = now
		}
		l.foreign[src] = r
	}
	l.mu.Unlock()
	if !say {
		return
	}
	what := "itself"
	if prefix != "" {
		what = prefix
	}
	s.event(fact.Alarm, "foreign-router", fmt.Sprintf(
		"On segment %s the router %s (%s) announces %s; find its port and shut it, attendees may send their IPv6 to it.",
		l.Segment, src.WithZone(""), r.mac, what))
}

func (s *Server) event(severity fact.Severity, kind, words string) {
	s.tell(fact.Event{Time: time.Now(), Task: s.String(), Kind: kind, Severity: severity, Words: words})
}

// device is the socket of a real link.
type device struct {
	conn *ndp.Conn
	ifi  *net.Interface
	addr netip.Addr
}

func openSocket(name string) (socket, error) {
	ifi, err := net.InterfaceByName(name)
	if err != nil {
		return nil, fmt.Errorf("find device %s: %w", name, err)
	}
	if ifi.Flags&net.FlagUp == 0 {
		return nil, fmt.Errorf("device %s is down", name)
	}
	conn, addr, err := ndp.Listen(numbered(ifi), ndp.LinkLocal)
	if err != nil {
		return nil, fmt.Errorf("listen for solicitations on %s: %w", name, err)
	}
	var filter ipv6.ICMPFilter
	filter.SetAll(true)
	filter.Accept(ipv6.ICMPTypeRouterSolicitation)
	filter.Accept(ipv6.ICMPTypeRouterAdvertisement)
	err = conn.SetICMPFilter(&filter)
	if err == nil {
		err = conn.SetControlMessage(ipv6.FlagHopLimit|ipv6.FlagInterface, true)
	}
	if err == nil {
		err = conn.JoinGroup(netip.MustParseAddr("ff02::2")) // all routers
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("listen for solicitations on %s: %w", name, err)
	}
	return &device{conn, ifi, addr.WithZone(strconv.Itoa(ifi.Index))}, nil
}

// numbered is ifi with its index for a name, because package net remembers for a minute
// which index a zone's name has: a device that was made anew would not be found.
func numbered(ifi *net.Interface) *net.Interface {
	n := *ifi
	n.Name = strconv.Itoa(ifi.Index)
	return &n
}

// receive passes over what came in by other devices: a raw socket hears all of them from when
// it is made until it is bound.
func (d *device) receive(b []byte) (n, hops int, src netip.Addr, err error) {
	for {
		n, cm, src, err := d.conn.ReadRaw(b)
		if err != nil {
			return 0, 0, src, err
		}
		if cm != nil && cm.IfIndex == d.ifi.Index {
			return n, cm.HopLimit, src, nil
		}
	}
}

func (d *device) send(m *ndp.RouterAdvertisement, dst netip.Addr) error {
	return d.conn.WriteTo(m, nil, dst)
}

func (d *device) hardware() net.HardwareAddr { return d.ifi.HardwareAddr }
func (d *device) own() netip.Addr            { return d.addr }
func (d *device) close()                     { d.conn.Close() }

func (d *device) gone() bool {
	now, err := net.InterfaceByName(d.ifi.Name)
	return err != nil || now.Index != d.ifi.Index || now.Flags&net.FlagUp == 0
}
