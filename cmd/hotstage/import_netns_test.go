package main

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Devices that had their addresses from Kea get the same ones from the node, be they known
// by an identifier or by their MAC address; and a running node's leases are left alone.
func TestKeaLeasesAreServed(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	pool := g.plan.Segments[0].Pool
	had := map[byte]netip.Addr{}
	csv := "address,hwaddr,client_id,valid_lifetime,expire,subnet_id,fqdn_fwd,fqdn_rev,hostname,state,user_context\n"
	end := time.Now().Add(time.Hour).Unix()
	a := pool.To
	for last, id := range map[byte]string{1: "01:02:00:00:00:07:01", 2: ""} {
		a = a.Prev()
		had[last] = a
		csv += fmt.Sprintf("%s,02:00:00:00:07:%02x,%s,3600,%d,1,0,0,,0,\n", a, last, id, end)
	}
	file := filepath.Join(t.TempDir(), "kea-leases4.csv")
	if err := os.WriteFile(file, []byte(csv), 0o644); err != nil {
		t.Fatal(err)
	}
	carry := []string{"import", "kea", "--plan", g.file, "--leases", file, "--state", g.state}
	if _, errs, code := output(t, carry...); code != 0 || !strings.Contains(errs, "leases: 2 carried, 0 ended") {
		t.Fatalf("exit %d\n%s", code, errs)
	}
	g.start(t)
	if _, errs, code := output(t, carry...); code != 1 || !strings.Contains(errs, "a node runs with state directory "+g.state+": stop it first") {
		t.Errorf("import beside a running node: exit %d\n%s", code, errs)
	}
	for last, want := range had {
		var mods []dhcpv4.Modifier
		if last == 1 {
			mods = append(mods, dhcpv4.WithOption(dhcpv4.OptClientIdentifier([]byte{1, 2, 0, 0, 0, 7, 1})))
		}
		if got := g.ask(t, last, mods...); got != want {
			t.Errorf("device %d has %s, had %s from Kea", last, got, want)
		}
	}
	if out, errs, code := output(t, "leases", "--state", g.state, "-o", "kea"); code != 0 || strings.Count(out, "\n") != 3 || !strings.Contains(errs, "guessed") {
		t.Errorf("leases -o kea of a running node: exit %d\n%s%s", code, out, errs)
	}
	if err := g.end(t, unix.SIGTERM); err != nil {
		t.Error(err)
	}
}

// ask gets an address as the device with that last byte of its MAC address.
func (g *gateway) ask(t *testing.T, last byte, mods ...dhcpv4.Modifier) netip.Addr {
	t.Helper()
	mac := net.HardwareAddr{2, 0, 0, 0, 7, last}
	var c *nclient4.Client
	err := g.aps.Do(func() error {
		l, err := netlink.LinkByName("p1")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetHardwareAddr(l, mac); err != nil {
			return err
		}
		c, err = nclient4.New("p1", nclient4.WithHWAddr(mac), nclient4.WithTimeout(3*time.Second), nclient4.WithRetry(10))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	l, err := c.Request(t.Context(), mods...)
	if err != nil {
		t.Fatal(err)
	}
	got, _ := netip.AddrFromSlice(l.ACK.YourIPAddr.To4())
	return got
}
