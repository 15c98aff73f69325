package unbound

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// settings are an Unbound's behind a cache of ours: it recurses and validates, and no more.
//   - Its caches are small: what attendees ask for again is answered before it is asked. They
//     hold what leads to names: the servers of zones.
//   - It answers this machine alone, by the loopback, and asks no resolver of this machine.
//   - It has no expired answers, no prefetch: ours has.
//   - It tells servers no more of a name than they need (RFC 9156), and keeps to what they may
//     say.
//   - What it cannot say it explains (RFC 8914).
const settings = `  chroot: ""
  username: ""
  directory: "/"
  pidfile: ""
  use-syslog: no
  logfile: ""
  verbosity: 0
  val-log-level: 0
  statistics-interval: 0
  extended-statistics: yes
  do-ip4: yes
  do-udp: yes
  do-tcp: yes
  access-control: 127.0.0.0/8 allow
  do-not-query-localhost: yes
  edns-buffer-size: 1232
  msg-cache-size: 4m
  rrset-cache-size: 8m
  key-cache-size: 2m
  neg-cache-size: 1m
  num-queries-per-thread: 2048
  prefetch: no
  serve-expired: no
  minimal-responses: yes
  hide-identity: yes
  hide-version: yes
  hide-trustanchor: yes
  qname-minimisation: yes
  aggressive-nsec: yes
  harden-glue: yes
  harden-dnssec-stripped: yes
  harden-below-nxdomain: yes
  harden-algo-downgrade: no
  unwanted-reply-threshold: 10000000
`

// Files of the state directory that stand in for what is built in, for a root that has been
// changed since this program was made, or that is not the internet's.
const (
	anchorFile = "root.key"   // trust anchors, as DS or DNSKEY records; empty: nothing is validated
	hintsFile  = "root.hints" // the root's servers, as Unbound's root-hints
)

// conf is the configuration of one child.
type conf struct {
	port    uint16
	threads int
	ipv6    bool
	explain bool     // knows extended errors
	control string   // path of its socket
	anchors []string // records; none: nothing is validated
	hints   string   // path, or empty
}

// text is the configuration file.
func (c *conf) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Written by hotstage for its child, anew at each start.\nserver:\n  interface: 127.0.0.1@%d\n  num-threads: %d\n  do-ip6: %s\n%s", c.port, c.threads, yes(c.ipv6), settings)
	if c.explain {
		b.WriteString("  ede: yes\n")
	}
	modules := "iterator"
	if len(c.anchors) > 0 {
		modules = "validator iterator"
	}
	fmt.Fprintf(&b, "  module-config: %q\n", modules)
	for _, a := range c.anchors {
		fmt.Fprintf(&b, "  trust-anchor: %q\n", a)
	}
	if c.hints != "" {
		fmt.Fprintf(&b, "  root-hints: %q\n", c.hints)
	}
	fmt.Fprintf(&b, "remote-control:\n  control-enable: yes\n  control-use-cert: no\n  control-interface: %q\n", c.control)
	return b.String()
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// anchorsIn are the trust anchors to use: the directory's, when it has the file, or those
// built in.
func anchorsIn(dir string) ([]string, error) {
	b, err := os.ReadFile(filepath.Join(dir, anchorFile))
	if errors.Is(err, fs.ErrNotExist) {
		b, err = []byte(rootKeys), nil
	}
	if err != nil {
		return nil, err
	}
	var anchors []string
	for line := range bytes.Lines(b) {
		text, _, _ := strings.Cut(string(line), ";")
		text = strings.TrimSpace(text)
		if text == "" {
			continue
		}
		if strings.ContainsAny(text, "\"\\") || !strings.Contains(text, " DS ") && !strings.Contains(text, " DNSKEY ") {
			return nil, fmt.Errorf("%s: %.60q is no DS or DNSKEY record; take the file away to have the root's own keys", filepath.Join(dir, anchorFile), text)
		}
		anchors = append(anchors, text)
	}
	return anchors, nil
}
