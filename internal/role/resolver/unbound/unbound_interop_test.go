//go:build linux

package unbound

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/testnet"
	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// TestMain lets this program be the parent that TestParentKilled kills.
func TestMain(m *testing.M) {
	if dir := os.Getenv("UNBOUND_TEST_DIR"); dir != "" {
		up := make(chan int, 100)
		r := New(Config{Dir: dir}, NewMetrics(prometheus.NewRegistry()), func(fact.Severity, string, string) {}, func(i int) { up <- i })
		go r.Run(context.Background())
		<-up
		<-up
		fmt.Println(r.children[0].pid, r.children[1].pid)
		select {}
	}
	os.Exit(m.Run())
}

// TestRealUnbound: it is as unprivileged as it can be, answers on the loopback alone, without
// a word to the internet for what is its own; its statistics are read; it ends when it is
// told to.
func TestRealUnbound(t *testing.T) {
	testnet.Tools(t, "unbound")
	up := make(chan int, 100)
	m := NewMetrics(prometheus.NewRegistry())
	r := New(Config{Dir: filepath.Join(t.TempDir(), "unbound")}, m, func(_ fact.Severity, kind, words string) { t.Log(kind, words) }, func(i int) { up <- i })
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	for range Children {
		select {
		case <-up:
		case <-time.After(10 * time.Second):
			t.Fatalf("%+v", r.Checks())
		}
	}
	for i := range Children {
		q := new(dns.Msg)
		q.SetQuestion("localhost.", dns.TypeA)
		a, err := dns.Exchange(q, r.Addr(i).String())
		if err != nil || len(a.Answer) != 1 {
			t.Errorf("localhost of %d: %v %v", i, a, err)
		}
		c := &r.children[i]
		if owner := owner(); owner != nil {
			info, err := os.Stat(fmt.Sprintf("/proc/%d", c.pid))
			if err != nil || info.Sys().(*syscall.Stat_t).Uid != owner.Uid {
				u, _ := user.LookupId(fmt.Sprint(owner.Uid))
				t.Errorf("it runs as %v, not as %v: %v", info.Sys().(*syscall.Stat_t).Uid, u, err)
			}
		}
		if err := r.read(ctx, c); err != nil {
			t.Error(err)
		}
		if v := testutil.ToFloat64(m.stat.WithLabelValues(c.name, "total.num.queries")); v != 1 {
			t.Errorf("%v queries by its statistics", v)
		}
		if k := c.check(); !k.OK || !strings.HasPrefix(k.Measured, "unbound 1.") {
			t.Errorf("%+v", k)
		}
	}
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it does not stop")
	}
	for i := range Children {
		if c, err := net.DialTimeout("tcp", r.Addr(i).String(), time.Second); err == nil {
			c.Close()
			t.Errorf("somebody still listens at %s", r.Addr(i))
		}
	}
}

// TestParentKilled: a parent killed with -9 leaves no child behind.
func TestParentKilled(t *testing.T) {
	testnet.Tools(t, "unbound")
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "UNBOUND_TEST_DIR="+filepath.Join(t.TempDir(), "unbound"))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	var pids [Children]int
	if _, e := fmt.Sscan(line, &pids[0], &pids[1]); err != nil || e != nil {
		t.Errorf("it said %q: %v", line, err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		left := 0
		for _, pid := range pids {
			if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); err == nil && strings.HasPrefix(string(b), "unbound") {
				left++
			}
		}
		if left == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d children are left over", left)
		}
	}
}
