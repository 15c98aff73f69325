package journal

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/store"
)

// TestMain lets the test binary be a process that is killed; see child.
func TestMain(m *testing.M) {
	if dir := os.Getenv("HOTSTAGE_CHILD"); dir != "" {
		fmt.Println("error:", child(dir))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// file is the smallest book that outlives its process: a line of JSON a commit, synced.
type file struct{ path string }

func (f file) Load(context.Context) ([]fact.Lease, error) {
	b, err := os.ReadFile(f.path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	last := map[netip.Addr]fact.Lease{}
	for line := range bytes.Lines(b) {
		var group []fact.Lease
		if json.Unmarshal(line, &group) == nil { // a torn last line was never acknowledged
			for _, l := range group {
				last[l.Addr] = l
			}
		}
	}
	return slices.Collect(maps.Values(last)), nil
}

func (f file) Commit(_ context.Context, leases []fact.Lease) error {
	b, err := json.Marshal(leases)
	if err != nil {
		return err
	}
	out, err := os.OpenFile(f.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = out.Write(append(append([]byte("\n"), b...), '\n'))
	return errors.Join(err, out.Sync(), out.Close())
}

func (f file) Close() error { return nil }

func open(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := Open(filepath.Join(dir, "leases.journal"), file{filepath.Join(dir, "leases")})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// memory is a book that can refuse.
type memory struct {
	mu      sync.Mutex
	commits [][]fact.Lease
	refuse  error
}

func (m *memory) Load(context.Context) ([]fact.Lease, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []fact.Lease
	for _, c := range m.commits {
		all = append(all, c...)
	}
	return all, nil
}

func (m *memory) Commit(_ context.Context, leases []fact.Lease) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.refuse != nil {
		return m.refuse
	}
	m.commits = append(m.commits, append([]fact.Lease(nil), leases...))
	return nil
}

func (m *memory) Close() error { return nil }

func (m *memory) becomes(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refuse = err
}

func lease(n int) fact.Lease {
	return store.Lease("hall", netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}).String(), fmt.Sprintf("id:%06x", n), fact.LeaseBound)
}

func equal(t *testing.T, got, want []fact.Lease) {
	t.Helper()
	if d := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmpopts.EquateEmpty()); d != "" {
		t.Errorf("leases (-want +got):\n%s", d)
	}
}

// TestTornAnywhere cuts and spoils the file at every byte, as a power cut may: what comes back
// is always a beginning of what was committed, and all that ended before that byte.
func TestTornAnywhere(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "j")
	s, err := Open(path, &memory{})
	if err != nil {
		t.Fatal(err)
	}
	var all []fact.Lease
	var ends []int64
	for n := range 3 {
		group := []fact.Lease{lease(3 * n), lease(3*n + 1), lease(3*n + 2)}
		if err := s.Commit(t.Context(), group); err != nil {
			t.Fatal(err)
		}
		all = append(all, group...)
		ends = append(ends, s.end)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	s.file.Close()
	for at := range ends[len(ends)-1] {
		for _, how := range []string{"cut", "spoiled"} {
			text := bytes.Clone(whole[:at])
			if how == "spoiled" {
				text = bytes.Clone(whole[:ends[len(ends)-1]])
				text[at] ^= 0x40
			}
			other := filepath.Join(dir, "k")
			if err := os.WriteFile(other, text, 0o600); err != nil {
				t.Fatal(err)
			}
			m := &memory{}
			before := 0
			for _, e := range ends {
				if e <= at {
					before += 3
				}
			}
			r := recovered(t, other, m)
			got, _ := m.Load(t.Context())
			if len(got) != before {
				t.Fatalf("%s at byte %d: %d leases, want %d", how, at, len(got), before)
			}
			equal(t, got, all[:before])
			r()
		}
	}
}

// recovered reads a journal without filling the file up, which the test does thousands of times.
func recovered(t *testing.T, path string, book Book) (done func()) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	s := &Store{book: book, path: path, file: f}
	if err := s.replay(); err != nil {
		t.Fatal(err)
	}
	return func() { f.Close() }
}

// TestOldRecordsStayOld: a start gives the book nothing that it has had, and all that it has
// not, whatever the lengths of what earlier generations left behind in the file.
func TestOldRecordsStayOld(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	r := rand.New(rand.NewPCG(3, 4))
	next := 0
	var missing []fact.Lease
	for range 50 {
		m := &memory{}
		s, err := Open(path, m)
		if err != nil {
			t.Fatal(err)
		}
		got, _ := m.Load(t.Context())
		equal(t, got, missing)
		missing = nil
		for range r.IntN(4) {
			for range r.IntN(5) {
				next++
				l := lease(next)
				l.Hostname = strings.Repeat("x", r.IntN(60))
				if err := s.Commit(t.Context(), []fact.Lease{l}); err != nil {
					t.Fatal(err)
				}
				missing = append(missing, l)
			}
			if r.IntN(3) > 0 {
				if err := s.settle(t.Context()); err != nil {
					t.Fatal(err)
				}
				missing = nil
			}
		}
		s.file.Close() // as after kill -9
	}
}

