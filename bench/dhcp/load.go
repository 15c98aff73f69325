//go:build linux

package main

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"net/netip"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// rates is what one load saw.
type rates struct {
	rate, lost, p50, p99, cpu, acks float64
	behind                          float64 // seconds until the database had them too
}

var (
	sentLine = regexp.MustCompile(`sent packets: (\d+)`)
	gotLine  = regexp.MustCompile(`received packets: (\d+)`)
	pairLine = regexp.MustCompile(`sent / received: ([0-9.]+) / ([0-9.]+)`)
)

// perfdhcp offers that many exchanges a second for a while, with clients that are new.
func (s *server) perfdhcp(rate int, d time.Duration, trial int) (rates, error) {
	before := s.cpu()
	var out strings.Builder
	cmd := exec.Command("perfdhcp", "-4", "-r", strconv.Itoa(rate), "-R", "2000000", "-p", strconv.Itoa(int(d.Seconds())), "-W", "700000", "-l", "w0",
		"-b", fmt.Sprintf("mac=00:0c:%02x:00:00:00", trial+1), "-x", "t", s.addrs[0].String())
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := s.load.Start(cmd); err != nil {
		return rates{}, err
	}
	cmd.Wait() // 3 when a packet was dropped: the figures say it
	text := out.String()
	sent, got := sentLine.FindAllStringSubmatch(text, -1), gotLine.FindAllStringSubmatch(text, -1)
	if len(sent) < 2 || len(got) < 2 {
		return rates{}, fmt.Errorf("perfdhcp: %s", text)
	}
	asked, _ := strconv.ParseFloat(sent[0][1], 64)
	acks, _ := strconv.ParseFloat(got[1][1], 64)
	s.given += int(acks)
	if _, err := s.copied(); err != nil {
		return rates{}, err
	}
	r := rates{rate: acks / d.Seconds(), lost: 100 * (asked - acks) / asked, acks: acks, cpu: float64((s.cpu() - before).Microseconds()) / acks}
	r.p50, r.p99 = exchangeTimes(text)
	return r, nil
}

// exchangeTimes pairs each OFFER with the REQUEST that it made perfdhcp send, and adds both
// times, in ms.
func exchangeTimes(text string) (p50, p99 float64) {
	type pair struct{ sent, got float64 }
	read := func(text string) (all []pair) {
		for _, m := range pairLine.FindAllStringSubmatch(text, -1) {
			a, err1 := strconv.ParseFloat(m[1], 64)
			b, err2 := strconv.ParseFloat(m[2], 64)
			if err1 == nil && err2 == nil && b >= a {
				all = append(all, pair{a, b})
			}
		}
		return all
	}
	offers, acks := timestamps(text, "DISCOVER-OFFER", read), timestamps(text, "REQUEST-ACK", read)
	slices.SortFunc(offers, func(a, b pair) int { return cmp.Compare(a.got, b.got) })
	slices.SortFunc(acks, func(a, b pair) int { return cmp.Compare(a.sent, b.sent) })
	var all []float64
	for i, j := 0, 0; i < len(offers); i++ {
		for j < len(acks) && acks[j].sent < offers[i].got-0.0002 { // an ACK whose OFFER has no record
			j++
		}
		if j == len(acks) {
			break
		}
		all = append(all, 1e3*(offers[i].got-offers[i].sent+acks[j].got-acks[j].sent))
		j++
	}
	slices.Sort(all)
	if len(all) == 0 {
		return math.NaN(), math.NaN()
	}
	return all[len(all)/2], all[len(all)*99/100]
}

// timestamps reads the section of perfdhcp's output that lists one kind of exchange.
func timestamps[T any](text, kind string, read func(string) []T) []T {
	at := strings.Index(text, "***Timestamps for packets: "+kind)
	if at < 0 {
		return nil
	}
	section := text[at+3:]
	if end := strings.Index(section[3:], "***Timestamps"); end >= 0 {
		section = section[:end+3]
	}
	return read(section)
}

// relay is the load's socket: it plays a relay, as perfdhcp does, with batched system calls.
type relay struct {
	conn    *net.UDPConn
	batch   *ipv4.PacketConn
	to      *net.UDPAddr
	in, out []ipv4.Message
	queued  int
	prefix  byte
	from    [4]byte
}

const relayBatch = 64

