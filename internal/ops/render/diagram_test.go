package render

import (
	"encoding/xml"
	"fmt"
	"html"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/hotstage/hotstage/internal/golden"
	"github.com/hotstage/hotstage/internal/plan"
)

const examples = "../../../examples"

func example(t testing.TB, name string) *plan.Plan {
	t.Helper()
	src, err := os.ReadFile(filepath.Join(examples, name+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, string(src))
}

func parse(t testing.TB, src string) *plan.Plan {
	t.Helper()
	p, _, faults := plan.Parse([]byte(src), nil)
	if p == nil {
		t.Fatalf("the plan has faults: %v", faults)
	}
	return p
}

func TestDiagramOfEachExample(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(examples, "*.yaml"))
	if err != nil || len(files) < 3 {
		t.Fatalf("%d examples, %v", len(files), err)
	}
	for _, f := range files {
		name := strings.TrimSuffix(filepath.Base(f), ".yaml")
		t.Run(name, func(t *testing.T) {
			p := example(t, name)
			svg := Diagram(p)
			file := name + ".svg"
			if name == "yapc2013" { // the picture of the README
				file = "../../../../doc/yapc2013.svg"
			}
			golden.Compare(t, file, svg)
			text := texts(t, svg)
			for _, s := range p.Segments {
				wants(t, text, s.Name, fmt.Sprint(s.VLAN), s.IPv4.String())
			}
			for _, n := range p.Nodes {
				wants(t, text, n.Name, string(n.Roles[0]))
			}
		})
	}
}

func wants(t *testing.T, text string, all ...string) {
	t.Helper()
	for _, s := range all {
		if !strings.Contains(text, s) {
			t.Errorf("%q is not in the drawing", s)
		}
	}
}

// texts is all character data; it fails the test when the drawing is not well-formed.
func texts(t testing.TB, svg []byte) string {
	t.Helper()
	var b strings.Builder
	dec := xml.NewDecoder(strings.NewReader(string(svg)))
	for {
		tok, err := dec.Token()
		if err == io.EOF {
			return b.String()
		}
		if err != nil {
			t.Fatalf("not well-formed: %v", err)
		}
		switch x := tok.(type) {
		case xml.CharData:
			b.WriteString(string(x) + "\n")
		case xml.StartElement:
			if x.Name.Local == "script" || x.Name.Local == "foreignObject" {
				t.Fatalf("the drawing has a <%s>", x.Name.Local)
			}
		}
	}
}

// hostile is a name that would leave its element if it were not escaped.
const hostile = "</text><script>alert('1')</script>\x00\xff\"&"

func TestHostileNamesStayText(t *testing.T) {
	p := example(t, "yapc2013")
	p.Event.Name, p.Event.Domain = hostile, hostile
	for i := range p.Sites {
		p.Sites[i].Name = hostile
		for j := range p.Sites[i].Uplinks {
			p.Sites[i].Uplinks[j].Name = hostile
		}
	}
	for i := range p.Segments {
		p.Segments[i].Name, p.Segments[i].Site, p.Segments[i].OnAir, p.Segments[i].Area = hostile, hostile, hostile, hostile
	}
	for i := range p.Nodes {
		p.Nodes[i].Name, p.Nodes[i].Site, p.Nodes[i].FQDN, p.Nodes[i].Roles = hostile, hostile, hostile, []plan.Role{hostile}
	}
	p.Tunnel.Stretch = []string{hostile}
	texts(t, Diagram(p))
}

// TestNothingOverlaps: no box leaves the drawing, and no two of one tier overlap, however
// many there are.
func TestNothingOverlaps(t *testing.T) {
	rect := regexp.MustCompile(`<rect class="(box|box strong|bar|panel)" x="([-\d.]+)" y="([-\d.]+)" width="([\d.]+)" height="([\d.]+)"`)
	for name, p := range map[string]*plan.Plan{"yapc2013": example(t, "yapc2013"), "janog53": example(t, "janog53"), "many": many(t), "twelve": twelve(t)} {
		t.Run(name, func(t *testing.T) {
			svg := string(Diagram(p))
			var width, height float64
			if _, err := fmt.Sscanf(regexp.MustCompile(`viewBox="0 0 [\d ]+"`).FindString(svg), `viewBox="0 0 %f %f"`, &width, &height); err != nil {
				t.Fatal(err)
			}
			type box struct {
				class      string
				x, y, w, h float64
			}
			var all []box
			for _, m := range rect.FindAllStringSubmatch(svg, -1) {
				b := box{class: m[1]}
				if _, err := fmt.Sscan(strings.Join(m[2:], " "), &b.x, &b.y, &b.w, &b.h); err != nil {
					t.Fatal(err)
				}
				if b.x < 0 || b.y < 0 || b.x+b.w > width || b.y+b.h > height {
					t.Errorf("%+v leaves the drawing of %g x %g", b, width, height)
				}
				for _, o := range all {
					if (b.class == "panel") != (o.class == "panel") {
						continue
					}
					if b.x < o.x+o.w && o.x < b.x+b.w && b.y < o.y+o.h && o.y < b.y+b.h {
						t.Errorf("%+v and %+v overlap", b, o)
					}
				}
				all = append(all, b)
			}
			if len(all) < len(p.Nodes)+len(p.Segments)+len(p.Sites) {
				t.Errorf("only %d boxes", len(all))
			}
		})
	}
}

