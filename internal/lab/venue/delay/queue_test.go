//go:build linux

package delay

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"
)

// The queue against a list that cannot be wrong: 200,000 random operations.
func TestQueueAgainstList(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	q := newQueue(5*maxFrame+123, 64, 0)
	var want [][]byte
	refused := 0
	for i := range 200_000 {
		if rnd.IntN(2) == 0 {
			room := q.reserve()
			if room == nil {
				refused++
				if len(want) == 0 {
					t.Fatalf("step %d: an empty queue refuses a frame", i)
				}
				continue
			}
			if len(room) < maxFrame {
				t.Fatalf("step %d: room for %d bytes, want %d", i, len(room), maxFrame)
			}
			n := 1 + rnd.IntN(1500)
			if rnd.IntN(4) == 0 {
				n = 1 + rnd.IntN(maxFrame)
			}
			frame := bytes.Repeat([]byte{byte(i), byte(i >> 8), byte(i >> 16)}, n/3+1)[:n]
			copy(room, frame)
			q.commit(n, 0)
			want = append(want, frame)
			continue
		}
		got, _ := q.front()
		switch {
		case got == nil && len(want) > 0, got != nil && len(want) == 0:
			t.Fatalf("step %d: front has a frame: %t, the list has %d", i, got != nil, len(want))
		case got == nil:
			continue
		case !bytes.Equal(got, want[0]):
			t.Fatalf("step %d: frame of %d bytes differs from the one put in, of %d", i, len(got), len(want[0]))
		}
		q.pop()
		want = want[1:]
	}
	if refused == 0 {
		t.Error("the queue was never full: the test is too mild")
	}
}

func TestQueueHoldsFramesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(4*maxFrame, 8, 10*time.Millisecond)
		for _, c := range []struct {
			name      string
			age, want time.Duration
		}{
			{"as it arrives", 0, 10 * time.Millisecond},
			{"read late", 3 * time.Millisecond, 7 * time.Millisecond},
			{"read too late", time.Second, 0},
			{"the clock stepped back", -time.Hour, 10 * time.Millisecond},
		} {
			q.reserve()
			q.commit(100, c.age)
			if _, got := q.front(); got != c.want {
				t.Errorf("%s: waits %s, want %s", c.name, got, c.want)
			}
			time.Sleep(time.Millisecond)
			if _, got := q.front(); got != c.want-time.Millisecond {
				t.Errorf("%s: 1 ms later waits %s, want %s", c.name, got, c.want-time.Millisecond)
			}
			q.pop()
		}
	})
}

func TestQueueIsBounded(t *testing.T) {
	q := newQueue(queueBytes, 100, time.Hour)
	n := 0
	for q.reserve() != nil {
		q.commit(60, 0)
		n++
	}
	if n != 100 {
		t.Errorf("took %d frames, want 100", n)
	}
}
