package plan

import (
	"encoding/json"
	"fmt"
	"maps"
	"time"
)

// object is a JSON object.
type object = map[string]any

// SchemaID names the schema of the plan file.
const SchemaID = "https://hotstage.example/plan.schema.json"

// Schema is the JSON Schema (draft 2020-12) of the plan file, for editors that complete and
// explain. It knows the shape; what depends on more than one value is for Parse to find.
func Schema() []byte {
	s := keys("The plan of an event's network: hotstage check finds its faults, hotstage show tells what it comes to.", object{
		"event":     schemaEvent(),
		"sites":     named("Places with uplinks. The first is where the people are.", schemaSite()),
		"areas":     named("Rooms near each other, which share segments so that nobody's connection breaks on the way. Default: one area with everybody.", schemaArea()),
		"ssids":     named("Wireless networks. An access point maps one SSID to one VLAN. Default: one, named after the event.", schemaSSID()),
		"segments":  named("Layer 2 broadcast domains, or groups of them. Default: attendee, server, management.", schemaGroup()),
		"nodes":     named("Our machines. Default: gw1 with the roles router, dhcp and resolver, eth0 the uplink, eth1 a trunk of all segments.", schemaNode()),
		"dhcp":      schemaDHCP(),
		"resolver":  schemaResolver(),
		"ntp":       keys("Time.", object{"sources": listOf("Where our NTP nodes get the time from.", text("A host name or address.", "ntp.nict.jp"))}),
		"napt":      schemaNAPT(),
		"tunnel":    keys("The path between the sites.", object{"route": listOf("Segments routed over it.", reference("A segment or group.")), "stretch": listOf("Segments carried over it as tagged frames.", reference("A segment or group."))}),
		"rehearsal": schemaRehearsal(),
		"secrets":   named("Secrets, by reference only.", pattern("Where the secret is: never the secret itself.", `^(env:.+|file:/.+)$`, "env:NETBOX_TOKEN", "file:/etc/hotstage/token")),
	})
	s["$schema"], s["$id"], s["title"] = "https://json-schema.org/draft/2020-12/schema", SchemaID, "Hotstage plan"
	s["required"] = []string{"event", "sites"}
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil { // maps of strings and numbers always marshal
		return nil
	}
	return append(text, '\n')
}

func schemaEvent() object {
	e := keys("The conference itself.", object{
		"name":     text("Its name, in any script.", "YAPC::Asia Tokyo 2013"),
		"domain":   text("The domain whose names we answer: gw1.DOMAIN and so on. Default: <name>.home.arpa (RFC 8375).", "conf.example"),
		"timezone": with(text("IANA time zone.", "Asia/Tokyo"), "default", "UTC"),
		"days": keys("First and last day.", object{
			"from": pattern("The first day.", `^\d{4}-\d{2}-\d{2}$`, "2026-05-01"),
			"to":   pattern("The last day. Default: the first.", `^\d{4}-\d{2}-\d{2}$`, "2026-05-02"),
		}),
		"attendees":             whole("People expected; every size follows from it.", 1, 100_000, nil, 3000),
		"devices_per_attendee":  object{"description": "Devices each of them brings.", "type": "number", "minimum": 0.1, "maximum": 10, "default": 2},
		"sessions_per_attendee": whole("NAPT sessions of each at a UDP timer of 30 s.", 1, 1000, 25),
	})
	e["required"] = []string{"name", "attendees"}
	return e
}

