package plan

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

// Answers are what a sketch of a plan is made of; only Name and Attendees are needed.
type Answers struct {
	Name      string
	Attendees int
	Domain    string
	Timezone  string
	Areas     []string
	SSIDs     []string
	IPv4      string // of the uplink: an address, one with its length, or a network; "" is DHCP
	Gateway   string
	IPv6      string
}

// Sketch is a commented plan to start from. It is checked like any other plan: answers that
// cannot be are faults of it, with their lines.
func Sketch(a Answers) []byte {
	var b bytes.Buffer
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("# The network of %s. Check it: hotstage check FILE; see what it comes to: hotstage show FILE", strings.Join(strings.Fields(a.Name), " "))
	line("event:\n  name: %s\n  attendees: %d", strconv.Quote(a.Name), a.Attendees)
	line("  devices_per_attendee: 2     # a phone and a computer each")
	if a.Domain != "" {
		line("  domain: %s", strconv.Quote(a.Domain))
	}
	if a.Timezone != "" {
		line("  timezone: %s", strconv.Quote(a.Timezone))
	}
	line("\nsites:\n  venue:\n    uplinks:")
	var uplink []string
	for _, kv := range [][2]string{{"ipv4", a.IPv4}, {"gateway", a.Gateway}, {"ipv6", a.IPv6}} {
		if kv[1] != "" {
			uplink = append(uplink, kv[0]+": "+strconv.Quote(kv[1]))
		}
	}
	note := "its address comes by DHCP; or give ipv4 and gateway"
	if a.IPv4 != "" {
		note = "with a gateway Hotstage sets it up, without one the system does"
	}
	line("      isp: {%s}   # %s", strings.Join(uplink, ", "), note)
	var per []string
	if len(a.Areas) > 0 {
		per = append(per, "area")
		line("\n# Rooms near each other share an area. Shares are equal unless given, as in {share: 70%%}.\nareas:")
		for _, name := range a.Areas {
			line("  %s: {}", strconv.Quote(name))
		}
	}
	if len(a.SSIDs) > 0 {
		line("\nssids:")
		for _, name := range a.SSIDs {
			if isLabel(name) {
				line("  %s: {}", strconv.Quote(name))
			} else {
				line("  %s: {name: %s}", slug(name), strconv.Quote(name))
			}
		}
		if len(a.SSIDs) > 1 {
			per = append(per, "ssid")
		}
	}
	line("\nsegments:\n  attendee: {per: [%s], isolate: true}   # attendees cannot reach each other", strings.Join(per, ", "))
	line("  server: {}\n  management: {}")
	line("\n# One machine does everything; give a second one roles too, so that either may die.\nnodes:\n  gw1:\n    roles: [router, dhcp, resolver]")
	line("    interfaces:\n      eth0: {uplink: isp}\n      eth1: {trunk: [attendee, server, management]}   # 802.1Q")
	line("\nresolver: {recursion: [9.9.9.9, 1.1.1.1, 8.8.8.8]}   # or your provider's")
	line("napt: {timeout: {udp: 30s}, use: 50%%}   # half of the table stays free for a burst")
	return b.Bytes()
}
