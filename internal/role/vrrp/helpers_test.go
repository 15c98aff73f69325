package vrrp

import (
	"math/rand/v2"
	"os"
	"testing"
)

// dice are random numbers that a seed repeats.
type dice struct{ r *rand.Rand }

func newDice(seed uint64) dice { return dice{rand.New(rand.NewPCG(seed, 1))} }

func (d dice) one(in int) bool { return d.r.IntN(in) == 0 }
func (d dice) upTo(n int) int  { return d.r.IntN(n) }

func touch(t testing.TB, path string) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
}