// TestTextsDoNotTouch: no two texts of a drawing overlap and none leaves it, by the widths
// that the layout reckons with.
func TestTextsDoNotTouch(t *testing.T) {
	text := regexp.MustCompile(`<text class="([a-z ]+)" font-size="([\d.]+)" x="([-\d.]+)" y="([-\d.]+)">(?:<title>[^<]*</title>)?([^<]*)</text>`)
	for name, p := range map[string]*plan.Plan{"smallest": example(t, "smallest"), "yapc2013": example(t, "yapc2013"), "janog53": example(t, "janog53"), "many": many(t), "twelve": twelve(t)} {
		t.Run(name, func(t *testing.T) {
			svg := string(Diagram(p))
			var width, height float64
			fmt.Sscanf(svg[strings.Index(svg, `viewBox="0 0 `):], `viewBox="0 0 %g %g"`, &width, &height)
			type area struct {
				left, right, top, bottom float64
				words                    string
			}
			var all []area
			for _, m := range text.FindAllStringSubmatch(svg, -1) {
				var size, x, y float64
				fmt.Sscan(m[2]+" "+m[3]+" "+m[4], &size, &x, &y)
				words := html.UnescapeString(m[5])
				w := textWidth(words, size, strings.Contains(m[1], "bold"))
				switch {
				case strings.Contains(m[1], "end"):
					x -= w
				case strings.Contains(m[1], "mid"):
					x -= w / 2
				}
				a := area{x, x + w, y - 0.8*size, y + 0.2*size, words}
				if size < 11 {
					t.Errorf("%q has a size of %g: too small to read", words, size)
				}
				if a.left < 0 || a.right > width || a.top < 0 || a.bottom > height {
					t.Errorf("%+v leaves the drawing of %g x %g", a, width, height)
				}
				for _, o := range all {
					if a.left < o.right && o.left < a.right && a.top < o.bottom && o.top < a.bottom {
						t.Errorf("%+v and %+v touch", a, o)
					}
				}
				all = append(all, a)
			}
			if len(all) < 5*len(p.Segments) {
				t.Errorf("only %d texts", len(all))
			}
		})
	}
}

// twelve is a plan as a team in Hakata would write it: twelve segments, two uplinks at the
// venue, a second site with segments of its own, names in Japanese wherever they may be.
func twelve(t testing.TB) *plan.Plan {
	t.Helper()
	src, err := os.ReadFile("testdata/twelve.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, string(src))
}

// many is a large plan with Japanese and long names, beyond what 1280 units hold.
func many(t testing.TB) *plan.Plan {
	t.Helper()
	p := example(t, "yapc2013")
	p.Event.Name = "第五十三回 日本ネットワーク・オペレーターズ・グループ ミーティング in 博多"
	for i := range 5 {
		n := p.Nodes[1]
		n.Name, n.FQDN = fmt.Sprintf("サーバー%d号機・控え室のとても長い名前", i), "a-very-long-name-of-a-machine.yapc.example"
		p.Nodes = append(p.Nodes, n)
	}
	r := p.Nodes[0]
	r.Name = "gw2"
	p.Nodes = append(p.Nodes, r)
	s := p.Segments[0]
	s.Name, s.OnAir, s.Area = "大ホール第一区画とその周辺の通路-janog53-legacy", "会場の無線", "大ホール"
	p.Segments = append(p.Segments, s)
	p.Tunnel.Stretch = []string{"hall-yapc2013"}
	return p
}

func TestFit(t *testing.T) {
	for _, s := range []string{"short", "a very long name that can't fit in here", "日本語の長い名前はここには入りません", ""} {
		got := fit(s, 80, 12, false)
		if textWidth(got, 12, false) > 80 {
			t.Errorf("%q is wider than 80", got)
		}
		if got != s && !strings.HasSuffix(got, "…") {
			t.Errorf("%q was cut to %q without a sign", s, got)
		}
	}
	if a, b := textWidth("日本", 10, false), textWidth("ni", 10, false); a != 20 || b >= a {
		t.Errorf("日本 is %g wide, ni %g", a, b)
	}
}

func FuzzDiagramNames(f *testing.F) {
	f.Add("x", "y")
	f.Add(hostile, "\u202e逆")
	base := example(f, "smallest")
	f.Fuzz(func(t *testing.T, event, name string) {
		p := *base
		p.Event.Name = event
		p.Nodes = append([]plan.Node(nil), base.Nodes...)
		p.Nodes[0].Name = name
		texts(t, Diagram(&p))
	})
}
