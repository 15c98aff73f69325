package main

import (
	"fmt"
	"io"

	"github.com/hotstage/hotstage/internal/ops/render"
	"github.com/hotstage/hotstage/internal/plan"
)

// svg tells whether the diagram is asked for, and refuses what can't be drawn or can't be
// anything but a drawing.
func (v *showVerb) svg() (bool, error) {
	switch {
	case v.What == "diagram" && v.Output == "json":
		return false, fmt.Errorf("show: a diagram can't be json; allowed: -o svg, which is also the default for it")
	case v.What != "diagram" && v.Output == "svg":
		return false, fmt.Errorf("show: %s can't be drawn; allowed with -o svg: diagram, as in hotstage show %s diagram -o svg > diagram.svg", v.What, v.Plan)
	}
	return v.What == "diagram", nil
}

// writeDiagram writes the plan's L3 diagram as SVG.
func writeDiagram(p *plan.Plan, out io.Writer) error {
	if _, err := out.Write(render.Diagram(p)); err != nil {
		return fmt.Errorf("write the diagram: %w", err)
	}
	return nil
}