func schemaSite() object {
	return keys("A site.", object{
		"rtt": duration("Round trip from the first site.", 0, 2*time.Second, "0s", "20ms"),
		"uplinks": named("Ways to the internet.", keys("An uplink. {} gets its address by DHCP.", object{
			"mode":      enum("How its interface gets addresses: static (we set them), dhcp, or system (set up already, as PPPoE's ppp0). Default: static with a gateway, dhcp without ipv4, else system.", nil, string(UplinkStatic), string(UplinkDHCP), string(UplinkSystem)),
			"ipv4":      listOf("Addresses that are ours, for NAPT too: addresses, an address with its length, or networks. In mode static the first is the interface's.", text("An address or network.", "203.0.113.10", "203.0.113.10/24", "198.51.100.8/29")),
			"gateway":   text("IPv4 next hop (static).", "203.0.113.1"),
			"ipv6":      text("The prefix delegated to the site, /32 to /64; each segment gets a /64 of it.", "2001:db8::/48"),
			"address6":  text("The interface's IPv6 address with its length (static).", "2001:db8:ffff::2/64"),
			"gateway6":  text("IPv6 next hop (static).", "fe80::1"),
			"bandwidth": pattern("In bits per second.", `^[0-9.]+ ?(kbps|Mbps|Gbps)$`, "1Gbps"),
			"mtu":       whole("In bytes.", 1280, 9216, 1500, 1454),
		})),
	})
}

func schemaArea() object {
	return keys("An area.", object{
		"rooms": listOf("Its rooms, for people to read.", text("A room.", "Main Hall")),
		"share": share("Of the attendees. Default: an equal part of what is left."),
	})
}

func schemaSSID() object {
	return keys("A wireless network.", object{
		"name":  text("As access points send it, up to 32 bytes. Default: the key.", "RubyKaigi"),
		"band":  enum("Its band.", nil, "2.4GHz", "5GHz", "6GHz"),
		"share": share("Of the devices. Default: an equal part of what is left."),
	})
}

// segmentSchema is the keys that a group has and each of its segments may have.
func segmentSchema() object {
	known := object{
		"class":   enum("What it is for. Default: by its name, else attendee. Attendees reach the services and the internet only; nobody but staff reaches management.", nil, string(Attendee), string(Server), string(Management), string(Staff)),
		"site":    reference("Its site. Default: the first."),
		"isolate": object{"description": "Devices in it cannot reach each other. Default: true for attendees, else false.", "type": "boolean"},
		"vlan":    whole("802.1Q VLAN id. Default: server 10, management 20, staff 30, others 100 to 999 by name.", 1, 4094, nil, 101),
		"ipv4":    text("IPv4 prefix, /8 to /29. Default: in 10.0.0.0/8 by name, a third more addresses than devices.", "10.53.0.0/19"),
		"ipv6":    text("IPv6 prefix, a /64. Default: a /64 of the uplink's prefix with the VLAN id's digits.", "2001:db8:0:101::/64"),
		"gateway": text("IPv4 address of the gateway. Default: the first host.", "10.53.0.1"),
		"pool":    text("Addresses for leases: FIRST-LAST. Default: all but the first 64 hosts (a quarter of a small prefix).", "10.53.0.64-10.53.31.254"),
		"lease":   duration("Lease time. Default: 1h for attendees, 12h elsewhere.", 2*time.Minute, 7*24*time.Hour, nil, "1h"),
		"domain":  text("Search domain. Default: the event's.", "conf.example"),
		"dns":     listOf("Resolvers, up to 3 of each family. Default: nodes with the role resolver in the segment, then in server segments of its site.", text("An address.", "10.53.0.1")),
		"ntp":     listOf("Time servers, up to 3.", text("An IPv4 address.", "10.53.0.1")),
		"dhcp":    listOf("Nodes with role dhcp that give addresses in it: in it, or by its gateway's relay. Default: those in it, else those in a server segment of its gateway.", reference("A node.")),
		"relays":  listOf("DHCP relays in the segment, such as a layer 3 switch, whose requests are served.", text("The relay's IPv4 address in the segment (giaddr).", "10.53.0.2")),
		"service": listOf("The address that its resolvers share, IPv4 and IPv6. Default: by the segment's name, where two or more resolver nodes are in it.", text("An address outside the pool.", "10.53.0.10")),
		"devices": whole("Devices expected. Default: from attendees and shares; 100 for our own machines.", 1, 1_000_000, nil, 200),
		"reservations": named("Devices that always get the same address.", keys("A device.", object{
			"mac":       pattern("Its MAC address; or client_id.", `^[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}$`, "02:00:5e:10:00:01"),
			"client_id": pattern("Its DHCP client identifier (option 61), hexadecimal with colons or text:NAME; or mac.", `^([0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2})+|text:.+)$`, "01:02:00:5e:10:00:01", "text:lobby-screen"),
			"address":   text("Its IPv4 address, in the segment.", "10.9.0.70"),
		})),
	}
	maps.Copy(known, optionSchema())
	return known
}

