package plan

import (
	"encoding/json"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hotstage/hotstage/internal/golden"
)

func TestExamples(t *testing.T) {
	files, err := filepath.Glob("../../examples/*.yaml")
	if err != nil || len(files) < 3 {
		t.Fatalf("examples: %v, %v", files, err)
	}
	for _, file := range files {
		src, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		p, lock, faults := Parse(src, nil)
		if p == nil {
			t.Errorf("%s: %v", file, faults)
			continue
		}
		text, err := json.MarshalIndent(struct {
			Plan   *Plan
			Faults Faults
		}{p, faults}, "", "\t")
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		golden.Compare(t, name+".json", append(text, '\n'))
		golden.Compare(t, name+".lock", lock.Bytes())
		figures, err := json.MarshalIndent(Budget(p), "", "\t")
		if err != nil {
			t.Fatal(err)
		}
		golden.Compare(t, name+".budget.json", append(figures, '\n'))
	}
}

const base = "event: {name: T, attendees: 100}\nsites: {venue: {uplinks: {isp: {}}}}\n"

// relayed has one node with role dhcp, which attendees reach by the relay of gw1.
const relayed = base + "nodes:\n  gw1: {roles: [router, resolver], interfaces: {eth0: {uplink: isp}, eth1: {trunk: [attendee, server, management]}}}\n" +
	"  srv1: {roles: [dhcp], interfaces: {eth0: {segment: server}}}\n"

