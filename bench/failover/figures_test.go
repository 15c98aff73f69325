//go:build linux

package main

import (
	"testing"
	"time"
)

// TestOutage: the gap that counts is the one that touches the act, even when it began before or
// ends after, or does not end at all.
func TestOutage(t *testing.T) {
	begun := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	at := func(ms int) time.Time { return begun.Add(time.Duration(ms) * time.Millisecond) }
	queries := func(lostFrom, lostTo int) (all []asked) {
		for ms := 0; ms <= 1000; ms += 10 {
			all = append(all, asked{sent: at(ms), ok: ms < lostFrom || ms >= lostTo})
		}
		return all
	}
	for _, c := range []struct {
		what         string
		lost, within [2]int
		want         time.Duration
		missing      int
	}{
		{"nothing lost", [2]int{0, 0}, [2]int{500, 1000}, 0, 0},
		{"within", [2]int{510, 800}, [2]int{500, 1000}, 300 * time.Millisecond, 29},
		{"begun before", [2]int{400, 600}, [2]int{500, 1000}, 210 * time.Millisecond, 20},
		{"ends behind", [2]int{400, 600}, [2]int{300, 500}, 210 * time.Millisecond, 20},
		{"of another act", [2]int{100, 200}, [2]int{500, 1000}, 0, 10},
		{"never back", [2]int{700, 2000}, [2]int{500, 1000}, 310 * time.Millisecond, 31},
	} {
		all := queries(c.lost[0], c.lost[1])
		if got := outage(all, at(c.within[0]), at(c.within[1])); got != c.want {
			t.Errorf("%s: outage %v, want %v", c.what, got, c.want)
		}
		if got := lost(all); got != c.missing {
			t.Errorf("%s: %d lost, want %d", c.what, got, c.missing)
		}
	}
}

// TestObserverCounts: who holds an address alone, and for how long two have.
func TestObserverCounts(t *testing.T) {
	one, other := [6]byte{2, 1}, [6]byte{2, 2}
	begun := time.Now().Add(-time.Second)
	seen := func(f func(n int) [][6]byte) *observer {
		o := &observer{}
		for n := range int(time.Second / roundTime) {
			o.rounds = append(o.rounds, round{begun.Add(time.Duration(n) * roundTime), f(n)})
		}
		return o
	}
	alone := seen(func(int) [][6]byte { return [][6]byte{one} })
	if mac, ok := alone.holder(500 * time.Millisecond); !ok || mac != one {
		t.Errorf("one holder: %x, %v", mac, ok)
	}
	if _, ok := alone.holder(2 * time.Second); ok {
		t.Error("two seconds are known after one")
	}
	moved := seen(func(n int) [][6]byte { return [][][6]byte{{one}, {other}}[n/60] })
	if _, ok := moved.holder(700 * time.Millisecond); ok {
		t.Error("an address that moved has one holder")
	}
	nobody := seen(func(int) [][6]byte { return nil })
	if _, ok := nobody.holder(500 * time.Millisecond); ok {
		t.Error("nobody holds the address")
	}
	both := seen(func(n int) [][6]byte {
		if n >= 40 && n < 60 {
			return [][6]byte{one, other}
		}
		return [][6]byte{one}
	})
	if _, ok := both.holder(700 * time.Millisecond); ok {
		t.Error("two hold the address, and one is its holder")
	}
	if got := both.twice(begun, begun.Add(time.Second)); got != 20*roundTime {
		t.Errorf("both for %v, want %v", got, 20*roundTime)
	}
	if got := both.twice(begun.Add(500*time.Millisecond), begun.Add(time.Second)); got != 10*roundTime {
		t.Errorf("both for %v in the second half, want %v", got, 10*roundTime)
	}
}