// optionSchema is what DHCP gives beside the usual.
func optionSchema() object {
	return object{
		"ipv6_only":      duration("How long devices that can do without IPv4 shall (RFC 8925).", leastIPv6Only, 7*24*time.Hour, nil, "30m"),
		"nat64":          text("The prefix by which devices without IPv4 reach IPv4 hosts, /32 to /64 or /96 (RFC 6052).", "64:ff9b::/96"),
		"captive_portal": pattern("The API of the captive portal (RFC 8910), or none: there is no portal, and devices need not look for one.", `^(https://.+|none|urn:ietf:params:capport:unrestricted)$`, "https://portal.conf.example/capport", "none"),
		"search":         listOf("What devices complete short names with, up to 6. Default: domain.", text("A domain.", "conf.example")),
		"routes": object{"description": "Networks that are not reached by the gateway, and the router in the segment that leads there, up to 16.", "type": []string{"object", "null"},
			"propertyNames": object{"pattern": `^[0-9.]+/[0-9]+$`, "examples": []string{"10.20.0.0/16"}}, "additionalProperties": text("An IPv4 address in the segment.", "10.9.0.5")},
		"mtu": whole("The largest packet that devices shall send, in bytes.", 1280, segmentMTU, nil, 1454),
		"encrypted_dns": listOf("Resolvers by DNS over TLS, HTTPS or QUIC, the best first, up to 3 (RFC 9463).", keys("A resolver.", object{
			"name":      text("The name that its certificate is for.", "dns.conf.example"),
			"addresses": listOf("Its IPv4 addresses.", text("An IPv4 address.", "10.9.0.53")),
			"alpn":      listOf("How it is asked. Default: dot.", enum("A protocol.", nil, "dot", "doq", "h2", "h3")),
			"port":      whole("Its port. Default: the protocol's own.", 1, 65535, nil, 8853),
			"path":      text("URI template of DNS over HTTPS. Default with h2 or h3: /dns-query{?dns}.", "/dns-query{?dns}"),
		})),
	}
}

func schemaGroup() object {
	known := segmentSchema()
	known["per"] = listOf("Makes one segment for each area, SSID, or pair of them, named area-ssid.", enum("What to split by.", nil, "area", "ssid"))
	known["each"] = named("What one of the group's segments has of its own, by the segment's name.", keys("A segment of the group.", segmentSchema()))
	return keys("A segment or a group of segments.", known)
}

func schemaNode() object {
	iface := keys("An interface: exactly one of uplink, segment and trunk.", object{
		"uplink":  reference("An uplink of the node's site."),
		"segment": reference("A segment, untagged."),
		"trunk":   listOf("Segments and groups, 802.1Q tagged with their VLAN ids.", reference("A segment or group.")),
	})
	return keys("A machine.", object{
		"site":  reference("Its site. Default: the first."),
		"roles": listOf("What it does.", enum("A role.", nil, string(RoleRouter), string(RoleDHCP), string(RoleResolver), string(RoleNTP), string(RoleSyslog), string(RoleMonitor))),
		"interfaces": object{"description": "Its network interfaces by the names that Linux has for them.", "type": []string{"object", "null"},
			"propertyNames": object{"pattern": `^[^/ :]{1,15}$`}, "additionalProperties": iface},
	})
}

