package report

import (
	"cmp"
	"fmt"
	"html"
	"html/template"
	"math"
	"slices"
	"strings"
	"time"
)

// The size of a plot in its own units; the page scales it.
const (
	plotWidth, plotHeight = 640.0, 226.0
	plotLeft, plotRight   = 56.0, 14.0
	plotTop, plotBottom   = 20.0, 30.0
	innerWidth            = plotWidth - plotLeft - plotRight
	innerHeight           = plotHeight - plotTop - plotBottom
	maxPoints             = 500 // per line: more than the page has pixels for
)

// point is a value at a time in seconds since the first sample.
type point struct{ at, value float64 }

// plot is one drawn plot of the page.
type plot struct {
	Title, Unit      string
	Lines            []legend
	Limit, LimitName string // the limit line's value, or empty, and what it is
	SVG              template.HTML
}

type legend struct {
	Name, Most string
	Class      string
}

// plots draws everything that has samples; quiet names what stayed at zero.
func plots(r *Rehearsal) (all []plot, quiet []string) {
	if len(r.Series) == 0 {
		return nil, nil
	}
	zero := r.zero()
	series := map[string][]point{}
	axis := timeAxis{zero: zero, length: 1, faults: r.Faults}
	for _, s := range r.Series {
		at := s.Time.Sub(zero).Seconds()
		axis.length = math.Max(axis.length, at)
		if !math.IsNaN(s.Value) && !math.IsInf(s.Value, 0) {
			series[s.Series] = append(series[s.Series], point{at, s.Value})
		}
	}
	for _, points := range series {
		slices.SortStableFunc(points, func(a, b point) int { return cmp.Compare(a.at, b.at) })
	}
	here(series)
	for _, k := range slices.Concat(kinds(), []kind{memory(series)}, after(), others(r.Series)) {
		p, ok := draw(k, series, r.Limits, axis)
		switch {
		case !ok:
		case slices.ContainsFunc(p.Lines, func(l legend) bool { return l.Most != "0" }):
			all = append(all, p)
		default:
			quiet = append(quiet, p.Title)
		}
	}
	return all, quiet
}

// timeAxis is what all plots share.
type timeAxis struct {
	zero   time.Time
	length float64 // seconds, at least 1
	faults []Fault
}

func (a timeAxis) x(at float64) float64 { return plotLeft + innerWidth*at/a.length }

// draw makes one plot; false when it has no samples.
func draw(k kind, series map[string][]point, limits map[string]float64, axis timeAxis) (plot, bool) {
	p := plot{Title: k.title, Unit: k.unit}
	var lines [][]point
	top, limit := 0.0, 0.0
	for _, l := range k.lines {
		points := thin(series[l.series])
		if len(points) == 0 {
			continue
		}
		lines = append(lines, points)
		most := highest(points)
		top = math.Max(top, most)
		limit = math.Max(limit, limits[l.series])
		p.Lines = append(p.Lines, legend{Name: l.name, Most: value(most), Class: fmt.Sprintf("s%d", len(lines))})
	}
	if len(lines) == 0 {
		return plot{}, false
	}
	if limit > 0 {
		p.Limit, p.LimitName = value(limit), cmp.Or(k.limit, "limit")
		if limit < top*4 || k.ratio { // a limit far above would flatten the line; the legend says it then
			top = math.Max(top, limit)
		}
	}
	scale := newScale(top, lines, k.ratio)
	var b strings.Builder
	fmt.Fprintf(&b, `<svg viewBox="0 0 %g %g" role="img" aria-label="%s">`, plotWidth, plotHeight, html.EscapeString(describe(p)))
	drawAxes(&b, axis, scale)
	drawFaults(&b, axis)
	if limit > 0 && limit <= scale.top {
		fmt.Fprintf(&b, `<path class="limit" d="M%.1f %.1fH%.1f"/>`, plotLeft, scale.y(limit), plotWidth-plotRight)
	}
	for i, points := range lines {
		drawLine(&b, points, p.Lines[i].Class, axis, scale.y, len(lines) == 1)
	}
	b.WriteString("</svg>")
	p.SVG = template.HTML(b.String()) // every text in it is escaped above or a number
	return p, true
}

// scale is a plot's vertical axis.
type scale struct {
	bottom, top float64
	step        float64 // between marks; 0 of a logarithmic axis, which has one per power of ten
}

// newScale starts at 0, or, where ratios matter and values are more than 50 times apart, is
// logarithmic between powers of ten.
func newScale(most float64, lines [][]point, ratio bool) scale {
	least := math.Inf(1)
	for _, points := range lines {
		for _, p := range points {
			if p.value > 0 {
				least = math.Min(least, p.value)
			}
		}
	}
	if ratio && most > 50*least {
		return scale{bottom: math.Pow(10, math.Floor(math.Log10(least))), top: math.Pow(10, math.Ceil(math.Log10(most)-1e-9))}
	}
	step, top := niceAxis(most)
	return scale{top: top, step: step}
}

// y is where a value is in the plot.
func (s scale) y(v float64) float64 {
	if s.step == 0 {
		return plotTop + innerHeight*(1-math.Log(math.Max(v, s.bottom)/s.bottom)/math.Log(s.top/s.bottom))
	}
	return plotTop + innerHeight*(1-math.Max(v, 0)/s.top)
}

