package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/hotstage/hotstage/internal/plan"
	"github.com/hotstage/hotstage/internal/role/dhcp"
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
func (n *node) startDHCP(cfg dhcp.Config, m *dhcp.Metrics, feed *dhcp.Feed) (task.Task, error) {
	book, err := sqlite.Open(leasesFile(n.state))
	if err != nil {
		return nil, err
	}
	c := &closing{book: book}
	if feed == nil {
		c.Server = dhcp.New(cfg, book, dhcp.SystemClock(), m, n.events.tell)
	} else {
		c.followed = feed.Attach(book)
		c.Server = dhcp.New(cfg, c.followed, dhcp.SystemClock(), m, n.events.tell)
	}
	n.dhcp.Store(c.Server)
	return c, nil
}

// closing is a DHCP server that closes its lease book when it has stopped.
type closing struct {
	*dhcp.Server
	book     *sqlite.Store
	followed *dhcp.Attached // nil when nobody follows the book
}

// Run serves until ctx ends.
func (c *closing) Run(ctx context.Context) error {
	err := c.Server.Run(ctx)
	if c.followed != nil {
		c.followed.Detach(context.WithoutCancel(ctx))
	}
	return errors.Join(err, c.book.Close())
}
