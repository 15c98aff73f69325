package sqlite

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hotstage/hotstage/internal/fact"
)

func query(i int, client, name string) fact.Query {
	return fact.Query{Time: time.Unix(1_800_000_000, int64(i)).UTC(), Client: netip.MustParseAddr(client), Name: name,
		Type: "A", Rcode: "NOERROR", From: "cache", Took: time.Duration(i) * time.Microsecond}
}

func TestQueries(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "queries.db")
	q := NewQueries(path, 1<<20)
	all := []fact.Query{
		query(1, "10.1.0.1", "www.example.net"), query(2, "10.1.0.2", "notexample.net"),
		query(3, "2001:db8::1", "example.net"), query(4, "10.1.0.2", "a\\000b.example.net"), query(5, "10.1.0.2", "."),
	}
	if err := q.Append(ctx, all[:2]); err != nil {
		t.Fatal(err)
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	if err := q.Append(ctx, all[2:]); err != nil { // opens it again
		t.Fatal(err)
	}
	defer q.Close()
	for _, c := range []struct {
		n    int
		find string
		want []fact.Query
	}{
		{10, "", all}, {2, "", all[3:]}, {10, "10.1.0.1", all[:1]}, {10, "2001:db8:0::1", all[2:3]},
		{10, "Example.NET.", []fact.Query{all[0], all[2], all[3]}}, {10, "www.example.net", all[:1]}, {10, "net", all[:4]},
		{10, "%", []fact.Query{}}, {10, "' OR 1", []fact.Query{}},
	} {
		got, err := q.Last(ctx, c.n, c.find)
		if d := cmp.Diff(c.want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" || err != nil {
			t.Errorf("the last %d of %q: %v (-want +got):\n%s", c.n, c.find, err, d)
		}
	}
}

// TestQueriesAreBounded writes many times what the file may hold: the newest are there, and
// the file does not grow.
func TestQueriesAreBounded(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "queries.db")
	const most = 256 << 10
	q := NewQueries(path, most)
	defer q.Close()
	written := 0
	for range 100 {
		batch := make([]fact.Query, 300)
		for i := range batch {
			written++
			batch[i] = query(written, "10.1.0.1", fmt.Sprintf("%d.%s.example.net", written, strings.Repeat("x", 60)))
		}
		if err := q.Append(ctx, batch); err != nil {
			t.Fatal(err)
		}
	}
	got, err := q.Last(ctx, 100_000, "")
	if err != nil || len(got) < 500 || len(got) > 3000 {
		t.Fatalf("%d are left: %v", len(got), err)
	}
	for i, x := range got {
		if want := written - len(got) + 1 + i; x.Took != time.Duration(want)*time.Microsecond {
			t.Fatalf("number %d of %d is %v, want %d: some in between are missing", i, len(got), x.Took, want)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Size() > 2*most {
		t.Errorf("the file has %d bytes, %v; it may hold %d", info.Size(), err, most)
	}
}

// TestQueriesOfOthers: a file that is not ours is left alone, and a store that failed works
// when its disk does.
func TestQueriesOfOthers(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	leases, err := Open(filepath.Join(dir, "leases.db"))
	if err != nil {
		t.Fatal(err)
	}
	leases.Close()
	q := NewQueries(filepath.Join(dir, "leases.db"), 1<<20)
	if err := q.Append(ctx, []fact.Query{query(1, "10.1.0.1", "a.example")}); err == nil || !strings.Contains(err.Error(), "move it away") {
		t.Errorf("into a file of leases: %v", err)
	}
	q = NewQueries(filepath.Join(dir, "later", "queries.db"), 1<<20)
	if err := q.Append(ctx, []fact.Query{query(1, "10.1.0.1", "a.example")}); err == nil || !strings.Contains(err.Error(), "must exist and be writable") {
		t.Errorf("no folder: %v", err)
	}
	if err := os.Mkdir(filepath.Join(dir, "later"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := q.Append(ctx, []fact.Query{query(2, "10.1.0.1", "a.example")}); err != nil {
		t.Errorf("with the folder: %v", err)
	}
	if got, err := q.Last(ctx, 9, ""); len(got) != 1 || err != nil {
		t.Errorf("%v, %v", got, err)
	}
	q.Close()
}

// TestQueriesGiveUp: a context that has ended leaves nothing behind, and the next write works.
func TestQueriesGiveUp(t *testing.T) {
	q := NewQueries(filepath.Join(t.TempDir(), "queries.db"), 1<<20)
	defer q.Close()
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if err := q.Append(ended, []fact.Query{query(1, "10.1.0.1", "a.example")}); err == nil {
		t.Error("written after the end")
	}
	if err := q.Append(context.Background(), []fact.Query{query(2, "10.1.0.1", "a.example")}); err != nil {
		t.Error(err)
	}
	if got, err := q.Last(context.Background(), 9, ""); len(got) != 1 || err != nil {
		t.Errorf("%v, %v", got, err)
	}
}

func BenchmarkQueriesAppend(b *testing.B) {
	q := NewQueries(filepath.Join(b.TempDir(), "queries.db"), 16<<20)
	defer q.Close()
	batch := make([]fact.Query, 1000)
	for i := range batch {
		batch[i] = query(i, "10.1.0.1", fmt.Sprintf("www%d.example.net", i))
	}
	for b.Loop() {
		if err := q.Append(context.Background(), batch); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N*len(batch))/b.Elapsed().Seconds(), "queries/s")
}
