package kea

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/hex"
	"fmt"
	"io"
	"math"
	"net"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/plan"
)

// File is one lease file of Kea's memfile.
type File struct {
	Name string
	Src  []byte
}

// Row is the last that Kea's files say of an address.
type Row struct {
	At       Place
	Addr     netip.Addr
	MAC      net.HardwareAddr // nil without one
	ClientID []byte           // nil without one
	Lifetime time.Duration
	Expires  time.Time
	Hostname string
	State    int // see the constants below
}

// The states of a lease in Kea's file; 3 came with Kea 2.7.
const (
	keaBound = iota
	keaDeclined
	keaReclaimed
	keaReleased
)

// stateNames are what a dump of a database has instead, before Kea 2.2.
var stateNames = []string{"default", "declined", "expired-reclaimed", "released"}

// columns are those of the file that Kea 2.2 writes; 2.4 adds pool_id.
var columns = []string{"address", "hwaddr", "client_id", "valid_lifetime", "expire", "subnet_id", "fqdn_fwd", "fqdn_rev", "hostname", "state", "user_context"}

// age is the order in which Kea applies the files that its clean-up (LFC) leaves.
func age(name string) int {
	switch path.Ext(name) {
	case ".2":
		return 0
	case ".1":
		return 1
	case ".completed":
		return 2
	}
	return 3
}

// ReadLeases reads lease files in the order of their age, whichever they are given in: a
// later line about an address replaces an earlier one, and one with a lifetime of 0 takes it
// away, as Kea has it. Lines that can't be read are faults; the rest is read all the same.
func ReadLeases(files []File) (rows []Row, faults []Fault) {
	files = slices.Clone(files)
	slices.SortStableFunc(files, func(a, b File) int { return cmp.Compare(age(a.Name), age(b.Name)) })
	last := map[netip.Addr]Row{}
	for _, f := range files {
		faults = append(faults, readLeaseFile(f, last)...)
	}
	for _, r := range last {
		rows = append(rows, r)
	}
	slices.SortFunc(rows, func(a, b Row) int { return a.Addr.Compare(b.Addr) })
	return rows, faults
}

// maxLine bounds a line; Kea's user context may be long.
const maxLine = 1 << 20

func readLeaseFile(f File, last map[netip.Addr]Row) (faults []Fault) {
	lines := bufio.NewScanner(bytes.NewReader(f.Src))
	lines.Buffer(nil, maxLine)
	var header map[string]int
	n := 0
	for lines.Scan() {
		n++
		text := strings.TrimSuffix(lines.Text(), "\r")
		at := Place{File: f.Name, Line: n}
		switch {
		case header == nil:
			var missing string
			if header, missing = readHeader(text); missing != "" {
				return append(faults, Fault{at, fmt.Sprintf("not the header of a Kea DHCPv4 lease file: it has no column %s; is this kea-leases4.csv?", missing)})
			}
		case text == "":
		default:
			r, why := readRow(text, header)
			if why != "" {
				faults = append(faults, Fault{at, why})
				continue
			}
			if r.At = at; r.Lifetime == 0 {
				delete(last, r.Addr)
				continue
			}
			last[r.Addr] = r
		}
	}
	if err := lines.Err(); err != nil {
		faults = append(faults, Fault{Place{File: f.Name, Line: n + 1}, fmt.Sprintf("%v: the rest of the file is not read", err)})
	} else if header == nil {
		faults = append(faults, Fault{Place{File: f.Name, Line: 1}, "the file is empty; a Kea lease file begins with its header, address,hwaddr,…"})
	}
	return faults
}

// readHeader is the place of each column; missing is one that there must be.
func readHeader(line string) (at map[string]int, missing string) {
	at = map[string]int{}
	for i, name := range strings.Split(line, ",") {
		at[name] = i
	}
	for _, name := range columns[:5] {
		if _, ok := at[name]; !ok {
			return at, name
		}
	}
	return at, ""
}

// latest is the last second that a lease file's time may have: our store keeps nanoseconds
// since 1970 in 64 bits.
const latest = math.MaxInt64 / int64(time.Second)

