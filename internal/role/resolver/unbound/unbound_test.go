package unbound

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/golden"
	"github.com/prometheus/client_golang/prometheus"
)

func TestConfigurationText(t *testing.T) {
	anchors, err := anchorsIn(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	c := conf{port: 40053, threads: 2, ipv6: true, explain: true, control: socket(dirFD, "unbound-1"), anchors: anchors}
	golden.Compare(t, "unbound.conf", []byte(c.text()))
	c = conf{port: 40053, threads: 1, control: "/x", hints: "/h"}
	for _, want := range []string{"do-ip6: no", "module-config: \"iterator\"", "root-hints: \"/h\""} {
		if !strings.Contains(c.text(), want) {
			t.Errorf("without anchors: no %s in\n%s", want, c.text())
		}
	}
	if s := c.text(); strings.Contains(s, "ede:") || strings.Contains(s, "trust-anchor:") {
		t.Errorf("an old one without anchors has:\n%s", s)
	}
}

func TestAnchors(t *testing.T) {
	for _, c := range []struct {
		what, file string
		want       []string
		err        string
	}{
		{"comments and an end without a newline", "; the test's root\n\n. IN DS 1 8 2 AB ; key\n. IN DNSKEY 257 3 8 AwEA", []string{". IN DS 1 8 2 AB", ". IN DNSKEY 257 3 8 AwEA"}, ""},
		{"empty: nothing is validated", "", nil, ""},
		{"something else", ". IN DS 1 8 2 AB\"\n  chroot: \"/\n", nil, "no DS or DNSKEY record"},
		{"not a key", "example. IN A 192.0.2.1\n", nil, "no DS or DNSKEY record"},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, anchorFile), []byte(c.file), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := anchorsIn(dir)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: %v", c.what, err)
			}
			continue
		}
		if diff := cmp.Diff(c.want, got); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", c.what, err, diff)
		}
	}
}

func TestInstallLine(t *testing.T) {
	for release, want := range map[string]string{
		"ID=debian\nVERSION_ID=\"12\"\n":                     "apt-get install unbound && systemctl disable --now unbound",
		"ID=linuxmint\nID_LIKE=\"ubuntu debian\"":            "apt-get install unbound && systemctl disable --now unbound",
		"ID=\"almalinux\"\nID_LIKE=\"rhel centos fedora\"\n": "dnf install unbound",
		"ID=nixos\n": "install the package unbound of this system",
		"":           "install the package unbound of this system",
	} {
		if got := installOn(release); got != want {
			t.Errorf("%q: %s, want %s", release, got, want)
		}
	}
}

func TestMapped(t *testing.T) {
	for text, want := range map[string]bool{
		"         0          0 4294967295\n": true,
		"         0       1000          1\n": false,
		"0 1000 1\n100 100000 65536\n":       true,
		"":                                   false,
	} {
		file := filepath.Join(t.TempDir(), "map")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := mapped(file, 103); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}

// TestMissing: without Unbound that is told once, with the line to type, and tried again,
// each time later, until it is there.
func TestMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var told []string
		tell := func(_ fact.Severity, kind, words string) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, kind+": "+words)
		}
		r := New(Config{Dir: t.TempDir()}, NewMetrics(prometheus.NewRegistry()), tell, func(int) {})
		var tries []time.Duration
		begun := time.Now()
		r.find = func() (string, error) {
			mu.Lock()
			defer mu.Unlock()
			tries = append(tries, time.Since(begun))
			return "", fmt.Errorf("%w: apt-get install unbound", errMissing)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		time.Sleep(time.Minute)
		synctest.Wait()
		mu.Lock()
		if len(told) != Children || !strings.Contains(told[0], "apt-get install unbound") {
			t.Errorf("told: %q", told)
		}
		if n := len(tries) / Children; n < 10 || n > 14 || tries[len(tries)-1] < 50*time.Second {
			t.Errorf("tried at %v", tries)
		}
		mu.Unlock()
		for _, c := range r.Checks() {
			if c.OK || c.Measured != errMissing.Error() || c.Hint == "" {
				t.Errorf("%+v", c)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestLastWords: what a child says is told up to a bound, and its last words go with the news
// of its death.
func TestLastWords(t *testing.T) {
	var told []string
	begun := 0
	r := New(Config{}, NewMetrics(prometheus.NewRegistry()), func(_ fact.Severity, kind, words string) { told = append(told, kind+": "+words) }, func(int) { begun++ })
	var said strings.Builder
	said.WriteString("[1732484000] unbound[12:0] notice: init module 0: validator\n[1732484000] unbound[12:0] info: start of service (unbound 1.17.1).\n")
	for n := range 1000 {
		fmt.Fprintf(&said, "[1732484000] unbound[12:0] error: trouble %d %s\n", n, strings.Repeat("x", 9000))
	}
	said.WriteString("[1732484000] unbound[12:0] fatal error: Could not set up listen: x\nplain words\n")
	last := &lastWords{}
	r.listen(strings.NewReader(said.String()), 0, last)
	if begun != 1 || len(told) != 1+mostLines || told[0] != "unbound-up: unbound-1 serves ()." {
		t.Errorf("begun %d, told %d: %.200q", begun, len(told), told)
	}
	if s := last.text(); len(s) > 700 || !strings.HasSuffix(s, "plain words") {
		t.Errorf("last words: %q", s)
	}
	if c := r.Checks()[0]; !c.OK {
		t.Errorf("%+v", c)
	}
}

func TestStatistics(t *testing.T) {
	got, err := parseStats(strings.NewReader("total.num.queries=12\ntotal.recursion.time.avg=0.5\nhistogram.0=x\nversion\n"))
	if diff := cmp.Diff(map[string]float64{"total.num.queries": 12, "total.recursion.time.avg": 0.5}, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if _, err := parseStats(strings.NewReader("error unknown command 'x'\n")); err == nil || !strings.Contains(err.Error(), "unknown command") {
		t.Errorf("error %v", err)
	}
	if _, err := stats(context.Background(), "/proc/self/fd/0/none.sock"); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
}

func FuzzParseStats(f *testing.F) {
	f.Add("total.num.queries=12\ntotal.recursion.time.avg=0.500000\nmem.cache.rrset=33040\n")
	f.Add("error unknown command\n")
	f.Add("=\n==1\nx=nan\n\x00=1")
	f.Fuzz(func(t *testing.T, s string) {
		got, err := parseStats(strings.NewReader(s))
		if err == nil && len(got) > 4096 {
			t.Errorf("%d of %d octets", len(got), len(s))
		}
	})
}
