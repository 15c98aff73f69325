package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/hotstage/hotstage/internal/control"
	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/ops/kea"
)

// known asks the node of this machine for its leases. Where none runs, a lease file for Kea
// is made of what the last one left: a team goes back when it has stopped its node.
func (v *leasesVerb) known(ctx context.Context, s *screen) (all []fact.Lease, err error) {
	err = fetch(ctx, v.State, "leases", &all)
	if err == nil || v.Output != "kea" {
		return all, err
	}
	if _, e := os.Stat(leasesFile(v.State)); e != nil {
		return nil, err
	}
	release, e := control.Hold(v.State)
	if e != nil {
		return nil, errors.Join(err, e)
	}
	defer release()
	store, e := openLeases(v.State)
	if e != nil {
		return nil, e
	}
	all, e = store.Load(ctx)
	fmt.Fprintf(s.errs, "no node runs with state directory %s: these are the leases that the last one left\n", v.State)
	return all, errors.Join(e, store.Close())
}

// writeKea writes the leases as Kea keeps them.
func (v *leasesVerb) writeKea(s *screen, all []fact.Lease) error {
	var subnets []kea.Subnet
	if v.Kea != "" {
		src, err := os.ReadFile(v.Kea)
		if err != nil {
			return fmt.Errorf("leases: read Kea's configuration: %w", err)
		}
		if subnets, err = kea.Subnets(v.Kea, src, includeBeside(v.Kea)); err != nil {
			return fmt.Errorf("leases: %w", err)
		}
	}
	ids, guessed := subnetIDs(all, subnets)
	if len(guessed) > 0 {
		hint := "give Kea's configuration with --kea, each subnet with an id"
		if v.Kea != "" {
			hint = "they have none in " + v.Kea
		}
		fmt.Fprintf(s.errs, "the subnet ids of %s are guessed: %s; or let Kea set them right when it starts, \"sanity-checks\": {\"lease-checks\": \"fix\"}\n", strings.Join(guessed, ", "), hint)
	}
	return kea.WriteLeases(s.out, all, func(l fact.Lease) int { return ids[l.Segment] })
}

// subnetIDs is Kea's id for each segment: of the subnet that holds its leases, else that in
// the segment's name, subnet-7, else the next free number. guessed are those without the first.
func subnetIDs(all []fact.Lease, subnets []kea.Subnet) (ids map[string]int, guessed []string) {
	ids, taken := map[string]int{}, map[int]bool{}
	for _, n := range subnets {
		taken[n.ID] = true
		for _, l := range all {
			if n.ID > 0 && n.Prefix.Contains(l.Addr) {
				ids[l.Segment] = n.ID
			}
		}
	}
	for _, l := range all {
		name, ok := strings.CutPrefix(l.Segment, "subnet-")
		id, err := strconv.Atoi(name)
		if ids[l.Segment] == 0 && ok && err == nil && id > 0 && !taken[id] {
			ids[l.Segment], taken[id] = id, true
			guessed = append(guessed, l.Segment)
		}
	}
	next := 1
	for _, l := range all {
		if ids[l.Segment] != 0 {
			continue
		}
		for taken[next] {
			next++
		}
		ids[l.Segment], taken[next] = next, true
		guessed = append(guessed, l.Segment)
	}
	return ids, guessed
}
