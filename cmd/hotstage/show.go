package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/hotstage/hotstage/internal/plan"
)

type showVerb struct {
	Plan   string `arg:"" help:"The plan file; or the word schema, for the plan language's JSON Schema (a file of that name is ./schema)."`
	What   string `arg:"" optional:"" enum:"all,segments,nodes,dhcp,vrrp,budget,diagram" default:"all" help:"all, segments, nodes, dhcp, vrrp, budget or diagram."`
	Output string `short:"o" enum:"text,json,svg" default:"text" help:"text or json; svg for a diagram."`
}

// Help is shown by hotstage show --help.
func (*showVerb) Help() string {
	return "Examples: hotstage show plan.yaml budget; hotstage show plan.yaml -o json; hotstage show plan.yaml diagram > diagram.svg; hotstage show schema > plan.schema.json"
}

// Run prints the derived plan. The lock is read and not written: showing changes nothing.
func (v *showVerb) Run(s *screen) error {
	if v.Plan == "schema" {
		_, err := s.out.Write(plan.Schema())
		return err
	}
	drawn, err := v.svg()
	if err != nil {
		return err
	}
	p, _, _, err := load(v.Plan, s)
	if err != nil {
		return err
	}
	if drawn {
		return writeDiagram(p, s.out)
	}
	if v.Output == "json" {
		enc := json.NewEncoder(s.out)
		enc.SetIndent("", "  ")
		return enc.Encode(map[string]any{"all": p, "segments": p.Segments, "nodes": p.Nodes, "dhcp": plan.Service(p), "vrrp": services(p), "budget": plan.Budget(p)}[v.What])
	}
	w := tabwriter.NewWriter(s.out, 0, 8, 2, ' ', 0)
	sections := []struct {
		name  string
		print func(*tabwriter.Writer, *plan.Plan)
	}{{"segments", showSegments}, {"nodes", showNodes}, {"dhcp", showDHCP}, {"vrrp", showVRRP}, {"budget", showBudget}}
	for i, section := range sections {
		if v.What == section.name || v.What == "all" {
			if i > 0 && v.What == "all" {
				fmt.Fprintln(w)
			}
			section.print(w, p)
			if err := w.Flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

func showSegments(w *tabwriter.Writer, p *plan.Plan) {
	fmt.Fprintln(w, "SEGMENT\tCLASS\tVLAN\tIPV4\tPOOL\tDEVICES\tLEASE\tIPV6")
	for _, s := range p.Segments {
		v6 := "-"
		if s.IPv6.IsValid() {
			v6 = s.IPv6.String()
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s-%s (%d)\t%d\t%v\t%s\n", s.Name, s.Class, s.VLAN, s.IPv4, s.Pool.From, s.Pool.To, s.Pool.Size(), s.Devices, s.Lease, v6)
	}
}

func showNodes(w *tabwriter.Writer, p *plan.Plan) {
	fmt.Fprintln(w, "NODE\tSITE\tROLES\tDEVICE\tSEGMENT\tADDRESS")
	for _, n := range p.Nodes {
		var roles []string
		for _, r := range n.Roles {
			roles = append(roles, string(r))
		}
		first := fmt.Sprintf("%s\t%s\t%s", n.Name, n.Site, strings.Join(roles, " "))
		for _, i := range n.Interfaces {
			if i.Uplink != "" {
				fmt.Fprintf(w, "%s\t%s\tuplink %s\t%s\n", first, i.Name, i.Uplink, p.Uplink(n.Site, i.Uplink).Mode)
				first = "\t\t"
			}
		}
		for _, a := range n.Attachments {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", first, a.Device, a.Segment, a.IPv4)
			first = "\t\t"
		}
	}
}

// showDHCP prints who gives which addresses in each segment, and which way they are asked.
func showDHCP(w *tabwriter.Writer, p *plan.Plan) {
	fmt.Fprintln(w, "DHCP IN\tNODE\tPART OF THE POOL\tWAY")
	for _, part := range plan.Service(p) {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", part.Segment, part.Node, part.Arithmetic, part.Way)
	}
}

// showVRRP prints which address the resolvers of a segment share, and who has it in which order.
func showVRRP(w *tabwriter.Writer, p *plan.Plan) {
	fmt.Fprintln(w, "RESOLVER OF\tSHARED ADDRESS\tNAME\tVRID\tNODES, BY PRIORITY")
	for _, s := range p.Segments {
		x := s.Service
		if x == nil {
			fmt.Fprintf(w, "%s\tnone\t\t\t\n", s.Name)
			continue
		}
		address := x.IPv4.String()
		if x.IPv6.IsValid() {
			address += " " + x.IPv6.String()
		}
		var nodes []string
		for _, n := range x.Nodes {
			nodes = append(nodes, fmt.Sprintf("%s %d", n.Node, n.Priority))
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\n", s.Name, address, x.FQDN, x.VRID, strings.Join(nodes, ", "))
	}
}

// services are the service addresses by segment.
func services(p *plan.Plan) map[string]*plan.ServiceAddress {
	all := map[string]*plan.ServiceAddress{}
	for _, s := range p.Segments {
		if s.Service != nil {
			all[s.Name] = s.Service
		}
	}
	return all
}

// showBudget prints three lines a figure at most: its arithmetic, where the constants come
// from, and what to do when it is not well.
func showBudget(w *tabwriter.Writer, p *plan.Plan) {
	fmt.Fprintln(w, "FIGURE\tVALUE\t\tARITHMETIC, SOURCE")
	for _, f := range plan.Budget(p) {
		mark := "ok"
		if !f.OK {
			mark = "SHORT"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n\t\t\t(%s)\n", f.Name, f.Value, mark, f.Arithmetic, f.Source)
		if f.Hint != "" {
			fmt.Fprintf(w, "\t\t\thint: %s\n", f.Hint)
		}
	}
}
