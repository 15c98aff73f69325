//go:build linux

package xdp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"
)

// Answer is a cached answer.
type Answer struct {
	Name    []byte // of the question, on the wire, in lower case
	Type    uint16
	DO, CD  bool
	Message []byte    // the response without OPT; its id, RD, RA and CD do not matter
	TTLs    []int     // offsets of the TTLs in Message
	Stored  time.Time // when the TTLs were true
	Until   time.Time // until when it is answered from here
}

// ErrUnfit says that an answer is not for this place: its name is longer than 128 octets, or it
// has more than 16 records or 1,232 octets.
var ErrUnfit = errors.New("too large to be answered before the socket")

// ErrFull says that there is no room now. Slots of answers removed in the last seconds rest.
var ErrFull = errors.New("no room for another answer before the socket")

// rest is how long a slot is not used again: a processor may be reading the answer that was in
// it, and a virtual one can be paused while it does.
const rest = 5 * time.Second

// table says which answer is in which slot.
//
//	free ─► in use (under a hash) ─► resting ─► free
type table struct {
	size    int
	free    []uint32
	used    map[uint64]uint32 // slot by hash of the question
	names   []string          // the caller's, by slot; "" when not in use
	resting []resting         // the oldest first
	hits    []uint64          // by slot, as last read
}

type resting struct {
	slot  uint32
	since time.Time
}

func newTable(size int) table {
	n := 2 * size
	t := table{size: size, used: map[uint64]uint32{}, names: make([]string, n), hits: make([]uint64, n)}
	for i := n - 1; i >= 0; i-- {
		t.free = append(t.free, uint32(i))
	}
	return t
}

// take is a slot that nobody reads.
func (t *table) take(now time.Time) (uint32, bool) {
	for len(t.resting) > 0 && now.Sub(t.resting[0].since) >= rest {
		t.free = append(t.free, t.resting[0].slot)
		t.resting = t.resting[1:]
	}
	if len(t.free) == 0 {
		return 0, false
	}
	n := t.free[len(t.free)-1]
	t.free = t.free[:len(t.free)-1]
	return n, true
}

// leave puts a slot to rest.
func (t *table) leave(n uint32, now time.Time) {
	t.resting = append(t.resting, resting{n, now})
	t.names[n] = ""
}

// Put stores the answer, in place of another one of the same question. name is what Hits
// calls it. The error is ErrUnfit, ErrFull, or the kernel's.
func (p *Program) Put(name string, a Answer) error {
	v, err := encode(a)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	hash := p.hash(v)
	old, replaces := p.table.used[hash]
	if !replaces && len(p.table.used) >= p.table.size {
		return ErrFull
	}
	n, ok := p.table.take(now)
	if !ok {
		return ErrFull
	}
	// The slot is whole before the program can find it.
	hits, err := p.hits(n)
	if err == nil {
		err = p.objects.Answers.Put(n, v)
	}
	if err == nil {
		err = p.objects.Slots.Put(hash, n)
	}
	if err != nil {
		p.table.leave(n, now)
		return fmt.Errorf("put answer before the socket: %w", err)
	}
	if replaces {
		p.table.leave(old, now)
	}
	p.table.used[hash], p.table.names[n], p.table.hits[n] = n, name, hits
	return nil
}

// Remove takes the answer to a question away, when there is one. It is not served any more
// when Remove returns.
func (p *Program) Remove(a Answer) error {
	v, err := encode(a)
	if err != nil {
		return nil // it cannot have been put
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	hash := p.hash(v)
	n, ok := p.table.used[hash]
	if !ok {
		return nil
	}
	if err := p.objects.Slots.Delete(hash); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("remove answer before the socket: %w", err)
	}
	delete(p.table.used, hash)
	p.table.leave(n, time.Now())
	return nil
}

// Hits calls f for each answer that was served since the last call. Those of an answer that
// was replaced or removed meanwhile are not told.
func (p *Program) Hits(f func(name string, n uint64)) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, slot := range p.table.used {
		now, err := p.hits(slot)
		if err != nil {
			return err
		}
		if n := now - p.table.hits[slot]; n > 0 {
			p.table.hits[slot] = now
			f(p.table.names[slot], n)
		}
	}
	return nil
}

// hits is how often the program has answered from the slot, whatever was in it.
func (p *Program) hits(slot uint32) (uint64, error) {
	var b [8]byte
	if _, err := p.counters.ReadAt(b[:], 8*int64(slot)); err != nil {
		return 0, fmt.Errorf("read hits before the socket: %w", err)
	}
	return binary.NativeEndian.Uint64(b[:]), nil
}

// encode is the answer as the program keeps it.
func encode(a Answer) (*hotAnswer, error) {
	if len(a.Name) == 0 || len(a.Name) > maxName || len(a.TTLs) > maxTTLs || len(a.Message) > maxMessage || len(a.Message) < 12+len(a.Name)+4 {
		return nil, ErrUnfit
	}
	const qr, rd, ra, ad = 0x8000, 0x0100, 0x0080, 0x0020
	flags := binary.BigEndian.Uint16(a.Message[2:])
	v := &hotAnswer{
		Type: a.Type, NameLen: uint16(len(a.Name)), MsgLen: uint16(len(a.Message)), Ttls: uint16(len(a.TTLs)),
		Flags: qr | rd | ra | flags&0xf, Ad: flags & ad, Additional: binary.BigEndian.Uint16(a.Message[10:]),
	}
	if a.DO {
		v.Bits |= 1
	}
	if a.CD {
		v.Bits |= 2
	}
	var name [maxName]byte
	copy(name[:], a.Name)
	for i := range v.Name {
		v.Name[i] = binary.LittleEndian.Uint64(name[8*i:])
	}
	copy(v.Msg[:], a.Message)
	copy(v.Msg[12:], a.Name) // its case does not count
	for i, at := range a.TTLs {
		if at < 0 || at+4 > len(a.Message) {
			return nil, ErrUnfit
		}
		v.TtlAt[i], v.Ttl[i] = uint16(at), binary.BigEndian.Uint32(a.Message[at:])
		clear(v.Msg[at : at+4])
	}
	for _, at := range [...]int{0, 2, 10} { // id, flags, ARCOUNT
		clear(v.Msg[at : at+2])
	}
	v.Sum = sum(v.Msg[:len(a.Message)])
	clock, now := monotonic(), time.Now()
	v.Stored = clock - uint64(now.Sub(a.Stored))
	v.Until = clock + uint64(max(a.Until.Sub(now), 0))
	return v, nil
}

// sum adds 16 bit words in the order of the machine (RFC 1071), not folded; b has up to 1,232
// octets.
func sum(b []byte) (s uint32) {
	for ; len(b) >= 2; b = b[2:] {
		s += uint32(binary.LittleEndian.Uint16(b))
	}
	if len(b) == 1 {
		s += uint32(b[0])
	}
	return s
}

// hash is where the program looks for the question.
func (p *Program) hash(v *hotAnswer) uint64 {
	const prime = 0x9e3779b97f4a7c15
	h := p.seed
	for i := range (int(v.NameLen) + 7) / 8 {
		h = (h ^ v.Name[i]) * prime
		h ^= h >> 29
	}
	return (h ^ (uint64(v.Type)<<16 | uint64(v.Bits))) * prime
}
