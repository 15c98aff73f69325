//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/hotstage/hotstage/bench/rig"
	"github.com/hotstage/hotstage/internal/kernel"
	"golang.org/x/sys/unix"
)

// runEcho answers every packet with itself, marked as a response, until ctx ends: the least
// that a DNS server in Go can do with the system calls of ours.
func runEcho(ctx context.Context, addr string) error {
	conns, err := listenEcho(ctx, addr)
	if err != nil {
		return err
	}
	return serveEcho(ctx, conns)
}

// listenEcho opens a socket for each processor. Who gets them has serveEcho close them.
func listenEcho(ctx context.Context, addr string) (conns []*net.UDPConn, err error) {
	shared := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		e := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) })
		return errors.Join(e, err)
	}}
	for range runtime.NumCPU() {
		c, err := shared.ListenPacket(ctx, "udp4", addr)
		if err != nil {
			for _, c := range conns {
				c.Close()
			}
			return nil, fmt.Errorf("echo: %w", err)
		}
		conns = append(conns, c.(*net.UDPConn))
	}
	return conns, nil
}

// serveEcho serves the sockets until ctx ends, and closes them.
func serveEcho(ctx context.Context, conns []*net.UDPConn) (err error) {
	var all sync.WaitGroup
	failed := make(chan error, len(conns))
	for _, u := range conns {
		all.Go(func() {
			if err := echoOn(u); err != nil {
				failed <- err
			}
		})
	}
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	for _, c := range conns {
		c.Close()
	}
	all.Wait()
	return err
}

// echoOn serves one socket until it is closed, with the calls that the resolver's loop makes.
func echoOn(u *net.UDPConn) error {
	if err := u.SetReadBuffer(1 << 20); err != nil {
		return err
	}
	d, err := kernel.NewDatagrams(u, 2048, 1232)
	if err != nil {
		return err
	}
	for {
		n, err := d.Receive()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		for i := range n {
			b := append(d.Room(), d.Packet(i)[:min(len(d.Packet(i)), 1232)]...)
			if len(b) > 2 {
				b[2] |= 0x80 // a response
				d.Reply(i, b)
			}
		}
		if err := d.Flush(); errors.Is(err, net.ErrClosed) {
			return nil
		}
	}
}

// awaitEcho waits until the echo answers.
func (s *stage) awaitEcho() error {
	for begun := time.Now(); time.Since(begun) < 10*time.Second; time.Sleep(50 * time.Millisecond) {
		r, err := s.probe(load{from: clientAddr, rate: 100, most: 50 * time.Millisecond, wait: 200 * time.Millisecond, ports: 1})
		if err == nil && r.lost < r.sent {
			return nil
		}
	}
	return fmt.Errorf("the echo does not answer\n%s", s.procs[0].Log())
}

func isEcho(sys string) bool { return sys == echo || sys == echoRules }

// behindRules starts the echo where ours was: at its address, with the packet filter that ours
// leaves no node without. It tells what of an answer's cost is the filter's.
func (s *stage) behindRules(o options) error {
	if err := s.run(ours, o); err != nil {
		return err
	}
	if err := rig.Await(s.b.Ctx, s.client, s.addr, "www.site.tld", s.procs[len(s.procs)-1]); err != nil {
		return err
	}
	rules, _, err := rig.Run(s.b.Ctx, s.server, "nft", "list", "ruleset")
	if err != nil {
		return fmt.Errorf("nft: %w\n%s", err, rules)
	}
	for i := len(s.procs) - 1; i >= 0; i-- {
		s.procs[i].Stop()
	}
	s.procs = nil
	file := filepath.Join(s.dir, "rules")
	if err := os.WriteFile(file, []byte("flush ruleset\n"+rules), 0o644); err != nil {
		return err
	}
	if out, _, err := rig.Run(s.b.Ctx, s.server, "nft", "-f", file); err != nil {
		return fmt.Errorf("nft: %w\n%s", err, out)
	}
	err = s.server.Do(func() error { return rig.Up("v0", s.addr.String()+"/16") })
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	p, err := rig.Start(s.server, s.dir, "/proc/self/exe", "-echo", s.addr.String()+":53")
	s.procs = append(s.procs, p)
	return err
}
