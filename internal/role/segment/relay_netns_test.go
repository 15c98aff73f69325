//go:build linux

package segment

import (
	"strings"
	"testing"

	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/kernel"
)

// A segment of attendees has its leases from srv1: they get to that server's port, and to
// nothing else that they did not get to before; those of other segments not even there.
func TestRenewalsPassTheFilter(t *testing.T) {
	text := strings.NewReplacer("ipv4: 10.2.0.0/24}", "ipv4: 10.2.0.0/24, dhcp: [srv1]}", "roles: [resolver]", "roles: [resolver, dhcp]").Replace(smallVenue)
	v := newVenueOf(t, text)
	for _, ns := range []*kernel.Namespace{v.srv, v.mgmt, v.crew, v.a1} {
		answer(t, ns, 67)
	}
	answer(t, v.srv, 68)
	v.run(t, make(chan fact.Event, 1))
	for _, c := range []struct {
		name     string
		from, to *kernel.Namespace
		how      string
		port     uint16
		want     bool
	}{
		{"renewing", v.b1, v.srv, "udp", 67, true},
		{"by TCP", v.b1, v.srv, "tcp", 67, false},
		{"another port", v.b1, v.srv, "udp", 68, false},
		{"management", v.b1, v.mgmt, "udp", 67, false},
		{"staff", v.b1, v.crew, "udp", 67, false},
		{"another attendee", v.b1, v.a1, "udp", 67, false},
		{"a segment with a server of its own", v.a1, v.srv, "udp", 67, false},
	} {
		if got := reaches(t, c.from, c.how, v.address[c.to][0], c.port); got != c.want {
			t.Errorf("%s: gets through: %t", c.name, got)
		}
	}
}
