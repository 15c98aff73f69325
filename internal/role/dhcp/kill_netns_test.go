//go:build linux

package dhcp

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/hotstage/hotstage/internal/testnet"
	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/sys/unix"
)

// TestMain lets the test binary be a server that is killed or confined; see child.
func TestMain(m *testing.M) {
	if role := os.Getenv("HOTSTAGE_CHILD"); role != "" {
		if err := child(role, os.Getenv("HOTSTAGE_STORE")); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// journal is the smallest book that keeps its word: one line of JSON per commit, synced;
// a torn last line was never acknowledged. The real store is judged by its own tests.
type journal struct{ path string }

func (j journal) Load(context.Context) ([]fact.Lease, error) {
	b, err := os.ReadFile(j.path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	last := map[netip.Addr]fact.Lease{}
	for line := range bytes.Lines(b) {
		var batch []fact.Lease
		if json.Unmarshal(line, &batch) != nil {
			continue
		}
		for _, l := range batch {
			last[l.Addr] = l
		}
	}
	var all []fact.Lease
	for _, l := range last {
		all = append(all, l)
	}
	return all, nil
}

func (j journal) Commit(_ context.Context, leases []fact.Lease) error {
	b, err := json.Marshal(leases)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(j.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(append([]byte("\n"), b...), '\n'))
	return errors.Join(err, f.Sync(), f.Close())
}

// child serves on the device "hall" of its namespace, tells events and, on each line of
// standard input, does what it says.
func child(role, dir string) error {
	if role == "confined" { // in a mount namespace of its own, where root is not above permissions on a small disk
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
			return fmt.Errorf("mount: %w", err)
		}
	}
	say := func(e fact.Event) { fmt.Println(e.Kind, e.Words) }
	s := New(Config{Segments: []Segment{wideHall(time.Hour)}}, journal{filepath.Join(dir, "leases")}, SystemClock(), metrics(), say)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	<-s.Ready()
	fmt.Println("ready")
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		if err := deed(lines.Text(), dir); err != nil {
			return err
		}
		fmt.Println("done")
	}
	cancel()
	return <-done
}

func deed(what, dir string) error {
	full := filepath.Join(dir, "full")
	switch what {
	case "fill":
		f, err := os.Create(full)
		if err != nil {
			return err
		}
		defer f.Close()
		for n := 65536; n > 0; { // to the last byte
			if _, err := f.Write(make([]byte, n)); err != nil {
				n /= 2
			}
		}
		return nil
	case "empty":
		return os.Remove(full)
	case "readonly":
		return unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, "size=64k")
	case "writable":
		return unix.Mount("", dir, "", unix.MS_REMOUNT, "size=64k")
	}
	return fmt.Errorf("no such deed %q", what)
}

// another is a server in another process.
type another struct {
	t     *testing.T
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines chan string
}

func anotherServer(t *testing.T, node *kernel.Namespace, role, dir string) *another {
	t.Helper()
	c := &another{t: t, cmd: exec.Command(os.Args[0]), lines: make(chan string, 100)}
	c.cmd.Env = append(os.Environ(), "HOTSTAGE_CHILD="+role, "HOTSTAGE_STORE="+dir)
	if role == "confined" {
		c.cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	}
	var err error
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := node.Start(c.cmd); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(c.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			c.lines <- s.Text()
		}
	}()
	t.Cleanup(c.kill)
	c.expect("ready")
	return c
}

func (c *another) kill() {
	c.cmd.Process.Kill()
	for range c.lines {
	}
	c.cmd.Wait()
}

// expect waits for a line that begins so.
func (c *another) expect(begin string) string {
	c.t.Helper()
	late := time.After(20 * time.Second)
	for {
		select {
		case l, ok := <-c.lines:
			if !ok {
				c.t.Fatalf("the server ended; want %q", begin)
			}
			if strings.HasPrefix(l, begin) {
				return l
			}
			if strings.HasPrefix(l, "error:") {
				c.t.Fatal(l)
			}
		case <-late:
			c.t.Fatalf("the server did not say %q", begin)
		}
	}
}

