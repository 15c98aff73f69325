package render

import (
	_ "embed"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hotstage/hotstage/internal/plan"
)

//go:embed diagram.css
var style string

// write draws from back to front: panels, wires, boxes.
func (d *drawing) write() {
	c := &d.out
	c.f(`<svg xmlns="http://www.w3.org/2000/svg" class="hs" viewBox="0 0 %.0f %.0f" width="%.0f" height="%.0f" role="img" aria-labelledby="hs-title hs-desc">`+"\n", d.width, d.height, d.width, d.height)
	c.f("<title id=\"hs-title\">Network of %s</title>\n<desc id=\"hs-desc\">%s</desc>\n<style>%s</style>\n", escape(d.p.Event.Name), escape(d.summary()), style)
	c.box("page", 0, 0, d.width, d.height, 0)
	sub := fit(d.subtitle(), d.width*0.36, 13, false)
	c.text("ink bold", margin, 38, d.width-2*margin-textWidth(sub, 13, false)-gap, 22, d.p.Event.Name)
	c.text("soft end", d.width-margin, 38, d.width*0.36, 13, d.subtitle())
	for _, s := range d.sites {
		d.panel(s)
	}
	for _, s := range d.sites {
		d.wires(s)
	}
	d.tunnel()
	d.internet()
	for _, s := range d.sites {
		d.boxes(s)
	}
	d.legend()
	c.f("</svg>\n")
}

// legend says what the marks mean that are in the drawing.
func (d *drawing) legend() {
	c, y, x := &d.out, d.height-margin-2, margin+8
	word := func(s string) {
		c.text("soft", x+14, y, 300, 12, s)
		x += textWidth(s, 12, false) + 40
	}
	for _, gateway := range []bool{true, false} {
		if !d.has(func(a *plan.Attachment) bool { return a.Gateway == gateway }) {
			continue
		}
		d.dot(x, y-4, gateway, "")
		word(map[bool]string{true: "the segment's gateway", false: "a node in the segment"}[gateway])
	}
	if len(d.sites) > 1 && tunnelWords(d.p.Tunnel) != "" {
		c.wire("tunnel", "M%.1f %.1fh27", x-6, y-4)
		x += 20
		word("tunnel between the sites")
	}
}

// has tells whether any node has such a place in a segment.
func (d *drawing) has(such func(*plan.Attachment) bool) bool {
	for i := range d.p.Nodes {
		for j := range d.p.Nodes[i].Attachments {
			if such(&d.p.Nodes[i].Attachments[j]) {
				return true
			}
		}
	}
	return false
}

// dot marks a node's place in a segment; title is shown by a pointer.
func (d *drawing) dot(x, y float64, gateway bool, title string) {
	class := "dot"
	if gateway {
		class = "dot gate"
	}
	d.out.f(`<circle class="%s" cx="%.1f" cy="%.1f" r="5.5">`, class, x, y)
	if title != "" {
		d.out.f("<title>%s</title>", escape(title))
	}
	d.out.f("</circle>\n")
}

func (d *drawing) subtitle() string {
	e := d.p.Event
	return fmt.Sprintf("%s · %s people, %s devices", e.Domain, number(e.Attendees), number(e.Devices()))
}

// panel is a site's background with its name, its distance and its part in NAPT. The words
// stay left of the first uplink's wire.
func (d *drawing) panel(s *siteBox) {
	d.out.box("panel", s.x, d.panelY, s.w, s.bottom+pad-d.panelY, 12)
	x, wide := s.x+pad, uplinkW-wireIn-10
	d.out.text("ink bold", x, d.panelY+28, wide, 16, s.Name)
	name := textWidth(s.Name, 16, true) + 10
	if away := strings.Replace(s.RTT.Round(100*time.Microsecond).String(), "ms", " ms", 1) + " away"; s.RTT > 0 && name < wide-50 {
		d.out.text("soft", x+name, d.panelY+28, wide-name, 12, away)
	}
	switch s.Name {
	case d.p.NAPT.Exit:
		d.out.text("soft", x, d.panelY+48, wide, 12, "NAPT exit")
	case d.p.NAPT.Standby:
		d.out.text("soft", x, d.panelY+48, wide, 12, "NAPT standby")
	}
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return number(n) + " " + many
}

