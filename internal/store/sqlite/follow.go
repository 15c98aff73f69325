package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/hotstage/hotstage/internal/fact"
)

// A follower copies the file somewhere else. It needs no log: each row has the number of its
// last change, so the rows above the follower's position, in the order of their numbers, are
// all that it lacks. A row that changed twice in the meantime comes once, as it is now.
//
//	rows by number   1 2 . 4 . . 7 8 9
//	                       ▲         ▲
//	            the follower's mark  last

const selectChanges = `SELECT segment, addr, client, mac, hostname, state, start, expires, boot, expires_boot, seq FROM leases WHERE seq > ? ORDER BY seq LIMIT ?`

// Changes reads up to limit leases that changed after the given number, in the order of
// their last changes, each with its Seq. All changes of a commit are seen, or none.
func (s *Store) Changes(ctx context.Context, after int64, limit int) ([]fact.Lease, error) {
	var all []fact.Lease
	err := on(ctx, s.side, func(c *sql.Conn) error {
		rows, err := c.QueryContext(ctx, selectChanges, after, limit)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var seq int64
			l, err := scan(rows, &seq)
			if err != nil {
				return err
			}
			l.Seq = seq
			all = append(all, l)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("read changes of %s: %w", s.path, s.explain(err))
	}
	return all, nil
}

// Behind counts the leases that changed after the given number.
func (s *Store) Behind(ctx context.Context, after int64) (n int, err error) {
	err = on(ctx, s.side, func(c *sql.Conn) error {
		return c.QueryRowContext(ctx, "SELECT count(*) FROM leases WHERE seq > ?", after).Scan(&n)
	})
	if err != nil {
		return 0, fmt.Errorf("count changes of %s: %w", s.path, s.explain(err))
	}
	return n, nil
}

// Mark keeps how far the follower has come. It survives the death of the process; a power
// cut may take the last marks back, never forward.
func (s *Store) Mark(ctx context.Context, follower string, seq int64) error {
	err := on(ctx, s.side, func(c *sql.Conn) error {
		_, err := c.ExecContext(ctx, "INSERT INTO followers (name, seq) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET seq = excluded.seq", follower, seq)
		return err
	})
	if err != nil {
		return fmt.Errorf("mark %s in %s: %w", follower, s.path, s.explain(err))
	}
	return nil
}

// Marked is how far the follower has come; 0 for one that is not known.
func (s *Store) Marked(ctx context.Context, follower string) (seq int64, err error) {
	err = on(ctx, s.side, func(c *sql.Conn) error {
		err := c.QueryRowContext(ctx, "SELECT seq FROM followers WHERE name = ?", follower).Scan(&seq)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("read the mark of %s in %s: %w", follower, s.path, s.explain(err))
	}
	return seq, nil
}

// Lift gives every change after the first number, and every one that is still to come, a
// number above the second, in the order they had.
func (s *Store) Lift(ctx context.Context, after, above int64) error {
	err := s.on(ctx, func(c *sql.Conn) error {
		by := above - after
		if by <= 0 || s.last > above && !s.between(ctx, c, after, above) {
			return nil
		}
		s.last = max(s.last+by, above)
		_, err := c.ExecContext(ctx, "UPDATE leases SET seq = seq + ? WHERE seq > ?", by, after)
		return err
	})
	if err != nil {
		return fmt.Errorf("renumber changes of %s: %w", s.path, s.explain(err))
	}
	return nil
}

// between tells whether a change has a number above the first and not above the second;
// also when nobody can say.
func (s *Store) between(ctx context.Context, c *sql.Conn, after, above int64) bool {
	var one int
	err := c.QueryRowContext(ctx, "SELECT 1 FROM leases WHERE seq > ? AND seq <= ? LIMIT 1", after, above).Scan(&one)
	return !errors.Is(err, sql.ErrNoRows)
}