func readRow(line string, header map[string]int) (r Row, why string) {
	fields := strings.Split(line, ",")
	if len(fields) < len(header) {
		return r, fmt.Sprintf("%d fields instead of %d; was the file cut off, or copied while Kea wrote it?", len(fields), len(header))
	}
	if len(fields) > len(header) {
		return r, fmt.Sprintf("%d fields instead of %d", len(fields), len(header))
	}
	get := func(name string) string {
		if i, ok := header[name]; ok {
			return unescapeCSV(fields[i])
		}
		return ""
	}
	var err error
	if r.Addr, err = netip.ParseAddr(get("address")); err != nil || !r.Addr.Is4() {
		return r, fmt.Sprintf("address %q is not an IPv4 address", get("address"))
	}
	if s := get("hwaddr"); s != "" {
		if r.MAC, err = hexBytes(s, 20); err != nil {
			return r, fmt.Sprintf("hwaddr %q: %v", s, err)
		}
	}
	if s := get("client_id"); s != "" {
		if r.ClientID, err = hexBytes(s, 255); err != nil {
			return r, fmt.Sprintf("client_id %q: %v", s, err)
		}
	}
	lifetime, err := strconv.ParseUint(get("valid_lifetime"), 10, 32)
	if err != nil {
		return r, fmt.Sprintf("valid_lifetime %q is not a number of seconds", get("valid_lifetime"))
	}
	expire, err := strconv.ParseInt(get("expire"), 10, 64)
	if err != nil || expire < 0 || expire > latest {
		return r, fmt.Sprintf("expire %q is not a time in seconds since 1970", get("expire"))
	}
	if s := get("state"); s != "" {
		if r.State = slices.Index(stateNames, s); r.State < 0 {
			r.State, err = strconv.Atoi(s)
		}
		if err != nil || r.State < keaBound || r.State > keaReleased {
			return r, fmt.Sprintf("state %q is not one that is known: 0, 1, 2 or 3", s)
		}
	}
	r.Lifetime, r.Expires, r.Hostname = time.Duration(lifetime)*time.Second, time.Unix(expire, 0).UTC(), get("hostname")
	if r.State == keaBound && r.Lifetime > 0 && len(r.MAC) != 6 && len(r.ClientID) < 2 {
		return r, "neither a hwaddr of 6 bytes nor a client_id of 2: nobody knows whose lease it is"
	}
	return r, ""
}

// hexBytes reads bytes in hexadecimal with colons between, or without any.
func hexBytes(s string, most int) ([]byte, error) {
	b, err := hex.DecodeString(strings.ReplaceAll(s, ":", ""))
	if err != nil || len(b) == 0 || len(b) > most {
		return nil, fmt.Errorf("not 1 to %d bytes in hexadecimal", most)
	}
	return b, nil
}

// unescapeCSV takes back what Kea does to commas: "&#x2c" and the like, two digits each.
func unescapeCSV(s string) string {
	const mark = "&#x"
	i := strings.Index(s, mark)
	if i < 0 {
		return s
	}
	var b strings.Builder
	for ; i >= 0; i = strings.Index(s, mark) {
		b.WriteString(s[:i])
		c, err := strconv.ParseUint(s[i+len(mark):min(len(s), i+len(mark)+2)], 16, 8)
		if err != nil || i+len(mark)+2 > len(s) {
			b.WriteString(mark)
			s = s[i+len(mark):]
			continue
		}
		b.WriteByte(byte(c))
		s = s[i+len(mark)+2:]
	}
	b.WriteString(s)
	return b.String()
}

// escapeCSV is unescapeCSV backwards.
func escapeCSV(s string) string {
	return strings.NewReplacer("&#x", "&#x26#x", ",", "&#x2c", "\n", " ", "\r", " ").Replace(s)
}

// Carried is what became of Kea's leases in a plan.
type Carried struct {
	Leases   []fact.Lease // bound, ended and declined ones, in the order of their addresses
	Bound    int
	Declined int
	Ended    int   // released, reclaimed or run out: kept, so that the device gets its address again
	Outside  []Row // of no segment of the plan: not carried
	Beside   []Row // bound, in a segment but neither in its pool nor reserved: not renewed
	Doubled  []Row // bound to a client that has a later lease in the segment: ended
}

// Carry makes facts of the rows, for the segments of the plan. A lease that had run out by
// now has ended. The boot clock is left unsaid, so that the wall clock counts.
func Carry(rows []Row, p *plan.Plan, now time.Time) Carried {
	var c Carried
	newest := map[string]int{} // of each client in each segment, its place in Leases
	for _, r := range rows {
		i := slices.IndexFunc(p.Segments, func(s plan.Segment) bool { return s.IPv4.Contains(r.Addr) })
		if i < 0 {
			c.Outside = append(c.Outside, r)
			continue
		}
		s := &p.Segments[i]
		l := r.lease(s, now)
		c.count(r, s, l)
		c.Leases = append(c.Leases, l)
		if l.State != fact.LeaseBound {
			continue
		}
		key := s.Name + " " + l.Client
		at := len(c.Leases) - 1
		if other, twice := newest[key]; twice {
			if c.Leases[other].Expires.After(l.Expires) {
				at, other = other, at
			}
			c.Leases[other].State = fact.LeaseReleased
			c.Bound, c.Ended = c.Bound-1, c.Ended+1
			c.Doubled = append(c.Doubled, rows[slices.IndexFunc(rows, func(r Row) bool { return r.Addr == c.Leases[other].Addr })])
		}
		newest[key] = at
	}
	return c
}