func (d *drawing) internet() {
	d.out.box("internet", margin, headTop, d.width-2*margin, cloudH, cloudH/2)
	d.out.text("ink bold", margin+26, headTop+29, 200, 16, "Internet")
	var asks []string
	if d.p.Resolver.Unbound {
		asks = append(asks, "Unbound of our own")
	}
	for _, a := range d.p.Resolver.Ask {
		asks = append(asks, a.Addr.Addr().String())
	}
	if len(asks) > 0 {
		d.out.text("soft", margin+120, headTop+28.5, d.width-300, 12.5, "resolvers asked: "+strings.Join(asks, ", "))
	}
}

// wireIn is how far from an uplink's right edge the wire from the internet comes in, so that
// the site's words have the left.
const wireIn = 20.0

// uplinkX is the left edge of the site's i-th uplink: above the routers, from the left.
func (s *siteBox) uplinkX(i int) float64 { return s.x + pad + float64(i)*(uplinkW+nodeGap) }

// wires joins internet, uplinks, routers, segments and servers. Through the segments every
// node has a lane of its own: routers' on the left, the others' on the right.
func (d *drawing) wires(s *siteBox) {
	c := &d.out
	for i := range s.Uplinks {
		c.wire("wire", "M%.1f %.1fV%.1f", s.uplinkX(i)+uplinkW-wireIn, headTop+cloudH, d.uplinkY)
	}
	for _, n := range s.routers {
		d.uplinkWires(s, n)
	}
	for i, n := range s.routers {
		if last := s.last(n); last >= 0 {
			mid := n.y + n.h + labelH - wireStep + wireStep*float64(i)
			c.wire("wire", "M%.1f %.1fV%.1fH%.1fV%.1f", n.center(), n.y+n.h, mid, n.lane, s.barMid(last))
			c.text("soft", n.center()+7, n.y+n.h+16, 150, 12, ports(n.Node))
		}
	}
	for i, n := range s.servers {
		if first := s.first(n); first >= 0 {
			mid := s.servY - labelH - wireStep*float64(len(s.servers)-1-i)
			c.wire("wire", "M%.1f %.1fV%.1fH%.1fV%.1f", n.center(), n.y, mid, n.lane, s.barMid(first))
			c.text("soft", n.center()+7, n.y-7, 100, 12, ports(n.Node))
		}
	}
}

// uplinkWires joins a router to its uplinks, each at a port of its own on the router's top.
func (d *drawing) uplinkWires(s *siteBox, n *nodeBox) {
	var names []string
	var uplinks []int
	for i, u := range s.Uplinks {
		for _, f := range n.Interfaces {
			if f.Uplink == u.Name {
				names, uplinks = append(names, f.Name), append(uplinks, i)
			}
		}
	}
	each := n.w / float64(max(len(names), 1))
	for k, i := range uplinks {
		port := n.x + each*(float64(k)+0.5)
		x := s.uplinkX(i)
		from := x + uplinkW/2
		if port > x && port < x+uplinkW {
			from = port
		}
		d.out.wire("wire", "M%.1f %.1fv%.1fH%.1fV%.1f", from, d.uplinkY+d.uplinkH, 8+wireStep*float64(i%2), port, n.y)
		d.out.text("soft", port+7, n.y-7, min(90, each-8), 12, names[k])
	}
}

func (s *siteBox) barMid(i int) float64 { return s.barTop + float64(i)*(barH+barGap) + barH/2 }

