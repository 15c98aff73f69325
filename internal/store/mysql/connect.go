package mysql

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/go-sql-driver/mysql"
)

// Numbers of the server's errors: https://mariadb.com/kb/en/mariadb-error-codes/.
const (
	diskFull      = 1021
	errorOnWrite  = 1026
	denied        = 1044
	wrongPassword = 1045
	notPrimary    = 1047 // Galera: this server is not part of the cluster's majority
	noDatabase    = 1049
	noSuchColumn  = 1054
	tableFull     = 1114
	tableDenied   = 1142
	noSuchTable   = 1146
	lockWait      = 1205
	deadlock      = 1213 // Galera: also a commit that lost against another server's
	optionSet     = 1290 // --read-only
	readOnlyTx    = 1792
	readOnlyMode  = 1836
)

// code is the number of a server's error, 0 for what no server said.
func code(err error) uint16 {
	var e *mysql.MySQLError
	if errors.As(err, &e) {
		return e.Number
	}
	return 0
}

const (
	// patience bounds one call, with all its attempts.
	patience = 5 * time.Second
	// connectFor bounds the attempt to reach one server, so that the others get their turn.
	connectFor = 1500 * time.Millisecond
	// ioFor bounds each read and write: a server that is stopped in the middle of an answer.
	ioFor = 3 * time.Second
	// attempts is how often a call that lost against another one is made.
	attempts = 4
)

func (c Config) driver(addr string) *mysql.Config {
	d := mysql.NewConfig()
	d.User, d.Passwd, d.DBName, d.Net, d.Addr = c.User, c.Password, c.Database, "tcp", addr
	d.Timeout, d.ReadTimeout, d.WriteTimeout = connectFor, ioFor, ioFor
	d.TLSConfig = "preferred" // nobody who only listens reads along, where the server has a key
	d.InterpolateParams = true
	d.Logger = &mysql.NopLogger{} // every error comes back to us
	d.Params = map[string]string{"sql_mode": "'STRICT_ALL_TABLES'", "innodb_lock_wait_timeout": "2"}
	return d
}

// on runs f on the connection, making it when there is none. What lost against somebody else
// is done again, what met a dead connection or a server that cannot write is done on the
// next one. f must leave no transaction open and may be run several times.
func (s *Store) on(ctx context.Context, f func(context.Context, *sql.Conn) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	var err error
	for n := range attempts {
		if n > 0 && !pause(ctx, time.Duration(n*n)*10*time.Millisecond) {
			return err
		}
		used := s.conn != nil
		if err = s.connect(ctx); err != nil {
			return err
		}
		err = f(ctx, s.conn)
		if err == nil {
			return nil
		}
		again := false
		switch code(err) {
		case deadlock, lockWait:
			again = true
		case notPrimary, optionSet, readOnlyTx, readOnlyMode:
			s.drop()
			again = len(s.servers) > 1
		case 0:
			if errors.Is(err, errAnew) {
				return err
			}
			s.drop() // whatever state it is in
			again = used
		default:
			s.drop()
		}
		if err = explain(err); !again || ctx.Err() != nil {
			return err
		}
	}
	return err
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// connect makes the connection when there is none: to the first server, from the one that
// was used last, that can be written; where none can, to one that can be read.
func (s *Store) connect(ctx context.Context) error {
	if s.conn != nil {
		return nil
	}
	var failed error
	first, second := s.at, -1
	for i := range s.servers {
		at := (first + i) % len(s.servers)
		found, err := s.reach(ctx, at)
		switch {
		case err != nil:
			failed = also(failed, fmt.Errorf("%s: %w", s.servers[at].name, explain(err)))
		case !found.readOnly:
			return nil
		default:
			s.drop()
			if second < 0 {
				second = at
			}
		}
	}
	if second < 0 {
		return failed
	}
	if _, err := s.reach(ctx, second); err != nil {
		return also(failed, fmt.Errorf("%s: %w", s.servers[second].name, explain(err)))
	}
	return nil
}

// also is both errors in one line.
func also(a, b error) error {
	if a == nil {
		return b
	}
	return fmt.Errorf("%w; %w", a, b)
}

// reach connects to one server and looks whether its tables are there.
func (s *Store) reach(ctx context.Context, at int) (found server, err error) {
	dialing, cancel := context.WithTimeout(ctx, connectFor)
	defer cancel()
	if s.conn, err = s.servers[at].db.Conn(dialing); err != nil {
		s.conn = nil
		return found, err
	}
	s.at = at
	s.dialled++
	// Without gaps between rows being locked, nodes do not wait for each other's new rows.
	if _, err = s.conn.ExecContext(dialing, "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED"); err == nil {
		found, err = prepare(ctx, s.conn) // may have to make the tables
	}
	s.id = found.id
	if err != nil {
		s.drop()
	}
	return found, err
}

// drop gives the connection up; the next one is looked for at the same server first, unless
// it turned out that it cannot be written.
func (s *Store) drop() {
	if s.conn == nil {
		return
	}
	// Marked as bad it is closed, whatever is under way on it. Neither call can say more.
	_ = s.conn.Raw(func(any) error { return driver.ErrBadConn })
	_ = s.conn.Close()
	s.conn = nil
}

// explain adds to the server's words what a person can do.
func explain(err error) error {
	hint := ""
	var timeout net.Error
	switch code(err) {
	case wrongPassword:
		hint = "the user of dhcp.leases or its secret is not the server's"
	case denied, tableDenied:
		hint = "GRANT ALL ON the database TO the user of dhcp.leases"
	case noDatabase:
		hint = "CREATE DATABASE it first"
	case optionSet, readOnlyTx, readOnlyMode:
		hint = "it may only be read: name the primary too, or SET GLOBAL read_only = OFF"
	case notPrimary:
		hint = "it is cut off from its cluster: name the other servers too"
	case diskFull, errorOnWrite, tableFull:
		hint = "the disk of the database is full: make room there"
	case 0:
		if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout() {
			hint = "it does not answer in time"
		}
	}
	if hint == "" {
		return err
	}
	return fmt.Errorf("%w; %s", err, hint)
}
