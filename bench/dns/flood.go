//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/hotstage/hotstage/bench/rig"
	"github.com/hotstage/hotstage/internal/wire"
	"github.com/vishvananda/netlink"
	"golang.org/x/net/ipv4"
)

// What the client asks that is not the flood, and what one client may ask: a server room's
// resolver behind ours is the worst of them.
const (
	askedRate  = 500
	clientRate = 1000
)

// flood is one client asking at a steady rate for names in the cache while another asks for
// random names as fast as it can. Ours and dnsdist hold each client to the same rate; the
// others have no such thing.
func (b *bench) flood() error {
	systems := []string{ours}
	for _, sys := range b.peers {
		if sys == dnsdist || sys == unbound {
			systems = append(systems, sys)
		}
	}
	fmt.Printf("\nflood: a client asks %d/s while another floods with random names; ours and dnsdist give one %d/s\n\n", askedRate, clientRate)
	r := b.Report.Part("flood")
	err := b.Each("flood", systems, func(sys string, n int) error { return b.floodTrial(r, sys) })
	if err != nil {
		return err
	}
	r.Print(os.Stdout, systems)
	b.Report.AtLeast("dns-flood-answered-percent", r.Median(ours, figAnswered), 99)
	return nil
}

const figAnswered = "of the other's, answered within 1 s, %"

func (b *bench) floodTrial(r rig.Results, sys string) error {
	limit := fmt.Sprintf("client_rate: %d", clientRate)
	if keys := b.sockets(); keys != "" {
		limit += ", " + keys
	}
	s, err := b.start(sys, options{resolver: limit, rules: fmt.Sprintf("addAction(MaxQPSIPRule(%d), DropAction())\n", clientRate)})
	if err != nil {
		return err
	}
	defer s.close()
	// Warm at the rate that is asked later: more would be over the client's rate.
	if _, err := s.probe(load{from: clientAddr, rate: askedRate, most: 4 * time.Second, wait: patience, ports: 16}); err != nil {
		return err
	}
	blaster, err := rig.Start(s.client, s.dir, "/proc/self/exe", "-blast", floodAddr+","+s.addr.String()+":53")
	if err != nil {
		return err
	}
	defer blaster.Stop()
	time.Sleep(time.Second)
	before, err := received(s)
	if err != nil {
		return err
	}
	cpu, begun := s.cpu(), time.Now()
	t, err := s.probe(load{from: clientAddr, rate: askedRate, most: 8 * time.Second, wait: patience, ports: 16})
	if err != nil {
		return err
	}
	took := time.Since(begun).Seconds()
	after, err := received(s)
	if err != nil {
		return err
	}
	if blaster.Ended() {
		return fmt.Errorf("the flood ended: %s", blaster.Log())
	}
	r.Add(sys, "flood at the server's link, /s", (after-before)/took)
	r.Add(sys, figAnswered, 100*float64(t.sent-t.lost)/float64(t.sent))
	r.Add(sys, "of the other's, p50, ms", t.p50)
	r.Add(sys, "of the other's, p99, ms", t.p99)
	r.Add(sys, "CPU, % of a core", 100*(s.cpu()-cpu).Seconds()/took)
	return nil
}

// received is how many packets have come to the server's link.
func received(s *stage) (n float64, err error) {
	err = s.server.Do(func() error {
		l, err := netlink.LinkByName("v0")
		if err == nil {
			n = float64(l.Attrs().Statistics.RxPackets)
		}
		return err
	})
	return n, err
}

// blastBatch is how many queries of the flood one system call sends.
const blastBatch = 64

// runBlast sends queries for random names from one address until ctx ends, as fast as it can.
// It reads no answer.
func runBlast(ctx context.Context, from, to string) error {
	local, err := netip.ParseAddr(from)
	if err != nil {
		return err
	}
	remote, err := netip.ParseAddrPort(to)
	if err != nil {
		return err
	}
	u, err := net.DialUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(local, 0)), net.UDPAddrFromAddrPort(remote))
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { u.Close() })
	defer stop()
	c := ipv4.NewPacketConn(u)
	out := make([]ipv4.Message, blastBatch)
	rng := rand.New(rand.NewPCG(uint64(os.Getpid()), 1))
	for i := range out {
		name, err := wire.PackDNSName(nil, fmt.Sprintf("r%016x.site.tld", rng.Uint64()))
		if err != nil {
			return err
		}
		out[i].Buffers = [][]byte{wire.AppendDNSQuery(nil, 0, wire.DNSFlagRD, name, wire.DNSTypeA, wire.DNSClassIN, 1232, false)}
	}
	for {
		for i := range out {
			b := out[i].Buffers[0]
			id := rng.Uint64()
			b[0], b[1] = byte(id), byte(id>>8)
			for j := range 16 { // of the name's first label, behind its length and the r
				b[wire.DNSHeader+2+j] = "0123456789abcdef"[id>>(4*j)&0xf]
			}
		}
		if _, err := c.WriteBatch(out, 0); errors.Is(err, net.ErrClosed) {
			return nil
		}
	}
}
