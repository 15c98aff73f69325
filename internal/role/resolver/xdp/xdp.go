//go:build linux

// Package xdp answers the hottest questions before the kernel's network stack sees them: a
// program on the interfaces (hot.c) sends answers that this package puts into its maps, and
// lets everything else go on unchanged.
//
//	frame ─► hot.c ─ has the answer ─► out of the same interface
//	            │
//	            └─ anything else ─► kernel ─► socket
//
// It answers only while Beat is called, and is gone with the process: its links to the
// interfaces are file descriptors, and nothing is pinned.
package xdp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"
)

// Config is what a Program is told when it is loaded.
type Config struct {
	Size    int            // answers, up to MaxSize
	Rate    int            // queries per second that one client is answered
	Burst   time.Duration  // of its rate that a client may ask at once
	Clients []netip.Prefix // who is answered
}

// MaxSize is how many answers a Program can keep: half of the slots, the others rest.
const MaxSize = slots / 2

// Limits of the C program; a test compares them.
const (
	slots       = 8192
	maxName     = 128
	maxMessage  = 1232
	maxTTLs     = 16
	maxPrefixes = 4096
	maxServed   = 1024
)

// Program is the program and its maps in the kernel. Make it with Load, and Close it. Safe for
// concurrent use.
type Program struct {
	seed     uint64
	objects  objects
	counters *ebpf.Memory // of the map hits

	mu     sync.Mutex
	table  table
	ports  map[string]*port
	served map[netip.Addr]bool
}

// objects are what is in the kernel.
type objects struct {
	hotObjects
	// Behind is the same program for frames in one piece, which have more room behind the driver.
	Behind *ebpf.Program `ebpf:"behind"`
}

// Load puts the program into the kernel, attached to nothing. It needs Linux 5.18 and the
// capabilities CAP_BPF and CAP_NET_ADMIN; the error says what lacks.
func Load(cfg Config) (*Program, error) {
	if cfg.Size < 1 || cfg.Size > MaxSize || cfg.Rate < 1 || cfg.Burst <= 0 || len(cfg.Clients) > maxPrefixes {
		return nil, fmt.Errorf("load XDP program: %d answers, %d queries a second, burst of %v, %d prefixes: out of bounds", cfg.Size, cfg.Rate, cfg.Burst, len(cfg.Clients))
	}
	if err := rlimit.RemoveMemlock(); err != nil { // Linux before 5.11 counts maps as locked memory
		return nil, fmt.Errorf("load XDP program: raise the limit of locked memory: %w", err)
	}
	spec, err := loadHot()
	if err != nil {
		return nil, fmt.Errorf("load XDP program: %w", err)
	}
	p := &Program{seed: rand.Uint64(), ports: map[string]*port{}, served: map[netip.Addr]bool{}}
	p.table = newTable(cfg.Size)
	for _, name := range []string{hotMapAnswers, hotMapHits, hotMapSlots} {
		spec.Maps[name].MaxEntries = uint32(2 * cfg.Size)
	}
	step := time.Second / time.Duration(cfg.Rate)
	for name, v := range map[string]uint64{hotVarSeed: p.seed, hotVarStep: uint64(step), hotVarBurst: uint64(cfg.Burst)} {
		if err := spec.Variables[name].Set(v); err != nil {
			return nil, fmt.Errorf("load XDP program: set %s: %w", name, err)
		}
	}
	behind := spec.Programs[hotProgHot].Copy()
	behind.Flags &^= unix.BPF_F_XDP_HAS_FRAGS
	spec.Programs["behind"] = behind
	if err := spec.LoadAndAssign(&p.objects, nil); err != nil {
		return nil, fmt.Errorf("load XDP program: %w%s", err, remedy(err))
	}
	if p.counters, err = p.objects.Hits.Memory(); err != nil {
		p.Close()
		return nil, fmt.Errorf("load XDP program: %w", err)
	}
	for _, c := range cfg.Clients {
		key := hotPrefix{Bits: uint32(c.Bits()), Addr: address(c.Addr())}
		if c.Addr().Is4() {
			key.Bits += 96
		}
		if err := p.objects.Segments.Put(key, uint8(1)); err != nil {
			p.Close()
			return nil, fmt.Errorf("load XDP program: note clients %s: %w", c, err)
		}
	}
	return p, nil
}

