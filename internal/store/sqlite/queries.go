package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
)

// Queries keeps queries in a file of their own, the oldest out first: what is lost with a
// crash or a power cut is a second of a sample, so that no write waits for the disk to have
// it. The file is opened by the first use and anew after an error. Safe for concurrent use.
type Queries struct {
	path string
	most int64 // bytes

	mu sync.Mutex
	db *sql.DB // nil while not open
}

// NewQueries keeps up to about most bytes in the file; its folder must be there. Nothing is
// opened yet.
func NewQueries(path string, most int64) *Queries { return &Queries{path: path, most: most} }

// queriesSchema: id goes up with time.
const queriesSchema = `CREATE TABLE IF NOT EXISTS queries (
  id     INTEGER PRIMARY KEY,
  time   INTEGER NOT NULL, -- nanoseconds since 1970
  client TEXT    NOT NULL,
  name   TEXT    NOT NULL,
  type   TEXT    NOT NULL,
  rcode  TEXT    NOT NULL,
  "from" TEXT    NOT NULL,
  took   INTEGER NOT NULL  -- nanoseconds
) STRICT`

// with calls f with the open file, and gives the file up when f fails.
func (q *Queries) with(ctx context.Context, f func(*sql.DB) error) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	err := q.open(ctx)
	if err == nil {
		err = f(q.db)
	}
	if err != nil && q.db != nil {
		q.db.Close()
		q.db = nil
	}
	return explain(err, q.path, "the file is damaged: move it and its -wal and -shm away")
}

// open opens the file when it is not; the caller holds the lock.
func (q *Queries) open(ctx context.Context) error {
	if q.db != nil {
		return nil
	}
	abs, err := filepath.Abs(q.path)
	if err != nil {
		return err
	}
	db, err := sql.Open("sqlite", dsn(abs, "NORMAL"))
	if err != nil {
		return err
	}
	db.SetMaxOpenConns(1)
	var app, version, tables int
	err = errors.Join(
		db.QueryRowContext(ctx, "PRAGMA application_id").Scan(&app),
		db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version),
		db.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_schema").Scan(&tables),
	)
	switch {
	case err != nil:
	case tables > 0 && (app != queriesApplication || version != 1):
		err = fmt.Errorf("another program, or another version, made %s; move it away", q.path)
	default:
		_, err = db.ExecContext(ctx, fmt.Sprintf("%s; PRAGMA application_id = %d; PRAGMA user_version = 1", queriesSchema, queriesApplication))
	}
	if err != nil {
		db.Close()
		return err
	}
	q.db = db
	return nil
}

// queriesApplication marks the file as ours (PRAGMA application_id): "HotQ".
const queriesApplication = 0x486f7451

// Append writes the queries in one transaction, and takes the oldest out when the file has
// grown to its bound. After an error none of them is kept.
func (q *Queries) Append(ctx context.Context, queries []fact.Query) error {
	err := q.with(ctx, func(db *sql.DB) error {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer tx.Rollback()
		insert, err := tx.PrepareContext(ctx, `INSERT INTO queries (time, client, name, type, rcode, "from", took) VALUES (?, ?, ?, ?, ?, ?, ?)`)
		if err != nil {
			return err
		}
		defer insert.Close()
		for _, x := range queries {
			if _, err := insert.ExecContext(ctx, x.Time.UnixNano(), x.Client.String(), x.Name, x.Type, x.Rcode, x.From, int64(x.Took)); err != nil {
				return err
			}
		}
		if err := q.trim(ctx, tx); err != nil {
			return err
		}
		return tx.Commit()
	})
	if err != nil {
		return fmt.Errorf("append %d queries to %s: %w", len(queries), q.path, err)
	}
	return nil
}

// trim takes a tenth of the queries out, the oldest, as often as the file holds more than it
// may. Their pages are used again.
func (q *Queries) trim(ctx context.Context, tx *sql.Tx) error {
	for {
		var used, size int64
		if err := tx.QueryRowContext(ctx, "SELECT page_count - freelist_count, page_size FROM pragma_page_count, pragma_freelist_count, pragma_page_size").Scan(&used, &size); err != nil {
			return err
		}
		if used*size <= q.most {
			return nil
		}
		out, err := tx.ExecContext(ctx, "DELETE FROM queries WHERE id <= (SELECT min(id) + (max(id) - min(id)) / 10 FROM queries)")
		if err != nil {
			return err
		}
		if n, err := out.RowsAffected(); err != nil || n == 0 {
			return err
		}
	}
}

// Last reads the last n queries, the newest last: those of a client, of a name and all below
// it, or with find "" all.
func (q *Queries) Last(ctx context.Context, n int, find string) ([]fact.Query, error) {
	where, args := "1", []any{}
	if a, err := netip.ParseAddr(find); err == nil {
		where, args = "client = ?", []any{a.String()}
	} else if find = strings.TrimSuffix(strings.ToLower(find), "."); find != "" {
		where, args = "name = ? OR substr(name, -length(?)) = ?", []any{find, "." + find, "." + find}
	}
	all := []fact.Query{}
	err := q.with(ctx, func(db *sql.DB) error {
		rows, err := db.QueryContext(ctx, `SELECT time, client, name, type, rcode, "from", took FROM
			(SELECT * FROM queries WHERE `+where+` ORDER BY id DESC LIMIT ?) ORDER BY id`, append(args, n)...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var x fact.Query
			var at int64
			var client string
			if err := rows.Scan(&at, &client, &x.Name, &x.Type, &x.Rcode, &x.From, &x.Took); err != nil {
				return err
			}
			if x.Client, err = netip.ParseAddr(client); err != nil {
				return fmt.Errorf("a client: %w", err)
			}
			x.Time = time.Unix(0, at).UTC()
			all = append(all, x)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("read queries from %s: %w", q.path, err)
	}
	return all, nil
}

// Close gives the file up; a later use opens it again.
func (q *Queries) Close() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.db == nil {
		return nil
	}
	err := q.db.Close()
	q.db = nil
	return err
}