// Each row adds a piece to a sound plan and names the one fault that must come. Rows marked
// with "+" lack more than one thing.
func TestFaults(t *testing.T) {
	gw := "nodes:\n  gw1:\n    roles: [router, dhcp, resolver]\n    interfaces: {eth0: {uplink: isp}, eth1: {trunk: [%s]}}\n"
	for _, c := range []struct{ name, src, words string }{
		{"empty", "", "documents"},
		{"syntax", "event: {name: [\n", "not YAML"},
		{"unknown key", base + "nodez: {}\n", "unknown key"},
		{"key twice", base + "dhcp: {leases: sqlite}\ndhcp: {leases: sqlite}\n", "this key stands twice"},
		{"anchor", base + "ssids: &a {x: {}}\n", "anchors"},
		{"no name", "event: {attendees: 5}\nsites: {venue: {uplinks: {isp: {}}}}\n", "the event has no name"},
		{"no attendees", "event: {name: T}\nsites: {venue: {uplinks: {isp: {}}}}\n", "no attendees"},
		{"too many", "event: {name: T, attendees: 900000}\nsites: {venue: {uplinks: {isp: {}}}}\n", "not a number that fits"},
		{"no uplink", "event: {name: T, attendees: 5}\nsites: {venue: {}}\n", "the plan has no uplink"},
		{"time zone", "event: {name: T, attendees: 5, timezone: Asia/Tokio}\nsites: {venue: {uplinks: {isp: {}}}}\n", "not a time zone"},
		{"days", "event: {name: T, attendees: 5, days: {from: 2024-02-02, to: 2024-02-01}}\nsites: {venue: {uplinks: {isp: {}}}}\n", "ends before it begins"},
		{"domain", "event: {name: T, attendees: 5, domain: 'a b'}\nsites: {venue: {uplinks: {isp: {}}}}\n", "not a domain name"},
		{"shares", base + "ssids: {a: {share: 60%}, b: {share: 60%}}\n", "add up to 120%"},
		{"vlan range", base + "segments: {attendee: {vlan: 4095}, server: {}}\n", "not a number that fits"},
		{"vlan twice", base + "segments: {attendee: {vlan: 10}, server: {vlan: 10}}\n", "both have VLAN id 10"},
		{"host bits", base + "segments: {attendee: {ipv4: 10.0.0.1/24}}\n", "host bits"},
		{"overlap", base + "segments: {attendee: {ipv4: 10.0.0.0/22}, server: {ipv4: 10.0.1.0/24}}\n", "overlaps 10.0.0.0/22"},
		{"overlap uplink", "event: {name: T, attendees: 100}\nsites: {venue: {uplinks: {isp: {ipv4: 10.0.0.2/24, gateway: 10.0.0.1}}}}\nsegments: {attendee: {ipv4: 10.0.0.0/22}}\n", "overlaps the uplink"},
		{"pool too small", base + "segments: {attendee: {ipv4: 10.0.0.0/25}}\n", "addresses for 200 devices"},
		{"pool outside", base + "segments: {attendee: {ipv4: 10.0.0.0/22, pool: 10.1.0.1-10.1.0.9}}\n", "can't be used"},
		{"gateway outside", base + "segments: {attendee: {ipv4: 10.0.0.0/22, gateway: 10.1.0.1}}\n", "is not a host of"},
		{"relay outside", base + "segments: {attendee: {relays: [192.0.2.1]}}\n", "relay 192.0.2.1 is not a host of"},
		{"relay in the pool", base + "segments: {attendee: {ipv4: 10.9.0.0/22, relays: [10.9.0.70]}}\n", "relay 10.9.0.70 lies in the pool"},
		{"relay is the gateway", base + "segments: {attendee: {ipv4: 10.9.0.0/22, relays: [10.9.0.1]}}\n", "already that of the gateway"},
		{"relays of many segments", base + "areas: {a: {}, b: {}}\nsegments: {attendee: {per: [area], relays: [10.9.0.2]}}\n", "can't share one relay"},
		{"dhcp of nobody", base + "segments: {attendee: {dhcp: gw2}}\n", "the plan has no node gw2"},
		{"dhcp twice", base + "segments: {attendee: {dhcp: [gw1, gw1]}}\n", "stands twice"},
		{"dhcp without the role", relayed + "segments: {attendee: {dhcp: [gw1, srv1]}, server: {}, management: {}}\n", "gw1 does not have the role dhcp"},
		{"dhcp out of reach", relayed + "  srv2: {roles: [dhcp], interfaces: {eth0: {segment: management}}}\nsegments: {attendee: {dhcp: srv2}, server: {}, management: {}}\n", "shares no server segment with it"},
		{"dhcp at another site", strings.Replace(relayed, "{isp: {}}}", "{isp: {}}}, cloud: {uplinks: {vps: {ipv4: [198.51.100.8]}}}", 1) + "  c1: {site: cloud, roles: [router, dhcp], interfaces: {eth0: {uplink: vps}}}\nsegments: {attendee: {dhcp: c1}, server: {}, management: {}}\n", "at another site"},
		{"nobody to relay to", strings.Replace(relayed, "segment: server", "segment: management", 1) + "segments: {attendee: {}, server: {dhcp: []}, management: {}}\n", "segment attendee has no node that gives addresses"},
		{"reservation outside", base + "segments: {attendee: {reservations: {tv: {mac: '02:00:00:00:00:01', address: 192.0.2.1}}}}\n", "is not a host of"},
		{"reservation mac", base + "segments: {attendee: {reservations: {tv: {mac: '01:00:00:00:00:01', address: 192.0.2.1}}}}\n", "not a MAC address of a device"},
		{"reservation of nobody", base + "segments: {attendee: {}, server: {ipv4: 10.9.0.0/24, reservations: {tv: {address: 10.9.0.70}}}}\n", "no mac and no client_id"},
		{"reservation of both", base + "segments: {attendee: {}, server: {ipv4: 10.9.0.0/24, reservations: {tv: {mac: '02:00:00:00:00:01', client_id: '01:02', address: 10.9.0.70}}}}\n", "both a mac and a client_id"},
		{"client_id twice", base + "segments: {attendee: {}, server: {ipv4: 10.9.0.0/24, reservations: {a: {client_id: 'text:ab', address: 10.9.0.70}, b: {client_id: '61:62', address: 10.9.0.71}}}}\n", "for one client_id"},
		{"client_id", base + "segments: {attendee: {reservations: {tv: {client_id: lobby, address: 192.0.2.1}}}}\n", "not a client identifier"},
		{"client_id of one byte", base + "segments: {attendee: {reservations: {tv: {client_id: 'text:a', address: 192.0.2.1}}}}\n", "of a length that DHCP allows"},
		{"ipv6_only too short", base + "segments: {attendee: {ipv6_only: 1m}}\n", "not a time that fits here"},
		{"ipv6_only without IPv6", base + "segments: {attendee: {ipv6_only: 30m}}\n", "has no IPv6"},
		{"ipv6_only without NAT64", "event: {name: T, attendees: 100}\nsites: {venue: {uplinks: {isp: {ipv6: '2001:db8::/48'}}}}\nsegments: {attendee: {ipv6_only: 30m}}\n", "names no NAT64"},
		{"nat64", base + "segments: {attendee: {nat64: '64:ff9b::/95'}}\n", "not the prefix of a NAT64"},
		{"portal by HTTP", base + "segments: {attendee: {captive_portal: 'http://portal.example/'}}\n", "not the address of a captive portal's API"},
		{"portal by address", base + "segments: {attendee: {captive_portal: 'https://192.0.2.1/api'}}\n", "given by an address"},
		{"search", base + "segments: {attendee: {search: [a.example, 'b c']}}\n", "not a domain name"},
		{"search twice", base + "segments: {attendee: {search: [a.example, A.example.]}}\n", "stands twice"},
		{"search of many", base + "segments: {attendee: {search: [a.example, b.example, c.example, d.example, e.example, f.example, g.example]}}\n", "more than 6 domains"},
		{"route", base + "segments: {attendee: {}, server: {ipv4: 10.9.0.0/24, routes: {10.20.0.1/16: 10.9.0.5}}}\n", "not a network to route to"},
		{"default route", base + "segments: {attendee: {}, server: {ipv4: 10.9.0.0/24, routes: {0.0.0.0/0: 10.9.0.5}}}\n", "the default route is not given here"},
		{"router elsewhere", base + "segments: {attendee: {}, server: {ipv4: 10.9.0.0/24, routes: {10.20.0.0/16: 10.8.0.5}}}\n", "is not a host of"},
		{"router in the pool", base + "segments: {attendee: {}, server: {ipv4: 10.9.0.0/24, routes: {10.20.0.0/16: 10.9.0.99}}}\n", "a device may get it"},
		{"route to itself", base + "segments: {attendee: {}, server: {ipv4: 10.9.0.0/24, routes: {10.9.0.128/25: 10.9.0.5}}}\n", "part of the segment itself"},
		{"routes of a group", base + "areas: {hall: {}, annex: {}}\nsegments: {attendee: {per: [area], routes: {10.20.0.0/16: 10.9.0.5}}}\n", "can't share one route"},
		{"mtu", base + "segments: {attendee: {mtu: 9000}}\n", "not a number that fits"},
		{"encrypted without address", base + "segments: {attendee: {encrypted_dns: {name: dns.example}}}\n", "has no address"},
		{"encrypted without name", base + "segments: {attendee: {encrypted_dns: {addresses: 192.0.2.1}}}\n", "not a name of a resolver"},
		{"encrypted protocol", base + "segments: {attendee: {encrypted_dns: {name: dns.example, addresses: 192.0.2.1, alpn: tls}}}\n", "not one of the known words"},
		{"encrypted path", base + "segments: {attendee: {encrypted_dns: {name: dns.example, addresses: 192.0.2.1, alpn: h2, path: /q}}}\n", "not a path of DNS over HTTPS"},
		{"encrypted path without HTTP", base + "segments: {attendee: {encrypted_dns: {name: dns.example, addresses: 192.0.2.1, path: '/q{?dns}'}}}\n", "is not asked by HTTP"},
		{"encrypted in the pool", base + "segments: {attendee: {encrypted_dns: {name: dns.example, addresses: 10.9.0.99}}, server: {ipv4: 10.9.0.0/24}}\n", "a device may get it"},
		{"lease", base + "segments: {attendee: {lease: 5s}}\n", "not a time that fits"},
		{"no site", base + "nodes: {gw1: {site: vanue, roles: [router]}}\n", "no such site"},
		{"no such uplink", base + "nodes: {gw1: {roles: [router], interfaces: {eth0: {uplink: ips}}}}\n", "has no uplink ips"},
		{"uplink unused+", base + "nodes: {gw1: {roles: [router], interfaces: {eth1: {trunk: [attendee]}}}}\n", "no node has the uplink"},
		{"role+", base + "nodes: {gw1: {roles: [rooter]}}\n", "not one of the known words"},
		{"router without interface+", base + "nodes: {gw1: {roles: [router]}}\n", "no interface to route between"},
		{"two uses", base + "nodes: {gw1: {roles: [router], interfaces: {eth0: {uplink: isp, segment: server}}}}\n", "has 2 uses"},
		{"segment name", base + fmt.Sprintf(gw, "atendee"), "no segment atendee"},
		{"no gateway+", base + "segments: {attendee: {}, server: {}}\n" + fmt.Sprintf(gw, "attendee"), "segment server has no gateway"},
		{"no dhcp", base + strings.Replace(fmt.Sprintf(gw, "attendee, server, management"), "dhcp, ", "", 1), "no node that gives addresses"},
		{"no resolver", base + strings.Replace(fmt.Sprintf(gw, "attendee, server, management"), ", resolver", "", 1), "have no resolver"},
		{"native", base + "resolver: {recursion: native}\n", "not a resolver to ask"},
		{"password in the plan", base + "dhcp: {leases: 'mysql://u:hunter2@db/x', password: db}\nsecrets: {db: 'env:DB'}\n", "a password stands in the plan"},
		{"password in another's", base + "dhcp: {leases: 'postgres://u:hunter2@db/x'}\n", "leases can't be kept there"},
		{"leases elsewhere", base + "dhcp: {leases: sqlit}\n", "leases can't be kept there"},
		{"mysql without user", base + "dhcp: {leases: 'mysql://db/x', password: db}\nsecrets: {db: 'env:DB'}\n", "user is missing"},
		{"mysql without database", base + "dhcp: {leases: 'mysql://u@db', password: db}\nsecrets: {db: 'env:DB'}\n", "name is missing"},
		{"mysql server", base + "dhcp: {leases: 'mysql://u@db:0/x', password: db}\nsecrets: {db: 'env:DB'}\n", "not a new server"},
		{"mysql server twice", base + "dhcp: {leases: 'mysql://u@db,db:3306/x', password: db}\nsecrets: {db: 'env:DB'}\n", "not a new server"},
		{"mysql without password", base + "dhcp: {leases: 'mysql://u@db/x'}\n", "the database needs a password"},
		{"mysql password", base + "dhcp: {leases: 'mysql://u@db/x', password: hunter2}\nsecrets: {db: 'env:DB'}\n", "not the name of one of the plan's secrets"},
		{"mysql in the pool", base + "segments: {attendee: {}, server: {ipv4: 10.9.0.0/24}}\ndhcp: {leases: 'mysql://u@10.9.0.100/x', password: db}\nsecrets: {db: 'env:DB'}\n", "lies in the pool of segment server"},
		{"sync without mysql", base + "dhcp: {sync: true}\n", "sync without a shared database"},
		{"exit", base + "napt: {exit: cloud}\n", "no site cloud"},
		{"standby", base + "napt: {exit: venue, standby: venue}\n", "the same site"},
		{"ports", "event: {name: T, attendees: 50000}\nsites: {venue: {uplinks: {isp: {}}}}\n", "too few ports"},
		{"short tcp", base + "napt: {timeout: {tcp: 5m}}\n", "shorter than"},
		{"tunnel", base + "tunnel: {route: [servers]}\n", "no segment servers"},
		{"kill", base + "rehearsal: {faults: [{at: 5s, kill: gw9}]}\n", "no node \"gw9\""},
		{"cut", base + "rehearsal: {faults: [{at: 5s, cut: ips}]}\n", "no uplink \"ips\" to cut"},
		{"silence", base + "rehearsal: {faults: [{at: 5s, silence: 192.0.2.9}]}\n", "192.0.2.9 is no resolver that the plan's ask"},
		{"fault of nothing", base + "rehearsal: {faults: [{at: 5s}]}\n", "breaks 0 things"},
		{"fault of two", base + "rehearsal: {faults: [{at: 5s, kill: gw1, cut: isp}]}\n", "breaks 2 things"},
		{"ssid too long", base + "ssids: {a: {name: '012345678901234567890123456789012'}}\n", "not an SSID: 33 bytes"},
		{"secret", base + "secrets: {db: hunter2}\n", "by reference only"},
		{"interface name", base + "nodes: {gw1: {roles: [router], interfaces: {averyverylongname0: {uplink: isp}}}}\n", "not a name for an interface"},
		{"each unknown", base + "areas: {hall: {}, annex: {}}\nsegments: {attendee: {per: [area], each: {hal: {vlan: 5}}}, server: {}}\n", "has no segment hal"},
		{"per twice", base + "segments: {attendee: {per: [area, area]}}\n", "stands twice in per"},
		{"equal names", base + "areas: {hall: {}, annex: {}}\nsegments: {attendee: {per: [area]}, guest: {per: area}}\n", "both have a segment named"},
		{"group and segment", base + "areas: {hall: {}, annex: {}}\nssids: {a: {}, b: {}}\nsegments: {attendee: {per: [area]}, hall: {per: [ssid]}}\n", "a group too"},
		{"vlan of a group", base + "areas: {hall: {}, annex: {}}\nsegments: {attendee: {per: [area], vlan: 7}}\n", "can't share one vlan"},
		{"prefix of a group", base + "areas: {hall: {}, annex: {}}\nsegments: {attendee: {per: [area], ipv4: 10.0.0.0/20}}\n", "can't share one ipv4"},
		{"one /64", "event: {name: T, attendees: 100}\nsites: {venue: {uplinks: {isp: {ipv6: '2001:db8::/64'}}}}\n", "2 more have none"},
		{"reservation is a node", base + "segments: {attendee: {}, server: {ipv4: 10.9.0.0/24, reservations: {gw1: {mac: '02:00:00:00:00:01', address: 10.9.0.70}}}}\n", "already the name of node gw1"},
		{"reservation twice", base + "segments: {attendee: {}, server: {ipv4: 10.9.0.0/24, reservations: {a: {mac: '02:00:00:00:00:01', address: 10.9.0.70}, b: {mac: '02:00:00:00:00:02', address: 10.9.0.70}}}}\n", "already that of a"},
		{"local is a node", base + "resolver: {local: {gw1: 192.0.2.1}}\n", "already the name of node gw1"},
		{"local is a gateway", base + "resolver: {local: {gw.server.t.home.arpa: 192.0.2.1}}\n", "already the name of the gateway"},
		{"pool over nodes", base + "segments: {attendee: {}, server: {ipv4: 10.9.0.0/24, pool: 10.9.0.2-10.9.0.254}}\nnodes: {gw1: {roles: [router, dhcp, resolver], interfaces: {eth0: {uplink: isp}, eth1: {trunk: [attendee, server]}}}, srv1: {roles: [resolver], interfaces: {eth0: {segment: server}}}}\n", "no address left"},
		{"/29 full", base + "segments: {attendee: {}, server: {ipv4: 10.9.0.0/29}}\nnodes: {gw1: {roles: [router, dhcp, resolver], interfaces: {eth0: {uplink: isp}, eth1: {trunk: [attendee, server]}}}, a: {roles: [resolver], interfaces: {eth0: {segment: server}}}, b: {roles: [resolver], interfaces: {eth0: {segment: server}}}, c: {roles: [resolver], interfaces: {eth0: {segment: server}}}}\n", "for c"},
		{"gateway in the pool", base + "segments: {attendee: {ipv4: 10.0.0.0/22, gateway: 10.0.1.1}}\n", "lies in the pool"},
		{"static /32", "event: {name: T, attendees: 5}\nsites: {venue: {uplinks: {isp: {ipv4: 203.0.113.10, gateway: 203.0.113.1}}}}\n", "without a length"},
		{"gateway in system", "event: {name: T, attendees: 5}\nsites: {venue: {uplinks: {isp: {mode: system, gateway: 203.0.113.1}}}}\n", "mode system does not use"},
		{"address twice", "event: {name: T, attendees: 5}\nsites: {venue: {uplinks: {isp: {ipv4: [203.0.113.10, 203.0.113.10]}}}}\n", "given already"},
		{"interface and vlan", base + "segments: {attendee: {vlan: 5}}\nnodes: {gw1: {roles: [router, dhcp, resolver], interfaces: {eth0: {uplink: isp}, eth1: {trunk: [attendee]}, eth1.5: {segment: attendee}}}}\n", "two interfaces named eth1.5"},
		{"interface and bridge", base + "segments: {attendee: {vlan: 5}}\nnodes: {gw1: {roles: [router, dhcp, resolver], interfaces: {eth0: {uplink: isp}, br5: {segment: attendee}, eth1: {segment: attendee}}}}\n", "one is the bridge"},
		{"days", "event: {name: T, attendees: 5, days: 2024-01-01}\nsites: {venue: {uplinks: {isp: {}}}}\n", "event.days is a single value"},
		{"day", "event: {name: T, attendees: 5, days: {from: 1 May}}\nsites: {venue: {uplinks: {isp: {}}}}\n", "not a date"},
		{"no first day", "event: {name: T, attendees: 5, days: {to: 2024-01-01}}\nsites: {venue: {uplinks: {isp: {}}}}\n", "a last day and no first"},
		{"area twice", base + "areas: {a: {}, a: {}}\n", "an area stands twice"},
		{"SSID twice", base + "ssids: {a: {}, a: {}}\n", "an SSID stands twice"},
		{"site name+", "event: {name: T, attendees: 5}\nsites: {Venue: {uplinks: {isp: {}}}}\nnodes: {gw1: {site: Venue, roles: [router, dhcp, resolver], interfaces: {eth0: {uplink: isp}, eth1: {trunk: [attendee, server, management]}}}}\n", "not a name for a site"},
		{"SSID name", base + "ssids: {JANOG53: {}}\n", "not a name for an SSID"},
		{"other site", "event: {name: T, attendees: 5}\nsites: {venue: {uplinks: {isp: {}}}, cloud: {rtt: 9ms, uplinks: {c: {}}}}\nnodes: {gw1: {roles: [router, dhcp, resolver], interfaces: {eth0: {uplink: isp}, eth1: {trunk: [attendee, server, management]}}}, c1: {site: cloud, roles: [router, resolver], interfaces: {eth0: {uplink: c}, eth1: {segment: server}}}}\n", "and node c1 at cloud"},
		{"exit without uplink+", "event: {name: T, attendees: 5}\nsites: {venue: {}, cloud: {rtt: 9ms, uplinks: {c: {}}}}\nnodes: {gw1: {site: cloud, roles: [router, dhcp, resolver], interfaces: {eth0: {uplink: c}}}}\nsegments: {attendee: {site: cloud}}\n", "exit venue has no uplink"},
		{"exit elsewhere", "event: {name: T, attendees: 5}\nsites: {venue: {uplinks: {isp: {}}}, cloud: {rtt: 9ms, uplinks: {c: {}}}}\nnodes: {gw1: {roles: [router, dhcp, resolver], interfaces: {eth0: {uplink: isp}, eth1: {trunk: [attendee, server, management]}}}, c1: {site: cloud, roles: [router], interfaces: {eth0: {uplink: c}}}}\nnapt: {exit: cloud}\n", "not at the exit cloud"},
		{"uplink without router", base + "nodes: {gw1: {roles: [router, dhcp, resolver], interfaces: {eth1: {trunk: [attendee, server, management]}}}, s: {roles: [resolver], interfaces: {eth0: {uplink: isp}}}}\n", "does not route"},
		{"gateway without uplink", base + "nodes: {gw1: {roles: [router, dhcp, resolver], interfaces: {eth1: {trunk: [attendee, server, management]}}}, gw2: {roles: [router], interfaces: {eth0: {uplink: isp}}}}\n", "and has no uplink"},
		{"second router", base + "nodes: {gw1: {roles: [router, dhcp, resolver], interfaces: {eth0: {uplink: isp}, eth1: {trunk: [attendee, server, management]}}}, gw2: {roles: [router], interfaces: {eth1: {segment: server}}}}\n", "is not the gateway of server: gw1 is"},
		{"dns in management", base + "segments: {attendee: {dns: 10.9.0.5}, management: {ipv4: 10.9.0.0/24}}\n", "where devices of segment attendee do not get"},
		{"dns in the pool", base + "segments: {attendee: {dns: 10.9.0.99}, server: {ipv4: 10.9.0.0/24}}\n", "a device may get it"},
		{"dns over IPv6", base + "segments: {attendee: {dns: ['10.9.0.5', '2001:db8::1']}, server: {ipv4: 10.9.0.0/24}}\n", "no IPv6 to reach"},
		{"dns of many", base + "segments: {attendee: {dns: [9.9.9.1, 9.9.9.2, 9.9.9.3, 9.9.9.4]}}\n", "more than three"},
		{"dns unknown", base + "segments: {attendee: {dns: 172.16.9.9}}\n", "in no segment of the plan"},
		{"ntp over IPv6", base + "segments: {attendee: {ntp: '2001:db8::1'}}\n", "not an IPv4 address"},
		{"public suffix", "event: {name: T, attendees: 5, domain: co.jp}\nsites: {venue: {uplinks: {isp: {}}}}\n", "public suffix"},
		{"mDNS", "event: {name: T, attendees: 5, domain: conf.local}\nsites: {venue: {uplinks: {isp: {}}}}\n", "multicast DNS"},
		{"loopback prefix", base + "segments: {attendee: {ipv4: 127.0.0.0/16}}\n", "not a prefix that machines can have"},
		{"cache", base + "resolver: {cache: 5KiB}\n", "not a size for the cache"},
		{"xdp", base + "resolver: {xdp: on}\n", "not one of the known words"},
		{"table", "event: {name: T, attendees: 90000}\nsites: {venue: {uplinks: {isp: {ipv4: 198.51.100.0/24}}}}\nnapt: {timeout: {udp: 2h}}\n", "needs a table"},
		{"static gateway", "event: {name: T, attendees: 5}\nsites: {venue: {uplinks: {isp: {ipv4: 192.0.2.2/24, gateway: 198.51.100.1}}}}\n", "is not in 192.0.2.0/24"},
	} {
		name, lacking := strings.CutSuffix(c.name, "+")
		c.name = name
		_, _, faults := Parse([]byte(c.src), nil)
		found := false
		errs := 0
		for _, f := range faults {
			if f.Severity == Error {
				errs++
			}
		}
		if errs > 1 && !lacking {
			t.Errorf("%s: one mistake, %d faults: %v", c.name, len(faults), faults)
		}
		for _, f := range faults {
			if f.Line == 0 && c.src != "" {
				t.Errorf("%s: no line: %v", c.name, f)
			}
			found = found || strings.Contains(f.Words, c.words)
			if strings.Contains(f.Error()+f.Hint, "hunter2") || strings.Contains(f.Error(), "@db") {
				t.Errorf("%s: the fault shows a secret: %v", c.name, f)
			}
		}
		if !found {
			t.Errorf("%s: want a fault with %q, got %v", c.name, c.words, faults)
		}
	}
	if _, _, faults := Parse([]byte(base), nil); len(faults) != 0 {
		t.Errorf("the sound plan has faults: %v", faults)
	}
}

