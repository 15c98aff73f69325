package mysql

import (
	"context"
	"crypto/rand"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"strings"
)

// Schema steps: schema/1.sql makes version 1 of an empty database, schema/2.sql version 2 of
// that, and so on. The server cannot roll a step back, so each can be taken again. A step
// that was released is never changed.
//
//go:embed schema/*.sql
var steps embed.FS

// version is the schema that this program writes.
const version = 1

const remedy = "to begin anew: DROP TABLE IF EXISTS hotstage_schema, hotstage_leases; each node fills them again from its own file"

const makeSchema = `CREATE TABLE IF NOT EXISTS hotstage_schema (
  one TINYINT NOT NULL PRIMARY KEY, version INT NOT NULL, id VARCHAR(40) NOT NULL COMMENT 'tells this set of tables from any other'
) ENGINE = InnoDB, CHARACTER SET ascii, COLLATE ascii_bin`

// server is what a connection finds.
type server struct {
	version  int
	id       string // of the set of tables
	readOnly bool
}

// prepare checks the tables and makes or completes them, once a connection.
func prepare(ctx context.Context, c *sql.Conn) (server, error) {
	s, err := look(ctx, c)
	if err == nil && s.version < version && !s.readOnly {
		if err = migrate(ctx, c); err == nil {
			s, err = look(ctx, c)
		}
	}
	if err != nil {
		return s, err
	}
	switch {
	case s.version > version:
		return s, fmt.Errorf("a newer Hotstage made its tables (schema %d, this one knows up to %d); run that version on every node, or name another database", s.version, version)
	case s.version < version:
		return s, errors.New("it may only be read and has no tables yet: name the primary too, or SET GLOBAL read_only = OFF")
	}
	if _, err := c.ExecContext(ctx, selectAll+" LIMIT 0"); err != nil {
		return s, fmt.Errorf("its tables are not as Hotstage made them: %w; %s", err, remedy)
	}
	return s, nil
}

// look reads which schema there is; version 0 when there is none.
func look(ctx context.Context, c *sql.Conn) (s server, err error) {
	if err := c.QueryRowContext(ctx, "SELECT @@global.read_only").Scan(&s.readOnly); err != nil {
		return s, err
	}
	err = c.QueryRowContext(ctx, "SELECT version, id FROM hotstage_schema").Scan(&s.version, &s.id)
	switch {
	case errors.Is(err, sql.ErrNoRows), code(err) == noSuchTable:
		return s, nil
	case code(err) == noSuchColumn:
		return s, fmt.Errorf("its table hotstage_schema is not as Hotstage made it: %w; %s", err, remedy)
	}
	return s, err
}

// migrate takes the steps that are missing. The lock lets one node of those that start at
// once take them; on a cluster whose servers do not share it, steps and rows that are there
// already do no harm.
func migrate(ctx context.Context, c *sql.Conn) error {
	var got sql.NullInt64
	if err := c.QueryRowContext(ctx, "SELECT GET_LOCK(CONCAT('hotstage.', LEFT(DATABASE(), 50)), 3)").Scan(&got); err != nil {
		return err
	}
	if got.Int64 != 1 {
		return errors.New("another node is making the tables")
	}
	if err := take(ctx, c); err != nil {
		return err // the lock ends with the connection
	}
	_, err := c.ExecContext(ctx, "DO RELEASE_LOCK(CONCAT('hotstage.', LEFT(DATABASE(), 50)))")
	return err
}

func take(ctx context.Context, c *sql.Conn) error {
	s, err := look(ctx, c)
	if err != nil {
		return err
	}
	for n := s.version + 1; n <= version; n++ {
		step, err := steps.ReadFile(fmt.Sprintf("schema/%d.sql", n))
		if err != nil {
			return err
		}
		for statement := range strings.SplitSeq(string(step), ";\n") {
			if strings.TrimSpace(statement) == "" {
				continue
			}
			if _, err := c.ExecContext(ctx, statement); err != nil {
				return fmt.Errorf("bring its tables to schema %d: %w", n, err)
			}
		}
	}
	if _, err := c.ExecContext(ctx, makeSchema); err != nil {
		return fmt.Errorf("make its tables: %w", err)
	}
	_, err = c.ExecContext(ctx, "INSERT INTO hotstage_schema (one, version, id) VALUES (1, ?, ?) ON DUPLICATE KEY UPDATE version = VALUES(version)", version, rand.Text())
	return err
}
