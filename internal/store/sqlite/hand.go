package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"strings"

	"github.com/hotstage/hotstage/internal/fact"
)

// hand writes leases by few statements, since each costs more than a row in it. Whoever has
// the store's one connection has the hand.
type hand struct {
	one, many pen
	release   *sql.Stmt
	args      []any
}

// pen writes groups of so many rows.
type pen struct {
	rows        int
	others, put *sql.Stmt
}

// manyRows of 11 columns are within what any SQLite takes as parameters of a statement.
const manyRows = 32

const (
	// Without CROSS JOIN and INDEXED BY SQLite reads the whole segment for each lease, which it
	// cannot know to be longer than one client's rows.
	selectOthers = `WITH g (segment, client, addr) AS (VALUES %s) SELECT l.segment, l.addr
FROM g CROSS JOIN leases l INDEXED BY leases_client ON l.segment = g.segment AND l.client = g.client AND l.state = 'bound' AND l.addr <> g.addr`
	releaseOther = `UPDATE leases SET state = 'released', seq = ? WHERE segment = ? AND addr = ?`
	upsert       = `INSERT INTO leases (segment, addr, client, mac, hostname, state, start, expires, boot, expires_boot, seq) VALUES %s
ON CONFLICT (segment, addr) DO UPDATE SET client = excluded.client, mac = excluded.mac, hostname = excluded.hostname,
  state = excluded.state, start = excluded.start, expires = excluded.expires, boot = excluded.boot, expires_boot = excluded.expires_boot, seq = excluded.seq`
)

func newHand(db *sql.DB) (*hand, error) {
	h := &hand{one: pen{rows: 1}, many: pen{rows: manyRows}}
	for _, p := range []*pen{&h.one, &h.many} {
		rows := func(row string) string { return strings.TrimSuffix(strings.Repeat(row+", ", p.rows), ", ") }
		var err error
		if p.others, err = db.Prepare(fmt.Sprintf(selectOthers, rows("(?, ?, ?)"))); err != nil {
			return nil, err
		}
		if p.put, err = db.Prepare(fmt.Sprintf(upsert, rows("(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"))); err != nil {
			return nil, err
		}
	}
	var err error
	h.release, err = db.Prepare(releaseOther)
	return h, err
}

// write numbers the changes from last on, and returns the last number.
func (h *hand) write(ctx context.Context, tx *sql.Tx, leases []fact.Lease, last int64) (int64, error) {
	for len(leases) > 0 {
		// The statements themselves run to their end: to watch a context costs the driver a
		// goroutine each.
		if err := ctx.Err(); err != nil {
			return last, err
		}
		p := &h.many
		if !apart(leases, p.rows) {
			p = &h.one
		}
		var err error
		if last, err = h.group(tx, p, leases[:p.rows], last); err != nil {
			return last, fmt.Errorf("leases of %v to %v: %w", leases[0].Addr, leases[p.rows-1].Addr, err)
		}
		leases = leases[p.rows:]
	}
	return last, nil
}

// apart tells whether there are n leases of which none has another one's address or client:
// then the order among them is no matter.
func apart(leases []fact.Lease, n int) bool {
	if len(leases) < n {
		return false
	}
	for i := range leases[:n] {
		for j := range leases[:i] {
			a, b := &leases[i], &leases[j]
			if (a.Addr == b.Addr || a.Client == b.Client) && a.Segment == b.Segment {
				return false
			}
		}
	}
	return true
}

// group writes leases that are apart: first what ends by them, then themselves.
func (h *hand) group(tx *sql.Tx, p *pen, leases []fact.Lease, last int64) (int64, error) {
	others, err := h.others(tx, p, leases)
	if err != nil {
		return last, err
	}
	for _, o := range others {
		last++
		if _, err := tx.Stmt(h.release).Exec(last, o[0], o[1]); err != nil {
			return last, err
		}
	}
	h.args = h.args[:0]
	for i := range leases {
		l := &leases[i]
		last++
		h.args = append(h.args, l.Segment, l.Addr.String(), l.Client, l.MAC.String(), l.Hostname, string(l.State),
			nanos(l.Start), nanos(l.Expires), l.Boot, int64(l.ExpiresBoot), last)
	}
	_, err = tx.Stmt(p.put).Exec(h.args...)
	return last, err
}

// others finds the segments and addresses of other leases that the clients are bound by.
func (h *hand) others(tx *sql.Tx, p *pen, leases []fact.Lease) (found [][2]string, err error) {
	h.args = h.args[:0]
	for i := range leases {
		l := &leases[i]
		client := any(l.Client)
		if l.State != fact.LeaseBound {
			client = nil // is equal to none
		}
		h.args = append(h.args, l.Segment, client, l.Addr.String())
	}
	rows, err := tx.Stmt(p.others).Query(h.args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var o [2]string
		if err := rows.Scan(&o[0], &o[1]); err != nil {
			return nil, err
		}
		found = append(found, o)
	}
	return found, rows.Err()
}
