package kea

import (
	"regexp"
	"strings"
)

// advice is what to say of a setting that nothing carries.
type advice struct {
	kind  Kind
	words string
}

var indices = regexp.MustCompile(`\[\d+\]`)

// generic is a path without the numbers in it: "$.Dhcp4.subnet4[].relay".
func generic(path string) string { return indices.ReplaceAllString(path, "[]") }

// adviceFor is what the longest known end of the value's path says, unless the value says
// that there is nothing to carry.
func adviceFor(v *value) advice {
	a := adviceForPath(v.path)
	if a.kind != NotCarried {
		return a
	}
	switch {
	case v.empty():
		return advice{NotNeeded, "nothing is set here"}
	case strings.HasSuffix(v.path, ".match-client-id"):
		if v.is("true") {
			a.kind = NotNeeded
		}
	case v.is("false"):
		return advice{NotNeeded, "it is off"}
	}
	return a
}

// empty tells whether nothing is set by the value, as in what Kea's config-get prints.
func (v *value) empty() bool {
	switch v.kind {
	case text:
		return v.text == "" || v.text == "0.0.0.0"
	case null:
		return true
	case array, object:
		for _, i := range v.items {
			if !i.empty() {
				return false
			}
		}
		for _, m := range v.members {
			if !m.val.empty() {
				return false
			}
		}
		return true
	}
	return false
}

func adviceForPath(path string) advice {
	parts := strings.Split(generic(path), ".")
	for i, p := range parts {
		if strings.TrimSuffix(p, "[]") == "user-context" && i < len(parts)-1 {
			return advices["user-context"]
		}
	}
	for i := range parts {
		if a, ok := advices[strings.Join(parts[i:], ".")]; ok {
			return a
		}
	}
	return advice{NotCarried, "Hotstage does not know this setting of Kea"}
}

const (
	noClasses   = "a plan has no client classes: devices of one kind get a segment of their own, by SSID or port"
	noBoot      = "Hotstage has no network boot: boot such machines in a segment whose DHCP is another server"
	noDDNS      = "Hotstage's resolver answers for devices by itself, NAME.DOMAIN, without updates to a DNS server"
	itsDatabase = "leases are in one file on the node, leases.db; carry Kea's over with --leases (from a database: kea-admin lease-dump)"
	itsLeases   = "a lease that ended is kept for its device until another needs the address"
	itsHosts    = "carry the reservations of the database over by hand, to reservations: of each segment"
	itsTimers   = "devices renew at half of their lease and rebind at seven eighths (RFC 2131 section 4.4.5)"
	oneLease    = "a segment has one lease time; devices do not choose"
	itsOwn      = "an affair of Kea's own"
)

