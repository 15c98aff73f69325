package sqlite

import (
	"bufio"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/store"
	"github.com/hotstage/hotstage/internal/testnet"
)

// TestMain lets the test binary be a child that is killed or confined; see child.
func TestMain(m *testing.M) {
	if role := os.Getenv("HOTSTAGE_CHILD"); role != "" {
		if err := child(role); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestConform(t *testing.T) {
	paths := map[string]string{}
	store.Conform(t, func(t *testing.T) store.Book {
		if paths[t.Name()] == "" {
			paths[t.Name()] = filepath.Join(t.TempDir(), "leases.db")
		}
		return open(t, paths[t.Name()])
	})
}

func open(t testing.TB, path string) *Store {
	t.Helper()
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// some is n leases of clients and addresses from the given number on.
func some(from, n int) []fact.Lease {
	var all []fact.Lease
	for i := from; i < from+n; i++ {
		l := store.Lease("hall", "10.0.0.0", fmt.Sprintf("id:%08x", i), fact.LeaseBound)
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], 0x0a010000+uint32(i))
		l.Addr = netip.AddrFrom4(b)
		all = append(all, l)
	}
	return all
}

func TestOpenRefuses(t *testing.T) {
	for _, c := range []struct {
		name, want string
		make       func(t *testing.T, path string)
	}{
		{"a file that is no database", "the file is damaged: move it", func(t *testing.T, path string) {
			must(t, os.WriteFile(path, []byte(strings.Repeat("not a database ", 500)), 0o600))
		}},
		{"a torn file", "the file is damaged: move it", func(t *testing.T, path string) {
			s := open(t, path)
			must(t, s.Commit(t.Context(), some(0, 2000)))
			must(t, s.Close())
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			must(t, err)
			defer f.Close()
			for off := int64(4096); off < 40960; off += 4096 {
				_, err = f.WriteAt([]byte(strings.Repeat("x", 4096)), off)
				must(t, err)
			}
		}},
		{"a newer version's file", "a newer Hotstage wrote it (schema 99, this one knows up to 2)", func(t *testing.T, path string) {
			s := open(t, path)
			_, err := s.db.Exec("PRAGMA user_version = 99")
			must(t, err)
			must(t, s.Close())
		}},
		{"another program's file", "another program made this file", func(t *testing.T, path string) {
			db, err := sql.Open("sqlite", path)
			must(t, err)
			_, err = db.Exec("CREATE TABLE music (title TEXT)")
			must(t, err)
			must(t, db.Close())
		}},
		{"a folder that is not there", "must exist and be writable", func(t *testing.T, path string) {
			must(t, os.Remove(filepath.Dir(path)))
		}},
		{"a folder in the file's place", "must exist and be writable", func(t *testing.T, path string) {
			must(t, os.Mkdir(path, 0o700))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "state")
			must(t, os.Mkdir(dir, 0o700))
			path := filepath.Join(dir, "leases.db")
			c.make(t, path)
			s, err := Open(path)
			if err == nil {
				s.Close()
				t.Fatal("opened")
			}
			if !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("error %q, want %q and the path in it", err, c.want)
			}
		})
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestPathsWithSigns(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a b?c=d%20&#é.db")
	s := open(t, path)
	must(t, s.Commit(t.Context(), some(0, 1)))
	must(t, s.Close())
	if _, err := os.Stat(path); err != nil {
		t.Fatal(err)
	}
}

func TestAnotherProcessReadsMeanwhile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "leases.db")
	s := open(t, path)
	defer s.Close()
	must(t, s.Commit(t.Context(), some(0, 10)))
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "HOTSTAGE_CHILD=count", "HOTSTAGE_STORE="+path)
	out, err := cmd.CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != "10" {
		t.Fatalf("the other process: %v, %q; want 10", err, out)
	}
	must(t, s.Commit(t.Context(), some(10, 10)))
}

// TestKill kills a child at any point of its commits: what it said was committed is there.
func TestKill(t *testing.T) {
	path := filepath.Join(t.TempDir(), "leases.db")
	for round := range 8 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "HOTSTAGE_CHILD=rush", "HOTSTAGE_STORE="+path)
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		lines := bufio.NewScanner(out)
		stop := time.AfterFunc(30*time.Second, func() { cmd.Process.Kill() })
		acked, limit := -1, 20+13*round
		for lines.Scan() {
			if n, err := fmt.Sscanf(lines.Text(), "acked %d", &acked); n != 1 || err != nil {
				t.Fatalf("child says %q", lines.Text())
			}
			if acked >= limit {
				cmd.Process.Signal(syscall.SIGKILL)
			}
		}
		stop.Stop()
		var exit *exec.ExitError
		if err := cmd.Wait(); !errors.As(err, &exit) {
			t.Fatalf("child was not killed: %v", err)
		}
		s := open(t, path)
		all, err := s.Load(t.Context())
		must(t, err)
		has := map[netip.Addr]bool{}
		for _, l := range all {
			has[l.Addr] = true
		}
		for _, l := range some(0, 3*(acked+1)) {
			if !has[l.Addr] {
				t.Fatalf("round %d: %v was acknowledged in a commit up to %d and is gone", round, l.Addr, acked)
			}
		}
		if n := len(all); n%3 != 0 {
			t.Errorf("%d leases: a commit of 3 was torn", n)
		}
		must(t, s.Close())
	}
}

// TestDisk lets a child meet a full disk and a read-only one, on a small file system of its own.
func TestDisk(t *testing.T) {
	testnet.Root(t)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "HOTSTAGE_CHILD=disk", "HOTSTAGE_STORE="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func BenchmarkCommit(b *testing.B) {
	for _, n := range []int{1, 20, 200} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := open(b, filepath.Join(b.TempDir(), "leases.db"))
			defer s.Close()
			i := 0
			for b.Loop() {
				must(b, s.Commit(b.Context(), some(i%8000, n)))
				i += n
			}
			b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "leases/s")
		})
	}
}

// BenchmarkStart is what a node with 100,000 leases reads before it serves: the check of the
// whole file, and all leases.
func BenchmarkStart(b *testing.B) {
	path := filepath.Join(b.TempDir(), "leases.db")
	for i := range 100 {
		s, err := Open(path)
		if err != nil {
			b.Fatal(err)
		}
		if err := s.Commit(b.Context(), some(1000*i, 1000)); err != nil {
			b.Fatal(err)
		}
		s.Close()
	}
	for b.Loop() {
		s, err := Open(path)
		if err != nil {
			b.Fatal(err)
		}
		if all, err := s.Load(b.Context()); err != nil || len(all) != 100_000 {
			b.Fatal(len(all), err)
		}
		s.Close()
	}
}