// All faults come at once, sorted by line, with place and hint.
func TestAllFaultsAtOnce(t *testing.T) {
	src := "event: {name: T, attendees: many}\nsites: {venue: {uplinks: {isp: {mtu: 5}}}}\nsegmants: {}\n"
	_, _, faults := Parse([]byte(src), nil)
	var b strings.Builder
	if err := faults.Format(&b, "p.yaml", []byte(src), true, false); err != nil {
		t.Fatal(err)
	}
	golden.Compare(t, "faults.txt", []byte(b.String()))
}

// ids is what must not move: VLAN ids, prefixes and node addresses by name.
func ids(p *Plan) map[string]string {
	m := map[string]string{}
	for _, s := range p.Segments {
		m[s.Name] = fmt.Sprint(s.VLAN, s.IPv4, s.IPv6)
	}
	for _, n := range p.Nodes {
		for _, a := range n.Attachments {
			if !a.Gateway {
				m[n.Name+"@"+a.Segment] = fmt.Sprint(a.IPv4, a.IPv6)
			}
		}
	}
	return m
}

func randomPlan(segments, servers []string) []byte {
	var b strings.Builder
	b.WriteString("event: {name: T, attendees: 400}\nsites: {venue: {uplinks: {isp: {ipv4: 192.0.2.9, ipv6: '2001:db8::/48'}}}}\nsegments:\n")
	for _, s := range segments {
		fmt.Fprintf(&b, "  %s: {devices: %d}\n", s, 50+len(s)*40)
	}
	fmt.Fprintf(&b, "nodes:\n  gw1: {roles: [router, dhcp, resolver], interfaces: {eth0: {uplink: isp}, eth1: {trunk: [%s]}}}\n", strings.Join(segments, ", "))
	for _, n := range servers {
		fmt.Fprintf(&b, "  %s: {roles: [resolver], interfaces: {eth0: {trunk: [%s]}}}\n", n, segments[0])
	}
	return []byte(b.String())
}

