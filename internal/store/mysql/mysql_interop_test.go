package mysql

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/store"
	"github.com/hotstage/hotstage/internal/testnet"
)

func open(t testing.TB, m *testnet.MariaDB, more ...string) *Store {
	t.Helper()
	s, err := New(Config{Servers: append(more, m.Addr), User: "hotstage", Password: "hotstage", Database: "leases"})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
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

func TestConform(t *testing.T) {
	m := testnet.StartMariaDB(t)
	last := ""
	store.Conform(t, func(t *testing.T) store.Book {
		if last != t.Name() {
			last = t.Name()
			m.Exec("DROP TABLE IF EXISTS leases.hotstage_schema, leases.hotstage_leases")
		}
		return open(t, m)
	})
}

func TestOlderNeverReplacesNewer(t *testing.T) {
	s := open(t, testnet.StartMariaDB(t))
	defer s.Close()
	lease := func(addr, client string, node string, seq int64, state fact.LeaseState) fact.Lease {
		l := store.Lease("a", addr, client, state)
		l.Node, l.Seq = node, seq
		return l
	}
	for _, batch := range [][]fact.Lease{
		{lease("10.1.0.9", "id:01", "gw1", 10, fact.LeaseBound), lease("10.1.0.10", "id:02", "gw1", 11, fact.LeaseBound)},
		{lease("10.1.0.9", "id:03", "gw2", 7, fact.LeaseBound)},    // gw2 did not know of it
		{lease("10.1.0.11", "id:02", "gw1", 5, fact.LeaseBound)},   // an old file of the node
		{lease("10.1.0.10", "id:02", "gw1", 11, fact.LeaseBound)},  // sent twice: it is bound once
		{lease("10.1.0.12", "id:01", "gw2", 20, fact.LeaseBound)},  // another node's says nothing about ours
		{lease("10.1.0.9", "id:01", "gw1", 12, fact.LeaseExpired)}, // in order
	} {
		must(t, s.Commit(t.Context(), batch))
	}
	all, err := s.Load(t.Context())
	must(t, err)
	var got []string
	for _, l := range all {
		got = append(got, fmt.Sprintf("%v %s %s %d %s", l.Addr, l.Client, l.Node, l.Seq, l.State))
	}
	want := "10.1.0.10 id:02 gw1 11 bound, 10.1.0.11 id:02 gw1 5 released, 10.1.0.12 id:01 gw2 20 bound, 10.1.0.9 id:01 gw1 12 expired"
	if g := strings.Join(got, ", "); g != want {
		t.Errorf("got  %s\nwant %s", g, want)
	}
	_, highest, own, err := s.Position(t.Context(), "gw1")
	if err != nil || highest != 20 || own != 12 {
		t.Errorf("position %d, %d, %v; want 20, 12", highest, own, err)
	}
}

func TestTablesAreMadeOnceByMany(t *testing.T) {
	m := testnet.StartMariaDB(t)
	ids := make([]string, 6)
	var all sync.WaitGroup
	for i := range ids {
		all.Go(func() {
			s := open(t, m)
			defer s.Close()
			id, _, _, err := s.Position(t.Context(), "gw1")
			if err != nil {
				t.Error(err)
			}
			ids[i] = id
		})
	}
	all.Wait()
	for _, id := range ids {
		if id == "" || id != ids[0] {
			t.Errorf("ids %q: want one", ids)
		}
	}
	m.Exec("DROP TABLE leases.hotstage_schema, leases.hotstage_leases")
	s := open(t, m)
	defer s.Close()
	if id, _, _, err := s.Position(t.Context(), "gw1"); err != nil || id == ids[0] {
		t.Errorf("tables made anew: id %q, %v; want another", id, err)
	}
}

// Each is refused with a line that says what to do.
func TestRefuses(t *testing.T) {
	m := testnet.StartMariaDB(t)
	for _, c := range []struct {
		name, want string
		change     func(*Config)
		break_     string
	}{
		{"a newer schema", "a newer Hotstage made its tables (schema 99, this one knows up to 1); run that version", nil, "UPDATE leases.hotstage_schema SET version = 99"},
		{"a missing column", "not as Hotstage made them", nil, "ALTER TABLE leases.hotstage_leases DROP COLUMN boot"},
		{"no leases", "to begin anew: DROP TABLE", nil, "DROP TABLE leases.hotstage_leases"},
		{"another one's table", "to begin anew: DROP TABLE", nil, "ALTER TABLE leases.hotstage_schema DROP COLUMN id"},
		{"a wrong password", "its secret is not the server's", func(c *Config) { c.Password = "x" }, ""},
		{"no such database", "GRANT ALL", func(c *Config) { c.Database = "nowhere" }, ""},
		{"nobody there", "connection refused", func(c *Config) { c.Servers = []string{"127.0.0.1:1"} }, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			m.Exec("DROP TABLE IF EXISTS leases.hotstage_schema, leases.hotstage_leases")
			s := open(t, m)
			must(t, s.Commit(t.Context(), some(0, 1)))
			must(t, s.Close())
			cfg := Config{Servers: []string{m.Addr}, User: "hotstage", Password: "hotstage", Database: "leases"}
			if c.change != nil {
				c.change(&cfg)
			}
			if c.break_ != "" {
				m.Exec(c.break_)
			}
			s, err := New(cfg)
			must(t, err)
			defer s.Close()
			err = s.Commit(t.Context(), some(0, 1))
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %v, want %q in one line", err, c.want)
			}
		})
	}
}

