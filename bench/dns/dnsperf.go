//go:build linux

package main

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"github.com/hotstage/hotstage/bench/rig"
)

// Query files for dnsperf: which names are asked, and how often.
const zipfQueries = 300_000

// writeQueries leaves three files: Zipf draws of the hosts, each miss once, and names below
// the wildcard once each.
func (b *bench) writeQueries() error {
	hosts := newHosts(1)
	write := func(file string, n int, name func(i int) string) error {
		f, err := os.Create(filepath.Join(b.Dir, file))
		if err != nil {
			return err
		}
		w := bufio.NewWriter(f)
		for i := range n {
			fmt.Fprintf(w, "%s A\n", name(i))
		}
		if err := w.Flush(); err != nil {
			return err
		}
		return f.Close()
	}
	if err := write("zipf.txt", zipfQueries, func(int) string { return hosts() }); err != nil {
		return err
	}
	if err := write("miss.txt", rig.Misses, func(i int) string { return fmt.Sprintf("m%d.site.tld", i) }); err != nil {
		return err
	}
	return write("fill.txt", fillQueries, func(i int) string { return fmt.Sprintf("x%d.wild.site.tld", i) })
}

// newHosts draws names of hosts, some far more often than others: Zipf with 1.1.
func newHosts(seed uint64) func() string {
	z := rand.NewZipf(rand.New(rand.NewPCG(seed, 1)), 1.1, 1, rig.Hosts-1)
	return func() string { return fmt.Sprintf("h%d.site.tld", z.Uint64()) }
}

// perf is what dnsperf saw, and what the machine spent meanwhile.
type perf struct {
	rate, answers float64
	lost          float64 // percent
	average       float64 // latency in ms
	longest       float64
	cpu           float64       // of the system, us an answer
	machine       float64       // of all but the generator, us an answer
	softirq       float64       // percent of one processor
	took          time.Duration // wall clock
}

var (
	sentLine     = regexp.MustCompile(`Queries sent:\s+(\d+)`)
	answerLine   = regexp.MustCompile(`Queries completed:\s+(\d+)`)
	rateLine     = regexp.MustCompile(`Queries per second:\s+([0-9.]+)`)
	averageLine  = regexp.MustCompile(`Average Latency \(s\):\s+([0-9.]+) \(min [0-9.]+, max ([0-9.]+)\)`)
	responseLine = regexp.MustCompile(`Response codes:\s+NOERROR [0-9]+ \(([0-9.]+)%\)`)
)

// dnsperf asks from a query file: eight clients on two threads.
func (s *stage) dnsperf(file string, args ...string) (perf, error) {
	if err := s.b.Ctx.Err(); err != nil {
		return perf{}, err
	}
	args = append([]string{"-s", s.addr.String(), "-d", filepath.Join(s.b.Dir, file), "-c", "8", "-T", "2", "-t", "2"}, args...)
	cpu, begun := s.cpu(), time.Now()
	busy, soft := rig.Machine()
	text, cmd, err := rig.Run(s.b.Ctx, s.client, "dnsperf", args...)
	if err != nil {
		return perf{}, fmt.Errorf("dnsperf: %w\n%s", err, text)
	}
	took := time.Since(begun)
	busy2, soft2 := rig.Machine()
	number := func(r *regexp.Regexp, group int) float64 {
		m := r.FindStringSubmatch(text)
		if m == nil {
			return 0
		}
		v, _ := strconv.ParseFloat(m[group], 64)
		return v
	}
	p := perf{rate: number(rateLine, 1), answers: number(answerLine, 1), average: 1e3 * number(averageLine, 1), longest: 1e3 * number(averageLine, 2), took: took}
	if p.answers == 0 {
		return p, fmt.Errorf("dnsperf got no answer:\n%s", text)
	}
	if good := number(responseLine, 1); good < 99 {
		return p, fmt.Errorf("only %.1f %% of the answers are NOERROR:\n%s", good, text)
	}
	sent := number(sentLine, 1)
	p.lost = 100 * (sent - p.answers) / sent
	generator := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	p.cpu = float64((s.cpu() - cpu).Microseconds()) / p.answers
	p.machine = float64((busy2 - busy - generator).Microseconds()) / p.answers
	p.softirq = 100 * (soft2 - soft).Seconds() / took.Seconds()
	return p, nil
}