// Segments and nodes are added, removed and reordered at random; with the lock at hand,
// whatever stays keeps its numbers. (The first segment, in which the nodes are, stays.)
func TestEditsRenumberNothingElse(t *testing.T) {
	rnd := rand.New(rand.NewSource(53))
	for range 60 {
		segments, servers := []string{"server"}, []string{"a"}
		for i := range 1 + rnd.Intn(30) {
			segments = append(segments, fmt.Sprintf("s%d-%d", rnd.Intn(1000), i))
		}
		before, lock, faults := Parse(randomPlan(segments, servers), nil)
		if before == nil {
			t.Fatal(faults)
		}
		kept := append([]string{"server"}, segments[1+rnd.Intn(len(segments)):]...)
		for i := range rnd.Intn(6) {
			kept = append(kept, fmt.Sprintf("new%d-%d", rnd.Intn(1000), i))
		}
		rnd.Shuffle(len(kept)-1, func(i, j int) { kept[i+1], kept[j+1] = kept[j+1], kept[i+1] })
		again, err := ReadLock(lock.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		after, _, faults := Parse(randomPlan(kept, append([]string{"c", "b"}, servers...)), again)
		if after == nil {
			t.Fatal(faults)
		}
		old, now := ids(before), ids(after)
		for name, id := range now {
			if was, stayed := old[name]; stayed && was != id {
				t.Fatalf("%s was %s and is %s", name, was, id)
			}
		}
	}
}

func TestLockReadsBack(t *testing.T) {
	_, lock, _ := Parse([]byte(base), nil)
	again, err := ReadLock(lock.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(lock.Bytes()), string(again.Bytes())); diff != "" {
		t.Error(diff)
	}
	if _, err := ReadLock([]byte("segments: {a: {vlan: 5000, ipv4: 10.0.0.0/24}}")); err == nil {
		t.Error("a VLAN id of 5000 in the lock is accepted")
	}
}

// A segment that outgrows its locked prefix moves or grows alone.
func TestGrowthTouchesOneSegment(t *testing.T) {
	plan := func(n int) []byte {
		return fmt.Appendf(nil, "event: {name: T, attendees: 100}\nsites: {venue: {uplinks: {isp: {}}}}\nsegments: {attendee: {devices: %d}, server: {}, management: {}}\n", n)
	}
	before, lock, _ := Parse(plan(200), nil)
	after, _, faults := Parse(plan(3000), lock)
	if before == nil || after == nil {
		t.Fatal(faults)
	}
	for i, s := range after.Segments {
		if was := before.Segments[i]; s.Name != "attendee" && (s.IPv4 != was.IPv4 || s.VLAN != was.VLAN) {
			t.Errorf("%s was %v, is %v", s.Name, was.IPv4, s.IPv4)
		}
	}
	if after.Segments[0].Pool.Size() < 3000 || len(faults) != 1 || faults[0].Severity != Warning {
		t.Errorf("pool of %d, faults %v", after.Segments[0].Pool.Size(), faults)
	}
}

// Parts of a pool are disjoint and make up the whole.
func TestPoolPartsAreDisjoint(t *testing.T) {
	src, err := os.ReadFile("../../examples/janog53.yaml")
	if err != nil {
		t.Fatal(err)
	}
	p, _, faults := Parse(src, nil)
	if p == nil {
		t.Fatal(faults)
	}
	a, b := p.Node("srv1").Attachment("attendee").Pool, p.Node("srv2").Attachment("attendee").Pool
	whole := p.Segment("attendee").Pool
	if a.From != whole.From || b.To != whole.To || a.To.Next() != b.From || a.Size()+b.Size() != whole.Size() {
		t.Errorf("parts %v and %v of %v", a, b, whole)
	}
}

func FuzzParse(f *testing.F) {
	files, _ := filepath.Glob("../../examples/*.yaml")
	for _, file := range files {
		src, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(src)
	}
	for _, s := range []string{"", "a", "- a", "event: []", "a: &a [*a, *a]", "{{{{", "event: {name: \"\xff\"}", base + "segments: {a: {per: [area, area]}}", "nodes: {a: {interfaces: {'': {}}}}"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		start := time.Now()
		p, lock, faults := Parse(src, nil)
		if (p == nil) != faults.Errors() {
			t.Fatalf("plan %v with faults %v", p, faults)
		}
		if took := time.Since(start); len(src) < 4096 && took > 5*time.Second {
			t.Fatalf("%d bytes took %v", len(src), took)
		}
		if p != nil {
			if _, err := ReadLock(lock.Bytes()); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// Small prefixes, gateways at the end and pools by hand leave nodes addresses of their own.
func TestNodesStayOutOfThePool(t *testing.T) {
	for _, segment := range []string{
		"ipv4: 10.9.0.0/29", "ipv4: 10.9.0.0/28", "ipv4: 10.9.0.0/28, gateway: 10.9.0.14",
		"ipv4: 10.9.0.0/24, gateway: 10.9.0.254", "ipv4: 10.9.0.0/24, pool: 10.9.0.9-10.9.0.19", "ipv4: 10.9.0.0/24, pool: 10.9.0.2-10.9.0.199",
		"ipv4: 10.9.0.0/24, gateway: 10.9.0.7, pool: 10.9.0.100-10.9.0.199",
	} {
		src := base + "segments: {attendee: {}, server: {" + segment + "}}\nnodes:\n" +
			"  gw1: {roles: [router, dhcp, resolver], interfaces: {eth0: {uplink: isp}, eth1: {trunk: [attendee, server]}}}\n" +
			"  a: {roles: [resolver], interfaces: {eth0: {segment: server}}}\n  b: {roles: [resolver], interfaces: {eth0: {segment: server}}}\n"
		p, _, faults := Parse([]byte(src), nil)
		if p == nil {
			t.Errorf("%s: %v", segment, faults)
			continue
		}
		s, seen := p.Segment("server"), map[string]string{}
		for _, n := range p.Nodes {
			a := n.Attachment("server").IPv4.Addr()
			if s.Pool.Contains(a) || a == s.IPv4.Addr() || a == LastAddr(s.IPv4) || seen[a.String()] != "" {
				t.Errorf("%s: %s has %s; pool %v, others %v", segment, n.Name, a, s.Pool, seen)
			}
			seen[a.String()] = n.Name
		}
	}
}

// An IPv6 prefix stays while the uplink's prefix does, though the VLAN id changes.
func TestLockKeepsIPv6(t *testing.T) {
	src := "event: {name: T, attendees: 100}\nsites: {venue: {uplinks: {isp: {ipv6: '2001:db8::/48'}}}}\nsegments: {attendee: {vlan: %d}}\n"
	before, lock, _ := Parse(fmt.Appendf(nil, src, 101), nil)
	after, _, faults := Parse(fmt.Appendf(nil, src, 102), lock)
	if before == nil || after == nil {
		t.Fatal(faults)
	}
	if was, is := before.Segments[0].IPv6, after.Segments[0].IPv6; was != is {
		t.Errorf("was %v, is %v", was, is)
	}
}
