//go:build linux

package kernel_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/hotstage/hotstage/internal/testnet"
)

// framePair opens both ends of a fresh veth pair.
func framePair(t *testing.T) (a, b *kernel.Frames) {
	t.Helper()
	na, nb := testnet.Namespace(t), testnet.Namespace(t)
	testnet.Veth(t, na, "a0", nil, nb, "b0", nil)
	open := func(ns *kernel.Namespace, device string) *kernel.Frames {
		// The kernel's own frames (MLD, router solicitations) would mix with the test's.
		testnet.Do(t, ns, func() error {
			return os.WriteFile("/proc/sys/net/ipv6/conf/"+device+"/disable_ipv6", []byte("1"), 0)
		})
		f, err := kernel.OpenFrames(ns, device)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	return open(na, "a0"), open(nb, "b0")
}

// testFrame is a broadcast frame of EtherType 0x88b5 (IEEE 802 local experimental 1).
func testFrame(from []byte, n, size int) []byte {
	f := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, from...)
	f = append(f, 0x88, 0xb5)
	f = fmt.Appendf(f, "frame %d ", n)
	return append(f, make([]byte, max(0, size-len(f)))...)
}

func isTest(f []byte) bool { return len(f) > 14 && bytes.Equal(f[12:14], []byte{0x88, 0xb5}) }

func TestFramesArriveWholeAndInOrder(t *testing.T) {
	a, b := framePair(t)
	var want [][]byte
	for i := range 1000 {
		want = append(want, testFrame(a.HardwareAddr(), i, 60+i))
	}
	if failed, err := a.Send(want); err != nil || failed != 0 {
		t.Fatalf("Send: %d failed, %v", failed, err)
	}
	var got, batch [][]byte
	for len(got) < len(want) {
		var err error
		if batch, err = b.Receive(batch); err != nil {
			t.Fatal(err)
		}
		for _, f := range batch {
			if isTest(f) {
				got = append(got, bytes.Clone(f))
			}
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("frames (-sent +received):\n%s", diff)
	}
	if b.Drops() != 0 {
		t.Errorf("%d drops", b.Drops())
	}
}

func TestFramesIgnoreOutgoing(t *testing.T) {
	a, b := framePair(t)
	if _, err := a.Send([][]byte{testFrame(a.HardwareAddr(), 1, 60)}); err != nil {
		t.Fatal(err)
	}
	answer := testFrame(b.HardwareAddr(), 2, 60)
	if _, err := b.Send([][]byte{answer}); err != nil {
		t.Fatal(err)
	}
	for {
		frames, err := a.Receive(nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range frames {
			if isTest(f) {
				if diff := cmp.Diff(answer, f); diff != "" {
					t.Errorf("first frame that a sees is not b's:\n%s", diff)
				}
				return
			}
		}
	}
}

func TestFramesRefusedAndLost(t *testing.T) {
	a, b := framePair(t)
	frames := [][]byte{nil, testFrame(a.HardwareAddr(), 1, 9000), testFrame(a.HardwareAddr(), 2, 60)}
	if failed, err := a.Send(frames); failed != 2 || err != nil {
		t.Errorf("Send of an empty, an oversized and a good frame: %d failed, %v; want 2, nil", failed, err)
	}
	// Nobody reads b: its buffer fills up, and the rest is counted.
	many := make([][]byte, 20_000)
	for i := range many {
		many[i] = testFrame(a.HardwareAddr(), i, 1400)
	}
	if failed, err := a.Send(many); failed != 0 || err != nil {
		t.Fatalf("Send: %d failed, %v", failed, err)
	}
	received := 0
	drops := b.Drops()
	for received+int(drops) < len(many)+1 {
		got, err := b.Receive(nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range got {
			if isTest(f) {
				received++
			}
		}
	}
	if drops == 0 || b.Drops() != drops {
		t.Errorf("drops %d, then %d: want some, and the same again", drops, b.Drops())
	}
}

func TestFramesCloseEndsReceive(t *testing.T) {
	a, _ := framePair(t)
	done := make(chan error)
	go func() {
		for {
			if _, err := a.Receive(nil); err != nil {
				done <- err
				return
			}
		}
	}()
	a.Close()
	if err := <-done; !errors.Is(err, os.ErrClosed) {
		t.Errorf("Receive after Close: %v, want os.ErrClosed", err)
	}
	if _, err := a.Send([][]byte{testFrame(make([]byte, 6), 1, 60)}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Send after Close: %v, want os.ErrClosed", err)
	}
}

func TestFramesNeedADevice(t *testing.T) {
	if _, err := kernel.OpenFrames(testnet.Namespace(t), "absent0"); err == nil {
		t.Error("OpenFrames on a device that is not there: no error")
	}
}

func BenchmarkFrames(b *testing.B) {
	na, nb := testnet.Namespace(b), testnet.Namespace(b)
	testnet.Veth(b, na, "a0", nil, nb, "b0", nil)
	from, err := kernel.OpenFrames(na, "a0")
	if err != nil {
		b.Fatal(err)
	}
	defer from.Close()
	frames := make([][]byte, 64)
	for i := range frames {
		frames[i] = testFrame(from.HardwareAddr(), i, 300)
	}
	b.ReportAllocs()
	for b.Loop() {
		if failed, err := from.Send(frames); failed != 0 || err != nil {
			b.Fatal(failed, err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(frames)), "ns/frame")
}
