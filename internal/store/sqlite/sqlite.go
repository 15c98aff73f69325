// Package sqlite keeps facts in one file: the default store of a node. The file is in WAL
// mode with synchronous=FULL, so that a commit that returned nil survives the death of the
// process and of the machine, and other processes may read while it is open.
package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
	sqlite "modernc.org/sqlite"
	lib "modernc.org/sqlite/lib"
)

// Store is an open file. It is safe for concurrent use; writes are one after another.
type Store struct {
	db   *sql.DB
	side *sql.DB // of those who follow: what they read and mark holds no commit up
	hand *hand
	path string
	last int64 // number of the last change; whoever has db's one connection has it
}

// Open opens the file, making it when it is not there; its folder must be. It refuses a
// file that is damaged, that another program made, that a newer version of Hotstage wrote,
// or that cannot be written, each with what to do. The caller closes the store.
func Open(path string) (*Store, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", path, err)
	}
	// The busy timeout is for another process's short write lock (a backup, a person with
	// sqlite3); the bound of a commit is the caller's context.
	db, err := sql.Open("sqlite", dsn(abs, "FULL"))
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", path, err)
	}
	// A position that a power cut takes back is only sent again: no sync for it.
	side, err := sql.Open("sqlite", dsn(abs, "NORMAL"))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open store %s: %w", path, err), db.Close())
	}
	db.SetMaxOpenConns(1)
	side.SetMaxOpenConns(1)
	s := &Store{db: db, side: side, path: path}
	if err := s.prepare(); err != nil {
		db.Close()
		side.Close()
		return nil, fmt.Errorf("open store %s: %w", path, s.explain(err))
	}
	if s.hand, err = newHand(db); err != nil {
		db.Close()
		side.Close()
		return nil, fmt.Errorf("open store %s: %w", path, s.explain(err))
	}
	return s, nil
}

// dsn: what a statement may have to take back is kept in memory, not in a file that costs two
// system calls a row.
func dsn(path, sync string) string {
	return (&url.URL{Scheme: "file", Path: path, RawQuery: "_pragma=busy_timeout(2000)&_pragma=temp_store(MEMORY)&_pragma=journal_mode(WAL)&_pragma=synchronous(" + sync + ")&_txlock=immediate"}).String()
}

// Close writes the log back into the file and gives it up.
func (s *Store) Close() error {
	if err := errors.Join(s.side.Close(), s.db.Close()); err != nil {
		return fmt.Errorf("close store %s: %w", s.path, err)
	}
	return nil
}

// explain adds to SQLite's words what a person can do.
func (s *Store) explain(err error) error { return explain(err, s.path, damaged) }

// explain is Store.explain for any file; damaged is what to do when it cannot be read.
func explain(err error, path, damaged string) error {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return err
	}
	folder := filepath.Dir(path)
	hint := ""
	switch e.Code() & 0xff { // the primary result code
	case lib.SQLITE_CORRUPT, lib.SQLITE_NOTADB:
		hint = damaged
	case lib.SQLITE_READONLY, lib.SQLITE_CANTOPEN, lib.SQLITE_PERM:
		hint = "the folder " + folder + " must exist and be writable: ls -ld " + folder
	case lib.SQLITE_FULL:
		hint = "the disk is full: df -h " + folder
	case lib.SQLITE_IOERR:
		hint = "the disk refuses reads or writes: dmesg, df -h " + folder
	case lib.SQLITE_BUSY, lib.SQLITE_LOCKED:
		hint = "another process holds the file: fuser " + path
	default:
		return err
	}
	return fmt.Errorf("%w; %s", err, hint)
}

const damaged = "the file is damaged: move it and its -wal and -shm away, or put a copy back; a device whose lease is lost keeps its address when it renews"

// on runs f on the one connection. After an error the connection is given up, so that the
// next use starts afresh: a disk that was full or gone leaves nothing behind in it.
func (s *Store) on(ctx context.Context, f func(*sql.Conn) error) error { return on(ctx, s.db, f) }

func on(ctx context.Context, db *sql.DB, f func(*sql.Conn) error) error {
	c, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	err = f(c)
	if err != nil {
		_ = c.Raw(func(any) error { return driver.ErrBadConn }) // closes it
	}
	return errors.Join(err, ignoreClosed(c.Close()))
}

func ignoreClosed(err error) error {
	if errors.Is(err, sql.ErrConnDone) || errors.Is(err, driver.ErrBadConn) {
		return nil
	}
	return err
}

const selectAll = `SELECT segment, addr, client, mac, hostname, state, start, expires, boot, expires_boot FROM leases ORDER BY segment, addr`

// Commit writes the leases in order in one transaction, each in the place of what was known
// of its address. A client that is bound is bound once: its other leases in the segment
// become released. On nil they are on disk; after an error none of them is, unless the
// error came after the disk had them all.
func (s *Store) Commit(ctx context.Context, leases []fact.Lease) error {
	err := s.on(ctx, func(c *sql.Conn) error {
		tx, err := c.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer tx.Rollback()
		s.last, err = s.hand.write(ctx, tx, leases, s.last) // also when it fails: no number means two changes
		if err != nil {
			return err
		}
		return tx.Commit()
	})
	if err != nil {
		return fmt.Errorf("commit %d leases to %s: %w", len(leases), s.path, s.explain(err))
	}
	return nil
}

// Load reads all leases, in the order of segments and addresses as text.
func (s *Store) Load(ctx context.Context) ([]fact.Lease, error) {
	var all []fact.Lease
	err := s.on(ctx, func(c *sql.Conn) error {
		// Room for all at once: to let 100,000 leases grow into it takes longer than to read them.
		n := 0
		if err := c.QueryRowContext(ctx, "SELECT count(*) FROM leases").Scan(&n); err != nil {
			return err
		}
		all = make([]fact.Lease, 0, n)
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
		return nil, fmt.Errorf("load leases from %s: %w", s.path, s.explain(err))
	}
	return all, nil
}

// scan reads a lease, and into more what was selected after it.
func scan(rows *sql.Rows, more ...any) (fact.Lease, error) {
	var l fact.Lease
	var addr, mac, state string
	var start, expires, boot int64
	if err := rows.Scan(append([]any{&l.Segment, &addr, &l.Client, &mac, &l.Hostname, &state, &start, &expires, &l.Boot, &boot}, more...)...); err != nil {
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

// nanos is a time as the file has it: nanoseconds since 1970, 0 for none.
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