// marks are the values that have a line and a label.
func (s scale) marks() (all []float64) {
	if s.step == 0 {
		for v := s.bottom; v <= s.top*1.0001; v *= 10 {
			all = append(all, v)
		}
		return all
	}
	for v := 0.0; v <= s.top*1.0001; v += s.step {
		all = append(all, v)
	}
	return all
}

func describe(p plot) string {
	s := p.Title
	for _, l := range p.Lines {
		s += fmt.Sprintf("; %s: at most %s %s", l.Name, l.Most, p.Unit)
	}
	if p.Limit != "" {
		s += "; " + p.LimitName + " " + p.Limit
	}
	return s
}

// drawLine draws the points, and the area below when the line is alone. A stretch of time
// with no sample is a gap, not a slope.
func drawLine(b *strings.Builder, points []point, class string, axis timeAxis, y func(float64) float64, fill bool) {
	step := math.Max(axis.length/60, 5)
	for start := 0; start < len(points); {
		end := start + 1
		for end < len(points) && points[end].at-points[end-1].at <= step {
			end++
		}
		var d strings.Builder
		for i, q := range points[start:end] {
			fmt.Fprintf(&d, "%c%.1f %.1f", "ML"[min(i, 1)], axis.x(q.at), y(q.value))
		}
		if end-start == 1 {
			d.WriteString("h0") // a lone sample is a dot: the line's caps are round
		}
		if fill {
			fmt.Fprintf(b, `<path class="area %s" d="%sV%.1fH%.1fZ"/>`, class, d.String(), y(0), axis.x(points[start].at))
		}
		fmt.Fprintf(b, `<path class="line %s" d="%s"/>`, class, d.String())
		start = end
	}
}

func drawAxes(b *strings.Builder, axis timeAxis, s scale) {
	for _, v := range s.marks() {
		fmt.Fprintf(b, `<path class="grid" d="M%.1f %.1fH%.1f"/><text class="y" x="%.1f" y="%.1f">%s</text>`,
			plotLeft, s.y(v), plotWidth-plotRight, plotLeft-8, s.y(v)+4, axisLabel(v, cmp.Or(s.step, v)))
	}
	every := niceTime(axis.length)
	for at := 0.0; at <= axis.length; at += every {
		anchor := "middle"
		if at == 0 {
			anchor = "start"
		}
		fmt.Fprintf(b, `<text class="x" text-anchor="%s" x="%.1f" y="%.1f">%s</text>`, anchor, math.Min(axis.x(at), plotWidth-plotRight-8), plotHeight-6, clock(at))
	}
}

// drawFaults shades what was broken and numbers it as the list beside the plots does.
func drawFaults(b *strings.Builder, axis timeAxis) {
	for i, f := range axis.faults {
		from := math.Max(f.Start.Sub(axis.zero).Seconds(), 0)
		to := axis.length
		if !f.End.IsZero() {
			to = math.Min(f.End.Sub(axis.zero).Seconds(), to)
		}
		if from > axis.length || to < 0 {
			continue
		}
		x := axis.x(from)
		fmt.Fprintf(b, `<rect class="fault" x="%.1f" y="%.1f" width="%.1f" height="%.1f"/>`, x, plotTop, math.Max(axis.x(to)-x, 1.5), innerHeight)
		fmt.Fprintf(b, `<path class="faultline" d="M%.1f %.1fV%.1f"/><circle class="badge" cx="%.1f" cy="%.1f" r="8"/><text class="badge" x="%.1f" y="%.1f">%d</text>`,
			x, plotTop-2, plotTop+innerHeight, x, plotTop-10, x, plotTop-6.2, i+1)
	}
}

// thin keeps the highest value of each stretch of points in order, so that a peak is never lost.
func thin(points []point) []point {
	per := (len(points) + maxPoints - 1) / maxPoints
	if per <= 1 {
		return points
	}
	var kept []point
	for chunk := range slices.Chunk(points, per) {
		kept = append(kept, slices.MaxFunc(chunk, func(a, b point) int {
			if a.value < b.value {
				return -1
			}
			return 1
		}))
	}
	return kept
}

// niceAxis is the step between lines (1, 2 or 5 times a power of ten) and the top line.
func niceAxis(most float64) (step, top float64) {
	if most <= 0 {
		return 1, 1
	}
	power := math.Pow(10, math.Floor(math.Log10(most/4)))
	for _, m := range []float64{1, 2, 5, 10} {
		if step = m * power; most/step <= 5 {
			break
		}
	}
	return step, step * math.Ceil(most/step*0.9999)
}

// niceTime is the step between labels of the time axis, in seconds.
func niceTime(length float64) float64 {
	for _, s := range []float64{1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 21600, 43200} {
		if length/s <= 8 {
			return s
		}
	}
	return 86400
}

func axisLabel(v, step float64) string {
	switch {
	case step >= 1000 && v != 0 && math.Mod(step, 1000) == 0:
		return count(int64(math.Round(v/1000))) + "k"
	case step >= 1:
		return count(int64(math.Round(v)))
	default:
		return fmt.Sprintf("%.*f", int(math.Ceil(-math.Log10(step)*0.9999)), v)
	}
}

// clock writes a label of the time axis: "40 s", "1:30", "2 h".
func clock(at float64) string {
	s := int(math.Round(at))
	switch {
	case s < 60:
		return fmt.Sprintf("%d s", s)
	case s < 3600:
		return fmt.Sprintf("%d:%02d", s/60, s%60)
	default:
		return fmt.Sprintf("%d:%02d h", s/3600, s/60%60)
	}
}
