package main

import (
	"bytes"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hotstage/hotstage/internal/plan"
)

// Whether two servers are a pair: with keys and a segment without attendees, and else they say
// what is missing and serve alone.
func TestPairUp(t *testing.T) {
	const server, hall = "{trunk: [attendee, server]}", "{segment: attendee}"
	for _, c := range []struct {
		name, at string
		keys     bool
		want     string // the event; "": a pair
	}{
		{"keys and a server segment", server, true, ""},
		{"no keys", server, false, "pair-without-keys"},
		{"no segment but the attendees'", hall, true, "pair-without-link"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, _, faults := plan.Parse([]byte("event: {name: Two, attendees: 40}\nsites: {venue: {uplinks: {isp: {}}}}\nsegments: {attendee: {}, server: {}}\nnodes:\n"+
				"  gw1: {roles: [router, dhcp, resolver], interfaces: {eth0: {uplink: isp}, eth1: {trunk: [attendee, server]}}}\n"+
				"  srv1: {roles: [dhcp], interfaces: {ens192: "+c.at+"}}\n"), nil)
			if p == nil {
				t.Fatal(faults)
			}
			dir := t.TempDir()
			if c.keys {
				if _, err := makeKeys(dir, p); err != nil {
					t.Fatal(err)
				}
			}
			var log bytes.Buffer
			n, err := newNode(p, "srv1", t.TempDir(), dir, false, &log)
			if err != nil {
				t.Fatal(err)
			}
			if (n.pair != nil) != (c.want == "") || !strings.Contains(log.String(), c.want) || c.want == "" && log.Len() > 0 {
				t.Errorf("pair %v, log %q; want %q", n.pair, log.String(), c.want)
			}
		})
	}
}

// A node that was one of a pair does not go on without telling its partner.
func TestPairWithoutItsKeys(t *testing.T) {
	p, _, faults := plan.Parse([]byte("event: {name: Two, attendees: 40}\nsites: {venue: {uplinks: {isp: {}}}}\nsegments: {attendee: {}, server: {}}\nnodes:\n"+
		"  gw1: {roles: [router, dhcp, resolver], interfaces: {eth0: {uplink: isp}, eth1: {trunk: [attendee, server]}}}\n"+
		"  srv1: {roles: [dhcp], interfaces: {ens192: {trunk: [attendee, server]}}}\n"), nil)
	if p == nil {
		t.Fatal(faults)
	}
	state := t.TempDir()
	if err := (pairMemo{filepath.Join(state, "pair")}).Write("boot"); err != nil {
		t.Fatal(err)
	}
	if word, err := (pairMemo{filepath.Join(state, "pair")}).Read(); err != nil || word != "boot" {
		t.Errorf("%q, %v; want the word that was written", word, err)
	}
	if _, err := newNode(p, "srv1", state, t.TempDir(), false, io.Discard); err == nil || !strings.Contains(err.Error(), "was one of a pair") {
		t.Errorf("%v; want what to do", err)
	}
}
