package sqlite

import (
	"database/sql"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/store"
)

// seen is changes in words: address, client, state.
func seen(t *testing.T, s *Store, after int64, limit int) (words string, last int64) {
	t.Helper()
	all, err := s.Changes(t.Context(), after, limit)
	must(t, err)
	for _, l := range all {
		if l.Seq <= max(after, last) {
			t.Errorf("number %d after %d", l.Seq, max(after, last))
		}
		last = l.Seq
		words += fmt.Sprintf("%v %s %s, ", l.Addr, l.Client, l.State)
	}
	return strings.TrimSuffix(words, ", "), last
}

func TestChanges(t *testing.T) {
	path := filepath.Join(t.TempDir(), "leases.db")
	s := open(t, path)
	defer func() { s.Close() }()
	want := func(after int64, limit int, want string) int64 {
		t.Helper()
		got, last := seen(t, s, after, limit)
		if got != want {
			t.Errorf("changes after %d: %q, want %q", after, got, want)
		}
		return last
	}
	lease := func(addr, client string, state fact.LeaseState) fact.Lease {
		return store.Lease("a", addr, client, state)
	}
	want(0, 10, "")
	must(t, s.Commit(t.Context(), []fact.Lease{lease("10.1.0.9", "id:01", fact.LeaseBound), lease("10.1.0.10", "id:02", fact.LeaseBound)}))
	first := want(0, 1, "10.1.0.9 id:01 bound")
	second := want(first, 10, "10.1.0.10 id:02 bound")
	want(second, 10, "")
	// The client moves: what ends comes before what begins.
	must(t, s.Commit(t.Context(), []fact.Lease{lease("10.1.0.11", "id:01", fact.LeaseBound)}))
	third := want(second, 10, "10.1.0.9 id:01 released, 10.1.0.11 id:01 bound")
	// Only the last state of an address.
	for range 5 {
		must(t, s.Commit(t.Context(), []fact.Lease{lease("10.1.0.10", "id:02", fact.LeaseBound)}))
	}
	want(third, 10, "10.1.0.10 id:02 bound")
	want(0, 10, "10.1.0.9 id:01 released, 10.1.0.11 id:01 bound, 10.1.0.10 id:02 bound")
	if n, err := s.Behind(t.Context(), third); n != 1 || err != nil {
		t.Errorf("behind %d, %v; want 1", n, err)
	}
	// A commit that failed shows nothing, and the numbers go on upwards after a restart.
	bad := lease("10.1.0.12", "id:03", "nonsense")
	if err := s.Commit(t.Context(), []fact.Lease{lease("10.1.0.11", "id:04", fact.LeaseBound), bad}); err == nil {
		t.Error("nonsense was stored")
	}
	fourth := want(third, 10, "10.1.0.10 id:02 bound")
	must(t, s.Close())
	s = open(t, path)
	must(t, s.Commit(t.Context(), []fact.Lease{lease("10.1.0.13", "id:05", fact.LeaseBound)}))
	want(fourth, 10, "10.1.0.13 id:05 bound")
}

func TestMarks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "leases.db")
	s := open(t, path)
	for _, n := range []int64{5, 9, 7} {
		must(t, s.Mark(t.Context(), "mysql", n))
	}
	must(t, s.Mark(t.Context(), "other", 3))
	must(t, s.Close())
	s = open(t, path)
	defer s.Close()
	for name, want := range map[string]int64{"mysql": 7, "other": 3, "nobody": 0} {
		if got, err := s.Marked(t.Context(), name); got != want || err != nil {
			t.Errorf("%s: %d, %v; want %d", name, got, err, want)
		}
	}
}

