package plan

import (
	"bytes"
	"fmt"
	"net/netip"

	"github.com/goccy/go-yaml"
)

// Lock is what was derived for each name the last time, kept in a file beside the plan
// (PLAN.lock) so that an edit of the plan renumbers nothing else. Ids come from names even
// without it; it decides where two names want the same one, and where a size changed.
type Lock struct {
	Segments map[string]LockedSegment `yaml:"segments"`
}

// LockedSegment is what one segment keeps.
type LockedSegment struct {
	VLAN    int                   `yaml:"vlan"`
	IPv4    netip.Prefix          `yaml:"ipv4"`
	IPv6    netip.Prefix          `yaml:"ipv6,omitempty"`    // invalid without
	Hosts   map[string]netip.Addr `yaml:"hosts,omitempty"`   // of nodes, by name
	Service netip.Addr            `yaml:"service,omitempty"` // of resolvers that share one; invalid without
}

// ReadLock reads a lock file.
func ReadLock(src []byte) (*Lock, error) {
	var l Lock
	if len(src) > maxSource {
		return nil, fmt.Errorf("read lock: %d bytes; allowed: up to %d", len(src), maxSource)
	}
	if err := yaml.UnmarshalWithOptions(src, &l, yaml.Strict()); err != nil {
		return nil, fmt.Errorf("read lock: %w", err)
	}
	for name, s := range l.Segments {
		if s.VLAN < 1 || s.VLAN > 4094 || !s.IPv4.Addr().Is4() || s.IPv4 != s.IPv4.Masked() || s.IPv6.IsValid() && (!s.IPv6.Addr().Is6() || s.IPv6.Bits() != 64) {
			return nil, fmt.Errorf("read lock: segment %s: vlan %d, ipv4 %v: not what hotstage writes; restore the file or delete it", name, s.VLAN, s.IPv4)
		}
	}
	return &l, nil
}

// Bytes is the lock file's text; the same lock gives the same bytes.
func (l *Lock) Bytes() []byte {
	var b bytes.Buffer
	b.WriteString("# Written by hotstage: the numbers that the plan's names have. Keep it beside the plan, in version control.\n")
	if len(l.Segments) == 0 {
		b.WriteString("segments: {}\n")
		return b.Bytes()
	}
	b.WriteString("segments:\n")
	for _, name := range sortedKeys(l.Segments) {
		s := l.Segments[name]
		fmt.Fprintf(&b, "  %s:\n    vlan: %d\n    ipv4: %s\n", name, s.VLAN, s.IPv4)
		if s.IPv6.IsValid() {
			fmt.Fprintf(&b, "    ipv6: %s\n", s.IPv6)
		}
		if s.Service.IsValid() {
			fmt.Fprintf(&b, "    service: %s\n", s.Service)
		}
		if len(s.Hosts) > 0 {
			b.WriteString("    hosts:\n")
			for _, h := range sortedKeys(s.Hosts) {
				fmt.Fprintf(&b, "      %s: %s\n", h, s.Hosts[h])
			}
		}
	}
	return b.Bytes()
}

// Equal tells whether both locks say the same.
func (l *Lock) Equal(o *Lock) bool {
	return o != nil && bytes.Equal(l.Bytes(), o.Bytes())
}