func attached(n *nodeBox) func(*plan.Segment) bool {
	return func(g *plan.Segment) bool { return n.Attachment(g.Name) != nil }
}

func (s *siteBox) first(n *nodeBox) int { return slices.IndexFunc(s.segments, attached(n)) }

func (s *siteBox) last(n *nodeBox) int {
	for i, g := range slices.Backward(s.segments) {
		if attached(n)(g) {
			return i
		}
	}
	return -1
}

// ports names the interfaces towards segments.
func ports(n *plan.Node) string {
	var all []string
	for _, f := range n.Interfaces {
		switch {
		case len(f.Trunk) > 0:
			all = append(all, f.Name+" tagged")
		case f.Segment != "":
			all = append(all, f.Name)
		}
	}
	return strings.Join(all, ", ")
}

// tunnel joins the routers of neighbouring sites.
func (d *drawing) tunnel() {
	words := tunnelWords(d.p.Tunnel)
	if words == "" {
		return
	}
	for i := 1; i < len(d.sites); i++ {
		a, b := d.sites[i-1].routers, d.sites[i].routers
		if len(a) == 0 || len(b) == 0 {
			continue
		}
		from, to := a[len(a)-1], b[0]
		y := d.routerY + 34
		d.out.wire("tunnel", "M%.1f %.1fH%.1f", from.x+from.w, y, to.x)
		d.out.text("soft", from.x+from.w+12, y-9, to.x-from.x-from.w-20, 12, words)
	}
}

func (d *drawing) boxes(s *siteBox) {
	for i, u := range s.Uplinks {
		d.uplink(s.uplinkX(i), u)
	}
	d.columns(s)
	for i, g := range s.segments {
		d.segment(s, i, g)
	}
	for _, n := range slices.Concat(s.routers, s.servers) {
		d.node(n)
	}
}

func (d *drawing) uplink(x float64, u plan.Uplink) {
	c := &d.out
	c.box("box", x, d.uplinkY, uplinkW, d.uplinkH, 8)
	name := uplinkW - 24
	if u.Bandwidth > 0 {
		name -= 90
		c.text("soft end", x+uplinkW-12, d.uplinkY+23, 82, 12, bandwidth(u.Bandwidth))
	}
	c.text("ink bold", x+12, d.uplinkY+23, name, 15, u.Name)
	for i, l := range uplinkLines(u) {
		class := "mono"
		if i == 0 {
			class = "soft"
		}
		c.text(class, x+12, d.uplinkY+42+float64(i)*17, uplinkW-24, 12.5, l)
	}
}

// columns writes the site's facts in what the uplinks leave of their tier.
func (d *drawing) columns(s *siteBox) {
	x, right := s.uplinkX(len(s.Uplinks))+8, s.x+s.w-pad
	for i, f := range s.facts {
		wide := factW
		if i == len(s.facts)-1 {
			wide = right - x
		}
		d.out.text("ink bold", x, d.uplinkY+23, wide-nodeGap, 14, f.title)
		for j, l := range f.lines {
			d.out.text("soft", x, d.uplinkY+42+float64(j)*17, wide-nodeGap, 12.5, l)
		}
		x += wide
	}
}

func (d *drawing) node(n *nodeBox) {
	c := &d.out
	c.box("box strong", n.x, n.y, n.w, n.h, 8)
	c.text("ink bold", n.x+12, n.y+24, n.w-24, 15, n.Name)
	c.text("soft", n.x+12, n.y+41, n.w-24, 12, n.FQDN)
	x, y := n.x+12, n.y+50
	for _, r := range n.Roles {
		w := chipWidth(string(r))
		if x > n.x+12 && x+w > n.x+n.w-12 {
			x, y = n.x+12, y+24
		}
		c.box("chip", x, y, w, 19, 9.5)
		c.text("chiptext mid", x+w/2, y+13.5, w, 12, string(r))
		x += w + 5
	}
	for i, note := range nodeNotes(n.Node) {
		c.text("mono", n.x+12, y+36+float64(i)*17, n.w-24, 12, note)
	}
}

