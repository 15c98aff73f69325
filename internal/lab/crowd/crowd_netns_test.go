//go:build linux

package crowd

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// run plays the scenario; meanwhile is called in another goroutine when not nil.
func (v *testVenue) play(meanwhile func(ctx context.Context, c *Crowd)) Result {
	v.t.Helper()
	v.serve()
	c, err := New(v.cfg)
	if err != nil {
		v.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		if meanwhile != nil {
			meanwhile(ctx, c)
		}
	}()
	r, err := c.Run(ctx)
	<-done
	if err != nil {
		v.t.Errorf("Run: %v", err)
	}
	series := r.Series
	r.Series = nil
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		v.t.Errorf("result to JSON: %v", err)
	}
	if v.t.Failed() || testing.Verbose() {
		v.t.Logf("%s", b)
	}
	r.Series = series
	return r
}

func TestCrowdWalksInAndOut(t *testing.T) {
	const each = 250
	v := newTestVenue(t, each)
	var before, after unix.Rusage
	unix.Getrusage(unix.RUSAGE_SELF, &before)
	r := v.play(nil)
	unix.Getrusage(unix.RUSAGE_SELF, &after)
	cpu := time.Duration(after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano())
	t.Logf("%d devices, %v: %v CPU with the servers", 2*each, r.Duration, cpu)
	for _, c := range []struct {
		words     string
		got, want int
	}{
		{"arrived", r.Arrived, 2 * each},
		{"addressed", r.Addressed, 2 * each},
		{"left", r.Left, 2 * each},
		{"duplicates", r.DuplicateCount, 0},
		{"NAKs", r.DHCP.Naks, 0},
		{"DHCP retries", r.DHCP.Retries, 0},
		{"DNS failures", r.DNS.Failed(), 0},
		{"malformed DHCP", r.DHCP.Malformed, 0},
		{"malformed DNS", r.DNS.Malformed, 0},
		{"renewals acknowledged", r.Renewals.Acks, r.Renewals.Tried},
		{"unresolved neighbours", r.Unresolved, 0},
		{"own drops", int(r.Own.Drops + r.Own.Unsent), 0},
	} {
		if c.got != c.want {
			t.Errorf("%s: %d, want %d", c.words, c.got, c.want)
		}
	}
	for words, n := range map[string]int{"DORA": r.DORA.Count, "questions": r.DNS.OK, "by TCP": r.DNS.TCP, "renewals": r.Renewals.Tried, "reboots": r.Reboots, "SLAAC": r.IPv6.Configured, "releases": r.DHCP.Releases} {
		if n == 0 {
			t.Errorf("no %s at all", words)
		}
	}
	for kind, f := range r.Flows {
		if f.Failed != 0 || f.Tried == 0 || f.Rounds == 0 {
			t.Errorf("flows %s: %+v", kind, f)
		}
	}
	// Of its 250 devices in the segment with IPv6, those that roamed configure again.
	if r.IPv6.Configured < each {
		t.Errorf("%d of %d devices have an IPv6 address", r.IPv6.Configured, each)
	}
	// This kernel's bridge isolates; its router forwards to everybody.
	through := map[string]bool{"attendee-direct-v4": false, "attendee-direct-v6": false, "attendee-broadcast": false,
		"attendee-hairpin-v4": true, "attendee-segment-v4": true, "management-device-v4": true, "management-node-ping": true, "management-node-tcp": true,
		"gateway-ping-v4": true, "gateway-ping-v6": true, "control-device-ping": true, "control-node-ping": true, "control-node-tcp": true}
	for _, p := range r.Probes {
		want, ok := through[p.Name]
		delete(through, p.Name)
		switch {
		case p.Tried == 0 || ok && want && p.Through == 0 || ok && !want && p.Through != 0:
			t.Errorf("probe %+v: through should be %v", p, want)
		case p.Allowed && !p.OK():
			t.Errorf("probe %+v is not OK", p)
		}
	}
	for name := range through {
		t.Errorf("probe %s was not tried", name)
	}
}
