// Package mysql keeps leases in MySQL or MariaDB, alone or as a Galera cluster: where nodes
// must know of each other's leases. Every call is bounded in time, whatever the server does.
// The server's clock is never asked: all times are those of the leases.
package mysql

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/hotstage/hotstage/internal/fact"
)

// Config says where the database is.
type Config struct {
	Servers  []string // host:port, in the order in which they are tried
	User     string
	Password string
	Database string
}

// Store is a database. It is safe for concurrent use; calls are one after another, on one
// connection that is made when it is needed.
type Store struct {
	servers []target
	turn    chan struct{} // holds one token while a call has the fields below
	conn    *sql.Conn     // nil when there is none
	at      int           // the server it is to, or was
	id      string        // of the tables there
	dialled int           // connections made
	met     int           // the one that Position was asked on, 0 before the first
}

// target is one server; name is for people.
type target struct {
	name string
	db   *sql.DB
}

// New makes a store and asks no server yet. It refuses what no server could have.
func New(cfg Config) (*Store, error) {
	if len(cfg.Servers) == 0 {
		return nil, errors.New("mysql: no server is named")
	}
	s := &Store{turn: make(chan struct{}, 1)}
	for _, addr := range cfg.Servers {
		connector, err := mysql.NewConnector(cfg.driver(addr))
		if err != nil {
			return nil, fmt.Errorf("mysql: %s: %w", addr, err)
		}
		db := sql.OpenDB(connector)
		db.SetMaxIdleConns(0)
		s.servers = append(s.servers, target{addr, db})
	}
	return s, nil
}

// Close gives the connection up, after the call that has it.
func (s *Store) Close() error {
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	s.drop()
	var errs []error
	for _, t := range s.servers {
		errs = append(errs, t.db.Close())
	}
	return errors.Join(errs...)
}

// rowsPerStatement keeps a statement under 1 MiB, a sixteenth of what a server takes.
const rowsPerStatement = 1000

// Of a statement's rows those that are older than what is there change nothing. VALUES() is
// what both MySQL and MariaDB know; assignments are made from left to right.
const (
	columns = "segment, addr, client, mac, hostname, state, start, expires, boot, expires_boot, node, seq"
	insert  = "INSERT INTO hotstage_leases (" + columns + ") VALUES "
	row     = "(?,?,?,?,?,?,?,?,?,?,?,?)"
	update  = ` ON DUPLICATE KEY UPDATE
client = IF(VALUES(seq) >= seq, VALUES(client), client), mac = IF(VALUES(seq) >= seq, VALUES(mac), mac),
hostname = IF(VALUES(seq) >= seq, VALUES(hostname), hostname), state = IF(VALUES(seq) >= seq, VALUES(state), state),
start = IF(VALUES(seq) >= seq, VALUES(start), start), expires = IF(VALUES(seq) >= seq, VALUES(expires), expires),
boot = IF(VALUES(seq) >= seq, VALUES(boot), boot), expires_boot = IF(VALUES(seq) >= seq, VALUES(expires_boot), expires_boot),
node = IF(VALUES(seq) >= seq, VALUES(node), node), seq = GREATEST(VALUES(seq), seq)`
	releaseOthers = "UPDATE hotstage_leases SET state = 'released' WHERE state = 'bound' AND ("
	another       = "(segment = ? AND client = ? AND addr <> ? AND node = ? AND seq <= ?)"
	selectAll     = "SELECT " + columns + " FROM hotstage_leases ORDER BY segment, addr"
)

// Commit writes the leases in order in one transaction, each in the place of what was known
// of its address, unless that has a higher Seq. A client that is bound is bound once among
// the leases of one node: its others in the segment become released. On nil the server has
// them; after an error none of them, unless the error came after it had them all, and it may
// be made again. It takes at most 5 s. Once Position was asked, a commit on a new connection
// fails until it is asked again: the server may have been put back from a copy.
func (s *Store) Commit(ctx context.Context, leases []fact.Lease) error {
	if len(leases) == 0 {
		return nil
	}
	b, err := gather(leases)
	if err == nil {
		err = s.on(ctx, func(ctx context.Context, c *sql.Conn) error {
			if s.met != 0 && s.met != s.dialled {
				return errAnew
			}
			return b.write(ctx, c)
		})
	}
	if err != nil {
		return fmt.Errorf("commit %d leases to %s: %w", len(leases), s, err)
	}
	return nil
}

// errAnew asks for Position.
var errAnew = errors.New("the connection was made anew")

// String names the servers.
func (s *Store) String() string {
	var names []string
	for _, t := range s.servers {
		names = append(names, t.name)
	}
	return "mysql at " + strings.Join(names, ", ")
}

// batch is what a commit comes to: each address once, and whose other leases end.
type batch struct {
	rows  []fact.Lease
	bound []fact.Lease // the last of each client that was bound on the way
}

type key struct{ segment, name, node string }

