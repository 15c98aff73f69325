package plan

import (
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// reader turns values into Go ones and collects the faults. Every method tells at most one
// fault for its value and then returns the zero value.
type reader struct{ faults Faults }

func (r *reader) tell(f Fault) {
	if f.Severity == "" {
		f.Severity = Error
	}
	r.faults = append(r.faults, f)
}

// at tells an error of value v.
func (r *reader) at(v *value, words, allowed, hint string) {
	f := Fault{Line: v.line, Column: v.col, Path: v.path, Words: words, Allowed: allowed, Hint: hint}
	if v.kind == scalar {
		f.Given = v.text
	}
	r.tell(f)
}

// warn tells a warning at value v.
func (r *reader) warn(v *value, words, hint string) {
	r.tell(Fault{Line: v.line, Column: v.col, Path: v.path, Severity: Warning, Words: words, Hint: hint})
}

// want tells a fault unless v is of kind k.
func (r *reader) want(v *value, k kind, what string) bool {
	if v.kind == k {
		return true
	}
	name := strings.TrimPrefix(v.path, "$.")
	if name == "$" {
		name = "the plan"
	}
	r.at(v, fmt.Sprintf("%s is %s", name, v.kind), what, "")
	return false
}

// fields reads a mapping with known keys.
func (r *reader) fields(v *value, known map[string]func(*value)) {
	if v.kind == nothing || !r.want(v, mapping, "a mapping of "+choices(sortedKeys(known))) {
		return
	}
	seen := map[string]int{}
	for _, e := range v.entries {
		if line, twice := seen[e.key]; twice {
			r.tell(Fault{Line: e.line, Column: e.col, Path: v.path + "." + e.key, Words: "this key stands twice", Given: e.key, Hint: fmt.Sprintf("it stands in line %d too", line)})
			continue
		}
		seen[e.key] = e.line
		read, ok := known[e.key]
		if !ok {
			near := nearest(e.key, sortedKeys(known))
			r.tell(Fault{Line: e.line, Column: e.col, Path: v.path + "." + e.key, Words: "unknown key", Given: e.key,
				Allowed: choices(sortedKeys(known)), Hint: didYouMean(e.key, sortedKeys(known))})
			// Read on as if it were right, so that one slip does not bring a row of faults.
			if near != "" && !v.has(near) {
				known[near](e.val)
			}
			continue
		}
		read(e.val)
	}
}

// each reads a mapping whose keys are names; f is called once a name, in file order.
func (r *reader) each(v *value, what string, f func(name string, at entry)) {
	if v.kind == nothing || !r.want(v, mapping, "a mapping from the name of "+what) {
		return
	}
	seen := map[string]int{}
	for _, e := range v.entries {
		line, twice := seen[e.key]
		seen[e.key] = e.line
		switch {
		case twice:
			r.tell(Fault{Line: e.line, Column: e.col, Path: v.path + "." + e.key, Words: what + " stands twice", Given: e.key, Hint: fmt.Sprintf("it stands in line %d too", line)})
		case !isLabel(e.key):
			r.tell(Fault{Line: e.line, Column: e.col, Path: v.path, Words: "not a name for " + what, Given: e.key,
				Allowed: "1 to 40 of a-z, 0-9 and -, as in a DNS name (RFC 1035 section 2.3.1)", Hint: lowerHint(e.key)})
			// Read on under the proposed name.
			if name := slug(e.key); lowerHint(e.key) != "" && !v.has(name) && seen[name] == 0 {
				seen[name] = e.line
				f(name, e)
			}
		default:
			f(e.key, e)
		}
	}
}

// isLabel tells whether s can be a name of ours; 40 bytes leave room for joined names.
func isLabel(s string) bool { return len(s) <= 40 && isDNSLabel(s) }

// isDNSLabel tells whether s is a label of a host's name (RFC 1123 section 2.1), in lower case.
func isDNSLabel(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	return !strings.ContainsFunc(s, func(c rune) bool {
		return !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-')
	})
}

// isDomain tells whether s is a domain name, in lower case and without its last dot. 160
// bytes leave room for the names in it (RFC 1035 section 2.3.4: 253 in all).
func isDomain(s string) bool {
	return len(s) <= 160 && !slices.ContainsFunc(strings.Split(s, "."), func(l string) bool { return !isDNSLabel(l) })
}

// lowerHint proposes a name that may stand instead of one that may not.
func lowerHint(name string) string {
	if s := slug(name); isLabel(s) && !strings.HasPrefix(s, "event-") {
		return fmt.Sprintf("write it as %q", s)
	}
	return ""
}

func (r *reader) str(dst *string) func(*value) {
	return func(v *value) {
		if r.want(v, scalar, "a text") {
			*dst = v.text
		}
	}
}

func (r *reader) oneOf(dst *string, allowed ...string) func(*value) {
	return func(v *value) {
		if !r.want(v, scalar, choices(allowed)) {
			return
		}
		if slices.Contains(allowed, v.text) {
			*dst = v.text
			return
		}
		*dst = nearest(v.text, allowed)
		r.at(v, "not one of the known words", choices(allowed), didYouMean(v.text, allowed))
	}
}

func (r *reader) boolean(dst *bool) func(*value) {
	return func(v *value) {
		switch {
		case v.kind == scalar && v.text == "true":
			*dst = true
		case v.kind == scalar && v.text == "false":
			*dst = false
		default:
			r.at(v, "neither true nor false", "true or false", "")
		}
	}
}

func (r *reader) integer(dst *int, lo, hi int) func(*value) {
	return func(v *value) {
		allowed := fmt.Sprintf("a whole number from %d to %d", lo, hi)
		if !r.want(v, scalar, allowed) {
			return
		}
		n, err := strconv.Atoi(strings.ReplaceAll(v.text, "_", ""))
		if err != nil || n < lo || n > hi {
			r.at(v, "not a number that fits here", allowed, "")
			return
		}
		*dst = n
	}
}

func (r *reader) decimal(dst *float64, lo, hi float64) func(*value) {
	return func(v *value) {
		allowed := fmt.Sprintf("a number from %g to %g", lo, hi)
		if !r.want(v, scalar, allowed) {
			return
		}
		n, err := strconv.ParseFloat(v.text, 64)
		if err != nil || !(n >= lo && n <= hi) {
			r.at(v, "not a number that fits here", allowed, "")
			return
		}
		*dst = n
	}
}

// share reads a percentage, as 0..1.
func (r *reader) share(dst *float64) func(*value) {
	return func(v *value) {
		const allowed = "a share from 0.1% to 100%, such as 60%"
		if !r.want(v, scalar, allowed) {
			return
		}
		n, err := strconv.ParseFloat(strings.TrimSuffix(v.text, "%"), 64)
		if err != nil || !strings.HasSuffix(v.text, "%") || !(n >= 0.1 && n <= 100) {
			r.at(v, "not a share", allowed, "")
			return
		}
		*dst = n / 100
	}
}

func (r *reader) duration(dst *time.Duration, lo, hi time.Duration) func(*value) {
	return func(v *value) {
		allowed := fmt.Sprintf("a time from %s to %s, such as 30s, 5m or 2h", span(lo), span(hi))
		if !r.want(v, scalar, allowed) {
			return
		}
		d, err := time.ParseDuration(v.text)
		if err != nil || d < lo || d > hi {
			r.at(v, "not a time that fits here", allowed, "")
			return
		}
		*dst = d
	}
}

// quantity reads a number with one of the units, each worth so much.
func (r *reader) quantity(dst *int64, units map[string]float64, example string) func(*value) {
	return func(v *value) {
		allowed := "a number with " + choices(sortedKeys(units)) + ", such as " + example
		if !r.want(v, scalar, allowed) {
			return
		}
		digits := strings.TrimRight(v.text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ")
		n, err := strconv.ParseFloat(digits, 64)
		worth, ok := units[strings.TrimSpace(v.text[len(digits):])]
		if err != nil || !ok || !(n > 0) || n*worth > math.MaxInt64/2 {
			r.at(v, "not an amount that fits here", allowed, "")
			return
		}
		*dst = int64(n * worth)
	}
}

func (r *reader) address(dst *netip.Addr, family string) func(*value) {
	return func(v *value) {
		allowed := "an " + family + " address"
		if !r.want(v, scalar, allowed) {
			return
		}
		a, err := netip.ParseAddr(v.text)
		if err != nil || a.Zone() != "" || family == "IPv4" && !a.Is4() || family == "IPv6" && (!a.Is6() || a.Is4In6()) || !usable(a) {
			r.at(v, "not an "+family+" address of a machine", allowed, "")
			return
		}
		*dst = a
	}
}

// prefix reads a prefix of lo to hi bits; host bits are refused so that nothing is cut silently.
func (r *reader) prefix(dst *netip.Prefix, family string, lo, hi int) func(*value) {
	return func(v *value) {
		allowed := fmt.Sprintf("an %s prefix from /%d to /%d", family, lo, hi)
		if !r.want(v, scalar, allowed) {
			return
		}
		p, err := netip.ParsePrefix(v.text)
		switch {
		case err != nil || (family == "IPv4") != p.Addr().Is4() || p.Bits() < lo || p.Bits() > hi:
			r.at(v, "not a prefix that fits here", allowed, "")
		case !usable(p.Addr()) || p.Addr().IsLinkLocalUnicast():
			r.at(v, "not a prefix that machines can have", allowed, "")
		case p != p.Masked():
			r.at(v, "the prefix has host bits set", allowed, fmt.Sprintf("did you mean %s?", p.Masked()))
		default:
			*dst = p
		}
	}
}

// usable tells whether a machine can have the address on a network.
func usable(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback() && !a.Is4In6() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

func (r *reader) mac(dst *net.HardwareAddr) func(*value) {
	return func(v *value) {
		const allowed = "a MAC address of a device, such as 02:00:5e:10:00:01"
		if !r.want(v, scalar, allowed) {
			return
		}
		m, err := net.ParseMAC(v.text)
		if err != nil || len(m) != 6 || m[0]&1 == 1 || slices.Equal(m, make(net.HardwareAddr, 6)) {
			r.at(v, "not a MAC address of a device", allowed, "")
			return
		}
		*dst = m
	}
}

// list reads a list, or a single value as a list of one.
func (r *reader) list(item func(*value)) func(*value) {
	return func(v *value) {
		switch v.kind {
		case list:
			for _, i := range v.items {
				item(i)
			}
		case scalar, mapping:
			item(v)
		case nothing:
		}
	}
}

func (r *reader) strings(dst *[]string) func(*value) {
	return r.list(func(v *value) {
		if r.want(v, scalar, "a text") {
			*dst = append(*dst, v.text)
		}
	})
}

func sortedKeys[V any](m map[string]V) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
