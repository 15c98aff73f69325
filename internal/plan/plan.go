// Package plan says what the venue shall be. It reads the plan file, finds every fault in
// it with its line, and derives all that the file leaves unsaid: VLAN ids, prefixes, pools,
// gateways, lease times, names and budgets. It is pure: no network, no clock, no files but
// those it is handed.
package plan

import (
	"net"
	"net/netip"
	"time"
)

// Plan is a checked plan with everything derived. It is read-only after Parse; slices are
// in the order of the file, derived ones in a stable order.
type Plan struct {
	Event     Event
	Sites     []Site
	Areas     []Area
	SSIDs     []SSID
	Segments  []Segment
	Nodes     []Node
	DHCP      DHCP
	Resolver  Resolver
	NTP       NTP
	NAPT      NAPT
	Tunnel    Tunnel
	Rehearsal Rehearsal
	Secrets   map[string]Secret // by name; references only, never values
	Limits    Limits
	Hash      string // hex SHA-256 of the plan's source, to tell two nodes' plans apart
}

// Event is the conference itself.
type Event struct {
	Name                string
	Slug                string // Name in [a-z0-9-], for file names and defaults
	Domain              string // without a trailing dot; "<slug>.home.arpa" unless given
	Location            *time.Location
	From, To            time.Time // midnight in Location of the first day and of the last; zero when not given
	Attendees           int
	DevicesPerAttendee  float64
	SessionsPerAttendee int // NAPT sessions per attendee at a 30 s UDP timer
}

// Devices is how many devices are expected on all attendee segments together.
func (e Event) Devices() int { return int(float64(e.Attendees)*e.DevicesPerAttendee + 0.5) }

// Site is a place with uplinks: the venue, a cloud.
type Site struct {
	Name    string
	RTT     time.Duration // round trip from the first site; 0 for the first site itself
	Uplinks []Uplink
}

// UplinkMode is how an uplink's interface gets its addresses.
type UplinkMode string

// The modes of an uplink.
const (
	UplinkStatic UplinkMode = "static" // we set the addresses and the default route
	UplinkDHCP   UplinkMode = "dhcp"   // we run a DHCP client on it
	UplinkSystem UplinkMode = "system" // the system set it up (PPPoE's ppp0, a cloud's eth0); we read it
)

// Uplink is a way from a site to the internet.
type Uplink struct {
	Name string
	Site string
	Mode UplinkMode
	// IPv4 is what the plan gives: addresses (as /32) and prefixes, all ours to use.
	IPv4 []netip.Prefix
	// Address4 and Gateway4 are the interface's own address and its next hop (static only).
	Address4 netip.Prefix
	Gateway4 netip.Addr
	// IPv6 is the prefix delegated to the site by this uplink; invalid without IPv6.
	IPv6     netip.Prefix
	Address6 netip.Prefix // static only, may be invalid: link-local is enough
	Gateway6 netip.Addr   // static only
	// Bandwidth is in bits per second; 0 when not given.
	Bandwidth int64
	MTU       int // bytes; 1500 unless given
}

// Addresses4 lists the IPv4 addresses that the uplink has for NAPT: every given address,
// and of a given prefix all hosts but network, broadcast and gateway. Empty in mode dhcp
// without a given address: then the address of the interface is used at run time.
func (u Uplink) Addresses4() []netip.Addr {
	var all []netip.Addr
	for _, p := range u.IPv4 {
		if p.Bits() >= 31 { // RFC 3021: both addresses of a /31 are hosts
			for a := p.Masked().Addr(); p.Contains(a); a = a.Next() {
				if a != u.Gateway4 {
					all = append(all, a)
				}
			}
			continue
		}
		last := LastAddr(p)
		for a := p.Masked().Addr().Next(); a.Less(last); a = a.Next() {
			if a != u.Gateway4 {
				all = append(all, a)
			}
		}
	}
	return all
}

