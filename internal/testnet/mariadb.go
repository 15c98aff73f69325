//go:build linux

package testnet

import (
	"bytes"
	"database/sql"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
)

// MariaDB is a server of one test, on a port of loopback. Its user hotstage with the
// password hotstage has all rights in the database leases, and none beyond.
type MariaDB struct {
	Addr string // host:port
	t    testing.TB
	exe  string
	dir  string
	cmd  *exec.Cmd
	over chan struct{} // closed when cmd has ended
	log  string
}

// StartMariaDB makes a server with the given options beside ours ("--max-connections=5"),
// and ends it with the test. Each commit is on its disk when it says so.
func StartMariaDB(t testing.TB, options ...string) *MariaDB {
	t.Helper()
	tools := Tools(t, "mariadbd", "mariadb-install-db", "my_print_defaults")
	dir := t.TempDir()
	install(t, tools[1], filepath.Join(dir, "data"))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := &MariaDB{Addr: l.Addr().String(), t: t, exe: tools[0], dir: dir, log: filepath.Join(dir, "log")}
	l.Close()
	t.Cleanup(m.Kill)
	m.Start(options...)
	m.Exec("CREATE DATABASE leases", "CREATE USER hotstage@'%' IDENTIFIED BY 'hotstage'", "GRANT ALL ON leases.* TO hotstage@'%'")
	return m
}

// install makes the server's own tables, in a second attempt when the machine was too busy
// for the first: it runs a server that gives up early.
func install(t testing.TB, tool, data string) {
	t.Helper()
	for attempt := 1; ; attempt++ {
		out, err := exec.Command(tool, "--no-defaults", "--datadir="+data, "--user="+owner(), "--skip-test-db",
			"--auth-root-authentication-method=normal", "--innodb-log-file-size=8M", "--innodb-use-native-aio=0").CombinedOutput()
		if err == nil {
			return
		}
		if attempt == 2 {
			t.Fatalf("mariadb-install-db: %v\n%s", err, out)
		}
		t.Logf("mariadb-install-db, attempt %d: %v\n%s", attempt, err, out)
		if err := os.RemoveAll(data); err != nil {
			t.Fatal(err)
		}
	}
}

func owner() string {
	if os.Geteuid() == 0 {
		return "root"
	}
	return os.Getenv("USER")
}

// Start starts the server again on its data and waits until it answers.
func (m *MariaDB) Start(options ...string) {
	m.t.Helper()
	_, port, _ := net.SplitHostPort(m.Addr)
	log, err := os.OpenFile(m.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		m.t.Fatal(err)
	}
	defer log.Close()
	args := append([]string{"--no-defaults", "--datadir=" + filepath.Join(m.dir, "data"), "--user=" + owner(), "--port=" + port,
		"--bind-address=127.0.0.1", "--socket=" + filepath.Join(m.dir, "s"), "--pid-file=" + filepath.Join(m.dir, "pid"), "--skip-name-resolve",
		"--innodb-buffer-pool-size=32M", "--innodb-log-file-size=8M", "--innodb-use-native-aio=0", "--innodb-flush-log-at-trx-commit=1"}, options...)
	m.cmd = exec.Command(m.exe, args...)
	m.cmd.Stdout, m.cmd.Stderr = log, log
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	m.run()
	db := m.root()
	defer db.Close()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if err = db.Ping(); err == nil {
			return
		}
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(m.log)
			m.t.Fatalf("mariadbd does not answer: %v\n%s", err, bytes.TrimSpace(text))
		}
	}
}

// run starts cmd from a thread that lives as long: the kernel ends the server with the
// thread that started it, so that nothing of a test that crashed is left over.
func (m *MariaDB) run() {
	m.t.Helper()
	started, over, cmd := make(chan error, 1), make(chan struct{}), m.cmd
	m.over = over
	go func() {
		defer close(over)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			cmd.Wait() // its error is the kill
		}
	}()
	if err := <-started; err != nil {
		m.cmd = nil
		m.t.Fatal(err)
	}
}

// root is a connection that may do everything. The caller closes it.
func (m *MariaDB) root() *sql.DB {
	cfg := mysql.NewConfig()
	cfg.User, cfg.Net, cfg.Addr, cfg.Timeout = "root", "unix", filepath.Join(m.dir, "s"), time.Second
	cfg.ReadTimeout, cfg.Logger = 10*time.Second, &mysql.NopLogger{}
	c, err := mysql.NewConnector(cfg)
	if err != nil {
		m.t.Fatal(err)
	}
	return sql.OpenDB(c)
}

// Exec runs statements as root.
func (m *MariaDB) Exec(statements ...string) {
	m.t.Helper()
	db := m.root()
	defer db.Close()
	for _, s := range statements {
		if _, err := db.Exec(s); err != nil {
			m.t.Fatalf("%s: %v", s, err)
		}
	}
}

// Count is the only number that the query gives.
func (m *MariaDB) Count(query string) (n int) {
	m.t.Helper()
	db := m.root()
	defer db.Close()
	if err := db.QueryRow(query).Scan(&n); err != nil {
		m.t.Fatalf("%s: %v", query, err)
	}
	return n
}

// Kill ends the server at once, as a power cut would.
func (m *MariaDB) Kill() {
	if m.cmd == nil {
		return
	}
	m.cmd.Process.Kill()
	<-m.over
	m.cmd = nil
}

// Pause stops the server in the middle of whatever it does; Resume lets it go on.
func (m *MariaDB) Pause() { m.signal(syscall.SIGSTOP) }

// Resume ends a Pause.
func (m *MariaDB) Resume() { m.signal(syscall.SIGCONT) }

func (m *MariaDB) signal(s syscall.Signal) {
	m.t.Helper()
	if err := m.cmd.Process.Signal(s); err != nil {
		m.t.Fatal(err)
	}
}
