//go:build linux

package rig

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
)

// The names that the authority knows below site.tld: h0 and on with TTLs of 30, 60, 300 and
// 3600 s in turn, m0 and on with 3600 s, www, and everything below wild. The root knows what dnsdist asks to see whether a
// server is well.
const (
	Hosts   = 5000
	Misses  = 100_000
	siteSOA = "SOA ns.root. host.root. 1 3600 600 86400 60\n"
)

// zones are the origins, each with the address of the nsd that serves it.
var zones = []struct{ file, origin, addr string }{
	{"root", ".", "10.53.0.1"}, {"tld", "tld.", "10.53.0.2"}, {"site", "site.tld.", "10.53.0.3"},
}

// Authority is a root, a tld and a site in a namespace of their own, on three nsd.
type Authority struct {
	NS    *kernel.Namespace
	Hints string // file of the root's address, for recursive servers
	procs []*Process
}

// StartAuthority writes the zones to dir and serves them. The caller stops it.
func StartAuthority(ctx context.Context, dir string) (a *Authority, err error) {
	a = &Authority{Hints: filepath.Join(dir, "hints")}
	defer func() {
		if err != nil {
			a.Stop()
		}
	}()
	all, err := Namespaces(1)
	if err != nil {
		return a, err
	}
	a.NS = all[0]
	if err := writeZones(dir); err != nil {
		return a, err
	}
	if err := os.WriteFile(a.Hints, []byte(". 3600000 NS ns.root.\nns.root. 3600000 A "+zones[0].addr+"\n"), 0o644); err != nil {
		return a, err
	}
	for _, z := range zones {
		if err := a.NS.Do(func() error { return Up("lo", z.addr+"/32") }); err != nil {
			return a, err
		}
		file := filepath.Join(dir, "nsd-"+z.file+".conf")
		if err := os.WriteFile(file, fmt.Appendf(nil, nsdConfig, z.addr, dir, filepath.Join(dir, "nsd-"+z.file), z.origin, z.file), 0o644); err != nil {
			return a, err
		}
		p, err := Start(a.NS, dir, "nsd", "-d", "-c", file)
		if err != nil {
			return a, err
		}
		a.procs = append(a.procs, p)
		if err := Await(ctx, a.NS, netip.MustParseAddr(z.addr), z.origin, p); err != nil {
			return a, err
		}
	}
	return a, nil
}

const nsdConfig = `server:
  ip-address: %[1]s
  server-count: 1
  username: ""
  chroot: ""
  zonesdir: "%[2]s"
  database: ""
  pidfile: "%[3]s.pid"
  xfrdfile: "%[3]s.xfrd"
  zonelistfile: "%[3]s.zones"
  xfrdir: "%[2]s"
  rrl-ratelimit: 0
remote-control:
  control-enable: no
zone:
  name: "%[4]s"
  zonefile: "%[5]s"
`

// writeZones writes a zone file for each origin.
func writeZones(dir string) error {
	text := map[string]string{
		"root": ". 86400 IN " + siteSOA + ". 86400 NS ns.root.\nns.root. 86400 A 10.53.0.1\na.root-servers.net. 86400 A 10.53.0.1\ntld. 86400 NS ns.tld.\nns.tld. 86400 A 10.53.0.2\n",
		"tld":  "tld. 86400 IN " + siteSOA + "tld. 86400 NS ns.tld.\nns.tld. 86400 A 10.53.0.2\nsite.tld. 86400 NS ns.site.tld.\nns.site.tld. 86400 A 10.53.0.3\n",
		"site": "site.tld. 3600 IN " + siteSOA + "site.tld. 3600 NS ns.site.tld.\nns.site.tld. 3600 A 10.53.0.3\nwww.site.tld. 30 A 192.0.2.80\n*.wild.site.tld. 3600 A 192.0.2.81\n",
	}
	for name, head := range text {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		w := bufio.NewWriter(f)
		w.WriteString(head)
		if name == "site" {
			for i := range Hosts {
				fmt.Fprintf(w, "h%d.site.tld. %d A 192.0.%d.%d\n", i, [...]int{30, 60, 300, 3600}[i%4], i/250, i%250+1)
			}
			for i := range Misses {
				fmt.Fprintf(w, "m%d.site.tld. 3600 A 192.%d.%d.%d\n", i, i/62500+1, i/250%250, i%250+1)
			}
		}
		if err := w.Flush(); err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	return nil
}

// Uplink joins a namespace to the authority's, by a link up0 and a route to the servers. One
// namespace at a time can have it; it ends with cut.
func (a *Authority) Uplink(ns *kernel.Namespace) (cut func(), err error) {
	if err := Join(End{In: ns, Name: "up0", Addrs: []string{"10.53.1.2/24"}}, End{In: a.NS, Name: "down0", Addrs: []string{"10.53.1.1/24"}}); err != nil {
		return nil, err
	}
	cut = func() { // the namespace itself goes some time after its last process
		a.NS.Do(func() error {
			l, err := netlink.LinkByName("down0")
			if err != nil {
				return err
			}
			return netlink.LinkDel(l)
		})
	}
	err = ns.Do(func() error {
		zones := &net.IPNet{IP: net.IPv4(10, 53, 0, 0), Mask: net.CIDRMask(24, 32)}
		return netlink.RouteAdd(&netlink.Route{Dst: zones, Gw: net.IPv4(10, 53, 1, 1)})
	})
	if err != nil {
		cut()
		return nil, fmt.Errorf("route to the authority: %w", err)
	}
	return cut, nil
}

// Stop ends the servers.
func (a *Authority) Stop() {
	if a == nil {
		return
	}
	for _, p := range a.procs {
		p.Stop()
	}
	Close([]*kernel.Namespace{a.NS})
}

// CPU is what the servers have spent so far.
func (a *Authority) CPU() (d time.Duration) {
	for _, p := range a.procs {
		d += p.CPU()
	}
	return d
}

// Ask sends one query by UDP from the namespace and gives the response.
func Ask(ns *kernel.Namespace, server netip.Addr, name string, typ uint16, wait time.Duration) (in *dns.Msg, err error) {
	m := new(dns.Msg)
	m.SetQuestion(dns.Fqdn(name), typ)
	err = ns.Do(func() error {
		in, _, err = (&dns.Client{Timeout: wait}).Exchange(m, net.JoinHostPort(server.String(), "53"))
		return err
	})
	return in, err
}

// Await waits half a minute at most until the server answers a name with records; p is what
// serves, for its words when it does not.
func Await(ctx context.Context, ns *kernel.Namespace, server netip.Addr, name string, p *Process) error {
	typ := dns.TypeA
	if len(name) > 0 && name[len(name)-1] == '.' {
		typ = dns.TypeSOA
	}
	var last error
	for begun := time.Now(); time.Since(begun) < 30*time.Second && !p.Ended() && ctx.Err() == nil; time.Sleep(50 * time.Millisecond) {
		in, err := Ask(ns, server, name, typ, 500*time.Millisecond)
		if err == nil && len(in.Answer) > 0 {
			return nil
		}
		if last = err; err == nil {
			last = fmt.Errorf("rcode %s, no records", dns.RcodeToString[in.Rcode])
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return fmt.Errorf("%s does not answer %s: %w\n%s", server, name, last, p.Log())
}