func (s *server) relay(prefix byte, segment int) (*relay, error) {
	r := &relay{to: net.UDPAddrFromAddrPort(netip.AddrPortFrom(s.addrs[segment], 67)), prefix: prefix, from: relayAddr(segment).As4()}
	err := s.load.Do(func() (err error) {
		r.conn, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(relayAddr(segment), 67)))
		return err
	})
	if err != nil {
		return nil, err
	}
	if raw, err := r.conn.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) {
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20)
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 16<<20)
		})
	}
	r.batch = ipv4.NewPacketConn(r.conn)
	r.in, r.out = make([]ipv4.Message, relayBatch), make([]ipv4.Message, relayBatch)
	for i := range r.in {
		r.in[i].Buffers = [][]byte{make([]byte, 1500)}
		r.out[i].Buffers, r.out[i].Addr = [][]byte{make([]byte, 300)}, r.to
	}
	return r, nil
}

// put queues one request: DISCOVER without an address, else REQUEST of it; without a server
// the client has the address already and renews it.
func (r *relay) put(client uint32, want [4]byte, server [4]byte) error {
	b := r.out[r.queued].Buffers[0]
	clear(b)
	b[0], b[1], b[2], b[3] = 1, 1, 6, 1
	binary.BigEndian.PutUint32(b[4:], client)
	copy(b[24:], r.from[:])
	b[28], b[29] = 2, r.prefix
	binary.BigEndian.PutUint32(b[30:], client)
	copy(b[236:], []byte{99, 130, 83, 99, 53, 1, 1, 55, 3, 1, 3, 6, 255})
	switch {
	case want == [4]byte{}:
	case server == [4]byte{}:
		copy(b[12:], want[:])
		copy(b[240:], []byte{53, 1, 3, 55, 3, 1, 3, 6, 255})
	default:
		copy(b[240:], []byte{53, 1, 3, 50, 4, want[0], want[1], want[2], want[3], 54, 4, server[0], server[1], server[2], server[3], 55, 3, 1, 3, 6, 255})
	}
	if r.queued++; r.queued == relayBatch {
		return r.flush()
	}
	return nil
}

func (r *relay) flush() error {
	for sent := 0; sent < r.queued; {
		n, err := r.batch.WriteBatch(r.out[sent:r.queued], 0)
		if err != nil {
			return err
		}
		sent += n
	}
	r.queued = 0
	return nil
}

// replies reads a batch and calls f with each OFFER (kind 2) and ACK (5).
func (r *relay) replies(until time.Time, f func(client uint32, kind byte, addr, server [4]byte) error) error {
	r.conn.SetReadDeadline(until)
	n, err := r.batch.ReadBatch(r.in, 0)
	if err != nil {
		return err
	}
	for _, m := range r.in[:n] {
		b := m.Buffers[0][:m.N]
		if len(b) < 244 {
			continue
		}
		var kind byte
		var server [4]byte
		for o := b[240:]; len(o) > 2 && o[0] != 255; o = o[2+int(o[1]):] {
			if len(o) < 2+int(o[1]) {
				break
			}
			switch {
			case o[0] == 53:
				kind = o[2]
			case o[0] == 54 && o[1] == 4:
				server = [4]byte(o[2:6])
			}
		}
		if err := f(binary.BigEndian.Uint32(b[30:34]), kind, [4]byte(b[16:20]), server); err != nil {
			return err
		}
	}
	return r.flush()
}

// outstanding is how many clients saturate the server: each ACK brings the next new client.
const outstanding = 512

// load is what saturates a server: new clients, or each of has once more to renew.
type load struct {
	segment int
	prefix  byte          // of the clients' hardware addresses
	most    time.Duration // how long
	clients int           // how many are enough; 0: as many as there is time for
	has     map[uint32][4]byte
	keep    map[uint32][4]byte // gets who got what, when not nil
}

