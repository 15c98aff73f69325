//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hotstage/hotstage/bench/rig"
	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/vishvananda/netlink"
)

// server is a running DHCP server and the namespace of its load.
type server struct {
	node, load *kernel.Namespace
	cmd        *exec.Cmd
	addrs      []netip.Addr // the server's, by segment
	log        string
	db         *database // nil without one
	copies     bool      // its leases come to db after the ACKs
	given      int       // ACKs so far
}

// relayAddr is where the load of a segment comes from: a relay in it.
func relayAddr(segment int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(64 + 4*segment), 0, 3})
}

// start runs a server with an empty lease table in two new namespaces, and its database.
func (b *bench) start(sys string) (_ *server, err error) {
	dir, err := os.MkdirTemp(b.Dir, "run")
	if err != nil {
		return nil, err
	}
	s := &server{}
	defer func() {
		if err != nil {
			s.stop()
		}
	}()
	if err := s.namespaces(1, strings.HasPrefix(sys, "kea")); err != nil {
		return nil, err
	}
	plan := benchPlan
	switch {
	case sys == "hotstage":
	case strings.HasPrefix(sys, "hotstage"):
		plan += "dhcp: {leases: 'mysql://bench@127.0.0.1/leases', password: db, sync: " + strconv.FormatBool(sys == "hotstage sync") + "}\nsecrets: {db: 'env:BENCH_PASSWORD'}\n"
		s.copies, s.db = true, b.db
	case sys != "kea":
		s.db = b.db
	}
	if s.db != nil {
		if err := s.db.start(s); err != nil {
			return nil, err
		}
	}
	if strings.HasPrefix(sys, "kea") {
		err = b.prepareKea(s, dir, s.db != nil, map[string]int{"kea mysql 8 threads": 8}[sys])
	} else {
		err = b.prepareHotstage(s, dir, plan)
	}
	if err != nil {
		return nil, err
	}
	return s, s.run(200 * time.Millisecond)
}

// run starts the program and waits until it gives a lease, asking that often.
func (s *server) run(each time.Duration) error {
	out, err := os.Create(s.log)
	if err != nil {
		return err
	}
	defer out.Close()
	s.cmd.Stdout, s.cmd.Stderr = out, out
	if err := s.node.Start(s.cmd); err != nil {
		return err
	}
	return s.answers(each)
}

const benchPlan = `event: {name: Bench, attendees: 100000, devices_per_attendee: 1, sessions_per_attendee: 1}
sites: {venue: {uplinks: {isp: {}}}}
segments: {attendee: {ipv4: 10.64.0.0/12, pool: 10.64.1.0-10.67.255.255, relays: [10.64.0.3]}}
napt: {use: 100%}
nodes:
  gw1: {roles: [router, resolver], interfaces: {eth0: {uplink: isp}, eth1: {segment: attendee}}}
  srv1: {roles: [dhcp], interfaces: {v0: {segment: attendee}}}
`

func (b *bench) prepareHotstage(s *server, dir, plan string) error {
	file := filepath.Join(dir, "plan.yaml")
	if err := os.WriteFile(file, []byte(plan), 0o644); err != nil {
		return err
	}
	text, err := exec.Command(b.Hotstage, "show", file, "-o", "json").CombinedOutput()
	if err != nil {
		return fmt.Errorf("show the plan: %w\n%s", err, text)
	}
	var shown struct {
		Nodes []struct {
			Name        string
			Attachments []struct {
				Device string
				IPv4   netip.Prefix
			}
		}
	}
	if err := json.Unmarshal(text[slices.Index(text, '{'):], &shown); err != nil {
		return err
	}
	for _, n := range shown.Nodes {
		if n.Name != "srv1" {
			continue
		}
		s.addrs = make([]netip.Addr, len(n.Attachments))
		for _, a := range n.Attachments {
			if i, err := strconv.Atoi(strings.TrimPrefix(a.Device, "v")); err == nil && i < len(s.addrs) {
				s.addrs[i] = a.IPv4.Addr()
			}
		}
	}
	s.log = filepath.Join(dir, "log")
	s.cmd = exec.Command(b.Hotstage, "run", file, "--node", "srv1", "--state", filepath.Join(dir, "state"))
	s.cmd.Env = append(os.Environ(), "BENCH_PASSWORD=bench")
	return nil
}