func (c *Carried) count(r Row, s *plan.Segment, l fact.Lease) {
	switch l.State {
	case fact.LeaseBound:
		c.Bound++
		if !s.Pool.Contains(r.Addr) && !slices.ContainsFunc(s.Reservations, func(v plan.Reservation) bool { return v.Addr == r.Addr }) {
			c.Beside = append(c.Beside, r)
		}
	case fact.LeaseDeclined:
		c.Declined++
	default:
		c.Ended++
	}
}

// lease is the row as the store has it, in a segment of the plan.
func (r Row) lease(s *plan.Segment, now time.Time) fact.Lease {
	l := fact.Lease{
		Segment: s.Name, Addr: r.Addr, Client: r.client(s), Hostname: label(r.Hostname), State: fact.LeaseBound,
		Start: r.Expires.Add(-r.Lifetime), Expires: r.Expires,
	}
	if len(r.MAC) == 6 {
		l.MAC = r.MAC
	}
	switch ended := !r.Expires.After(now); {
	case r.State == keaReleased:
		l.State = fact.LeaseReleased
	case r.State == keaReclaimed, ended:
		l.State = fact.LeaseExpired
	case r.State == keaDeclined:
		l.State = fact.LeaseDeclined
	}
	return l
}

// client is the key that role/dhcp has for the device: its identifier of 2 to 255 bytes,
// else its MAC address; the MAC address alone where the plan reserves for it.
func (r Row) client(s *plan.Segment) string {
	reserved := slices.ContainsFunc(s.Reservations, func(v plan.Reservation) bool { return v.MAC != nil && slices.Equal(v.MAC, r.MAC) })
	if len(r.ClientID) >= 2 && !reserved {
		return "id:" + hex.EncodeToString(r.ClientID)
	}
	if len(r.MAC) == 6 {
		return "mac:" + r.MAC.String()
	}
	return ""
}

// label is the first part of a host name as a label of a DNS name, as role/dhcp keeps it:
// up to 63 bytes, what is no letter or digit a hyphen, "" when nothing is left.
func label(host string) string {
	first, _, _ := strings.Cut(host, ".")
	parts := strings.FieldsFunc(strings.ToLower(first), func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') })
	name := strings.Join(parts, "-")
	return strings.TrimRight(name[:min(len(name), 63)], "-")
}

// WriteLeases writes a lease file for Kea 2.2 and later, with its header. id is the number of
// the lease's subnet in Kea's configuration. Leases that ended and whose device nobody knows
// are left out: Kea refuses them, and there is nothing in them.
func WriteLeases(w io.Writer, all []fact.Lease, id func(fact.Lease) int) error {
	b := bufio.NewWriter(w)
	fmt.Fprintln(b, strings.Join(columns, ","))
	for _, l := range all {
		if !l.Addr.Is4() || l.State != fact.LeaseDeclined && macOf(l) == "" && clientID(l.Client) == "" {
			continue
		}
		state := map[fact.LeaseState]int{fact.LeaseDeclined: keaDeclined, fact.LeaseExpired: keaReclaimed, fact.LeaseReleased: keaReclaimed}[l.State]
		lifetime := l.Expires.Sub(l.Start) / time.Second
		fmt.Fprintf(b, "%s,%s,%s,%d,%d,%d,0,0,%s,%d,\n", l.Addr, macOf(l), clientID(l.Client),
			max(1, min(lifetime, math.MaxUint32-1)), max(0, l.Expires.Unix()), id(l), escapeCSV(l.Hostname), state)
	}
	return b.Flush()
}

// macOf is the hardware address; nobody's is zero, which declined leases have.
func macOf(l fact.Lease) string {
	if !goodMAC(l.MAC) {
		return ""
	}
	return l.MAC.String()
}

// clientID is the identifier with colons between its bytes; "" for a client known by its MAC.
func clientID(client string) string {
	h, ok := strings.CutPrefix(client, "id:")
	if !ok {
		return ""
	}
	var b strings.Builder
	for i := 0; i+2 <= len(h); i += 2 {
		if i > 0 {
			b.WriteByte(':')
		}
		b.WriteString(h[i : i+2])
	}
	return b.String()
}