func (c *another) do(what string) {
	c.t.Helper()
	if _, err := fmt.Fprintln(c.in, what); err != nil {
		c.t.Fatal(err)
	}
	c.expect("done")
}

// guests are clients behind one socket, who ask for broadcast replies. They remember every
// ACK that came out of the wire.
type guests struct {
	conn *net.UDPConn
	has  map[int]netip.Addr
	from map[netip.Addr]int
	bad  []string
}

func newGuests(t *testing.T, ns *kernel.Namespace) *guests {
	t.Helper()
	g := &guests{has: map[int]netip.Addr{}, from: map[netip.Addr]int{}}
	testnet.Do(t, ns, func() error {
		lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
			var err error
			if e := c.Control(func(fd uintptr) { err = prepare(int(fd), "eth0") }); e != nil {
				return e
			}
			return err
		}}
		pc, err := lc.ListenPacket(t.Context(), "udp4", "0.0.0.0:68")
		if err == nil {
			g.conn = pc.(*net.UDPConn)
		}
		return err
	})
	t.Cleanup(func() { g.conn.Close() })
	return g
}

func (g *guests) send(t testing.TB, n int, kind dhcpv4.MessageType, mods ...dhcpv4.Modifier) {
	b := message(t, mac(n), kind, append(mods, dhcpv4.WithBroadcast(true))...)
	g.conn.WriteTo(b, &net.UDPAddr{IP: net.IPv4bcast, Port: serverPort}) // lost is lost
}

// next reads one reply; nil at the end of the time.
func (g *guests) next(t testing.TB, until time.Time) (int, *dhcpv4.DHCPv4) {
	b := make([]byte, messageRoom)
	g.conn.SetReadDeadline(until)
	k, err := g.conn.Read(b)
	if err != nil {
		return 0, nil
	}
	m, err := dhcpv4.FromBytes(b[:k])
	if err != nil {
		t.Fatal(err)
	}
	h := m.ClientHWAddr
	n := int(h[3])<<16 | int(h[4])<<8 | int(h[5])
	if m.MessageType() == dhcpv4.MessageTypeAck {
		g.note(n, netip.AddrFrom4([4]byte(m.YourIPAddr.To4())))
	}
	return n, m
}

// note: no ACK for an address that another client was ACKed, no second address for a client.
func (g *guests) note(n int, a netip.Addr) {
	if other, ok := g.from[a]; ok && other != n {
		g.bad = append(g.bad, fmt.Sprintf("%v was given to client %d and then to %d", a, other, n))
	}
	if had, ok := g.has[n]; ok && had != a {
		g.bad = append(g.bad, fmt.Sprintf("client %d had %v and was then given %v", n, had, a))
	}
	g.has[n], g.from[a] = a, n
}

// rush has clients ask for addresses, answering each OFFER with a REQUEST, until the time is
// over or enough were ACKed.
func (g *guests) rush(t testing.TB, from, to, enough int, until time.Time) {
	for n := from; n < to; n++ {
		g.send(t, n, discover)
	}
	for len(g.has) < enough {
		n, m := g.next(t, until)
		if m == nil {
			return
		}
		if m.MessageType() == dhcpv4.MessageTypeOffer {
			g.send(t, n, request, wants(m.YourIPAddr.String()), server("10.1.0.2"))
		}
	}
}

