//go:build linux

package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"time"

	"github.com/hotstage/hotstage/internal/wire"
	"golang.org/x/sys/unix"
)

// load is what a prober asks: at a fixed rate whatever comes back, so that a slow answer is
// seen by every query behind it.
type load struct {
	from  string // the client's address
	rate  int    // queries a second
	most  time.Duration
	wait  time.Duration // for the last answers
	ports int           // sockets, each with a port of its own
}

// times are what a prober saw, in ms.
type times struct {
	sent, lost          int
	p50, p99, p999, max float64
	late                int // answers after a second, which no client waits for; counted as lost
}

// prober sends on many sockets and reads the answers now and then. When they came it has from
// the kernel (SO_TIMESTAMPNS), so that reading late does not count.
type prober struct {
	load
	to    unix.Sockaddr
	fds   []int
	names [][]byte // on the wire
	sent  [][]int64
	seen  []int64 // latencies, ns
	late  int
	buf   []byte
	oob   []byte
}

// patience is how long a client waits for an answer.
const patience = time.Second

// probe asks for the hosts, Zipf, and times each answer.
func (s *stage) probe(l load) (times, error) {
	if err := s.b.Ctx.Err(); err != nil {
		return times{}, err
	}
	p := &prober{load: l, to: &unix.SockaddrInet4{Port: 53, Addr: s.addr.As4()}, buf: make([]byte, 4096), oob: make([]byte, 128)}
	hosts := newHosts(2)
	for range 20_000 {
		name, err := wire.PackDNSName(nil, hosts())
		if err != nil {
			return times{}, err
		}
		p.names = append(p.names, name)
	}
	if err := s.client.Do(p.open); err != nil {
		return times{}, fmt.Errorf("probe: %w", err)
	}
	defer p.close()
	n, err := p.ask(s.b.Ctx)
	if err != nil {
		return times{}, fmt.Errorf("probe: %w", err)
	}
	return p.sum(n), nil
}

// open makes the sockets in the calling thread's namespace.
func (p *prober) open() error {
	from := netip.MustParseAddr(p.from)
	for range p.ports {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		p.fds = append(p.fds, fd)
		p.sent = append(p.sent, make([]int64, 1<<16))
		err = errors.Join(
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20),
			unix.Bind(fd, &unix.SockaddrInet4{Addr: from.As4()}),
			unix.Connect(fd, p.to),
		)
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *prober) close() {
	for _, fd := range p.fds {
		unix.Close(fd)
	}
}

// ask sends all queries, each at its time, and tells how many. It ends early when ctx does.
func (p *prober) ask(ctx context.Context) (n int, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0) // else sleeps are 50 us too long
	total := int(float64(p.rate) * p.most.Seconds())
	each := time.Second / time.Duration(p.rate)
	query := make([]byte, 0, 512)
	begun := time.Now()
	drained := begun
	for n < total {
		now := time.Now()
		if due := begun.Add(time.Duration(n) * each); due.After(now) {
			if now.Sub(drained) > 2*time.Millisecond {
				p.drain()
				if drained = now; ctx.Err() != nil {
					return n, ctx.Err()
				}
				continue
			}
			d := unix.NsecToTimespec(int64(due.Sub(now)))
			_ = unix.Nanosleep(&d, nil)
			continue
		}
		i := n % len(p.fds)
		id := uint16(n / len(p.fds))
		query = wire.AppendDNSQuery(query[:0], id, wire.DNSFlagRD, p.names[n%len(p.names)], wire.DNSTypeA, wire.DNSClassIN, 1232, false)
		p.sent[i][id] = clock()
		if err := unix.Send(p.fds[i], query, 0); err != nil && !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.ENOBUFS) {
			return n, err
		}
		n++
	}
	for end := time.Now().Add(p.wait); time.Now().Before(end) && len(p.seen)+p.late < n; time.Sleep(time.Millisecond) {
		p.drain()
	}
	p.drain()
	return n, nil
}

// clock is the time that SO_TIMESTAMPNS gives.
func clock() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_REALTIME, &ts)
	return ts.Nano()
}

// drain reads what has come.
func (p *prober) drain() {
	for i, fd := range p.fds {
		for {
			n, oobn, _, _, err := unix.Recvmsg(fd, p.buf, p.oob, unix.MSG_DONTWAIT)
			if err != nil {
				break // also an ICMP error, which means a query lost
			}
			if n < wire.DNSHeader || p.buf[3]&0xf != wire.DNSNoError {
				continue
			}
			id := binary.BigEndian.Uint16(p.buf)
			at := arrival(p.oob[:oobn])
			if p.sent[i][id] == 0 || at == 0 {
				continue
			}
			if d := at - p.sent[i][id]; d > int64(patience) {
				p.late++
			} else {
				p.seen = append(p.seen, max(d, 0))
			}
			p.sent[i][id] = 0
		}
	}
}

// arrival is the kernel's time of a packet's arrival, or 0.
func arrival(oob []byte) int64 {
	if len(oob) < unix.SizeofCmsghdr+16 {
		return 0
	}
	sec := binary.NativeEndian.Uint64(oob[unix.SizeofCmsghdr:])
	nsec := binary.NativeEndian.Uint64(oob[unix.SizeofCmsghdr+8:])
	return int64(sec)*1e9 + int64(nsec)
}

// sum is what came of n queries.
func (p *prober) sum(n int) times {
	t := times{sent: n, lost: n - len(p.seen), late: p.late}
	if len(p.seen) == 0 {
		return t
	}
	slices.Sort(p.seen)
	at := func(share float64) float64 {
		return float64(p.seen[min(len(p.seen)-1, int(share*float64(len(p.seen))))]) / 1e6
	}
	t.p50, t.p99, t.p999, t.max = at(0.5), at(0.99), at(0.999), at(1)
	return t
}
