package unbound

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

const (
	statsEvery = 10 * time.Second
	statsTime  = 2 * time.Second
	statsMost  = 64 << 10 // octets of an answer
)

// kept are the statistics that say something to a crew, by Unbound's own names
// (unbound-control(8), "stats").
var kept = []string{
	"total.num.queries", "total.num.cachehits", "total.num.recursivereplies", "total.num.queries_timed_out",
	"total.requestlist.avg", "total.requestlist.max", "total.requestlist.exceeded", "total.requestlist.current.all",
	"total.recursion.time.avg", "total.recursion.time.median",
	"num.answer.rcode.SERVFAIL", "num.answer.secure", "num.answer.bogus", "mem.cache.rrset", "mem.cache.message",
}

// parseStats reads lines of NAME=NUMBER; others are passed over.
func parseStats(r io.Reader) (map[string]float64, error) {
	all := map[string]float64{}
	lines := bufio.NewScanner(io.LimitReader(r, statsMost))
	for lines.Scan() {
		name, value, ok := strings.Cut(lines.Text(), "=")
		if !ok {
			if strings.HasPrefix(name, "error") {
				return nil, fmt.Errorf("unbound says: %.200q", name)
			}
			continue
		}
		if v, err := strconv.ParseFloat(value, 64); err == nil && len(all) < 4096 {
			all[name] = v
		}
	}
	return all, lines.Err()
}

// stats asks the child for its statistics by its control socket. The protocol is
// unbound-control's: one line with the version of the protocol and the command, then the
// answer until the end.
func stats(ctx context.Context, socket string) (map[string]float64, error) {
	ctx, cancel := context.WithTimeout(ctx, statsTime)
	defer cancel()
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })()
	if _, err := io.WriteString(c, "UBCT1 stats_noreset\n"); err != nil {
		return nil, err
	}
	return parseStats(c)
}