// saturate keeps that many clients in an exchange for a while. A new client that hears nothing
// for a second is replaced, one that renews asks again.
func (s *server) saturate(l load) (rates, error) {
	r, err := s.relay(l.prefix, l.segment)
	if err != nil {
		return rates{}, err
	}
	defer r.conn.Close()
	next, left, acks := uint32(0), len(l.has), 0
	asked := map[uint32]time.Time{}
	begin := func() error {
		next++
		if l.has != nil {
			if left == 0 {
				return nil
			}
			for left--; l.has[next] == ([4]byte{}); next++ {
			}
		}
		asked[next] = time.Now()
		return r.put(next, l.has[next], [4]byte{})
	}
	for range outstanding {
		if err := begin(); err != nil {
			return rates{}, err
		}
	}
	if err := r.flush(); err != nil {
		return rates{}, err
	}
	before, begun, lost := s.cpu(), time.Now(), 0
	enough := func() bool {
		return l.clients > 0 && acks >= l.clients || l.has != nil && len(asked) == 0 || time.Since(begun) > l.most
	}
	for sweep := begun; !enough(); {
		err := r.replies(time.Now().Add(50*time.Millisecond), func(client uint32, kind byte, addr, server [4]byte) error {
			if _, ok := asked[client]; !ok {
				return nil
			}
			switch {
			case kind == 2 && l.has == nil:
				asked[client] = time.Now()
				return r.put(client, addr, server)
			case kind == 5:
				delete(asked, client)
				acks++
				if l.keep != nil {
					l.keep[client] = addr
				}
				return begin()
			}
			return nil
		})
		if err != nil && !isTimeout(err) {
			return rates{}, err
		}
		if now := time.Now(); now.Sub(sweep) > 200*time.Millisecond {
			sweep = now
			for c, at := range asked {
				if now.Sub(at) <= time.Second {
					continue
				}
				lost++
				if l.has != nil {
					asked[c] = now
					err = r.put(c, l.has[c], [4]byte{})
				} else {
					delete(asked, c)
					err = begin()
				}
				if err != nil && !isTimeout(err) {
					return rates{}, err
				}
			}
			if err := r.flush(); err != nil {
				return rates{}, err
			}
		}
	}
	took := time.Since(begun)
	if acks == 0 {
		return rates{}, fmt.Errorf("no ACK in %v", took)
	}
	s.given += acks
	behind, err := s.copied()
	return rates{rate: float64(acks) / took.Seconds(), lost: float64(lost), acks: float64(acks), behind: behind.Seconds(), cpu: float64((s.cpu() - before).Microseconds()) / float64(acks)}, err
}

func isTimeout(err error) bool {
	e, ok := err.(net.Error)
	return ok && e.Timeout()
}

// crush is what came of many clients at once.
type crush struct {
	seconds     float64
	tries, lost int
}

// rush has n clients ask at once. One that hears nothing repeats after 1 s, 2 s and so on, half
// of it sooner or later by chance, as impatient devices do (RFC 2131 section 4.1 has them
// begin with 4 s, and a second sooner or later).
func (s *server) rush(n int) (crush, error) { return s.rushFor(n, 30*time.Second, 0x20) }

func (s *server) rushFor(n int, limit time.Duration, prefix byte) (crush, error) {
	r, err := s.relay(prefix, 0)
	if err != nil {
		return crush{}, err
	}
	defer r.conn.Close()
	type client struct {
		tries      int
		due        time.Time
		addr, from [4]byte
		done       bool
	}
	clients := make([]client, n+1)
	begun, left := time.Now(), n
	send := func(i uint32, again bool) error {
		c := &clients[i]
		if again {
			c.tries++
			wait := time.Second << min(c.tries-1, 4)
			c.due = time.Now().Add(wait/2 + rand.N(wait))
		}
		return r.put(i, c.addr, c.from)
	}
	for i := range uint32(n) {
		if err := send(i+1, true); err != nil {
			return crush{}, err
		}
	}
	if err := r.flush(); err != nil {
		return crush{}, err
	}
	for left > 0 && time.Since(begun) < limit {
		err := r.replies(time.Now().Add(20*time.Millisecond), func(i uint32, kind byte, addr, server [4]byte) error {
			if i == 0 || int(i) > n || clients[i].done {
				return nil
			}
			switch kind {
			case 2:
				if clients[i].addr == ([4]byte{}) {
					clients[i].addr, clients[i].from = addr, server
					return send(i, false)
				}
			case 5:
				clients[i].done = true
				left--
			}
			return nil
		})
		if err != nil && !isTimeout(err) {
			return crush{}, err
		}
		for i := 1; i <= n && isTimeout(err); i++ {
			if c := &clients[i]; !c.done && time.Now().After(c.due) {
				if err := send(uint32(i), true); err != nil {
					return crush{}, err
				}
			}
		}
		if err := r.flush(); err != nil {
			return crush{}, err
		}
	}
	out := crush{seconds: time.Since(begun).Seconds(), lost: left}
	for _, c := range clients[1:] {
		out.tries = max(out.tries, c.tries)
	}
	return out, nil
}
