package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/hotstage/hotstage/internal/plan"
	"github.com/hotstage/hotstage/internal/role/dhcp"
	"github.com/hotstage/hotstage/internal/store/mysql"
	"github.com/hotstage/hotstage/internal/store/sqlite"
	"github.com/hotstage/hotstage/internal/testnet"
	"github.com/prometheus/client_golang/prometheus"
)

// timed says how long its commits took.
type timed struct {
	*sqlite.Store
	spent time.Duration // of the last one
}

func (s *timed) Commit(ctx context.Context, leases []fact.Lease) error {
	begun := time.Now()
	defer func() { s.spent = time.Since(begun) }()
	return s.Store.Commit(ctx, leases)
}

// rush is a node whose leases change without a pause while its shared database fails.
//
//	commits ──► a file ──► follower ──► a real MariaDB ──► looked at by somebody else
type rush struct {
	t      *testing.T
	m      *testnet.MariaDB
	dir    string
	own    *timed
	feed   *dhcp.Feed
	book   *dhcp.Attached
	watch  *mysql.Store
	events eventLog
	out    strings.Builder
	n      int           // leases committed
	extra  time.Duration // the longest that a commit took beside that of the file
}

// inRush is how many addresses there are; each is changed in turn. Fewer than the follower
// copies at once, so that the database has either all of a turn or none.
const inRush = 200

func rushConfig() dhcp.Config {
	return dhcp.Config{Segments: []dhcp.Segment{{
		Name: "hall", Prefix: netip.MustParsePrefix("10.1.0.0/16"), Lease: time.Hour,
		Pool: plan.Range{From: netip.MustParseAddr("10.1.0.0"), To: netip.MustParseAddr("10.1.255.0")},
	}}}
}

func openRush(t testing.TB, m *testnet.MariaDB) *mysql.Store {
	t.Helper()
	s, err := mysql.New(mysql.Config{Servers: []string{m.Addr}, User: "hotstage", Password: "hotstage", Database: "leases"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func newRush(t *testing.T, m *testnet.MariaDB, sync bool) *rush {
	t.Helper()
	r := &rush{t: t, m: m, dir: t.TempDir()}
	r.events.out = &r.out
	store, err := sqlite.Open(filepath.Join(r.dir, "leases.db"))
	if err != nil {
		t.Fatal(err)
	}
	r.own, r.watch = &timed{Store: store}, openRush(t, m)
	r.feed = dhcp.NewFeed("gw1", rushConfig(), openRush(t, m), sync, dhcp.SystemClock(), dhcp.NewFeedMetrics(prometheus.NewRegistry()), r.events.tell)
	r.book = r.feed.Attach(r.own)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); dhcp.NewFollower(r.feed).Run(ctx) }()
	t.Cleanup(func() { stop(); <-ended; store.Close() })
	return r
}

// run commits until the fault, which takes as long as it likes, is over.
func (r *rush) run(fault func()) {
	r.t.Helper()
	over := make(chan struct{})
	var other sync.WaitGroup
	other.Go(func() {
		for {
			select {
			case <-over:
				return
			case <-time.After(150 * time.Millisecond):
				r.look()
			}
		}
	})
	other.Go(func() { defer close(over); fault() })
	for done := false; !done; {
		r.commit()
		select {
		case <-over:
			done = true
		case <-time.After(2 * time.Millisecond):
		}
	}
	other.Wait()
}

// commit changes some addresses; the host name counts.
func (r *rush) commit() {
	r.t.Helper()
	var batch []fact.Lease
	for range 1 + r.n%7 {
		a := r.n % inRush
		batch = append(batch, fact.Lease{
			Segment: "hall", Addr: netip.AddrFrom4([4]byte{10, 1, byte(a / 200), byte(a % 200)}), Client: fmt.Sprintf("id:%04x", a), Hostname: fmt.Sprint("n", r.n),
			State: fact.LeaseBound, Start: time.Unix(1e9, 0).UTC(), Expires: time.Unix(2e9, 0).UTC(), Boot: dhcp.SystemClock().Boot(), ExpiresBoot: time.Duration(math.MaxInt32),
		})
		r.n++
	}
	begun := time.Now()
	if err := r.book.Commit(context.Background(), batch); err != nil {
		r.t.Errorf("the local commit failed: %v", err)
	}
	r.extra = max(r.extra, time.Since(begun)-r.own.spent)
}

// look checks, whenever the database can be read, that it holds one moment of the node's.
func (r *rush) look() {
	ctx, stop := context.WithTimeout(context.Background(), time.Second)
	defer stop()
	all, err := r.watch.Load(ctx)
	all = slices.DeleteFunc(all, func(l fact.Lease) bool { return l.Hostname == "" }) // of the rush only
	if err != nil || len(all) < inRush {
		return
	}
	least, most := math.MaxInt, 0
	for _, l := range all {
		n := 0
		fmt.Sscanf(l.Hostname, "n%d", &n)
		least, most = min(least, n), max(most, n)
	}
	if most-least >= inRush {
		r.t.Errorf("the database has change %d and not %d, which was before: %d rows", most, most-inRush+1, len(all))
	}
}

// arrives waits until the database has what the file has, and says that nobody waited long.
func (r *rush) arrives(bound time.Duration) {
	r.t.Helper()
	equal := ""
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		want, err := r.own.Load(context.Background())
		if err != nil {
			r.t.Fatal(err)
		}
		got, err := r.watch.Load(context.Background())
		equal = fmt.Sprint(err)
		if err == nil {
			for _, l := range got {
				if l.Node != "gw1" {
					r.t.Fatalf("a row of node %q", l.Node)
				}
			}
			equal = cmp.Diff(want, got, cmpopts.IgnoreFields(fact.Lease{}, "Node", "Seq"), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }))
		}
		if equal == "" {
			break
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("the database differs (-file +database):\n%.2000s\n%s", equal, r.out.String())
		}
	}
	if r.extra > bound {
		r.t.Errorf("a commit waited %v beside the disk, want at most %v", r.extra, bound)
	}
	r.t.Logf("%d leases committed, longest wait beside the disk %v", r.n, r.extra)
}

