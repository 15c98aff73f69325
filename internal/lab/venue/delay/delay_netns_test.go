//go:build linux

package delay

import (
	"context"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/hotstage/hotstage/internal/testnet"
)

// lined joins two namespaces by a line with the given round trip:
//
//	a (10.9.0.1, fd00:9::1) ── near | line | far ── b (10.9.0.2, fd00:9::2)
func lined(t testing.TB, rtt time.Duration) (a, b *kernel.Namespace, line *Line) {
	t.Helper()
	a, b = testnet.Namespace(t), testnet.Namespace(t)
	path := testnet.Namespace(t)
	testnet.Veth(t, path, "near", nil, a, "eth0", []string{"10.9.0.1/24", "fd00:9::1/64"})
	testnet.Veth(t, path, "far", nil, b, "eth0", []string{"10.9.0.2/24", "fd00:9::2/64"})
	line, err := Open(End{path, "near"}, End{path, "far"}, rtt/2)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- line.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(5 * time.Second):
			t.Error("Run does not return")
		}
		line.Close()
	})
	return a, b, line
}

var roundTrip = regexp.MustCompile(`time=([0-9.]+) ms`)

func TestRoundTripTime(t *testing.T) {
	ping := testnet.Tools(t, "ping")[0]
	for _, target := range []string{"10.9.0.2", "fd00:9::2"} {
		a, _, line := lined(t, 20*time.Millisecond)
		testnet.Output(a, ping, "-c1", "-W2", target) // the neighbour's address costs a round trip
		out, err := testnet.Output(a, ping, "-c40", "-i0.02", "-W2", target)
		if err != nil {
			t.Fatalf("ping %s: %v\n%s", target, err, out)
		}
		var all []float64
		for _, m := range roundTrip.FindAllStringSubmatch(out, -1) {
			ms, err := strconv.ParseFloat(m[1], 64)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, ms)
		}
		if len(all) != 40 {
			t.Fatalf("%d answers of 40:\n%s", len(all), out)
		}
		slices.Sort(all)
		t.Logf("%s: round trip min %.2f, median %.2f, p90 %.2f, max %.2f ms", target, all[0], all[20], all[36], all[39])
		if all[0] < 20 || all[20] > 21 {
			t.Errorf("%s: round trip from %.2f ms, median %.2f ms; want 20 to 21 ms", target, all[0], all[20])
		}
		if n := line.Dropped(); n != 0 {
			t.Errorf("%d frames dropped", n)
		}
	}
}

// A TCP transfer arrives whole, and in frames that the kernel did not have to segment: the
// offloads survive the line.
func TestTransferKeepsOffloads(t *testing.T) {
	a, b, line := lined(t, 20*time.Millisecond)
	const size = 64 << 20
	var listener net.Listener
	testnet.Do(t, b, func() (err error) {
		listener, err = net.Listen("tcp", "10.9.0.2:7")
		return err
	})
	defer listener.Close()
	received := make(chan [32]byte, 1)
	go func() {
		defer close(received)
		c, err := listener.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		h := sha256.New()
		if _, err := io.Copy(h, c); err == nil {
			received <- [32]byte(h.Sum(nil))
		}
		c.Write([]byte{1})
	}()
	data := make([]byte, size)
	rand.NewChaCha8([32]byte{1}).Read(data)
	before := arrivedAt(t, b)
	var c net.Conn
	testnet.Do(t, a, func() (err error) {
		c, err = net.DialTimeout("tcp", "10.9.0.2:7", 5*time.Second)
		return err
	})
	defer c.Close()
	c.SetDeadline(time.Now().Add(60 * time.Second))
	start := time.Now()
	if _, err := c.Write(data); err != nil {
		t.Fatal(err)
	}
	c.(*net.TCPConn).CloseWrite()
	if _, err := c.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	took := time.Since(start)
	if got := <-received; got != sha256.Sum256(data) {
		t.Error("what arrived differs from what was sent")
	}
	frames := arrivedAt(t, b) - before
	t.Logf("64 MiB in %s (%.2f Gbit/s), %d frames of %d bytes in the mean, %d dropped",
		took, size*8/took.Seconds()/1e9, frames, size/frames, line.Dropped())
	if mean := size / frames; mean < 3000 {
		t.Errorf("frames have %d bytes in the mean: the kernel's segmentation offload is lost", mean)
	}
}

// arrivedAt counts the frames that b's eth0 has received.
func arrivedAt(t *testing.T, b *kernel.Namespace) int {
	t.Helper()
	out, err := testnet.Output(b, testnet.Tools(t, "cat")[0], "/proc/self/net/dev")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`eth0: *\d+ +(\d+)`).FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("no eth0 in\n%s", out)
	}
	n, _ := strconv.Atoi(m[1])
	return n
}

// A line that is overrun drops and counts; it carries on afterwards. Long frames fill it
// before the first is due, on a slow machine too.
func TestOverrunIsCounted(t *testing.T) {
	a, b, line := lined(t, 3*time.Second)
	var from, to net.PacketConn
	testnet.Do(t, a, func() (err error) { from, err = net.ListenPacket("udp", "10.9.0.1:0"); return err })
	testnet.Do(t, b, func() (err error) { to, err = net.ListenPacket("udp", "10.9.0.2:9"); return err })
	defer from.Close()
	defer to.Close()
	send := func(s string) {
		if _, err := from.WriteTo([]byte(s), to.LocalAddr()); err != nil {
			t.Fatal(err)
		}
	}
	send("first: the neighbour's address is asked for")
	to.SetReadDeadline(time.Now().Add(10 * time.Second))
	buf := make([]byte, 2000)
	if _, _, err := to.ReadFrom(buf); err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("x", 1400)
	for range 2 * queueFrames {
		send(long)
	}
	for ; ; send("last") {
		to.SetReadDeadline(time.Now().Add(10 * time.Second))
		n, _, err := to.ReadFrom(buf)
		if err != nil {
			t.Fatal("nothing gets through after the overrun: ", err)
		}
		if string(buf[:n]) == "last" {
			break
		}
	}
	if n := line.Dropped(); n == 0 {
		t.Errorf("%d bytes at once over a line for %d, and none was dropped", 2*queueFrames*len(long), queueBytes)
	}
}