// advices say what becomes of settings, by the end of their path.
var advices = map[string]advice{
	"comment":      {NotNeeded, "a note for people; it stays in Kea's file"},
	"user-context": {NotNeeded, "a note for people or programs; it stays in Kea's file"},

	// Where leases and reservations are.
	"lease-database":            {NotNeeded, itsDatabase},
	"hosts-database":            {NotCarried, itsHosts},
	"hosts-databases":           {NotCarried, itsHosts},
	"config-control":            {NotCarried, "the plan is the one place of the configuration: what is in the database is not in it"},
	"server-tag":                {NotNeeded, "it tells servers of a database apart; in a plan each node has its name"},
	"sanity-checks":             {NotNeeded, itsOwn + ": Hotstage checks its leases when it starts"},
	"expired-leases-processing": {NotNeeded, itsLeases},
	"cache-threshold":           {NotNeeded, "a device that asks again within a 32nd of its lease gets what is left, without a write"},
	"cache-max-age":             {NotNeeded, "a device that asks again within a 32nd of its lease gets what is left, without a write"},
	"decline-probation-period":  {NotCarried, "an address that a device found in use rests for 10 minutes"},
	"store-extended-info":       {NotCarried, "leases do not keep what relays said"},

	// How long.
	"min-valid-lifetime":  {NotCarried, oneLease},
	"max-valid-lifetime":  {NotCarried, oneLease},
	"renew-timer":         {NotCarried, itsTimers},
	"rebind-timer":        {NotCarried, itsTimers},
	"calculate-tee-times": {NotNeeded, itsTimers},
	"t1-percent":          {NotCarried, itsTimers},
	"t2-percent":          {NotCarried, itsTimers},

	// Who is who.
	"host-reservation-identifiers":     {NotNeeded, "a plan reserves by MAC address or client identifier"},
	"match-client-id":                  {NotCarried, "a device is known by the identifier it sends, else by its MAC address; one with a reservation by its MAC address alone"},
	"echo-client-id":                   {NotNeeded, "the identifier is sent back to who sent one (RFC 6842)"},
	"authoritative":                    {NotNeeded, "Hotstage is the authority of its segments: who asks for an address of another network is told NAK"},
	"ip-reservations-unique":           {NotNeeded, "an address is reserved for one device"},
	"reservation-mode":                 {NotNeeded, "reservations of a segment always count, in the pool or not"},
	"reservations-global":              {NotNeeded, "a reservation belongs to the segment of its address"},
	"reservations-in-subnet":           {NotNeeded, "reservations of a segment always count, in the pool or not"},
	"reservations-out-of-pool":         {NotNeeded, "reservations of a segment always count, in the pool or not"},
	"reservations-lookup-first":        {NotNeeded, "reservations are looked up first"},
	"early-global-reservations-lookup": {NotNeeded, "a reservation belongs to the segment of its address"},
	"client-classes":                   {NotCarried, noClasses},
	"client-class":                     {NotCarried, noClasses},
	"require-client-classes":           {NotCarried, noClasses},
	"reservations[].client-id":         {NotCarried, "its hw-address counts; a plan reserves by one of the two"},
	"reservations[].duid":              {NotCarried, "a plan reserves by MAC address, here hw-address"},
	"reservations[].circuit-id":        {NotCarried, "a plan reserves by MAC address, here hw-address; give the port a segment of its own"},
	"reservations[].flex-id":           {NotCarried, "a plan reserves by MAC address, here hw-address"},
	"reservations[].option-data":       {NotCarried, "options are those of the segment: give the device a segment of its own"},

	// Options.
	"option-def":                {NotCarried, "a plan has no options of your own making; what it has says doc/dhcp-options.md"},
	"option-data[].always-send": {NotNeeded, "a device gets the options it asks for, and who names none gets all"},
	"option-data[].never-send":  {NotCarried, "a device gets the options of the segment that it asks for"},
	"next-server":               {NotCarried, noBoot},
	"server-hostname":           {NotCarried, noBoot},
	"boot-file-name":            {NotCarried, noBoot},
	"offer-lifetime":            {NotNeeded, "an offered address is kept for its device for 20 s"},

	// Where it listens, and relays.
	"interfaces-config":               {NotNeeded, "Hotstage serves where the plan has the node"},
	"dhcp-socket-type":                {NotNeeded, "Hotstage listens to UDP and answers with raw frames where a device has no address yet"},
	"outbound-interface":              {NotNeeded, "an answer goes out where the question came in"},
	"re-detect":                       {NotNeeded, "an interface that comes later is served when it comes"},
	"service-sockets-max-retries":     {NotNeeded, "an interface that comes later is served when it comes"},
	"service-sockets-require-all":     {NotNeeded, "an interface that comes later is served when it comes"},
	"service-sockets-retry-wait-time": {NotNeeded, "an interface that comes later is served when it comes"},
	"relay":                           {NotCarried, "where the segment's gateway is a node of the plan, it relays by itself; else write the relay's address under relays: of the segment by hand"},
	"dhcp4o6-port":                    {NotCarried, "there is no DHCPv4 over DHCPv6"},
	"4o6-interface":                   {NotCarried, "there is no DHCPv4 over DHCPv6"},
	"4o6-interface-id":                {NotCarried, "there is no DHCPv4 over DHCPv6"},
	"4o6-subnet":                      {NotCarried, "there is no DHCPv4 over DHCPv6"},
	"pool-id":                         {NotNeeded, "it is for Kea's statistics"},
	"allocator":                       {NotNeeded, "a device gets the address it had, else the one that was free the longest"},

	// DNS updates and host names.
	"dhcp-ddns":                    {NotNeeded, noDDNS},
	"ddns-send-updates":            {NotNeeded, noDDNS},
	"ddns-override-no-update":      {NotNeeded, noDDNS},
	"ddns-override-client-update":  {NotNeeded, noDDNS},
	"ddns-replace-client-name":     {NotCarried, "a device has the name it says, made safe for DNS"},
	"ddns-generated-prefix":        {NotCarried, "a device that says no name has none"},
	"ddns-qualifying-suffix":       {NotCarried, "names are in the segment's domain: domain: in the plan"},
	"ddns-update-on-renew":         {NotNeeded, noDDNS},
	"ddns-use-conflict-resolution": {NotNeeded, noDDNS},
	"hostname-char-set":            {NotNeeded, "what is no letter or digit of a device's name becomes a hyphen"},
	"hostname-char-replacement":    {NotNeeded, "what is no letter or digit of a device's name becomes a hyphen"},

	// The program.
	"hooks-libraries":                {NotCarried, "Hotstage loads no libraries: for high availability give a second node the role dhcp, for control there is hotstage status"},
	"control-socket":                 {NotNeeded, "a node has a control socket of its own: hotstage status, hotstage leases"},
	"loggers":                        {NotNeeded, "a node writes events to standard error, which systemd keeps"},
	"multi-threading":                {NotNeeded, itsOwn + ": Hotstage uses what processors there are"},
	"dhcp-queue-control":             {NotNeeded, itsOwn + ": every client has a share of a bounded queue"},
	"parked-packet-limit":            {NotNeeded, itsOwn + ": every queue is bounded"},
	"statistic-default-sample-count": {NotNeeded, itsOwn + ": metrics are on the control socket, /metrics"},
	"statistic-default-sample-age":   {NotNeeded, itsOwn + ": metrics are on the control socket, /metrics"},
	"compatibility":                  {NotCarried, "workarounds for broken clients are not carried: rehearse with such a device"},

	// The other servers of a configuration that holds several.
	"$.Dhcp6":         {NotCarried, "Hotstage announces IPv6 by router advertisements, from the uplink's prefix in the plan"},
	"$.DhcpDdns":      {NotNeeded, noDDNS},
	"$.Control-agent": {NotNeeded, "a node has a control socket of its own: hotstage status, hotstage leases"},
	"$.Logging":       {NotNeeded, "a node writes events to standard error, which systemd keeps"},
}
