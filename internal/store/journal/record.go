package journal

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"net"
	"net/netip"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
)

// A record is one group of leases:
//
//	magic 4 · checksum 4 (CRC-32C of all that follows) · length 4 (of the leases) ·
//	generation 8 · sequence 8 · leases
//
// Numbers are little-endian; a string is its length (uvarint) and its bytes.
const (
	magic      = 0x6a736f68 // "hosj"
	recordHead = 28
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type record struct {
	generation, sequence uint64
	leases               []fact.Lease
}

// states are written as their place here.
var states = [...]fact.LeaseState{fact.LeaseBound, fact.LeaseReleased, fact.LeaseExpired, fact.LeaseDeclined}

// appendRecord appends a record to b; the error is of a lease that no store would keep.
func appendRecord(b []byte, generation, sequence uint64, leases []fact.Lease) ([]byte, error) {
	start := len(b)
	b = binary.LittleEndian.AppendUint32(b, magic)
	b = append(b, make([]byte, 8)...)
	b = binary.LittleEndian.AppendUint64(b, generation)
	b = binary.LittleEndian.AppendUint64(b, sequence)
	for i := range leases {
		var err error
		if b, err = appendLease(b, &leases[i]); err != nil {
			return b, err
		}
	}
	binary.LittleEndian.PutUint32(b[start+8:], uint32(len(b)-start-recordHead))
	binary.LittleEndian.PutUint32(b[start+4:], crc32.Checksum(b[start+8:], castagnoli))
	return b, nil
}

func appendLease(b []byte, l *fact.Lease) ([]byte, error) {
	state := -1
	for i, s := range states {
		if s == l.State {
			state = i
		}
	}
	if state < 0 || !l.Addr.IsValid() {
		return b, fmt.Errorf("lease of %v is in no known state: %q", l.Addr, l.State)
	}
	b = append(b, byte(state))
	b = appendText(b, l.Segment)
	b = appendText(b, l.Client)
	b = appendText(b, l.Hostname)
	b = appendText(b, l.Boot)
	b = append(binary.AppendUvarint(b, uint64(len(l.MAC))), l.MAC...)
	a := l.Addr.As16()
	b = append(b, a[:]...)
	b = binary.LittleEndian.AppendUint64(b, nanos(l.Start))
	b = binary.LittleEndian.AppendUint64(b, nanos(l.Expires))
	return binary.LittleEndian.AppendUint64(b, uint64(l.ExpiresBoot)), nil
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// nanos is a time as the file has it: nanoseconds since 1970, 0 for none.
func nanos(t time.Time) uint64 {
	if t.IsZero() {
		return 0
	}
	return uint64(t.UnixNano())
}

func moment(n uint64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, int64(n)).UTC()
}

// readRecord reads the record at the start of b; not ok when there is no whole one.
func readRecord(b []byte) (r record, rest []byte, ok bool) {
	if len(b) < recordHead || binary.LittleEndian.Uint32(b) != magic {
		return r, b, false
	}
	n := int(binary.LittleEndian.Uint32(b[8:]))
	if n > len(b)-recordHead || binary.LittleEndian.Uint32(b[4:]) != crc32.Checksum(b[8:recordHead+n], castagnoli) {
		return r, b, false
	}
	r.generation, r.sequence = binary.LittleEndian.Uint64(b[12:]), binary.LittleEndian.Uint64(b[20:])
	d := decoder{b: b[recordHead : recordHead+n]}
	for len(d.b) > 0 && !d.bad {
		r.leases = append(r.leases, d.lease())
	}
	return r, b[recordHead+n:], !d.bad
}

// decoder takes values off b; bad when there were not as many.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) take(n uint64) []byte {
	if n > uint64(len(d.b)) {
		d.bad, d.b = true, nil
		return nil
	}
	out := d.b[:n:n]
	d.b = d.b[n:]
	return out
}

func (d *decoder) bytes() []byte {
	n, size := binary.Uvarint(d.b)
	if size <= 0 {
		d.bad, d.b = true, nil
		return nil
	}
	d.b = d.b[size:]
	return d.take(n)
}

func (d *decoder) number() uint64 {
	if b := d.take(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

func (d *decoder) lease() (l fact.Lease) {
	if s := d.take(1); s != nil && int(s[0]) < len(states) {
		l.State = states[s[0]]
	} else {
		d.bad = true
	}
	l.Segment, l.Client, l.Hostname, l.Boot = string(d.bytes()), string(d.bytes()), string(d.bytes()), string(d.bytes())
	if mac := d.bytes(); len(mac) > 0 {
		l.MAC = net.HardwareAddr(append([]byte(nil), mac...))
	}
	if a := d.take(16); a != nil {
		l.Addr = netip.AddrFrom16([16]byte(a)).Unmap()
	}
	l.Start, l.Expires, l.ExpiresBoot = moment(d.number()), moment(d.number()), time.Duration(d.number())
	return l
}
