// Package render draws the plan for people and writes it as configuration for other software.
package render

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hotstage/hotstage/internal/plan"
)

// Diagram draws the plan as an L3 diagram in SVG: the internet, uplinks, routers, segments
// and the nodes that serve them, from top to bottom, with sites side by side. It is 1280
// units wide, or wider where the sites need it, follows a dark or light setting, and says
// the same in words to a screen reader. The same plan gives the same bytes.
func Diagram(p *plan.Plan) []byte {
	d := &drawing{p: p}
	d.layout()
	d.write()
	return d.out.Bytes()
}

// The measures of the drawing, in its own units (pixels at 1280 wide).
const (
	least     = 1280.0 // width
	margin    = 20.0
	gap       = 24.0 // between sites
	pad       = 18.0 // within a site
	headTop   = 64.0 // title above the internet
	siteHead  = 64.0 // name and notes of a site, above its uplinks
	foot      = 26.0 // legend below the sites
	cloudH    = 46.0
	uplinkW   = 204.0
	nodeW     = 204.0
	narrowW   = 172.0 // of a node, when wider ones would not fit
	nodeGap   = 16.0
	barH      = 52.0
	barGap    = 12.0
	laneStep  = 24.0
	tier      = 40.0  // between uplinks and routers
	labelH    = 30.0  // for the names of interfaces above or below segments
	wireStep  = 8.0   // between wires side by side
	textLeast = 640.0 // for the words of a segment
	factW     = 240.0 // of a column of facts beside the uplinks; the last has the rest
)

// siteBox is one site's column.
type siteBox struct {
	*plan.Site
	x, w             float64
	routers, servers []*nodeBox
	segments         []*plan.Segment
	facts            []column
	barTop, servY    float64
	bottom           float64 // of what is in it
}

// column is facts of a site beside its uplinks: NAPT's figures, who gives which service.
type column struct {
	title string
	lines []string
}

// nodeBox is a node; lane is the x of its wire through the segments.
type nodeBox struct {
	*plan.Node
	x, y, w, h float64
	lane       float64
}

func (n *nodeBox) center() float64 { return n.x + n.w/2 }

// drawing is the layout and then the text.
type drawing struct {
	p                                       *plan.Plan
	sites                                   []*siteBox
	width, height                           float64
	panelY, uplinkY, uplinkH, routerY, barY float64
	routerH                                 float64
	out                                     canvas
}

// layout places everything: columns by what is in them, tiers by the highest box of each.
func (d *drawing) layout() {
	for i := range d.p.Sites {
		d.sites = append(d.sites, d.site(&d.p.Sites[i]))
	}
	boxW := nodeW
	if d.natural(nodeW) > least {
		boxW = narrowW
	}
	d.width = max(least, d.natural(boxW))
	spare := (d.width - d.natural(boxW)) / float64(max(d.weights(), 1))
	x := margin
	for _, s := range d.sites {
		s.x, s.w = x, s.least(boxW)+spare*float64(s.weight())
		x += s.w + gap
	}
	d.tiers(boxW)
}

func (d *drawing) site(site *plan.Site) *siteBox {
	s := &siteBox{Site: site}
	for i := range d.p.Segments {
		if d.p.Segments[i].Site == site.Name {
			s.segments = append(s.segments, &d.p.Segments[i])
		}
	}
	for i := range d.p.Nodes {
		n := &d.p.Nodes[i]
		uplink := slices.ContainsFunc(n.Interfaces, func(f plan.Interface) bool { return f.Uplink != "" })
		switch {
		case n.Site != site.Name:
		case uplink || n.Has(plan.RoleRouter):
			s.routers = append(s.routers, &nodeBox{Node: n})
		default:
			s.servers = append(s.servers, &nodeBox{Node: n})
		}
	}
	if len(s.segments) > 0 {
		s.facts = d.facts(s)
	}
	return s
}

// weight is the site's part of spare width: segments profit from it.
func (s *siteBox) weight() int {
	if len(s.segments) > 0 {
		return 3
	}
	return 0
}

func (d *drawing) weights() (n int) {
	for _, s := range d.sites {
		n += s.weight()
	}
	return n
}

// least is the narrowest that the site can be.
func (s *siteBox) least(boxW float64) float64 {
	row := func(n int, w float64) float64 { return float64(n)*(w+nodeGap) - nodeGap }
	w := max(row(len(s.Uplinks), uplinkW)+float64(len(s.facts))*(nodeGap+factW), row(len(s.routers), boxW), row(len(s.servers), boxW), uplinkW)
	if len(s.segments) > 0 {
		w = max(w, textLeast+s.lanes())
	}
	return w + 2*pad
}