// A server that is not there, one that says nothing and one that only reads are left for the next.
func TestServersInTurn(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer silent.Close()
	only, m := testnet.StartMariaDB(t), testnet.StartMariaDB(t)
	only.Exec("SET GLOBAL read_only = ON")
	s := open(t, m, "127.0.0.1:1", silent.Addr().String(), only.Addr)
	defer s.Close()
	must(t, s.Commit(t.Context(), some(0, 5)))
	if n := m.Count("SELECT count(*) FROM leases.hotstage_leases"); n != 5 {
		t.Errorf("%d rows, want 5", n)
	}
	begun := time.Now()
	for i := range 20 {
		must(t, s.Commit(t.Context(), some(i, 5)))
	}
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("20 commits took %v: it looks for a server each time", took)
	}
	// The primary moves while we are connected.
	only.Exec("SET GLOBAL read_only = OFF")
	m.Exec("SET GLOBAL read_only = ON")
	must(t, s.Commit(t.Context(), some(100, 7)))
	if n := only.Count("SELECT count(*) FROM leases.hotstage_leases"); n != 7 {
		t.Errorf("%d rows at the new primary, want 7", n)
	}
	// Where nobody can write, who can be read is read.
	only.Exec("SET GLOBAL read_only = ON")
	if err := s.Commit(t.Context(), some(200, 1)); err == nil || !strings.Contains(err.Error(), "it may only be read: name the primary") {
		t.Errorf("all are read-only: %v", err)
	}
	if all, err := s.Load(t.Context()); err != nil || len(all) == 0 {
		t.Errorf("read from a read-only server: %d leases, %v", len(all), err)
	}
}

func TestRestartedServerIsFoundAgain(t *testing.T) {
	m := testnet.StartMariaDB(t)
	s := open(t, m)
	defer s.Close()
	must(t, s.Commit(t.Context(), some(0, 10)))
	m.Kill()
	if err := s.Commit(t.Context(), some(10, 10)); err == nil {
		t.Error("committed to nobody")
	}
	m.Start()
	must(t, s.Commit(t.Context(), some(10, 10)))
	all, err := s.Load(t.Context())
	if err != nil || len(all) != 20 {
		t.Errorf("%d leases, %v; want 20", len(all), err)
	}
	m.Kill()
	m.Start()
	must(t, s.Commit(t.Context(), some(20, 10))) // on a connection that died meanwhile
	if _, _, _, err := s.Position(t.Context(), "gw1"); err != nil {
		t.Fatal(err)
	}
	m.Kill()
	m.Start()
	if err := s.Commit(t.Context(), some(30, 10)); err == nil || !strings.Contains(err.Error(), "made anew") {
		t.Errorf("nobody asked what the server still has: %v", err)
	}
	if _, _, _, err := s.Position(t.Context(), "gw1"); err != nil {
		t.Fatal(err)
	}
	must(t, s.Commit(t.Context(), some(30, 10)))
}

func TestPausedServerHoldsNothingUp(t *testing.T) {
	m := testnet.StartMariaDB(t)
	s := open(t, m)
	defer s.Close()
	must(t, s.Commit(t.Context(), some(0, 10)))
	m.Pause()
	ctx, stop := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer stop()
	begun := time.Now()
	if err := s.Commit(ctx, some(10, 10)); err == nil {
		t.Error("committed to a paused server")
	}
	if took := time.Since(begun); took > 2*time.Second {
		t.Errorf("gave up after %v, want about 300 ms", took)
	}
	begun = time.Now()
	if err := s.Commit(t.Context(), some(10, 10)); err == nil || !strings.Contains(err.Error(), "does not answer in time") {
		t.Errorf("a new connection to a paused server: %v", err)
	}
	if took := time.Since(begun); took > patience+2*time.Second {
		t.Errorf("gave up after %v, want at most %v", took, patience)
	}
	m.Resume()
	must(t, s.Commit(t.Context(), some(10, 10)))
}

// Nodes that write the same rows in any order lose against each other and go on.
func TestManyWriters(t *testing.T) {
	m := testnet.StartMariaDB(t)
	var all sync.WaitGroup
	for n := range 4 {
		all.Go(func() {
			s := open(t, m)
			defer s.Close()
			for i := range 25 {
				batch := some(i%5, 40)
				for k := range batch {
					batch[k].Node, batch[k].Seq = fmt.Sprint("gw", n), int64(i)
				}
				if err := s.Commit(t.Context(), batch); err != nil {
					t.Errorf("writer %d: %v", n, err)
					return
				}
			}
		})
	}
	all.Wait()
}

// A commit reads by index: its cost is that of its rows, not of the table's.
func TestReleaseUsesTheIndex(t *testing.T) {
	m := testnet.StartMariaDB(t)
	s := open(t, m)
	defer s.Close()
	must(t, s.Commit(t.Context(), some(0, 8000)))
	m.Exec("ANALYZE TABLE leases.hotstage_leases", "FLUSH STATUS")
	before := m.Count("SELECT variable_value FROM information_schema.global_status WHERE variable_name = 'Handler_read_rnd_next'")
	must(t, s.Commit(t.Context(), some(100, 256)))
	after := m.Count("SELECT variable_value FROM information_schema.global_status WHERE variable_name = 'Handler_read_rnd_next'")
	if read := after - before; read > 2000 {
		t.Errorf("%d rows were read from end to end", read)
	}
}

func BenchmarkCommit(b *testing.B) {
	m := testnet.StartMariaDB(b)
	for _, n := range []int{1, 20, 200} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := open(b, m)
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
