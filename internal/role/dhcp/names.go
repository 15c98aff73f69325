package dhcp

import (
	"net/netip"
	"slices"
	"strings"
	"sync"
)

// names is which live lease has which name. A name belongs to one lease at a time; the
// plan's own names belong to nobody here. Safe for concurrent use.
type names struct {
	taken map[string]bool // the plan's, in lower case
	mu    sync.RWMutex
	addr  map[string]netip.Addr
	name  map[netip.Addr]string
}

// neverNames are names that devices look up by themselves in the domain they are given and
// then trust: who could take one would be everybody's web proxy (WPAD) or IPv6 router
// (ISATAP, RFC 5214 section 8.3.3), or this machine (RFC 6761 section 6.3).
var neverNames = [...]string{"wpad", "isatap", "localhost"}

func newNames(taken []string) *names {
	n := &names{taken: map[string]bool{}, addr: map[string]netip.Addr{}, name: map[netip.Addr]string{}}
	for _, t := range taken {
		n.taken[strings.ToLower(t)] = true
	}
	return n
}

// claim gives the address the name label.domain, or label-<address> where that is taken,
// and returns it; "" when there is none to give. What it had before is given back.
func (n *names) claim(a netip.Addr, label, domain string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if old, ok := n.name[a]; ok {
		delete(n.addr, old)
		delete(n.name, a)
	}
	if label == "" || domain == "" {
		return ""
	}
	suffix := "-" + strings.ReplaceAll(a.String(), ".", "-")
	for i, l := range [...]string{label, label[:min(len(label), 63-len(suffix))] + suffix} {
		if i == 0 && slices.Contains(neverNames[:], l) {
			continue
		}
		fqdn := l + "." + strings.ToLower(domain)
		if _, used := n.addr[fqdn]; !used && !n.taken[fqdn] {
			n.addr[fqdn], n.name[a] = a, fqdn
			return fqdn
		}
	}
	return ""
}

func (n *names) nameOf(a netip.Addr) (string, bool) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	s, ok := n.name[a]
	return s, ok
}

func (n *names) addrOf(fqdn string) (netip.Addr, bool) {
	fqdn = strings.ToLower(strings.TrimSuffix(fqdn, "."))
	n.mu.RLock()
	defer n.mu.RUnlock()
	a, ok := n.addr[fqdn]
	return a, ok
}

// label makes a DNS label (RFC 1123 section 2.1) of a host name as a client says it: its
// first part, in lower case, everything that is no letter or digit as one hyphen, at most
// 63 bytes; "" when nothing is left.
func label(host []byte) string {
	var buf [63]byte
	n, gap := 0, false
	for _, c := range host {
		if c == '.' || c == 0 {
			break
		}
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c < '0' || c > 'z' || '9' < c && c < 'a' {
			gap = n > 0
			continue
		}
		if gap && n+1 < len(buf) {
			buf[n] = '-'
			n++
		}
		gap = false
		if n == len(buf) {
			break
		}
		buf[n] = c
		n++
	}
	return string(buf[:n])
}