// lanes is the width that wires take on both sides of the segments.
func (s *siteBox) lanes() float64 { return float64(len(s.routers)+len(s.servers)) * laneStep }

func (d *drawing) natural(boxW float64) float64 {
	w := 2*margin - gap
	for _, s := range d.sites {
		w += s.least(boxW) + gap
	}
	return w
}

// tiers gives every tier its height and every box its place.
func (d *drawing) tiers(boxW float64) {
	d.panelY = headTop + cloudH + 18
	d.uplinkY = d.panelY + siteHead
	routers := 0
	for _, s := range d.sites {
		routers = max(routers, len(s.routers))
		for _, u := range s.Uplinks {
			d.uplinkH = max(d.uplinkH, columnHeight(uplinkLines(u)))
		}
		for _, f := range s.facts {
			d.uplinkH = max(d.uplinkH, columnHeight(f.lines))
		}
		for _, n := range s.routers {
			d.routerH = max(d.routerH, nodeHeight(n.Node, boxW))
		}
	}
	d.routerY = d.uplinkY + d.uplinkH + tier
	d.barY = d.routerY + d.routerH + labelH + wireStep*float64(routers)
	for _, s := range d.sites {
		s.place(d, boxW)
		d.height = max(d.height, s.bottom+pad+foot+margin)
	}
}

// columnHeight is what a title and the lines below it need.
func columnHeight(lines []string) float64 { return 36 + 17*float64(len(lines)) }

// place puts the site's nodes: routers from the left, the others from the right, each with
// its lane below or above it on the same side.
func (s *siteBox) place(d *drawing, boxW float64) {
	s.barTop, s.bottom = d.barY, d.uplinkY+d.uplinkH
	left, right := s.x+pad, s.x+s.w-pad
	for i, n := range s.routers {
		n.x, n.y, n.w, n.h = left+float64(i)*(boxW+nodeGap), d.routerY, boxW, d.routerH
		n.lane = left + laneStep*(float64(i)+0.5)
		s.bottom = d.routerY + d.routerH
	}
	if n := len(s.segments); n > 0 {
		s.bottom = s.barTop + float64(n)*(barH+barGap) - barGap
	}
	servH := 0.0
	for _, n := range s.servers {
		servH = max(servH, nodeHeight(n.Node, boxW))
	}
	s.servY = s.bottom + barGap + labelH + wireStep*float64(len(s.servers))
	for i, n := range s.servers {
		back := float64(len(s.servers) - i)
		n.x, n.y, n.w, n.h = right-back*(boxW+nodeGap)+nodeGap, s.servY, boxW, servH
		n.lane = right - laneStep*(back-0.5)
		s.bottom = s.servY + servH
	}
}

// nodeHeight is what the name, the role chips and the addresses need.
func nodeHeight(n *plan.Node, w float64) float64 {
	return 58 + float64(chipRows(n.Roles, w))*24 + float64(len(nodeNotes(n)))*17
}

// nodeNotes are the lines below a node's roles: its own addresses, at most three.
func nodeNotes(n *plan.Node) (notes []string) {
	for _, a := range n.Attachments {
		if a.Gateway {
			continue // the segment says it
		}
		notes = append(notes, a.IPv4.Addr().String()+" in "+a.Segment)
	}
	if len(notes) > 3 {
		notes = append(notes[:2], fmt.Sprintf("and in %d more", len(notes)-2))
	}
	return notes
}

func chipRows(roles []plan.Role, w float64) int {
	rows, x := 1, 0.0
	for _, r := range roles {
		c := chipWidth(string(r))
		if x > 0 && x+c > w-24 {
			rows, x = rows+1, 0
		}
		x += c + 5
	}
	return rows
}

func chipWidth(s string) float64 { return textWidth(s, 12, false) + 14 }

// summary says in words what the drawing shows.
func (d *drawing) summary() string {
	var b strings.Builder
	for _, s := range d.sites {
		fmt.Fprintf(&b, "Site %s", s.Name)
		for _, u := range s.Uplinks {
			fmt.Fprintf(&b, "; uplink %s: %s", u.Name, strings.Join(uplinkLines(u), ", "))
		}
		for _, n := range slices.Concat(s.routers, s.servers) {
			fmt.Fprintf(&b, "; node %s: %s", n.Name, joinRoles(n.Roles))
		}
		for _, g := range s.segments {
			fmt.Fprintf(&b, "; segment %s: ", g.Name)
			if where := d.purpose(g, true); where != "" {
				fmt.Fprintf(&b, "%s, ", where)
			}
			fmt.Fprintf(&b, "VLAN %d, %s", g.VLAN, g.IPv4)
			if g.IPv6.IsValid() {
				fmt.Fprintf(&b, ", %s", g.IPv6)
			}
			fmt.Fprintf(&b, ", %s devices", number(g.Devices))
		}
		b.WriteString(". ")
	}
	if t := tunnelWords(d.p.Tunnel); t != "" {
		b.WriteString("Between the sites: " + t + ".")
	}
	return strings.TrimSpace(b.String())
}