func schemaDHCP() object {
	return keys("Address service.", object{
		"leases": with(pattern("Where leases are kept: in one file on each node (sqlite), or in such a file and from there in a database that the nodes share (MySQL, MariaDB, Galera; several servers are tried in turn).",
			`^(sqlite|mysql://[A-Za-z0-9_-]+@[^/@]+/[A-Za-z0-9_-]+)$`, "sqlite", "mysql://hotstage@10.9.0.70/leases", "mysql://hotstage@db1:3306,db2/leases"), "default", "sqlite"),
		"password": reference("The secret that is the database's password."),
		"sync":     object{"description": "An ACK waits for the database too, at most a second. Default: false.", "type": "boolean", "default": false},
	})
}

func schemaResolver() object {
	return keys("Name service.", object{
		"recursion": listOf("Who finds answers outside: unbound (a child of each resolver node), resolvers given by address, or both: the addresses when the child is not well. Default: Quad9, Cloudflare and Google.",
			pattern("unbound, or an address, with a port or without, by UDP unless tcp:// or tls:// stands in front; behind tls:// also the name of the certificate.",
				`^(unbound|((udp|tcp)://)?[0-9A-Fa-f:.\[\]]+|tls://[0-9A-Fa-f:.\[\]]+#[A-Za-z0-9.-]+)$`,
				"unbound", "9.9.9.9", "192.0.2.53:5353", "[2620:fe::fe]:53", "tcp://9.9.9.9", "tls://9.9.9.9#dns.quad9.net")),
		"health": listOf("Names that a resolver which is well resolves; each is asked in turn, and one alone that fails marks nobody. * in front is a label by chance, so that no cache has it. Default: the root and some top-level domains.",
			text("A domain name.", "probe.yapc.example", "*.probe.yapc.example")),
		"cache":       with(pattern("Memory for answers.", `^[0-9.]+ ?(KiB|MiB|GiB)$`, "64MiB"), "default", "64MiB"),
		"vrrp":        schemaVRRP(),
		"client_rate": whole("Queries per second that one client address may ask; over three times as many in a burst.", 10, 10_000_000, 300),
		"xdp":         enum("Whether hot answers leave before the socket, by an XDP program on the interfaces of segments, where kernel and interface can.", "auto", "auto", "off"),
		"encrypted":   enum("Name service by TLS, HTTPS and QUIC too. Default: where there is a certificate.", nil, EncryptedOn, EncryptedOff),
		"certificate": keys("What the resolvers prove themselves with by TLS. Default: signed by the event's own authority (hotstage keys), which devices do not know.", object{
			"name":  text("The name that it is for. Default: dns.DOMAIN.", "dns.conf.example"),
			"chain": text("The file on the nodes of the certificate and those above it, PEM; or a secret's name.", "file:/etc/hotstage/dns.crt"),
			"key":   text("The file on the nodes of its private key, PEM; or a secret's name. Never the key itself.", "file:/etc/hotstage/dns.key", "dns-key"),
		}),
		"log":   with(pattern("Share of the queries that each resolver keeps a record of, with the client's address: for finding faults, and no longer than that.", `^(off|[0-9.]+%)$`, "10%"), "default", "off"),
		"block": listOf("Names that are not to resolve, nor what is below them. Default: none.", text("A domain name.", "ads.example")),
		"local": object{"description": "Names of your own, and their addresses.", "type": []string{"object", "null"},
			"additionalProperties": listOf("Its addresses.", text("An IPv4 or IPv6 address.", "10.9.0.71"))},
	})
}

