package plan

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

func (r *reader) dhcp(v *value, d *rawDHCP) {
	d.at = v
	r.fields(v, map[string]func(*value){
		"leases":   func(v *value) { r.leases(v, d) },
		"password": r.str(&d.password),
		"sync":     r.boolean(&d.sync),
	})
}

const leasesAllowed = "sqlite or mysql://USER@HOST/DATABASE; with a port and more servers: mysql://USER@HOST:PORT,HOST2/DATABASE"

// leases reads where leases are kept. What may be a password is never told.
func (r *reader) leases(v *value, d *rawDHCP) {
	if !r.want(v, scalar, leasesAllowed) || v.text == "sqlite" {
		return
	}
	fault := func(given, words, hint string) {
		r.tell(Fault{Line: v.line, Column: v.col, Path: v.path, Words: words, Given: given, Allowed: leasesAllowed, Hint: hint})
	}
	scheme, rest, ok := strings.Cut(v.text, "://")
	if !ok || scheme != "mysql" {
		hint := ""
		switch {
		case scheme == "mariadb" || scheme == "mysql":
			hint = "MySQL, MariaDB and Galera are all mysql://"
		case !ok && !strings.ContainsAny(scheme, ":@"):
			fault(scheme, "leases can't be kept there", didYouMean(scheme, []string{"sqlite"}))
			return
		}
		fault(scheme[:min(len(scheme), 12)], "leases can't be kept there", hint)
		return
	}
	d.leases = "mysql"
	at := strings.LastIndex(rest, "@")
	user, place := rest[:max(at, 0)], rest[at+1:]
	if strings.Contains(user, ":") {
		fault("", "a password stands in the plan", "take it out of the plan, and out of its history if it was committed; then password: db, and secrets: {db: env:NAME}")
		return
	}
	hosts, database, _ := strings.Cut(place, "/")
	switch {
	case !isWord(user, 80):
		fault("", "the database's user is missing or cannot be one", "")
		return
	case !isWord(database, 64):
		fault("", "the database's name is missing or cannot be one", "it stands behind the last /: letters, digits, _ and -")
		return
	}
	s := &Shared{User: user, Database: database}
	for one := range strings.SplitSeq(hosts, ",") {
		server, ok := serverOf(one)
		if !ok || slices.Contains(s.Servers, server) {
			fault(one, "not a new server of the database", "a host's name or address, with a port or without, each once")
			return
		}
		s.Servers = append(s.Servers, server)
	}
	d.shared = s
}

// isWord tells whether s can be a name in a database, written without quotes.
func isWord(s string, most int) bool {
	return s != "" && len(s) <= most && !strings.ContainsFunc(s, func(c rune) bool {
		return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-')
	})
}

// serverOf reads HOST or HOST:PORT, with an IPv6 address in brackets, as host:port.
func serverOf(s string) (string, bool) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		host, port = strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"), "3306"
		if strings.Contains(host, ":") && host == s {
			return "", false
		}
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return "", false
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return net.JoinHostPort(host, port), a.Zone() == "" && !a.IsUnspecified() && !a.IsMulticast()
	}
	return net.JoinHostPort(host, port), isDomain(strings.ToLower(host))
}

// shared holds what the plan says of the shared database against the rest.
func (d *deriver) shared() {
	raw := d.raw.dhcp
	d.plan.DHCP = DHCP{Leases: raw.leases, Shared: raw.shared}
	if raw.leases != "mysql" {
		for _, key := range []string{"password", "sync"} {
			if raw.at.has(key) {
				d.at(raw.at.field(key), "dhcp: "+key+" without a shared database", "together with leases: mysql://USER@HOST/DATABASE", "")
			}
		}
		return
	}
	var names []string
	for n := range d.raw.secrets {
		names = append(names, n)
	}
	slices.Sort(names)
	_, known := d.raw.secrets[raw.password]
	switch {
	case raw.password == "":
		d.at(raw.at, "dhcp: the database needs a password", "password: NAME, the name of one of the plan's secrets", "for example password: db, and secrets: {db: env:HOTSTAGE_DB}")
	case !known:
		// What stands there may be the password itself.
		at := raw.at.field("password")
		d.tell(Fault{Line: at.line, Column: at.col, Path: at.path, Words: "dhcp: password is not the name of one of the plan's secrets", Allowed: choices(names),
			Hint: "secrets: {db: env:HOTSTAGE_DB}, then password: db; a secret itself is never in the plan"})
	}
	s := raw.shared
	if s == nil {
		return
	}
	s.Password, s.Sync = raw.password, raw.sync
	for _, server := range s.Servers {
		host, _, _ := net.SplitHostPort(server)
		a, err := netip.ParseAddr(host)
		if err != nil {
			continue
		}
		switch in := d.segmentOf(a); {
		case in == nil:
		case in.Pool.Contains(a) && !slices.ContainsFunc(in.Reservations, func(r Reservation) bool { return r.Addr == a }):
			d.at(raw.at.field("leases"), fmt.Sprintf("dhcp: %s lies in the pool of segment %s: a device may get it", a, in.Name), "an address outside the pool, or a reservation", "")
		case in.Class == Attendee:
			d.warn(raw.at.field("leases"), fmt.Sprintf("dhcp: the database %s is in segment %s, among attendees", a, in.Name), "give it an address in a server segment")
		}
	}
}
