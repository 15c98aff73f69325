//go:build linux

package resolver

import (
	"encoding/json"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hotstage/hotstage/internal/testnet"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/vishvananda/netlink"
)

// TestBrowser: Chromium, told to ask by DNS over HTTPS alone and to trust the test's
// authority, loads a page by a name of the event, and asks nothing in plain.
func TestBrowser(t *testing.T) {
	for _, name := range []string{"chromium", "certutil"} { // of Debian's chromium and libnss3-tools, 300 MB: not in make test's packages
		if _, err := exec.LookPath(name); err != nil {
			testnet.Missing(t, "browser", name+" is not installed")
		}
	}
	tools := testnet.Tools(t, "chromium", "certutil", "timeout")
	v, ca := privateVenue(t)
	var page net.Listener
	testnet.Do(t, v.gw, func() (err error) {
		page, err = net.Listen("tcp4", "10.1.0.1:8080")
		return err
	})
	web := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Write([]byte("<p>hello, " + r.Host + "</p>")) })}
	done := make(chan struct{})
	go func() { web.Serve(page); close(done) }()
	defer func() { web.Close(); <-done }()
	testnet.Do(t, v.client, func() error { // without a way to the world it takes itself for offline
		return netlink.RouteAdd(&netlink.Route{Gw: net.IPv4(10, 1, 0, 1)})
	})
	home := t.TempDir()
	profile, store := filepath.Join(home, "profile"), filepath.Join(home, ".pki", "nssdb")
	for _, dir := range []string{profile, store} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	state, _ := json.Marshal(map[string]any{"dns_over_https": map[string]any{"mode": "secure", "templates": "https://10.1.0.1/dns-query{?dns}"}})
	if err := os.WriteFile(filepath.Join(profile, "Local State"), state, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"-N", "--empty-password"}, {"-A", "-n", "test", "-t", "C,,", "-i", ca}} {
		if out, err := testnet.Output(v.client, tools[1], append([]string{"-d", "sql:" + store}, args...)...); err != nil {
			t.Fatalf("certutil: %v\n%s", err, out)
		}
	}
	plain := func() float64 { return testutil.ToFloat64(v.server.m.udp) + testutil.ToFloat64(v.server.m.tcp) }
	begun := time.Now()
	out, err := testnet.Output(v.client, tools[2], "-k", "5", "90", "env", "HOME="+home, tools[0], "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage", "--user-data-dir="+profile, "--timeout=8000", "--dump-dom", "http://gw1.yapc.example:8080/")
	if err != nil || !strings.Contains(out, "hello, gw1.yapc.example:8080") {
		t.Errorf("after %v: %v\n%s", time.Since(begun), err, out)
	}
	if doh := testutil.ToFloat64(v.server.m.doh); doh == 0 || plain() != 0 {
		t.Errorf("%v queries by HTTPS, %v in plain", doh, plain())
	}
}
