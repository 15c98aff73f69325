package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/plan"
	"github.com/hotstage/hotstage/internal/role/dhcp"
	"github.com/hotstage/hotstage/internal/store/journal"
	"github.com/hotstage/hotstage/internal/store/mysql"
	"github.com/hotstage/hotstage/internal/store/sqlite"
	"github.com/hotstage/hotstage/internal/task"
)

// addDHCP adds the DHCP server, and before it, so that it stops later, what copies its leases
// to the shared database.
func (n *node) addDHCP() error {
	cfg, err := dhcp.Configure(n.plan, n.name)
	if err != nil {
		return fmt.Errorf("configure dhcp: %w", err)
	}
	if n.pair, err = n.pairUp(cfg, n.keys); err != nil {
		return fmt.Errorf("configure dhcp: %w", err)
	}
	if n.pair == nil {
		cfg = cfg.Alone()
	} else if err := n.addPeers(n.pair); err != nil {
		return err
	}
	m := dhcp.NewMetrics(n.registry)
	if n.plan.DHCP.Shared == nil || n.alone {
		return n.group.Add("dhcp", func() (task.Task, error) { return n.startDHCP(cfg, m, nil) }, "segment")
	}
	shared, err := openShared(n.plan)
	if err != nil {
		return fmt.Errorf("configure leases: %w", err)
	}
	feed := dhcp.NewFeed(n.name, cfg, shared, n.plan.DHCP.Shared.Sync, dhcp.SystemClock(), dhcp.NewFeedMetrics(n.registry), n.events.tell)
	return errors.Join(
		n.group.Add("leases", func() (task.Task, error) { return dhcp.NewFollower(feed), nil }),
		n.group.Add("dhcp", func() (task.Task, error) { return n.startDHCP(cfg, m, feed) }, "segment", "leases"),
	)
}

// openShared resolves the database's password. It asks no server: a node starts without.
func openShared(p *plan.Plan) (*mysql.Store, error) {
	s := p.DHCP.Shared
	password, err := secret(p.Secrets[s.Password])
	if err != nil {
		return nil, fmt.Errorf("secret %s, the password of dhcp.leases: %w", s.Password, err)
	}
	return mysql.New(mysql.Config{Servers: s.Servers, User: s.User, Password: password, Database: s.Database})
}

// mostSecret bounds what is read of a secret's file.
const mostSecret = 4096

// secret is what a reference of the plan refers to. Errors name the place, never the value.
func secret(ref plan.Secret) (string, error) {
	if ref.File == "" {
		if v := os.Getenv(ref.Env); v != "" {
			return v, nil
		}
		return "", fmt.Errorf("the environment variable %s is not set; set it for this program, or name a file: file:/path", ref.Env)
	}
	f, err := os.Open(ref.File)
	if err != nil {
		return "", fmt.Errorf("%w; make the file with the secret as its first line, readable by this program only", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(io.LimitReader(f, mostSecret))
	if lines.Scan(); lines.Err() != nil {
		return "", fmt.Errorf("read %s: %w", ref.File, lines.Err())
	}
	v := strings.TrimRight(lines.Text(), "\r")
	if v == "" {
		return "", fmt.Errorf("the first line of %s is empty; the secret must stand there", ref.File)
	}
	return v, nil
}

// startDHCP opens the leases for one run of the server: a disk that fails is opened anew.
//
//	               server ──► journal ──► leases.db              leases of this node alone
//	               server ──► journal ──► leases.db ─ ─ ► shared database, copied by the task leases
//	with sync:     server ──────────────► leases.db ────► shared database, waited for
func (n *node) startDHCP(cfg dhcp.Config, m *dhcp.Metrics, feed *dhcp.Feed) (task.Task, error) {
	file, err := sqlite.Open(leasesFile(n.state))
	if err != nil {
		return nil, err
	}
	c := &closing{file: file}
	var behind journal.Book = unclosed{file}
	if feed != nil {
		c.followed = feed.Attach(file)
		behind = unclosed{c.followed}
	}
	if c.journal, err = journal.Open(journalFile(n.state), behind); err != nil {
		return nil, errors.Join(err, c.close(context.Background()))
	}
	var book leaseBook = c.journal
	if feed != nil && n.plan.DHCP.Shared.Sync {
		book = c.followed
	}
	c.Server = dhcp.New(cfg, book, dhcp.SystemClock(), m, n.events.tell)
	if n.pair != nil {
		c.Server.Join(n.pair.line(), n.memo())
	}
	n.dhcp.Store(c.Server)
	return c, nil
}

// unclosed is a book that the journal does not close: whoever follows it reads on.
type unclosed struct{ leaseBook }

// leaseBook is what the server and the journal write leases to.
type leaseBook interface {
	Load(ctx context.Context) ([]fact.Lease, error)
	Commit(ctx context.Context, leases []fact.Lease) error
}

func (unclosed) Close() error { return nil }

// closing is a DHCP server that closes its leases when it has stopped.
type closing struct {
	*dhcp.Server
	journal  *journal.Store
	file     *sqlite.Store
	followed *dhcp.Attached // nil when nobody follows the file
}

// Run serves until ctx ends.
func (c *closing) Run(ctx context.Context) error {
	settling, stop := context.WithCancel(context.WithoutCancel(ctx))
	var settler sync.WaitGroup
	settler.Go(func() { c.journal.Run(settling) })
	err := c.Server.Run(ctx)
	stop()
	settler.Wait()
	return errors.Join(err, c.close(context.WithoutCancel(ctx)))
}

// close gives the file what the journal has, and a moment later the shared database too.
func (c *closing) close(ctx context.Context) (err error) {
	if c.journal != nil {
		err = c.journal.Close()
	}
	if c.followed != nil {
		c.followed.Detach(ctx)
	}
	return errors.Join(err, c.file.Close())
}