// gather plays the leases through as if each were a commit of its own.
func gather(leases []fact.Lease) (*batch, error) {
	rows, bound := map[key]*fact.Lease{}, map[key]*fact.Lease{}
	for i := range leases {
		l := leases[i]
		switch l.State {
		case fact.LeaseBound, fact.LeaseReleased, fact.LeaseExpired, fact.LeaseDeclined:
		default:
			return nil, fmt.Errorf("lease of %v: no such state: %q", l.Addr, l.State)
		}
		if l.State == fact.LeaseBound {
			client := key{l.Segment, l.Client, l.Node}
			if was := bound[client]; was != nil && was.Addr != l.Addr && was.Client == l.Client && was.State == fact.LeaseBound {
				was.State = fact.LeaseReleased
			}
			bound[client] = &l
		}
		at := key{l.Segment, l.Addr.String(), ""}
		if was := rows[at]; was != nil && was.Seq > l.Seq {
			continue
		}
		rows[at] = &l
	}
	b := &batch{}
	for _, l := range rows {
		b.rows = append(b.rows, *l)
	}
	for client, l := range bound {
		x := *l
		x.Client = client.name
		b.bound = append(b.bound, x)
	}
	// One order in all nodes: who waits for a row holds none that the other one waits for.
	order := func(x, y fact.Lease) int { return cmp.Or(cmp.Compare(x.Segment, y.Segment), x.Addr.Compare(y.Addr)) }
	slices.SortFunc(b.rows, order)
	slices.SortFunc(b.bound, order)
	return b, nil
}

// write takes four round trips, and two more for each further 1,000 rows.
func (b *batch) write(ctx context.Context, c *sql.Conn) error {
	tx, err := c.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	for part := range slices.Chunk(b.bound, rowsPerStatement) {
		var args []any
		for i := range part {
			l := &part[i]
			args = append(args, l.Segment, l.Client, l.Addr.String(), l.Node, l.Seq)
		}
		if _, err := tx.ExecContext(ctx, releaseOthers+another+strings.Repeat(" OR "+another, len(part)-1)+")", args...); err != nil {
			return err
		}
	}
	for part := range slices.Chunk(b.rows, rowsPerStatement) {
		var args []any
		for i := range part {
			l := &part[i]
			args = append(args, l.Segment, l.Addr.String(), l.Client, l.MAC.String(), l.Hostname, string(l.State),
				nanos(l.Start), nanos(l.Expires), l.Boot, int64(l.ExpiresBoot), l.Node, l.Seq)
		}
		if _, err := tx.ExecContext(ctx, insert+row+strings.Repeat(","+row, len(part)-1)+update, args...); err != nil {
			return err
		}
	}
	return tx.Commit()
}

// Load reads all leases, in the order of segments and addresses as text, each with its Node
// and Seq. It may take up to 5 s.
func (s *Store) Load(ctx context.Context) (all []fact.Lease, err error) {
	err = s.on(ctx, func(ctx context.Context, c *sql.Conn) error {
		all = nil
		rows, err := c.QueryContext(ctx, selectAll)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			l, err := scan(rows)
			if err != nil {
				return err
			}
			all = append(all, l)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("load leases from %s: %w", s, err)
	}
	return all, nil
}

// Position says which set of tables this is (another one after they were lost and made
// anew), the highest Seq in it, and the highest of the node's own leases; 0 for none.
func (s *Store) Position(ctx context.Context, node string) (id string, highest, own int64, err error) {
	err = s.on(ctx, func(ctx context.Context, c *sql.Conn) error {
		id, s.met = s.id, s.dialled
		return c.QueryRowContext(ctx, "SELECT COALESCE(MAX(seq), 0), COALESCE(MAX(IF(node = ?, seq, 0)), 0) FROM hotstage_leases", node).Scan(&highest, &own)
	})
	if err != nil {
		return "", 0, 0, fmt.Errorf("read the position in %s: %w", s, err)
	}
	return id, highest, own, nil
}

func scan(rows *sql.Rows) (fact.Lease, error) {
	var l fact.Lease
	var addr, mac, state string
	var start, expires, boot int64
	if err := rows.Scan(&l.Segment, &addr, &l.Client, &mac, &l.Hostname, &state, &start, &expires, &l.Boot, &boot, &l.Node, &l.Seq); err != nil {
		return l, err
	}
	var err error
	if l.Addr, err = netip.ParseAddr(addr); err != nil {
		return l, fmt.Errorf("lease in segment %s: %w", l.Segment, err)
	}
	if mac != "" {
		if l.MAC, err = net.ParseMAC(mac); err != nil {
			return l, fmt.Errorf("lease of %s: %w", addr, err)
		}
	}
	l.State = fact.LeaseState(state)
	l.Start, l.Expires, l.ExpiresBoot = moment(start), moment(expires), time.Duration(boot)
	return l, nil
}

// nanos is a time as the table has it: nanoseconds since 1970, 0 for none.
func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func moment(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}
