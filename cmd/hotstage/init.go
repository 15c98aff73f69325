package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/hotstage/hotstage/internal/plan"
)

type initVerb struct {
	Plan     string   `arg:"" help:"The file to write; it must not exist." type:"path"`
	Name     string   `required:"" help:"The event's name."`
	People   int      `required:"" help:"Attendees expected."`
	Domain   string   `help:"The event's domain, such as conf.example."`
	Timezone string   `help:"IANA time zone, such as Asia/Tokyo."`
	Area     []string `help:"An area (rooms that share segments); repeat it."`
	SSID     []string `name:"ssid" help:"A wireless network's name; repeat it."`
	IPv4     string   `name:"ipv4" help:"The uplink's address or network; without it DHCP."`
	Gateway  string   `help:"The uplink's next hop."`
	IPv6     string   `name:"ipv6" help:"The prefix delegated to the venue, such as 2001:db8::/48."`
}

// Help is shown by hotstage init --help.
func (*initVerb) Help() string {
	return "Example: hotstage init conf.yaml --name 'Example Conf' --people 400 --area hall --area annex --ssid conf"
}

// Run writes a plan to start from. Answers that make no sound plan write nothing.
func (v *initVerb) Run(s *screen) error {
	src := plan.Sketch(plan.Answers{Name: v.Name, Attendees: v.People, Domain: v.Domain, Timezone: v.Timezone,
		Areas: v.Area, SSIDs: v.SSID, IPv4: v.IPv4, Gateway: v.Gateway, IPv6: v.IPv6})
	p, _, faults := plan.Parse(src, nil)
	if err := faults.Format(s.errs, filepath.Base(v.Plan), src, true, color(s.errs)); err != nil {
		return err
	}
	if p == nil {
		return errFaults
	}
	f, err := os.OpenFile(v.Plan, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("init: %s exists already; choose another name, or edit it and run: hotstage check %s", v.Plan, v.Plan)
	}
	if err != nil {
		return fmt.Errorf("init: %w", err)
	}
	_, err = f.Write(src)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("init: write %s: %w", v.Plan, err)
	}
	dir := keysDir("", v.Plan)
	if _, err := makeKeys(dir, p); err != nil {
		return fmt.Errorf("init: %s is written, its keys are not: %w", v.Plan, err)
	}
	fmt.Fprintf(s.out, "%s: written, and the event's keys in %s; next: hotstage check %s\n", filepath.Base(v.Plan), filepath.Base(dir), v.Plan)
	return nil
}