// remedy is what to do about an error of loading.
func remedy(err error) string {
	switch {
	case errors.Is(err, unix.EPERM):
		return "; run as root, or with CAP_BPF and CAP_NET_ADMIN"
	case errors.Is(err, unix.EINVAL), errors.Is(err, ebpf.ErrNotSupported):
		return "; it needs Linux 5.18 with BPF"
	}
	return ""
}

// address is the address as the program's maps have it.
func address(a netip.Addr) (x hotAddress) {
	b := a.As16()
	for i := range x.W {
		x.W[i] = binary.NativeEndian.Uint32(b[4*i:])
	}
	return x
}

// Beat lets the program answer for as long as d from now.
func (p *Program) Beat(d time.Duration) error {
	return p.objects.Alive.Put(uint32(0), monotonic()+uint64(d))
}

// monotonic is the clock that the program reads, in nanoseconds.
func monotonic() uint64 {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &t) != nil { // only for an unknown clock
		return 0
	}
	return uint64(t.Nano())
}

// Serve makes the addresses, and no others, those at which queries are answered. Call it as
// addresses come and go: a node must not answer for one that another node has taken.
func (p *Program) Serve(addrs []netip.Addr) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	want := map[netip.Addr]bool{}
	for _, a := range addrs {
		want[a.Unmap().WithZone("")] = true
	}
	for a := range p.served {
		if !want[a] {
			if err := p.objects.Served.Delete(address(a)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				return fmt.Errorf("stop answering at %s: %w", a, err)
			}
			delete(p.served, a)
		}
	}
	for a := range want {
		if p.served[a] {
			continue
		}
		if err := p.objects.Served.Put(address(a), uint8(1)); err != nil {
			return fmt.Errorf("answer at %s: %w", a, err)
		}
		p.served[a] = true
	}
	return nil
}

// Counts is what became of the queries that came to the addresses served, since Load.
type Counts struct {
	Answered uint64
	Dropped  uint64            // of clients that asked more than four times their rate
	Passed   map[string]uint64 // to the socket, by why
}

// The C program's enum count.
const (
	countAnswered = iota
	countDropped
	countPassed // and the following, in the order of reasons
)

// reasons are why a query is left to the socket.
var reasons = [...]string{"asleep", "foreign", "unusual", "cold", "expiring", "large", "room", "client-rate"}

// Counts adds up what all processors have counted.
func (p *Program) Counts() (c Counts, err error) {
	c.Passed = map[string]uint64{}
	sum := func(n int) (total uint64) {
		var each []uint64
		if e := p.objects.Counts.Lookup(uint32(n), &each); e != nil {
			err = fmt.Errorf("read XDP counters: %w", e)
		}
		for _, v := range each {
			total += v
		}
		return total
	}
	c.Answered, c.Dropped = sum(countAnswered), sum(countDropped)
	for i, why := range reasons {
		c.Passed[why] = sum(countPassed + i)
	}
	return c, err
}

// Close takes the program off all interfaces and out of the kernel.
func (p *Program) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for _, x := range p.ports {
		errs = append(errs, x.detach())
	}
	clear(p.ports)
	return errors.Join(append(errs, p.objects.Behind.Close(), p.objects.Close())...)
}

// Verdict is what the program does with a frame.
type Verdict uint32

// Verdicts (linux/bpf.h).
const (
	Aborted Verdict = iota
	Drop
	Pass
	Transmit
)

// Try runs the program once on a frame, as if it came by an interface with that MAC, from the
// driver or (behind) from a veth pair behind it, and returns the frame that leaves it. It needs
// no interface.
func (p *Program) Try(mac [6]byte, behind bool, frame []byte) ([]byte, Verdict, error) {
	const loopback = 1 // of this namespace: where the kernel says that such a frame is from
	if err := p.objects.Ports.Put(uint32(loopback), portOf(mac, behind, behind)); err != nil {
		return nil, 0, fmt.Errorf("try XDP program: %w", err)
	}
	defer p.objects.Ports.Delete(uint32(loopback))
	run := ebpf.RunOptions{Data: frame, DataOut: make([]byte, 4096)}
	v, err := p.objects.Hot.Run(&run)
	if err != nil {
		return nil, 0, fmt.Errorf("try XDP program: %w", err)
	}
	return run.DataOut, Verdict(v), nil
}
