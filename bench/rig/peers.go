//go:build linux

package rig

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/hotstage/hotstage/internal/kernel"
)

// Unbound is how an unbound is set up: as sites do, with what it needs to use two processors.
type Unbound struct {
	Listen  []string // "10.64.0.1@53"
	Hints   string   // file of the root's address; "" when Lines hold all that it knows
	Lines   []string // more of its server section
	Threads int
	Cache   int // MiB of each of its caches, 64 when 0
}

// Start runs the unbound in the namespace with its files in a new directory below dir.
func (u Unbound) Start(ns *kernel.Namespace, dir string) (*Process, error) {
	dir, err := os.MkdirTemp(dir, "unbound")
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	cache := u.Cache
	if cache == 0 {
		cache = 64
	}
	fmt.Fprintf(&b, unboundConfig, dir, u.Threads, cache, 2*cache)
	for _, l := range u.Listen {
		fmt.Fprintf(&b, "  interface: %s\n", l)
	}
	if u.Hints != "" {
		fmt.Fprintf(&b, "  root-hints: %q\n", u.Hints)
	}
	for _, l := range u.Lines {
		fmt.Fprintf(&b, "  %s\n", l)
	}
	b.WriteString("remote-control:\n  control-enable: no\n")
	file := filepath.Join(dir, "unbound.conf")
	if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
		return nil, err
	}
	return Start(ns, dir, "unbound", "-d", "-c", file)
}

const unboundConfig = `server:
  directory: "%[1]s"
  chroot: ""
  username: ""
  pidfile: ""
  use-syslog: no
  verbosity: 0
  module-config: "iterator"
  access-control: 0.0.0.0/0 allow
  do-ip6: no
  do-not-query-localhost: no
  ip-freebind: yes
  num-threads: %[2]d
  so-reuseport: yes
  so-rcvbuf: 4m
  so-sndbuf: 4m
  outgoing-range: 4096
  num-queries-per-thread: 2048
  msg-cache-size: %[3]dm
  rrset-cache-size: %[4]dm
  msg-cache-slabs: 2
  rrset-cache-slabs: 2
  infra-cache-slabs: 2
  prefetch: yes
`

// Dnsdist is how a dnsdist is set up: two listeners on one port, which use both processors.
type Dnsdist struct {
	Listen   string   // "10.64.0.1:53"
	Backends []string // what newServer takes: `address="127.0.0.1:5301"`
	Cache    bool     // of packets
	Rules    string   // more of its configuration
}

// Start runs the dnsdist in the namespace with its files in a new directory below dir.
func (d Dnsdist) Start(ns *kernel.Namespace, dir string) (*Process, error) {
	dir, err := os.MkdirTemp(dir, "dnsdist")
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "setLocal(%[1]q, {reusePort=true})\naddLocal(%[1]q, {reusePort=true})\nsetACL({\"0.0.0.0/0\"})\nsetSecurityPollSuffix(\"\")\nsetMaxUDPOutstanding(65535)\n", d.Listen)
	for _, s := range d.Backends {
		fmt.Fprintf(&b, "newServer({%s})\n", s)
	}
	if d.Cache {
		b.WriteString("getPool(\"\"):setCache(newPacketCache(100000, {maxTTL=86400, temporaryFailureTTL=1}))\n")
	}
	b.WriteString(d.Rules)
	file := filepath.Join(dir, "dnsdist.conf")
	if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
		return nil, err
	}
	return Start(ns, dir, "dnsdist", "--supervised", "--disable-syslog", "-C", file)
}

// Recursor runs a PowerDNS Recursor of two threads on the address.
func Recursor(ns *kernel.Namespace, dir, addr, hints string) (*Process, error) {
	dir, err := os.MkdirTemp(dir, "recursor")
	if err != nil {
		return nil, err
	}
	text := fmt.Sprintf("local-address=%s\nlocal-port=53\nhint-file=%s\nthreads=2\nreuseport=yes\npdns-distributes-queries=no\nallow-from=0.0.0.0/0\ndont-query=\ndnssec=off\nsocket-dir=%s\nsecurity-poll-suffix=\ndaemon=no\ndisable-syslog=yes\nwrite-pid=no\nloglevel=3\n", addr, hints, dir)
	if err := os.WriteFile(filepath.Join(dir, "recursor.conf"), []byte(text), 0o644); err != nil {
		return nil, err
	}
	return Start(ns, dir, "pdns_recursor", "--config-dir="+dir)
}

// Knot runs two kresd on the address, one for each processor, with one cache.
func Knot(ns *kernel.Namespace, dir, addr, hints string) (all []*Process, err error) {
	if dir, err = os.MkdirTemp(dir, "knot"); err != nil {
		return nil, err
	}
	text := fmt.Sprintf("net.ipv6 = false\nnet.listen('%s', 53, { kind = 'dns' })\nmodules = { 'hints > iterate' }\nhints.root_file('%s')\ncache.size = 200 * MB\ntrust_anchors.remove('.')\n", addr, hints)
	file := filepath.Join(dir, "conf")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		return nil, err
	}
	for range 2 {
		p, err := Start(ns, dir, "kresd", "-n", "-c", file, dir)
		if err != nil {
			return all, err
		}
		all = append(all, p)
	}
	return all, nil
}