func joinRoles(roles []plan.Role) string {
	var all []string
	for _, r := range roles {
		all = append(all, string(r))
	}
	return strings.Join(all, ", ")
}

// tunnelWords says what goes between the sites, or "".
func tunnelWords(t plan.Tunnel) string {
	var all []string
	if len(t.Route) > 0 {
		all = append(all, "routes "+strings.Join(t.Route, ", "))
	}
	if len(t.Stretch) > 0 {
		all = append(all, "carries "+strings.Join(t.Stretch, ", ")+" as tagged frames")
	}
	if len(all) == 0 {
		return ""
	}
	return "tunnel: " + strings.Join(all, "; ")
}

// uplinkLines are how an uplink gets its addresses, and which.
func uplinkLines(u plan.Uplink) []string {
	lines := []string{map[plan.UplinkMode]string{plan.UplinkStatic: "static", plan.UplinkDHCP: "address by DHCP", plan.UplinkSystem: "set up by the system"}[u.Mode]}
	var v4 []string
	for _, p := range u.IPv4 {
		if p.IsSingleIP() {
			v4 = append(v4, p.Addr().String())
		} else {
			v4 = append(v4, p.String())
		}
	}
	if len(v4) > 2 {
		v4 = append(v4[:1], fmt.Sprintf("and %d more", len(v4)-1))
	}
	if len(v4) > 0 {
		lines = append(lines, strings.Join(v4, " "))
	}
	if u.IPv6.IsValid() {
		lines = append(lines, u.IPv6.String())
	}
	return lines
}

// facts are what the site has beside boxes: NAPT's figures where its exit is, and the nodes
// that give each service.
func (d *drawing) facts(s *siteBox) (all []column) {
	if n := d.p.NAPT; n.Exit == s.Name {
		addresses := "one address"
		if len(n.Addresses) > 1 {
			addresses = number(len(n.Addresses)) + " addresses"
		}
		all = append(all, column{"NAPT", []string{
			number(n.Sessions) + " sessions at the peak",
			fmt.Sprintf("table for %s, %s", number(n.Table), addresses),
			fmt.Sprintf("UDP kept %s, TCP %s", span(n.Timeouts.UDP), span(n.Timeouts.TCPEstablished)),
		}})
	}
	if lines := services(slices.Concat(s.routers, s.servers)); len(lines) > 0 {
		all = append(all, column{"Services", lines})
	}
	return all
}

// services has a line for every set of nodes that gives some.
func services(nodes []*nodeBox) (lines []string) {
	var givers []string // of the line
	for _, service := range []struct {
		role plan.Role
		name string
	}{{plan.RoleDHCP, "DHCP"}, {plan.RoleResolver, "names"}, {plan.RoleNTP, "time"}, {plan.RoleSyslog, "logs"}, {plan.RoleMonitor, "monitoring"}} {
		var who []string
		for _, n := range nodes {
			if n.Has(service.role) {
				who = append(who, n.Name)
			}
		}
		by := strings.Join(who, ", ")
		switch same := slices.Index(givers, by); {
		case by == "":
		case same >= 0:
			lines[same] += ", " + service.name
		default:
			givers, lines = append(givers, by), append(lines, service.name)
		}
	}
	for i := range lines {
		lines[i] += ": " + givers[i]
	}
	return lines
}

// span writes a timer for people: 30 s, 2 h 4 min.
func span(t time.Duration) string {
	switch {
	case t >= time.Hour && t%time.Hour == 0:
		return fmt.Sprintf("%d h", t/time.Hour)
	case t >= time.Hour:
		return fmt.Sprintf("%d h %d min", t/time.Hour, t%time.Hour/time.Minute)
	case t >= time.Minute && t%time.Minute == 0:
		return fmt.Sprintf("%d min", t/time.Minute)
	default:
		return strconv.FormatFloat(t.Seconds(), 'g', 4, 64) + " s"
	}
}

func bandwidth(bits int64) string {
	for _, u := range []struct {
		size int64
		name string
	}{{1e12, "Tbit/s"}, {1e9, "Gbit/s"}, {1e6, "Mbit/s"}, {1e3, "kbit/s"}} {
		if bits >= u.size {
			return strconv.FormatFloat(float64(bits)/float64(u.size), 'g', 4, 64) + " " + u.name
		}
	}
	return fmt.Sprintf("%d bit/s", bits)
}

// number writes 6000 as 6,000.
func number(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