// heard tells whether the events came, in this order.
func (r *rush) heard(kinds ...string) {
	r.t.Helper()
	var got []string
	for _, e := range r.events.last() {
		got = append(got, e.Kind)
	}
	if !slices.Equal(got, kinds) {
		r.t.Errorf("events %v, want %v\n%s", got, kinds, r.out.String())
	}
}

// Bounds of a commit beside the disk's: a busy machine lets anybody wait for a while.
const (
	promptly = 500 * time.Millisecond
	aSecond  = 1800 * time.Millisecond
)

func TestSharedDatabaseIsKilled(t *testing.T) {
	m := testnet.StartMariaDB(t)
	r := newRush(t, m, false)
	r.run(func() {
		time.Sleep(500 * time.Millisecond)
		for range 2 {
			m.Kill()
			time.Sleep(time.Second)
			m.Start()
			time.Sleep(500 * time.Millisecond)
		}
	})
	r.arrives(promptly)
}

func TestSharedDatabaseIsPaused(t *testing.T) {
	m := testnet.StartMariaDB(t)
	r := newRush(t, m, false)
	r.run(func() {
		time.Sleep(500 * time.Millisecond)
		m.Pause()
		time.Sleep(4 * time.Second)
		m.Resume()
	})
	r.arrives(promptly)
}

func TestSharedDatabaseIsReadOnly(t *testing.T) {
	m := testnet.StartMariaDB(t)
	r := newRush(t, m, false)
	r.run(func() {
		time.Sleep(500 * time.Millisecond)
		m.Exec("SET GLOBAL read_only = ON")
		time.Sleep(2 * time.Second)
		m.Exec("SET GLOBAL read_only = OFF")
	})
	r.arrives(promptly)
	r.heard("lease-copy-failed", "lease-copy-works")
}

// The server says that its disk is full, here by a trigger: on one that really is full to the
// last byte MariaDB 10.11 ends by itself, which is TestSharedDatabaseIsKilled.
func TestSharedDatabaseIsFull(t *testing.T) {
	m := testnet.StartMariaDB(t)
	r := newRush(t, m, false)
	r.run(func() {
		time.Sleep(500 * time.Millisecond)
		m.Exec("CREATE TRIGGER leases.full BEFORE INSERT ON leases.hotstage_leases FOR EACH ROW SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = 1021, MESSAGE_TEXT = 'Disk full'")
		time.Sleep(2 * time.Second)
		m.Exec("DROP TRIGGER leases.full")
	})
	r.arrives(promptly)
	r.heard("lease-copy-failed", "lease-copy-works")
	if text := r.out.String(); !strings.Contains(text, "the disk of the database is full: make room there") {
		t.Errorf("nobody says that it is full:\n%s", text)
	}
}

