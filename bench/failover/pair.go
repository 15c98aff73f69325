//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/hotstage/hotstage/bench/rig"
	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/vishvananda/netlink"
)

// pair is two nodes with one service address, a client and an observer on a bridge:
//
//	node 0 ─ e0 ═══ p0 ┐         ┌ p2 ═══ e0 ─ client
//	node 1 ─ e0 ═══ p1 ┴ bridge ─┴ p3 ═══ e0 ─ observer
type pair struct {
	sys              string
	dir              string
	bridge           *kernel.Namespace
	nodes            [2]*node
	client, observer *kernel.Namespace
	addr             netip.Addr // the service address
	master           int        // of nodes
}

// node is one of the two.
type node struct {
	ns     *kernel.Namespace
	mac    net.HardwareAddr
	router *rig.Process // who holds the address
	others []*rig.Process
}

// newPair starts both nodes. The caller closes the pair.
func (b *bench) newPair(sys string) (p *pair, err error) {
	p = &pair{sys: sys, nodes: [2]*node{{}, {}}}
	defer func() {
		if err != nil {
			p.close()
			p = nil
		}
	}()
	if p.dir, err = os.MkdirTemp(b.Dir, "run"); err != nil {
		return p, err
	}
	all, err := rig.Namespaces(5)
	if err != nil {
		return p, err
	}
	p.bridge, p.nodes[0].ns, p.nodes[1].ns, p.client, p.observer = all[0], all[1], all[2], all[3], all[4]
	err = p.bridge.Do(func() error {
		if err := kernel.AddBridge("br0"); err != nil {
			return err
		}
		return rig.Up("br0")
	})
	if err != nil {
		return p, err
	}
	addrs := [][]string{{"10.55.0.1/24"}, {"10.55.0.2/24"}, {"10.55.0.250/24"}, nil}
	if sys == ours {
		addrs[0], addrs[1] = nil, nil // it gives them itself
	}
	for i, ns := range all[1:] {
		port := fmt.Sprint("p", i)
		if err := rig.Join(rig.End{In: ns, Name: "e0", Addrs: addrs[i]}, rig.End{In: p.bridge, Name: port}); err != nil {
			return p, err
		}
		if err := p.bridge.Do(func() error { return kernel.SetMaster(port, "br0") }); err != nil {
			return p, err
		}
	}
	for _, n := range p.nodes {
		err := n.ns.Do(func() error {
			dev, err := net.InterfaceByName("e0")
			if err == nil {
				n.mac = dev.HardwareAddr
			}
			return err
		})
		if err != nil {
			return p, err
		}
	}
	if sys == ours {
		return p, p.startOurs(b.Hotstage)
	}
	return p, p.startKeepalived(map[string]string{keepalived: "1", keepalivedTenth: "0.1"}[sys])
}

const keepalivedConfig = `global_defs {
  vrrp_version 3
}
vrrp_instance bench {
  state BACKUP
  interface e0
  virtual_router_id 51
  priority %d
  advert_int %s
  virtual_ipaddress {
    %s/24
  }
}
`

// startKeepalived runs keepalived and an unbound that answers on the service address, at all
// times on both nodes, as such a pair is set up.
func (p *pair) startKeepalived(interval string) error {
	p.addr = netip.MustParseAddr("10.55.0.100")
	for i, n := range p.nodes {
		u, err := rig.Unbound{Listen: []string{p.addr.String() + "@53"}, Lines: siteZones(), Threads: 1}.Start(n.ns, p.dir)
		if err != nil {
			return err
		}
		n.others = append(n.others, u)
		base := filepath.Join(p.dir, fmt.Sprint("keepalived", i))
		if err := os.WriteFile(base+".conf", fmt.Appendf(nil, keepalivedConfig, 150-50*i, interval, p.addr), 0o644); err != nil {
			return err
		}
		if n.router, err = rig.Start(n.ns, p.dir, "keepalived", "-n", "-l", "-P", "-f", base+".conf", "-p", base+".pid", "-r", base+".vrrp"); err != nil {
			return err
		}
	}
	return nil
}

