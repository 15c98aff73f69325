package sqlite

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
)

// application marks the file as ours (PRAGMA application_id): "HotS".
const application = 0x486f7453

// Schema steps: schema/1.sql makes version 1 of a new file, schema/2.sql version 2 of that,
// and so on. A step that was released is never changed.
//
//go:embed schema/*.sql
var steps embed.FS

// version is the schema that this program writes.
const version = 2

// prepare checks the file and brings its schema up to date.
func (s *Store) prepare() error {
	ctx := context.Background()
	return s.on(ctx, func(c *sql.Conn) error {
		var mode string
		if err := c.QueryRowContext(ctx, "PRAGMA journal_mode").Scan(&mode); err != nil {
			return err
		}
		if mode != "wal" {
			return fmt.Errorf("its file system cannot hold a write-ahead log (journal mode %s); use a local disk", mode)
		}
		var app, has int
		if err := c.QueryRowContext(ctx, "PRAGMA application_id").Scan(&app); err != nil {
			return err
		}
		if err := c.QueryRowContext(ctx, "PRAGMA user_version").Scan(&has); err != nil {
			return err
		}
		var tables int
		if err := c.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_schema").Scan(&tables); err != nil {
			return err
		}
		switch {
		case app != application && tables > 0:
			return fmt.Errorf("another program made this file (application id %#x); name a file of its own for the leases", app)
		case has > version:
			return fmt.Errorf("a newer Hotstage wrote it (schema %d, this one knows up to %d); run that version, or move the file away", has, version)
		}
		if err := check(ctx, c); err != nil {
			return err
		}
		return s.migrate(ctx, c, has)
	})
}

// check reads the whole file; 8,000 leases take some milliseconds.
func check(ctx context.Context, c *sql.Conn) error {
	var found string
	if err := c.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&found); err != nil {
		return err
	}
	if found != "ok" {
		return fmt.Errorf("%s; %s", found, damaged)
	}
	return nil
}

// migrate takes the steps that are missing, all or none. It writes even when none is, to
// find out now whether the file can be written.
func (s *Store) migrate(ctx context.Context, c *sql.Conn, has int) error {
	tx, err := c.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	for n := has + 1; n <= version; n++ {
		step, err := steps.ReadFile(fmt.Sprintf("schema/%d.sql", n))
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, string(step)); err != nil {
			return fmt.Errorf("bring it to schema %d: %w", n, err)
		}
	}
	if err := tx.QueryRowContext(ctx, "SELECT coalesce(max(seq), 0) FROM leases").Scan(&s.last); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA application_id = %d; PRAGMA user_version = %d", application, version)); err != nil {
		return err
	}
	return tx.Commit()
}
