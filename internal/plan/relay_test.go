package plan

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Who gives addresses where, and by which way. Rows with more servers keep the parts disjoint.
func TestService(t *testing.T) {
	trunk := func(roles string) string {
		return "nodes:\n  gw1: {roles: " + roles + ", interfaces: {eth0: {uplink: isp}, eth1: {trunk: [attendee, server, management]}}}\n" +
			"  srv1: {roles: [dhcp], interfaces: {eth0: {segment: server}}}\n"
	}
	segments := func(attendee string) string {
		return "segments: {attendee: {ipv4: 10.1.0.0/22" + attendee + "}, server: {ipv4: 10.9.0.0/24}, management: {ipv4: 10.8.0.0/24}}\n"
	}
	for _, c := range []struct {
		name, src string
		want      []string
	}{
		{"a node of its own serves alone", trunk("[router, dhcp, resolver]") + segments(""), []string{
			"attendee gw1 10.1.0.64-10.1.3.254 (959 of 959, 1/1): directly",
			"server gw1 10.9.0.64-10.9.0.158 (95 of 191, 1/2): directly", "server srv1 10.9.0.159-10.9.0.254 (96 of 191, 1/2): directly",
			"management gw1 10.8.0.64-10.8.0.254 (191 of 191, 1/1): directly",
		}},
		{"none of its own: the relay", trunk("[router, resolver]") + segments(""), []string{
			"attendee srv1 10.1.0.64-10.1.3.254 (959 of 959, 1/1): gw1 relays as 10.1.0.1, over server to 10.9.0.%",
			"server srv1 10.9.0.64-10.9.0.254 (191 of 191, 1/1): directly",
			"management srv1 10.8.0.64-10.8.0.254 (191 of 191, 1/1): gw1 relays as 10.8.0.1, over server to 10.9.0.%",
		}},
		{"both, as asked", trunk("[router, dhcp, resolver]") + segments(", dhcp: [gw1, srv1]"), []string{
			"attendee gw1 10.1.0.64-10.1.2.30 (479 of 959, 1/2): directly",
			"attendee srv1 10.1.2.31-10.1.3.254 (480 of 959, 1/2): gw1 relays as 10.1.0.1, over server to 10.9.0.%",
			"server gw1 10.9.0.64-10.9.0.158 (95 of 191, 1/2): directly", "server srv1 10.9.0.159-10.9.0.254 (96 of 191, 1/2): directly",
			"management gw1 10.8.0.64-10.8.0.254 (191 of 191, 1/1): directly",
		}},
		{"nobody, as asked", trunk("[router, dhcp, resolver]") + segments(", dhcp: []"), []string{
			"server gw1 10.9.0.64-10.9.0.158 (95 of 191, 1/2): directly", "server srv1 10.9.0.159-10.9.0.254 (96 of 191, 1/2): directly",
			"management gw1 10.8.0.64-10.8.0.254 (191 of 191, 1/1): directly",
		}},
	} {
		p, _, faults := Parse([]byte(base+c.src), nil)
		if p == nil {
			t.Errorf("%s: %v", c.name, faults)
			continue
		}
		var got []string
		for _, s := range Service(p) {
			line := s.Segment + " " + s.Node + " " + s.Arithmetic + ": " + s.Way
			if r := p.Node(s.Node).Relay(s.Segment); r != nil {
				line = strings.Replace(line, r.Server.String(), "10.9.0.%", 1) // by its name
				if a := p.Node(s.Node).Attachment("server").IPv4.Addr(); r.Server != a || r.Near != p.Node("gw1").Attachment("server").IPv4.Addr() {
					t.Errorf("%s: %+v", c.name, r)
				}
			}
			got = append(got, line)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: -want +got\n%s", c.name, diff)
		}
	}
}