// With sync the first ACK waits for its second, the others go on, and the crew hears of both.
func TestSyncGoesAloneAndComesBack(t *testing.T) {
	m := testnet.StartMariaDB(t)
	r := newRush(t, m, true)
	r.run(func() {
		time.Sleep(500 * time.Millisecond)
		m.Pause()
		time.Sleep(3 * time.Second)
		m.Resume()
		for i := 0; i < 150 && !strings.Contains(r.out.String(), "leases-synchronous"); i++ {
			time.Sleep(100 * time.Millisecond)
		}
	})
	before := r.n
	for range 10 { // what an ACK waited for is there
		r.commit()
		all, err := r.watch.Load(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(all, func(l fact.Lease) bool { return l.Hostname == fmt.Sprint("n", r.n-1) }) {
			t.Errorf("lease %d of %d is not in the database after its commit", r.n-1, before)
		}
	}
	r.arrives(aSecond)
	if text := r.out.String(); !strings.Contains(text, "leases-alone") || !strings.Contains(text, "leases-synchronous") {
		t.Errorf("events:\n%s", text)
	}
}

// A machine that takes another one's place knows the leases.
func TestNewMachineKnowsTheLeases(t *testing.T) {
	m := testnet.StartMariaDB(t)
	r := newRush(t, m, false)
	r.run(func() { time.Sleep(300 * time.Millisecond) })
	r.arrives(promptly)
	next, err := sqlite.Open(filepath.Join(t.TempDir(), "leases.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	feed := dhcp.NewFeed("gw1", rushConfig(), openRush(t, m), false, dhcp.SystemClock(), dhcp.NewFeedMetrics(prometheus.NewRegistry()), func(fact.Event) {})
	got, err := feed.Attach(next).Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want, err := r.own.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
		t.Errorf("(-old +new):\n%.2000s", d)
	}
}

// A node whose database is not there serves from its own disk, and status names it first.
func TestNodeServesWithoutItsDatabase(t *testing.T) {
	g := newGateway(t)
	text := onePlan + "dhcp: {leases: 'mysql://hotstage@192.0.2.7/leases', password: db, sync: true}\nsecrets: {db: 'file:" + g.file + ".secret'}\n"
	if err := os.WriteFile(g.file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(g.file+".secret", []byte("hotstage\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	g.start(t)
	g.walkIn(t, 1, 1) // waits its second in vain
	if r := g.walkIn(t, 5, 2); r.Addressed != 5 {
		t.Errorf("%d of 5 devices have an address without the database\n%s", r.Addressed, g.log.String())
	}
	out, code := g.until(t, "first broken: leases/leases-copied")
	if code != 1 || !strings.Contains(out, "devices are served from this node's own file meanwhile") {
		t.Errorf("exit %d\n%s", code, out)
	}
	for _, kind := range []string{"leases-not-adopted", "lease-copy-failed", "leases-alone"} {
		if !strings.Contains(g.log.String(), kind) {
			t.Errorf("no event %s:\n%s", kind, g.log.String())
		}
	}
	if strings.Contains(g.log.String(), "task-down") {
		t.Errorf("a task ended:\n%s", g.log.String())
	}
	// Counted at the next attempt.
	for begun := time.Now(); !strings.Contains(g.metrics(t), "hotstage_leases_behind_rows 6\n"); time.Sleep(100 * time.Millisecond) {
		if time.Since(begun) > 20*time.Second {
			t.Fatalf("metrics:\n%s", g.metrics(t))
		}
	}
	if err := g.end(t, os.Interrupt); err != nil {
		t.Errorf("stop: %v\n%s", err, g.log.String())
	}
}

// BenchmarkSyncCommit is what an ACK waits for with sync: its lease on the own disk and then
// in the database. Less the first, it is how far the database is behind without sync.
func BenchmarkSyncCommit(b *testing.B) {
	m := testnet.StartMariaDB(b)
	for _, n := range []int{1, 20, 200} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			m.Exec("DROP TABLE IF EXISTS leases.hotstage_schema, leases.hotstage_leases")
			store, err := sqlite.Open(filepath.Join(b.TempDir(), "leases.db"))
			if err != nil {
				b.Fatal(err)
			}
			defer store.Close()
			own := &timed{Store: store}
			feed := dhcp.NewFeed("gw1", rushConfig(), openRush(b, m), true, dhcp.SystemClock(), dhcp.NewFeedMetrics(prometheus.NewRegistry()), func(e fact.Event) { b.Error(e.Words) })
			book := feed.Attach(own)
			ctx, stop := context.WithCancel(context.Background())
			ended := make(chan struct{})
			go func() { defer close(ended); dhcp.NewFollower(feed).Run(ctx) }()
			defer func() { stop(); <-ended }()
			var behind []time.Duration
			for i := 0; b.Loop(); i++ {
				batch := make([]fact.Lease, n)
				for k := range batch {
					a := (i*n + k) % 8000
					batch[k] = fact.Lease{Segment: "hall", Addr: netip.AddrFrom4([4]byte{10, 1, byte(a >> 8), byte(a)}), Client: fmt.Sprintf("id:%04x", a), State: fact.LeaseBound, Start: time.Now(), Expires: time.Now()}
				}
				begun := time.Now()
				if err := book.Commit(b.Context(), batch); err != nil {
					b.Fatal(err)
				}
				behind = append(behind, time.Since(begun)-own.spent)
			}
			slices.Sort(behind)
			b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "leases/s")
			b.ReportMetric(float64(behind[len(behind)/2].Microseconds())/1000, "behind-p50-ms")
			b.ReportMetric(float64(behind[len(behind)*99/100].Microseconds())/1000, "behind-p99-ms")
		})
	}
}

// A machine is lost right after ACKs, a stand-in with nothing on its disk takes its name, gives
// more and is lost too, and the first one comes back with its old disk. Each knows what was
// copied before it began; no address has two devices.
//
//	gw1, its disk ──► database ──► gw1, an empty disk ──► database ──► gw1, its old disk
func TestStandInAndReturn(t *testing.T) {
	m := testnet.StartMariaDB(t)
	g := newGateway(t)
	g.give(t, largePlan+"dhcp: {leases: 'mysql://hotstage@"+databaseAt+"/leases', password: db}\nsecrets: {db: 'file:"+g.file+".secret'}\n")
	if err := os.WriteFile(g.file+".secret", []byte("hotstage\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	carry(t, g.ns, m.Addr)
	who := newGuests(t, g.aps, "p1")
	copied := func() {
		t.Helper()
		for begun := time.Now(); ; time.Sleep(50 * time.Millisecond) {
			n := m.Count("SELECT count(*) FROM leases.hotstage_leases WHERE state = 'bound'")
			if n >= len(who.has) {
				return
			}
			if time.Since(begun) > 20*time.Second {
				t.Fatalf("%d of %d leases are in the database\n%s", n, len(who.has), g.log.String())
			}
		}
	}
	first, second := g.state, g.state+"2"
	g.start(t)
	if n := who.come(1, 101, 15*time.Second); n != 100 {
		t.Fatalf("%d of 100 devices have an address\n%s", n, g.log.String())
	}
	copied()
	g.end(t, os.Kill)

	g.state = second // another machine
	g.start(t)
	who.reboot(who.all())
	if n := who.come(200, 300, 15*time.Second); n != 100 {
		t.Errorf("the stand-in: %d of 100 devices have an address\n%s", n, g.log.String())
	}
	copied()
	g.end(t, os.Kill)

	g.state = first // the first one, which has not seen the last hundred
	g.start(t)
	who.reboot(who.all())
	if n := who.come(400, 500, 15*time.Second); n != 100 {
		t.Errorf("the first again: %d of 100 devices have an address\n%s", n, g.log.String())
	}
	copied()
	g.end(t, os.Kill)
	// With its disk gone once more, all is known from the database.
	g.state = first + "3"
	g.start(t)
	who.reboot(who.all())
	if n := strings.Count(g.log.String(), "leases-adopted"); n != 3 {
		t.Errorf("leases were taken over %d times, want 3:\n%s", n, g.log.String())
	}
	t.Log(who)
}

// databaseAt is where a namespace reaches the database that carry brings there.
const databaseAt = "127.0.0.1:3306"

// carry brings connections from databaseAt in the namespace to a server on our loopback.
func carry(t *testing.T, ns *kernel.Namespace, to string) {
	t.Helper()
	var l net.Listener
	testnet.Do(t, ns, func() (err error) {
		l, err = net.Listen("tcp", databaseAt)
		return err
	})
	var all sync.WaitGroup
	ctx, stop := context.WithCancel(context.Background())
	t.Cleanup(func() { stop(); l.Close(); all.Wait() })
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { join(ctx, c, to) })
		}
	})
}

// join copies both ways until either side or ctx ends.
func join(ctx context.Context, c net.Conn, to string) {
	defer c.Close()
	far, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer far.Close()
	over, done := context.WithCancel(ctx)
	defer done()
	for _, way := range [2][2]net.Conn{{c, far}, {far, c}} {
		go func() { defer done(); io.Copy(way[0], way[1]) }() // ends with the connections
	}
	<-over.Done()
}