// LastAddr is the highest address of p (the broadcast address of an IPv4 prefix).
func LastAddr(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// Area is a group of rooms that share segments.
type Area struct {
	Name  string
	Rooms []string
	Share float64 // of the attendees, 0..1
}

// SSID is a wireless network's name.
type SSID struct {
	Name  string  // in the plan: a DNS label, part of the names of segments
	OnAir string  // as access points send it; Name unless given
	Band  string  // "2.4GHz", "5GHz", "6GHz" or empty
	Share float64 // of the devices, 0..1
}

// Class is what a segment is for; isolation and defaults follow from it.
type Class string

// The classes of a segment.
const (
	Attendee   Class = "attendee"   // may reach the services and the internet, nothing else
	Server     Class = "server"     // our own servers
	Management Class = "management" // switches, access points; no attendee gets there
	Staff      Class = "staff"      // people we trust: reaches all segments
)

// Segment is one L2 broadcast domain.
type Segment struct {
	Name     string // "hall-yapc2013": of a segment with per, the parts joined by "-"
	Group    string // the key in the plan's segments, "attendee"
	Class    Class
	Site     string
	Area     string // empty unless the group is per area
	SSID     string // empty unless the group is per SSID: the SSID's name in the plan
	OnAir    string // that SSID as access points send it
	VLAN     int    // 1..4094
	Isolate  bool   // devices within it cannot reach each other
	IPv4     netip.Prefix
	Gateway4 netip.Addr
	IPv6     netip.Prefix // a /64, or invalid: then the segment has no IPv6
	Gateway6 netip.Addr   // global address of the gateway; RA announces its link-local
	Pool     Range        // addresses for dynamic leases; handed out where a node has a part of it (Attachment.Pool)
	Devices  int          // expected
	Lease    time.Duration
	Domain   string // of the devices' names; DHCP option 15
	// Search is what devices complete short names with, by DHCP and RA; never empty.
	Search []string
	// Services reachable from the segment, nearest first, at most 3 of each.
	DNS4, DNS6   []netip.Addr
	Service      *ServiceAddress `json:",omitempty"` // nil where no two resolvers share an address
	NTP4         []netip.Addr
	Reservations []Reservation
	Relays       []netip.Addr // DHCP relays in the segment that are not of the plan's nodes
	Servers      []string     // nodes that give addresses, in it or by its gateway's relay (Node.Relayed)
	// What more DHCP gives; zero values are not given.
	IPv6Only      time.Duration // how long devices that can do without IPv4 shall (RFC 8925)
	NAT64         netip.Prefix  // by which they reach IPv4 hosts (RFC 6052)
	CaptivePortal string        // the portal's API, or NoPortal (RFC 8910); RA gives it too
	Routes        []Route       // beside the default route (RFC 3442)
	MTU           int           // bytes; RA gives it too
	EncryptedDNS  []EncryptedDNS
}

// NoPortal says that there is no captive portal (RFC 8910 section 2).
const NoPortal = "urn:ietf:params:capport:unrestricted"

// Route is a way to a network that does not lead by the gateway.
type Route struct {
	To  netip.Prefix
	Via netip.Addr // in the segment
}

// EncryptedDNS is a resolver that is asked by DNS over TLS, HTTPS or QUIC (RFC 9463). The
// order of the plan is the order of preference.
type EncryptedDNS struct {
	Name      string       // its certificate is for this name
	Addresses []netip.Addr // IPv4
	ALPN      []string     // dot, doq, h2, h3
	Port      int          // 0: the protocol's own
	Path      string       // URI template of DNS over HTTPS; "" without h2 and h3
}

// Range is the addresses From to To, both included.
type Range struct{ From, To netip.Addr }

// IsValid tells whether the range has any address.
func (r Range) IsValid() bool { return r.From.IsValid() && r.To.IsValid() && !r.To.Less(r.From) }

// Contains tells whether a lies in the range.
func (r Range) Contains(a netip.Addr) bool {
	return r.IsValid() && !a.Less(r.From) && !r.To.Less(a)
}

// Size is the number of addresses; IPv4 only.
func (r Range) Size() int {
	if !r.IsValid() {
		return 0
	}
	return int(u32(r.To)-u32(r.From)) + 1
}

func u32(a netip.Addr) uint32 {
	b := a.As4()
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

// Reservation gives one device always the same address. The device is known by exactly one
// of MAC and ClientID.
type Reservation struct {
	Name     string // becomes <name>.<domain>
	MAC      net.HardwareAddr
	ClientID []byte // DHCP's option 61 as it goes on the wire, 2 to 255 bytes
	Addr     netip.Addr
}

// Device is how the reservation knows its device, for people.
func (r Reservation) Device() string {
	if len(r.ClientID) > 0 {
		return "client_id " + clientIDWords(r.ClientID)
	}
	return r.MAC.String()
}

// Role is a service that a node gives.
type Role string

// The roles of a node.
const (
	RoleRouter   Role = "router"
	RoleDHCP     Role = "dhcp"
	RoleResolver Role = "resolver"
	RoleNTP      Role = "ntp"
	RoleSyslog   Role = "syslog"
	RoleMonitor  Role = "monitor"
)

// Node is a machine of ours.
type Node struct {
	Name        string
	FQDN        string // without a trailing dot
	Site        string
	Roles       []Role
	Interfaces  []Interface
	Attachments []Attachment // one per segment the node has an interface in, in plan order
	Relayed     []Relayed    `json:",omitempty"` // segments that it gives addresses in by their gateway's relay
}

// Has tells whether the node has the role.
func (n *Node) Has(r Role) bool {
	for _, x := range n.Roles {
		if x == r {
			return true
		}
	}
	return false
}

// Attachment of the node to the named segment, or nil.
func (n *Node) Attachment(segment string) *Attachment {
	for i := range n.Attachments {
		if n.Attachments[i].Segment == segment {
			return &n.Attachments[i]
		}
	}
	return nil
}

// Interface is a network interface of a node: exactly one of Uplink, Segment and Trunk is set.
type Interface struct {
	Name    string
	Uplink  string   // name of an uplink of the node's site
	Segment string   // untagged
	Trunk   []string // names of segments (groups expanded), 802.1Q tagged with their VLAN ids
}

// Attachment is a node's place in one segment.
type Attachment struct {
	Segment string
	Device  string       // the link that has the addresses: the only port's, or a bridge "br<vlan>" over several
	Ports   []Port       // in plan order
	IPv4    netip.Prefix // this node's own address with the segment's length
	IPv6    netip.Prefix // invalid without IPv6
	Gateway bool         // this node has the segment's gateway addresses: IPv4 is Gateway4, IPv6 is Gateway6
	Pool    Range        // the part of the segment's pool that this node's DHCP hands out; parts are disjoint
}

// Port is one interface's part in a segment.
type Port struct {
	Device string // "eth1.101", or the interface itself when untagged
	Parent string // the trunk's interface, "" when untagged
	VLAN   int    // 0 when untagged
}

// DHCP is what the plan says of address service.
type DHCP struct {
	Leases string  // "sqlite", or "mysql": on each node in sqlite, and from there in the Shared database
	Shared *Shared `json:",omitempty"` // of mysql only
}

// Shared is the database that nodes share.
type Shared struct {
	Servers  []string // host:port, in the order in which they are tried
	User     string
	Database string
	Password string // name of a secret of the plan
	Sync     bool   // an ACK waits for it too, for a bounded time
}

// Resolver is what the plan says of name service.
type Resolver struct {
	Ask        []Asked  // resolvers to ask; with Unbound, when that is not well
	Unbound    bool     // each resolver node has Unbound as its child
	Health     []string // names that prove a resolver well; none: the root's and of top-level domains
	Cache      int64    // bytes
	ClientRate int      // queries per second of one client address
	XDP        bool     // hot answers leave before the socket where that can be
	VRRP       *VRRP    `json:",omitempty"` // nil when nodes share no service address
	Names      []Name   // of the event: nodes, gateways, services, reservations
	Encrypted  Encrypted
	Log        float64  `json:",omitempty"` // share of the queries that is logged, 0 to 1
	Block      []string `json:",omitempty"` // names that are not to resolve, nor what is below them
}

// Name is one of the event's own names.
type Name struct {
	FQDN string // without a trailing dot
	Addr netip.Addr
}

// NTP is what the plan says of time.
type NTP struct {
	Sources []string // host names or addresses
}

// NAPT is what the plan says of address translation.
type NAPT struct {
	Exit    string // site whose uplinks are used
	Standby string // site it can be moved to, or ""
	// Addresses are the exit's addresses; empty when only known at run time (mode dhcp).
	Addresses []netip.Addr
	Timeouts  Timeouts
	Use       float64 // share of the table that the expected sessions may fill, 0..1
	Sessions  int     // expected at the peak
	Table     int     // conntrack entries needed: Sessions / Use
}

// Timeouts are conntrack timers per protocol and state.
type Timeouts struct {
	UDP            time.Duration // unreplied and replied within 2 s of the first packet
	UDPStream      time.Duration
	TCPEstablished time.Duration
	TCPTransitory  time.Duration // half open or half closed: SYN_SENT, FIN_WAIT and so on
	TCPClosed      time.Duration // both sides have closed, or one has reset: TIME_WAIT and CLOSE
	ICMP           time.Duration
}

// Tunnel is what the plan says of the path between sites.
type Tunnel struct {
	Route   []string // segments routed over it
	Stretch []string // segments carried as tagged frames
}

// Rehearsal is the scenario that `hotstage rehearse` plays unless flags say otherwise.
type Rehearsal struct {
	People int           // 0: the event's attendees
	Doors  time.Duration // in which all devices arrive
	Stay   time.Duration // from the last arrival until people leave
	Seed   int64
	Faults []RehearsalFault // sorted by At
}

// RehearsalFault is something that the rehearsal breaks on purpose: exactly one of Kill, Cut, Silence
// and Outage.
type RehearsalFault struct {
	At      time.Duration // after the doors open
	Kill    string        // name of the node that is killed (SIGKILL)
	Cut     string        // name of the uplink that loses its carrier
	Silence netip.Addr    // resolver outside that takes questions and says nothing
	Outage  bool          // all devices lose their link at once and ask anew within For
	For     time.Duration // until the node is started or the uplink is back
}

// Limits are the host's limits that a node needs, from the plan's numbers.
type Limits struct {
	Neighbours int // entries of the neighbour table (net.ipv4.neigh.default.gc_thresh3)
	Conntrack  int // net.netfilter.nf_conntrack_max
}

// Secret is a reference to a secret: never its value.
type Secret struct {
	Env  string // name of an environment variable, or
	File string // path of a file whose first line it is
}

// Segment by name, or nil.
func (p *Plan) Segment(name string) *Segment {
	for i := range p.Segments {
		if p.Segments[i].Name == name {
			return &p.Segments[i]
		}
	}
	return nil
}

// Node by name, or nil.
func (p *Plan) Node(name string) *Node {
	for i := range p.Nodes {
		if p.Nodes[i].Name == name {
			return &p.Nodes[i]
		}
	}
	return nil
}

// Site by name, or nil.
func (p *Plan) Site(name string) *Site {
	for i := range p.Sites {
		if p.Sites[i].Name == name {
			return &p.Sites[i]
		}
	}
	return nil
}

// Uplink of a site by name, or nil.
func (p *Plan) Uplink(site, name string) *Uplink {
	s := p.Site(site)
	if s == nil {
		return nil
	}
	for i := range s.Uplinks {
		if s.Uplinks[i].Name == name {
			return &s.Uplinks[i]
		}
	}
	return nil
}