// segment is a bar across the site: VLAN id, name and what it is for, prefixes and pool,
// devices, with a dot where a node is in it.
func (d *drawing) segment(s *siteBox, i int, g *plan.Segment) {
	c := &d.out
	y := s.barTop + float64(i)*(barH+barGap)
	x, right := s.x+pad, s.x+s.w-pad
	c.box("bar", x, y, right-x, barH, 8)
	left := x + float64(len(s.routers))*laneStep + 8
	end := right - float64(len(s.servers))*laneStep - 12
	const badge = 92
	c.box("class "+string(g.Class), left, y+8, badge, barH-16, 6)
	c.text("vlan mid", left+badge/2, y+22, badge-8, 11, string(g.Class))
	c.text("vlan bold mid", left+badge/2, y+38, badge-8, 14, fmt.Sprint("VLAN ", g.VLAN))
	d.words(left+badge+14, y, end, g)
	for _, n := range slices.Concat(s.routers, s.servers) {
		if a := n.Attachment(g.Name); a != nil {
			d.dot(n.lane, y+barH/2, a.Gateway, n.Name+": "+a.IPv4.String())
		}
	}
}

// words fills the bar at y between x and end, in four columns of one or two lines.
func (d *drawing) words(x, y, end float64, g *plan.Segment) {
	c, wide := &d.out, end-x
	column := func(class string, share float64, first, second string) {
		w, at := wide*share, x
		x += w
		soft := "soft"
		if class == "ink end" {
			at, soft = end, "soft end"
		}
		switch {
		case first == "":
			c.text(soft, at, y+30.5, w-12, 12, second)
		case second == "":
			c.text(class, at, y+31, w-12, 13.5, first)
		default:
			c.text(class, at, y+22, w-12, 13.5, first)
			c.text(soft, at, y+40, w-12, 12, second)
		}
	}
	pool, v6 := "", ""
	if g.Pool.IsValid() {
		pool = "pool " + poolWords(g)
	}
	if g.IPv6.IsValid() {
		v6 = g.IPv6.String()
	}
	where := d.purpose(g, true)
	if textWidth(where, 12, false) > wide*0.30-12 {
		where = d.purpose(g, false)
	}
	column("ink bold", 0.30, g.Name, where)
	column("mono", 0.29, g.IPv4.String(), pool)
	column("mono", 0.26, v6, "gateway "+g.Gateway4.String())
	column("ink end", 0.15, plural(g.Devices, "device", "devices"), isolation(g))
}

// isolation is said of attendees' segments either way, of others only where it is.
func isolation(g *plan.Segment) string {
	switch {
	case g.Isolate:
		return "isolated"
	case g.Class == plan.Attendee:
		return "not isolated"
	}
	return ""
}

// purpose is where the segment is in the air and in the house: its rooms, or its area's name.
func (d *drawing) purpose(g *plan.Segment, rooms bool) string {
	var all []string
	if g.OnAir != "" {
		all = append(all, "SSID "+g.OnAir)
	}
	where := ""
	if g.Area != "" {
		where = "area " + g.Area
	}
	for _, a := range d.p.Areas {
		if rooms && a.Name == g.Area && len(a.Rooms) > 0 {
			where = strings.Join(a.Rooms, ", ")
		}
	}
	if where != "" {
		all = append(all, where)
	}
	return strings.Join(all, " · ")
}

// poolWords leaves the common /16 out of the range's end.
func poolWords(g *plan.Segment) string {
	from, to := g.Pool.From.String(), g.Pool.To.String()
	a, b := g.Pool.From.As4(), g.Pool.To.As4()
	if a[0] == b[0] && a[1] == b[1] {
		to = fmt.Sprintf(".%d.%d", b[2], b[3])
	}
	return from + " – " + to
}
