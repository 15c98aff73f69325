//go:build linux

package venue

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hotstage/hotstage/internal/plan"
	"golang.org/x/sys/unix"
)

func TestLimitsOfOneMachine(t *testing.T) {
	p := twoSites()
	// gw1 and srv1 are in segments, cloud1 is not.
	if d := cmp.Diff(plan.Limits{Neighbours: 2 * 8192, Conntrack: 1 << 30}, Limits(p)); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestNeighbourGap(t *testing.T) {
	for _, c := range []struct{ host, want string }{
		{"16384", ""},
		{"16383", "is 16383"},
		{"0", "cannot be read here"},
	} {
		t.Setenv(mark, c.host)
		gaps := lowLimits(plan.Limits{Neighbours: 16384})
		switch {
		case c.want == "" && len(gaps) > 0:
			t.Errorf("host %s: %+v", c.host, gaps)
		case c.want != "" && (len(gaps) != 1 || !strings.Contains(gaps[0].Words, c.want) || !strings.Contains(gaps[0].Todo, "gc_thresh3=16384 net.ipv6.neigh.default.gc_thresh3=16384")):
			t.Errorf("host %s: %+v, want one with %q", c.host, gaps, c.want)
		}
	}
}

func TestMissingRoles(t *testing.T) {
	got := missingRoles(twoSites(), []plan.Role{plan.RoleDHCP})
	want := []Gap{
		{Key: "role-router", Words: "role router of gw1, cloud1: this version does not have it"},
		{Key: "role-ntp", Words: "role ntp of gw1: this version does not have it"},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestSharedLeasesAreAGap(t *testing.T) {
	p := twoSites()
	if got := sharedLeases(p); got != nil {
		t.Errorf("without a database: %+v", got)
	}
	p.DHCP.Shared = &plan.Shared{Servers: []string{"db1:3306", "db2:3306"}}
	if got := sharedLeases(p); len(got) != 1 || !strings.Contains(got[0].Words, "db1:3306, db2:3306") {
		t.Errorf("with one: %+v", got)
	}
}

func TestHints(t *testing.T) {
	for _, c := range []struct {
		err        error
		privileged bool
		want       string
	}{
		{unix.ENOSPC, true, "sysctl -w user.max_user_namespaces"},
		{fmt.Errorf("fork: %w", unix.EPERM), false, "run as root"},
		{unix.EINVAL, false, "CONFIG_USER_NS"},
		{unix.EPERM, true, ""},
		{errors.New("the moon is full"), false, ""},
	} {
		got := hint(c.err, c.privileged)
		if c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%v, privileged %t: %q, want %q in it", c.err, c.privileged, got, c.want)
		}
	}
}

func TestWithoutMark(t *testing.T) {
	got := withoutMark([]string{"A=1", mark + "=8192", mark + "X=1"})
	if d := cmp.Diff([]string{"A=1", mark + "X=1"}, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestUsageOfThisProcess(t *testing.T) {
	u, err := usageOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if u.RSS < 1<<20 || u.PeakRSS < u.RSS {
		t.Errorf("%+v: a Go program has 1 MB or more, and its peak is not below that", u)
	}
	if _, err := usageOf(1 << 30); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a process that is not there: %v", err)
	}
}

// TestUnsignedInternet: who has Unbound is told that its validation is not rehearsed.
func TestUnsignedInternet(t *testing.T) {
	p := twoSites()
	has := func() bool {
		gaps, err := Probe(p, []plan.Role{})
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(gaps, func(g Gap) bool { return g.Key == "dnssec" })
	}
	if has() {
		t.Error("told without Unbound")
	}
	p.Resolver.Unbound = true
	if !has() {
		t.Error("not told")
	}
}
