//go:build linux

package main

import (
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/go-sql-driver/mysql"
)

// database is one MariaDB for both: the same settings, the same data directory, empty tables
// for each trial. It runs in the server's namespace, on loopback.
type database struct {
	dir string
	cmd *exec.Cmd
}

// databaseOptions are for both. Each commit is on its disk when it says so.
var databaseOptions = []string{"--innodb-flush-log-at-trx-commit=1", "--innodb-buffer-pool-size=512M", "--innodb-log-file-size=256M",
	"--bind-address=127.0.0.1", "--port=3306", "--skip-name-resolve", "--user=root"}

// newDatabase makes the data directory with the users and the schema of Kea.
func newDatabase(dir string) (*database, error) {
	for _, tool := range []string{"mariadbd", "mariadb-install-db", "kea-admin"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, fmt.Errorf("%s is not installed; as root: apt-get install mariadb-server-core mariadb-client-core kea-admin", tool)
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	d := &database{dir: dir}
	out, err := exec.Command("mariadb-install-db", "--no-defaults", "--datadir="+d.data(), "--user=root", "--skip-test-db", "--auth-root-authentication-method=normal").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("mariadb-install-db: %w\n%s", err, out)
	}
	return d, nil
}

func (d *database) data() string   { return filepath.Join(d.dir, "data") }
func (d *database) socket() string { return filepath.Join(d.dir, "s") }

// start starts the database in the server's namespace, with nothing in its tables.
func (d *database) start(s *server) error {
	logFile, err := os.OpenFile(filepath.Join(d.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer logFile.Close()
	d.cmd = exec.Command("mariadbd", append([]string{"--no-defaults", "--datadir=" + d.data(), "--socket=" + d.socket(), "--pid-file=" + filepath.Join(d.dir, "pid")}, databaseOptions...)...)
	d.cmd.Stdout, d.cmd.Stderr = logFile, logFile
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := s.node.Start(d.cmd); err != nil {
		return err
	}
	db, err := d.open()
	if err != nil {
		return err
	}
	defer db.Close()
	for begun := time.Now(); db.Ping() != nil; time.Sleep(50 * time.Millisecond) {
		if time.Since(begun) > 30*time.Second {
			return errors.New("mariadbd does not answer; see " + logFile.Name())
		}
	}
	return d.empty(db, s)
}

// empty leaves ours without tables and Kea's without rows.
func (d *database) empty(db *sql.DB, s *server) error {
	for _, q := range []string{"DROP DATABASE IF EXISTS leases", "CREATE DATABASE leases", "CREATE DATABASE IF NOT EXISTS kea",
		"CREATE USER IF NOT EXISTS bench@'%' IDENTIFIED BY 'bench'", "GRANT ALL ON leases.* TO bench@'%'", "GRANT ALL ON kea.* TO bench@'%'"} {
		if _, err := db.Exec(q); err != nil {
			return fmt.Errorf("%s: %w", q, err)
		}
	}
	if _, err := db.Exec("TRUNCATE TABLE kea.lease4"); err == nil {
		_, err = db.Exec("TRUNCATE TABLE kea.lease4_stat")
		return err
	}
	cmd := exec.Command("kea-admin", "db-init", "mysql", "-u", "bench", "-p", "bench", "-n", "kea", "-h", "127.0.0.1", "-P", "3306")
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := s.node.Start(cmd); err != nil {
		return err
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("kea-admin db-init: %w\n%s", err, out.String())
	}
	return nil
}

// open is a connection of root. The caller closes it.
func (d *database) open() (*sql.DB, error) {
	cfg := mysql.NewConfig()
	cfg.User, cfg.Net, cfg.Addr, cfg.Timeout, cfg.Logger = "root", "unix", d.socket(), time.Second, &mysql.NopLogger{}
	c, err := mysql.NewConnector(cfg)
	if err != nil {
		return nil, err
	}
	return sql.OpenDB(c), nil
}

// holds waits until the database has that many leases of ours, and tells how long it took.
func (d *database) holds(n int, most time.Duration) (time.Duration, error) {
	db, err := d.open()
	if err != nil {
		return 0, err
	}
	defer db.Close()
	begun, rows := time.Now(), 0
	for ; time.Since(begun) < most; time.Sleep(100 * time.Millisecond) {
		if err := db.QueryRow("SELECT count(*) FROM leases.hotstage_leases").Scan(&rows); err != nil {
			return 0, err
		}
		if rows >= n {
			return time.Since(begun), nil
		}
	}
	return 0, fmt.Errorf("the database has %d leases of %d after %v", rows, n, most)
}

// stop ends the database in order, so that the next one starts at once.
func (d *database) stop() {
	if d.cmd == nil || d.cmd.Process == nil {
		return
	}
	d.cmd.Process.Signal(syscall.SIGTERM)
	late := time.AfterFunc(30*time.Second, func() { d.cmd.Process.Kill() })
	d.cmd.Wait()
	late.Stop()
	d.cmd = nil
}