// TestRefusalIsPassedOn: while the store behind refuses, commits are refused; all that was
// acknowledged arrives, in order, when it works again.
func TestRefusalIsPassedOn(t *testing.T) {
	m := &memory{}
	s, err := Open(filepath.Join(t.TempDir(), "j"), m)
	if err != nil {
		t.Fatal(err)
	}
	var want []fact.Lease
	commit := func(n int) error {
		err := s.Commit(t.Context(), []fact.Lease{lease(n)})
		if err == nil {
			want = append(want, lease(n))
		}
		return err
	}
	if err := commit(1); err != nil {
		t.Fatal(err)
	}
	full := errors.New("the disk is full")
	m.becomes(full)
	if err := s.settle(t.Context()); !errors.Is(err, full) {
		t.Fatalf("settle: %v", err)
	}
	if err := commit(2); !errors.Is(err, full) {
		t.Errorf("a commit while the store refuses: %v", err)
	}
	m.becomes(nil)
	for n := 3; n < 6; n++ {
		if err := commit(n); err != nil {
			t.Error(err)
		}
	}
	got, err := s.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	equal(t, got, want)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// TestRunSettles: Run takes what is committed to the store, and the file begins anew.
func TestRunSettles(t *testing.T) {
	m := &memory{}
	s, err := Open(filepath.Join(t.TempDir(), "j"), m)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var all sync.WaitGroup
	all.Go(func() { s.Run(ctx) })
	for n := range 3000 {
		if err := s.Commit(t.Context(), []fact.Lease{lease(n)}); err != nil {
			t.Fatal(err)
		}
	}
	for begun := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		s.mu.Lock()
		left, end := len(s.pending), s.end
		s.mu.Unlock()
		if left == 0 && end == 0 {
			break
		}
		if time.Since(begun) > 10*time.Second {
			t.Fatalf("%d leases wait, the file ends at %d", left, end)
		}
	}
	stop()
	all.Wait()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	got, _ := m.Load(t.Context())
	if len(got) != 3000 {
		t.Errorf("%d leases of 3000", len(got))
	}
}

func TestInUse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	s, err := Open(path, &memory{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := Open(path, &memory{}); err == nil || !strings.Contains(err.Error(), "another process uses it") {
		t.Errorf("opened twice: %v", err)
	}
	if _, err := Open(filepath.Join(t.TempDir(), "absent", "j"), &memory{}); err == nil || !strings.Contains(err.Error(), "must exist and be writable") {
		t.Errorf("without its folder: %v", err)
	}
}

// child commits until it is killed and says what was committed.
func child(dir string) error {
	s, err := Open(filepath.Join(dir, "leases.journal"), file{filepath.Join(dir, "leases")})
	if err != nil {
		return err
	}
	go s.Run(context.Background())
	had, err := s.Load(context.Background())
	if err != nil {
		return err
	}
	for n := len(had); n < 1_000_000; n++ {
		if err := s.Commit(context.Background(), []fact.Lease{lease(n)}); err != nil {
			return err
		}
		fmt.Println("acked", n)
	}
	return errors.New("nobody killed me")
}

// TestKill ends the process with SIGKILL at random moments: the next one finds every lease
// that was acknowledged, and at most one more.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	acked := -1
	for range 12 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "HOTSTAGE_CHILD="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines, stop := bufio.NewScanner(out), time.Duration(-1)
		for lines.Scan() {
			if strings.HasPrefix(lines.Text(), "error") {
				t.Fatal(lines.Text())
			}
			if stop < 0 { // from the first ACK on
				stop = time.Duration(rand.IntN(250)) * time.Millisecond
				time.AfterFunc(stop, func() { cmd.Process.Kill() })
			}
			if n := 0; lines.Text() != "" {
				if k, _ := fmt.Sscanf(lines.Text(), "acked %d", &n); k == 1 && strings.HasSuffix(lines.Text(), fmt.Sprint(n)) {
					acked = max(acked, n)
				}
			}
		}
		cmd.Wait()
		s := open(t, dir)
		got, err := s.Load(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if len(got) < acked+1 || len(got) > acked+2 {
			t.Fatalf("%d leases were acknowledged, %d are there", acked+1, len(got))
		}
		acked = len(got) - 1
	}
	t.Logf("%d leases in 12 lives", acked+1)
}

func FuzzRecord(f *testing.F) {
	for n := range 3 {
		b, err := appendRecord(nil, 7, uint64(n), []fact.Lease{lease(n), lease(n + 1)}[:n])
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, rest, ok := readRecord(b)
		if !ok {
			return
		}
		for _, l := range r.leases {
			if !l.Addr.IsValid() {
				t.Fatal("an invalid address was read")
			}
		}
		again, err := appendRecord(nil, r.generation, r.sequence, r.leases)
		if err != nil {
			t.Fatal(err)
		}
		r2, _, ok := readRecord(again)
		if !ok || !cmp.Equal(r.leases, r2.leases, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })) || len(rest) >= len(b) {
			t.Fatalf("%+v became %+v", r, r2)
		}
	})
}

func BenchmarkCommit(b *testing.B) {
	for _, size := range []int{1, 4, 32, 256} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			s := open(b, b.TempDir())
			defer s.Close()
			ctx, stop := context.WithCancel(b.Context())
			defer stop()
			go s.Run(ctx)
			group, n := make([]fact.Lease, size), 0
			b.ReportAllocs()
			for b.Loop() {
				for i := range group {
					group[i] = lease(n % 100_000)
					n++
				}
				if err := s.Commit(b.Context(), group); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "leases/s")
		})
	}
}