// TestKillInTheRush kills the server with SIGKILL again and again while clients come, and
// starts it again on the same store. Every client that saw an ACK has its address still,
// and nobody else was given it.
func TestKillInTheRush(t *testing.T) {
	testnet.Root(t)
	node, client := testnet.Namespace(t), testnet.Namespace(t)
	testnet.Veth(t, node, "hall", []string{"10.1.0.2/16"}, client, "eth0", []string{"10.1.0.250/16"})
	g := newGuests(t, client)
	dir := t.TempDir()
	const rounds, each = 6, 1500
	for round := range rounds {
		s := anotherServer(t, node, "serve", dir)
		had := len(g.has)
		g.rush(t, 1+round*each, 1+(round+1)*each, had+60+50*round, time.Now().Add(20*time.Second))
		s.kill() // with ACKs on the wire, commits under way and offers standing
		g.rush(t, 0, 0, 1<<20, time.Now().Add(50*time.Millisecond))
		if len(g.has) == had {
			t.Fatalf("round %d: no ACK before the kill", round)
		}
	}
	acked := map[int]netip.Addr{}
	for n, a := range g.has {
		acked[n] = a
	}
	anotherServer(t, node, "serve", dir)
	answered := map[int]bool{}
	for end := time.Now().Add(20 * time.Second); len(answered) < len(acked) && time.Now().Before(end); {
		for n, a := range acked {
			if !answered[n] {
				g.send(t, n, request, wants(a.String())) // INIT-REBOOT
			}
		}
		for {
			n, m := g.next(t, time.Now().Add(500*time.Millisecond))
			if m == nil {
				break
			}
			if _, ok := acked[n]; !ok {
				continue // an ACK from before the last kill, read only now
			}
			if m.MessageType() != dhcpv4.MessageTypeAck || m.YourIPAddr.String() != acked[n].String() {
				t.Fatalf("client %d asks for its %v after the restart and gets %v of %v", n, acked[n], m.MessageType(), m.YourIPAddr)
			}
			answered[n] = true
			if len(answered) == len(acked) {
				break
			}
		}
	}
	if len(answered) != len(acked) {
		t.Errorf("%d of %d clients get their address again", len(answered), len(acked))
	}
	had := len(g.has)
	g.rush(t, 20_001, 21_001, had+1000, time.Now().Add(20*time.Second)) // new ones take none of them
	if len(g.has) != had+1000 {
		t.Errorf("%d of 1000 new clients get an address", len(g.has)-had)
	}
	for _, b := range g.bad {
		t.Error(b)
	}
	t.Logf("%d leases were ACKed in %d runs, each ended by SIGKILL", len(acked), rounds)
}

// TestDiskFull has the server meet a disk that is full and then one that is read-only: no
// ACK leaves, the event names the cause, and it goes on by itself.
func TestDiskFull(t *testing.T) {
	testnet.Root(t)
	node, client := testnet.Namespace(t), testnet.Namespace(t)
	testnet.Veth(t, node, "hall", []string{"10.1.0.2/16"}, client, "eth0", []string{"10.1.0.250/16"})
	g := newGuests(t, client)
	s := anotherServer(t, node, "confined", t.TempDir())
	soon := func() time.Time { return time.Now().Add(3 * time.Second) }
	g.rush(t, 1, 4, 3, soon())
	if len(g.has) != 3 {
		t.Fatalf("%d of 3 get an address", len(g.has))
	}
	next := 10
	for _, c := range []struct{ harm, mend, words string }{
		{"fill", "empty", "no space left on device"},
		{"readonly", "writable", "read-only file system"},
	} {
		s.do(c.harm)
		if c.harm == "fill" { // what the file's last page still takes
			g.rush(t, 1000, 1040, 1<<20, time.Now().Add(300*time.Millisecond))
		}
		had := len(g.has)
		g.rush(t, next, next+3, 1<<20, time.Now().Add(700*time.Millisecond))
		if len(g.has) != had {
			t.Errorf("%s: %d ACKs leave", c.harm, len(g.has)-had)
		}
		if c.harm == "fill" { // the next failure within a minute is not told again
			if l := s.expect("lease-store-failed"); !strings.Contains(l, c.words) {
				t.Errorf("%s: the event says %q", c.harm, l)
			}
		}
		s.do(c.mend)
		for n, end := next+10, soon(); len(g.has) < had+3 && time.Now().Before(end); n++ {
			g.rush(t, n, n+1, had+3, time.Now().Add(300*time.Millisecond))
		}
		if len(g.has) < had+3 {
			t.Errorf("%s: with that mended only %d get an address", c.harm, len(g.has)-had)
		}
		if c.harm == "fill" {
			s.expect("lease-store-works")
		}
		next += 100
	}
	for _, b := range g.bad {
		t.Error(b)
	}
}
