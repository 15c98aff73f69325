package plan

import (
	"fmt"
	"slices"
	"strings"
)

// rawBlock is a name that is not to resolve, in lower case and without its last dot.
type rawBlock struct {
	at   *value
	name string
}

// block reads names that are not to resolve.
func (r *reader) block(dst *[]rawBlock) func(*value) {
	return r.list(func(v *value) {
		const allowed = "a domain name: labels of a-z, 0-9, _ and - with dots between, up to 160 bytes"
		if !r.want(v, scalar, allowed) {
			return
		}
		name := strings.TrimSuffix(strings.ToLower(v.text), ".")
		rest, star := strings.CutPrefix(name, "*.")
		switch {
		case star && isBlockable(rest):
			r.at(v, "a block has no star", "the name alone: what is below it is blocked too", "write it as "+rest)
		case !isBlockable(name):
			r.at(v, "not a name to block", allowed, "")
		case slices.ContainsFunc(*dst, func(b rawBlock) bool { return b.name == name }):
			r.at(v, "blocked twice", "each name once", "")
		default:
			*dst = append(*dst, rawBlock{v, name})
		}
	})
}

// isBlockable is isDomain, and allows the underscores of service names.
func isBlockable(s string) bool { return isDomain(strings.ReplaceAll(s, "_", "x")) }

// blocks holds the blocks against the event's own names.
func (d *deriver) blocks() {
	domain := d.plan.Event.Domain
	for _, b := range d.raw.resolver.block {
		switch covering := b.covering(d.raw.resolver.block); {
		case within(domain, b.name):
			d.at(b.at, fmt.Sprintf("%s would take the event's own names away: they are in %s", b.name, domain), "a name that the event's domain is not below", "")
			continue
		case covering != "":
			d.warn(b.at, fmt.Sprintf("%s is blocked already: it is below %s", b.name, covering), "leave one of them out")
		}
		d.plan.Resolver.Block = append(d.plan.Resolver.Block, b.name)
	}
}

// covering is another block that the name is below, or "".
func (b rawBlock) covering(all []rawBlock) string {
	for _, other := range all {
		if other.name != b.name && within(b.name, other.name) {
			return other.name
		}
	}
	return ""
}

// within tells whether the name is the domain or lies below it.
func within(name, domain string) bool { return name == domain || strings.HasSuffix(name, "."+domain) }

// queryLog reads which share of the queries is logged.
func (r *reader) queryLog(dst *float64) func(*value) {
	return func(v *value) {
		if v.kind == scalar && v.text == "off" {
			*dst = 0
			return
		}
		before := len(r.faults)
		r.share(dst)(v)
		if len(r.faults) > before {
			f := &r.faults[len(r.faults)-1]
			f.Words, f.Allowed = "not a share of the queries", "off, or a share from 0.1% to 100%, such as 10%"
		}
	}
}