// ourPlan has two resolvers in one segment, which gives it a service address.
const ourPlan = `event: {name: Bench, attendees: 50}
sites: {venue: {uplinks: {isp: {}}}}
segments: {attendee: {ipv4: 10.55.0.0/24}}
resolver: {recursion: ['127.0.0.1:5301'], client_rate: 100000}
nodes:
  gw1: {roles: [router, dhcp], interfaces: {eth0: {uplink: isp}, eth1: {segment: attendee}}}
  srv1: {roles: [resolver], interfaces: {e0: {segment: attendee}}}
  srv2: {roles: [resolver], interfaces: {e0: {segment: attendee}}}
`

// startOurs runs our program on both nodes, each with an unbound to ask.
func (p *pair) startOurs(program string) error {
	for i, n := range p.nodes {
		u, err := rig.Unbound{Listen: []string{"127.0.0.1@5301"}, Lines: siteZones(), Threads: 1}.Start(n.ns, p.dir)
		if err != nil {
			return err
		}
		n.others = append(n.others, u)
		h := &rig.Hotstage{Program: program, Dir: p.dir}
		if err := h.Plan(ourPlan); err != nil {
			return err
		}
		if p.addr, err = h.Service("attendee"); err != nil {
			return err
		}
		if n.router, err = h.Start(n.ns, fmt.Sprintf("srv%d", i+1)); err != nil {
			return err
		}
	}
	return nil
}

// noService is why our program cannot be measured, or nil.
func (b *bench) noService() error {
	dir, err := os.MkdirTemp(b.Dir, "plan")
	if err != nil {
		return err
	}
	h := &rig.Hotstage{Program: b.Hotstage, Dir: dir}
	if err := h.Plan(ourPlan); err != nil {
		return err
	}
	_, err = h.Service("attendee")
	return err
}

// settle waits until one node has had the address for a while and answers at it.
func (p *pair) settle(ctx context.Context, o *observer) error {
	for begun := time.Now(); time.Since(begun) < 30*time.Second; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
		mac, ok := o.holder(4 * time.Second) // more than keepalived's three intervals
		if !ok {
			continue
		}
		for i, n := range p.nodes {
			if [6]byte(n.mac) == mac {
				p.master = i
				return rig.Await(ctx, p.client, p.addr, "www.site.tld", n.router)
			}
		}
		return fmt.Errorf("%s is at %x, which is no node's", p.addr, mac)
	}
	return fmt.Errorf("nobody alone holds %s after half a minute:\n%s\n%s", p.addr, p.nodes[0].router.Log(), p.nodes[1].router.Log())
}

// act does the acts at their times and notes them.
func (p *pair) act(ctx context.Context, acts []act, began time.Time, times []time.Time) error {
	for i, a := range acts {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Until(began.Add(firstAct + time.Duration(i)*actEvery))):
		}
		times[i] = time.Now()
		if err := a.do(p); err != nil {
			return fmt.Errorf("%s: %w", a.name, err)
		}
	}
	return nil
}

// link sets the bridge's port to the master up or down: its own end keeps its state but loses
// the carrier, as by a pulled cable.
func (p *pair) link(up bool) error {
	return p.bridge.Do(func() error {
		l, err := netlink.LinkByName(fmt.Sprint("p", p.master))
		if err != nil {
			return err
		}
		if up {
			return netlink.LinkSetUp(l)
		}
		return netlink.LinkSetDown(l)
	})
}

// close ends all processes, also such as a dead one has left behind.
func (p *pair) close() {
	for _, n := range p.nodes {
		if n.router != nil {
			n.router.Stop()
		}
		for _, o := range n.others {
			o.Stop()
		}
	}
	rig.Sweep()
	rig.Close([]*kernel.Namespace{p.bridge, p.nodes[0].ns, p.nodes[1].ns, p.client, p.observer})
	if err := os.RemoveAll(p.dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		fmt.Fprintln(os.Stderr, err)
	}
}
