//go:build linux

package kernel_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/hotstage/hotstage/internal/testnet"
)

// ttl stands for the host's limits: it is a number, and each namespace has its own.
const ttl = "net/ipv4/ip_default_ttl"

func inNamespace(t *testing.T, f func()) {
	t.Helper()
	testnet.Do(t, testnet.Namespace(t), func() error { f(); return nil })
}

func wantTTL(t *testing.T, when, want string) {
	t.Helper()
	got, err := kernel.Sysctl(ttl)
	if err != nil || got != want {
		t.Errorf("%s: %s = %s, %v; want %s", when, ttl, got, err, want)
	}
}

func TestLimitsRaisedAndPutBack(t *testing.T) {
	inNamespace(t, func() {
		file := filepath.Join(t.TempDir(), "run", "limits.json")
		a, err := kernel.Raise(ttl, 100, file)
		if err != nil {
			t.Error(err)
			return
		}
		if diff := cmp.Diff([]string{ttl + " raised from 64 to 100"}, a.Raised); diff != "" {
			t.Errorf("raised (-want +got):\n%s", diff)
		}
		wantTTL(t, "one holder", "100")
		b, err := kernel.Raise(ttl, 90, file)
		if err != nil {
			t.Error(err)
			return
		}
		c, err := kernel.Raise(ttl, 120, file)
		if err != nil {
			t.Error(err)
			return
		}
		wantTTL(t, "three holders", "120")
		for _, l := range []*kernel.Limits{a, c} {
			if err := l.Restore(); err != nil {
				t.Error(err)
			}
		}
		wantTTL(t, "one holder left, that needed no raising", "120")
		if err := b.Restore(); err != nil {
			t.Error(err)
		}
		wantTTL(t, "no holder", "64")
		if _, err := os.Stat(file); !os.IsNotExist(err) {
			t.Errorf("the state file is left: %v", err)
		}
	})
}

func TestLimitsOfAKilledHolderArePutBack(t *testing.T) {
	inNamespace(t, func() {
		file := filepath.Join(t.TempDir(), "limits.json")
		a, err := kernel.Raise(ttl, 100, file)
		if err != nil {
			t.Error(err)
			return
		}
		kernel.Kill(a)
		b, err := kernel.Raise(ttl, 80, file)
		if err != nil {
			t.Error(err)
			return
		}
		if diff := cmp.Diff([]string{ttl + " raised from 64 to 80"}, b.Raised); diff != "" {
			t.Errorf("raised (-want +got):\n%s", diff)
		}
		b.Restore()
		wantTTL(t, "after the second holder", "64")
	})
}

func TestLimitsLeaveAlone(t *testing.T) {
	inNamespace(t, func() {
		file := filepath.Join(t.TempDir(), "limits.json")
		a, err := kernel.Raise(ttl, 60, file)
		if err != nil || len(a.Raised) != 0 {
			t.Errorf("high enough already: raised %v, %v", a, err)
			return
		}
		b, err := kernel.Raise(ttl, 100, file)
		if err != nil {
			t.Error(err)
			return
		}
		if err := kernel.SetSysctl(ttl, "77"); err != nil {
			t.Error(err)
		}
		b.Restore()
		wantTTL(t, "changed by somebody else", "77")
		if l, err := kernel.Raise("net/ipv4/no_such", 1, file); err != nil || len(l.Raised)+len(l.Missing) > 0 {
			t.Errorf("a parameter that is not here: %v, %v", l, err)
		}
	})
}

func TestLimitsSayWhatToType(t *testing.T) {
	inNamespace(t, func() {
		const max = "net/netfilter/nf_conntrack_max"
		if _, err := kernel.Sysctl(max); err != nil {
			t.Skip("netns: no connection tracking here")
		}
		l, err := kernel.Raise(max, 1<<30, filepath.Join(t.TempDir(), "limits.json"))
		if err != nil {
			t.Error(err)
			return
		}
		if diff := cmp.Diff([]string{"sysctl -w net.netfilter.nf_conntrack_max=1073741824"}, l.Missing); diff != "" {
			t.Errorf("missing (-want +got):\n%s", diff)
		}
	})
}

func TestSysctlCommand(t *testing.T) {
	got := kernel.SysctlCommand("net/ipv4/conf/eth1.101/forwarding", "1")
	if want := "sysctl -w net.ipv4.conf.eth1/101.forwarding=1"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
