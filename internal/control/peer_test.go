package control

import (
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var loopback = netip.MustParseAddr("127.0.0.1")

func made(t *testing.T, event string, nodes ...string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "keys")
	if _, err := MakeKeys(dir, event, nodes, time.Now()); err != nil {
		t.Fatal(err)
	}
	return dir
}

func keys(t *testing.T, dir, node string) *Keys {
	t.Helper()
	k, err := LoadKeys(dir, node)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestMakeKeysReplacesNothing(t *testing.T) {
	dir := made(t, "Conf", "gw1")
	before, err := os.ReadFile(filepath.Join(dir, "gw1.pem"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := MakeKeys(dir, "Conf", []string{"gw1", "srv1"}, time.Now())
	if err != nil || strings.Join(got, " ") != "srv1.pem" {
		t.Fatalf("made %v, %v; want srv1.pem alone", got, err)
	}
	if after, _ := os.ReadFile(filepath.Join(dir, "gw1.pem")); string(after) != string(before) {
		t.Error("gw1's keys were replaced")
	}
	if info, err := os.Stat(filepath.Join(dir, "ca.key")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("ca.key: %v, %v; want it for its owner alone", info.Mode(), err)
	}
	if err := os.Remove(filepath.Join(dir, "ca.key")); err != nil {
		t.Fatal(err)
	}
	if _, err := MakeKeys(dir, "Conf", []string{"late"}, time.Now()); err == nil || !strings.Contains(err.Error(), "copy late.pem") {
		t.Errorf("without the authority's key: %v; want what to do", err)
	}
}

func TestLoadKeys(t *testing.T) {
	dir := made(t, "Conf", "gw1", "srv1")
	if _, err := LoadKeys(dir, "gw2"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if err := os.Rename(filepath.Join(dir, "srv1.pem"), filepath.Join(dir, "gw2.pem")); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadKeys(dir, "gw2"); err == nil || !strings.Contains(err.Error(), "not of node gw2") {
		t.Errorf("another node's file: %v", err)
	}
}

// Nodes hear each other by the event's keys alone, from the plan's addresses alone, also when
// the clock is years off.
func TestPeers(t *testing.T) {
	conf, other := made(t, "Conf", "gw1", "srv1", "cam"), made(t, "Conf", "srv1")
	old := filepath.Join(t.TempDir(), "old")
	if _, err := MakeKeys(old, "Old", []string{"gw1", "srv1"}, time.Now().Add(-30*365*24*time.Hour)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, server, client, node string
		from                       netip.Addr
		want                       string // "": an answer
	}{
		{"partner", conf, conf, "srv1", loopback, ""},
		{"clock years off", old, old, "srv1", loopback, ""},
		{"a node that is not the partner", conf, conf, "cam", loopback, "not for cam"},
		{"another event's keys", conf, other, "srv1", loopback, "certificate"},
		{"an address that is not of the plan", conf, conf, "srv1", netip.MustParseAddr("192.0.2.1"), "EOF"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, stop := context.WithCancel(t.Context())
			done := make(chan error, 1)
			p := NewPeers(keys(t, c.server, "gw1"), []netip.Addr{loopback}, map[netip.Addr]string{c.from: "srv1"},
				func(_ context.Context, node string, text []byte) ([]byte, error) {
					return append([]byte(node+" said "), text...), nil
				})
			go func() { done <- p.Run(ctx) }()
			defer func() {
				stop()
				if err := <-done; err != nil {
					t.Error(err)
				}
			}()
			peer := NewPeer(keys(t, c.client, c.node), "gw1", []netip.Addr{loopback})
			var got []byte
			var err error
			for range 50 { // until it listens
				if got, err = peer.Exchange(ctx, []byte("hello")); err == nil || !strings.Contains(err.Error(), "refused") {
					break
				}
				time.Sleep(20 * time.Millisecond)
			}
			switch {
			case c.want == "" && (err != nil || string(got) != "srv1 said hello"):
				t.Errorf("%q, %v", got, err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) && !strings.Contains(err.Error(), "reset")):
				t.Errorf("%q, %v; want an error with %q", got, err, c.want)
			}
		})
	}
}