func TestLift(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "leases.db"))
	defer s.Close()
	must(t, s.Commit(t.Context(), some(0, 3)))
	_, mark := seen(t, s, 0, 2)
	before, _ := seen(t, s, 0, 10)
	must(t, s.Lift(t.Context(), mark, 1000))
	after, last := seen(t, s, 0, 10)
	if after != before || last <= 1000 {
		t.Errorf("lifted: %q up to %d, want %q above 1000", after, last, before)
	}
	if copied, err := s.Changes(t.Context(), 0, 2); err != nil || copied[1].Seq != mark {
		t.Errorf("what was copied was lifted too: %v, %v", copied, err)
	}
	must(t, s.Lift(t.Context(), last, 500))
	must(t, s.Lift(t.Context(), last, last+5000)) // nothing to lift but what is to come
	must(t, s.Commit(t.Context(), some(5, 1)))
	if _, now := seen(t, s, last, 10); now <= last+5000 {
		t.Errorf("the next change is number %d, want above %d", now, last+5000)
	}
	_, end := seen(t, s, 0, 10)
	must(t, s.Lift(t.Context(), mark, 500)) // all after it are above: nothing happens
	if _, now := seen(t, s, 0, 10); now != end {
		t.Errorf("lifted from %d to %d for nothing", end, now)
	}
}

// Reading changes at any moment and applying them gives the file, whatever is left out between.
func TestChangesMakeACopy(t *testing.T) {
	s, to := open(t, filepath.Join(t.TempDir(), "a.db")), open(t, filepath.Join(t.TempDir(), "b.db"))
	defer s.Close()
	defer to.Close()
	r := rand.New(rand.NewPCG(3, 4))
	states := []fact.LeaseState{fact.LeaseBound, fact.LeaseBound, fact.LeaseReleased, fact.LeaseExpired}
	at := int64(0)
	for range 200 {
		var batch []fact.Lease
		for range r.IntN(10) {
			batch = append(batch, store.Lease("a", fmt.Sprintf("10.1.0.%d", r.IntN(40)), fmt.Sprintf("id:%02x", r.IntN(30)), states[r.IntN(len(states))]))
		}
		must(t, s.Commit(t.Context(), batch))
		if r.IntN(3) > 0 {
			continue
		}
		part, err := s.Changes(t.Context(), at, 1+r.IntN(20))
		must(t, err)
		if len(part) > 0 {
			must(t, to.Commit(t.Context(), part))
			at = part[len(part)-1].Seq
		}
	}
	rest, err := s.Changes(t.Context(), at, 1000)
	must(t, err)
	must(t, to.Commit(t.Context(), rest))
	want, err := s.Load(t.Context())
	must(t, err)
	got, err := to.Load(t.Context())
	must(t, err)
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the copy differs:\n%v\nwant\n%v", got, want)
	}
}

// A file of the first version gets its numbers, and nothing else changes.
func TestFirstSchemaIsBroughtUpToDate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "leases.db")
	db, err := sql.Open("sqlite", path)
	must(t, err)
	step, err := steps.ReadFile("schema/1.sql")
	must(t, err)
	_, err = db.Exec(string(step) + fmt.Sprintf("; PRAGMA journal_mode = WAL; PRAGMA application_id = %d; PRAGMA user_version = 1", application))
	must(t, err)
	want := some(0, 5000)
	tx, err := db.Begin()
	must(t, err)
	for i := range want {
		l := &want[i]
		_, err = tx.Exec(`INSERT INTO leases VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`, l.Segment, l.Addr.String(), l.Client, l.MAC.String(), l.Hostname, string(l.State), nanos(l.Start), nanos(l.Expires), l.Boot, int64(l.ExpiresBoot))
		must(t, err)
	}
	must(t, tx.Commit())
	must(t, db.Close())
	begun := time.Now()
	s := open(t, path)
	defer s.Close()
	t.Logf("brought %d leases up to date in %v", len(want), time.Since(begun))
	must(t, holds(s, len(want)))
	all, err := s.Changes(t.Context(), 0, 1<<20)
	must(t, err)
	if len(all) != len(want) || all[len(all)-1].Seq != int64(len(want)) {
		t.Errorf("%d changes up to %d", len(all), all[len(all)-1].Seq)
	}
	must(t, s.Commit(t.Context(), some(5000, 1)))
	if words, _ := seen(t, s, 5000, 10); !strings.HasPrefix(words, "10.1.19.136 id:00001388 bound") {
		t.Errorf("the next change: %q", words)
	}
}
