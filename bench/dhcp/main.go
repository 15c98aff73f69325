//go:build linux

// Command dhcp measures the DHCP server beside Kea's, each in a namespace of its own with the
// load in another, in turn in one run on one machine: CPU an exchange, latency and the highest
// rate by perfdhcp, the rate at which a faster generator saturates it, and 6,000 devices at
// once. Ours has every lease on disk (fsync) before its ACK; Kea's memfile does not sync.
//
//	go run ./bench/dhcp -hotstage bin/hotstage -part disk,mysql,cost
//
// Part disk is each with leases in files of its own, mysql is each with leases in the same
// MariaDB, cost is ours alone by the number of leases.
//
// Each figure is the median of several trials with the least and the most. A line "bar" ends
// each goal: what was measured, what it is held to, and ok or short.
package main

import (
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/hotstage/hotstage/bench/rig"
)

func main() {
	log.SetFlags(0)
	flags := rig.NewFlags("disk,mysql,cost")
	flag.Parse()
	flags.Main("dhcp", func(r *rig.Bench) error {
		b := &bench{Bench: r}
		return b.run()
	})
}

type bench struct {
	*rig.Bench
	db *database // of part mysql
}

// run measures the parts one after the other.
func (b *bench) run() error {
	for _, tool := range []string{"kea-dhcp4", "perfdhcp"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%s is not installed; as root: apt-get install kea-dhcp4-server kea-admin", tool)
		}
	}
	kea, _ := exec.Command("kea-dhcp4", "-v").Output()
	return b.Measure("Kea "+strings.TrimSpace(string(kea)), rig.Part{Name: "disk", Run: b.disk}, rig.Part{Name: "mysql", Run: b.mysql}, rig.Part{Name: "cost", Run: b.cost})
}

// disk is both with leases in files: Kea's memfile, which does not sync, and ours, which does
// before each ACK.
func (b *bench) disk() error {
	fmt.Print("\nleases in files: Kea's memfile without sync, ours with fsync before each ACK\n\n")
	systems, all := []string{"hotstage", "kea"}, b.Report.Part("disk")
	for n := range b.Trials {
		for _, sys := range systems {
			if err := b.trial(sys, n, 3000, 1000, all); err != nil {
				return fmt.Errorf("%s: %w", sys, err)
			}
		}
	}
	all.Print(os.Stdout, systems)
	b.diskBars(all)
	return nil
}

// mysql is both with leases in one MariaDB that has each commit on its disk: ours behind the
// answers and, with sync, before them; Kea as Debian's configuration has it, and with threads.
func (b *bench) mysql() error {
	db, err := newDatabase(filepath.Join(b.Dir, "mariadb"))
	if err != nil {
		return err
	}
	b.db = db
	version, _ := exec.Command("mariadbd", "--version").Output()
	fmt.Printf("\nleases in MariaDB: %s\n%s\nCPU is of server and database together, for ours until the copy is complete\n\n", strings.TrimSpace(string(version)), strings.Join(databaseOptions, " "))
	systems, all := []string{"hotstage mysql", "hotstage sync", "kea mysql", "kea mysql 8 threads"}, b.Report.Part("mysql")
	for n := range b.Trials {
		for _, sys := range systems {
			if err := b.trial(sys, n, 300, 200, all); err != nil {
				return fmt.Errorf("%s: %w", sys, err)
			}
		}
	}
	all.Print(os.Stdout, systems)
	b.mysqlBars(all)
	return nil
}

// trial measures one system once, each figure with an empty lease table: at a steady rate,
// saturated, in a rush, and from the rate lowest on the highest that it keeps up with.
func (b *bench) trial(sys string, n, rate, lowest int, all rig.Results) error {
	fresh := func(f func(*server) error) error {
		s, err := b.start(sys)
		if err != nil {
			return err
		}
		defer s.stop()
		if err := b.Ctx.Err(); err != nil {
			return err
		}
		return f(s)
	}
	steady := func(s *server) error {
		r, err := s.perfdhcp(rate, 5*time.Second, n)
		if err == nil {
			at := fmt.Sprintf("%d/s: ", rate)
			all.Add(sys, at+"lost, %", r.lost)
			all.Add(sys, at+"p50, ms", r.p50)
			all.Add(sys, at+"p99, ms", r.p99)
			all.Add(sys, at+"CPU an exchange, us", r.cpu)
		}
		return err
	}
	saturated := func(s *server) error {
		r, err := s.saturate(load{most: 5 * time.Second, prefix: 0x10})
		if err == nil {
			all.Add(sys, "saturated, /s", r.rate)
			all.Add(sys, "saturated: CPU an exchange, us", r.cpu)
			if s.copies {
				all.Add(sys, "saturated: then until copied, s", r.behind)
			}
		}
		return err
	}
	rush := func(s *server) error {
		r, err := s.rush(6000)
		if err == nil {
			all.Add(sys, "6,000 at once: until the last ACK, s", r.seconds)
			all.Add(sys, "6,000 at once: most tries of a client", float64(r.tries))
			all.Add(sys, "6,000 at once: without an address", float64(r.lost))
		}
		return err
	}
	for _, f := range []func(*server) error{steady, saturated, rush} {
		if err := fresh(f); err != nil {
			return err
		}
	}
	best, err := highest(lowest, func(rate int) (ok bool, err error) {
		err = fresh(func(s *server) error {
			r, err := s.perfdhcp(rate, 4*time.Second, n)
			ok = err == nil && r.lost < 1 && r.acks >= 0.97*float64(rate)*4*(1-r.lost/100)
			return err
		})
		return ok, err
	})
	if err == nil {
		all.Add(sys, "highest by perfdhcp, under 1 % lost, /s", best)
	}
	return err
}

// mostRate is what perfdhcp is not asked to go beyond: it loses packets itself from about
// 10,000/s on.
const mostRate = 16000

// highest is the highest rate that is kept up with, within an eighth: by doubling and then by
// halves. A rate is tried twice before it counts as too high, since the machine is shared.
func highest(rate int, try func(rate int) (bool, error)) (float64, error) {
	twice := func(rate int) (bool, error) {
		ok, err := try(rate)
		if err != nil || ok {
			return ok, err
		}
		return try(rate)
	}
	low, high := 0, 0
	for high == 0 {
		ok, err := twice(rate)
		switch {
		case err != nil:
			return 0, err
		case !ok && rate < 20:
			return 0, nil
		case !ok && low == 0:
			rate /= 2
		case !ok:
			high = rate
		default:
			if low = rate; low >= mostRate {
				return float64(low), nil
			}
			rate *= 2
		}
	}
	for high-low > low/8 {
		middle := (low + high) / 2
		ok, err := twice(middle)
		if err != nil {
			return 0, err
		}
		if ok {
			low = middle
		} else {
			high = middle
		}
	}
	return float64(low), nil
}
