// Package store holds what every store of leases must pass.
package store

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/hotstage/hotstage/internal/fact"
)

// Book is a store of leases; see the role dhcp for what it relies on.
type Book interface {
	Load(ctx context.Context) ([]fact.Lease, error)
	Commit(ctx context.Context, leases []fact.Lease) error
	Close() error
}

// Conform tests a store. open opens the same, at first empty, store each time it is called
// by one subtest's t; a second open comes after the first was closed.
func Conform(t *testing.T, open func(t *testing.T) Book) {
	t.Run("empty", func(t *testing.T) {
		b := open(t)
		defer b.Close()
		equal(t, load(t, b), nil)
		commit(t, b)
		equal(t, load(t, b), nil)
	})
	t.Run("every field comes back, also after closing", func(t *testing.T) {
		b := open(t)
		want := []fact.Lease{
			Lease("a", "10.1.0.9", "id:ff00", fact.LeaseBound), Lease("a", "10.1.0.10", "mac:02:00:00:00:00:01", fact.LeaseReleased),
			Lease("b", "10.1.0.9", "id:ff00", fact.LeaseExpired), {Segment: "b", Addr: netip.MustParseAddr("10.2.0.1"), State: fact.LeaseDeclined},
		}
		commit(t, b, want...)
		equal(t, load(t, b), want)
		b.Close()
		b = open(t)
		defer b.Close()
		equal(t, load(t, b), want)
	})
	t.Run("the last of an address counts, in the order given", func(t *testing.T) {
		b := open(t)
		defer b.Close()
		x, y := Lease("a", "10.1.0.9", "id:01", fact.LeaseBound), Lease("a", "10.1.0.9", "id:02", fact.LeaseBound)
		commit(t, b, x, y)
		equal(t, load(t, b), []fact.Lease{y})
		commit(t, b, x)
		equal(t, load(t, b), []fact.Lease{x})
	})
	t.Run("a client has one live lease per segment", func(t *testing.T) {
		b := open(t)
		defer b.Close()
		old, other, moved := Lease("a", "10.1.0.9", "id:01", fact.LeaseBound), Lease("b", "10.2.0.9", "id:01", fact.LeaseBound), Lease("a", "10.1.0.10", "id:01", fact.LeaseBound)
		commit(t, b, old, other)
		commit(t, b, moved)
		old.State = fact.LeaseReleased
		equal(t, load(t, b), []fact.Lease{old, other, moved})
	})
	t.Run("all or nothing", func(t *testing.T) {
		b := open(t)
		defer b.Close()
		good, bad := Lease("a", "10.1.0.9", "id:01", fact.LeaseBound), Lease("a", "10.1.0.10", "id:02", "nonsense")
		if err := b.Commit(t.Context(), []fact.Lease{good, bad}); err == nil {
			t.Error("a lease in no known state was stored")
		}
		equal(t, load(t, b), nil)
		commit(t, b, good)
		equal(t, load(t, b), []fact.Lease{good})
	})
	t.Run("a cancelled commit stores nothing and the store goes on", func(t *testing.T) {
		b := open(t)
		defer b.Close()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		l := Lease("a", "10.1.0.9", "id:01", fact.LeaseBound)
		if err := b.Commit(ctx, []fact.Lease{l}); err == nil {
			t.Error("no error")
		}
		commit(t, b, l)
		equal(t, load(t, b), []fact.Lease{l})
	})
	t.Run("like a map, over 300 random commits", func(t *testing.T) { likeMap(t, open, 300, 20, 40) })
	t.Run("like a map, over 60 large ones", func(t *testing.T) { likeMap(t, open, 60, 120, 600) })
}

// likeMap commits at random, up to most leases at once of so many clients.
func likeMap(t *testing.T, open func(t *testing.T) Book, commits, most, clients int) {
	b := open(t)
	defer func() { b.Close() }()
	r := rand.New(rand.NewPCG(1, 2))
	naive := map[netip.Addr]fact.Lease{}
	states := []fact.LeaseState{fact.LeaseBound, fact.LeaseBound, fact.LeaseReleased, fact.LeaseExpired, fact.LeaseDeclined}
	for n := range commits {
		var batch []fact.Lease
		for range r.IntN(most) {
			l := Lease("a", fmt.Sprintf("10.1.%d.%d", r.IntN(clients/40), r.IntN(50)), fmt.Sprintf("id:%04x", r.IntN(clients)), states[r.IntN(len(states))])
			l.ExpiresBoot = time.Duration(r.Int64())
			batch = append(batch, l)
			if l.State == fact.LeaseBound {
				for a, had := range naive {
					if had.Client == l.Client && had.State == fact.LeaseBound && a != l.Addr {
						had.State = fact.LeaseReleased
						naive[a] = had
					}
				}
			}
			naive[l.Addr] = l
		}
		commit(t, b, batch...)
		if n%50 == 49 {
			b.Close()
			b = open(t)
		}
	}
	var want []fact.Lease
	for _, l := range naive {
		want = append(want, l)
	}
	equal(t, load(t, b), want)
}

// Lease is one to test with.
func Lease(segment, addr, client string, state fact.LeaseState) fact.Lease {
	return fact.Lease{
		Segment: segment, Addr: netip.MustParseAddr(addr), Client: client, MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, Hostname: "phone",
		State: state, Start: time.Unix(1e9, 123456789).UTC(), Expires: time.Unix(2e9, 0).UTC(), Boot: "boot-1", ExpiresBoot: 90 * time.Minute,
	}
}

func commit(t *testing.T, b Book, leases ...fact.Lease) {
	t.Helper()
	if err := b.Commit(t.Context(), leases); err != nil {
		t.Fatal(err)
	}
}

func load(t *testing.T, b Book) []fact.Lease {
	t.Helper()
	all, err := b.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func equal(t *testing.T, got, want []fact.Lease) {
	t.Helper()
	order := func(a, b fact.Lease) int {
		if c := a.Addr.Compare(b.Addr); c != 0 {
			return c
		}
		return slices.Compare([]byte(a.Segment), []byte(b.Segment))
	}
	slices.SortFunc(got, order)
	want = slices.Clone(want)
	slices.SortFunc(want, order)
	if d := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmpopts.EquateEmpty()); d != "" {
		t.Errorf("leases (-want +got):\n%s", d)
	}
}
