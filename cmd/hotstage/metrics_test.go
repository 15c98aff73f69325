package main

import (
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/hotstage/hotstage/internal/golden"
	"github.com/hotstage/hotstage/internal/plan"
	"github.com/prometheus/client_golang/prometheus"
)

const metricsHead = `# Metrics

What a node tells at ` + "`/metrics`" + ` of its control socket, in Prometheus's text format, and what to do when it moves:

    curl --unix-socket /var/lib/hotstage/control.sock http://node/metrics

Counters end in ` + "`_total`" + ` and begin at 0 when the node starts. A histogram has the endings ` + "`_bucket`, `_sum` and `_count`" + `. A metric
with labels appears with its first value. This page is written by ` + "`make golden`" + ` from the program itself.
`

// description is how a Desc prints itself, which is the only way to read one.
var description = regexp.MustCompile(`^Desc\{fqName: ("(?:[^"\\]|\\.)*"), help: ("(?:[^"\\]|\\.)*"), .*variableLabels: \{(.*)\}\}$`)

// The document has every metric of a node with all roles, and no other.
func TestMetricsAreDocumented(t *testing.T) {
	p, _, faults := plan.Parse([]byte("event: {name: All, attendees: 50}\nsites: {venue: {uplinks: {isp: {}}}}\n"+
		"nodes:\n  gw1: {roles: [router, dhcp, resolver], interfaces: {eth0: {uplink: isp}, eth1: {trunk: [attendee, server, management]}}}\n"+
		"  srv1: {roles: [resolver], interfaces: {e: {segment: server}}}\n"+
		"dhcp: {leases: 'mysql://u@db/x', password: db}\nsecrets: {db: 'env:HOTSTAGE_TEST_DB'}\n"), nil)
	if p == nil {
		t.Fatal(faults)
	}
	t.Setenv("HOTSTAGE_TEST_DB", "secret")
	n, err := newNode(p, p.Nodes[0].Name, t.TempDir(), "", false, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	for _, role := range served() {
		if !p.Nodes[0].Has(role) {
			t.Fatalf("the node has no role %s, so its metrics are missing here", role)
		}
	}
	byTask := map[string][]string{}
	for _, d := range descriptions(n.registry) {
		m := description.FindStringSubmatch(d.String())
		if m == nil {
			t.Fatalf("cannot read %s", d)
		}
		name, _ := strconv.Unquote(m[1])
		help, _ := strconv.Unquote(m[2])
		rest, ours := strings.CutPrefix(name, "hotstage_")
		task, _, named := strings.Cut(rest, "_")
		if !ours || !named || !strings.HasSuffix(help, ".") {
			t.Errorf("%s: want a name like hotstage_TASK_WHAT and whole sentences: %s", name, help)
		}
		labels := ""
		if m[3] != "" {
			labels = " `" + strings.ReplaceAll(m[3], ",", "` `") + "`"
		}
		byTask[task] = append(byTask[task], fmt.Sprintf("| `%s`%s | %s |\n", name, labels, strings.ReplaceAll(help, "|", `\|`)))
	}
	var page strings.Builder
	page.WriteString(metricsHead)
	for _, s := range n.group.Status() {
		rows := byTask[s.Name]
		if len(rows) == 0 {
			t.Errorf("task %s has no metrics", s.Name)
		}
		slices.Sort(rows)
		fmt.Fprintf(&page, "\n## %s\n| metric and its labels | what it says |\n|---|---|\n%s", s.Name, strings.Join(rows, ""))
		delete(byTask, s.Name)
	}
	for task := range byTask {
		t.Errorf("metrics are named after %s, which is no task of the node", task)
	}
	golden.Compare(t, "../../../doc/metrics.md", []byte(page.String()))
}

// descriptions has every metric of a registry, also those that have no value yet.
func descriptions(r *prometheus.Registry) (all []*prometheus.Desc) {
	found := make(chan *prometheus.Desc)
	go func() {
		defer close(found)
		r.Describe(found)
	}()
	for d := range found {
		all = append(all, d)
	}
	return all
}