func schemaNAPT() object {
	day := 24 * time.Hour
	return keys("Address translation: many devices behind few addresses.", object{
		"exit":    reference("The site whose uplinks are used. Default: the first."),
		"standby": reference("The site it can be moved to."),
		"use":     with(share("Of the table and of the ports that the expected sessions may fill, so that a burst fits."), "default", "50%"),
		"timeout": keys("Timers of sessions.", object{
			"udp":            duration("UDP, unreplied and replied: shorter breaks sessions, longer fills the table.", time.Second, day, "30s"),
			"udp_stream":     duration("UDP with traffic both ways for longer than 2 s. Default: as udp.", time.Second, day, nil, "30s"),
			"tcp":            duration("TCP, established (RFC 5382: at least 2h4m).", time.Second, 5*day, "2h4m"),
			"tcp_transitory": duration("TCP, opening and closing (RFC 5382: at least 4m).", time.Second, day, "4m"),
			"tcp_closed":     duration("TCP, after both sides have closed or one has reset.", time.Second, day, "30s"),
			"icmp":           duration("ICMP queries (RFC 5508: at least 60s).", time.Second, day, "60s"),
		}),
	})
}

func schemaRehearsal() object {
	return keys("What hotstage rehearse plays unless flags say otherwise.", object{
		"people": whole("Simulated attendees. Default: the event's.", 1, 100_000, nil, 3000),
		"doors":  duration("The time in which all devices arrive.", time.Second, time.Hour, "60s"),
		"stay":   duration("From the last arrival until people leave.", 0, time.Hour, "20s"),
		"seed":   whole("Of the random numbers: the same seed, the same crowd.", 0, 1<<31-1, 1),
		"faults": listOf("What breaks on purpose.", keys("A fault.", object{
			"at":      duration("After the doors open.", 0, time.Hour, nil, "30s"),
			"kill":    reference("The node that is killed."),
			"cut":     reference("The uplink that loses its carrier."),
			"silence": text("The resolver outside, one that the plan's ask, that takes questions and says nothing.", "9.9.9.9"),
			"outage":  object{"description": "All devices lose their link at once and ask anew within \"for\".", "type": "boolean"},
			"for":     duration("Until the node is started again, the uplink is back, or the resolver answers.", 0, time.Hour, "2s"),
		})),
	})
}

// keys is a mapping with known keys; an empty value (null) is one without any.
func keys(what string, known object) object {
	return object{"description": what, "type": []string{"object", "null"}, "properties": known, "additionalProperties": false}
}

// named is a mapping from names to values.
func named(what string, val object) object {
	return object{"description": what, "type": []string{"object", "null"}, "additionalProperties": val,
		"propertyNames": object{"pattern": `^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$`}}
}

// listOf is a list, or one item without the brackets.
func listOf(what string, item object) object {
	return object{"description": what, "anyOf": []object{item, {"type": "array", "items": item}, {"type": "null"}}}
}

func text(what string, examples ...string) object {
	return object{"description": what, "type": "string", "examples": examples}
}

// reference is a text that names something else in the plan.
func reference(what string) object { return object{"description": what, "type": "string"} }

func pattern(what, form string, examples ...string) object {
	return object{"description": what, "type": "string", "pattern": form, "examples": examples}
}

func share(what string) object { return pattern(what, `^[0-9.]+%$`, "60%") }

func enum(what string, preset any, words ...string) object {
	return with(object{"description": what, "type": "string", "enum": words}, "default", preset)
}

func whole(what string, lo, hi int, preset any, examples ...int) object {
	return with(with(object{"description": what, "type": "integer", "minimum": lo, "maximum": hi}, "default", preset), "examples", examples)
}

func duration(what string, lo, hi time.Duration, preset any, examples ...string) object {
	o := pattern(fmt.Sprintf("%s From %s to %s.", what, span(lo), span(hi)), `^([0-9.]+(ns|us|ms|s|m|h))+$`, examples...)
	return with(with(o, "default", preset), "examples", examples)
}

// with sets a key of o unless the value is empty.
func with(o object, key string, val any) object {
	switch v := val.(type) {
	case nil:
		return o
	case []int:
		if v == nil {
			return o
		}
	case []string:
		if v == nil {
			delete(o, key)
			return o
		}
	}
	o[key] = val
	return o
}
