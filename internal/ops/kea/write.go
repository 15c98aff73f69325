package kea

import (
	"bytes"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/hotstage/hotstage/internal/plan"
)

// planWriter writes the plan's text.
type planWriter struct {
	w       *bytes.Buffer
	cfg     *config
	answers Answers
}

func (w *planWriter) line(format string, args ...any) {
	fmt.Fprintf(w.w, format+"\n", args...)
}

// plan writes all of the plan but the notes.
func (w *planWriter) plan() {
	w.line("# Moved here from Kea's %s by hotstage import kea.", oneLine(filepath.Base(w.cfg.dhcp4.at.File)))
	w.line("# Check it: hotstage check FILE; see what it comes to: hotstage show FILE")
	w.line("# What could not be carried stands at the end.")
	name, note := w.answers.Name, ""
	if name == "" {
		name, note = "My Event", "   # Kea does not know it: put yours here"
	}
	w.line("event:\n  name: %s%s", strconv.Quote(name), note)
	if w.cfg.peopleWords != "" {
		note = "   # " + w.cfg.peopleWords
	} else {
		note = ""
	}
	w.line("  attendees: %d%s", w.cfg.people, note)
	w.line("  devices_per_attendee: 2   # a phone and a computer each")
	if n := w.cfg.sessions(); n > 0 {
		w.line("  sessions_per_attendee: %d   # what one address at the uplink carries: give isp its ipv4 and gateway, then take this line out", n)
	}
	w.line("\nsites:\n  venue:\n    uplinks:\n      isp: {}   # its address comes by DHCP; or give ipv4 and gateway")
	w.line("\nsegments:")
	for i, n := range w.cfg.nets {
		if i > 0 {
			w.line("")
		}
		w.segment(n)
	}
	w.node()
}

func (w *planWriter) segment(n *subnet) {
	kea := "Kea's subnet " + n.prefix.String()
	if n.id > 0 {
		kea += fmt.Sprintf(", id %d", n.id)
	}
	if n.remark != "" {
		kea += ": " + n.remark
	}
	w.line("  %s:   # %s", key(n.name), kea)
	if n.class == plan.Attendee {
		w.line("    class: attendee   # isolated; or server, management, staff: Kea does not know")
	} else {
		w.line("    class: %s   # by its name; check that it is so", n.class)
	}
	if n.vlan > 0 {
		w.line("    vlan: %d", n.vlan)
	}
	w.line("    ipv4: %s\n    gateway: %s\n    pool: %s-%s", n.prefix, n.gateway, n.pool.From, n.pool.To)
	note := ""
	if n.leaseAt == nil {
		note = "   # Kea's default; 1h suits attendees"
	}
	w.line("    lease: %s%s", span(n.lease), note)
	if n.domain != "" {
		w.line("    domain: %s", strconv.Quote(n.domain))
	}
	if len(n.dns) > 0 {
		w.line("    dns: [%s]   # as in Kea; a rehearsal needs it left out, and then Hotstage's own resolver answers", list(n.dns))
	}
	if len(n.ntp) > 0 {
		w.line("    ntp: [%s]", list(n.ntp))
	}
	if n.devices > 0 {
		w.line("    devices: %d", n.devices)
	}
	if len(n.hosts) > 0 {
		w.line("    reservations:")
	}
	for _, h := range n.hosts {
		remark := ""
		if h.remark != "" {
			remark = "   # " + h.remark
		}
		w.line("      %s: {%s, address: %s}%s", key(h.name), h.device(), h.addr, remark)
	}
}

// key is a name as YAML has it: in quotes where it could be read as something else than text.
func key(name string) string {
	plain := !strings.ContainsFunc(name, func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '.' })
	if plain && name[0] >= 'a' && name[0] <= 'z' && !slices.Contains(yamlWords, name) {
		return name
	}
	return strconv.Quote(name)
}

// yamlWords are those that some reader of YAML takes for no text.
var yamlWords = []string{"true", "false", "null", "yes", "no", "on", "off", "y", "n"}

func list(all []netip.Addr) string {
	var parts []string
	for _, a := range all {
		parts = append(parts, a.String())
	}
	return strings.Join(parts, ", ")
}

func (w *planWriter) node() {
	uplink, ports := w.cfg.ports()
	w.line("\n# One machine does everything; give a second one roles too, so that either may die. Set the\n# names of the interfaces to the machine's own.")
	w.line("nodes:\n  gw1:\n    roles: [router, dhcp, resolver]\n    interfaces:")
	w.line("      %s: {uplink: isp}", key(uplink))
	for _, p := range ports {
		if !p.trunk {
			w.line("      %s: {segment: %s}", key(p.name), key(p.segments[0]))
			continue
		}
		var names []string
		for _, s := range p.segments {
			names = append(names, key(s))
		}
		w.line("      %s: {trunk: [%s]}   # 802.1Q", key(p.name), strings.Join(names, ", "))
	}
}

// notes writes what was not carried as it stood, as comments.
func (w *planWriter) notes(all []Note) {
	var last Kind
	titles := map[Kind]string{
		NotCarried: "Not carried from Kea:", Changed: "Carried, but otherwise than it stood:", NotNeeded: "Not needed here:",
	}
	for _, n := range all {
		if n.Kind != last {
			w.line("\n# %s", titles[n.Kind])
			last = n.Kind
		}
		short := strings.TrimPrefix(n.String(), string(n.Kind)+": ")
		w.line("# - line %s: %s", n.At.short(w.cfg.dhcp4.at.File), oneLine(short))
	}
}
