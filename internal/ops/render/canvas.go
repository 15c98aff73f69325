package render

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/mattn/go-runewidth"
)

// canvas writes SVG. Every text is escaped, and cut with an ellipsis where it does not fit;
// the whole text is then in a title that a pointer shows.
type canvas struct{ bytes.Buffer }

func (c *canvas) f(format string, args ...any) { fmt.Fprintf(&c.Buffer, format, args...) }

// text writes s at x and y (its baseline) within width.
func (c *canvas) text(class string, x, y, width, size float64, s string) {
	bold := strings.Contains(class, "bold")
	shown := fit(s, width, size, bold)
	c.f(`<text class="%s" font-size="%g" x="%.1f" y="%.1f">`, class, size, x, y)
	if shown != s {
		c.f("<title>%s</title>", escape(s))
	}
	c.f("%s</text>\n", escape(shown))
}

func (c *canvas) box(class string, x, y, w, h, r float64) {
	c.f(`<rect class="%s" x="%.1f" y="%.1f" width="%.1f" height="%.1f" rx="%g"/>`+"\n", class, x, y, w, h, r)
}

func (c *canvas) wire(class, path string, args ...any) {
	c.f(`<path class="%s" d="%s"/>`+"\n", class, fmt.Sprintf(path, args...))
}

// escape makes s text of XML; what XML can't hold becomes U+FFFD.
func escape(s string) string {
	var b bytes.Buffer
	_ = xml.EscapeText(&b, []byte(s)) // a bytes.Buffer takes all
	return b.String()
}

// fit cuts s so that it is at most width wide, with an ellipsis when something was lost.
func fit(s string, width, size float64, bold bool) string {
	if textWidth(s, size, bold) <= width {
		return s
	}
	rest := []rune(s)
	for len(rest) > 0 && textWidth(string(rest)+"…", size, bold) > width {
		rest = rest[:len(rest)-1]
	}
	return strings.TrimRight(string(rest), " ") + "…"
}

// textWidth is about how wide s is: by the wider of the common sans-serif faces, so that
// text fits wherever it is shown.
func textWidth(s string, size float64, bold bool) float64 {
	w := 0.0
	for _, r := range s {
		w += runeWidth(r)
	}
	if bold {
		w *= 1.1
	}
	return w * size
}

// runeWidth is in units of the font's size.
func runeWidth(r rune) float64 {
	narrow := runewidth.Condition{}
	switch {
	case r == utf8.RuneError || narrow.RuneWidth(r) >= 2:
		return 1
	case narrow.RuneWidth(r) == 0:
		return 0
	case strings.ContainsRune(".,:;|!'il/ ()[]jItfr", r):
		return 0.38
	case r == 'm' || r == 'w' || r == 'M' || r == 'W' || r == '%' || r == '@':
		return 0.92
	case r >= 'A' && r <= 'Z':
		return 0.7
	default:
		return 0.62
	}
}