const keaConfig = `{"Dhcp4":{"interfaces-config":{"interfaces":["v0"]},
"lease-database":{%[2]s},
"multi-threading":{"enable-multi-threading":%[3]t,"thread-pool-size":%[4]d,"packet-queue-size":64},"valid-lifetime":3600,
"option-data":[{"name":"domain-name-servers","data":"10.64.0.1"},{"name":"routers","data":"10.64.0.1"}],
"subnet4":[{"id":1,"subnet":"10.64.0.0/12","pools":[{"pool":"10.64.1.0-10.67.255.255"}]}],
"loggers":[{"name":"kea-dhcp4","output_options":[{"output":"%[1]s/kea.log"}],"severity":"INFO"}]}}`

func (b *bench) prepareKea(s *server, dir string, database bool, threads int) error {
	s.addrs = []netip.Addr{netip.MustParseAddr("10.64.0.1")}
	leases := `"type":"memfile","persist":true,"name":"` + dir + `/leases.csv"`
	if database {
		leases = `"type":"mysql","name":"kea","user":"bench","password":"bench","host":"127.0.0.1","port":3306`
	}
	file := filepath.Join(dir, "kea.json")
	if err := os.WriteFile(file, fmt.Appendf(nil, keaConfig, dir, leases, threads > 0, threads), 0o644); err != nil {
		return err
	}
	s.log = filepath.Join(dir, "log")
	s.cmd = exec.Command("kea-dhcp4", "-c", file)
	s.cmd.Env = append(os.Environ(), "KEA_PIDFILE_DIR="+dir, "KEA_LOCKFILE_DIR="+dir)
	return nil
}

// namespaces makes two namespaces with a link for each segment between them. Ours gives its
// ends the addresses itself.
func (s *server) namespaces(segments int, kea bool) (err error) {
	if s.node, err = kernel.NewNamespace(); err != nil {
		return err
	}
	if s.load, err = kernel.NewNamespace(); err != nil {
		return err
	}
	if err := s.node.Do(func() error { return rig.Up("lo") }); err != nil {
		return err
	}
	for i := range segments {
		dev, far, length := fmt.Sprint("v", i), fmt.Sprint("w", i), "/14"
		var own []string
		if kea {
			own = []string{"10.64.0.1/12"}
		}
		if segments == 1 {
			length = "/12"
		}
		err := s.node.Do(func() error {
			a := netlink.NewLinkAttrs()
			a.Name = dev
			if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: a, PeerName: far, PeerNamespace: netlink.NsFd(s.load.FD())}); err != nil {
				return err
			}
			return rig.Up(dev, own...)
		})
		if err != nil {
			return err
		}
		if err := s.load.Do(func() error { return rig.Up(far, relayAddr(i).String()+length) }); err != nil {
			return err
		}
	}
	return nil
}

func (s *server) answers(each time.Duration) error {
	for begun := time.Now(); time.Since(begun) < time.Minute; {
		if r, err := s.rushFor(1, each, 0xfe); err == nil && r.lost == 0 {
			s.given = 1
			return nil
		}
	}
	text, _ := os.ReadFile(s.log)
	return fmt.Errorf("it gives no lease:\n%s", text)
}

// copied waits until the database has what was acknowledged, and tells how long it took.
func (s *server) copied() (time.Duration, error) {
	if !s.copies {
		return 0, nil
	}
	return s.db.holds(s.given, 2*time.Minute)
}

func (s *server) kill() {
	if s.cmd != nil && s.cmd.Process != nil && s.cmd.ProcessState == nil {
		s.cmd.Process.Kill()
		s.cmd.Wait()
	}
}

func (s *server) stop() {
	s.kill()
	if s.db != nil {
		s.db.stop()
	}
	for _, ns := range []*kernel.Namespace{s.node, s.load} {
		if ns != nil {
			ns.Close()
		}
	}
}

// cpu is the user and system time of the server so far, and of its database.
func (s *server) cpu() time.Duration {
	d := rig.Spent(s.cmd.Process.Pid)
	if s.db != nil {
		d += rig.Spent(s.db.cmd.Process.Pid)
	}
	return d
}

// resident is the memory that the server holds, in bytes.
func (s *server) resident() float64 {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	kib, _ := strconv.Atoi(strings.Fields(rest + " 0")[0])
	return float64(kib) * 1024
}
